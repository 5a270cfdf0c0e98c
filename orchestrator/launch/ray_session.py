"""The session of a private Ray: a folder that only its user can open, a token that only its
processes know, addresses on loopback alone.

Ray's own defaults are made for clusters: its daemons listen on every address of the machine, its
job agent on a fixed port of the outside one, and a session's logs can be read by every user and
stay for ever.
"""

from __future__ import annotations

import fcntl
import functools
import os
import secrets
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from orchestrator.errors import InputError
from orchestrator.launch.ray_settings import unnamed
from orchestrator.process import lifeline

PREFIX = "orchestrator-ray-"
"""How the folders of sessions begin."""
LONGEST_PLACE = (
    107
    - len("/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store")
    - len(f"/{PREFIX}12345678/r")
)
"""Bytes of a folder below which Ray's Unix sockets still have an address: the system allows 107 for
the whole path.
"""
PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  # a folder of its own in them, mode 0700
"""Where a session goes whose user has named a temporary folder with a path that is too long."""
YOUNG_SECONDS = 60.0
"""A folder without a lock that is younger than this belongs to a process that is about to lock
it.
"""
MISLEADING = (
    "RAY_ADDRESS",
    "RAY_AUTH_TOKEN",
    "RAY_GCS_SERVER_PORT",
    "RAY_REDIS_ADDRESS",
    "RAY_RUNTIME_ENV_HOOK",
)
"""Variables of another Ray that this user works with: its token, and where it is."""
LOOPBACK = "127.0.0.1"


@contextmanager
def private() -> Iterator[Path]:
    """Yield the temporary folder of a private Ray, with this process's environment set for it, and
    remove both at the end.

    Raises InputError when there is no place for it. What a process that was killed has left is
    removed by the next one.
    """
    parent = choose_place()
    for earlier_parent in {parent, *PLACES}:
        remove_stale(Path(earlier_parent))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    lifeline.remove_at_end(folder)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    session_variables = environment(folder / "token")
    before = {name: os.environ.get(name) for name in (*session_variables, *MISLEADING)}
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(
            os.open(folder / "token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w"
        ) as stream:
            stream.write(secrets.token_hex(32))
        set_environment(dict.fromkeys(MISLEADING) | session_variables)
        yield folder / "r"
    finally:
        set_environment(before)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def set_environment(values: dict[str, str | None]) -> None:
    """Set variables of this process, take away those that are None, and let Ray's library read its
    settings and the token anew: it keeps what it has once read.
    """
    from ray._raylet import AuthenticationTokenLoader, Config  # pyright: ignore[reportAttributeAccessIssue]

    for name, value in values.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def environment(token: Path) -> dict[str, str | None]:
    """What a private Ray's processes find in their environment: where the token lies, and that all
    of it stays on this machine.
    """
    interface = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), "lo")
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        # Without "clusters", as Ray calls it on Windows and macOS, it takes the loopback address
        # for the machine's.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Between the workers of one job.
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
    }


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let a Ray that starts meanwhile listen on loopback alone, on free ports, and have no agent
    that takes jobs from others.

    The agent then stays without servers of its own, as in an installation that lacks the dashboard;
    the one for runtime environments asks for the token.
    """
    from ray._private import parameter, ray_constants, utils

    changes: list[tuple[Any, str, Any]] = [
        (
            ray_constants,
            "ENABLE_RAY_CLUSTER",
            False,
        ),  # was read when Ray was imported, perhaps before the variable was set
        (
            utils,
            "get_dashboard_dependency_error",
            lambda: ImportError("no dashboard in a private Ray"),
        ),
        (
            parameter,
            "RayParams",
            functools.partial(parameter.RayParams, dashboard_agent_listen_port=0),
        ),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        with unnamed():
            yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def choose_place() -> str:
    """The folder in which the session's folder is made. Raises InputError when none has a path
    short enough for Ray's sockets.
    """
    wanted = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    for parent in (os.path.abspath(wanted), *PLACES):
        if (
            len(os.fsencode(parent)) <= LONGEST_PLACE
            and os.path.isdir(parent)
            and os.access(parent, os.W_OK | os.X_OK)
        ):
            return parent
    size = len(os.fsencode(os.path.abspath(wanted)))
    raise InputError(
        f"TMPDIR={wanted} has a path of {size} bytes, and Ray's sockets need one of at most "
        f"{LONGEST_PLACE}, "
        f"which {', '.join(PLACES)} cannot offer here; set TMPDIR to a folder with a shorter path "
        "that this user may write"
    )


def remove_stale(parent: Path) -> None:
    """Remove the folders of sessions whose process is no more."""
    try:
        session_folders = [folder for folder in parent.iterdir() if folder.name.startswith(PREFIX)]
    except OSError:
        return
    for folder in session_folders:
        with suppress(OSError):
            about = folder.lstat()
            mine = stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid()
            if mine and is_abandoned(folder, about.st_mtime):
                shutil.rmtree(folder, ignore_errors=True)


def is_abandoned(folder: Path, changed: float) -> bool:
    """Whether nobody holds the lock of a session's folder. Raises OSError when that cannot be
    told.
    """
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except FileNotFoundError:
        return time.time() - changed > YOUNG_SECONDS
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
