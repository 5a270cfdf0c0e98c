"""How large a sweep of so many minutes is: trials, steps and the distance of its rungs, where they
are left open.

The search takes a part of the time and the winner's own training the larger part: its steps are
twelve times the first rung, at which two of three trials stop, or four times where judging at rungs
would take the time. What was chosen is kept in the
sweep's folder, so that the same command continues the same sweep whatever is measured later.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config.dotted_paths import assign
from orchestrator.config.left_open import DTYPE, EVAL_EVERY, MINUTES, STEPS, TRIALS
from orchestrator.config.settings import Config, changed
from orchestrator.errors import ConfigError
from orchestrator.plan.batch_sizes import largest_batch
from orchestrator.plan.mixes import lasting_examples
from orchestrator.plan.search_start import record_of
from orchestrator.storage.json_files import read_sealed, write_sealed

RUNGS = 12
"""The steps of a trial that is never stopped, as a multiple of the first rung."""
FEW_RUNGS = 4
"""The same where judging at rungs, rather than training, would take the time."""
WORTH_FEW_RUNGS = 1.5
"""How many times as many steps the time has to have then."""
MOST_TRIALS_AT_FEW_RUNGS = 4
"""Of more trials, each trained for a quarter of the steps, the search would take most of it."""
NEEDED_STEPS = {1: 12, 2: 24, 3: 48, 4: 72, 6: 144, 9: 600, 12: 1200}
"""Trials, and from how many steps on the time is better spent on so many than on fewer."""
MORE_TRIALS = (16, 24, 36, 48)
"""Where more steps would only repeat the rows."""
USUAL_TRIALS = 12
"""At most, unless sweep.minutes was asked for."""
FEWEST_STEPS = 12
MOST_EPOCHS = 20
"""So often each row is seen at most."""
MOST_STEPS = 1_000_000
FILE = "sizes.json"

Seconds = Callable[[int, int, int], float]
"""What a sweep of so many trials, steps and steps between rungs takes."""


@dataclass(frozen=True)
class Sizes:
    """The size of a sweep."""

    num_trials: int
    steps: int
    eval_every: int

    def settings(self, dtype: str) -> str:
        """As they are typed, so that the same sweep can be had anywhere."""
        return (
            f"{TRIALS}={self.num_trials} {STEPS}={self.steps} {EVAL_EVERY}={self.eval_every} "
            f"{DTYPE}={dtype}"
        )


@dataclass(frozen=True)
class Limits:
    """What a size has to keep to."""

    num_trials: int | None = None
    """Where it was chosen."""
    steps: int | None = None
    eval_every: int | None = None
    most_trials: int = USUAL_TRIALS
    most_steps: int = MOST_STEPS
    fewest_trials: int = 1
    """What an earlier run of the sweep, of fewer minutes, has had."""
    fewest_steps: int = FEWEST_STEPS
    rungs: int = RUNGS
    """Where steps between rungs are left open."""


class TooShort(Exception):
    """The time is not enough for the smallest sweep, which takes `seconds`."""

    def __init__(self, smallest: Sizes, seconds: float) -> None:
        super().__init__(seconds)
        self.smallest = smallest
        self.seconds = seconds


def choose(seconds: Seconds, budget: float, limits: Limits) -> Sizes:
    """The size that fills so many seconds best. Raises TooShort where not even one trial fits."""
    if limits.steps is not None:
        return with_steps(seconds, budget, limits, limits.steps)
    wanted = candidates(limits)
    for num_trials in wanted:
        sizes = with_rungs(seconds, budget, limits, num_trials)
        if sizes is not None and sizes.steps >= needed(num_trials, limits, wanted):
            return sizes
    fewest = dataclasses.replace(limits, rungs=FEW_RUNGS)
    sizes = longest(seconds, budget, fewest, wanted[-1])
    if sizes is not None and sizes.steps >= limits.fewest_steps:
        return sizes
    smallest = Sizes(wanted[-1], *step_sizes(limits.fewest_steps, fewest))
    raise TooShort(smallest, seconds(smallest.num_trials, smallest.steps, smallest.eval_every))


def with_steps(seconds: Seconds, budget: float, limits: Limits, steps: int) -> Sizes:
    """The size where the steps were chosen: as many trials as fit."""
    every = limits.eval_every or steps
    for num_trials in range(limits.most_trials, limits.fewest_trials - 1, -1):
        if seconds(num_trials, steps, every) <= budget:
            return Sizes(num_trials, steps, every)
    least = limits.fewest_trials
    raise TooShort(Sizes(least, steps, every), seconds(least, steps, every))


def candidates(limits: Limits) -> list[int]:
    """Numbers of trials to consider, the largest first."""
    if limits.num_trials is not None:
        return [limits.num_trials]
    counts = {*NEEDED_STEPS, *MORE_TRIALS, limits.most_trials, limits.fewest_trials}
    return sorted(
        (count for count in counts if limits.fewest_trials <= count <= limits.most_trials),
        reverse=True,
    )


def needed(num_trials: int, limits: Limits, wanted: list[int]) -> int:
    """How many steps make so many trials worth it."""
    if num_trials == wanted[-1]:
        return limits.fewest_steps
    above = [count for count in NEEDED_STEPS if count >= num_trials]
    steps = NEEDED_STEPS[min(above)] if above else limits.most_steps
    most, _ = sizes_of(unit_of(limits.most_steps, limits), limits)
    return max(min(steps, most), limits.fewest_steps)


def with_rungs(seconds: Seconds, budget: float, limits: Limits, num_trials: int) -> Sizes | None:
    """The most steps that so many trials have time for, at fewer rungs where those give far more:
    answers that are made one token after another can cost more at a rung than training up to it.
    """
    often = longest(seconds, budget, limits, num_trials)
    if limits.eval_every is not None or num_trials > MOST_TRIALS_AT_FEW_RUNGS:
        return often
    seldom = longest(seconds, budget, dataclasses.replace(limits, rungs=FEW_RUNGS), num_trials)
    if seldom is None or often is None:
        return seldom or often
    return seldom if seldom.steps >= WORTH_FEW_RUNGS * often.steps else often


def longest(seconds: Seconds, budget: float, limits: Limits, num_trials: int) -> Sizes | None:
    """The most steps that so many trials have time for; None where the fewest do not fit."""
    least = unit_of(limits.fewest_steps, limits)
    most = max(least, unit_of(limits.most_steps, limits))

    def fits(unit: int) -> Sizes | None:
        sizes = Sizes(num_trials, *sizes_of(unit, limits))
        took = seconds(num_trials, sizes.steps, sizes.eval_every)
        return sizes if took <= budget else None

    best = fits(least)
    if best is None:
        return None
    while least < most:
        middle = (least + most + 1) // 2
        sizes = fits(middle)
        if sizes is None:
            most = middle - 1
        else:
            least, best = middle, sizes
    return best


def unit_of(steps: int, limits: Limits) -> int:
    """How often the distance of the rungs, or a part of the whole, goes into so many steps."""
    return max(1, steps // (limits.eval_every or limits.rungs))


def sizes_of(unit: int, limits: Limits) -> tuple[int, int]:
    """Steps, and steps between rungs, of so many units."""
    if limits.eval_every is not None:
        return unit * limits.eval_every, limits.eval_every
    return unit * limits.rungs, unit


def step_sizes(steps: int, limits: Limits) -> tuple[int, int]:
    """The same of at least so many steps."""
    return sizes_of(math.ceil(steps / (limits.eval_every or limits.rungs)), limits)


def most_steps(config: Config, rows: Mapping[str, int]) -> int:
    """Steps after which the rows of the sources would be repeated too often, or are used up."""
    batch = largest_batch(config)
    steps = max(math.ceil(MOST_EPOCHS * sum(rows.values()) / batch), FEWEST_STEPS)
    lasting = max(lasting_examples(config.data, rows) / batch, 1.0)
    return int(min(MOST_STEPS, steps, lasting))


def why_no_more(config: Config, rows: Mapping[str, int], steps: int) -> str:
    """Why these rows make no more than so many steps, in words."""
    if lasting_examples(config.data, rows) < MOST_EPOCHS * sum(rows.values()):
        return "trials end when the rows are used up"
    times = steps * largest_batch(config) / max(sum(rows.values()), 1)
    if round(times) > MOST_EPOCHS:
        return (
            f"{steps:,} steps repeat them {times:.0f} times already, the fewest that "
            f"train.eval_every and train.batch_size leave; train.steps sets others"
        )
    return f"more steps would repeat them more than {MOST_EPOCHS} times"


def combinations(config: Config) -> int:
    """How many trials there are where nobody has said how many: every combination of the grid
    knobs. Under sweep.search=grid a choice is one of these.
    """
    kinds = ("grid", "choice") if config.sweep.search == "grid" else ("grid",)
    knobs = [knob for knob in config.sweep.space.values() if knob.type in kinds]
    return math.prod(len({*(knob.values or [])}) for knob in knobs)


def limits_of(
    config: Config, rows: Mapping[str, int], space_size: float, kept: dict[str, Any]
) -> Limits:
    """What the settings, the rows of the sources and earlier runs of the sweep ask of its size."""
    asked = config.left_open
    usual = config.sweep.num_trials or USUAL_TRIALS
    most = MORE_TRIALS[-1] if MINUTES not in asked else USUAL_TRIALS
    if STEPS not in asked and MINUTES in asked:
        most = usual  # whoever sets the steps wants a sweep of the usual width
    num_trials = None
    if TRIALS not in asked:
        num_trials = int(min(config.sweep.num_trials or combinations(config), space_size))
    earlier = [sizes for sizes in map(parsed, kept.values()) if sizes is not None]
    eval_every = config.train.eval_every
    if EVAL_EVERY in asked:
        eval_every = earlier[0].eval_every if earlier else None
    fewest_steps = max([FEWEST_STEPS, *(sizes.steps for sizes in earlier)])
    fewest_trials = 1
    if STEPS in asked:  # whoever sets the steps may want a smaller sweep
        fewest_trials = max([1, *(sizes.num_trials for sizes in earlier)])
    return Limits(
        num_trials=num_trials,
        steps=None if STEPS in asked else config.train.steps,
        eval_every=eval_every,
        most_trials=max(1, int(min(most, space_size))),
        most_steps=most_steps(config, rows),
        fewest_trials=min(fewest_trials, max(1, int(min(most, space_size)))),
        fewest_steps=fewest_steps,
    )


def with_sizes(config: Config, sizes: Sizes) -> Config:
    """The configuration with the sizes that were chosen."""
    num_trials = sizes.num_trials if TRIALS in config.left_open else config.sweep.num_trials
    return changed(
        config,
        sweep=dataclasses.replace(config.sweep, num_trials=num_trials),
        train=dataclasses.replace(config.train, steps=sizes.steps, eval_every=sizes.eval_every),
    )


def as_decided(composed: str, config: Config) -> str:
    """A composed configuration, as YAML, with what the plan has chosen in the place of what was
    left open: what is kept of a sweep says what ran.
    """
    import yaml

    if not config.left_open and not config.sweep.space:
        return composed
    raw = yaml.safe_load(composed)
    chosen: dict[str, Any] = {}
    if DTYPE in config.left_open:
        chosen[DTYPE] = config.train.dtype
    if is_sized(config):
        chosen |= {STEPS: config.train.steps, EVAL_EVERY: config.train.eval_every}
        chosen |= {TRIALS: config.sweep.num_trials, MINUTES: None}
    for name, decided in record_of(config, None)["knobs"].items():
        chosen |= {f"sweep.space.{name}.{key}": value for key, value in decided.items()}
    for path, value in chosen.items():
        assign(raw, path, value)
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)


def is_sized(config: Config) -> bool:
    """Whether the time decides something."""
    return bool({TRIALS, STEPS} & set(config.left_open))


class MinutesTooShort(ConfigError):
    """A time in which nothing can be done."""

    def __init__(self, minutes: float, error: TooShort) -> None:
        self.least_minutes = error.seconds / 60
        trials = error.smallest.num_trials
        what = "one trial" if trials == 1 else f"{trials} trials"
        self.needs = (
            f"{what} of {error.smallest.steps} steps, judged and registered, take about "
            f"{self.least_minutes:.1f} minutes here"
        )
        """What would take how long, in words."""
        least = math.ceil(self.least_minutes)
        if least < 3:
            least = math.ceil(10 * self.least_minutes) / 10
        text = f"{minutes:g} is too short: {self.needs}; the smallest that works is {least:g}"
        super().__init__([(MINUTES, text)])


def too_short(config: Config, error: TooShort) -> MinutesTooShort:
    """The one message for a time in which nothing can be done."""
    return MinutesTooShort(config.sweep.minutes or 0.0, error)


def name_of(config: Config) -> str:
    """Under which the sizes are kept: what was asked for."""
    asked = [f"minutes={config.sweep.minutes:g}"]
    if TRIALS not in config.left_open:
        asked.append(f"num_trials={config.sweep.num_trials}")
    if STEPS not in config.left_open:
        asked.append(f"steps={config.train.steps}")
    return " ".join(asked)


def parsed(record: Any) -> Sizes | None:
    """Sizes from their record; None for what is none."""
    try:
        sizes = Sizes(**{name: int(value) for name, value in record.items()})
    except (TypeError, ValueError, AttributeError):
        return None
    return sizes if min(sizes.num_trials, sizes.steps, sizes.eval_every) >= 1 else None


def read_choices(folder: Path) -> dict[str, Any]:
    """What earlier runs of a sweep have chosen: `dtype`, and `sizes` by what was asked for."""
    record = read_sealed(folder / FILE)
    sizes = record.get("sizes")
    dtype = record.get("dtype")
    search = record.get("search")
    return {
        "sizes": sizes if isinstance(sizes, dict) else {},
        "dtype": dtype if dtype in ("float32", "bfloat16") else None,
        "search": search if isinstance(search, dict) else None,
    }


def keep_choices(folder: Path, config: Config, found: str | None = None) -> None:
    """Keep in the sweep's folder what the plan has chosen of what was left open, and where its
    search begins: with `found` of earlier sweeps.
    """
    if not config.left_open and not config.sweep.space:
        return
    record = read_choices(folder)
    if DTYPE in config.left_open and config.train.dtype != "auto":
        record["dtype"] = config.train.dtype
    if is_sized(config):
        num_trials = config.sweep.num_trials or combinations(config)
        chosen = Sizes(num_trials, config.train.steps, config.train.eval_every)
        record["sizes"].setdefault(name_of(config), dataclasses.asdict(chosen))
    if config.sweep.space and record["search"] is None:
        record["search"] = record_of(config, found)
    write_sealed(folder / FILE, record)
