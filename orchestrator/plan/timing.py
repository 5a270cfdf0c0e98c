"""How long the parts of a sweep take on a machine of a given speed: steps, evaluations, starts and
the judgement. Pure.

Counted are the floating-point operations of the matrix products, which are most of the work of all
but the smallest models; to these come what each layer costs whatever it multiplies, and what
starting a process costs. The constants were measured on two cores; docs/speed.md shows the
estimates beside the truth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from jobs.evaluation import registry
from orchestrator.config.settings import Config
from orchestrator.plan.batch_sizes import mean_batch
from orchestrator.plan.finalists import FinalPlan
from orchestrator.plan.hidden_reuse import fresh_examples, is_kept
from orchestrator.plan.mixes import batches_apart
from orchestrator.plan.model_shape import Shape
from orchestrator.plan.resources import Resources
from orchestrator.plan.row_counts import RowCounts
from orchestrator.plan.rungs import rung_steps, survivors

EFFICIENCY = 0.65
"""The share of the machine's matrix rate that a pack's step reaches."""
ALONE_EFFICIENCY = 0.4
"""The same of a trial that trains by itself."""
JUDGING_EFFICIENCY = 0.7
"""The same of rows that are answered together: of their prompts, and of the tokens of answers. What
is left of it, attention and adapters, is no quicker in a format in which products are.
"""
LOSS_SHARE = 1.25
"""What the head and the loss over all words cost in training, as a multiple of the head's products.
"""
STEP_SECONDS = 0.01
LAYER_SECONDS = 0.0008
"""What a pass through one layer costs beside its products, for each trial that it serves apart."""
TOKEN_SECONDS = 0.001
"""The same for one layer and one token of an answer, which are made one after the other, for all
rows that are answered together.
"""
UNEVEN = 1.15
"""What answers of different lengths cost, as a multiple of as many of one length: the last ones of
those that are answered together go on with few rows.
"""
ROOM_TOKENS = 1 << 14
"""Tokens of rows that are answered together; see jobs/evaluation/generate.py."""
ROOM_ROWS = 256
START_SECONDS = 9.0
"""From the command to Ray's first process."""
FIRST_STEP_SECONDS = 12.0
"""From there to the first step: workers import what they need and load the base."""
SECONDS_PER_JOB = 25.0
"""A Ray Train job of a trial that trains by itself, from its start to the first step."""
FINAL_START_SECONDS = 8.0
"""The same of the finalists' training, on a Ray that runs."""
JUDGING_START_SECONDS = 10.0
END_SECONDS = 3.0
"""Export and registration."""
SECONDS_PER_TRIAL = 0.1
USUAL_IMPORT_SECONDS = 1.1
"""Processor time that importing torch takes where the seconds above were measured."""
WITH_EXAMPLES = 1.2
"""What answering a prompt with examples costs, as a multiple of one without: they are the same for
all rows, and go through the model once, but each token of an answer attends to them.
"""
MOST_RAMBLING = 8
"""So many times as long as right ones the answers of a trial are at most, once it has trained."""
HARDLY_TRAINED = 0.75
"""How far from the right answers' length to the limit those of a trial at its rungs are, the last
one aside.
"""


@dataclass(frozen=True)
class TestAnswers:
    """Seconds in which all test rows are answered, by what answers them."""

    __test__ = False  # no test of pytest's

    trained: float
    base: float
    with_examples: float


@dataclass(frozen=True)
class Speed:
    """How fast the machines are that train."""

    flops: float
    """Of all that trains at once, in the base's number format."""
    judging_flops: float
    """Of one machine, or of one of its GPUs: one process judges a model."""
    starts: float
    """How long starting a process takes, as a multiple of the usual."""
    origin: str
    measured: bool = False
    """Whether the figures are of this machine rather than assumed."""
    efficiency: float = 1.0
    """How much faster or slower an earlier sweep was than its estimate."""


