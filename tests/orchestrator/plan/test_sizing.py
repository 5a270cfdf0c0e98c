"""What the plan makes of a sweep that is given its minutes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from jobs.base_models import fetch
from jobs.config import Model
from jobs.machine import speed as measurement
from jobs.machine.speed import MachineSpeed
from orchestrator.config.compose import as_yaml, compose, typed_settings
from orchestrator.errors import ConfigError
from orchestrator.output.plan_text import plan_text
from orchestrator.plan import planner as planning
from orchestrator.plan import sizing
from orchestrator.plan.learning_rates import good_rate
from orchestrator.plan.planner import Plan
from orchestrator.plan.resources import count_cpus
from orchestrator.plan.sizing import Sizes
from orchestrator.storage.paths import sweep_folder
from tests.support.settings import build


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of its own in which the tiny model lies ready."""
    cache = tmp_path_factory.mktemp("cache")
    fetch.prepare(Model(name="tiny", source="tiny"), cache)
    return cache


class Planner:
    """Plans on the tiny model, the toy data and a machine of which a measurement is kept."""

    def __init__(self, toy: Path, storage: Path) -> None:
        self.fixed = ["model=tiny", "data=files", f"data.folder={toy}", f"storage={storage}"]
        self.measured(100e9)

    def measured(self, float32: float, bfloat16: float = 1e9) -> None:
        """Keep a measurement of this machine."""
        threads = count_cpus(build(compose(["model=tiny"], None)))
        flops = {"float32": float32, "bfloat16": bfloat16}
        measurement.keep(MachineSpeed(flops, 1.1, threads))

    def plan(self, *arguments: str) -> Plan:
        """The plan of a command line."""
        typed = [*self.fixed, *arguments]
        return planning.make(build(compose(typed, None), typed_settings(typed)))

    def begun(self, *arguments: str) -> Plan:
        """The same, kept as the command keeps it when it begins."""
        made = self.plan(*arguments)
        folder = sweep_folder(made.config.storage, made.name)
        folder.mkdir(parents=True, exist_ok=True)
        sizing.keep_choices(folder, made.config)
        return made


@pytest.fixture
def planner(ready: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planner:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(ready))
    return Planner(toy, tmp_path / "outputs")


def size(plan: Plan) -> Sizes:
    """The size that a plan has come to."""
    train = plan.config.train
    return Sizes(plan.num_trials, train.steps, train.eval_every)


def test_the_plan_prints_its_sizes_as_settings_that_give_the_same_sweep(planner: Planner) -> None:
    made = planner.plan("+sweep=lora", "sweep.minutes=3")
    assert made.estimate is not None and made.estimate.seconds <= 180
    assert made.sizes is not None and f"sweep.minutes=3 is here {made.sizes}" in plan_text(made)
    assert "GFLOP/s in float32" in (made.machine or "")
    again = planner.plan("+sweep=lora", *made.sizes.split())
    assert size(again) == size(made) and again.trials == made.trials
    assert again.rungs == made.rungs and again.sizes is None
    assert json.loads(json.dumps(dataclasses.asdict(made.estimate)))


def test_the_same_command_continues_the_same_sweep_on_a_machine_that_is_slower_now(
    planner: Planner,
) -> None:
    first = planner.begun("+sweep=lora", "sweep.minutes=4")
    planner.measured(2e7)
    later = planner.plan("+sweep=lora", "sweep.minutes=4")
    assert (later.name, size(later), later.sizes) == (first.name, size(first), first.sizes)
    assert later.estimate.seconds > first.estimate.seconds  # type: ignore[union-attr]
    anew = planner.plan("+sweep=lora", "sweep.minutes=4", "fresh=true")
    assert anew.name == first.name and size(anew) != size(first)


GRID = ("+sweep=lora", "~sweep.space.lr", "sweep.search=grid", "sweep.num_trials=null")


def test_a_grid_without_a_number_of_trials_is_sized_for_all_of_its_combinations(
    planner: Planner,
) -> None:
    made = planner.begun(*GRID, "sweep.minutes=3")
    assert {trial.adapter.rank for trial in made.trials} == {4, 8, 16, 32}
    assert made.num_trials == 4 and "sweep.num_trials=4" in (made.sizes or "")
    assert made.estimate is not None and made.estimate.seconds <= 180
    planner.measured(2e7)
    again = planner.plan(*GRID, "sweep.minutes=3")
    assert (again.name, size(again)) == (made.name, size(made))


