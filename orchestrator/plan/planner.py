"""What a command would do: name, trials, resources, data and cost, before anything starts.

A pure function of the configuration, the data files, the base model if it lies ready, and the
machine. Downloads nothing, and writes nothing but counts and tokens of many rows (token_counts.py),
what checks say of them (data_checks.py) and the speed of this machine (machine.py) into the cache.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.base_models import fetch
from jobs.config import BaseModel, Trial
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import load_corpus, no_collection
from jobs.data.shares import by_epochs, epochs_of, weights_of
from jobs.data.tokenization import Example
from jobs.evaluation import registry
from jobs.files.safetensors_headers import tensor_shapes
from orchestrator.config import idle_settings
from orchestrator.config.executor import choose
from orchestrator.config.search_space import Point, grid_size
from orchestrator.config.settings import MOST_TRIALS, Config
from orchestrator.config.validation import trial_of
from orchestrator.errors import ConfigError, InputError
from orchestrator.plan import search_start, sizes
from orchestrator.plan.advice import advice, exhausted
from orchestrator.plan.answer_limit import AnswerLimit
from orchestrator.plan.budget import Account, account_of, check_budget
from orchestrator.plan.cost import Estimate, estimate
from orchestrator.plan.data_checks import CheckReport, check_data
from orchestrator.plan.data_statistics import Share, marked_text, measure, supervised
from orchestrator.plan.finalists import FinalPlan, few_trials, final_plan
from orchestrator.plan.machine import ThisMachine, look
from orchestrator.plan.merge import MergePlan, known_first, merge_notes, merge_plan
from orchestrator.plan.metric import with_chosen_metric
from orchestrator.plan.mixes import (
    check_lasting,
    lasting_notes,
    limited,
    mix_notes,
    with_natural,
)
from orchestrator.plan.neighbours import NeighbourPlan, check_neighbours
from orchestrator.plan.points import first_points, size
from orchestrator.plan.resources import Node, Resources, divide, this_machine
from orchestrator.plan.rungs import rung_steps
from orchestrator.plan.search_start import Start
from orchestrator.plan.shipping import ShippingPlan, SizeConstraint, shipping_plan
from orchestrator.plan.sweep_identity import identity
from orchestrator.plan.task import Task, with_experiment
from orchestrator.plan.timing import Timing
from orchestrator.storage import staging

MOST_COMPARED = 2_000  # trials that are compared with one another for the plan


@dataclass(frozen=True)
class Plan:
    """One command, thought through."""

    name: str
    config: Config
    base: BaseModel | None
    """None: not on disk yet."""
    num_trials: int
    trials: list[Trial]
    """The trials in order. Under optuna none is known before results are in."""
    rungs: list[int]
    """Steps after which trials are compared; the last is train.steps."""
    resources: Resources
    sources: dict[str, Share]
    num_valid: int
    num_test: int
    digests: dict[str, str]
    notes: list[str]
    example: Example | None
    supervised_text: str
    """The part of the example that carries loss."""
    estimate: Estimate | None
    final: FinalPlan
    """What the finalists need beside the trials."""
    machine: str | None = None
    """How fast this machine is and what follows from it, in words; None where it was not
    measured.
    """
    sizes: str | None = None
    """The settings that sweep.minutes has come to, as they are typed; None where they were all
    chosen.
    """
    start: Start = field(default_factory=Start)
    """Where the search begins: ranges that were left open, and the first trials' values."""
    timing: Timing | None = None
    """How long the parts of the sweep take; None without the base model."""
    machine_key: str = ""
    neighbours: NeighbourPlan | None = None
    """What stands before each question; None where nothing does, or the base is not here."""
    limit: AnswerLimit | None = None
    """How long an answer may be; None where the base is not here."""
    shapes: dict[str, str] = field(default_factory=dict)
    """What the files of "valid", "test" and each "sources.NAME" were read as, in words."""
    marked_text: str = ""
    """The example with what carries loss between guillemets."""
    held_out: dict[str, Share] = field(default_factory=dict)
    """The rows of valid and test."""
    checks: CheckReport = field(default_factory=CheckReport)
    """What the checks of the rows say."""
    merge: MergePlan | None = None
    """Experts whose merged updates choose the mixes; None where each mix is trained."""
    account: Account = field(default_factory=Account)
    """What earlier commands of the sweep have spent, where it has a budget."""
    shipping: ShippingPlan | None = None
    """The files that are made of the winner; None where none is."""

    @property
    def task(self) -> Task:
        """What the winner is registered for."""
        return Task(self.digests["test"], self.config.data.instruction, self.config.sweep.metric)

    @property
    def num_runs(self) -> int:
        """Trials, and runs of finalists from the start."""
        return self.num_trials + self.final.new_runs

    @property
    def num_scored(self) -> int:
        """On how many validation rows trials are compared at a rung."""
        sweep = self.config.sweep
        if sweep.metric_rows is None or not registry.needs_text(sweep.metric):
            return self.num_valid
        return min(sweep.metric_rows, self.num_valid)

    @property
    def max_new_tokens(self) -> int | None:
        """Tokens of an answer at most; None while nobody knows."""
        return self.config.job.max_new_tokens if self.limit is None else self.limit.tokens

    def trial_of(self, index: int, point: Point) -> Trial:
        """Trial `index` with the settings of a point, as far as its sources last."""
        rows = {name: share.rows for name, share in self.sources.items()}
        return limited(trial_of(self.config, index, point), rows)

    def with_notes(self, *notes: str) -> Plan:
        """The same plan with more to say."""
        return dataclasses.replace(self, notes=[*self.notes, *notes])


