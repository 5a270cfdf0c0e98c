"""What a usable model folder is: its check, its fingerprint, and how one is built so that nobody
ever sees half of it.

Leaves to jobs.base_models.fetch where models come from. Imports the standard library only at module
level.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import shlex
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from jobs.config import BaseModel
from jobs.files.safetensors_headers import tensor_shapes

LAYOUT = "config.json, model.safetensors and tokenizer.json"
FILES = (
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
)
SILENT = (
    "Model",
    "ForMaskedLM",
    "ForPreTraining",
    "Classification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)
"""Ends of the names of architectures without a head for the next token. GPT-2's LMHeadModel has
one.
"""
MAX_HEADER_BYTES = 100_000_000
"""The safetensors format's own limit: a larger header means that the file is something else."""


def problems(folder: Path, tokenizer: bool = True) -> list[str]:
    """Everything that keeps `folder` from being loaded as a causal language model; empty if it is
    usable.

    Reads headers only, so it takes milliseconds for any size of weights. `tokenizer=False` leaves
    tokenizer.json out.
    """
    if not folder.is_dir():
        return ["it is a file; it must be a folder" if folder.exists() else "no such folder"]
    if (folder / "adapter_config.json").exists():
        return [_adapter_problem(folder)]
    all_problems = [*_config_problems(folder / "config.json"), *_weight_problems(folder)]
    return [*all_problems, *_tokenizer_problems(folder)] if tokenizer else all_problems


def _adapter_problem(folder: Path) -> str:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        base = json.loads((folder / "adapter_config.json").read_text()).get(
            "base_model_name_or_path"
        )
        return (
            f"it is a LoRA adapter for {base or 'another model'}, not a whole model; name that "
            "base, or merge the adapter into it first"
        )
    return (
        "it is a LoRA adapter, not a whole model; name its base, or merge the adapter into it first"
    )


def _config_problems(path: Path) -> list[str]:
    if not path.exists():
        return ["no config.json in it"]
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        return [f"config.json is not JSON ({error})"]
    if (
        not isinstance(content, dict)
        or not isinstance(content.get("model_type"), str)
        or not content["model_type"]
    ):
        return ["config.json has no model_type, so it is not a transformers configuration"]
    named = content.get("architectures")
    names = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    if content.get("is_encoder_decoder") or (
        names and all(name.endswith(SILENT) and not name.endswith("LMHeadModel") for name in names)
    ):
        return [
            f"it is a {content['model_type']} ({', '.join(names) or 'encoder and decoder'}), which "
            "does not continue a text"
        ]
    if isinstance(packed := content.get("quantization_config"), dict):
        method = packed.get("quant_method", "by an unnamed method")
        return [
            f"its weights are quantized ({method}), and this project trains beside whole ones; "
            "name the model that it was made from"
        ]
    return []


