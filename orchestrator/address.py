"""Where tracking goes: reads `tracking.uri`, and says in one line what is wrong with it and what to do.

Owns the forms of the address, the checks that need no MLflow (folders, files, PostgreSQL) and the wording of every refusal.
Talking to MLflow itself is left to `tracking`.
"""

from __future__ import annotations

import difflib
import fcntl
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.credentials import escaped, mask
from orchestrator.errors import TrackingError

SCHEMES = ("http", "https", "sqlite", "postgresql")
ANSWER_SECONDS = 5
CREATION_LOCK = 0x6D6C666C6F77  # "mlflow": the advisory lock under which one process at a time creates the tables
DRIVER_MISSING = "the driver is missing: pip install 'psycopg[binary]'"


def resolve(uri: str) -> str:
    """The address in the form MLflow is given: absolute path for SQLite, psycopg 3 for PostgreSQL, no trailing slash.

    Raises TrackingError when the form is not one that is supported. Touches neither disk nor network.
    """
    if not uri.strip():
        raise TrackingError("tracking.uri is empty; leave it out for SQLite under the storage folder, or name a server: http://HOST:5000")
    scheme, separator, rest = escaped(uri).partition("://")
    dialect = scheme.partition("+")[0].lower()
    if not separator or dialect == "file":
        raise TrackingError(_not_an_address(uri))
    if dialect in ("postgresql", "postgres"):
        return f"postgresql+psycopg://{rest}"
    if dialect == "sqlite":
        return f"sqlite:///{database_file(uri)}"
    if dialect not in SCHEMES:
        near = difflib.get_close_matches(dialect, SCHEMES, n=1)
        hint = f"did you mean tracking.uri={near[0]}://{mask(uri).partition('://')[2]}?" if near else f"use one of {', '.join(SCHEMES)}"
        raise TrackingError(f"tracking.uri={mask(uri)}: {dialect} is not supported; {hint}")
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        named, _ = parts.hostname, parts.port
    except ValueError as error:
        raise TrackingError(f"tracking.uri={mask(uri)}: {error}; write it as tracking.uri=http://HOST:5000") from error
    if not named:
        raise TrackingError(f"tracking.uri={mask(uri)} names no host; write it as tracking.uri=http://HOST:5000")
    if parts.query or parts.fragment:
        remedy = "give a token as MLFLOW_TRACKING_TOKEN, a password as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        raise TrackingError(f"tracking.uri={mask(uri)}: MLflow takes no ?... or #... in the address of a server; {remedy}")
    return f"{dialect}://{rest}".rstrip("/")


def ui_command(uri: str, programs: str = "") -> str:
    """The command that shows the runs of a database. Its password is not in it, but the variable that libpq reads. `programs` is the
    folder of mlflow, as it is typed.
    """
    shown, given = mask(uri), ""
    if re.match(r"(?i)postgres(ql)?(\+\w+)?://", uri):
        rest = shown.partition("://")[2]
        shown = f"postgresql+psycopg://{rest.replace(':***@', '@', 1)}"
        if ":***@" in rest:
            given = "PGPASSWORD=$PGPASSWORD "
    return f"{given}{programs}mlflow ui --backend-store-uri {shlex.quote(shown)}"


def _not_an_address(uri: str) -> str:
    if "@" in uri and "://" not in uri:
        shown = mask(f"http://{uri}")
        return f"tracking.uri={shown.removeprefix('http://')} has no scheme; did you mean tracking.uri={shown}?"
    if re.match(r"[\w.-]+:\d+(/|$)", uri):
        return f"tracking.uri={uri} has no scheme; did you mean tracking.uri=http://{uri}?"
    path = Path(uri.removeprefix("file://").removeprefix("file:") or ".").absolute()
    file = path if path.suffix in (".db", ".sqlite") else path / "mlflow.db"
    return f"tracking.uri={uri}: MLflow no longer keeps runs as plain files; use a database, tracking.uri=sqlite:///{file}"


def database_file(uri: str) -> Path:
    """The absolute path of the file that a sqlite:/// address means."""
    path = uri.partition(":///")[2].partition("?")[0]
    if not path or path == ":memory:":
        raise TrackingError(f"tracking.uri={uri} names no file; write it as tracking.uri=sqlite:////absolute/path/mlflow.db")
    return Path(path).expanduser().absolute()


