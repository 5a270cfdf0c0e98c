"""Where tracking goes: reads `tracking.uri`, and says in one line what is wrong with it and what to
do.

Owns the forms of the address, the checks that need no MLflow (folders, files, PostgreSQL) and the
wording of every refusal. Talking to MLflow itself is left to `tracking`.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.config.credentials import escaped, is_ambiguous, mask, without_scheme
from orchestrator.errors import TrackingError

SCHEMES = ("http", "https", "sqlite", "postgresql")


def resolve(uri: str) -> str:
    """The address in the form MLflow is given: absolute path for SQLite, psycopg 3 for PostgreSQL,
    no trailing slash.

    Raises TrackingError when the form is not one that is supported. Touches neither disk nor
    network.
    """
    if not uri.strip():
        raise TrackingError(
            "tracking.uri is empty; leave it out for SQLite under the storage folder, or name a "
            "server: http://HOST:5000"
        )
    if is_ambiguous(uri):
        raise TrackingError(
            f"tracking.uri={mask(uri)}: before the @ stands a password, or a port and a path; in a "
            "password write / as %2F, ? as %3F, # as %23 and @ as %40, in a path @ as %40"
        )
    scheme, separator, after_scheme = escaped(uri).partition("://")
    dialect = scheme.partition("+")[0].lower()
    if not separator or dialect == "file":
        raise TrackingError(_not_an_address(uri))
    if dialect in ("postgresql", "postgres"):
        return f"postgresql+psycopg://{after_scheme}"
    if dialect == "sqlite":
        return sqlite_uri(database_file(uri))
    if dialect not in SCHEMES:
        near = difflib.get_close_matches(dialect, SCHEMES, n=1)
        hint = (
            f"did you mean tracking.uri={near[0]}://{mask(uri).partition('://')[2]}?"
            if near
            else f"use one of {', '.join(SCHEMES)}"
        )
        raise TrackingError(f"tracking.uri={mask(uri)}: {dialect} is not supported; {hint}")
    try:
        url = urlsplit(f"{scheme}://{after_scheme}")
        named = url.hostname
        _ = url.port
    except ValueError as error:
        raise TrackingError(
            f"tracking.uri={mask(uri)}: {error}; write it as tracking.uri=http://HOST:5000"
        ) from error
    if not named:
        raise TrackingError(
            f"tracking.uri={mask(uri)} names no host; write it as tracking.uri=http://HOST:5000"
        )
    if url.query or url.fragment:
        remedy = (
            "give a token as MLFLOW_TRACKING_TOKEN, a password as MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD"
        )
        shown = mask(url._replace(query="", fragment="").geturl())
        raise TrackingError(
            f"tracking.uri={shown}: MLflow takes no ?... or #... in the address of a server; "
            f"{remedy}"
        )
    return f"{dialect}://{after_scheme}".rstrip("/")


def _not_an_address(uri: str) -> str:
    if "@" in uri and "://" not in uri:
        address = without_scheme(uri)
        beginning = uri[: len(uri) - len(address)]
        shown = mask(f"http://{address}")
        return (
            f"tracking.uri={beginning}{shown.removeprefix('http://')} has no scheme; did you mean "
            f"tracking.uri={shown}?"
        )
    if re.match(r"[\w.-]+:\d+(/|$)", uri):
        return f"tracking.uri={uri} has no scheme; did you mean tracking.uri=http://{uri}?"
    path = Path(uri.removeprefix("file://").removeprefix("file:") or ".").absolute()
    file = path if path.suffix in (".db", ".sqlite") else path / "mlflow.db"
    return (
        f"tracking.uri={uri}: MLflow no longer keeps runs as plain files; use a database, "
        f"tracking.uri=sqlite:///{file}"
    )


def sqlite_uri(file: Path) -> str:
    """The address of a SQLite file. What would mean something else in an address is escaped: a
    folder may be called my%20runs.
    """
    return "sqlite:///" + re.sub(
        r"%(?=[0-9A-Fa-f]{2})|\?", lambda match: f"%{ord(match[0]):02X}", str(file)
    )


def database_file(uri: str) -> Path:
    """The absolute path of the file that a sqlite:/// address means; SQLAlchemy reads escapes in it
    as a browser does.
    """
    path = unquote(uri.partition(":///")[2].partition("?")[0])
    if not path or path == ":memory:":
        raise TrackingError(
            f"tracking.uri={uri} names no file; write it as "
            "tracking.uri=sqlite:////absolute/path/mlflow.db"
        )
    return Path(path).expanduser().absolute()


def is_files(uri: str | None) -> bool:
    """Whether a tracking store is files of one machine, or a word that means such."""
    return uri is None or uri.lower().startswith(("sqlite:", "file:")) or ":" not in uri
