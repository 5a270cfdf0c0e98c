"""Which training the finalists of a sweep will need, as far as the configuration tells. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.settings import Config, Final
from orchestrator.plan.rungs import rung_steps, survivors


@dataclass(frozen=True)
class FinalPlan:
    """The finalists before anything has run."""

    count: int
    """Trials that are finalists; 0 where there are no others to choose from."""
    new_runs: int
    """Runs from the start, under other seeds or with another schedule."""
    longer_steps: int
    """Steps at most by which finalists that were stopped early go on, all together."""

    @property
    def trains(self) -> bool:
        """Whether anything may be trained after the sweep."""
        return self.new_runs > 0 or self.longer_steps > 0

    def steps(self, config: Config) -> int:
        """Optimizer steps at most that the finalists take."""
        return self.new_runs * config.train.steps + self.longer_steps


def falls(config: Config) -> bool:
    """Whether some trial's learning rate falls to its end, so that one that was stopped is not
    done.
    """
    schedules = {config.optim.schedule}
    for knob in config.sweep.space.values():
        if knob.path == "optim.schedule":
            schedules = {str(value) for value in knob.values or ()}
    return schedules != {"constant"}


def final_plan(config: Config, num_trials: int) -> FinalPlan:
    """What the finalists of a sweep of so many trials need."""
    if not config.sweep.space or num_trials == 1 or config.final.count == 0:
        return FinalPlan(0, 0, 0)
    count = min(config.final.count, num_trials)
    if config.final.schedule is not None:
        return FinalPlan(count, count * config.final.seeds, 0)
    new_runs = count * (config.final.seeds - 1)
    to_the_end = config.final.seeds > 1 or falls(config)
    return FinalPlan(count, new_runs, longer_steps(config, num_trials, count) if to_the_end else 0)


def longer_steps(config: Config, num_trials: int, count: int) -> int:
    """Steps by which the `count` best trials go on, where the worse of them were stopped as soon as
    they could be.
    """
    rungs = rung_steps(config)
    if config.sweep.scheduler == "none":
        return 0
    ended = survivors(num_trials, rungs, config.sweep.reduction)
    left = 0
    for rank in range(1, count + 1):
        reached = max(rung for rung, alive in zip(rungs, ended, strict=True) if alive >= rank)
        left += config.train.steps - reached
    return left


def few_trials(config: Config, num_trials: int) -> list[str]:
    """A note where more finalists are asked for than there are trials."""
    count = config.final.count
    if num_trials == 1 or num_trials >= count or count == Final().count:
        return []
    return [f"final.count={count}, but there are {num_trials} trials: all of them are finalists"]


def describe(config: Config, plan: FinalPlan) -> str:
    """The plan's line about the finalists."""
    best = "the best trial" if plan.count == 1 else f"the {plan.count} best trials"
    judged = min(config.final.judged, plan.count)
    which = "the best one is judged"
    if judged > 1:
        which = f"{judged} are judged, and of those that tie the smallest is registered"
    if not plan.trains:
        return f"{best} by {config.sweep.metric}; nothing is trained again, {which}"
    told = []
    if plan.new_runs:
        kind = f" with optim.schedule={config.final.schedule}" if config.final.schedule else ""
        seeds = f"{config.final.seeds} seed" + ("s" if config.final.seeds > 1 else "")
        runs = f"{plan.new_runs} more run" + ("s" if plan.new_runs > 1 else "")
        told.append(f"under {seeds}{kind}: {runs} of {config.train.steps} steps")
    if plan.longer_steps:
        told.append(f"those stopped early go on to the end, at most {plan.longer_steps} steps")
    if judged == 1:
        which = f"the best mean {config.sweep.metric} is judged"
    return f"{best}, {'; '.join(told)}; {which}"
