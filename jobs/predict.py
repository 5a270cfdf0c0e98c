"""One prompt, one answer, from a registered version's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from jobs.config import BaseModel
from jobs.data import Template, shorten
from jobs.evaluate import answer, out_of_memory
from jobs.model import pick_device, restore
from jobs.rows import prompt_messages


def predict(base: BaseModel, folder: Path, prompt: str) -> str:
    """The greedy answer to `prompt`, put and cut as the test rows were.

    Raises ValueError for a folder that cannot be loaded and MemoryError when the prompt does not fit into memory.
    """
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    template = Template(base.path)
    trained = folder / "adapter" if (folder / "adapter").exists() else folder / "model"
    try:
        model = restore(base, trained, torch.float32, pick_device())
    except Exception as error:  # peft and safetensors have many for a broken folder
        if out_of_memory(error):
            raise MemoryError(f"out of memory while loading {trained}; a smaller model, or a larger machine, helps") from error
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"cannot load {trained}: {type(error).__name__}: {reason}; fetch the version again") from error
    return answer(model, [encode_prompt(prompt, task, template)], template, task["max_new_tokens"], lambda rows: None)[0]


def encode_prompt(prompt: str, task: dict[str, Any], template: Template) -> list[int]:
    """Token ids of `prompt`, without its beginning where it is too long, as `encode_rows` leaves it out of a row with the longest answer.

    A job.max_new_tokens beyond the longest answer may take half of the room, no more.
    """
    ids = template.encode(template.render(prompt_messages(prompt, task["instruction"]), add_generation_prompt=True))
    limit = task["max_length"]
    room = limit - min(task["max_new_tokens"], limit // 2)
    return shorten(ids, room, template.encode(template.special_tokens.get("bos_token", "")), template)
