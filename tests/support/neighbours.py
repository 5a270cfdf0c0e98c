"""Rows of many answers, and trials that are shown neighbours."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from jobs.config import Neighbours, Trial


def many_answers(folder: Path, count: int = 60) -> Path:
    """A folder whose training rows have twenty answers, alike where the questions are."""
    folder.mkdir(exist_ok=True)
    lines = [
        {"prompt": f"{chr(97 + n % 20) * 2}{n} of {'xyz'[n % 3]}", "completion": f"L{n % 20}"}
        for n in range(count)
    ]
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def with_neighbours(trial: Trial, count: int, **changes: Any) -> Trial:
    """The trial with so many neighbours before each question."""
    neighbours = Neighbours(count=count, **changes)
    return dataclasses.replace(trial, data=dataclasses.replace(trial.data, neighbours=neighbours))
