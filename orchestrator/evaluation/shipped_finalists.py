"""The finalists of a sweep on their way to devices: the winner's files, and, where all that they
miss of a device's limits is the drop of the score, those of the next finalists.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from jobs.config import BaseModel
from jobs.evaluation import registry
from jobs.evaluation.scores import TestScores
from jobs.export.row_choice import chosen
from orchestrator.config.device_settings import Profile, profiles_of
from orchestrator.config.run_numbers import label
from orchestrator.config.settings import Config
from orchestrator.evaluation import device_limits, shipped_files
from orchestrator.evaluation.device_limits import MeasuredFile
from orchestrator.evaluation.interfaces import JudgedCommand
from orchestrator.evaluation.judged_finalists import JudgedFinalist
from orchestrator.evaluation.promotion import Decision, Rival, Scores
from orchestrator.evaluation.shipped_files import Contest, Maker, some_rows
from orchestrator.output.progress import ProgressDisplay
from orchestrator.output.sweep_result import SweepResult
from orchestrator.plan.planner import Plan
from orchestrator.tracking.model_versions import Version

if TYPE_CHECKING:
    from orchestrator.tracking.mlflow_store import MlflowStore


TWO_SIDED = 1.96
"""Standard errors of a 95 % interval."""


class ShippingJudge(Protocol):
    """What exporting the finalists needs of who judges them; see
    final_evaluation.FinalEvaluation.
    """

    config: Config
    plan: Plan
    base: BaseModel
    command: JudgedCommand
    store: MlflowStore
    screen: ProgressDisplay
    digest: str
    rivals: list[Rival]
    metric_key: str
    """The sweep's metric, of the test split."""
    base_scores: TestScores
    """Of the untouched base."""

    def write_version(self, folder: Path, finalist: JudgedFinalist, base: TestScores) -> str:
        """Write the folder of a finalist's version."""
        ...

    def register_finalist(
        self, outcome: SweepResult, finalist: JudgedFinalist, folder: Path
    ) -> Version:
        """Register a further finalist, without the alias champion."""
        ...


def ship_version(
    judge: ShippingJudge, outcome: SweepResult, folder: Path, version: Version
) -> list[MeasuredFile]:
    """Make and measure the files of the winner's version; nothing where none is asked for."""
    plan = judge.plan.shipping
    if plan is None:
        return []
    maker = Maker(judge.config, judge.base, judge.digest, judge.screen.note)
    outcome.shipped = maker.files(folder, version, plan.formats)
    return maker.measured(outcome.shipped)


def within_limits(
    judge: ShippingJudge, decision: Decision, files: Sequence[MeasuredFile]
) -> Decision:
    """The decision about the alias champion, where limits without a name have a say in it."""
    guard = next((each for each in profiles_of(judge.config.device) if each.name is None), None)
    if guard is None or not decision.promote:
        return decision
    if device_limits.best_within(files, guard, judge.config.registry) is not None:
        return decision
    why = f"no file is within the device's limits: {shipped_files.why_none(guard, files)}"
    return Decision(False, f"{why}; {decision.reason}", reasons=(why, *decision.reasons))


def contest_of(judge: ShippingJudge) -> Contest:
    """What a file has to beat for a device's alias."""
    metric = registry.name_of(judge.metric_key)
    most = judge.config.export.rows
    rivals = [
        dataclasses.replace(rival, scores=scores)
        for rival in judge.rivals
        if (scores := on_some_rows(rival.scores, most)) is not None
    ]
    return Contest(judge.store, judge.config.registry, rivals, metric)


def on_some_rows(scores: Scores, most: int | None) -> Scores | None:
    """Scores on the rows that the files are scored on; None where they are not known row by row."""
    if most is None:
        return scores
    if most >= scores.rows:
        return dataclasses.replace(scores, digest=some_rows(scores.digest, scores.rows))
    if len(scores.per_row) != scores.rows:
        return None
    per_row = tuple(scores.per_row[position] for position in chosen(scores.rows, most))
    value = statistics.fmean(per_row)
    reach = TWO_SIDED * statistics.pstdev(per_row) / len(per_row) ** 0.5
    digest = some_rows(scores.digest, len(per_row))
    return Scores(value, value - reach, value + reach, len(per_row), digest, per_row)


def place_files(
    judge: ShippingJudge, outcome: SweepResult, files: Sequence[MeasuredFile], version: Version
) -> None:
    """Give each device's alias to the version if a file of it deserves that."""
    contest = contest_of(judge)
    outcome.devices = [
        shipped_files.place(profile, files, version, contest) for profile in named(judge)
    ]
    for told in outcome.devices:
        text = str(told["reason"])
        judge.command.journal.append(
            "tags", trial=None, tags={f"{told['alias']}.decision": text[:4_000]}
        )


def named(judge: ShippingJudge) -> list[Profile]:
    """The devices that have an alias of their own."""
    return [profile for profile in profiles_of(judge.config.device) if profile.name is not None]


def ship_others(
    judge: ShippingJudge, outcome: SweepResult, judged: Sequence[JudgedFinalist]
) -> None:
    """Register and export further finalists that met the test rows, one after the other, while a
    device has no file because the score of each one so far drops too far.
    """
    plan = judge.plan.shipping
    assert outcome.best is not None
    winner = outcome.best.run
    others = [finalist for finalist in judged if finalist.record.index != winner]
    if plan is None or not others:
        return
    maker = Maker(judge.config, judge.base, judge.digest, judge.screen.note)
    measured = maker.measured(outcome.shipped)
    contest = contest_of(judge)
    for finalist in others:
        waiting = [
            (number, profile)
            for number, profile in enumerate(named(judge))
            if outcome.devices[number]["format"] is None
            and any(device_limits.only_drop(file.report, profile) for file in measured)
        ]
        if not waiting:
            return
        name = label(finalist.record.index)
        folder = judge.command.folder / "finalists" / name.replace(" ", "-")
        folder.parent.mkdir(parents=True, exist_ok=True)
        judge.write_version(folder, finalist, judge.base_scores)
        further = judge.register_finalist(outcome, finalist, folder)
        records = maker.files(folder, further, plan.formats)
        outcome.shipped += records
        measured = maker.measured(records)
        shipped_files.record(judge.store, further, measured)
        for number, profile in waiting:
            told = shipped_files.place(profile, measured, further, contest)
            if told["format"] is not None:
                outcome.devices[number] = told
