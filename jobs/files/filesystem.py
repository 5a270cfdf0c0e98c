"""Places for files: folders, and object stores by their URI (s3://BUCKET/PREFIX, gs://...,
abfs://...), through Arrow's file systems.

Owns moving whole folders between the two. Credentials and endpoints are found where each store's
own tools look, such as AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from jobs.files import cache
from jobs.files.drafts import complete_once

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs")
TIME_STEP = 2.0
"""Seconds within which a store may give two writes of a file the same time: S3's are whole seconds.
"""
READ_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between the tries to read a small file."""


def is_uri(location: str) -> bool:
    """Whether a place is an object store's, not a folder's; file:// is a folder's."""
    return re.match(r"\w[\w+.-]*://", location) is not None and not location.startswith("file://")


def join(location: str, *names: str) -> str:
    """A place below another."""
    return (
        "/".join([location.rstrip("/"), *names])
        if is_uri(location)
        else os.path.join(location, *names)
    )


def opened(uri: str) -> tuple[Any, str]:
    """The file system of a URI, and the path in it. Raises OSError for a store that cannot be
    used.
    """
    from pyarrow.fs import FileSystem

    try:
        return FileSystem.from_uri(uri)
    except ValueError as error:
        raise OSError(f"{uri}: {error}") from error


def put(local: Path, location: str) -> None:
    """Copy a file or a folder's content to a URI, over what is there. Raises OSError."""
    from pyarrow.fs import LocalFileSystem, copy_files

    store, path = opened(location)
    copy_files(str(local), path, source_filesystem=LocalFileSystem(), destination_filesystem=store)


def get(location: str, pattern: str | None = None) -> str:
    """A folder or file of a place as a local path: itself, or a copy in this machine's cache; of
    the files in a folder only those that fit the URI `pattern`, where there is one. Raises OSError
    when it is not there, or when it changes while it is copied.
    """
    if not is_uri(location):
        return location
    store, path = opened(location)
    files = chosen(listing(store, path), location, path, pattern)
    entries = identity(files)
    if not entries:
        raise FileNotFoundError(f"{pattern or location} is not there")
    fetched_at = time.time_ns() * just_written(files)
    digest = hashlib.sha256(repr((location, entries, fetched_at)).encode()).hexdigest()[:16]
    target = cache.cache_folder() / "fetched" / digest / location.rstrip("/").rsplit("/", 1)[-1]
    if not target.exists():
        with complete_once(target) as draft:
            for info in files:
                copy = draft if info.path == path else draft / name_below(info.path, path)
                copy.parent.mkdir(parents=True, exist_ok=True)
                with store.open_input_stream(info.path) as source, copy.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
            if identity(chosen(listing(store, path), location, path, pattern)) != entries:
                raise OSError(
                    f"{location} changed while it was copied; try again when it is complete"
                )
    return str(target)


def name_below(path: str, folder: str) -> str:
    """The relative name of an object below a folder of a store, whose keys may be any text. Raises
    OSError for one that would lie elsewhere as a file.
    """
    name = os.path.relpath(path, folder)
    if os.path.isabs(name) or ".." in Path(path).parts:
        raise OSError(f"{path!r}: a key with .. in it is no file's name; rename it in the store")
    return name


def chosen(files: list[Any], location: str, path: str, pattern: str | None) -> list[Any]:
    """The files below a path whose names fit a pattern of URIs; all of them without one."""
    if pattern is None:
        return files
    wanted = path + pattern.removeprefix(location)
    return [info for info in files if fnmatch.fnmatchcase(info.path, wanted)]


def identity(files: list[Any]) -> list[tuple[str, int, str]]:
    """What changes when one of a folder's files does: paths, sizes in bytes and times."""
    return sorted((info.path, info.size, str(info.mtime)) for info in files)


def read(store: Any, path: str) -> bytes:
    """A small file's content, of one moment. It is read again when it was written anew or taken
    away meanwhile, which stores answer with errors of many kinds, or with a file that is cut or
    filled up. Raises FileNotFoundError when it is not there, else OSError.
    """
    error: OSError = OSError(f"{path} is written anew all the time")
    for pause in (0.0, *READ_PAUSES):
        time.sleep(pause)
        try:
            with store.open_input_stream(path) as stream:
                version, content = stream.metadata(), bytes(stream.read())
            with store.open_input_stream(path) as stream:
                if stream.metadata() == version:
                    return content
        except FileNotFoundError:
            raise
        except OSError as reason:
            error = reason
    raise error


def just_written(files: list[Any]) -> bool:
    """Whether a file is so new that a later change of it may show neither in its size nor in its
    time: a copy of it is used once.
    """
    newest = max((info.mtime_ns or 0) for info in files)
    return time.time() - newest / 1e9 < TIME_STEP


def listing(store: Any, path: str) -> list[Any]:
    """The files at or below a path."""
    from pyarrow.fs import FileSelector, FileType

    info = store.get_file_info(path)
    if info.type == FileType.File:
        return [info]
    return [
        info
        for info in store.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
        if info.type == FileType.File
    ]


def exists(location: str) -> bool:
    """Whether something is at a place. Raises OSError when the store does not answer."""
    if not is_uri(location):
        return os.path.exists(location)
    return bool(listing(*opened(location)))


def remove(location: str) -> None:
    """Delete a folder and all below it; what is not there or cannot be deleted stays."""
    if not is_uri(location):
        shutil.rmtree(location, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        store, path = opened(location)
        if store.get_file_info(path).is_file:
            store.delete_file(path)
        else:
            store.delete_dir(path)
