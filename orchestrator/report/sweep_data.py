"""All that the report and the alerts know of a sweep: read from its folder alone.

What is missing, torn or edited there is left out: a report of half a sweep is worth having. Numbers
that are not finite become None here, once, so that nobody further on has to look.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from jobs.evaluation import registry
from orchestrator.config.mixes import is_simplex
from orchestrator.plan.merge import EVENT
from orchestrator.report.mix_knobs import simplex_knobs
from orchestrator.storage.journal import Journal
from orchestrator.storage.json_files import read_sealed, read_text

PREDICTION_FILES = ("predictions.jsonl", "export/predictions.jsonl")
"""Where the winner's answers to the test rows may lie in a sweep's folder."""


@dataclass
class TrialData:
    """What the journal tells of one trial."""

    index: int
    point: dict[str, Any] = field(default_factory=dict)
    """Searched settings, by dotted path."""
    params: dict[str, Any] = field(default_factory=dict)
    """All settings, by dotted path."""
    reports: dict[int, dict[str, float | None]] = field(default_factory=dict)
    """Step -> metrics at that rung."""
    losses: dict[int, float | None] = field(default_factory=dict)
    """Step -> training loss."""
    state: str = "running"
    error: str | None = None
    notes: list[str] = field(default_factory=list)
    started: float | None = None
    """Seconds since the epoch."""
    last: float | None = None
    """When it was heard of last while it trained."""
    resumed: float | None = None
    """When it started in the newest command that has trained it."""
    spans: dict[float, float] = field(default_factory=dict)
    """Its start in each command that has trained it -> its last report there."""
    best_step: int | None = None
    score: float | None = None
    """The best value of the sweep's metric; None without any."""

    @property
    def steps(self) -> int:
        """How far it was trained."""
        return max([*self.reports, *self.losses], default=0)


@dataclass
class SweepData:
    """One sweep as its folder tells it."""

    name: str
    folder: Path
    metric: str = registry.DEFAULT
    maximise: bool = True
    is_direction_told: bool = False
    """Whether the journal has told which direction is better."""
    trials: list[TrialData] = field(default_factory=list)
    """In the order of their indices."""
    config: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    """Number of rows of the splits valid and test."""
    notes: list[str] = field(default_factory=list)
    """What the plan has said of data and settings."""
    concurrent: int | None = None
    """Trials that could train at once."""
    num_trials: int | None = None
    command: str | None = None
    """The command that continues the sweep."""
    state: str | None = None
    error: str | None = None
    started: float | None = None
    ended: float | None = None
    tags: dict[str, str] = field(default_factory=dict)
    mixtures: dict[str, Any] = field(default_factory=dict)
    """What merging experts has said of mixes, as the journal keeps it."""
    sweep_notes: list[str] = field(default_factory=list)
    """What was said of the sweep as a whole while it ran."""

    @property
    def stem(self) -> str:
        """The metric's name without its split."""
        return self.metric.rsplit("/", 1)[-1]

    def value_in(self, metrics: Any, split: str = "valid", end: str = "") -> float | None:
        """The sweep's metric on a split, where `metrics` have it; `end` is "_low" or "_high"."""
        if not isinstance(metrics, dict):
            return None
        names = (f"{split}/{self.stem}{end}", f"{self.stem}{end}")
        if split == "valid":
            names = (f"{self.metric}{end}", *names)
        values = [finite(metrics[name]) for name in names if name in metrics]
        return next(iter(values), None)

    @property
    def space(self) -> dict[str, dict[str, Any]]:
        """The knobs of the search space, by name."""
        sweep = self.config.get("sweep")
        space = sweep.get("space") if isinstance(sweep, dict) else None
        if not isinstance(space, dict):
            return {}
        searched = {path for trial in self.trials for path in trial.point}
        knobs = {}
        for name, knob in space.items():
            if is_simplex(knob):
                knobs |= simplex_knobs(name, knob, searched)
            elif isinstance(knob, dict) and knob.get("path") in searched:
                knobs[name] = knob
        return knobs

    def ranked(self) -> list[TrialData]:
        """Trials that have a score and have not failed, the best first."""
        scored = [t for t in self.trials if t.score is not None and t.state != "failed"]
        sign = -1 if self.maximise else 1

        def rank(trial: TrialData) -> tuple[float, float, int]:
            loss = trial.reports.get(trial.best_step or 0, {}).get(registry.VALID_LOSS)
            return sign * (trial.score or 0.0), math.inf if loss is None else loss, trial.index

        return sorted(scored, key=rank)

    def winner(self) -> TrialData | None:
        """The best trial: the one of the result, else the one with the best score."""
        best = self.result.get("best")
        index = best.get("trial") if isinstance(best, dict) else None
        named = [trial for trial in self.trials if trial.index == index]
        return next(iter([*named, *self.ranked()]), None)


def read_sweep(folder: Path) -> SweepData:
    """Everything that a sweep's folder holds of it."""
    data = SweepData(folder.name, folder)
    data.result = read_sealed(folder / "result.json")
    trials: dict[int, TrialData] = {}
    texts = [read_text(folder / "config.yaml")]
    for event in Journal(folder).events():
        take_event(data, trials, event)
        if event["kind"] == "sweep" and isinstance(event.get("config"), str):
            texts.append(event["config"])
    for text in texts:
        data.config = parsed_config(text) or data.config
    read_metric(data)
    data.trials = [trials[index] for index in sorted(trials)]
    for trial in data.trials:
        score_trial(data, trial)
    data.command = text_of(data.result.get("command")) or data.command
    data.predictions = read_predictions(folder)
    if data.predictions:
        data.rows.setdefault("test", len(data.predictions))
    return data


