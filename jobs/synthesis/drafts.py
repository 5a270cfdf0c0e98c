"""A new row on its way: the seed that it comes from, what the teacher is asked, what it answers,
and what comes of it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from jobs.data.messages import Message
from jobs.data.readers import Row


@dataclass(frozen=True)
class Seed:
    """A training row that a new one is made from."""

    row: Row
    name: str
    """Source, file and line, the same wherever the files lie."""
    question: str
    """What the user asks at last, without the instruction."""
    answer: str
    label: str = ""
    """What its answer is counted as, nothing where answers are no labels."""


@dataclass(frozen=True)
class Passage:
    """A stretch of a document."""

    name: str
    """The document's file, and which of its passages it is."""
    text: str


@dataclass(frozen=True)
class Draft:
    """A new row that is to be written: what it starts from, fixed before any teacher is asked."""

    index: int
    seed: Seed | None = None
    passage: Passage | None = None
    examples: tuple[Seed, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """The seed row, or the passage, by name."""
        if self.seed is not None:
            return self.seed.name
        return "" if self.passage is None else self.passage.name


@dataclass(frozen=True)
class Ask:
    """One request to a teacher or a judge."""

    name: str
    """Draft and step, such as "17.0": one is answered once."""
    messages: tuple[Message, ...]
    row: Row | None = None
    """The row itself, for a judge that has to answer it."""

    @property
    def as_one(self) -> tuple[Message, ...]:
        """The same in one message of the user's: not every model takes a system message."""
        if self.messages[0]["role"] != "system" or len(self.messages) != 2:
            return self.messages
        system, text = (str(message["content"]) for message in self.messages)
        return ({"role": "user", "content": f"{system}\n\nText: {text}"},)

    def digest(self, teacher: str) -> str:
        """What the request is known by: a journal's reply to another one is not taken."""
        content = json.dumps([teacher, self.messages], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Reply:
    """What came back."""

    text: str
    finish: str = "stop"
    """Why the text ends: "stop", or "length" where the limit cut it."""
    input_tokens: int = 0
    output_tokens: int = 0
    counted: bool = True
    """Whether the server counted the tokens; else they are estimated by the characters."""
    seconds: float = 0.0
    error: str = ""
    """Why there is no text: the request failed for good. Such a reply is never kept."""


@dataclass(frozen=True)
class Candidate:
    """A row as the teacher wrote it, before any filter."""

    question: str
    answer: str
    passage: str = ""
    """What the answer must come from."""


@dataclass(frozen=True)
class Rejected:
    """Why there is no row."""

    reason: str
    """A word or two, by which rejected rows are counted."""
    detail: str = ""
    """What was there, for whoever looks."""


@dataclass
class Work:
    """A draft and how far it is."""

    draft: Draft
    replies: list[str] = field(default_factory=list)
    candidate: Candidate | None = None
    record: dict[str, Any] | None = None
    """The row as it will stand in the file."""
    row: Row | None = None
    """The row as it is read from there."""
    words: tuple[str, ...] = ()
    """What is compared with other rows."""
    scores: dict[str, float] = field(default_factory=dict)
    rejected: Rejected | None = None
    is_done: bool = False
