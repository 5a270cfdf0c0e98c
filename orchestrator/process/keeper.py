"""A small process beside a command that outlives it by a moment, however it ends, and removes what
it has left: processes, folders, locks.

Run by its path, without the project and without site-packages, so that it is there within
milliseconds:

    python -I -S keeper.py COMMAND_PID MARK

Its standard input is a pipe from the command, which says by lines of JSON what to remove:
{"folder": PATH}, or {"file": PATH, "text": ITS CONTENT}; which sessions to end: {"session": LEADER,
"since": ITS START}; and {"end": true} when it has done its work and waits for the rest to go. The
command's processes are known by MARK in their environment, by their session, and by the pipe. The
keeper holds what it inherits, such as the command's lock, to its own end: whoever gets the lock
finds nobody at work. Owns no policy: lifeline.py says when, and what.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

END = b'{"end": true}\n'
KILL_SECONDS = 10.0
POLL_SECONDS = 0.02


def main(arguments: list[str]) -> None:
    """Wait for the command's end, then clean up."""
    command = int(arguments[0])
    mark = arguments[1]
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, signal.SIG_IGN)
    entries = wait(command)
    end_all(
        command, mark, {entry["session"]: entry["since"] for entry in entries if "session" in entry}
    )
    for entry in entries:
        if "folder" in entry:
            shutil.rmtree(entry["folder"], ignore_errors=True)
        elif "file" in entry:
            remove_own(Path(entry["file"]), entry["text"])


def wait(command: int) -> list[dict[str, Any]]:
    """Until the command says that it ends, or is gone, though a process that it has forked may hold
    the pipe; returns what it has told.
    """
    received = b""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    with contextlib.suppress(OSError, AttributeError):
        poll.register(os.pidfd_open(command), select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll()]
        if 0 in ready:
            chunk = os.read(0, 65536)
            received += chunk
            if not chunk or received.endswith(END):
                break
        else:
            break
    entries = []
    for line in received.removesuffix(END).splitlines():
        with contextlib.suppress(ValueError):
            entries.append(json.loads(line))
    return entries


def end_all(command: int, mark: str, sessions: dict[int, int | None]) -> None:
    """Kill whatever the command has left running, and what is started meanwhile."""
    deadline = time.monotonic() + KILL_SECONDS
    while (left := left_behind(command, mark, sessions)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def left_behind(command: int, mark: str, sessions: dict[int, int | None]) -> list[int]:
    """The living processes that carry the mark, that belong to one of the sessions, each given with
    its leader's start, or that were forked from the command and hold its end of the pipe.
    """
    wanted = mark.encode()
    try:
        pipe = os.readlink("/proc/self/fd/0")
        names = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:  # a system without /proc, where Ray's own watching must do
        return []
    # A number whose leader is another process by now has become someone else's session.
    own_sessions = {
        leader for leader, since in sessions.items() if started_at(leader) in (since, None)
    }
    return [
        process
        for process in names
        if process not in (os.getpid(), command) and is_left(process, wanted, pipe, own_sessions)
    ]


def is_left(process: int, wanted: bytes, pipe: str, sessions: set[int]) -> bool:
    """Whether a process is one of the command's, and alive."""
    folder = f"/proc/{process}"
    try:
        facts = facts_of(process)
        if facts[0] in ("Z", "X") or os.stat(folder).st_uid != os.geteuid():
            return False
        if int(facts[3]) in sessions:
            return True
        with open(f"{folder}/environ", "rb") as stream:
            if wanted in stream.read().split(b"\0"):
                return True
        return any(
            os.readlink(f"{folder}/fd/{name}") == pipe for name in os.listdir(f"{folder}/fd")
        )
    except OSError:  # gone, or another user's
        return False


def facts_of(process: int) -> list[str]:
    """What /proc tells of a process: state, parent, group, session, ... Raises OSError when it is
    gone.
    """
    with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as stream:
        return stream.read().rpartition(")")[2].split()


def started_at(process: int) -> int | None:
    """When a process was started, in ticks since the machine was; None when it is not there."""
    try:
        return int(facts_of(process)[19])
    except OSError:
        return None


def remove_own(file: Path, text: str) -> None:
    """Remove a file, unless someone else has written it anew."""
    with contextlib.suppress(OSError):
        if file.read_text(encoding="utf-8") == text:
            file.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
