"""What the plan decides of a sweep by measurement: its number format, and its size where
sweep.minutes leaves that open.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.evaluation import registry
from orchestrator.config.executor import choose as choose_executor
from orchestrator.config.left_open import MINUTES
from orchestrator.config.settings import Config
from orchestrator.plan import points, sizing
from orchestrator.plan.cost import timing_of
from orchestrator.plan.finalists import final_plan
from orchestrator.plan.hidden_reuse import SourceRows
from orchestrator.plan.machine import ThisMachine, with_format
from orchestrator.plan.merge import all_seconds
from orchestrator.plan.mixes import lasting_examples
from orchestrator.plan.model_shape import shape_of
from orchestrator.plan.resources import Node, divide
from orchestrator.plan.row_counts import RowCounts
from orchestrator.plan.sizing import Sizes, TooShort
from orchestrator.plan.timing import Timing
from orchestrator.storage.paths import sweep_folder

if TYPE_CHECKING:
    from jobs.config import BaseModel
    from jobs.data.corpus import Corpus
    from orchestrator.plan.data_statistics import Measured


@dataclass(frozen=True)
class Decided:
    """What is said of it."""

    notes: tuple[str, ...] = ()
    machine: str | None = None
    settings: str | None = None


def decided(
    config: Config,
    name: str,
    nodes: tuple[Node, ...],
    base: BaseModel | None,
    corpus: Corpus,
    measured: Measured,
    machine: ThisMachine,
) -> tuple[Config, Decided]:
    """The configuration with what was left open, as the sweep's first run has chosen it or as this
    machine's speed says. Raises ConfigError for a time that is too short.
    """
    kept = choices_of(config, name)
    config, reason = with_format(config, machine, kept["dtype"])
    told = None
    if machine.speed is not None:
        told = machine.speed.describe() + (f"; {reason}" if reason else "")
    if not sizing.is_sized(config):
        return config, Decided(machine=told)
    if base is None or not config.runs_here:
        when = "once the base model is here" if base is None else "where the command runs"
        left = "the sizes of the sweep follow from sweep.minutes"
        return config, Decided((f"{left}={config.sweep.minutes:g} {when}",), told)
    chosen = sizing.parsed(kept["sizes"].get(sizing.name_of(config)))
    notes: tuple[str, ...] = ()
    if chosen is None:
        sizer = Sizer(config, nodes, base, corpus, measured, machine)
        chosen, notes = sizer.chosen(kept["sizes"])
    config = sizing.with_sizes(config, chosen)
    return config, Decided(notes, told, chosen.settings(config.train.dtype))


def choices_of(config: Config, name: str) -> dict[str, Any]:
    """What the sweep's first run has chosen; nothing where it starts anew."""
    if config.fresh:
        return {"sizes": {}, "dtype": None, "search": None}
    return sizing.read_choices(sweep_folder(config.storage, name))


class Sizer:
    """Finds the size of a sweep for its time."""

    def __init__(
        self,
        config: Config,
        nodes: tuple[Node, ...],
        base: BaseModel,
        corpus: Corpus,
        measured: Measured,
        machine: ThisMachine,
    ) -> None:
        self.config = config
        self.timing_arguments = nodes, base, corpus, measured, machine
        self.rows = {name: len(rows) for name, rows in corpus.sources.items()}
        self.measured = machine.speed is not None

    def seconds(self, num_trials: int, steps: int, eval_every: int) -> float:
        """What a sweep of that size takes."""
        config = sizing.with_sizes(self.config, Sizes(num_trials, steps, eval_every))
        found = timing(config, num_trials, *self.timing_arguments)
        assert found is not None
        search = found.total(num_trials, final_plan(config, num_trials))
        return search + all_seconds(config, found)

    def chosen(self, kept: dict[str, object]) -> tuple[Sizes, tuple[str, ...]]:
        """The size, and what is to be said of it."""
        config = self.config
        minutes = config.sweep.minutes or 0.0
        space = points.size(config.sweep.space) if config.sweep.space else 1
        limits = sizing.limits_of(config, self.rows, space, kept)
        notes = []
        try:
            found = sizing.choose(self.seconds, 60 * minutes, limits)
        except TooShort as error:
            if MINUTES not in config.left_open:
                raise sizing.too_short(config, error) from None
            found = error.smallest
            smallest = "the smallest sweep"
            if kept:
                smallest += " that goes on from what is done"
            notes.append(
                f"sweep.minutes={minutes:g} is too short here: {smallest} takes about "
                f"{error.seconds / 60:.0f}"
            )
        took = self.seconds(found.num_trials, found.steps, found.eval_every)
        unit = limits.eval_every or found.steps // found.eval_every
        at_most = found.steps + unit > limits.most_steps
        if limits.steps is None and took < 0.8 * 60 * minutes and at_most:
            notes.append(
                f"sweep.minutes={minutes:g} is more than these rows need: "
                f"{sizing.why_no_more(config, self.rows, found.steps)}"
            )
        if not self.measured:
            notes.append(
                "the machines that train were not measured: sweep.minutes is reckoned with an "
                "assumed rate"
            )
        return found, tuple(notes)


def timing(
    config: Config,
    num_trials: int,
    nodes: tuple[Node, ...],
    base: BaseModel | None,
    corpus: Corpus,
    measured: Measured,
    machine: ThisMachine,
) -> Timing | None:
    """How long the parts of a sweep take; None without the base model."""
    if base is None:
        return None
    executor, _ = choose_executor(config)
    resources = divide(config, num_trials, nodes, executor)
    scored = len(corpus.valid)
    if config.sweep.metric_rows is not None and registry.needs_text(config.sweep.metric):
        scored = min(scored, config.sweep.metric_rows)
    rows = RowCounts(
        tokens=measured.mean_tokens,
        answer=measured.mean_answer,
        valid=len(corpus.valid),
        scored=scored,
        test=len(corpus.test),
        reply=measured.mean_answer if measured.limit is None else measured.limit.mean,
        limit=measured.mean_answer if measured.limit is None else measured.limit.tokens,
        shown=0.0 if measured.neighbours is None else measured.neighbours.mean_tokens,
        sources=tuple(SourceRows(share.share, share.rows) for share in measured.sources.values()),
        length=measured.mean_length,
        lasting=lasting_examples(config.data, {n: len(rows) for n, rows in corpus.sources.items()}),
    )
    return timing_of(config, shape_of(Path(base.path)), rows, resources, machine)
