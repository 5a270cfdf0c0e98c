"""What a sweep would cost beside its budget: the plan's lines, and the refusal of a budget that
cannot pay one trial to its first rung.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.config.budget import UNITS, Budget
from orchestrator.config.run_numbers import is_finalist
from orchestrator.config.settings import Config
from orchestrator.errors import ConfigError
from orchestrator.plan.cost import Estimate
from orchestrator.plan.finalists import final_plan
from orchestrator.plan.merge import EVENT as MIXTURES
from orchestrator.plan.merge import MergePlan
from orchestrator.plan.resources import Resources
from orchestrator.plan.sizing import is_sized
from orchestrator.plan.stretches import seconds_to_come, steps_to_come
from orchestrator.plan.timing import Phase, Timing
from orchestrator.storage.journal import Journal, Record
from orchestrator.storage.paths import sweep_folder
from orchestrator.storage.spending import Spending, Spent, spent_before

LEAST_TOLERANCE_SECONDS = 30.0
TOLERANCE_SHARE = 0.1


@dataclass(frozen=True)
class Account:
    """What a sweep has spent before this command."""

    spent: Spent = field(default_factory=Spent)
    scored: bool = False
    """Whether some trial has come to a rung, so that there is a model to judge."""
    merged: bool = False
    """Whether the mixes of mix.method=merge are chosen."""
    records: Mapping[int, Record] = field(default_factory=dict)
    """What is known of its trials, and of the runs of its finalists."""

    def left_seconds(self, config: Config, estimate: Estimate) -> float:
        """Planned seconds of the training that is to come, the finalists' with it."""
        reached, evaluated, alive = self.progress(config, estimate.phases)
        num_trials = max((phase.trials for phase in estimate.phases), default=1)
        final_steps = final_plan(config, num_trials).steps(config)
        again = sum(self.reached(index) for index in self.records if is_finalist(index))
        final_left = estimate.final * (1 - min(again / max(final_steps, 1), 1.0))
        return seconds_to_come(estimate.phases, reached, evaluated, alive) + final_left

    def left_steps(self, config: Config, estimate: Estimate) -> float:
        """Planned steps of the search that are to come."""
        reached, _, alive = self.progress(config, estimate.phases)
        return steps_to_come(estimate.phases, reached, alive)

    def progress(self, config: Config, phases: Sequence[Phase]) -> tuple[list[int], list[int], int]:
        """Where the trials are that train on, and where they were evaluated last, the furthest
        first; and how many have not ended.
        """
        trials = [record for index, record in self.records.items() if not is_finalist(index)]
        last = phases[-1].end if phases else 0
        going = [record for record in trials if not self.has_ended(record, last, config.retry)]
        alive = phases[0].trials - (len(trials) - len(going)) if phases else 0
        reached = sorted((self.reached(record.index) for record in going), reverse=True)
        evaluated = sorted((max(record.reports, default=0) for record in going), reverse=True)
        return reached, evaluated, max(alive, 0)

    def has_ended(self, record: Record, last: int, retry: bool) -> bool:
        """Whether a trial trains no more: one that has finished goes on where there are more steps
        now, and a failed one where it is tried again.
        """
        if record.state == "finished":
            return self.reached(record.index) >= last
        return record.state == "stopped" or (record.state == "failed" and not retry)

    def reached(self, index: int) -> int:
        """The last step of which something is kept of a trial."""
        record = self.records[index]
        return max([*record.reports, *record.checkpoints], default=0)


def account_of(config: Config, name: str) -> Account:
    """The account of the sweep of that name, by its journal."""
    folder = sweep_folder(config.storage, name)
    if config.fresh or not (folder / "journal.jsonl").exists():
        return Account()
    journal = Journal(folder)
    events = list(journal.events())
    kinds = {event["kind"] for event in events}
    return Account(spent_before(events), "report" in kinds, MIXTURES in kinds, journal.records())


def reserved(resources: Resources) -> tuple[float, float]:
    """CPU cores and GPUs that the workers of a sweep hold."""
    groups = resources.packs or resources.concurrent
    cpus = min(groups * resources.workers * resources.cpus, resources.num_cpus)
    return float(cpus), float(min(groups * resources.workers * resources.gpus, resources.num_gpus))


def spending_of(config: Config, resources: Resources, began: float, name: str) -> Spending:
    """The meter of a command of the sweep `name` that started at a moment of time.monotonic()."""
    return metered(config, resources, began, account_of(config, name).spent)


def metered(config: Config, resources: Resources, began: float, before: Spent) -> Spending:
    """A meter that counts on from what was spent before."""
    cpus, gpus = reserved(resources)
    return Spending(config.budget, config.cluster.prices, cpus, gpus, began, before)


def tolerance_seconds(limit_seconds: float) -> float:
    """By how much a sweep may go over a limit of so many seconds: what has begun when the limit
    comes, a rung of the leaders or the judgement, is brought to its end.
    """
    return LEAST_TOLERANCE_SECONDS + TOLERANCE_SHARE * max(limit_seconds, 0.0)


def amounts_of(spending: Spending, seconds: float, tokens: float) -> dict[str, float]:
    """What so many seconds of a command and so many tokens come to, by the names of limits."""
    amounts = {name: spending.per_second(name) * seconds for name in UNITS}
    return amounts | {"tokens": tokens}


