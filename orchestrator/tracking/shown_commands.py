"""The commands that are printed for someone to paste: quoted for the shell, readable by Hydra, each
naming its store and no secret.

Every message that tells a person to run something takes it from here.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from orchestrator.config import credentials
from orchestrator.job_environment import TYPED
from orchestrator.tracking.uri import resolve

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where a pod finds its namespace."""
SECRET_PARAMETERS = re.compile(rf"(^|&)({credentials.SECRET_NAME}|passfile)=[^&]*", re.IGNORECASE)


def programs_here() -> str:
    """The folder of this environment's programs, as typed from here; nothing where typing python
    starts this one anyway.
    """
    folder = os.path.dirname(sys.executable)
    python_on_path = shutil.which("python")
    if away() or (
        python_on_path is not None and os.path.dirname(os.path.abspath(python_on_path)) == folder
    ):
        return ""
    near = os.path.relpath(folder)
    return shlex.quote(folder if near.startswith("..") else near) + "/"


def away() -> bool:
    """Whether this process runs on a cluster, for someone who has sent the command and reads its
    words elsewhere.
    """
    return os.environ.get(TYPED) is not None


def orchestrator(arguments: Sequence[str], programs: str | None = None) -> str:
    """The main program with these settings. `programs` stands before "python"; None: as it is found
    from here.
    """
    return " ".join(
        [
            f"{programs_here() if programs is None else programs}python -m orchestrator",
            *map(quoted, arguments),
        ]
    )


def mlflow(uri: str, *arguments: str) -> str:
    """MLflow's own program, acting on the store at `uri` and no other."""
    reachable_uri, forward = reachable(uri)
    command = (
        f"MLFLOW_TRACKING_URI={shlex.quote(reachable_uri)} "
        f"{programs_here()}mlflow {shlex.join(arguments)}"
    )
    return after(forward, command) + needed(uri)


def mlflow_on_database(uri: str, *arguments: str) -> str:
    """MLflow's own program with a database as its last argument."""
    return f"{programs_here()}mlflow {shlex.join([*arguments, bare(uri)])}{needed(uri)}"


def ui(uri: str, programs: str | None = None) -> str:
    """Where a person looks at a store: a server's address, the command that serves a database."""
    if uri.startswith("http"):
        return reachable(uri)[0]
    return (
        f"{programs_here() if programs is None else programs}mlflow ui --backend-store-uri "
        f"{shlex.quote(bare(uri))}{needed(uri)}"
    )


def setup(model: Sequence[str]) -> str:
    """What puts a base model on this machine."""
    return orchestrator(["job=setup", *model])


def after(forward: str | None, command: str) -> str:
    """A command, behind another one that has to run meanwhile."""
    return command if forward is None else f"{command} (while this runs: {forward})"


def quoted(argument: str) -> str:
    """An argument as it is typed: of a setting only the value stands between quotes, where it needs
    them.
    """
    name, separator, value = argument.partition("=")
    if separator and re.fullmatch(r"(\+\+|\+|~)?[\w./@:-]+", name):
        return f"{name}={shlex.quote(value)}" if value else f"{name}="
    return shlex.quote(argument)


def setting(name: str, value: str) -> str:
    """A setting that holds a text, as an argument that is read back as this very text."""
    from orchestrator.config.compose import as_text

    bent = value[:1] in ('"', "'") or value == "null"
    return f"{name}={as_text(value) if bent else value}"


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """Arguments as they may be shown: in a secret's place stands the variable that it is read
    from.
    """
    return [credentials.printable(argument) for argument in arguments]


def bare(uri: str) -> str:
    """A store's address without its secrets, in the form that MLflow takes, a file by its whole
    path. User and password of a server are left out together: MLflow reads them from the
    environment.
    """
    scheme, separator, after_scheme = credentials.escaped(uri).partition("://")
    if not separator:
        return uri
    if scheme.startswith("sqlite"):
        return resolve(uri)
    authority, path = split_after_host(after_scheme)
    user, at, host = authority.rpartition("@")
    user_prefix = f"{user.partition(':')[0]}@" if at and not scheme.startswith("http") else ""
    if scheme in ("postgres", "postgresql"):
        scheme = "postgresql+psycopg"
    path, mark, query = path.partition("?")
    query = SECRET_PARAMETERS.sub("", query).lstrip("&")
    return f"{scheme}://{user_prefix}{host}{path}{mark if query else ''}{query}"


def split_after_host(after_scheme: str) -> tuple[str, str]:
    """Cut "user:password@host:port/path?query" behind its port. User and password are escaped."""
    authority = re.split(r"[/?#]", after_scheme, maxsplit=1)[0]
    return authority, after_scheme[len(authority) :]


def needed(uri: str) -> str:
    """How the secret that was left out of an address is given, in words behind a command; nothing
    where none was.
    """
    if uri.startswith("sqlite") or not has_secret(uri):
        return ""
    names = (
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        if uri.startswith("http")
        else "PGPASSWORD"
    )
    return f" (with {names} set in the environment)"


def needs(uri: str) -> str | None:
    """What has to be there before the commands that name a store can run where they are read; None
    where nothing has to.
    """
    _, forward = reachable(uri)
    secrets = needed(uri).strip(" ()").removeprefix("with ")
    needs_list = [
        *([f"while they run: {forward}"] if forward else []),
        *([secrets] if secrets else []),
    ]
    return "; ".join(needs_list) or None


def has_secret(uri: str) -> bool:
    """Whether an address holds a password or a token."""
    after_scheme = credentials.escaped(uri).partition("://")[2]
    user, at, _ = split_after_host(after_scheme)[0].rpartition("@")
    holds = bool(at) and (":" in user or uri.startswith("http"))
    return (
        holds
        or SECRET_PARAMETERS.search(uri.rpartition("?")[2]) is not None
        or credentials.mask(uri) != uri
    )


def reachable(uri: str) -> tuple[str, str | None]:
    """An address as it is reached from where the words are read, and what has to run there
    meanwhile; None where nothing has to.

    A Service of Kubernetes has a name in its cluster only: from outside a port of this machine is
    forwarded to it.
    """
    plain = bare(uri)
    service = service_of(plain) if away() and plain.startswith("http") else None
    if service is None:
        return plain, None
    url = urlsplit(plain)
    port = url.port or (443 if url.scheme == "https" else 80)
    local_port = port if port >= 1024 else 5000
    name, namespace = service
    forward = (
        f"kubectl --namespace {namespace} port-forward service/{name} "
        f"{local_port if local_port == port else f'{local_port}:{port}'}"
    )
    return urlunsplit(url._replace(netloc=f"localhost:{local_port}")), forward


def service_of(uri: str) -> tuple[str, str] | None:
    """Name and namespace of the Kubernetes Service that an address names, where this process runs
    in a pod or the name says so.
    """
    labels = (urlsplit(uri).hostname or "").split(".")
    if len(labels) >= 3 and labels[2] == "svc":
        return labels[0], labels[1]
    if (
        not os.environ.get("KUBERNETES_SERVICE_HOST")
        or labels[0] in ("localhost", "")
        or labels[0].isdigit()
    ):
        return None
    if len(labels) == 2:
        return labels[0], labels[1]
    if len(labels) == 1 and NAMESPACE_FILE.exists():
        return labels[0], NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    return None