@no_collection()
def make(
    config: Config, nodes: tuple[Node, ...] | None = None, is_account_here: bool = True
) -> Plan:
    """The plan of a checked configuration for a cluster's nodes, or for this machine. A budget is
    checked where `is_account_here`: what earlier commands have spent and scored. Raises ConfigError
    or InputError for data, models and requests that cannot be used.
    """
    try:
        corpus = load_corpus(config.data)
        base = fetch.locate(config.model)
        template = None if base is None else ChatTokenizer(base.path)
    except ValueError as error:
        raise InputError(str(error)) from error
    config, chosen = with_chosen_metric(config, corpus)
    config = with_natural(with_experiment(config, corpus.digests["test"]), corpus)
    count_trials(config)
    executor, reason = choose(config)
    nodes = nodes or this_machine(config)
    asked = idle_settings.check_instruction(config, corpus)
    check_neighbours(config, corpus)
    measured = measure(config, corpus, template)
    checks = check_data(config, corpus, template, measured.counts)
    if not config.dry_run:
        checks.refuse()
    shipping = shipping_plan(config, base)
    constraint = None if shipping is None else shipping.constraint
    name = f"{config.sweep.name}-{identity(config, corpus.fingerprint, base, constraint)[:6]}"
    machine = ThisMachine(None) if base is None else look(config)
    config, sized = sizes.decided(config, name, nodes, base, corpus, measured, machine)
    record = sizes.choices_of(config, name)["search"]
    config, start = search_start.started(config, name, base, corpus, measured, record)
    num_trials = count_trials(config)
    resources = divide(config, num_trials, nodes, executor)
    rows = {name: len(source) for name, source in corpus.sources.items()}
    trials = [limited(trial, rows) for trial in known_trials(config, num_trials, constraint)]
    check_weights(trials)
    check_lasting(trials or [trial_of(config, 1, {})], rows)
    check_targets(trials or [trial_of(config, 1, {})], base)
    final = final_plan(config, num_trials)
    timing = sizes.timing(config, num_trials, nodes, base, corpus, measured, machine)
    merge = merge_plan(config, num_trials, base, corpus, timing)
    account = account_of(config, name) if config.budget.is_set else Account()
    if timing is not None and config.runs_here and is_account_here:
        check_budget(config, resources, timing, account, merge)
    return Plan(
        name=name,
        config=config,
        base=base,
        num_trials=num_trials,
        trials=trials,
        rungs=rung_steps(config),
        resources=resources,
        sources=measured.sources,
        num_valid=len(corpus.valid),
        num_test=len(corpus.test),
        digests=corpus.digests,
        notes=[
            *corpus.notes,
            *chosen,
            *asked,
            *checks.notes,
            *measured.notes,
            *sized.notes,
            *search_start.notes(config, start),
            *exhausted(config, num_trials),
            *lasting_notes(config, trials),
            *mix_notes(config, num_trials),
            *merge_notes(config, merge),
            *alike(trials),
            *few_trials(config, num_trials),
            *advice(config, reason),
            *staging.notes(config, base),
        ],
        example=measured.example,
        supervised_text=supervised(config, measured.example, template),
        marked_text=marked_text(config, measured.example, template),
        estimate=None if timing is None else estimate(timing, num_trials, final, merge),
        final=final,
        machine=sized.machine,
        sizes=with_settings(sized.settings, start),
        start=start,
        timing=timing,
        machine_key=machine.key,
        neighbours=measured.neighbours,
        limit=measured.limit,
        shapes=corpus.shapes,
        held_out=measured.held_out,
        checks=checks,
        merge=merge,
        account=account,
        shipping=shipping,
    )


def with_settings(sizes: str | None, start: Start) -> str | None:
    """The sizes that were decided, with what was decided of the search."""
    return None if sizes is None else " ".join([sizes, *start.settings()])


def unpacked(plan: Plan) -> Plan:
    """The same plan with a worker group for each trial."""
    resources = divide(plan.config, plan.num_trials, plan.resources.nodes)
    timing = None if plan.timing is None else plan.timing.with_resources(resources)
    return dataclasses.replace(plan, resources=resources, timing=timing)


