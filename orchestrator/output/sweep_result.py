"""The shape of a sweep's result: what result.json holds, and of what `output=json` prints a part.

The keys of the JSON are the names of the fields. `version` is the version of this shape: a record
without one is of before it was written, and has the same fields. Keys that are new in a version
have a default, so that older records can still be read; a record of a later version is not read.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cache

from pydantic import TypeAdapter

from jobs.files.json_types import JsonObject

VERSION = 1
"""Of the shape below. It grows when a key changes its meaning or goes away."""

Metrics = dict[str, float]
"""Scores by name, such as test/exact_match."""


@dataclass
class TrialCounts:
    """Trials by how they ended."""

    total: int
    finished: int
    stopped: int
    failed: int


@dataclass
class Seconds:
    """How long the command took: until the first trial, for the trials, and in all."""

    setup: float
    train: float
    total: float
    planned: float | None = None
    """What the plan promised of the whole; None where the command went on from an earlier one."""


@dataclass
class BestTrial:
    """The winner."""

    trial: int
    """The trial's number, from 1."""
    params: dict[str, object]
    """Its settings by dotted path."""
    metrics: Metrics
    """Its scores: on the validation split at its best step, and on the test split once judged."""
    run_id: str | None = None
    """Its MLflow run; None until it is registered."""
    run: int | None = None
    """The run that won, another one than `trial` where finalists are trained anew with other
    seeds. None in results of before that was possible.
    """
    step: int = 0
    """The best step."""
    slices: dict[str, dict[str, Metrics]] | None = None
    """Its scores by slice and value; None until it is judged."""
    fields: dict[str, Metrics] | None = None
    """Its scores by field of a structured answer; None until it is judged."""


@dataclass
class BaseScores:
    """The untouched base on the test split."""

    metrics: Metrics
    slices: dict[str, dict[str, Metrics]] | None = None


@dataclass
class BaselineScores:
    """A baseline on the test split."""

    metrics: Metrics


@dataclass
class FinalistScores:
    """A finalist, by the validation split."""

    trial: int
    metric: str
    mean: float
    spread: float | None
    """Standard deviation over the seeds; None with one seed."""
    scores: Metrics
    """By seed."""
    runs: int
    """Runs that were asked for."""
    failed: int
    again: bool
    """Whether the trial was trained anew instead of counted with its run of the search."""


@dataclass
class TiedFinalists:
    """What the test rows say of several finalists."""

    compared: int
    tied: list[str]
    """Those that the rows cannot tell from the best; the smallest, which is registered, first."""
    scores: dict[str, Metrics]
    """Of all that were compared."""


@dataclass
class RegisteredModel:
    """The winner in the model registry."""

    name: str
    version: int
    alias: str | None
    """None where the version has no alias."""
    uri: str


@dataclass
class SweepResult:
    """What came out of a sweep."""

    sweep: str
    state: str
    """finished, failed or interrupted."""
    trials: TrialCounts
    best: BestTrial | None
    """None where no trial has a score."""
    base: BaseScores | None
    """None until the winner was judged."""
    baselines: dict[str, BaselineScores]
    model: RegisteredModel | None
    """None where nothing was registered."""
    seconds: Seconds
    tracking_uri: str
    steps: int
    """Steps that were asked for."""
    target: list[str | None]
    """Where the winner is registered: the store, the experiment, the name."""
    command: str
    """Continues this sweep."""
    wider: str | None
    """The command with twice as many trials; None where the space has no more points."""
    version: int = VERSION
    metric: str | None = None
    """By what the winner is judged; None in results of before there was a choice."""
    copies: int = 0
    """Trials that were copied by hand; `trials` counts them too."""
    finalists: list[FinalistScores] = field(default_factory=list)
    error: str | None = None
    failures: list[str] = field(default_factory=list)
    """A line for each failed trial."""
    searched: list[str] = field(default_factory=list)
    """Dotted paths of the settings that were searched."""
    confidence: float = 0.95
    """Of the intervals."""
    judging: JsonObject | None = None
    """The settings by which the winner was judged."""
    settings: list[str] = field(default_factory=list)
    """Settings that tell job=predict where the model is registered."""
    needs: str | None = None
    """What the commands to paste need in the environment."""
    tied: TiedFinalists | None = None
    """None where one finalist met the test rows."""
    asked: str | None = None
    """The setting of job=predict that asks the first test row, and its value; None until judged."""
    prompt: str | None = None
    notes: list[str] | None = None
    """Why a baseline is not known; None until judged."""
    decision: str | None = None
    """Why the model has its alias, or has not; None until registered."""
    reasons: list[str] = field(default_factory=list)
    """The same, a reason each; empty where `decision` is all that is known."""
    maximise: bool | None = None
    """Whether a higher score is better; None in results of before it was written."""
    help: list[str] | None = None
    """What might help where the winner did not beat what it was compared with."""
    missing: str | None = None
    """What the tracking store has not received, in words."""
    moved: bool | None = None
    """True where `decision` says where the alias is now, not what was decided."""
    unchecked: str | None = None
    """Why nobody knows whether the store still has the model."""
    data: JsonObject | None = None
    """What the winner was made of: sources with rows, tokens, synthetic share, digests, licences;
    None until judged. See plan/data_provenance.py.
    """
    budget: JsonObject | None = None
    """The limits, which of them has ended the training, and what more would likely buy; None
    without a budget. See sweep/budget_outcome.py.
    """
    spent: Metrics | None = None
    """What all commands of the sweep have spent, as spent/NAME."""
    shipped: list[JsonObject] = field(default_factory=list)
    """The exported files: what export.json says of each, or under `refused` why it was not made."""
    devices: list[JsonObject] = field(default_factory=list)
    """Of each device its limits, the file that is within them, and whether a version has its
    alias.
    """
    report: str | None = None
    """Where the HTML report lies."""
    threshold: JsonObject | None = None
    """From which probability on to answer the rarer of two labels, and what that costs; see
    jobs/evaluation/thresholds.py.
    """
    forgetting: dict[str, Metrics] | None = None
    """Loss on the test rows of data.retained, before and after; see evaluation/retention.py."""

    def as_json(self) -> JsonObject:
        """The record, ready for json.dumps. What was not reached yet is left out."""
        record = asdict(self)
        for name in REACHED_LATER:
            if record[name] is None:
                del record[name]
        for scores in (record["best"], record["base"]):
            for name in ("run", "slices", "fields"):
                if scores is not None and name in scores and scores[name] is None:
                    del scores[name]
        return {"version": record.pop("version"), **record}


REACHED_LATER = (
    *("asked", "prompt", "notes", "decision", "help", "moved", "unchecked", "data", "report"),
    *("budget", "spent", "threshold", "forgetting"),
)
"""Keys that a record lacks until the sweep has come to what they tell."""


@cache
def reader() -> TypeAdapter[SweepResult]:
    """Checks a record's types. Made once: that takes some milliseconds."""
    return TypeAdapter(SweepResult)


def from_json(record: JsonObject) -> SweepResult | None:
    """The result in a record that was read from disk; None where it lacks something, or is of a
    later version.
    """
    try:
        result = reader().validate_python(record)
    except ValueError:
        return None
    return result if result.version <= VERSION else None
