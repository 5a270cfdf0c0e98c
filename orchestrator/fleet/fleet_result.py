"""What came out of a fleet: a row for each task, as it is kept in fleet.json, printed, and shown on
a page. Pure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from jobs.evaluation import registry
from jobs.files.json_types import JsonObject
from orchestrator.output.best_lines import BASELINES, is_higher_better, judged_by
from orchestrator.output.console import duration
from orchestrator.output.sweep_result import SweepResult

VERSION = 1
HEADINGS = ("task", "metric", "base", "best baseline", "tuned", "interval", "trials", "model")


@dataclass
class TaskRow:
    """One task's result."""

    task: str
    sweep: str | None
    """Name of its sweep; None where its rows could not be read."""
    state: str
    """finished, failed or interrupted."""
    weight: float = 1.0
    metric: str | None = None
    base: float | None = None
    baseline: float | None = None
    """The best one's score."""
    baseline_name: str | None = None
    score: float | None = None
    """The winner's, on the test rows."""
    low: float | None = None
    high: float | None = None
    trials: dict[str, int] | None = None
    """How many there were and how they ended."""
    model: str | None = None
    """models:/NAME/VERSION."""
    alias: str | None = None
    decision: str | None = None
    error: str | None = None
    report: str | None = None
    """Where its own report lies."""
    notes: list[str] = field(default_factory=list)

    def cells(self) -> list[str]:
        """The row as texts, one for each of HEADINGS."""
        metric = "" if self.metric is None else registry.name_of(self.metric)
        interval = ""
        if self.low is not None and self.high is not None:
            interval = f"{self.low:.3f}..{self.high:.3f}"
        baseline = number(self.baseline)
        if self.baseline_name is not None:
            baseline = f"{baseline} {self.baseline_name}"
        trials = ""
        if self.trials is not None:
            trials = f"{self.trials['finished']}+{self.trials['stopped']}/{self.trials['total']}"
        model = self.state
        if self.model is not None:
            role = f" {self.alias}" if self.alias else ", no alias"
            model = f"{self.model.removeprefix('models:/')}{role}"
        scores = [number(self.base), baseline, number(self.score), interval]
        return [self.task, metric, *scores, trials, model]


@dataclass
class FleetResult:
    """What came out of a fleet."""

    fleet: str
    state: str
    """finished, failed where a task has, interrupted."""
    tasks: list[TaskRow]
    seconds: float
    tracking_uri: str
    command: str
    """Goes on with what is left."""
    serve: str | None = None
    """Serves all models that have the champion's alias."""
    missing: str | None = None
    """What the tracking store has not received, in words."""
    report: str | None = None
    version: int = VERSION

    def as_json(self) -> JsonObject:
        """The record, ready for json.dumps."""
        record = asdict(self)
        return {"version": record.pop("version"), **record}


def number(value: float | None) -> str:
    """A score."""
    return "" if value is None else f"{value:.3f}"


def row_of(task: str, weight: float, result: SweepResult) -> TaskRow:
    """The row of a task whose sweep has an outcome."""
    metric = judged_by(result)
    row = TaskRow(task, result.sweep, result.state, weight, metric)
    counts = result.trials
    row.trials = {
        "total": counts.total,
        "finished": counts.finished,
        "stopped": counts.stopped,
        "failed": counts.failed,
    }
    row.error, row.decision, row.report = result.error, result.decision, result.report
    row.notes = [*result.failures, *(result.help or [])]
    row.notes += [text for text in (result.missing, result.unchecked) if text is not None]
    if result.best is not None:
        row.score = result.best.metrics.get(metric)
        row.low = result.best.metrics.get(f"{metric}_low")
        row.high = result.best.metrics.get(f"{metric}_high")
    if result.base is not None:
        row.base = result.base.metrics.get(metric)
    scores = {
        name: scores.metrics[metric]
        for name, scores in result.baselines.items()
        if metric in scores.metrics
    }
    if scores:
        sign = 1 if is_higher_better(result) else -1
        best = max(scores, key=lambda name: sign * scores[name])
        row.baseline, row.baseline_name = scores[best], best
    if result.model is not None:
        row.model, row.alias = result.model.uri, result.model.alias
    return row


def table(rows: list[TaskRow]) -> list[str]:
    """The rows as lines of equal columns."""
    cells = [list(HEADINGS), *(row.cells() for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADINGS))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def text(result: FleetResult, programs: str = "") -> str:
    """The last screen: the table, what went wrong, what to do next. `programs` stands before
    "python" in the commands to paste.
    """
    states = [row.state for row in result.tasks]
    counted = ", ".join(
        f"{states.count(state)} {state}"
        for state in ("finished", "failed", "interrupted")
        if states.count(state)
    )
    lines = [("fleet", f"{result.fleet}: {len(states)} tasks, {counted}")]
    lines += [("", line) for line in table(result.tasks)]
    names = {row.baseline_name for row in result.tasks if row.baseline_name is not None}
    lines += [("", f"{name} is {BASELINES[name]}") for name in sorted(names) if name in BASELINES]
    for row in result.tasks:
        if row.error is not None:
            lines.append(("failed", f"{row.task}: {row.error}"))
        elif row.model is not None and row.alias is None and row.decision is not None:
            lines.append(("why", f"{row.task}: {row.decision}"))
        lines += [("note", f"{row.task}: {note}") for note in row.notes]
    if result.missing is not None:
        lines.append(("missing", result.missing))
    lines.append(("time", duration(result.seconds)))
    if result.report is not None:
        lines.append(("report", result.report))
    if result.state != "finished":
        lines.append(("go on", f"{programs}{result.command}"))
    if result.serve is not None:
        lines.append(("serve", f"{programs}{result.serve}"))
    return "\n".join(f"{label:<8}{line}" for label, line in lines)
