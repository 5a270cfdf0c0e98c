"""What would likely help a candidate that did not become champion: words and, where there is one,
the setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.config import Trial
from jobs.data.corpus import load_corpus
from jobs.data.row_quality import label_form
from jobs.evaluation import registry
from jobs.evaluation.baselines import NUM_ANSWERS, Answers
from jobs.evaluation.metric_choice import FOR_LABELS
from jobs.evaluation.scored_rows import as_label
from orchestrator.config.settings import MOST_MINUTES
from orchestrator.output.sweep_result import BestTrial
from orchestrator.plan.mixes import drawn_shares
from orchestrator.plan.planner import Plan
from orchestrator.storage.journal import Record

if TYPE_CHECKING:
    from orchestrator.sweep.state import SweepState

FEW_ROWS_PER_ANSWER = 20
"""Fewer training rows than this for a different answer leave it unlearned."""
UNSEEN_SHARE = 0.05
LIKE_A_SHARE = (registry.EXACT_MATCH, registry.ACCURACY, registry.MACRO_F1)
"""Metrics on the scale of the share of rows whose answer the nearest training rows hold."""


@dataclass(frozen=True)
class Findings:
    """What a sweep and its data say of what is missing."""

    score: float
    """The winner's on the test rows."""
    steps: int
    """Of a trial that is never stopped."""
    longer: str
    """The setting that doubles them."""
    best_step: int
    history: Mapping[int, float]
    """Step -> the winner's value of the sweep's metric, better as it is higher."""
    metric: str
    training_answers: Sequence[str]
    test_answers: Sequence[str]
    weights: Mapping[str, float]
    """The winner's share of each source."""
    searched_weights: bool
    nearest_hold: float | None
    """Share of the test rows whose answer is among those of the nearest training rows."""
    shows_neighbours: bool = False
    """Whether the winner was shown them."""


def hints(findings: Findings) -> list[str]:
    """What would likely help, the likeliest first."""
    if findings.score == 1 and registry.name_of(findings.metric) in LIKE_A_SHARE:
        return ["nothing on these rows: each is answered right; harder or more test rows tell more"]
    advice = [
        *neighbours(findings),
        *more_steps(findings),
        *one_spelling(findings),
        *more_rows(findings),
        *mix(findings),
    ]
    if not advice:
        advice = [f"more steps ({findings.longer}), more rows, or a larger model="]
    return advice


def neighbours(findings: Findings) -> list[str]:
    """Whether the training rows nearest to a question hold its answer more often than the model
    finds it.
    """
    hold = findings.nearest_hold
    if hold is None or hold <= findings.score or findings.shows_neighbours:
        return []
    if registry.name_of(findings.metric) not in LIKE_A_SHARE:
        return []
    if len(set(findings.training_answers)) <= 2 * NUM_ANSWERS:
        return []  # so many of so few answers hold the right one by themselves
    return [
        f"neighbours in the prompt (data.neighbours.count={NUM_ANSWERS}): the right answer is "
        f"among the first {NUM_ANSWERS} different ones of the most similar training prompts in "
        f"{hold:.0%} of the test rows; a model that is shown them has to choose, not to know"
    ]


def more_steps(findings: Findings) -> list[str]:
    """Whether the winner was still getting better when its steps were over."""
    steps = sorted(findings.history)
    if not steps or findings.best_step < steps[-1]:
        return []
    if steps[-1] < findings.steps:
        return [
            f"more steps: training ended at step {steps[-1]:,} of {findings.steps:,}, where the "
            "winner was best"
        ]
    last = findings.history[steps[-1]]
    rising = ""
    if len(steps) > 1:
        before = findings.history[steps[-2]]
        if last <= before:
            return []
        rising = (
            f" ({findings.metric} {abs(before):.3g} at {steps[-2]}, {abs(last):.3g} at the end)"
        )
    return [f"more steps: the winner was best at its last one{rising}; {findings.longer}"]


def are_closed(findings: Findings) -> bool:
    """Whether the training rows have few different answers."""
    return 2 * len(set(findings.training_answers)) <= len(findings.training_answers)