@dataclass(frozen=True)
class Phase:
    """A stretch of the sweep in which the same number of trials train."""

    trials: int
    begin: int
    end: int
    seconds: float
    evaluating: float = 0.0
    """The seconds of these in which the validation rows are met."""
    every: int = 1
    """Steps between two evaluations; there is one at the end, too."""

    @property
    def steps(self) -> int:
        """Steps of all its trials together."""
        return self.trials * (self.end - self.begin)


class Timing:
    """The seconds of a sweep's parts."""

    def __init__(
        self,
        config: Config,
        shape: Shape,
        rows: RowCounts,
        resources: Resources,
        speed: Speed,
        upper: float,
    ) -> None:
        """`upper` is the share of the layers that learn."""
        self.config = config
        self.shape = shape
        self.rows = rows
        self.resources = resources
        self.speed = speed
        self.upper = upper
        self.batch = mean_batch(config)

    def with_resources(self, resources: Resources) -> Timing:
        """The same sweep on other shares of the machines."""
        return Timing(self.config, self.shape, self.rows, resources, self.speed, self.upper)

    def step_seconds(self, trials: int, fresh: float = 1.0) -> float:
        """A step of so many trials that train at once; `fresh` is the share of its rows that no
        step before has met.
        """
        below, above, head = self.example_flops()
        slots = self.slots(trials)
        different = slots
        if self.resources.packs and self.resources.workers == 1:
            different = min(slots, batches_apart(self.config))
        flops = self.batch * (different * below * fresh + slots * (above + head))
        seconds = flops / (self.group_flops * self.training_efficiency)
        layers = self.shape.layers * (1 + self.upper * slots) * LAYER_SECONDS
        return (seconds + (STEP_SECONDS + layers) * self.speed.starts) / self.speed.efficiency

    @property
    def groups(self) -> int:
        """What trains side by side, each with its own part of the machines: packs, or trials."""
        return max(self.resources.packs or self.resources.concurrent, 1)

    @property
    def group_flops(self) -> float:
        """The rate of one of these, which it has however few of them have something to do."""
        return self.speed.flops / self.groups

    @property
    def answering_flops(self) -> float:
        """The rate at which one of these answers validation rows: products are made at its own,
        what else there is to do at that of float32.
        """
        plain = min(self.group_flops, self.speed.judging_flops)
        return 1 / (JUDGING_EFFICIENCY / self.group_flops + (1 - JUDGING_EFFICIENCY) / plain)

    @property
    def training_efficiency(self) -> float:
        """The share of that rate which training reaches."""
        return EFFICIENCY if self.resources.packs else ALONE_EFFICIENCY

    def slots(self, trials: int) -> float:
        """How many of so many trials that train at once each of these has."""
        return max(trials / self.groups, 1.0)

    def example_flops(self) -> tuple[float, float, float]:
        """Operations for one example: in the layers below the adapters, in those that learn, which
        are gone through backward too, and in the head, for the tokens of the answer alone.
        """
        tokens = 2 * max(self.rows.tokens, 1.0)
        below = tokens * self.shape.layer_weights * (1 - self.upper)
        above = 2 * tokens * self.shape.layer_weights * self.upper
        if self.config.adapter.kind == "full":
            above *= 1.5  # the gradients of the weights themselves
        head = 4 * max(self.rows.answer, 1.0) * self.shape.head_weights * LOSS_SHARE
        return below, above, head

    def evaluation_seconds(self, trials: int, at_end: bool) -> float:
        """An evaluation of so many trials that train at once on the validation rows."""
        slots = self.slots(trials)
        shared = slots if self.resources.packs else 1.0
        read = 2 * self.shape.layer_weights * max(self.rows.tokens, 1.0)
        below = 0.0 if self.keeps_valid else (1 - self.upper) / shared
        each = read * (self.upper + below)
        flops = self.rows.valid * (each + 2 * self.rows.answer * self.shape.head_weights) * slots
        seconds = flops / (self.group_flops * self.training_efficiency)
        if registry.needs_text(self.config.sweep.metric):
            scored = self.rows.valid if at_end else self.rows.scored
            reply = self.rows.reply
            if not at_end:
                most = min(self.rows.limit, MOST_RAMBLING * reply)
                reply += HARDLY_TRAINED * max(most - reply, 0.0)
            seconds += slots * self.answering_seconds(scored, reply, self.answering_flops)
        return seconds / self.speed.efficiency

    @property
    def row_bytes(self) -> float:
        """What the states of a row take that enter the layers that learn."""
        size = 2 if self.config.train.dtype == "bfloat16" else 4
        return self.shape.hidden * size * max(self.rows.tokens, 1.0)

    @property
    def keeps(self) -> bool:
        """Whether such states are kept at all."""
        return bool(self.resources.packs and self.shape.hidden) and self.upper < 1

    @property
    def keeps_valid(self) -> bool:
        """Whether those of the validation rows are."""
        return self.keeps and is_kept(self.rows.valid, self.row_bytes)

    def fresh(self, begin: int, end: int) -> float:
        """The share of the examples from one step to another that are met for the first time."""
        neighbours = self.config.data.neighbours
        changes = neighbours.count > 1 and neighbours.order == "shuffled"
        if not self.keeps or self.resources.workers > 1 or changes or end <= begin:
            return 1.0
        met = [
            fresh_examples(self.rows.sources, step * self.batch, self.row_bytes)
            for step in (begin, end)
        ]
        return (met[1] - met[0]) / ((end - begin) * self.batch)

    def first_validation_seconds(self) -> float:
        """What the layers below make of the validation rows, once for each pack."""
        if not self.keeps_valid:
            return 0.0
        tokens = self.rows.valid * max(self.rows.tokens, 1.0)
        flops = 2 * tokens * self.shape.layer_weights * (1 - self.upper)
        return flops / (self.group_flops * EFFICIENCY * self.speed.efficiency)

    def answering_seconds(
        self, rows: int, tokens: float, flops: float, question: float | None = None
    ) -> float:
        """Making so many answers of so many tokens, their prompts included, on a machine that does
        `flops` a second.
        """
        weights = self.shape.layer_weights
        head = self.shape.head_weights
        question = self.rows.question if question is None else question
        reading = 2 * rows * (weights * question + head)
        making = 2 * rows * tokens * (weights + head)
        longest = max(self.rows.limit, tokens, 1.0)
        making *= UNEVEN if longest > tokens else 1.0
        together = max(min(ROOM_ROWS, ROOM_TOKENS / (question + longest)), 1.0)
        steps = math.ceil(rows / together) * longest
        overhead = steps * self.shape.layers * TOKEN_SECONDS * self.speed.starts
        return (reading + making) / (flops * JUDGING_EFFICIENCY) + overhead

    def phases(self, num_trials: int) -> list[Phase]:
        """The search, from rung to rung."""
        rungs = rung_steps(self.config, self.rows.lasting / self.batch)
        counts = [num_trials] * len(rungs)
        if self.config.sweep.scheduler == "halving":
            counts = survivors(num_trials, rungs, self.config.sweep.reduction)
        return [
            self.phase(count, before, rung, rung == rungs[-1])
            for before, rung, count in zip([0, *rungs], rungs, counts, strict=False)
        ]

    def phase(self, trials: int, begin: int, end: int, at_end: bool) -> Phase:
        """So many trials from one step to another."""
        at_once = max(1, min(trials, self.resources.concurrent))
        every = self.config.train.eval_every
        evaluations = len(range(begin // every * every + every, end, every))
        training = (end - begin) * self.step_seconds(at_once, self.fresh(begin, end))
        evaluating = evaluations * self.evaluation_seconds(at_once, False)
        evaluating += self.evaluation_seconds(at_once, at_end)
        times = trials / at_once
        seconds = (training + evaluating) * times
        if begin == 0:
            seconds += self.first_validation_seconds()
        return Phase(trials, begin, end, seconds, evaluating * times, every)

    def seconds(self, trials: int, begin: int, end: int, at_end: bool) -> float:
        """What they take."""
        return self.phase(trials, begin, end, at_end).seconds

    def final_seconds(self, final: FinalPlan) -> float:
        """The finalists' training, at most."""
        if not final.trains:
            return 0.0
        steps = final.steps(self.config)
        runs = max(1, final.new_runs or final.count)
        longest = max(min(steps / runs, self.rows.lasting / self.batch), 1)
        each = self.seconds(runs, 0, round(longest), True)
        return each + self.final_start_seconds(final)

    def final_start_seconds(self, final: FinalPlan) -> float:
        """What passes before the finalists' first step."""
        if not final.trains:
            return 0.0
        start = FINAL_START_SECONDS
        if not self.resources.packs:
            runs = max(1, final.new_runs or final.count)
            start = SECONDS_PER_JOB * runs / self.resources.concurrent
        return start * self.speed.starts

    def start_seconds(self, num_trials: int, num_starts: int) -> float:
        """From the command to the first step, and what each trial costs beside its training;
        `num_starts` is how often a trial starts in a process of its own, where it has one.
        """
        seconds = START_SECONDS + FIRST_STEP_SECONDS + SECONDS_PER_TRIAL * num_trials
        if not self.resources.packs:
            seconds = START_SECONDS + SECONDS_PER_JOB * num_starts / self.resources.concurrent
        return seconds * self.speed.starts

    def judging_seconds(self) -> float:
        """The winner and other judged finalists, the untouched base, and the base with examples in
        its prompt, on the test rows, to the registered version. Several nodes or GPUs judge as many
        of the first three at once; further finalists follow one by one.

        An untouched base mostly does not end its answers, so that each has as many tokens as it
        may; whoever was trained, or is shown examples, answers as long as is right.
        """
        rows, flops = self.rows, self.speed.judging_flops
        winners = self.config.final.judged if self.config.sweep.space else 1
        answers = self.test_answers()
        weights = self.shape.layer_weights + self.shape.head_weights
        scored = weights * rows.reply
        if self.resources.num_gpus:  # the reference answers go through the model by themselves
            scored += self.shape.layer_weights * rows.question
        scoring = 2 * rows.test * scored / (flops * JUDGING_EFFICIENCY)
        models = [answers.base + scoring, answers.trained + scoring]
        if self.config.job.examples:
            models.append(answers.with_examples)
        places = [0.0] * max(self.resources.num_gpus or len(self.resources.nodes), 1)
        for seconds in sorted(models, reverse=True):
            places[places.index(min(places))] += seconds
        further = (winners - 1) * (answers.trained + scoring)
        return max(places) + further + (JUDGING_START_SECONDS + END_SECONDS) * self.speed.starts

    def test_answers(self) -> TestAnswers:
        """What answering the test rows takes each model."""
        rows, flops = self.rows, self.speed.judging_flops
        trained = self.answering_seconds(rows.test, rows.reply, flops)
        base = self.answering_seconds(rows.test, max(rows.limit, rows.reply), flops)
        question = max(rows.question - rows.shown, 1.0)
        asked = self.answering_seconds(rows.test, rows.reply, flops, question)
        return TestAnswers(trained, base, WITH_EXAMPLES * asked)

    def total(self, num_trials: int, final: FinalPlan) -> float:
        """The whole command."""
        phases = self.phases(num_trials)
        starts = num_trials
        if self.config.sweep.scheduler == "halving":
            starts = sum(phase.trials for phase in phases)
        return sum(self.parts(phases, num_trials, starts, final))

    def parts(
        self, phases: list[Phase], num_trials: int, starts: int, final: FinalPlan
    ) -> Iterator[float]:
        """Start, search, finalists, judgement."""
        yield self.start_seconds(num_trials, starts)
        yield sum(phase.seconds for phase in phases)
        yield self.final_seconds(final)
        yield self.judging_seconds()
