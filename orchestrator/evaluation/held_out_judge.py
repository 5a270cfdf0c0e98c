"""Scoring models on the test split, on Ray: the winner, the base, a champion of earlier."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.exceptions import RayError

from jobs.config import BaseModel, Trial
from jobs.data.tokenization import RENDERING
from jobs.evaluation.scores import EvaluationSettings, TestScores
from jobs.files.manifest import Damaged
from jobs.workers.evaluation_task import evaluate_on_test
from jobs.workers.reporting import reason
from orchestrator.errors import OrchestratorError
from orchestrator.evaluation import verdict
from orchestrator.evaluation.interfaces import JudgedCommand
from orchestrator.output.progress import ProgressDisplay
from orchestrator.plan.task import digest
from orchestrator.storage.json_files import read_object, write_json
from orchestrator.storage.paths import storage_folder

if TYPE_CHECKING:
    from orchestrator.sweep.state import SweepState

POLL_SECONDS = 0.5
WITH_EXAMPLES = "base with examples"


class HeldOutJudge:
    """Scores models on the test rows of a sweep, all by the same rule."""

    def __init__(
        self,
        command: JudgedCommand,
        board: SweepState,
        screen: ProgressDisplay,
        drain: Callable[[], None],
    ) -> None:
        self.drain = drain
        self.command, self.board, self.screen = command, board, screen
        self.config, self.plan = command.config, command.plan
        self.base: BaseModel = command.base
        self.digest = self.plan.digests["test"]
        self.train_digest = digest(json.dumps(self.plan.digests, sort_keys=True))
        """Of all rows: which labels are found in training decides some metrics."""

    def judge(
        self,
        folders: dict[str, str | None],
        trial: Trial,
        base: BaseModel | None = None,
        version: Path | None = None,
    ) -> dict[str, TestScores]:
        """Score models on the test split, at the same time; the base's scores are remembered for
        other sweeps. A registered `version` is asked as it was trained, with its own neighbours or
        with none.
        """
        sealed = base is None  # a checkpoint of this sweep; a champion's files are checked already
        base = base if base is not None else self.base
        memo = storage_folder(self.config.storage) / "base-scores.json"
        known = read_object(memo)
        keys = {
            name: f"{base.revision} {self.digest} {asdict(self.rule(0, name))} "
            f"{trial.train.max_length} {RENDERING} {self.train_digest} {trial.data.slices}"
            f"{verdict.shown_key(trial, name == WITH_EXAMPLES)}"
            for name, folder in folders.items()
            if folder is None
        }
        remembered = {name: verdict.recall(known.get(key)) for name, key in keys.items()}
        found = {name: scores for name, scores in remembered.items() if scores is not None}
        todo = {name: folder for name, folder in folders.items() if name not in found}
        self.screen.judging(list(todo), self.plan.num_test)
        groups = self.plan.resources.groups(list(todo))
        share, gpus = self.plan.resources.share(max(len(groups), 1))
        task = ray.remote(evaluate_on_test).options(num_cpus=share, num_gpus=gpus, max_retries=2)
        waiting = []
        for names in groups:
            subjects = {name: (todo[name], self.rule(share, name, version)) for name in names}
            waiting.append(task.remote(*[self.plan.name, trial, base, subjects, sealed]))
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=POLL_SECONDS)
            self.drain()
            for reference in ready:
                found |= self.collect(reference)
        if keys:
            write_json(memo, known | {key: asdict(found[name]) for name, key in keys.items()})
        return found

    def collect(self, reference: ray.ObjectRef) -> dict[str, TestScores]:
        """The answers of a judging task. Raises Damaged for a checkpoint that cannot be used, else
        OrchestratorError with its cause.
        """
        try:
            return ray.get(reference)
        except RayError as error:
            if isinstance(getattr(error, "cause", None), Damaged):
                raise error.cause from error  # type: ignore[attr-defined]
            raise OrchestratorError(
                f"judging failed: {reason(error)}; what is trained is kept, and the same command "
                "continues"
            ) from error

    def rule(self, threads: int, name: str = "", version: Path | None = None) -> EvaluationSettings:
        """How every model is judged."""
        job = self.config.job
        return EvaluationSettings(
            confidence=job.confidence,
            max_new_tokens=self.plan.max_new_tokens,
            num_threads=threads,
            scoring=self.board.scoring,
            num_examples=job.examples if name == WITH_EXAMPLES else 0,
            version=None if version is None else str(version),
        )