def one_spelling(findings: Findings) -> list[str]:
    """Whether test rows have answers of the training rows in other characters, such as an accent as
    one of its own, so that the answer that was trained counts as wrong.
    """
    is_label = registry.name_of(findings.metric) in FOR_LABELS
    trained = {as_label(answer) if is_label else answer for answer in findings.training_answers}
    forms = {label_form(answer) for answer in findings.training_answers}
    count = sum(
        label_form(answer) in forms and (as_label(answer) if is_label else answer) not in trained
        for answer in findings.test_answers
    )
    if not are_closed(findings) or count <= UNSEEN_SHARE * len(findings.test_answers):
        return []
    return [
        f"one spelling of each label: {count:,} of the test rows have an answer that the training "
        "rows write otherwise, and what was trained counts as wrong there; job=check names them"
    ]


def more_rows(findings: Findings) -> list[str]:
    """Whether the training rows lack answers, or have few rows for each."""
    distinct_answers = set(findings.training_answers)
    forms = {label_form(answer) for answer in distinct_answers}
    unseen = sum(label_form(answer) not in forms for answer in findings.test_answers)
    share = unseen / max(len(findings.test_answers), 1)
    closed = are_closed(findings)
    if closed and share > UNSEEN_SHARE:
        return [f"more rows: {unseen:,} of the test rows have an answer that no training row has"]
    per_answer = len(findings.training_answers) / max(len(distinct_answers), 1)
    if closed and per_answer < FEW_ROWS_PER_ANSWER:
        return [f"more rows: there are {per_answer:.1f} training rows for each different answer"]
    if not closed and len(findings.training_answers) < 1_000:
        return [f"more rows: there are {len(findings.training_answers):,} training rows"]
    return []


def mix(findings: Findings) -> list[str]:
    """Whether other shares of the sources were never tried, or the best one lies at an end."""
    if len(findings.weights) < 2:
        return []
    if not findings.searched_weights:
        named = ", ".join(f"data.sources.{name}.weight" for name in findings.weights)
        return [f"another mix: {named} were not searched (+sweep=mix does)"]
    name, weight = max(findings.weights.items(), key=lambda item: item[1])
    if weight >= 0.85:
        return [f"another mix: {weight:.0%} of what the winner saw is {name}, the most of any"]
    return []


def history_of(record: Record, metric: str, maximise: bool) -> dict[int, float]:
    """A trial's metric by step, turned so that higher is better."""
    sign = 1.0 if maximise else -1.0
    return {
        step: sign * report[metric] for step, report in record.reports.items() if metric in report
    }


def longer(plan: Plan) -> str:
    """The setting with which a sweep trains twice as long and goes on from what it has."""
    minutes = plan.config.sweep.minutes
    if plan.sizes is not None and minutes is not None:
        return f"sweep.minutes={min(2 * minutes, MOST_MINUTES):g}"
    return f"train.steps={2 * plan.config.train.steps}"


def findings_of(
    plan: Plan,
    sweep_state: SweepState,
    best: BestTrial,
    trial: Trial,
    score: float,
    answers: Answers | None,
) -> Findings:
    """What a sweep and its data say of what is missing."""
    config, corpus = plan.config, load_corpus(trial.data)
    weights = drawn_shares(trial.data, {name: len(rows) for name, rows in corpus.sources.items()})
    paths = {path for knob in config.sweep.space.values() for path in knob.paths}
    return Findings(
        score=score,
        steps=config.train.steps,
        longer=longer(plan),
        best_step=best.step,
        history=history_of(
            sweep_state.records[best.run or best.trial], sweep_state.metric, sweep_state.maximise
        ),
        metric=sweep_state.metric,
        training_answers=[row.answer for rows in corpus.sources.values() for row in rows],
        test_answers=[row.answer for row in corpus.test],
        weights=weights,
        searched_weights=any(
            path.startswith("data.sources.") and path.endswith((".weight", ".epochs"))
            for path in paths
        ),
        nearest_hold=None if answers is None else answers.nearest_hold.get("test"),
        shows_neighbours=trial.data.neighbours.count > 0,
    )
