"""What mix.method=merge will do: which experts it needs, which mixes it scores by merging them, and
what that costs.

An expert is the adapter of one source, trained for a few steps at a constant rate with the settings
of the first trial. It is kept in the storage under a name that follows from all that decides its
weights, so that another sweep, or one with a source more, trains only those that are missing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.config import Trial
from jobs.data import neighbours
from jobs.data.tokenization import RENDERING
from jobs.files import filesystem, manifest
from orchestrator.config import merge_checks, simplex
from orchestrator.config.merge_settings import FIRST_TRIALS
from orchestrator.config.search_space import Knob, Point, weights
from orchestrator.config.settings import Config, changed
from orchestrator.config.simplex import Mix
from orchestrator.config.validation import trial_of
from orchestrator.errors import ConfigError
from orchestrator.plan.mixes import limited
from orchestrator.plan.neighbours import decisive_settings
from orchestrator.plan.points import Points
from orchestrator.plan.timing import FINAL_START_SECONDS, JUDGING_START_SECONDS
from orchestrator.storage.paths import storage_folder

if TYPE_CHECKING:
    from jobs.config import BaseModel
    from jobs.data.corpus import Corpus
    from orchestrator.plan.timing import Timing

USUAL_STEPS = 60
"""Steps of an expert: few, so that it stays near the base, where updates add up."""
MOST_DRAWS = 200
"""For each mix that is to be scored, before no other one is expected."""
SCHEDULE = "optim.schedule"
EVENT = "mixtures"
"""The kind of the journal's event that says what was scored and chosen."""


@dataclass(frozen=True)
class ExpertPlan:
    """One source's expert."""

    source: str
    digest: str
    """Names all that decides its weights."""
    place: str
    """Where it is kept: a folder or a URI."""
    is_trained: bool
    """Whether it is there."""
    point: Point
    """What it has other than the configuration."""
    steps: int
    """Of its training, as far as its rows last."""


@dataclass(frozen=True)
class MergePlan:
    """Experts, and the mixes that are scored by merging them."""

    experts: tuple[ExpertPlan, ...]
    candidates: tuple[Mix, ...]
    """The first ones are those that are trained in any case."""
    num_trained: int
    """How many of the others are trained."""
    seconds: float | None
    """What the missing experts and the scoring take; None without the base model."""

    @property
    def missing(self) -> list[ExpertPlan]:
        """Experts that are still to be trained."""
        return [expert for expert in self.experts if not expert.is_trained]

    def record(self) -> dict[str, Any]:
        """As plain values, for the plan as JSON."""
        return {
            "experts": {
                expert.source: {"steps": expert.steps, "trained": expert.is_trained}
                for expert in self.experts
            },
            "candidates": len(self.candidates),
            "trained": self.num_trained,
            "seconds": self.seconds,
        }


def merge_plan(
    config: Config,
    num_trials: int,
    base: BaseModel | None,
    corpus: Corpus,
    timing: Timing | None,
) -> MergePlan | None:
    """What is merged; None where each mix is trained. Raises ConfigError for a sweep in which no
    merged mix would be trained.
    """
    knob = merged_knob(config)
    if knob is None:
        return None
    sized = changed(config, sweep=dataclasses.replace(config.sweep, num_trials=num_trials))
    if faults := merge_checks.too_few(sized):
        raise ConfigError(faults)
    experts = tuple(
        expert_plan(config, knob, source, base, corpus) for source in knob.simplex or []
    )
    candidates = tuple(candidate_mixes(knob, config.mix.candidates, config.seed))
    missing = sum(not expert.is_trained for expert in experts)
    seconds = None
    if timing is not None:
        seconds = merge_seconds(config, timing, missing, len(candidates))
    most = min(config.mix.trained, num_trials - FIRST_TRIALS, len(candidates) - FIRST_TRIALS)
    return MergePlan(experts, candidates, most, seconds)


