"""The plan of a fleet, and what is done with several tasks beside training them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.config import BaseModel
from tests.support.fleets import as_setting, write_task
from tests.support.in_process import run
from tests.support.trials import SHORT_SWEEP


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as JSON lines."""
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def fleet(base: BaseModel, cache: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> Any:
    """`fleet(*typed)`: exit code and what was printed, of two tasks of which `odd` has such rows."""
    folder = tmp_path / "rows"
    tasks: dict[str, dict[str, object]] = {
        name: {"folder": str(write_task(folder / name, shift))}
        for shift, name in enumerate(("one", "two"))
    }
    tasks["two"]["weight"] = 3

    def ask(
        *typed: str, broken: str = "", sweep: Sequence[str] = SHORT_SWEEP
    ) -> tuple[int, str, str]:
        if broken:
            (folder / "two" / "train.jsonl").write_text(broken, encoding="utf-8")
        storage = f"storage={tmp_path / 'outputs'}"
        settings = ["model=tiny", "train.max_length=128", *sweep, as_setting(tasks), storage]
        code = run(cache, monkeypatch, *settings, *typed)
        told = capsys.readouterr()
        assert not (tmp_path / "outputs" / "sweeps").exists(), "nothing was started"
        return code, told.out, told.err

    return ask


def test_a_dry_run_shows_each_task_and_what_they_share(fleet: Any) -> None:
    code, out, _ = fleet("dry_run=true")
    assert code == 0
    assert "2 tasks, 6 trials, at most 6 at a time in one pack over tiny" in out
    assert "one: 3 trials of 20 steps on 192 rows" in out and "model one-tiny" in out
    assert "weight 3" in out


def test_a_dry_run_says_what_each_task_ships(fleet: Any) -> None:
    code, out, _ = fleet("dry_run=true", "device=phone")
    assert code == 0
    for name in ("one", "two"):
        assert f"ships    {name}: the winner as gguf-q8_0" in out
        assert f"device   {name}: phone: at most 300 MB" in out


def test_limits_that_no_file_of_the_base_keeps_are_refused_before_any_task_starts(
    fleet: Any,
) -> None:
    code, _, err = fleet("device.min_tokens_per_second=1e9", "export.threads=[1]")
    assert code == 2 and "nothing is trained for it" in err, err


def test_a_dry_run_tells_other_programs_the_same(fleet: Any) -> None:
    code, out, _ = fleet("dry_run=true", "output=json")
    plan = json.loads(out)["plan"]
    assert code == 0 and [task["task"] for task in plan["tasks"]] == ["one", "two"]
    assert [task["weight"] for task in plan["tasks"]] == [1.0, 3.0]


def test_a_dry_run_names_the_task_whose_rows_cannot_be_read(fleet: Any) -> None:
    code, out, _ = fleet("dry_run=true", broken="{no row\n")
    assert code == 2
    assert "1 task, 3 trials" in out and "left out data.tasks.two: " in out


@pytest.fixture
def leaky(tmp_path: Path) -> str:
    """A task whose test rows are those of training, but for a sign at their end."""
    for split, shape in (("train", "alpha {}"), ("valid", "beta {}"), ("test", "alpha {}!")):
        rows = [{"prompt": shape.format(i), "completion": "AB"[i % 2]} for i in range(60)]
        write_rows(tmp_path / "leaky" / f"{split}.jsonl", rows)
    return f"data.tasks.leaky={{folder: '{tmp_path / 'leaky'}'}}"


def test_a_dry_run_leaves_out_the_task_that_a_run_would_leave_out(fleet: Any, leaky: str) -> None:
    code, out, err = fleet("dry_run=true", leaky)
    assert code == 2, err
    assert "2 tasks, 6 trials" in out
    assert "left out data.tasks.leaky: data check leakage" in out, out
    code, out, _ = fleet("dry_run=true", "output=json", leaky)
    plans = {task["task"]: task for task in json.loads(out)["plan"]["tasks"]}
    assert code == 2 and "leakage" in plans["leaky"]["error"] and "error" not in plans["one"]


def test_what_does_not_fit_one_tasks_rows_is_said_of_that_tasks_setting(
    fleet: Any, tmp_path: Path
) -> None:
    chats = [
        {"messages": [{"role": "user", "content": f"u {i}"}, {"role": "assistant", "content": "A"}]}
        for i in range(60)
    ]
    write_rows(tmp_path / "chats" / "train.jsonl", chats)
    typed = f"data.tasks.chats={{folder: '{tmp_path / 'chats'}'}}"
    code, _, err = fleet("dry_run=true", typed, "data.instruction=Do it")
    assert code == 2 and "data.tasks.chats.instruction   has no effect" in err, err
    code, _, err = fleet("dry_run=true", "data.tasks.two.slices=[ratin]")
    assert code == 2 and "data.tasks.two.slices " in err, err
    code, _, err = fleet("dry_run=true", "data.slices=[ratin]")
    assert code == 2 and "  data.slices " in err and "data.tasks" not in err, err


def test_a_time_that_is_too_short_for_a_tasks_share_is_the_commands(fleet: Any) -> None:
    code, _, err = fleet("dry_run=true", "sweep.minutes=0.5", sweep=["+sweep=lora"])
    assert code == 2 and "data.tasks" not in err, err
    assert (
        "sweep.minutes   0.5 is too short: the tasks share it by weight, which gives one 0." in err
    )
    assert "the smallest that works for all is " in err
    least = err.strip().rsplit(" ", 1)[1]
    code, _, err = fleet("dry_run=true", f"sweep.minutes={least}", sweep=["+sweep=lora"])
    assert code == 0, err


def test_what_is_said_of_a_tasks_time_names_its_share(fleet: Any) -> None:
    code, out, err = fleet("dry_run=true", "sweep.minutes=40", sweep=["+sweep=lora"])
    assert code == 0, err
    told = [line for line in out.splitlines() if "is more than these rows need" in line]
    assert told and all("minutes of sweep.minutes=40 is more" in line for line in told), out
    assert any("its share of 30 minutes of" in line for line in told), out


def test_a_fleet_whose_tasks_all_have_broken_rows_is_refused(fleet: Any, tmp_path: Path) -> None:
    (tmp_path / "rows" / "one" / "train.jsonl").write_text("{", encoding="utf-8")
    code, _, err = fleet(broken="{no row\n")
    assert code == 2
    assert "data.tasks.one: " in err and "data.tasks.two: " in err


def test_settings_that_cannot_be_used_are_named_with_their_task(fleet: Any) -> None:
    code, _, err = fleet("data.tasks.two.sweep.search=grid", "dry_run=true")
    assert code == 2
    assert "data.tasks.two." in err and "data.tasks.one." not in err


def test_serving_before_anything_has_a_champion_says_so(fleet: Any) -> None:
    code, _, err = fleet("job=serve")
    assert code == 2
    for name in ("one", "two"):
        assert f"{name} is not served: no version of {name}-tiny has the alias champion" in err
    assert "no task of this fleet has a champion to serve" in err


def test_the_rows_of_every_task_are_checked_whatever_is_said_of_the_first(fleet: Any) -> None:
    code, out, err = fleet("job=check", broken="{no row\n")
    assert code == 2
    assert "task    one" in out and "task    two" in out
    assert "two: " in err
