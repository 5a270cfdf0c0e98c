"""A registered version of the untouched base model, and the trial that it is of."""

from __future__ import annotations

import json
from pathlib import Path

from jobs.config import BaseModel, Data, Source, Train, Trial
from jobs.evaluation.evaluate import evaluate_on_test
from jobs.evaluation.scores import EvaluationSettings
from jobs.export.model_folder import export
from tests.support.trials import tiny_trial


def long_prompts(folder: Path) -> Trial:
    """A trial on rows of which most have a longer prompt than fits beside the answer."""
    file = folder / "train.jsonl"
    lines = [
        {"prompt": f"{chr(97 + i % 26) * (3 * i)} and {i}?", "completion": "ABC"[i % 3]}
        for i in range(40)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    data = Data(name="toy", sources={"train": Source(path=str(file))}, instruction="Which letter?")
    return tiny_trial(data, Train(max_length=64))


def untouched_version(trial: Trial, base: BaseModel, folder: Path) -> Path:
    """A version that holds the untouched weights."""
    export(
        trial,
        base,
        Path(base.path),
        evaluate_on_test(trial, base, None, EvaluationSettings(0.95, 2, 1)),
        folder,
    )
    return folder
