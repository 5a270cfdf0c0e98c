"""What a user asks of a sweep that runs, as small files in the sweep's own folder: the driver looks
for them, wherever it is, and answers in the journal.

A request is one file requests/ID.json. Its answer is an event of the kind "request" with the same
ID; then the file is removed. A request that nobody has answered waits for the next start.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import uuid
from pathlib import Path

from jobs.files import filesystem
from jobs.files.json_types import Json, JsonObject
from orchestrator.storage.json_files import read_text, write_whole

FOLDER = "requests"
ACTIONS = ("drop", "clone")
Request = JsonObject
"""id, action, trial, and for a copy its settings."""


def ask(where: str, action: str, trial: int, settings: JsonObject | None = None) -> Request:
    """Leave a request for the sweep in a folder, or at a URI. Raises OSError."""
    request = {
        "id": uuid.uuid4().hex[:12],
        "action": action,
        "trial": trial,
        "settings": settings or {},
    }
    name, text = f"{request['id']}.json", json.dumps(request)
    if filesystem.is_uri(where):
        with tempfile.TemporaryDirectory(prefix="request-") as draft:
            (Path(draft) / name).write_text(text, encoding="utf-8")
            filesystem.put(Path(draft) / name, filesystem.join(where, FOLDER, name))
        return request
    home = Path(where) / FOLDER
    home.mkdir(exist_ok=True)
    write_whole(home / name, text)
    return request


def waiting(where: str) -> list[Request]:
    """The requests that lie in a sweep's folder or URI, the oldest first. Files that are no request
    of ours are left alone.
    """
    home = filesystem.join(where, FOLDER)
    texts = remote_texts(home) if filesystem.is_uri(where) else local_texts(Path(home))
    requests = []
    for name, text in texts:
        try:
            request = json.loads(text)
        except ValueError:
            continue
        if is_request(request) and name == f"{request['id']}.json":
            requests.append(request)
    return requests


def local_texts(home: Path) -> list[tuple[str, str]]:
    """Names and texts of the files of a folder, by age."""
    dated = []
    for file in home.glob("*.json") if home.is_dir() else []:
        with contextlib.suppress(OSError):
            dated.append((file.stat().st_mtime_ns, file.name, read_text(file)))
    return [(name, text) for _, name, text in sorted(dated)]


def remote_texts(home: str) -> list[tuple[str, str]]:
    """The same for an object store."""
    system, path = filesystem.opened(home)
    texts = []
    for info in sorted(filesystem.listing(system, path), key=lambda info: str(info.mtime)):
        with contextlib.suppress(OSError):
            text = filesystem.read(system, info.path).decode("utf-8", "replace")
            texts.append((info.path.rsplit("/", 1)[-1], text))
    return texts


def is_request(value: Json) -> bool:
    """Whether a file holds a request as `ask` writes it."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("id"), str)
        and value.get("action") in ACTIONS
        and isinstance(value.get("trial"), int)
        and isinstance(value.get("settings", {}), dict)
    )


def remove(where: str, request: Request) -> None:
    """Take an answered request away."""
    name = f"{request['id']}.json"
    if filesystem.is_uri(where):
        filesystem.remove(filesystem.join(where, FOLDER, name))
        return
    with contextlib.suppress(OSError):
        (Path(where) / FOLDER / name).unlink()