@pytest.mark.parametrize("ending", ["data.max_epochs=2", "data.exhausted=stop"])
def test_steps_beyond_the_last_row_are_neither_planned_nor_timed(
    planner: Planner, ending: str
) -> None:
    made = planner.plan("+sweep=lora", "sweep.minutes=6", "train.batch_size=2", ending)
    rows = sum(share.rows for share in made.sources.values())
    lasting = (2 if "max" in ending else 1) * rows // 2
    assert lasting - sizing.RUNGS < made.config.train.steps <= lasting
    assert not any("after" in note and "steps" in note for note in made.notes)
    assert any("trials end when the rows are used up" in note for note in made.notes)
    typed = planner.plan("+sweep=lora", "train.steps=5000", "train.batch_size=2", ending)
    assert typed.timing is not None and typed.timing.phases(1)[-1].end == lasting


def test_the_name_does_not_depend_on_what_was_measured(planner: Planner) -> None:
    names = set()
    for rate in (1e9, 1e11):
        planner.measured(rate, 10 * rate)
        names.add(planner.plan("+sweep=lora", "sweep.minutes=4").name)
        planner.measured(rate, rate / 10)
        names.add(planner.plan("+sweep=lora", "sweep.minutes=4").name)
    assert len(names) == 1


def test_more_minutes_continue_the_sweep_at_the_rungs_that_it_has(planner: Planner) -> None:
    steady = ("+sweep=lora", "optim.schedule=constant")
    first = planner.begun(*steady, "sweep.minutes=2")
    longer = planner.plan(*steady, "sweep.minutes=6")
    assert longer.name == first.name
    assert longer.config.train.eval_every == first.config.train.eval_every
    assert longer.num_trials >= first.num_trials
    assert longer.config.train.steps >= first.config.train.steps


def test_rates_that_fall_to_the_end_make_more_minutes_another_sweep(planner: Planner) -> None:
    falling = ("+sweep=lora",)
    first = planner.begun(*falling, "sweep.minutes=2")
    assert planner.plan(*falling, "sweep.minutes=2").name == first.name
    planner.measured(2e7)
    assert planner.plan(*falling, "sweep.minutes=2").name == first.name
    for other in (("sweep.minutes=6",), ("sweep.minutes=6", "sweep.num_trials=2")):
        assert planner.plan(*falling, *other).name != first.name


def test_the_format_is_the_faster_one_and_stays_with_the_sweep(planner: Planner) -> None:
    planner.measured(100e9, 300e9)
    first = planner.begun("+sweep=lora", "sweep.num_trials=2", "train.steps=20")
    assert first.config.train.dtype == "bfloat16"
    assert "train.dtype=auto is bfloat16, 3.0 times as fast here" in plan_text(first)
    planner.measured(100e9, 20e9)
    later = planner.plan("+sweep=lora", "sweep.num_trials=2", "train.steps=20")
    assert later.config.train.dtype == "bfloat16" and later.name == first.name
    assert "as when this sweep began" in plan_text(later)
    other = planner.plan("+sweep=lora", "sweep.num_trials=2", "train.steps=20", "seed=1")
    assert other.config.train.dtype == "float32"
    assert "train.dtype=auto is float32, 5.0 times as fast here as bfloat16" in plan_text(other)


def test_what_is_kept_of_a_sweep_says_what_ran(planner: Planner) -> None:
    typed = [*planner.fixed, "+sweep=lora", "sweep.minutes=4"]
    raw = compose(typed, None)
    made = planner.plan("+sweep=lora", "sweep.minutes=4")
    told = yaml.safe_load(sizing.as_decided(as_yaml(raw), made.config))
    read = build(told)
    assert read.train == made.config.train and read.sweep.num_trials == made.num_trials
    assert not sizing.is_sized(read) and "train.dtype" not in read.left_open
    plain = planner.plan("sweep.minutes=null", "train.dtype=float32")
    assert sizing.as_decided(as_yaml(raw), plain.config) == as_yaml(raw)


def test_an_explicit_size_is_as_before(planner: Planner) -> None:
    given = ("sweep.num_trials=4", "train.steps=30", "train.eval_every=10")
    made = planner.plan("+sweep=lora", *given)
    assert size(made) == Sizes(4, 30, 10) and made.sizes is None
    assert made.name == planner.plan("+sweep=lora", "sweep.minutes=null", *given).name
    steps = planner.plan("+sweep=lora", "train.steps=20")
    assert size(steps) == Sizes(6, 20, 80), "as wide as ever"
    many = planner.plan("+sweep=lora", "train.steps=20", "sweep.minutes=3")
    assert many.num_trials > 6 and many.config.train.steps == 20
    trials = planner.plan("+sweep=lora", "sweep.num_trials=2")
    assert trials.num_trials == 2 and trials.config.train.steps != 480
    plain = planner.plan("+sweep=lora", "sweep.minutes=null")
    assert size(plain) == Sizes(6, 480, 80) and plain.sizes is None