def training_tokens(timing: Timing, steps: float) -> float:
    """Tokens of so many steps of trials, as a sweep counts them."""
    return steps * timing.batch * timing.rows.trained


def merging_tokens(timing: Timing, merge: MergePlan | None) -> float:
    """Tokens that the missing experts are trained on."""
    missing = [] if merge is None else merge.missing
    return training_tokens(timing, sum(expert.steps for expert in missing))


def check_budget(
    config: Config,
    resources: Resources,
    timing: Timing,
    account: Account,
    merge: MergePlan | None = None,
) -> None:
    """Raise ConfigError for a budget that cannot pay one trial to its first rung, with what is
    merged before it, and for a limit on what the sweep never spends.
    """
    budget = config.budget
    if not budget.is_set:
        return
    spending = metered(config, resources, time.monotonic(), account.spent)
    faults = []
    if budget.gpu_hours is not None and not spending.gpus:
        faults.append(("budget.gpu_hours", "has no effect: the sweep holds no GPU; leave it out"))
    if not account.scored:
        merging = None if account.merged else merge
        faults += unpaid(budget, spending, timing, merging)
    if faults:
        raise ConfigError(faults)


def unpaid(
    budget: Budget, spending: Spending, timing: Timing, merge: MergePlan | None = None
) -> list[tuple[str, str]]:
    """The limits that end the sweep before its first trial has been scored once; `merge` is what
    is merged before it.
    """
    train = timing.config.train
    steps = min(train.eval_every, train.steps)
    seconds = timing.start_seconds(1, 1) + timing.seconds(1, 0, steps, steps == train.steps)
    merging_seconds = 0.0 if merge is None else merge.seconds or 0.0
    seconds += merging_seconds
    tokens = training_tokens(timing, steps) + merging_tokens(timing, merge)
    remedy = "raise it, or lower train.eval_every"
    if is_sized(timing.config):
        remedy = "raise it, or plan a smaller sweep with sweep.minutes"
    first = f"one trial to its first rung, step {steps}"
    if merging_seconds:
        first = f"the experts, their mixes and {first}"
        remedy = "raise it, or lower mix.steps or mix.candidates"
    faults = []
    for name, needed in amounts_of(spending, seconds, tokens).items():
        limit = budget.amounts().get(name)
        before = getattr(spending.before, name)
        if limit is None or before + needed <= limit:
            continue
        spent = f", and {before:.3g} were spent before" if before else ""
        faults.append(
            (
                f"budget.{name}",
                f"{limit:g} cannot pay {first}: that takes "
                f"about {needed:.3g} {UNITS[name]} here{spent}; {remedy}",
            )
        )
    if budget.ends_at is not None and time.time() + seconds > budget.ends_at:
        faults.append(
            (
                "budget.deadline",
                f"{budget.deadline} comes before one trial is at its first rung, step {steps}, "
                f"about {seconds / 60:.2g} min from now; name a later one",
            )
        )
    return faults


def budget_lines(
    config: Config,
    resources: Resources,
    timing: Timing | None,
    estimate: Estimate | None,
    account: Account,
    merge: MergePlan | None = None,
) -> list[str]:
    """What the whole sweep, or what is left of it, would cost beside each limit."""
    budget = config.budget
    if timing is None or estimate is None or not budget.is_set:
        return []
    spending = metered(config, resources, time.monotonic(), account.spent)
    planned = sum(phase.seconds for phase in estimate.phases) + estimate.final
    seconds = estimate.seconds - planned + account.left_seconds(config, estimate)
    if account.merged and merge is not None:
        seconds -= merge.seconds or 0.0
    tokens = training_tokens(timing, account.left_steps(config, estimate))
    tokens += merging_tokens(timing, None if account.merged else merge)
    what = "what is left of the sweep" if account.scored else "the whole sweep"
    lines = []
    for name, needed in amounts_of(spending, seconds, tokens).items():
        limit = budget.amounts().get(name)
        if limit is None:
            continue
        before = getattr(account.spent, name)
        spent = f" ({before:.3g} spent before)" if before else ""
        is_short = before + needed > limit
        sized = is_short and name == "minutes" and is_sized(config)
        smaller = f"; sweep.minutes={limit:g} plans one that fits" if sized else ""
        lines.append(
            f"budget.{name}={limit:g}{spent}; {what} takes about {needed:.3g} {UNITS[name]}"
            f"{verdict(is_short)}{smaller}"
        )
    if budget.ends_at is not None:
        lines.append(
            f"budget.deadline={budget.deadline}; {what} takes about {seconds / 60:.3g} min"
            + verdict(time.time() + seconds > budget.ends_at)
        )
    left, _ = spending.left_seconds()
    if left < float("inf"):
        over = tolerance_seconds(left)
        lines.append(
            f"what has begun at a limit is ended: at most {over:.0f} s over it, on a machine as "
            "fast as estimated"
        )
    return lines


def verdict(is_short: bool) -> str:
    """Whether that fits."""
    if is_short:
        return ": it ends at the limit, with the best model so far"
    return ": that fits"
