"""Answers from a registered version's folder, put and cut as the test rows were."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from jobs.config import BaseModel
from jobs.data.chat_template import TODAY, ChatTokenizer
from jobs.data.readers import Row
from jobs.data.task_prompt import AskedPrompt, encode_asked_row, from_messages, from_prompt
from jobs.data.version_rows import rows_of_version
from jobs.evaluation.generate import answer
from jobs.model.loading import pick_device, restore
from jobs.model.memory import out_of_memory

LOG = logging.getLogger(__name__)


def log_cut(asked: AskedPrompt) -> None:
    """Log a warning for a prompt that is cut."""
    if asked.cut_note is not None:
        LOG.warning("%s", asked.cut_note)


class LoadedVersion:
    """A version's model in memory, ready to answer."""

    def __init__(self, base: BaseModel, folder: Path) -> None:
        """Load what was trained onto its base. Raises ValueError for a folder that cannot be
        loaded, and MemoryError when it does not fit into memory.
        """
        self.task: dict[str, Any] = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        self.template = ChatTokenizer(base.path, self.task.get("today", TODAY))
        self.rows = rows_of_version(folder, self.task)
        trained = folder / "adapter" if (folder / "adapter").exists() else folder / "model"
        try:
            self.model = restore(base, trained, torch.float32, pick_device())
        except Exception as error:  # peft and safetensors have many for a broken folder
            if out_of_memory(error):
                raise MemoryError(
                    f"out of memory while loading {trained}; a smaller model, or a larger machine, "
                    "helps"
                ) from error
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"cannot load {trained}: {type(error).__name__}: {reason}; fetch the version again"
            ) from error

    def answer(
        self,
        row: Row,
        max_new_tokens: int | None = None,
        tell: Callable[[AskedPrompt], None] = log_cut,
    ) -> str:
        """The greedy answer to a row, which is shown its neighbours where the version was trained
        with them; `tell` learns what is asked. Raises ValueError for what the template or the model
        does not know.
        """
        most = self.task["max_new_tokens"]
        limit = min(max_new_tokens or most, most)
        shown = row if self.rows is None else self.rows.shown(row)
        asked = encode_asked_row(shown, self.task, self.template)
        tell(asked)
        return answer(self.model, [asked.ids], self.template, limit, lambda rows: None)[0]


def predict(
    base: BaseModel,
    folder: Path,
    prompt: str | None,
    messages: str | None = None,
    tell: Callable[[AskedPrompt], None] = log_cut,
) -> str:
    """The greedy answer to `prompt`, or to a conversation as JSON; `tell` learns what is asked.

    Raises ValueError for what cannot be asked and for a folder that cannot be loaded, and
    MemoryError when it does not fit into memory.
    """
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    row = from_prompt(prompt or "", task) if messages is None else from_messages(messages, task)
    encode_asked_row(row, task, ChatTokenizer(base.path, task.get("today", TODAY)))
    return LoadedVersion(base, folder).answer(row, tell=tell)


def encode_prompt(prompt: str | None, task: dict[str, Any], template: ChatTokenizer) -> list[int]:
    """Token ids of `prompt`, with what all rows of the task have around it, cut as the test rows
    were.
    """
    return encode_asked_row(from_prompt(prompt or "", task), task, template).ids
