"""The tasks of a fleet as configurations of their own: what each takes over, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.chosen_files import written_settings
from orchestrator.config.compose import compose, typed_settings
from orchestrator.config.fleet import FleetTask, build_fleet, is_fleet
from orchestrator.errors import ConfigError
from orchestrator.fleet.fleet_plan import minutes_of
from orchestrator.launch import preflight
from orchestrator.plan.timing import FIRST_STEP_SECONDS, START_SECONDS

TWO = "data.tasks={one: {folder: a}, two: {folder: b}}"


def tasks(*typed: str) -> list[FleetTask]:
    """The tasks of a command line on the tiny model."""
    settings = ["model=tiny", "+sweep=lora", *typed]
    raw = compose(settings, None)
    assert is_fleet(raw)
    return build_fleet(raw, typed_settings(settings), (preflight.problems,))


def problems(*typed: str) -> dict[str, str]:
    """What is said of each setting that is refused."""
    with pytest.raises(ConfigError) as caught:
        tasks(*typed)
    return dict(caught.value.problems)


def test_each_task_has_its_rows_its_metric_and_its_model() -> None:
    one, two = tasks(
        "data.tasks={one: {folder: a, metric: chrf, model: First}, two: {folder: b, weight: 2}}"
    )
    assert (one.number, one.name, one.weight) == (1, "one", 1.0)
    assert (two.number, two.name, two.weight) == (2, "two", 2.0)
    assert one.config.data.folder == str(Path("a").absolute())
    assert list(one.config.data.sources) == ["train"], "data=home gives it none"
    assert one.config.data.instruction == "", "which is of the rows of data=home"
    assert (one.config.sweep.metric, two.config.sweep.metric) == ("valid/chrf", "auto")
    assert (one.config.registered_name, two.config.registered_name) == ("First", "two-tiny")
    assert (one.config.sweep.name, two.config.sweep.name) == ("lora-one", "lora-two")


def test_tasks_may_share_rows_and_differ_in_how_they_are_asked() -> None:
    one, two = tasks("data.tasks={one: {instruction: A}, two: {instruction: B, metric: chrf}}")
    assert one.config.data.sources == two.config.data.sources, "those of data=home"
    assert (one.config.data.instruction, two.config.data.instruction) == ("A", "B")
    assert one.config.data.slices == ["wording"]


def test_what_is_typed_for_the_data_is_of_all_tasks() -> None:
    for task in tasks(TWO, "data.instruction=Say it:", "data.exhausted=stop"):
        assert task.config.data.instruction == "Say it:"
        assert task.config.data.exhausted == "stop"


def test_a_task_has_settings_of_other_groups_below_their_names() -> None:
    one, two = tasks(
        "data.tasks={one: {folder: a, train: {steps: 7}, sweep: {num_trials: 2}}, two: {folder: b}}",
        "train.steps=9",
        "sweep.num_trials=4",
    )
    assert (one.config.train.steps, one.config.sweep.num_trials) == (7, 2)
    assert (two.config.train.steps, two.config.sweep.num_trials) == (9, 4)
    assert "train.steps" not in one.config.left_open, "what a task says is chosen"


def test_sizes_that_a_fleets_file_says_are_chosen(tmp_path: Path) -> None:
    file = tmp_path / "fleet" / "mine.yaml"
    file.parent.mkdir()
    text = "# @package _global_\ndefaults: [/sweep: lora, override /model: tiny, _self_]\n"
    sizes = "sweep: {num_trials: 6}\ntrain: {steps: 480}\n"
    file.write_text(f"{text}data: {{tasks: {{one: {{folder: a}}}}}}\n{sizes}", encoding="utf-8")
    typed = ["+fleet=mine"]
    written = written_settings(typed, str(tmp_path))
    assert {"sweep.num_trials", "train.steps"} <= {*written}
    raw = compose(typed, str(tmp_path))
    (one,) = build_fleet(raw, typed_settings(typed), (preflight.problems,), written)
    assert not {"sweep.num_trials", "train.steps"} & {*one.config.left_open}


def test_a_setting_of_a_task_is_typed_by_its_whole_path() -> None:
    one, two = tasks(TWO, "data.tasks.two.weight=3", "data.tasks.one.train.batch_size=5")
    assert (one.weight, two.weight) == (1.0, 3.0)
    assert (one.config.train.batch_size, two.config.train.batch_size) == (5, 32)


def test_the_minutes_of_the_command_are_shared_by_weight() -> None:
    typed = "data.tasks={one: {folder: a, weight: 2}, two: {folder: b}, three: {folder: c, sweep: {minutes: 7}}}"
    one, two, three = tasks(typed, "sweep.minutes=20")
    assert (one.share, two.share, three.share) == (0.5, 0.25, None)
    lengths = [minutes_of(task) for task in (one, two, three)]
    start = (START_SECONDS + FIRST_STEP_SECONDS) / 60
    assert lengths == pytest.approx([(20 - start) / 2 + start, (20 - start) / 4 + start, 7.0])
    assert "sweep.num_trials" in one.config.left_open


@pytest.mark.parametrize(
    ("typed", "path", "words"),
    [
        (["data.tasks={}"], "data.tasks", "must be a group of tasks"),
        (["data.tasks=3"], "data.tasks", "must be a group of tasks"),
        (["data.tasks={one: 3}"], "data.tasks.one", "must be a group of settings"),
        (["data.tasks={a_b: {folder: a}}"], "data.tasks.a_b", "words of letters and digits"),
        (["data.tasks={1: {folder: a}}"], "data.tasks.1", "which is no text"),
        ([TWO, "pareto.bases=[tiny]"], "pareto.bases", "a fleet has one base"),
        (["data.tasks={one: {foldr: a}}"], "data.tasks.one.foldr", "did you mean folder?"),
        ([TWO, "data.tasks.one.weight=0"], "data.tasks.one.weight", "above 0"),
        ([TWO, "data.tasks.one.weight=true"], "data.tasks.one.weight", "above 0"),
        (
            ["data.tasks={one: {folder: a, model: {name: x}}}"],
            "data.tasks.one.model",
            "one base model",
        ),
        ([TWO, "data.tasks.one.train.stepss=3"], "data.tasks.one.train.stepss", "no such setting"),
        ([TWO, "data.tasks.one.train.steps=-3"], "data.tasks.one.train.steps", "at least 1"),
        ([TWO, "train.steps=-3"], "train.steps", "at least 1"),
        ([TWO, "data.tasks.one.metric=nonsense"], "data.tasks.one.metric", "nonsense"),
        (
            [TWO, "data.tasks.one.adapter.layers=0.3"],
            "data.tasks.two.adapter.layers",
            "have it in common",
        ),
        (
            [TWO, "data.tasks.two.sweep.max_concurrent=2"],
            "data.tasks.two.sweep.max_concurrent",
            "is one for all tasks",
        ),
        ([TWO, "adapter=full"], "data.tasks.one", "no base is shared"),
        ([TWO, "executor=plain"], "executor", "a fleet trains in packs"),
        ([TWO, "tracking.model=x"], "tracking.model", "data.tasks.NAME.model="),
        ([TWO, "data.tasks.two.name=one"], "data.tasks.two.model", "is the model of one already"),
        ([TWO, "job=predict", "model_uri=models:/x/1", "prompt=y"], "data.tasks", "job=predict"),
        ([TWO, "storage=memory://bucket/x"], "storage", ""),
        (
            ["data.tasks={one: {folder: a, metric: chrf, sweep: {metric: loss}}}"],
            "data.tasks.one.metric",
            "leave one of them out",
        ),
    ],
)
def test_what_cannot_be_a_fleet_is_refused_by_its_name(
    typed: list[str], path: str, words: str
) -> None:
    found = problems(*typed)
    assert words in found[path], found


def test_a_language_that_yaml_takes_for_a_truth_value_is_named() -> None:
    """no, the code of Norwegian, is false in a YAML file."""
    with pytest.raises(ConfigError) as caught:
        build_fleet({"data": {"tasks": {False: {"folder": "a"}}}})
    ((path, text),) = caught.value.problems
    assert path == "data.tasks.False" and "put quotes around it" in text


def test_every_problem_is_told_at_once() -> None:
    found = problems(TWO, "adapter.rank=-1", "data.tasks.two.train.steps=0")
    assert list(found) == ["adapter.rank", "data.tasks.two.train.steps"]


def test_a_mistake_of_the_command_line_does_not_make_the_tasks_one() -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["model=tiny", TWO, "optim=none"], None)
    assert [path for path, _ in caught.value.problems] == ["optim"]


def test_serving_names_the_champion_of_each_task() -> None:
    one, _ = tasks("data.tasks={one: {folder: a, model: First}, two: {folder: b}}", "job=serve")
    assert one.config.serve.models == {"one": "models:/First@champion"}


def test_the_committed_fleet_has_a_task_for_each_language() -> None:
    raw = compose(["+fleet=languages"], None)
    languages = build_fleet(raw, (), (preflight.problems,))
    assert len(languages) == 8
    for task in languages:
        assert task.config.data.instruction.startswith("Give the intent")
        assert task.config.registered_name == f"{task.name}-smollm2-135m"


def test_a_fleet_takes_another_sweep_and_no_rows_beside_its_tasks_own() -> None:
    raw = compose(["model=tiny", "+fleet=languages", "+sweep=mix"], None)
    assert raw["sweep"]["name"] == "mix"
    assert raw["sweep"]["minutes"] is None, "the fleet's own sizes hold"
    with pytest.raises(ConfigError) as caught:
        compose(["model=tiny", "+fleet=languages", "data=home"], None)
    assert dict(caught.value.problems)["data"].startswith("data=home has no effect: each task of")
    compose(["model=tiny", "+fleet=languages", "data=files"], None)
    some = "data.tasks={one: {folder: a}, two: {instruction: B}}"
    compose(["model=tiny", "+sweep=lora", "data=icd10", some], None)  # of which one uses the rows


def test_a_base_model_is_no_name_of_a_tasks_winner() -> None:
    said = problems("data.tasks={one: {folder: a, model: smollm2-135m}, two: {folder: b}}")
    assert "write model=smollm2-135m" in said["data.tasks.one.model"]
