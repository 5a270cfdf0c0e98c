"""One prompt, one answer, from a registered version's folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from jobs.config import BaseModel
from jobs.data import Template
from jobs.evaluate import greedy
from jobs.model import pick_device, restore
from jobs.rows import prompt_messages


def predict(base: BaseModel, folder: Path, prompt: str) -> str:
    """The greedy answer to `prompt`, put as the training rows were. Raises ValueError for a folder that cannot be loaded."""
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    template = Template(base.path)
    text = template.render(prompt_messages(prompt, task["instruction"]), add_generation_prompt=True)
    trained = folder / "adapter" if (folder / "adapter").exists() else folder / "model"
    model = restore(base, trained, torch.float32, pick_device())
    inputs = torch.tensor([template.encode(text)], device=next(model.parameters()).device)
    return template.decode(greedy(model, inputs, template.eos_ids, task["max_new_tokens"])[0]).strip()
