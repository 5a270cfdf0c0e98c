"""The Hugging Face hub as a source of base models: which commit a name stands for, its snapshot,
and what to do when it cannot be had.

The files stay in the hub's own cache ($HF_HUB_CACHE, $HF_HOME), shared with every other program on
the machine. This project's cache holds only which commit was chosen, and a tokenizer.json where the
repository has none.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from jobs.base_models import hf_folder
from jobs.config import BaseModel, Model

WANTED = [
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.jinja",
    "tokenizer*",
    "*.model",
    "vocab.txt",
    "merges.txt",
]
UNWANTED = ["*/*", "consolidated*"]
"""Folders hold other formats (onnx, original); consolidated is the same weights a second time."""
DEFAULT_REVISION = "main"
CONVERTER = 1
"""Raised when what is written for repositories without a tokenizer.json changes."""


def hub_cache() -> Path:
    """The hub's cache folder, found as huggingface_hub finds it, but without importing it (0.3
    s).
    """
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if chosen := os.environ.get(name):
            return _expand(chosen)
    if home := os.environ.get("HF_HOME"):
        return _expand(home) / "hub"
    return _expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub"


def _expand(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser().absolute()


def locate(model: Model, cache: Path) -> BaseModel | None:
    """The snapshot that `prepare` found whole for this revision, if it is still there, else None.
    Needs no network.
    """
    commit = _recorded(model, cache).get(model.revision or DEFAULT_REVISION)
    if commit is None:
        return None
    snapshot = hub_cache() / f"models--{_slug(model)}" / "snapshots" / commit
    if not hf_folder.problems(snapshot):
        return _base(model, commit, snapshot)
    converted = _converted(model, commit, cache)
    return converted if hf_folder.recipe_of(Path(converted.path)) == _recipe(commit) else None


def prepare(model: Model, cache: Path, say: Callable[[str], None]) -> BaseModel:
    """Download the repository's snapshot, unless the hub's cache has it, and record which commit
    its revision stood for.

    The recorded commit is used from then on, so a branch that moves does not change the model under
    a project that has begun. Raises ValueError when the repository holds no model that can be
    loaded, and RuntimeError when it cannot be had.
    """
    requested = model.revision or DEFAULT_REVISION
    recorded = _recorded(model, cache)
    say(f"fetching {model.id} at revision {recorded.get(requested, requested)}")
    snapshot = _download(model, recorded.get(requested, requested))
    if problems := hf_folder.problems(snapshot, tokenizer=False):
        raise ValueError(f"model.id {model.id} at {snapshot.name}: {'; '.join(problems)}")
    base = _with_tokenizer(model, snapshot, cache, say)
    # Recorded last: a record says that the snapshot is whole.
    if recorded.get(requested) != base.revision:
        record = _record_path(model, cache)
        hf_folder.write(record, json.dumps({**recorded, requested: base.revision}, indent=1))
        if requested != base.revision:
            say(
                f"{model.id} {requested} is commit {base.revision} from now on (recorded in "
                f"{record})"
            )
    return base


def _record_path(model: Model, cache: Path) -> Path:
    return cache / "hub" / _slug(model) / "revision.json"


def _recorded(model: Model, cache: Path) -> dict[str, str]:
    """Requested revision -> commit, for every revision of this repository that was prepared
    before.
    """
    path = _record_path(model, cache)
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}
    except (TypeError, ValueError) as error:
        raise RuntimeError(
            f"{path} is not readable ({error}); delete it to resolve {model.id} anew"
        ) from error


def _id(model: Model) -> str:
    assert model.id is not None  # Model refuses to be made without it.
    return model.id


def _slug(model: Model) -> str:
    return _id(model).replace("/", "--")


def _base(model: Model, commit: str, path: Path) -> BaseModel:
    return BaseModel(name=model.name, source="hub", id=_id(model), revision=commit, path=str(path))


def _converted(model: Model, commit: str, cache: Path) -> BaseModel:
    return _base(model, commit, cache / "models" / f"{_slug(model)}-{commit[:12]}")


def _recipe(commit: str) -> dict[str, object]:
    return {"snapshot": commit, "converter": CONVERTER}


def _download(model: Model, revision: str) -> Path:
    from huggingface_hub import errors, snapshot_download, utils

    quiet = not sys.stderr.isatty() and not utils.are_progress_bars_disabled()
    if quiet:
        utils.disable_progress_bars()
    try:
        path = snapshot_download(
            _id(model),
            revision=revision,
            cache_dir=hub_cache(),
            allow_patterns=WANTED,
            ignore_patterns=UNWANTED,
        )
    except errors.HFValidationError as error:
        raise ValueError(
            f"model.id {model.id} is no repository name, which looks like owner/name: {error}"
        ) from error
    except Exception as error:
        # The hub's client raises its own errors, its HTTP library's and the system's; the caller is
        # promised a RuntimeError.
        raise RuntimeError(f"model {model.name}: {_explain(error, model, revision)}") from error
    finally:
        if quiet:
            utils.enable_progress_bars()
    return Path(path)


def _explain(error: Exception, model: Model, revision: str) -> str:
    from huggingface_hub import errors

    # The client wraps some refusals in "not found locally", with the server's answer as the cause.
    status = next(
        (
            e.response.status_code
            for e in (error, error.__cause__)
            if isinstance(e, errors.HfHubHTTPError)
        ),
        None,
    )
    if isinstance(error, errors.GatedRepoError):
        page = f"https://huggingface.co/{model.id}"
        return (
            f"{model.id} is gated: accept its terms at {page}, then set HF_TOKEN to a token of "
            "that account"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"{model.id} has no revision {revision}; correct model.revision, or leave it out for "
            f"{DEFAULT_REVISION}"
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return (
            f"there is no public repository {model.id}: correct model.id, or set HF_TOKEN to a "
            "token that may read it"
        )
    if status == 403:
        return (
            f"access to {model.id} was refused (HTTP 403): set HF_TOKEN to a token that may read it"
        )
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    by_hand = f"hf download {model.id} --revision {revision}"
    return (
        f"{model.id} at revision {revision} could not be fetched ({reason}). Where there is a "
        f"network, run: {by_hand}"
    )


def _with_tokenizer(
    model: Model, snapshot: Path, cache: Path, say: Callable[[str], None]
) -> BaseModel:
    """The snapshot as it is, or a folder in our cache that adds the tokenizer.json that it
    lacks.
    """
    commit = snapshot.name
    problems = hf_folder.problems(snapshot)
    if not problems:
        return _base(model, commit, snapshot)
    if not hf_folder.has_slow_tokenizer(snapshot):
        raise ValueError(f"model.id {model.id} at {commit}: {'; '.join(problems)}")
    say(f"converting the tokenizer of {model.id} to tokenizer.json")
    return hf_folder.build(
        _converted(model, commit, cache),
        _recipe(commit),
        lambda partial: _convert_tokenizer(snapshot, partial),
    )


def _convert_tokenizer(snapshot: Path, partial: Path) -> None:
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(snapshot, trust_remote_code=False).save_pretrained(partial)
    except Exception as error:
        # Tokenizers come with libraries of their own, each with its errors; the caller is promised
        # a RuntimeError.
        raise RuntimeError(
            f"the tokenizer in {snapshot} could not be converted: {type(error).__name__}: {error}"
        ) from error
    # The tokenizer goes first: saving through a link would overwrite the hub's own copy.
    for path in snapshot.iterdir():
        if path.is_file() and not (partial / path.name).exists():
            (partial / path.name).symlink_to(path.resolve())
