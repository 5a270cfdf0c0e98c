"""+sweep=pareto: several bases, one front over their files, and a champion for each device."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from jobs.base_models import fetch, tiny
from jobs.config import Model
from orchestrator.cli import main
from tests.support.finished_sweeps import registry

FEW = ("sweep.num_trials=2", "train.steps=20", "train.eval_every=10", "train.max_length=128")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second base: the tiny model, twice as wide."""
    folder = tmp_path_factory.mktemp("bases") / "tiny-wide"
    recipe = tiny.RECIPE
    tiny.RECIPE = copy.deepcopy(recipe)
    tiny.RECIPE["config"] |= {"hidden_size": 128, "intermediate_size": 256}
    try:
        tiny.make(folder)
    finally:
        tiny.RECIPE = recipe
    return folder


@pytest.fixture
def asked(cache: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`asked(*arguments)` is the exit code of +sweep=pareto on the toy data."""
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    fetch.prepare(Model(name="tiny", source="tiny"))

    def run(*arguments: str) -> int:
        data = ("data=files", f"data.folder={toy}", f"storage={tmp_path / 'st'}")
        return main(["+sweep=pareto", *data, *FEW, *arguments])

    return run


def test_the_plan_names_each_base_its_files_and_the_devices_that_they_may_be_for(
    asked: Any, wide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    devices = "device.profiles={watch: {max_size_mb: 0.15}, wrist: {max_size_mb: 0.3}}"
    assert asked(f"pareto.bases=[tiny,{wide}]", devices, "dry_run=true", "output=json") == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert set(plan["bases"]) == {"tiny", "tiny-wide"} and plan["not_trained"] == {}
    ships = plan["bases"]["tiny-wide"]["ships"]
    assert ships["formats"] == ["gguf-q4_0"] and "gguf-q8_0" in ships["left_out"]
    assert ships["profiles"]["champion-watch"]["formats"] == []
    assert ships["profiles"]["champion-wrist"]["formats"] == ["gguf-q4_0"]
    assert plan["bases"]["tiny"]["name"] != plan["bases"]["tiny-wide"]["name"]
    assert not (tmp_path / "st").exists()


def test_a_base_whose_files_are_too_large_for_every_device_is_not_trained(
    asked: Any, wide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = "device.profiles={watch: {max_size_mb: 0.15}}"
    assert asked(f"pareto.bases=[tiny,{wide}]", small, "dry_run=true") == 0
    told = capsys.readouterr().out
    assert "base    tiny-wide is not trained: device.profiles.watch.max_size_mb is 0.15" in told
    smaller = "device.profiles={watch: {max_size_mb: 0.01}}"
    assert asked(f"pareto.bases=[tiny,{wide}]", smaller, "dry_run=true") == 2
    assert "nothing is trained for it" in capsys.readouterr().err


def test_each_base_may_spend_an_equal_part_of_the_budget(
    asked: Any, wide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bases = f"pareto.bases=[tiny,{wide}]"
    assert asked(bases, "device.profiles=[phone]", "budget.minutes=60", "dry_run=true") == 0
    assert capsys.readouterr().out.count("budget.minutes=30;") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pareto.bases=[tiny,nope]"], '"nope" is neither one of'),
        (["pareto.bases=[tiny,tiny]"], "must name each once"),
        (["pareto.bases=[tiny]", "model=tiny"], "model=tiny has no effect: pareto.bases names"),
        (["pareto.bases=[tiny,'']"], "holds an empty name"),
        (["pareto.bases=[tiny]", "optim.lr=-1"], "optim.lr"),
        (["pareto.bases=[tiny]", "export.format=gguf-q9"], "must be one of safetensors"),
    ],
)
def test_what_cannot_be_compared_is_said_at_once(
    arguments: list[str], words: str, asked: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(*arguments, "dry_run=true") == 2
    told = capsys.readouterr()
    assert words in told.err and "Traceback" not in told.err, told.err


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_bases_end_with_a_front_and_a_champion_for_each_device(
    asked: Any, wide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        f"pareto.bases=[tiny,{wide}]",
        *("registry.beat=[]", "export.threads=[1]", "export.rows=20", "output=json"),
        "device.profiles={watch: {max_size_mb: 0.15}, wrist: {max_size_mb: 0.5}, pin: {max_drop: 0}}",
    )
    assert asked(*arguments) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(record["sweeps"]) == {"tiny", "tiny-wide"}
    made = {(entry["base"], entry["format"]) for entry in record["files"]}
    assert len(made) == 4
    assert any(entry["front"] for entry in record["files"])
    smallest = min(record["files"], key=lambda entry: entry["size_mb"])
    assert smallest["front"], "nothing is smaller"
    devices = {told["device"]: told for told in record["devices"]}
    assert devices["watch"]["holds"] and devices["watch"]["base"] == "tiny"
    client = registry(tmp_path / "st")
    name = Path(devices["watch"]["model"]).parent.name
    for told in record["devices"]:
        if told["holds"]:
            version = client.get_model_version_by_alias(name, told["alias"])
            assert told["model"] == f"models:/{name}/{version.version}"
    assert Path(record["report"]).read_text(encoding="utf-8").count("<circle") >= 4
    assert asked(*arguments) == 0, "the same command again trains nothing"
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["files"] == record["files"] and again["sweeps"] == record["sweeps"]
