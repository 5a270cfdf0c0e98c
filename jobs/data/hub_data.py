"""Data sets of the Hugging Face hub: hf://ORG/NAME, with a revision (@REV) and a folder, a file or
a pattern in it (/PATH) where they are named. Embedding models, where a setting names one, alike.

The files stay in the hub's own cache. This project's cache holds which commit a revision stood for
when it was first asked for: a branch that moves does not change the rows of a sweep.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from jobs.data.file_forms import BINARY, EXTENSIONS, PACKED, form_of
from jobs.files.cache import cache_folder

SCHEME = "hf://"
DEFAULT_REVISION = "main"
FORM = re.compile(
    r"hf://(?:datasets/)?(?P<id>[\w.-]+(?:/[\w.-]+)?)"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[\w.-]+|[^/@]+))?(?:/(?P<path>.+?))?/?"
)
MODEL = ("*.safetensors", "*.json", "*.txt", "*.model")
"""Files of an embedding model."""
OTHER_FORMS = ["onnx/*", "openvino/*"]
ABOUT = ("README*", "LICEN[CS]E*")
"""Files that say under what terms the rows stand."""


@dataclass(frozen=True)
class HubPlace:
    """What a location names."""

    id: str
    revision: str
    path: str
    """Folder, file or pattern in the repository; empty for all of it."""
    kind: str = "dataset"
    """"model" for an embedding model."""

    @property
    def folder(self) -> str:
        """The hub's name of the cached repository."""
        return f"{self.kind}s--{self.id.replace('/', '--')}"

    @property
    def noun(self) -> str:
        """What people call it."""
        return "data set" if self.kind == "dataset" else "model"

    @property
    def page(self) -> str:
        """Its address."""
        return f"https://huggingface.co/{'datasets/' if self.kind == 'dataset' else ''}{self.id}"


def parse(location: str) -> HubPlace:
    """What a location names. Raises ValueError for one that is none."""
    match = FORM.fullmatch(location)
    if match is None:
        raise ValueError(
            f"{location} must be {SCHEME}ORG/NAME, {SCHEME}ORG/NAME@REVISION or "
            f"{SCHEME}ORG/NAME@REVISION/FOLDER"
        )
    return HubPlace(match["id"], match["revision"] or DEFAULT_REVISION, match["path"] or "")


def fetch(location: str) -> str:
    """The files of a data set as a path of this machine, downloaded unless they are here. Raises
    ValueError for a location that is none, and OSError for one that cannot be had.
    """
    return fetched(parse(location), location)


def fetch_model(location: str) -> str:
    """The files of an embedding model as a folder of this machine; see `fetch`."""
    wanted = parse(location)
    if wanted.path:
        raise ValueError(f"{location} names a part of a model; write {SCHEME}{wanted.id}")
    return fetched(dataclasses.replace(wanted, kind="model"), location)


def fetched(wanted: HubPlace, location: str) -> str:
    """See `fetch`."""
    record = read_record(wanted)
    commit = record["revisions"].get(wanted.revision)
    snapshot = hub_cache() / wanted.folder / "snapshots" / (commit or "-")
    if wanted.path not in record["fetched"].get(commit or "", []) or not snapshot.is_dir():
        snapshot = download(wanted, location, commit)
        check_snapshot(snapshot, wanted, location)
        keep_record(wanted, snapshot.name)
    return os.path.join(snapshot, wanted.path) if wanted.path else str(snapshot)


def commit_of(location: str) -> str | None:
    """The commit that a fetched location stands for; None for what is not of the hub."""
    if not location.startswith(SCHEME):
        return None
    wanted = parse(location)
    return read_record(wanted)["revisions"].get(wanted.revision)


def snapshot_of(location: str) -> Path | None:
    """The folder of a fetched data set, with what says under what terms it stands; None for what
    is not of the hub, or not here.
    """
    commit = commit_of(location)
    if commit is None:
        return None
    return hub_cache() / parse(location).folder / "snapshots" / commit


