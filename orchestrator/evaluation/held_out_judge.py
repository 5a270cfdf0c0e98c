"""Scoring models on the test split, on Ray: the winner, the base, a champion of earlier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.exceptions import RayError

from jobs.base_models.hf_folder import num_weights
from jobs.config import BaseModel, Trial
from jobs.data.corpus import load_corpus
from jobs.evaluation.metric_choice import context_of
from jobs.evaluation.scored_rows import MetricContext
from jobs.evaluation.scores import EvaluationSettings, TestScores
from jobs.files.manifest import Damaged
from jobs.machine.memory import available_bytes
from jobs.workers.evaluation_task import evaluate_on_test
from jobs.workers.reporting import reason
from orchestrator.errors import OrchestratorError
from orchestrator.evaluation.base_scores import BaseScores, key_of
from orchestrator.evaluation.interfaces import JudgedCommand
from orchestrator.output.progress import ProgressDisplay
from orchestrator.process.stall import StallWatch
from orchestrator.storage.paths import storage_folder

if TYPE_CHECKING:
    from orchestrator.sweep.state import SweepState

POLL_SECONDS = 0.5
WORTH_SECONDS = 60.0
"""From so much work on a second process is worth its start, which takes some seven seconds."""
PROCESS_BYTES = 2 * 10**9
"""What judging takes of memory beside the base."""
BASE_COPIES = 2
"""With one laid out as the processor reads it."""
FLOAT32_BYTES = 4
MOST_OF_MEMORY = 0.5
"""Share of what is available that those who judge may take."""
BASE = "base"
WITH_EXAMPLES = "base with examples"


class HeldOutJudge:
    """Scores models on the test rows of a sweep, all by the same rule."""

    def __init__(
        self,
        command: JudgedCommand,
        sweep_state: SweepState,
        screen: ProgressDisplay,
        drain: Callable[[], None],
    ) -> None:
        self.drain = drain
        self.command, self.sweep_state, self.screen = command, sweep_state, screen
        self.config, self.plan = command.config, command.plan
        self.base: BaseModel = command.base
        self.digest = self.plan.digests["test"]

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
        memo = BaseScores(storage_folder(self.config.storage), self.plan.name)
        keys = self.keys_of([name for name, folder in folders.items() if folder is None], trial)
        scores = memo.recall(keys)
        remembered = set(scores)
        todo = {name: folder for name, folder in folders.items() if name not in scores}
        seconds = {name: self.seconds(name) for name in todo}
        self.screen.judging(seconds, self.plan.num_test)
        groups = self.plan.resources.groups(seconds, self.processes(base, sum(seconds.values())))
        share, gpus = self.plan.resources.share(max(len(groups), 1))
        task = ray.remote(evaluate_on_test).options(num_cpus=share, num_gpus=gpus, max_retries=2)
        waiting = []
        for names in groups:
            subjects = {name: (todo[name], self.rule(share, name, version)) for name in names}
            waiting.append(task.remote(*[self.plan.name, trial, base, subjects, sealed]))
        scores |= self.awaited(waiting)
        if not keys.keys() <= remembered:
            memo.keep({key: scores[name] for name, key in keys.items()})
        return scores

    def processes(self, base: BaseModel, seconds: float) -> int:
        """How many processes may judge at once on one processor, for so many seconds of work. Two
        of one thread answer a fifth more rows than one of two; each imports the libraries and
        loads the base.
        """
        if seconds < WORTH_SECONDS or not self.config.runs_here:
            return 1
        each = PROCESS_BYTES + BASE_COPIES * FLOAT32_BYTES * num_weights(Path(base.path))
        return max(1, int(MOST_OF_MEMORY * available_bytes() / each))

    def awaited(self, waiting: list[ray.ObjectRef]) -> dict[str, TestScores]:
        """The answers of judging tasks. Raises OrchestratorError, too, where none goes on."""
        scores: dict[str, TestScores] = {}
        watch = StallWatch(self.plan.num_test)
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=POLL_SECONDS)
            self.drain()
            for reference in ready:
                scores |= self.collect(reference)
            stalled = watch.why_over((len(waiting), dict(self.screen.furthest)))
            if waiting and stalled is not None:
                for reference in waiting:
                    ray.cancel(reference, force=True)
                raise OrchestratorError(
                    f"judging has made {stalled}. What is trained is kept, and the same command "
                    "continues"
                )
        return scores

    def seconds(self, name: str) -> float:
        """What a model's answers to the test rows take, by the plan."""
        estimate = self.plan.estimate
        if estimate is None or estimate.test_answers is None:
            return 1.0
        if name == WITH_EXAMPLES:
            return estimate.test_answers.with_examples
        return estimate.test_answers.base if name == BASE else estimate.test_answers.trained

    def keys_of(self, names: list[str], trial: Trial) -> dict[str, str]:
        """What the scores of untouched bases are remembered under."""
        if not names:
            return {}
        corpus, on_gpu = load_corpus(trial.data), self.plan.resources.num_gpus > 0
        return {
            name: key_of(self.base, trial, self.rule(0, name), corpus, on_gpu) for name in names
        }

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

    def context(self, trial: Trial) -> MetricContext:
        """What answers are scored by that is of the data."""
        return context_of(load_corpus(trial.data), self.sweep_state.scoring)

    def rule(self, threads: int, name: str = "", version: Path | None = None) -> EvaluationSettings:
        """How every model is judged."""
        job = self.config.job
        return EvaluationSettings(
            confidence=job.confidence,
            max_new_tokens=self.plan.max_new_tokens,
            num_threads=threads,
            scoring=self.sweep_state.scoring,
            num_examples=job.examples if name == WITH_EXAMPLES else 0,
            version=None if version is None else str(version),
        )
