"""What the result tells of a budget: what it has ended, and what more of it would likely buy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from jobs.files.json_types import JsonObject
from orchestrator.config.budget import UNITS
from orchestrator.output.console import plural
from orchestrator.sweep.allowance import Allowance

if TYPE_CHECKING:
    from orchestrator.sweep.state import SweepState

ROUND_DIGITS = 2
MARGIN = 1.1
"""What an estimate of the rest is taken for, so that the suggested limit is enough."""


def budget_record(board: SweepState) -> JsonObject | None:
    """The budget's limits, which of them has ended something, what that was and what helps; None
    without a budget.
    """
    allowance: Allowance = board.allowance
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
        record["lines"] = [ended(board), *more(board)]
        record["wider"] = larger(board)
    return record


def ended(board: SweepState) -> str:
    """What the budget has ended, and where."""
    allowance = board.allowance
    records = {record.index: record for record in board.asked_for()}
    never = sum(index not in records or not records[index].reports for index in board.numbers())
    best = board.best()
    phrases = [f"budget.{allowance.limit} has ended the training"]
    if best is not None:
        reached = max(best.reports, default=0)
        phrases.append(f"the best trial stands at step {reached} of {board.config.train.steps}")
    if never:
        phrases.append(f"{plural(never, 'trial')} of {board.total()} were not scored")
    return ": ".join([phrases[0], ", ".join(phrases[1:])]) if len(phrases) > 1 else phrases[0]


def more(board: SweepState) -> list[str]:
    """What more would likely buy."""
    setting = larger(board)
    if setting is None:
        return []
    bought = f"{setting} would likely finish the sweep"
    best = board.best()
    if best is None:
        return [bought]
    values = [
        (step, report[board.metric])
        for step, report in sorted(best.reports.items())
        if board.metric in report and math.isfinite(report[board.metric])
    ]
    if len(values) < 2:
        return [bought]
    (before_step, before), (step, last) = values[-2:]
    gained = last - before if board.maximise else before - last
    change = f"{board.metric} {before:.3g} at step {before_step}, {last:.3g} at step {step}"
    if gained > 0:
        return [f"{bought}; the best trial was still getting better ({change})"]
    return [f"{bought}; the best trial had stopped getting better ({change})"]


def larger(board: SweepState) -> str | None:
    """The setting that would pay the whole sweep, as the plan and what is done tell; None for a
    deadline, which nobody can move by an amount.
    """
    allowance = board.allowance
    limits, name = allowance.limits, allowance.limit
    if limits is None or name is None or name not in UNITS:
        return None
    spent = getattr(limits.now(), name)
    timing, estimate = board.plan.timing, board.plan.estimate
    if name == "tokens":
        if timing is None or estimate is None:
            return None
        steps = sum(phase.steps for phase in estimate.phases)
        needed = MARGIN * steps * board.config.train.batch_size * timing.rows.tokens
        return f"budget.tokens={max(rounded_up(needed), 2 * spent):.0f}"
    left = getattr(board.screen, "left", None)
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
