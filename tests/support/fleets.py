"""Rows and command lines of small fleets."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = ("alpha", "beta", "gamma")


def write_task(folder: Path, shift: int, rows: int = 240, ending: str = "") -> Path:
    """A folder of rows whose answer is a letter for the first word of the prompt, another letter
    for each `shift`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "prompt": f"{WORDS[(7 * i) % 3]} {i}{ending}",
            "completion": "ABC"[(7 * i + shift) % 3],
        }
        for i in range(rows)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
    return folder


def as_setting(tasks: dict[str, dict[str, object]]) -> str:
    """Tasks as they are typed."""
    return f"data.tasks={typed(tasks)}"


def typed(value: object) -> str:
    """A value in Hydra's grammar, whose keys have no quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {typed(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)
