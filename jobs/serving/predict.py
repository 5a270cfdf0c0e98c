"""One question, one answer, from a registered version's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from jobs.config import BaseModel
from jobs.data.chat_template import TODAY, ChatTokenizer
from jobs.data.task_prompt import encode_asked_row, from_messages, from_prompt
from jobs.evaluation.generate import answer
from jobs.model.loading import pick_device, restore
from jobs.model.memory import out_of_memory


def predict(base: BaseModel, folder: Path, prompt: str | None, messages: str | None = None) -> str:
    """The greedy answer to `prompt`, or to a conversation as JSON, put and cut as the test rows
    were.

    Raises ValueError for what cannot be asked and for a folder that cannot be loaded, and
    MemoryError when it does not fit into memory.
    """
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    template = ChatTokenizer(base.path, task.get("today", TODAY))
    asked = (
        encode_prompt(prompt, task, template)
        if messages is None
        else encode_asked_row(from_messages(messages, task), task, template)
    )
    trained = folder / "adapter" if (folder / "adapter").exists() else folder / "model"
    try:
        model = restore(base, trained, torch.float32, pick_device())
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
    return answer(model, [asked], template, task["max_new_tokens"], lambda rows: None)[0]


def encode_prompt(prompt: str | None, task: dict[str, Any], template: ChatTokenizer) -> list[int]:
    """Token ids of `prompt`, with what all rows of the task have around it, cut as the test rows
    were.
    """
    return encode_asked_row(from_prompt(prompt or "", task), task, template)
