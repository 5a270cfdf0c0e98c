"""What is typed beside job=new stands in the experiment and is what runs, or is refused with what to
write instead.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli import main
from tests.support.own_files import TOPICS, labelled_table, splits_in_a_folder, write_lines


def made(folder: Path, rows: Path | str, *typed: str) -> dict[str, Any]:
    """The experiment that job=new writes."""
    line = ["job=new", "mine", "--from", str(rows), "model=tiny", "--config-dir", str(folder)]
    assert main([*line, *typed]) == 0
    return yaml.safe_load((folder / "experiment" / "mine.yaml").read_text(encoding="utf-8"))


def planned(
    folder: Path, capsys: pytest.CaptureFixture[str], *typed: str, chosen: str = "+experiment=mine"
) -> dict[str, Any]:
    """What the plan of the experiment says."""
    capsys.readouterr()
    line = [chosen, "--config-dir", str(folder), "dry_run=true", "output=json", *typed]
    assert main(line) == 0
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])["plan"]


def test_sizes_of_an_experiment_are_those_that_run_also_where_they_are_the_defaults(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = made(tmp_path, labelled_table(tmp_path), "sweep.num_trials=6", "train.steps=480")
    assert settings["sweep"]["num_trials"] == 6 and settings["train"]["steps"] == 480
    plan = planned(tmp_path, capsys)
    assert (plan["trials"], plan["rungs"][-1]) == (6, 480)
    assert planned(tmp_path, capsys, "sweep.num_trials=3")["trials"] == 3


def test_no_time_is_written_beside_sizes_that_leave_nothing_open(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = made(tmp_path, labelled_table(tmp_path), "sweep.num_trials=40", "train.steps=9000")
    assert settings["sweep"]["minutes"] is None
    plan = planned(tmp_path, capsys)
    assert (plan["trials"], plan["rungs"][-1]) == (40, 9000)


def test_a_setting_that_is_taken_out_is_for_the_command_that_runs(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = labelled_table(tmp_path)
    line = ["job=new", "mine", "--from", str(rows), "model=tiny", "--config-dir", str(tmp_path)]
    assert main([*line, "~sweep.space.rank"]) == 2
    said = capsys.readouterr().err
    remedy = f"+experiment=mine --config-dir {tmp_path} '~sweep.space.rank'"
    assert said.count("\n") == 1 and remedy in said and not (tmp_path / "experiment").exists()
    assert main(line) == 0
    points = planned(tmp_path, capsys, "~sweep.space.rank")["points"]
    assert points and not any("adapter.rank" in point for point in points)


def test_files_that_are_typed_stand_there_with_their_whole_paths(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(splits_in_a_folder(tmp_path))
    more = [{"question": f"who has {topic}", "response": "heavy"} for topic in TOPICS]
    write_lines(Path("more.jsonl"), more)
    Path("costs.yaml").write_text("heavy: {light: 2}\nlight: {heavy: 1}\n", encoding="utf-8")
    files = ("data.valid=valid.tsv", "data.sources.more.path=more.jsonl")
    settings = made(tmp_path, "train.tsv", *files, "sweep.metric=cost", "sweep.costs=costs.yaml")
    folder = tmp_path / "split"
    assert settings["data"]["folder"] == str(folder / "train.tsv")
    assert settings["data"]["valid"] == str(folder / "valid.tsv")
    assert settings["data"]["sources"]["more"]["path"] == str(folder / "more.jsonl")
    assert settings["sweep"]["costs"] == str(folder / "costs.yaml")