def text_of(value: Any) -> str | None:
    """A text, or nothing."""
    return value if isinstance(value, str) and value else None


def take_event(data: SweepData, trials: dict[int, TrialData], event: dict[str, Any]) -> None:
    """Bring what is known up to date with one event."""
    kind, index, moment = event["kind"], event.get("trial"), event["t"] / 1000
    if kind == "sweep":
        take_start(data, event, moment)
    elif kind == "sweep_end":
        data.state, data.error, data.ended = event["state"], event.get("error"), moment
    elif kind == "tags" and index is None and isinstance(event.get("tags"), dict):
        data.tags |= {str(key): str(value) for key, value in event["tags"].items()}
        note = text_of(event["tags"].get("note"))
        data.sweep_notes += [note] if note else []
    elif kind == EVENT:
        data.mixtures = event
    elif index is not None:
        trial = trials.setdefault(index, TrialData(index))
        take_trial(trial, event, moment)
        take_rows(data, event.get("datasets"))


def take_rows(data: SweepData, datasets: Any) -> None:
    """How many rows the held-out splits have, as a trial's event tells it."""
    splits = {"validation": "valid", "test": "test"}
    for dataset in datasets if isinstance(datasets, list) else []:
        if not isinstance(dataset, dict) or dataset.get("context") not in splits:
            continue
        if isinstance(dataset.get("rows"), int) and dataset["rows"] > 0:
            data.rows[splits[dataset["context"]]] = dataset["rows"]


def take_start(data: SweepData, event: dict[str, Any], moment: float) -> None:
    """A start of the sweep: its first one, or one that continues it."""
    params = event["params"]
    if data.started is None:
        data.started = moment
    data.state = data.error = data.ended = None
    if isinstance(params.get("sweep.num_trials"), int):
        data.num_trials = params["sweep.num_trials"]
    data.metric = text_of(params.get("sweep.metric")) or data.metric
    data.command = text_of(event.get("command")) or data.command
    if isinstance(event.get("maximise"), bool):
        data.maximise, data.is_direction_told = event["maximise"], True
    if isinstance(event.get("notes"), list):
        data.notes = [note for note in event["notes"] if isinstance(note, str)]
    if isinstance(event.get("concurrent"), int):
        data.concurrent = event["concurrent"]


def take_trial(trial: TrialData, event: dict[str, Any], moment: float) -> None:
    """An event of one trial."""
    kind = event["kind"]
    if kind == "trial":
        trial.point = plain_values(event["point"])
        trial.params = plain_values(event.get("params"))
        trial.state, trial.error = "running", None
        trial.resumed = moment
        if trial.started is None:
            trial.started = moment
    elif kind == "report":
        metrics = {str(name): finite(value) for name, value in event["metrics"].items()}
        trial.reports.setdefault(event["step"], {}).update(metrics)
        if any(name.startswith(f"{registry.VALID}/") for name in metrics):
            trial.last = moment
            if trial.resumed is not None and moment > trial.resumed:
                trial.spans[trial.resumed] = moment
    elif kind == "metrics" and isinstance(event.get("step"), int):
        metrics = event.get("metrics")
        if isinstance(metrics, dict) and "train/loss" in metrics:
            trial.losses[event["step"]] = finite(metrics["train/loss"])
    elif kind == "tags" and isinstance(event.get("tags"), dict):
        note = text_of(event["tags"].get("note"))
        trial.notes += [note] if note else []
    elif kind == "end":
        trial.state, trial.error = event["state"], text_of(event.get("error"))


def plain_values(point: Any) -> dict[str, Any]:
    """A point's settings that are a number, a text or a truth value."""
    if not isinstance(point, dict):
        return {}
    return {
        str(path): (finite(value) if isinstance(value, float) else value)
        for path, value in point.items()
        if isinstance(value, int | float | str | bool)
    }


def finite(value: Any) -> float | None:
    """A number that can be drawn; None for NaN, infinities and what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def parsed_config(text: str) -> dict[str, Any]:
    """A composed configuration; nothing for a text that is none."""
    try:
        parsed = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def read_metric(data: SweepData) -> None:
    """In which direction the sweep's metric is better, where its start has not told."""
    sweep = data.config.get("sweep")
    mode = sweep.get("mode") if isinstance(sweep, dict) else None
    if mode in ("max", "min"):
        data.maximise = mode == "max"
    elif not data.is_direction_told and registry.problem(data.metric) is None:
        data.maximise = registry.metric_of(data.metric).maximise


def score_trial(data: SweepData, trial: TrialData) -> None:
    """The step and value of a trial's best report."""
    scores = [
        (step, value)
        for step, report in sorted(trial.reports.items())
        if (value := data.value_in(report)) is not None
    ]
    if not scores:
        return
    sign = 1 if data.maximise else -1
    trial.best_step, trial.score = max(scores, key=lambda item: (sign * item[1], item[0]))


def read_predictions(folder: Path) -> list[dict[str, Any]]:
    """The winner's answers to the test rows; a torn line is left out."""
    for name in PREDICTION_FILES:
        rows = []
        for line in read_text(folder / name).splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and {"reference", "prediction"} <= row.keys():
                rows.append(row)
        if rows:
            return rows
    return []
