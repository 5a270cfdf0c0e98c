"""What a fleet's own file says of the rows of all tasks, and settings that no task would use."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.chosen_files import written_settings
from orchestrator.config.compose import compose, typed_settings
from orchestrator.config.fleet import FleetTask, build_fleet
from orchestrator.errors import ConfigError

TWO = "data.tasks={one: {folder: a}, two: {folder: b}}"
HEAD = "# @package _global_\ndefaults: [{/sweep: lora}%s]\n"
TASKS = "  tasks: {one: {folder: a}, two: {folder: b}}\n"


def tasks(folder: Path | None, *typed: str) -> list[FleetTask]:
    """The tasks of a command line on the tiny model, as the command reads them."""
    where = None if folder is None else str(folder)
    settings = ["model=tiny", *([] if folder is None else ["+fleet=mine"]), *typed]
    raw = compose(settings, where)
    return build_fleet(
        raw, typed_settings(settings), (), (), written_settings(settings, where, with_tasks=True)
    )


def problems(folder: Path | None, *typed: str) -> dict[str, str]:
    """What is said of each setting that is refused."""
    with pytest.raises(ConfigError) as caught:
        tasks(folder, *typed)
    return dict(caught.value.problems)


def written(folder: Path, data: str, more: str = "") -> Path:
    """--config-dir with a fleet of two tasks that bring their rows."""
    (folder / "fleet").mkdir()
    text = HEAD % more + f"data:\n{data}{TASKS}"
    (folder / "fleet" / "mine.yaml").write_text(text, encoding="utf-8")
    return folder


def test_what_a_fleets_file_says_of_the_rows_is_of_all_tasks(tmp_path: Path) -> None:
    given = "  instruction: Say it\n  slices: [kind]\n  columns: {prompt: q, completion: a}\n"
    for task in tasks(written(tmp_path, given)):
        assert task.config.data.instruction == "Say it"
        assert task.config.data.slices == ["kind"]
        assert task.config.data.columns.prompt == "q"
        assert list(task.config.data.sources) == ["train"], "of the task's own folder"


def test_what_belongs_to_the_rows_of_the_data_choice_is_none_of_a_tasks() -> None:
    typed = "data.tasks={one: {folder: a}, two: {instruction: B}}"
    own, shared = tasks(None, "+sweep=lora", "data=spam", typed)
    assert shared.config.data.description.startswith("Mails of 2002")
    assert own.config.data.description == "" and own.config.data.slices == []
    assert own.config.data.retained == []


@pytest.mark.parametrize(
    ("typed", "path", "words"),
    [
        ("data.folder=x", "data.folder", "x has no effect: each task of data.tasks has its own"),
        ("data.name=foo", "data.name", "foo has no effect: each task of data.tasks is called by"),
        ("data.tasks.one.train.steps=3", "", ""),
    ],
)
def test_a_typed_setting_of_which_each_task_has_its_own_is_refused(
    typed: str, path: str, words: str
) -> None:
    if not path:
        said = problems(
            None, "+sweep=lora", TWO, typed, "data.tasks.two.train.steps=4", "train.steps=9"
        )
        assert said["train.steps"].startswith("9 has no effect: each task")
        assert "write data.tasks.NAME.train.steps=..." in said["train.steps"]
        return
    assert problems(None, "+sweep=lora", TWO, typed)[path].startswith(words)


def test_a_setting_that_one_task_takes_is_not_refused() -> None:
    typed = "data.tasks={one: {folder: a}, two: {instruction: B}}"
    one, two = tasks(None, "+sweep=lora", "data=files", "data.folder=x", typed)
    assert one.config.data.folder != two.config.data.folder == str(Path("x").absolute())
    null = tasks(None, "+sweep=lora", TWO, "data.folder=null", "data.name=null")
    assert [task.config.data.name for task in null] == ["one", "two"]


def test_rows_that_a_fleets_file_chooses_for_no_task_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, "  exhausted: stop\n", ", {override /data: spam}")
    said = problems(folder)["data"]
    assert said.startswith("/data: spam in fleet/mine.yaml has no effect: each task of data.tasks")
    assert tasks(folder, "data=files")[0].config.data.exhausted == "stop"


def test_a_name_for_all_in_a_fleets_file_is_refused_and_its_sizes_are_not(tmp_path: Path) -> None:
    folder = written(tmp_path, "  name: foo\n", "")
    assert problems(folder)["data.name"].startswith("foo has no effect")


def test_a_base_without_a_name_is_served_under_its_folders_name(tmp_path: Path) -> None:
    base = tmp_path / "mybase"
    base.mkdir()
    settings = ["+sweep=lora", "job=serve", TWO]
    raw = compose(["model=path", f"model.path={base}", *settings], None)
    one, two = build_fleet(raw, typed_settings(settings))
    for task in (one, two):
        registered = task.config.registered_name
        assert registered == f"{task.name}-mybase"
        assert task.config.serve.models[task.name] == f"models:/{registered}@champion"
