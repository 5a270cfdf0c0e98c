"""A teacher on this machine: a base model that answers greedily, many requests at once, through the
project's own generation.
"""

from __future__ import annotations

import queue
import time
import warnings
from pathlib import Path
from typing import Any

from jobs.config import BaseModel
from jobs.data.answer_text import answer_text
from jobs.data.chat_template import ChatTokenizer
from jobs.evaluation.generate import continue_all
from jobs.model.loading import load, pick_device, pick_dtype
from jobs.model.memory import out_of_memory
from jobs.synthesis.drafts import Ask, Reply
from jobs.synthesis_settings import Teacher

AT_ONCE = 16
"""Requests that are answered together; with so many the rows share every read of the weights."""


class LocalModel:
    """A model that answers what has been gathered when it is told to."""

    is_local = True

    def __init__(self, base: BaseModel, settings: Teacher, done: queue.Queue[Any]) -> None:
        self.base = base
        self.settings = settings
        self.done = done
        self.gathered: list[Ask] = []
        self.name = f"{base.name}@{base.revision[:12]}"
        self.loaded: tuple[Any, ChatTokenizer] | None = None

    @property
    def identity(self) -> str:
        """What decides its replies."""
        return f"{self.base.id}@{self.base.revision}/{self.settings.max_new_tokens}"

    def free(self) -> int:
        """How many more requests it takes before it answers."""
        return AT_ONCE - len(self.gathered)

    def submit(self, ask: Ask) -> None:
        """Gather a request."""
        self.gathered.append(ask)

    def received(self) -> None:
        """Called for each reply that was taken from the queue."""

    def figures(self) -> dict[str, int]:
        """There is no server to be told of."""
        return {}

    def close(self) -> None:
        """Let the weights go."""
        self.loaded = None

    def load(self) -> tuple[Any, ChatTokenizer]:
        """Model and template, loaded once. Raises ValueError for a model that cannot be loaded, and
        MemoryError when it does not fit.
        """
        if self.loaded is None:
            template = ChatTokenizer(self.base.path)
            device = pick_device()
            try:
                model = load(self.base.path, pick_dtype("auto", device), device)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                raise MemoryError(
                    f"out of memory while loading {self.base.name}; a smaller "
                    "synthesis.teacher.model helps"
                ) from error
            self.loaded = model, template
        return self.loaded

    def answer_gathered(self) -> None:
        """Answer what was gathered; the replies come into the queue."""
        if not self.gathered:
            return
        model, template = self.load()
        asks, self.gathered = self.gathered, []
        began = time.monotonic()
        prompts: list[list[int]] = []
        fitting: list[Ask] = []
        most = self.settings.max_new_tokens
        for ask in asks:
            try:
                ids = template.encode(rendered(template, ask))
            except ValueError as error:
                self.done.put((ask, Reply("", error=str(error))))
                continue
            if template.num_positions and len(ids) + most > template.num_positions:
                room = f"{len(ids):,} tokens and {most} for the answer, of {template.num_positions}"
                self.done.put((ask, Reply("", error=f"the request is too long: {room}")))
                continue
            prompts.append(ids)
            fitting.append(ask)
        if not fitting:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # transformers' own, of its next version
            answers = continue_all(model, prompts, template, most, lambda rows: None)
        seconds = (time.monotonic() - began) / len(fitting)
        for ask, ids, answer in zip(fitting, prompts, answers, strict=True):
            finish = "length" if len(answer) >= most else "stop"
            text = answer_text(template, answer)
            reply = Reply(text, finish, len(ids), len(answer), True, round(seconds, 3))
            self.done.put((ask, reply))


def rendered(template: ChatTokenizer, ask: Ask) -> str:
    """A request as the model reads it. Raises ValueError where its template refuses that."""
    try:
        return template.render(ask.messages, add_generation_prompt=True)
    except ValueError:
        return template.render(ask.as_one, add_generation_prompt=True)


class Student:
    """A registered version that has to answer a new row itself."""

    is_local = True

    def __init__(self, base: BaseModel, folder: Path, name: str, done: queue.Queue[Any]) -> None:
        self.base = base
        self.folder = folder
        self.name = name
        self.done = done
        self.gathered: list[Ask] = []
        self.loaded: Any = None

    @property
    def identity(self) -> str:
        """What decides its answers."""
        task = (self.folder / "task.json").read_text(encoding="utf-8")
        return f"{self.name}/{self.base.revision}/{task}"

    def free(self) -> int:
        """How many more rows it takes before it answers."""
        return AT_ONCE - len(self.gathered)

    def submit(self, ask: Ask) -> None:
        """Gather a row."""
        self.gathered.append(ask)

    def received(self) -> None:
        """Called for each reply that was taken from the queue."""

    def figures(self) -> dict[str, int]:
        """There is no server to be told of."""
        return {}

    def close(self) -> None:
        """Let the weights go."""
        self.loaded = None

    def answer_gathered(self) -> None:
        """Answer what was gathered; the answers come into the queue."""
        from jobs.serving.predict import LoadedVersion

        if not self.gathered:
            return
        if self.loaded is None:
            self.loaded = LoadedVersion(self.base, self.folder)
        asks, self.gathered = self.gathered, []
        for ask in asks:
            assert ask.row is not None
            began = time.monotonic()
            try:
                reply = Reply(self.loaded.answer(ask.row))
            except ValueError as error:
                reply = Reply("", error=str(error))
            seconds = round(time.monotonic() - began, 3)
            self.done.put((ask, Reply(reply.text, seconds=seconds, error=reply.error)))
