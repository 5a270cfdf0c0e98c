"""What a command starts and leaves on this machine ends with it, also when it is killed: a keeper
(keeper.py) stands beside it.

Every process that is started while the lifeline is open inherits a mark in its environment, and a
folder of this command alone for its temporary files. The keeper has no part in the command's
process group: what ends the group does not end it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.process.keeper import started_at

MARK = "ORCHESTRATOR_COMMAND"
"""Environment variable that all processes of a command carry."""
END_SECONDS = 20.0


class Lifeline:
    """The command's end of the pipe to its keeper."""

    def __init__(self, inherited: int | None = None) -> None:
        self.mark = f"{MARK}={uuid.uuid4().hex}"
        line = [
            sys.executable,
            "-I",
            "-S",
            str(Path(__file__).with_name("keeper.py")),
            str(os.getpid()),
            self.mark,
        ]
        inherited_descriptors = () if inherited is None else (inherited,)
        self.keeper = subprocess.Popen(
            line,
            stdin=subprocess.PIPE,
            pass_fds=inherited_descriptors,
            start_new_session=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
        )

    def remove_folder(self, folder: Path) -> None:
        """Have a folder removed at the end."""
        self._tell({"folder": str(folder)})

    def remove_file(self, file: Path, text: str) -> None:
        """Have a file removed at the end if it still holds `text`."""
        self._tell({"file": str(file), "text": text})

    def end_session(self, leader: int) -> None:
        """Have all processes of a session ended: some overwrite their environment with their title,
        the mark in it too.
        """
        self._tell({"session": leader, "since": started_at(leader)})

    def last_words(self, text: str | None) -> None:
        """Have a line said on stderr if the command is gone without saying that it ends; None from
        when on there is nothing to say.
        """
        self._tell({"last_words": text})

    def _tell(self, entry: dict[str, Any]) -> None:
        assert self.keeper.stdin is not None
        with contextlib.suppress(
            OSError
        ):  # someone has killed the keeper; the next start cleans up
            self.keeper.stdin.write(json.dumps(entry).encode() + b"\n")
            self.keeper.stdin.flush()

    def close(self) -> None:
        """Have everything ended and removed, and wait until it is."""
        assert self.keeper.stdin is not None
        self._tell({"end": True})
        with contextlib.suppress(OSError):
            self.keeper.stdin.close()
        try:
            self.keeper.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.keeper.kill()
            self.keeper.wait()


current: Lifeline | None = None
"""This process's, while it has one."""


@contextmanager
def opened(inherited: int | None = None) -> Iterator[Lifeline]:
    """A lifeline for as long as the command works. `inherited` is a descriptor that the keeper
    holds too, to its own end.
    """
    global current
    line = Lifeline(inherited)
    name, _, value = line.mark.partition("=")
    before = current
    current = line
    with environment(name, value):
        try:
            yield line
        finally:
            current = before
            line.close()


def remove_at_end(folder: Path) -> None:
    """Have a folder removed at the command's end, whatever that is."""
    if current is not None:
        current.remove_folder(folder)


def end_session(leader: int) -> None:
    """Have all processes of the session that a process leads ended at the command's end, whatever
    that is.
    """
    if current is not None:
        current.end_session(leader)


@contextmanager
def last_words(text: str) -> Iterator[None]:
    """Have a line said on stderr if this process is gone within: Ray ends it where it stands when
    its daemons vanish while it connects.
    """
    if current is None:
        yield
        return
    current.last_words(text)
    try:
        yield
    finally:
        current.last_words(None)


def forget_last_words() -> None:
    """Leave it to this process to say why it ends."""
    if current is not None:
        current.last_words(None)


@contextmanager
def temporary_files() -> Iterator[None]:
    """Let this process, and those that are started meanwhile, keep temporary files in a folder that
    only this user may enter and that is gone at the command's end: a killed process removes none of
    its own.
    """
    folder = tempfile.mkdtemp(prefix="sweep-")
    remove_at_end(Path(folder))
    before = tempfile.tempdir
    tempfile.tempdir = folder
    with environment("TMPDIR", folder):
        try:
            yield
        finally:
            tempfile.tempdir = before
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """An environment variable for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
