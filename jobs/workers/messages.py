"""What processes of a sweep send each other: a trial's settings, what workers tell the driver, and
how they end. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, NotRequired, TypedDict

from jobs.config import WorkerSpec
from jobs.pack.membership import RungMetrics


class TrialConfig(TypedDict):
    """What Tune hands a trial. A dictionary, because Tune takes nothing else."""

    index: int
    assignment: WorkerSpec
    point: NotRequired[dict[str, object]]
    """Other settings by dotted path, such as optim.lr."""
    recorded: NotRequired[list[RungMetrics]]
    """Reports of an earlier run, the first rung first."""
    checkpoint: NotRequired[str | None]
    """Where an earlier run left the trial; None where it starts anew."""
    step: NotRequired[int]
    """How far that was."""
    failed: NotRequired[str | None]
    """Why it failed in an earlier run."""
    stopped: NotRequired[str | None]
    """Why it ended inside a rung in an earlier run."""


class WorkerSettings(TypedDict):
    """What Ray Train hands a worker."""

    assignment: WorkerSpec
    pack: NotRequired[int]
    """Number of the worker's pack; none for a trial that trains by itself."""
    recorded_step: NotRequired[int]
    """The last rung that the journal has of a trial that trains by itself."""
    tasks: NotRequired[dict[int, WorkerSpec]]
    """In a fleet what the pack needs to know of each task, by its number."""


class LoggedStep(NamedTuple):
    """One optimizer step. A tuple, because thousands are sent a second."""

    milliseconds: int
    """Since 1970."""
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class StepMetrics:
    """Optimizer steps of one trial, the first one first."""

    trial: int
    steps: list[LoggedStep]


@dataclass(frozen=True)
class Note:
    """One line for the user."""

    text: str
    trial: int | None = None
    """None: about the whole sweep."""


@dataclass(frozen=True)
class JudgingProgress:
    """How many test rows are answered."""

    label: str
    done: int
    total: int


Message = StepMetrics | Note | JudgingProgress
"""What a worker tells the driver."""


@dataclass(frozen=True)
class Posted:
    """A message as the driver gets it."""

    milliseconds: int
    """Since 1970, when the coordinator got it."""
    message: Message


@dataclass(frozen=True)
class WorkerEnd:
    """How the workers of a trial have ended, where no other attempt would mend it. At most one
    field is set; none is when the trial was trained to its end.
    """

    failure: str | None = None
    """The trial's own failure."""
    fault: str | None = None
    """What the machine has refused."""
    crowded: str | None = None
    """Why so many at once do not fit into the memory."""
    lost: str | None = None
    """Which process of the sweep has died."""
    rested: bool = False
    """The sweep pauses."""


@dataclass(frozen=True)
class CheckpointPointer:
    """What a packed trial gives Tune for a checkpoint: where the pack has kept it."""

    path: str | None
    step: int