def test_the_range_of_the_learning_rate_follows_from_the_base_and_is_printed(
    planner: Planner,
) -> None:
    made = planner.plan("+sweep=lora", "sweep.minutes=3")
    knob = made.config.sweep.space["lr"]
    assert f"sweep.space.lr.low={knob.low:g} sweep.space.lr.high={knob.high:g}" in made.sizes  # type: ignore[operator]
    assert all(knob.low <= trial.optim.lr <= knob.high for trial in made.trials)  # type: ignore[operator]
    for chosen in ("sweep.space.lr.low=1e-4", "train.steps=24", "adapter.layers=1"):
        other = planner.plan("+sweep=lora", "sweep.minutes=3", chosen).config.sweep.space["lr"]
        assert other != knob, chosen


@pytest.mark.parametrize(
    ("hidden", "layers", "batch", "steps", "rate"),
    [
        (2000, 1.0, 128, 20, 7.5e-4),
        (2000, 1.0, 128, 100, 7.5e-4),
        (2000, 1.0, 128, 780, 5.0e-4),
        (2000, 1.0, 128, 9999, 5.0e-4),
        (576, 0.2, 32, 100, 2.2e-3),
        (576, 0.2, 32, 228, 1.9e-3),
        (576, 1.0, 32, 100, 1.0e-3),
        (64, 0.2, 512, 100, 0.025),
    ],
)
def test_the_good_rate_is_higher_for_small_models_few_layers_large_batches_and_short_runs(
    hidden: int, layers: float, batch: int, steps: int, rate: float
) -> None:
    assert good_rate(hidden, layers, batch, steps) == pytest.approx(rate, rel=0.03)


def test_one_training_run_is_sized_too(planner: Planner) -> None:
    made = planner.plan("sweep.minutes=2")
    assert made.num_trials == 1 and made.config.train.steps != 480
    assert planner.plan().config.train.steps == 480


@pytest.mark.parametrize(
    ("minutes", "said"),
    [
        ("0", "must be above 0 and at most 10,080, got 0"),
        ("-3", "must be above 0"),
        ("nan", "must be above 0"),
        ("inf", "must be above 0"),
        ("1e9", "must be above 0 and at most 10,080"),
        ("soon", "must be a number, got 'soon'"),
        ("true", "must be a number, got true"),
        ("0.01", r"0.01 is too short: one trial of 12 steps.*the smallest that works is [\d.]+$"),
    ],
)
def test_a_time_that_is_none_is_refused_in_one_message(
    planner: Planner, minutes: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        planner.plan("+sweep=lora", f"sweep.minutes={minutes}")
    assert len(error.value.problems) == 1 and error.value.problems[0][0] == "sweep.minutes"


def test_the_smallest_time_that_is_named_works(planner: Planner) -> None:
    with pytest.raises(ConfigError) as error:
        planner.plan("+sweep=lora", "sweep.minutes=0.01")
    least = error.value.problems[0][1].rsplit(" ", 1)[1]
    assert planner.plan("+sweep=lora", f"sweep.minutes={least}").num_trials >= 1


def test_rows_that_rungs_far_apart_repeat_more_often_are_said_to_be(planner: Planner) -> None:
    made = planner.plan("+sweep=lora", "train.eval_every=1000")
    (said,) = [note for note in made.notes if "more than these rows need" in note]
    assert made.config.train.steps == 1000
    assert "1,000 steps repeat them " in said and "train.steps sets others" in said


def test_a_time_without_anything_to_size_is_refused_where_it_was_asked_for(
    planner: Planner,
) -> None:
    given = ("sweep.num_trials=2", "train.steps=20")
    with pytest.raises(ConfigError, match="has no effect.*both given; leave one of the three out"):
        planner.plan("+sweep=lora", "sweep.minutes=5", *given)
    with pytest.raises(ConfigError, match="train.steps is given"):
        planner.plan("sweep.minutes=5", "train.steps=20")
    assert not [note for note in planner.plan("+sweep=lora", *given).notes if "minutes" in note]


def test_the_default_steps_aside_where_it_is_too_short(planner: Planner) -> None:
    planner.measured(2e5)
    made = planner.plan("+sweep=lora")
    assert made.num_trials == 1
    assert any("sweep.minutes=15 is too short here" in note for note in made.notes)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"sizes": 3, "dtype": 7}', '{"sizes": {}}'])
def test_choices_that_cannot_be_read_are_made_again(planner: Planner, content: str) -> None:
    first = planner.begun("+sweep=lora", "sweep.minutes=2")
    file = sweep_folder(first.config.storage, first.name) / sizing.FILE
    assert file.exists()
    file.write_text(content, encoding="utf-8")
    assert size(planner.plan("+sweep=lora", "sweep.minutes=2")) == size(first)
