"""The test split, answered as a Ray task."""

from __future__ import annotations

from pathlib import Path

from jobs.base_models import fetch
from jobs.config import BaseModel, Trial
from jobs.evaluation.scores import EvaluationSettings, TestScores
from jobs.files.checkpoints import fetched
from jobs.workers.coordinator import find_coordinator
from jobs.workers.messages import JudgingProgress

TOLD = 40
"""So often it is told how many of a model's rows are answered."""


def evaluate_on_test(
    sweep: str,
    trial: Trial,
    base: BaseModel,
    subjects: dict[str, tuple[str | None, EvaluationSettings]],
    sealed: bool = True,
) -> dict[str, TestScores]:
    """`evaluate.evaluate_on_test` as a Ray task, of each of the named folders (None: the base) by
    its rule, telling the coordinator how far it is. A `sealed` folder is checked before.
    """
    from jobs.evaluation import evaluate

    coordinator = find_coordinator(sweep)
    scores = {}
    for name, (folder, rule) in subjects.items():
        label = f"judging {name}"

        def tick(done: int, total: int, label: str = label) -> None:
            if done == total or done % max(total // TOLD, 1) == 0:
                coordinator.post.remote(JudgingProgress(label, done, total))

        trained = folder if folder is None or not sealed else str(checked(folder))
        at_hand = fetch.at_hand(base, trial.model)
        scores[name] = evaluate.evaluate_on_test(trial, at_hand, trained, rule, tick)
    return scores


def checked(folder: str) -> Path:
    """The local folder of an adapter or a model that lies in a sealed one. Raises Damaged when that
    is not what was sealed.
    """
    home, _, name = folder.rstrip("/").rpartition("/")
    return fetched(home) / name
