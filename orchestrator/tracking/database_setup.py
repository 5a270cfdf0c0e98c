"""A tracking database, made whole or not at all, by one process at a time."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.config.credentials import mask
from orchestrator.errors import TrackingError
from orchestrator.tracking.store_errors import explain
from orchestrator.tracking.uri import database_file, sqlite_uri

ANSWER_SECONDS = 5
# "mlflow": the advisory lock under which one process at a time creates the tables
CREATION_LOCK = 0x6D6C666C6F77
DRIVER_MISSING = (
    f"the driver is missing: {shlex.quote(sys.executable)} -m pip install 'psycopg[binary]'"
)


def tidy(uri: str) -> None:
    """Remove the empty folder that MLflow makes where an address of SQLite has escapes in it, which
    it takes for a part of the name.
    """
    raw = Path(uri.partition(":///")[2]).parent
    if uri.startswith("sqlite:") and raw != database_file(uri).parent:
        with suppress(OSError):
            os.removedirs(raw)


@contextmanager
def reserved(uri: str) -> Iterator[None]:
    """Check that the database behind a resolved `uri` can be used, and hold it alone while the
    tables are created.

    Two processes that open a fresh database at the same moment both migrate it, and one dies of
    "duplicate column name". An HTTP address passes untouched: its server owns its database.
    """
    if uri.startswith("sqlite:"):
        with _reserved_file(uri):
            yield
    elif uri.startswith("postgresql"):
        with _reserved_postgres(uri):
            yield
    else:
        yield


@contextmanager
def _reserved_file(uri: str) -> Iterator[None]:
    file = database_file(uri)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _check_file(uri, file)
        # The folder itself is locked: a lock file would stay behind.
        lock = os.open(file.parent, os.O_RDONLY)
    except OSError as error:
        raise TrackingError(
            f"tracking.uri={uri}: {error.strerror} ({error.filename}); choose another file"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def create(uri: str, make: Callable[[str], object]) -> None:
    """Have `make` create the tables of a SQLite file that is not there yet, elsewhere at first.

    MLflow makes them in some fifty steps: a process that is ended meanwhile would leave a file that
    nobody can use or mend. In memory, where no step waits for a disk, they take one second instead
    of six.
    """
    file = database_file(uri) if uri.startswith("sqlite:") else None
    if file is None or (file.exists() and file.stat().st_size):
        return
    shared = "/dev/shm"  # noqa: S108  # a folder of its own in it, mode 0700
    memory = shared if os.access(shared, os.W_OK | os.X_OK) else None
    with tempfile.TemporaryDirectory(prefix="mlflow-", dir=memory) as scratch:
        database = Path(scratch) / file.name
        draft = file.with_name(f"{file.name}.draft")
        make(sqlite_uri(database))
        try:
            shutil.copyfile(database, draft)
            os.replace(draft, file)
        finally:
            draft.unlink(missing_ok=True)


def _check_file(uri: str, file: Path) -> None:
    if file.is_dir():
        raise TrackingError(
            f"tracking.uri={uri} is a folder; name a file in it, tracking.uri={uri}/mlflow.db"
        )
    if not os.access(file.parent, os.W_OK | os.X_OK) or (
        file.exists() and not os.access(file, os.R_OK | os.W_OK)
    ):
        raise TrackingError(
            f"tracking.uri={uri} cannot be written by this user; choose another file"
        )
    if not file.exists():
        # A folder that takes no file, such as /proc, may still look open. Under a name of its own:
        # another process may be creating the database meanwhile.
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f"{file.name}."):
            pass
    if file.exists() and file.stat().st_size and not starts_with(file, b"SQLite format 3\0"):
        raise TrackingError(
            f"tracking.uri={uri} is a file, but no SQLite database; choose another file"
        )


def starts_with(file: Path, mark: bytes) -> bool:
    """Whether a file, of any size, begins with some bytes."""
    with file.open("rb") as stream:
        return stream.read(len(mark)) == mark


@contextmanager
def _reserved_postgres(uri: str) -> Iterator[None]:
    try:
        import psycopg
    except ImportError as error:
        raise TrackingError(f"tracking.uri={mask(uri)}: {DRIVER_MISSING}") from error
    try:
        connection = psycopg.connect(
            uri.replace("+psycopg", "", 1), connect_timeout=ANSWER_SECONDS, autocommit=True
        )
    except psycopg.Error as error:
        raise TrackingError(explain(uri, str(error))) from error
    with connection:
        connection.execute("select pg_advisory_lock(%s)", [CREATION_LOCK])
        yield
