"""Small files, read and written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

from jobs.files.drafts import drafted
from jobs.files.json_types import Json, JsonObject
from jobs.files.sealed_json import sealed, unsealed


def read_text(path: Path) -> str:
    """The text of a file, nothing when it is not there, or is being removed. What a disk has made
    of a character shows as one that is none.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return ""


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that whoever reads it meanwhile sees all of it or what was there
    before.
    """
    with drafted(path, str(os.getpid())) as draft:
        draft.write_text(text, encoding="utf-8")


def read_object(path: Path) -> JsonObject:
    """The JSON object in a file of ours; empty when there is none, or when it is torn: what such
    files hold can be made again.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: Json) -> None:
    """Write a file whole or not at all."""
    with drafted(path) as draft:
        draft.write_text(json.dumps(value, indent=1), encoding="utf-8")


def write_sealed(path: Path, value: JsonObject, writer: str = "") -> None:
    """Write an object whole or not at all, with its checksum. Where several may write at the same
    time, each is a `writer` of its own.
    """
    with drafted(path, writer) as draft:
        draft.write_text(json.dumps(sealed(value), indent=1), encoding="utf-8")


def read_sealed(path: Path) -> JsonObject:
    """What `write_sealed` has written; empty when a disk has changed any of it. An object without a
    checksum, of an earlier version, is taken as it stands.
    """
    return unsealed(read_object(path))