def hub_cache() -> Path:
    """The hub's cache folder, found as huggingface_hub finds it, but without importing it."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if chosen := os.environ.get(name):
            return expanded(chosen)
    if home := os.environ.get("HF_HOME"):
        return expanded(home) / "hub"
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub"


def expanded(path: str) -> Path:
    """A path with its variables and ~ filled in."""
    return Path(os.path.expandvars(path)).expanduser().absolute()


def download(wanted: HubPlace, location: str, commit: str | None) -> Path:
    """The snapshot with the wanted files."""
    from huggingface_hub import snapshot_download, utils

    quiet = not sys.stderr.isatty() and not utils.are_progress_bars_disabled()
    if quiet:
        utils.disable_progress_bars()
    try:
        snapshot = snapshot_download(
            wanted.id,
            repo_type=wanted.kind,
            revision=commit or wanted.revision,
            cache_dir=hub_cache(),
            allow_patterns=[
                *(patterns(wanted.path) if wanted.kind == "dataset" else MODEL),
                *ABOUT,
            ],
            ignore_patterns=None if wanted.kind == "dataset" else OTHER_FORMS,
        )
    except Exception as error:
        # The hub's client raises its own errors, its HTTP library's and the system's; the caller is
        # promised an OSError.
        raise OSError(explained(error, wanted, location)) from error
    finally:
        if quiet:
            utils.enable_progress_bars()
    return Path(snapshot)


def check_snapshot(snapshot: Path, wanted: HubPlace, location: str) -> None:
    """Raise OSError for a data set without the wanted files, or without any file of rows."""
    if wanted.kind == "model":
        return  # embeddings.py looks at its files
    if wanted.path:
        if not (snapshot / wanted.path).exists() and not glob.glob(str(snapshot / wanted.path)):
            page = f"{wanted.page}/tree/{wanted.revision}"
            raise OSError(f"{location}: the data set holds no {wanted.path}; see {page}")
    elif not any(form_of(path) is not None for path in snapshot.rglob("*")):
        raise OSError(
            f"{location} holds no file of rows; what a script makes may be had at "
            f"{SCHEME}{wanted.id}@refs/convert/parquet"
        )


def patterns(path: str) -> list[str]:
    """Which files of a repository are fetched."""
    if path:
        return [path, f"{path}/*"]
    packed = [f"*{form}{end}" for form in EXTENSIONS if form not in BINARY for end in PACKED]
    return [*(f"*{form}" for form in EXTENSIONS), *packed]


def explained(error: Exception, wanted: HubPlace, location: str) -> str:
    """Why a data set cannot be had, with the remedy."""
    from huggingface_hub import errors

    # The client wraps some refusals in "not found locally", with the server's answer as the cause.
    status = next(
        (
            one.response.status_code
            for one in (error, error.__cause__)
            if isinstance(one, errors.HfHubHTTPError)
        ),
        None,
    )
    if isinstance(error, errors.HFValidationError):
        return f"{location}: {wanted.id} is no name of a {wanted.noun}, which looks like ORG/NAME"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{location} is gated: accept its terms at {wanted.page}, then set HF_TOKEN to a token "
            "of that account"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"{location}: the {wanted.noun} has no revision {wanted.revision}; correct it, or "
            f"leave it out for {DEFAULT_REVISION}"
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
        return (
            f"{location}: there is no public {wanted.noun} {wanted.id}; correct the name, or set "
            "HF_TOKEN to a token that may read it"
        )
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    by_hand = (
        f"hf download {wanted.id} --repo-type {wanted.kind} --revision {wanted.revision}, or name "
        "a folder that lies here"
    )
    return f"{location} could not be fetched ({reason}). Where there is a network, run: {by_hand}"


def record_path(wanted: HubPlace) -> Path:
    """Where it is kept which commit a revision stood for."""
    return cache_folder() / "hub-data" / wanted.folder / "revisions.json"


def read_record(wanted: HubPlace) -> dict[str, dict]:
    """Commit by revision, and by commit which paths of it are here; nothing where none is kept."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        record = json.loads(record_path(wanted).read_text(encoding="utf-8"))
        return {"revisions": dict(record["revisions"]), "fetched": dict(record["fetched"])}
    return {"revisions": {}, "fetched": {}}


def keep_record(wanted: HubPlace, commit: str) -> None:
    """Keep which commit a revision stands for, and that a path of it is here. A cache that cannot
    be written costs a download.
    """
    record = read_record(wanted)
    record["revisions"][wanted.revision] = commit
    record["fetched"][commit] = sorted({*record["fetched"].get(commit, []), wanted.path})
    with contextlib.suppress(OSError):
        path = record_path(wanted)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
        draft.write_text(json.dumps(record, indent=1), encoding="utf-8")
        os.replace(draft, path)
