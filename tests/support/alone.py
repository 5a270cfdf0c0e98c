"""The trials of a sweep, each trained by itself in this process: what they must score wherever else
they are trained.
"""

from __future__ import annotations

from pathlib import Path

import torch

from jobs.config import BaseModel
from jobs.evaluation import registry
from jobs.files.manifest import Snapshot
from jobs.training.finetune import Hooks, finetune
from orchestrator.config.compose import compose
from orchestrator.config.validation import trial_of
from orchestrator.plan.planner import as_grid, count_trials
from orchestrator.plan.points import Points
from tests.support.settings import build

Scores = dict[tuple[int, int], float]
"""Validation loss by trial and step."""


def scores_alone(toy: Path, base: BaseModel, *arguments: str) -> Scores:
    """The scores of a sweep's trials on one core, of the tiny model on the toy data."""
    typed = ("model=tiny", "data=files", f"data.folder={toy}", "train.max_length=128", *arguments)
    config = build(compose([*typed], None))
    points = Points(as_grid(config).sweep.space, config.seed)
    scores: Scores = {}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for index in range(1, count_trials(config) + 1):

            def rung(metrics: dict[str, float], save: Snapshot, trial: int = index) -> None:
                scores[trial, int(metrics["step"])] = metrics[registry.VALID_LOSS]

            finetune(trial_of(config, index, points[index]), base, Hooks(rung))
    finally:
        torch.set_num_threads(before)
    return scores
