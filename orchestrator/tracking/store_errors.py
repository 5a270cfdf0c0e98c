"""What an error of a tracking store means, and what to do about it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.config.credentials import mask

MOVE_AWAY = "move it away: the same command writes its sweep anew, from its journal"
NEWER = r"Can't locate revision|newer MLflow"
ELSEWHERE = (
    "choose another one, tracking.uri=sqlite:///FILE; or let that MLflow serve it, mlflow server "
    "--backend-store-uri ..., and name "
    "its server: tracking.uri=http://HOST:5000"
)


# Text in an error, what it means, what to do. The first that matches counts, so the specific ones
# come first.
MEANINGS = (
    (
        "Invalid Host header",
        "the server refuses this host name",
        "start it with --allowed-hosts {host}",
    ),
    ("Connection refused", "nothing listens there", "start the server or correct tracking.uri=..."),
    (
        "Failed to resolve|Name or service not known|could not translate host|failed to resolve "
        "host",
        "no such host",
        "correct tracking.uri=...",
    ),
    (
        "No route to host|Network is unreachable",
        "there is no route to this host",
        "correct tracking.uri=... or join its network",
    ),
    (
        "WRONG_VERSION_NUMBER|wrong version number",
        "the server does not speak https",
        "use tracking.uri=http://...",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "its certificate is not trusted",
        "set MLFLOW_TRACKING_SERVER_CERT_PATH=FILE",
    ),
    (
        "RemoteDisconnected|Connection reset|Connection aborted|closed the connection",
        "the connection broke",
        "look at the server's log",
    ),
    ("timed out|timeout", "no answer in time", "check the server or correct tracking.uri=..."),
    (
        "password authentication failed|no password supplied",
        "the database refuses this user or password",
        "correct tracking.uri=...",
    ),
    (
        'database ".*" does not exist',
        "there is no such database",
        "create it (createdb) or correct tracking.uri=...",
    ),
    (
        r"(table|index) \S+ already exists|duplicate column name",
        "its tables were left half made",
        MOVE_AWAY,
    ),
    ("disk image is malformed|file is not a database", "the file is damaged", MOVE_AWAY),
    (NEWER, "the database was made by a newer MLflow than the one here", ELSEWHERE),
    (
        "out-of-date database schema",
        "the database was made by an older MLflow version",
        "run: {upgrade}",
    ),
    ("No space left|disk is full", "the disk is full", "free some space"),
)


MACHINE = re.compile(
    r"No space left|disk is full|readonly database|[Rr]ead-only file system|disk I/O error|"
    r"unable to open database|database is locked"
)
"""What a store's machine says when it cannot write, whatever it is told."""


def is_of_the_machine(text: str) -> bool:
    """Whether an error is the fault of the store's machine, which may take the same later."""
    return MACHINE.search(text) is not None


def explain(uri: str, text: str) -> str:
    """One line that says what an error's `text` means for the address and what to do."""
    from orchestrator.tracking import shown_commands

    host = urlsplit(uri).netloc.rpartition("@")[2]
    text = "newer MLflow" if is_of_the_future(text) else text
    for pattern, meaning, remedy in MEANINGS:
        if re.search(pattern, text):
            upgrade = shown_commands.mlflow_on_database(uri, "db", "upgrade")
            return (
                f"tracking.uri={mask(uri)}: {meaning}; {remedy.format(host=host, upgrade=upgrade)}"
            )
    first = mask(text).strip().splitlines()[0] if text.strip() else "failed without a reason"
    return f"tracking.uri={mask(uri)}: {first[:300]}"


def is_of_the_future(text: str) -> bool:
    """Whether MLflow complains of a database whose schema it has never heard of: upgrading it here
    is not possible.
    """
    match = re.search(r"out-of-date database schema \(found version (\w+)", text)
    spec = importlib.util.find_spec("mlflow")
    if match is None or spec is None or spec.origin is None:
        return False
    return not any(Path(spec.origin).parent.glob(f"store/db_migrations/versions/{match[1]}_*.py"))


def judge_answer(uri: str, status: int, body: str) -> str | None:
    """What is wrong with a server that answered a search for experiments with `status` and `body`;
    None when it is MLflow.
    """
    where = f"tracking.uri={mask(uri)}"
    if "Invalid Host header" in body:
        return explain(uri, body)
    if status in (401, 403):
        return (
            f"{where}: access denied ({status}); set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if status == 429 or status >= 500:
        return f"{where}: the server answers, but with an error ({status}); look at its log"
    if status != 200 or not body.lstrip().startswith("{"):
        return (
            f"{where}: a server answers there ({status}), but it is not MLflow; correct "
            "tracking.uri=..."
        )
    return None
