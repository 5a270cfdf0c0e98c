"""The file of all replies, by which a command goes on where it was interrupted: a line for each,
on disk before the next step is taken.

Rows are made from it again each time, by the same rules in the same order, so none is lost and none
comes twice, whenever the command was killed.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import IO

from jobs.files.sealed_json import sealed, unsealed
from jobs.synthesis.drafts import Ask, Reply


class Journal:
    """Replies by the name of what was asked. Without a file they are kept in memory alone."""

    def __init__(self, file: Path | None) -> None:
        """Read what is there. A last line that was torn by a kill is cut off."""
        self.file = file
        self.replies: dict[str, tuple[str, Reply]] = {}
        self.stream: IO[bytes] | None = None
        self.damaged = 0
        """Lines that could not be read."""
        if file is not None:
            self.read(file)

    def read(self, file: Path) -> None:
        """Take in the lines of an earlier command. One that a disk has changed is not believed: its
        request is made again.
        """
        content = file.read_bytes() if file.exists() else b""
        complete, _, torn = content.rpartition(b"\n")
        if torn:
            with file.open("r+b") as stream:
                stream.truncate(len(content) - len(torn))
                stream.flush()
                os.fsync(stream.fileno())
        for line in complete.split(b"\n") if complete else []:
            try:
                entry = unsealed(json.loads(line))
                reply = Reply(**entry["reply"])
                self.replies[entry["ask"]] = (entry["request"], reply)
            except (ValueError, KeyError, TypeError, AttributeError):
                self.damaged += 1

    def reply_to(self, ask: Ask, teacher: str) -> Reply | None:
        """The reply to this very request, where there is one."""
        entry = self.replies.get(ask.name)
        if entry is None or entry[0] != ask.digest(teacher):
            return None
        return entry[1]

    def keep(self, ask: Ask, teacher: str, reply: Reply) -> None:
        """Write a reply down, and come back when it is on disk."""
        request = ask.digest(teacher)
        self.replies[ask.name] = (request, reply)
        if self.file is None:
            return
        if self.stream is None:
            self.stream = self.file.open("ab")
        entry = {"ask": ask.name, "request": request, "reply": dataclasses.asdict(reply)}
        line = json.dumps(sealed(entry), ensure_ascii=False)
        self.stream.write(line.encode() + b"\n")
        self.stream.flush()
        os.fsync(self.stream.fileno())

    def close(self) -> None:
        """Close the file."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None


def write_lines(file: Path, records: list[dict[str, object]]) -> None:
    """Write a file of JSON lines whole or not at all, and have it on disk."""
    draft = file.with_name(f".{file.name}.draft")
    with draft.open("wb") as stream:
        for record in records:
            stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(draft, file)