def merged_knob(config: Config) -> Knob | None:
    """The simplex whose mixes are found by merging; None where none is."""
    if config.mix.method != "merge":
        return None
    return next((knob for knob in config.sweep.space.values() if knob.type == "simplex"), None)


def known_first(config: Config) -> int | None:
    """How many trials are known before anything is merged; None where all are."""
    return None if merged_knob(config) is None else FIRST_TRIALS


def expert_steps(config: Config) -> int:
    """Optimizer steps of an expert."""
    return config.mix.steps or min(USUAL_STEPS, config.train.steps)


def expert_config(config: Config) -> Config:
    """The configuration that experts are trained by: few steps at a constant rate, and nobody is
    stopped.
    """
    steps = expert_steps(config)
    return changed(
        config,
        sweep=dataclasses.replace(config.sweep, scheduler="none", search="random"),
        optim=dataclasses.replace(config.optim, schedule="constant"),
        train=dataclasses.replace(config.train, steps=steps, eval_every=steps),
    )


def expert_point(config: Config, knob: Knob, source: str) -> Point:
    """The settings of an expert: those of the first trial, on one source of the simplex alone."""
    first = Points(config.sweep.space, config.seed)[1]
    alone = {name: float(name == source) for name in knob.simplex or []}
    constant: Point = {SCHEDULE: "constant"} if SCHEDULE in first else {}
    return first | weights(alone) | constant


def expert_plan(
    config: Config, knob: Knob, source: str, base: BaseModel | None, corpus: Corpus
) -> ExpertPlan:
    """What is known of a source's expert."""
    point = expert_point(config, knob, source)
    rows = {name: len(examples) for name, examples in corpus.sources.items()}
    trial = limited(trial_of(expert_config(config), 1, point), rows)
    digest = expert_digest(trial, base, corpus.digests)
    place = expert_place(config, digest)
    return ExpertPlan(
        source,
        digest,
        place,
        base is not None and is_sealed(config, place),
        point,
        trial.train.steps,
    )


def expert_digest(trial: Trial, base: BaseModel | None, digests: Mapping[str, str]) -> str:
    """Names all that decides the weights of an expert: the rows that it is trained on and their
    names, by which they are drawn, its settings, and its base.
    """
    data = trial.data
    shown = data.neighbours.count > 0
    drawn = {name: source.weight for name, source in data.sources.items() if source.weight > 0}
    rows = {name: digests[f"train/{name}"] for name in (data.sources if shown else drawn)}
    if shown:  # near-twins of held-out rows are not shown
        rows |= {split: digests[split] for split in ("valid", "test") if split in digests}
    train = dataclasses.asdict(trial.train)
    decisive = [
        None if base is None else base.revision,
        rows,
        drawn,
        [data.instruction, data.exhausted, data.max_epochs],
        [decisive_settings(data.neighbours), neighbours.VERSION] if shown else None,
        dataclasses.asdict(trial.adapter),
        {k: v for k, v in dataclasses.asdict(trial.optim).items() if k != "decay_share"},
        {name: train[name] for name in ("steps", "batch_size", "max_length", "on", "dtype")},
        [trial.seed, RENDERING],
    ]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def expert_place(config: Config, digest: str) -> str:
    """Where an expert is kept, for all sweeps of a storage."""
    if filesystem.is_uri(config.storage):
        return filesystem.join(config.storage, "experts", digest)
    return str(storage_folder(config.storage) / "experts" / digest)


def is_sealed(config: Config, place: str) -> bool:
    """Whether an expert is there, as far as can be told here."""
    if filesystem.is_uri(place) and not config.runs_here:
        return False
    try:
        return filesystem.exists(filesystem.join(place, manifest.NAME))
    except OSError:  # a store that does not answer now is told of by what needs it
        return False