def count_trials(config: Config) -> int:
    """How many trials the sweep has: no more than the search space holds different ones. Raises
    ConfigError when grid search is asked for more than there are.
    """
    combinations = grid_size(as_grid(config).sweep.space)
    wanted = config.sweep.num_trials
    only_grid = all(
        knob.type in ("grid", "linked") for knob in as_grid(config).sweep.space.values()
    )
    if wanted is not None and only_grid and wanted > combinations:
        text = (
            f"{wanted} is more than the {combinations} different combinations of the search space; "
            "leave it out to try them all"
        )
        text = (
            text
            if config.sweep.space
            else (
                f"there is nothing to try {wanted} times without a search space; add one, such as "
                "+sweep=lora"
            )
        )
        text += (
            f" (not searched, because they do not exist: {', '.join(config.skipped)})"
            if config.skipped
            else ""
        )
        raise ConfigError([("sweep.num_trials", text)])
    if wanted is None and combinations > MOST_TRIALS:
        text = (
            f"must be set: the search space has {combinations:,} combinations, and a sweep at most "
            f"{MOST_TRIALS:,} trials"
        )
        raise ConfigError([("sweep.num_trials", text)])
    return int(min(wanted or combinations, size(as_grid(config).sweep.space)))


def alike(trials: list[Trial]) -> list[str]:
    """A note where trials of different settings compute the same, because what they differ in has
    no effect.
    """
    indices_by_settings: dict[str, list[int]] = {}
    for trial in trials[:MOST_COMPARED]:
        indices_by_settings.setdefault(repr(effective(trial)), []).append(trial.index)
    groups = [
        ", ".join(map(str, indices)) for indices in indices_by_settings.values() if len(indices) > 1
    ]
    text = (
        f"trials {groups[0]} compute the same: they differ in settings that have no effect together"
        if groups
        else ""
    )
    return (
        [text + (f"; so do {len(groups) - 1} other groups" if len(groups) > 1 else "")]
        if groups
        else []
    )


def effective(trial: Trial) -> list[Any]:
    """What of a trial's settings decides its result."""
    adapter = dataclasses.asdict(trial.adapter)
    optim = dataclasses.asdict(trial.optim)
    data = trial.data
    if by_epochs(data.sources):
        weights = {name: epochs_of(data.sources, name) for name in data.sources}
    else:
        total = sum(source.weight for source in data.sources.values()) or 1.0
        weights = {name: round(source.weight / total, 12) for name, source in data.sources.items()}
    shown = dataclasses.astuple(data.neighbours) if data.neighbours.count else 0
    if trial.adapter.kind == "full":
        adapter = {"kind": "full"}
    if trial.optim.schedule != "warmup_stable_decay":
        del optim["decay_share"]
    rows = [weights, data.instruction, shown]
    return [trial.seed, adapter, optim, trial.train.batch_size, *rows]


def has(config: Config, num_trials: int) -> bool:
    """Whether the search space holds so many different trials, and a sweep may have so many."""
    return num_trials <= min(size(as_grid(config).sweep.space), MOST_TRIALS)


def as_grid(config: Config) -> Config:
    """Under sweep.search=grid every choice is a grid."""
    if config.sweep.search != "grid":
        return config
    space = {k: v.as_grid() if v.type == "choice" else v for k, v in config.sweep.space.items()}
    return dataclasses.replace(config, sweep=dataclasses.replace(config.sweep, space=space))


def known_trials(
    config: Config, num_trials: int, constraint: SizeConstraint | None = None
) -> list[Trial]:
    """The trials that can be told in advance."""
    if config.sweep.search == "optuna" and config.sweep.space:
        return []
    num_trials = min(num_trials, known_first(config) or num_trials)
    space = as_grid(config).sweep.space
    points = first_points(space, config.seed, num_trials, constraint and constraint.allows)
    return [trial_of(config, index, each) for index, each in enumerate(points, start=1)]


def check_weights(trials: list[Trial]) -> None:
    """Raise ConfigError for a trial that would draw from no source."""
    for trial in trials:
        sources = trial.data.sources
        kind = "epochs" if by_epochs(sources) else "weight"
        weights = [f"data.sources.{name}.{kind}" for name in sources]
        if not any(weights_of(sources, dict.fromkeys(sources, 1)).values()):
            raise ConfigError(
                [
                    (
                        "sweep.space",
                        f"trial {trial.index} would train on nothing: {', '.join(weights)} are 0; "
                        "raise a `low`",
                    )
                ]
            )


def check_targets(trials: list[Trial], base: BaseModel | None) -> None:
    """Raise ConfigError for names in adapter.targets of which the base model has no layer."""
    asked = {trial.adapter.targets for trial in trials if trial.adapter.kind == "lora"} - {
        "all-linear"
    }
    names = tensor_shapes(Path(base.path)) if asked and base is not None else {}
    layers = {name.rpartition(".")[0] for name in names}
    for target in sorted({name.strip() for targets in asked for name in targets.split(",")}):
        if layers and not any(layer == target or layer.endswith(f".{target}") for layer in layers):
            ends = sorted({layer.rsplit(".", 1)[-1] for layer in layers if ".0." in layer})
            raise ConfigError(
                [
                    (
                        "adapter.targets",
                        f'"{target}" is no layer of the base model; layers are {", ".join(ends)}',
                    )
                ]
            )
