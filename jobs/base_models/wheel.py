"""A GGUF file inside a Python package as a source of base models, so that a package index is all
the network that is needed.

Owns the download, the checksum and the conversion to float32 safetensors.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jobs.base_models import hf_folder
from jobs.config import BaseModel, Model

CONVERTER = 1
"""Raised when the conversion changes what it writes: folders made by an earlier one are then made
again.
"""
DIGITS_APART = ("smollm", "starcoder", "refact", "codeshell")
"""GGUF tokenizers (tokenizer.ggml.pre) that cut numbers into digits before anything else, as
llama.cpp does for them.
"""
RESUMES = "20"
"""How often pip goes on where a broken connection has left a download, before it gives up."""


class Wheel(NamedTuple):
    package: str
    version: str
    sha256: str
    file: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


def locate(model: Model, cache: Path) -> BaseModel | None:
    """The converted model if it lies complete in the cache, else None.

    Raises ValueError if another file of the same wheel was converted under this name: they would
    replace each other for ever.
    """
    base = _base(model, cache)
    wheel = _wheel(model)
    recipe = hf_folder.recipe_of(Path(base.path))
    if recipe is None:
        return None
    if recipe.get("file") != wheel.file:
        raise ValueError(
            f"model.name {model.name} already stands for {recipe.get('file')} in {base.path}; give "
            f"{wheel.file} another name"
        )
    return base if recipe == _recipe(wheel) else None


def prepare(model: Model, cache: Path, say: Callable[[str], None]) -> BaseModel:
    """Download the wheel unless a whole one is there, and convert its GGUF file.

    Raises ValueError for a checksum that does not match or a file that is not in the wheel;
    RuntimeError if pip cannot fetch it or transformers cannot convert it.
    """
    wheel = _wheel(model)
    path = _fetch(wheel, cache, say)
    say(f"converting {wheel.file} to float32 safetensors")
    return hf_folder.build(
        _base(model, cache), _recipe(wheel), lambda partial: _convert(path, wheel.file, partial)
    )


def fetch(model: Model, cache: Path, say: Callable[[str], None]) -> Path:
    """The wheel itself, downloaded unless it is there. Raises as `prepare` does."""
    return _fetch(_wheel(model), cache, say)


def _wheel(model: Model) -> Wheel:
    # Model refuses to be made without these four.
    assert (
        model.package is not None
        and model.version is not None
        and model.sha256 is not None
        and model.file is not None
    )
    checksum = model.sha256.lower()
    if not re.fullmatch("[0-9a-f]{64}", checksum):
        raise ValueError(f"model.sha256 must be 64 hexadecimal digits, got {model.sha256}")
    return Wheel(package=model.package, version=model.version, sha256=checksum, file=model.file)


def _base(model: Model, cache: Path) -> BaseModel:
    wheel = _wheel(model)
    path = cache / "models" / f"{_slug(model.name)}-{wheel.sha256[:12]}"
    return BaseModel(
        name=model.name, source="wheel", id=wheel.requirement, revision=wheel.sha256, path=str(path)
    )


def _recipe(wheel: Wheel) -> dict[str, object]:
    return {"file": wheel.file, "converter": CONVERTER}


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)


def _fetch(wheel: Wheel, cache: Path, say: Callable[[str], None]) -> Path:
    """The wheel with the right checksum: the one that is there already, else downloaded."""
    wheels = cache / "wheels"
    with hf_folder.lock(cache / "locks" / f"{_slug(wheel.requirement)}.lock", say):
        present = _find(wheels, wheel)
        if present is not None:
            if hf_folder.sha256(present) == wheel.sha256:
                return present
            say(
                f"{present} is not the wheel that was asked for (its sha256 is not model.sha256): "
                "fetching it again"
            )
        return _download(wheel, wheels, present, say)


def _find(wheels: Path, wheel: Wheel) -> Path | None:
    """The file that pip would have saved this wheel as; its name begins with package and version,
    spelt in pip's way.
    """

    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    wanted = plain(f"{wheel.package}-{wheel.version}")
    return next(
        (
            path
            for path in sorted(wheels.glob("*.whl"))
            if plain("-".join(path.name.split("-")[:2])) == wanted
        ),
        None,
    )


def _download(wheel: Wheel, wheels: Path, present: Path | None, say: Callable[[str], None]) -> Path:
    # pip takes any file of the right name in its target folder for the wheel, whole or not: give it
    # an empty one.
    partial = wheels / f"{_slug(wheel.requirement)}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    say(f"downloading {wheel.requirement}")
    try:
        _run_pip(wheel, wheels, partial, present)
        downloaded = _find(partial, wheel)
        if downloaded is None:
            names = ", ".join(path.name for path in partial.iterdir()) or "nothing"
            raise RuntimeError(
                f"pip was asked for the wheel of {wheel.requirement} and fetched {names}; check "
                "model.package and model.version"
            )
        actual = hf_folder.sha256(downloaded)
        if actual != wheel.sha256:
            remedy = "if you trust where it came from, set model.sha256 to the former"
            raise ValueError(
                f"{downloaded.name} has sha256 {actual}, but model.sha256 is {wheel.sha256}; "
                f"{remedy}"
            )
        os.replace(downloaded, wheels / downloaded.name)
        return wheels / downloaded.name
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _run_pip(wheel: Wheel, wheels: Path, partial: Path, present: Path | None) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--no-input",
    ]
    command += ["--resume-retries", RESUMES]
    # pip draws its progress bar on stdout, which is for our answer: send it to stderr.
    screen = 2 if sys.stderr.isatty() else subprocess.DEVNULL
    done = subprocess.run(
        [*command, "-d", str(partial), wheel.requirement],
        check=False,
        stdout=screen,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if done.returncode == 0:
        return
    first = "" if present is None else f"delete {present}, whose sha256 is wrong, then "
    raise RuntimeError(
        f"{wheel.requirement} is missing and pip could not fetch it ({_reason(done.stderr)}). "
        f"Where there is a network, {first}run: pip download --no-deps -d {wheels} "
        f"{wheel.requirement}"
    )


def _reason(complaints: str) -> str:
    # Without a network pip retries, and then says that there is no such package.
    if "WARNING: Retrying" in complaints:
        return "the package index cannot be reached"
    lines = complaints.strip().splitlines()
    return (
        [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        or lines
        or ["no message"]
    )[-1]


def _convert(path: Path, file: str, partial: Path) -> None:
    """Unpack the GGUF file, write it as float32 safetensors with its tokenizer, and remove it
    again.
    """
    gguf = partial / "unpacked.gguf"
    with zipfile.ZipFile(path) as archive:
        if file not in archive.namelist():
            inside = (
                ", ".join(name for name in archive.namelist() if name.endswith(".gguf"))
                or "no GGUF file"
            )
            raise ValueError(f"model.file {file} is not in {path.name}, which holds {inside}")
        with archive.open(file) as packed, gguf.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
    try:
        _write_folder(gguf, partial)
    except Exception as error:
        # Whatever the reader of a foreign format raises, the caller is promised a RuntimeError.
        raise RuntimeError(
            f"model.file {file} could not be converted by transformers: {type(error).__name__}: "
            f"{error}"
        ) from error
    gguf.unlink()


def _write_folder(gguf: Path, target: Path) -> None:
    """Write a GGUF file as a float32 model folder. The numbers are those that transformers reads
    from the file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # transformers 5.23 takes the weights for quantized still, although it has just unpacked them,
    # and refuses to save them.
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        vars(model).pop(name, None)
    for name in ("quantization_config", "_model_name_or_path"):
        vars(model.config).pop(name, None)
    model.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if _splitter(gguf) in DIGITS_APART:
        _split_digits(tokenizer.backend_tokenizer)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(target)
    hf_folder.name_plain_tokenizer(target)


def _splitter(gguf: Path) -> str | None:
    from gguf import GGUFReader

    entry = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    return None if entry is None else entry.contents()


def _split_digits(backend) -> None:
    """Restore a step that transformers 5.23 drops; without it two spaces before a number are two
    tokens instead of one.
    """
    from tokenizers import pre_tokenizers

    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
    )
