"""Mixtures of experts, scored as a Ray task."""

from __future__ import annotations

import dataclasses

from jobs.base_models import fetch
from jobs.config import BaseModel, Scoring, Trial
from jobs.files.checkpoints import fetched
from jobs.workers.coordinator import find_coordinator
from jobs.workers.messages import JudgingProgress

LABEL = "scoring mixtures"


@dataclasses.dataclass(frozen=True)
class MixtureTask:
    """What the task needs to know."""

    sweep: str
    trial: Trial
    """Any expert's."""
    base: BaseModel
    scoring: Scoring
    experts: dict[str, str]
    """The sealed folder, or its URI, of each source's expert."""
    shares: list[dict[str, float]]
    """Of each mixture, by source."""
    at_once: int
    packed: bool
    num_threads: int


def score(task: MixtureTask) -> list[dict[str, float]]:
    """The metrics of each mixture on the validation rows, telling the coordinator how far it is."""
    import torch

    from jobs.pack.mixtures import Mixtures, score_mixtures

    torch.set_num_threads(max(1, task.num_threads))
    coordinator = find_coordinator(task.sweep)
    folders = {name: str(fetched(place)) for name, place in task.experts.items()}

    def tick(done: int, total: int) -> None:
        coordinator.post.remote(JudgingProgress(LABEL, done, total))

    return score_mixtures(
        fetch.at_hand(task.base, task.trial.model),
        task.trial,
        Mixtures(folders, task.shares, task.at_once),
        task.scoring,
        task.packed,
        tick,
    )