def _weight_problems(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            shards = sorted(
                {str(name) for name in json.loads(index.read_text())["weight_map"].values()}
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return [f"{index.name} has no readable weight_map"]
    else:
        shards = ["model.safetensors"]
    missing = [name for name in shards if not (folder / name).exists()]
    if not missing:
        return [problem for name in shards if (problem := _safetensors_problem(folder / name))]
    if any(folder.glob("pytorch_model*.bin")):
        convert = saving("AutoModelForCausalLM", folder)
        return [
            "its weights are pytorch_model.bin, which this project does not load; convert them "
            f"with: {convert}"
        ]
    links = [name for name in missing if (folder / name).is_symlink()]
    if links:  # as in the hub's cache, from which the files have been cleaned away
        return [
            f"{links[0]} is a link to {(folder / links[0]).readlink()}, where there is no file; "
            "fetch it again"
        ]
    file_names = sorted(path.name for path in folder.glob("*.safetensors"))
    return [
        f"no {', '.join(missing)} in it"
        + (f" (found {', '.join(file_names)})" if file_names else "")
    ]


def _safetensors_problem(path: Path) -> str | None:
    """Compare the length that the header promises with the file's: a download cut short ends before
    its last tensor.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start == b"version ":
            return (
                f"{path.name} is a Git LFS pointer, not the weights; run: git -C "
                f"{shlex.quote(str(path.parent))} lfs pull"
            )
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        header = file.read(length) if 0 < length <= MAX_HEADER_BYTES else b""
    try:
        ends = [
            tensor["data_offsets"][1]
            for name, tensor in json.loads(header).items()
            if name != "__metadata__"
        ]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return (
            f"{path.name} is broken: its first {8 + length:,} bytes are no safetensors header; "
            "fetch it again"
        )
    if not ends:
        return f"{path.name} holds no weights; fetch it again"
    if size != expected:
        return (
            f"{path.name} is broken: it has {size:,} bytes where its header says {expected:,}; "
            "fetch it again"
        )
    return None


def num_weights(folder: Path) -> int:
    """How many numbers the weights in a usable folder are, in whichever format it keeps them."""
    return sum(math.prod(shape) for shape in tensor_shapes(folder).values())


def _tokenizer_problems(folder: Path) -> list[str]:
    path = folder / "tokenizer.json"
    if path.exists():
        with path.open("rb") as file:
            start = file.read(1)
            file.seek(-min(16, path.stat().st_size), os.SEEK_END)
            is_complete = start == b"{" and file.read().rstrip().endswith(b"}")
        return [] if is_complete else ["tokenizer.json is not a whole JSON object; fetch it again"]
    if not has_slow_tokenizer(folder):
        return ["no tokenizer.json in it"]
    return [
        "no tokenizer.json in it; make it from the tokenizer that is there with: "
        f"{saving('AutoTokenizer', folder)}"
    ]


def saving(kind: str, folder: Path) -> str:
    """A command to paste that saves what a folder holds as this environment's transformers writes
    it.
    """
    interpreter = shutil.which("python")
    is_ours = interpreter is not None and os.path.dirname(
        os.path.abspath(interpreter)
    ) == os.path.dirname(sys.executable)
    program = "python" if is_ours else shlex.quote(sys.executable)
    code = (
        f"from transformers import {kind} as T; "
        f"T.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
    )
    return f"{program} -c {shlex.quote(code)}"


def has_slow_tokenizer(folder: Path) -> bool:
    """Whether `folder` holds a vocabulary that transformers can turn into a tokenizer.json."""
    return any(
        (folder / name).exists()
        for name in ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
    )


def members(folder: Path) -> list[Path]:
    """The files that decide what a model computes, sorted by name: configuration, tokenizer, chat
    template, weights.
    """
    patterns = (
        *FILES,
        "*.safetensors",
        "*.safetensors.index.json",
        "tokenizer*",
        "*.jinja",
        "spiece.model",
        "vocab.txt",
    )
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def revision(folder: Path, digests: Path, max_bytes: int | None = None) -> str | None:
    """sha256 over the sorted (name, size, content) of the model's files, as 64 hexadecimal digits.

    A file's digest is remembered in `digests` by (path, size, mtime), so the second call reads no
    weights. None if that would still take reading more than `max_bytes`.
    """
    paths = members(folder)
    unread = sum(path.stat().st_size for path in paths if not _memo(path, digests).exists())
    if max_bytes is not None and unread > max_bytes:
        return None
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{path.name}\0{path.stat().st_size}\0{_digest(path, digests)}\n".encode())
    return total.hexdigest()


def _memo(path: Path, digests: Path) -> Path:
    status = path.stat()
    return (
        digests
        / hashlib.sha256(
            f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode()
        ).hexdigest()
    )


def _digest(path: Path, digests: Path) -> str:
    memo = _memo(path, digests)
    with contextlib.suppress(OSError):
        remembered = memo.read_text()
        if len(remembered) == 64:
            return remembered
    digest = sha256(path)
    # A cache that cannot be written costs time, not correctness.
    with contextlib.suppress(OSError):
        write(memo, digest)
    return digest


def sha256(path: Path) -> str:
    """sha256 of a file as hexadecimal digits, with a progress bar on a terminal when it takes
    longer than a moment.
    """
    if path.stat().st_size < 500_000_000 or not sys.stderr.isatty():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    import rich.console
    import rich.progress

    digest = hashlib.sha256()
    console = rich.console.Console(stderr=True)
    with rich.progress.open(
        path, "rb", description=f"checking {path.name}", console=console, transient=True
    ) as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def write(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text)
    os.replace(partial, path)


@contextlib.contextmanager
def lock(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold `path` against every other process on this machine; a process that dies lets go of
    it.
    """
    import filelock

    path.parent.mkdir(parents=True, exist_ok=True)
    file_lock = filelock.FileLock(path)
    try:
        file_lock.acquire(timeout=0)
    except filelock.Timeout:
        say(f"waiting for another process that holds {path}")
        file_lock.acquire()
    try:
        yield
    finally:
        file_lock.release()


def build(base: BaseModel, recipe: dict[str, object], make: Callable[[Path], None]) -> BaseModel:
    """Let `make` fill a folder next to `base.path`, check it, mark it complete and move it into
    place in one step.

    The caller holds the lock, so what an interrupted process left behind is nobody's and is
    removed. Raises RuntimeError if the folder that `make` filled is no usable model.
    """
    folder = Path(base.path)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        # Where nobody watches, the progress bars of transformers would fill the log.
        with (
            contextlib.nullcontext()
            if sys.stderr.isatty()
            else contextlib.redirect_stderr(io.StringIO())
        ):
            make(partial)
        _open_like_the_config(partial)
        if faults := problems(partial):
            raise RuntimeError(
                f"model {base.name} was converted into an unusable folder: {'; '.join(faults)}"
            )
        (partial / "recipe.json").write_text(json.dumps(recipe, indent=1))
        (partial / "base.json").write_text(json.dumps(dataclasses.asdict(base), indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return base


def _open_like_the_config(folder: Path) -> None:
    """Let everyone read the weights who may read the rest: the safetensors library writes them for
    their owner alone.
    """
    for path in folder.glob("*.safetensors"):
        if not path.is_symlink():
            path.chmod((folder / "config.json").stat().st_mode)


def name_plain_tokenizer(folder: Path) -> None:
    """Name the tokenizer's class as every version of transformers since 4 knows it; version 5
    writes a name that 4 refuses.
    """
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    for name in ("backend", "is_local", "local_files_only"):
        settings.pop(name, None)
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2) + "\n")


def recipe_of(folder: Path) -> dict[str, object] | None:
    """What a complete folder made by `build` was made from; None if there is no complete folder."""
    try:
        json.loads((folder / "base.json").read_text())
        recipe = json.loads((folder / "recipe.json").read_text())
    except (OSError, ValueError):
        return None
    return recipe if not problems(folder) else None