@contextmanager
def reserved(uri: str) -> Iterator[None]:
    """Check that the database behind a resolved `uri` can be used, and hold it alone while the tables are created.

    Two processes that open a fresh database at the same moment both migrate it, and one dies of "duplicate column name".
    An HTTP address passes untouched: its server owns its database.
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
        raise TrackingError(f"tracking.uri={uri}: {error.strerror} ({error.filename}); choose another file") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def create(uri: str, make: Callable[[str], object]) -> None:
    """Have `make` create the tables of a SQLite file that is not there yet, elsewhere at first.

    MLflow makes them in some fifty steps: a process that is ended meanwhile would leave a file that nobody can use or mend. In memory,
    where no step waits for a disk, they take one second instead of six.
    """
    file = database_file(uri) if uri.startswith("sqlite:") else None
    if file is None or (file.exists() and file.stat().st_size):
        return
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None
    with tempfile.TemporaryDirectory(prefix="mlflow-", dir=memory) as scratch:
        made, draft = Path(scratch) / file.name, file.with_name(f"{file.name}.draft")
        make(f"sqlite:///{made}")
        try:
            shutil.copyfile(made, draft)
            os.replace(draft, file)
        finally:
            draft.unlink(missing_ok=True)


def _check_file(uri: str, file: Path) -> None:
    if file.is_dir():
        raise TrackingError(f"tracking.uri={uri} is a folder; name a file in it, tracking.uri={uri}/mlflow.db")
    if not os.access(file.parent, os.W_OK | os.X_OK) or (file.exists() and not os.access(file, os.R_OK | os.W_OK)):
        raise TrackingError(f"tracking.uri={uri} cannot be written by this user; choose another file")
    if not file.exists():
        os.close(os.open(file, os.O_RDWR | os.O_CREAT))  # a folder that takes no file, such as /proc, may still look open
        file.unlink()
    if file.exists() and file.stat().st_size and not starts_with(file, b"SQLite format 3\0"):
        raise TrackingError(f"tracking.uri={uri} is a file, but no SQLite database; choose another file")


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
        connection = psycopg.connect(uri.replace("+psycopg", "", 1), connect_timeout=ANSWER_SECONDS, autocommit=True)
    except psycopg.Error as error:
        raise TrackingError(explain(uri, str(error))) from error
    with connection:
        connection.execute("select pg_advisory_lock(%s)", [CREATION_LOCK])
        yield


MOVE_AWAY = "move it away: the same command writes its sweep anew, from its journal"

# Text in an error, what it means, what to do. The first that matches counts, so the specific ones come first.
MEANINGS = (
    ("Invalid Host header", "the server refuses this host name", "start it with --allowed-hosts {host}"),
    ("Connection refused", "nothing listens there", "start the server or correct tracking.uri=..."),
    (
        "Failed to resolve|Name or service not known|could not translate host|failed to resolve host",
        "no such host",
        "correct tracking.uri=...",
    ),
    ("No route to host|Network is unreachable", "there is no route to this host", "correct tracking.uri=... or join its network"),
    ("WRONG_VERSION_NUMBER|wrong version number", "the server does not speak https", "use tracking.uri=http://..."),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted", "set MLFLOW_TRACKING_SERVER_CERT_PATH=FILE"),
    ("RemoteDisconnected|Connection reset|Connection aborted|closed the connection", "the connection broke", "look at the server's log"),
    ("timed out|timeout", "no answer in time", "check the server or correct tracking.uri=..."),
    ("password authentication failed|no password supplied", "the database refuses this user or password", "correct tracking.uri=..."),
    ('database ".*" does not exist', "there is no such database", "create it (createdb) or correct tracking.uri=..."),
    (r"(table|index) \S+ already exists|duplicate column name", "its tables were left half made", MOVE_AWAY),
    ("disk image is malformed|file is not a database", "the file is damaged", MOVE_AWAY),
    ("out-of-date database schema", "the database was made by another MLflow version", "run: mlflow db upgrade {uri}"),
    ("Can't locate revision", "the database was made by a newer MLflow version", "upgrade mlflow here"),
    ("No space left|disk is full", "the disk is full", "free some space"),
)


def explain(uri: str, text: str) -> str:
    """One line that says what an error's `text` means for the address and what to do."""
    host = urlsplit(uri).netloc.rpartition("@")[2]
    for pattern, meaning, remedy in MEANINGS:
        if re.search(pattern, text):
            return f"tracking.uri={mask(uri)}: {meaning}; {remedy.format(host=host, uri=mask(uri))}"
    first = mask(text).strip().splitlines()[0] if text.strip() else "failed without a reason"
    return f"tracking.uri={mask(uri)}: {first[:300]}"


def judge_answer(uri: str, status: int, body: str) -> str | None:
    """What is wrong with a server that answered a search for experiments with `status` and `body`; None when it is MLflow."""
    where = f"tracking.uri={mask(uri)}"
    if "Invalid Host header" in body:
        return explain(uri, body)
    if status in (401, 403):
        return f"{where}: access denied ({status}); set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    if status == 429 or status >= 500:
        return f"{where}: the server answers, but with an error ({status}); look at its log"
    if status != 200 or not body.lstrip().startswith("{"):
        return f"{where}: a server answers there ({status}), but it is not MLflow; correct tracking.uri=..."
    return None
