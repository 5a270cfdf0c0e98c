"""What the parts of the final evaluation need of each other, and of the command that runs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from jobs.config import BaseModel, Trial
from jobs.evaluation.scores import TestScores
from orchestrator.config.settings import Config
from orchestrator.evaluation.baseline_process import BaselineProcess
from orchestrator.output.sweep_result import BestTrial
from orchestrator.plan.planner import Plan
from orchestrator.storage.journal import Journal, Record

if TYPE_CHECKING:
    from orchestrator.sweep.state import SweepState


class JudgedCommand(Protocol):
    """What the end of a sweep needs of the command that runs it; see pipeline.SweepCommand."""

    config: Config
    plan: Plan
    base: BaseModel
    folder: Path
    journal: Journal
    baselines: BaselineProcess
    model_name: str

    def describe(self, sweep_state: SweepState, best: Record) -> BestTrial:
        """The winner, as the result tells it."""
        ...


class Judge(Protocol):
    """Scores models on the test rows; see final_evaluation.FinalEvaluation."""

    config: Config
    sweep_state: SweepState
    base: BaseModel
    digest: str
    """Of the test rows."""

    def checkpoint(self, index: int, step: int) -> str:
        """The folder or URI of what a trial had learned at a step."""
        ...

    def judge(self, folders: dict[str, str | None], trial: Trial) -> dict[str, TestScores]:
        """The scores of these models by name."""
        ...