def candidate_mixes(knob: Knob, count: int, seed: int) -> list[Mix]:
    """The mixes that are scored, no two alike: by size, equal shares, of each source as much as its
    bounds allow, and then draws that are uniform within the bounds. Fewer where there are not so
    many.
    """
    mixes = knob.mixes
    found = simplex.first_mixes(mixes, knob.natural)
    for source in mixes.names:
        alone = {name: float(name == source) for name in mixes.names}
        found.append(simplex.rounded(mixes, simplex.nearest(mixes, alone)))
    unlike: dict[tuple[float, ...], Mix] = {}
    for mix in found:
        unlike.setdefault(tuple(mix.values()), mix)
    for draw in range(MOST_DRAWS * count):
        if len(unlike) >= count:
            break
        mix = simplex.draw(mixes, random.Random(f"{seed}/merge/{draw}"))
        unlike.setdefault(tuple(mix.values()), mix)
    return list(unlike.values())[:count]


def merge_seconds(config: Config, timing: Timing, missing: int, num_candidates: int) -> float:
    """What it takes to train so many experts and to score so many mixes."""
    starts = timing.speed.starts
    seconds = JUDGING_START_SECONDS * starts
    together = max(1, min(timing.resources.concurrent, num_candidates))
    rounds = num_candidates / together
    seconds += rounds * timing.evaluation_seconds(together, False)
    if missing:
        at_once = max(1, min(missing, timing.resources.concurrent))
        training = expert_steps(config) * timing.step_seconds(at_once)
        each = training + timing.evaluation_seconds(at_once, True)
        seconds += each * missing / at_once + FINAL_START_SECONDS * starts
    return seconds


def all_seconds(config: Config, timing: Timing) -> float:
    """The same where no expert is there yet; 0 where nothing is merged."""
    knob = merged_knob(config)
    if knob is None:
        return 0.0
    return merge_seconds(config, timing, len(knob.simplex or []), config.mix.candidates)


def decisive_merge(config: Config) -> list[object]:
    """What of it decides a sweep's result; nothing where each mix is trained."""
    if merged_knob(config) is None:
        return []
    return [["merge", config.mix.candidates, config.mix.trained, config.mix.steps]]


def with_merged(config: Config, mixes: list[Mix]) -> Config:
    """The configuration whose first trials, after those that are trained in any case, have these
    mixes.
    """
    space = dict(config.sweep.space)
    for name, knob in space.items():
        if knob.type != "simplex":
            continue
        filled = dataclasses.replace(knob)
        object.__setattr__(filled, "natural", knob.natural)  # no arguments: nobody can give them
        object.__setattr__(filled, "merged", mixes)
        space[name] = filled
    return changed(config, sweep=dataclasses.replace(config.sweep, space=space))


def merge_notes(config: Config, plan: MergePlan | None) -> list[str]:
    """What is to be said of the experts."""
    if plan is None:
        return []
    steps = expert_steps(config)
    notes = [
        f"the expert of {expert.source} ends after {expert.steps} of {steps} steps, when its rows "
        "are used up: its mixes are scored by less training"
        for expert in plan.experts
        if expert.steps < steps
    ]
    if len(plan.candidates) < config.mix.candidates:
        notes.append(
            f"mix.candidates={config.mix.candidates}, but the bounds hold "
            f"{len(plan.candidates)} mixes: all of them are scored"
        )
    if steps > config.train.steps:
        notes.append(
            f"an expert trains for mix.steps={steps}, longer than a trial: "
            f"train.steps={config.train.steps}"
        )
    if config.mix.trained > plan.num_trained:
        notes.append(
            f"mix.trained={config.mix.trained}, but these trials have room for {plan.num_trained}: "
            f"sweep.num_trials={FIRST_TRIALS + config.mix.trained}"
        )
    searched = sorted(
        path
        for knob in config.sweep.space.values()
        for path in knob.paths
        if knob.type != "simplex" and path != SCHEDULE
    )
    if searched:
        notes.append(
            f"the experts have {', '.join(searched)} as the first trial: mixes are compared at "
            "these values"
        )
    return notes
