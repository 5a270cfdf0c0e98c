"""What the result tells of a budget: what it has ended, and what more of it would likely buy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from jobs.files.json_types import JsonObject
from orchestrator.config.budget import UNITS
from orchestrator.output.console import plural
from orchestrator.plan.budget import training_tokens
from orchestrator.sweep.allowance import Allowance

if TYPE_CHECKING:
    from orchestrator.sweep.state import SweepState

ROUND_DIGITS = 2
MARGIN = 1.1
"""What an estimate of the rest is taken for, so that the suggested limit is enough."""


def budget_record(sweep_state: SweepState) -> JsonObject | None:
    """The budget's limits, which of them has ended something, what that was and what helps; None
    without a budget.
    """
    allowance: Allowance = sweep_state.allowance
    if allowance.limits is None:
        return None
    budget = allowance.limits.budget
    record: JsonObject = {
        "limits": {**budget.amounts()},
        "deadline": budget.deadline,
        "reached": allowance.limit if allowance.closed else None,
        "lines": [],
    }
    if record["reached"] is not None:
        record["lines"] = [ended(sweep_state), *more(sweep_state)]
        record["wider"] = larger(sweep_state)
    return record


def ended(sweep_state: SweepState) -> str:
    """What the budget has ended, and where."""
    allowance = sweep_state.allowance
    records = {record.index: record for record in sweep_state.asked_for()}
    never = sum(
        index not in records or not records[index].reports for index in sweep_state.numbers()
    )
    best = sweep_state.best()
    phrases = [f"budget.{allowance.limit} has ended the training"]
    if best is not None:
        reached = max(best.reports, default=0)
        phrases.append(
            f"the best trial stands at step {reached} of {sweep_state.config.train.steps}"
        )
    if never:
        phrases.append(f"{plural(never, 'trial')} of {sweep_state.total()} were not scored")
    return ": ".join([phrases[0], ", ".join(phrases[1:])]) if len(phrases) > 1 else phrases[0]


def more(sweep_state: SweepState) -> list[str]:
    """What more would likely buy."""
    setting = larger(sweep_state)
    if setting is None:
        return []
    bought = f"{setting} would likely finish the sweep"
    best = sweep_state.best()
    if best is None:
        return [bought]
    values = [
        (step, report[sweep_state.metric])
        for step, report in sorted(best.reports.items())
        if sweep_state.metric in report and math.isfinite(report[sweep_state.metric])
    ]
    if len(values) < 2:
        return [bought]
    (before_step, before), (step, last) = values[-2:]
    gained = last - before if sweep_state.maximise else before - last
    change = f"{sweep_state.metric} {before:.3g} at step {before_step}, {last:.3g} at step {step}"
    if gained > 0:
        return [f"{bought}; the best trial was still getting better ({change})"]
    return [f"{bought}; the best trial had stopped getting better ({change})"]


def larger(sweep_state: SweepState) -> str | None:
    """The setting that would pay the whole sweep, as the plan and what is done tell; None for a
    deadline, which nobody can move by an amount.
    """
    allowance = sweep_state.allowance
    limits, name = allowance.limits, allowance.limit
    if limits is None or name is None or name not in UNITS:
        return None
    spent = getattr(limits.now(), name)
    timing, estimate = sweep_state.plan.timing, sweep_state.plan.estimate
    if name == "tokens":
        if timing is None or estimate is None:
            return None
        steps = sum(phase.steps for phase in estimate.phases)
        merge = sweep_state.plan.merge
        steps += 0 if merge is None else sum(expert.steps for expert in merge.experts)
        needed = MARGIN * training_tokens(timing, steps)
        return f"budget.tokens={max(rounded_up(needed), 2 * spent):.0f}"
    left = getattr(sweep_state.screen, "left", None)
    seconds = left.seconds() if left is not None else 0.0
    needed = spent + MARGIN * limits.per_second(name) * max(seconds, allowance.judging_seconds())
    limit = limits.budget.amounts()[name]
    return f"budget.{name}={rounded_up(max(needed, MARGIN * limit)):g}"


def rounded_up(amount: float) -> float:
    """An amount with two digits that count, never less than it was."""
    if amount <= 0:
        return amount
    scale = 10 ** (math.floor(math.log10(amount)) - ROUND_DIGITS + 1)
    return math.ceil(amount / scale) * scale
