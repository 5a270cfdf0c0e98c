"""What a version was made for: which differences make another task, and who is asked before a sweep
starts.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from jobs.config import BaseModel
from orchestrator.config.compose import compose
from orchestrator.errors import TrackingError
from orchestrator.evaluation import champion_lookup
from orchestrator.evaluation.champion_files import fetch_champion
from orchestrator.evaluation.verdict import champion_scores
from orchestrator.plan import planner as planning
from orchestrator.plan.task import FINGERPRINT, TEST, Task
from orchestrator.tracking.mlflow_store import MlflowStore, connect
from tests.support.settings import build
from tests.support.stores import SWEEP, Server, append, carry, run_of, trial

SPLITS = {"train": range(20), "valid": range(20, 25), "test": range(25, 30)}


def write(folder: Path, answer: str = "A", **numbers: range) -> Path:
    """A folder of rows."""
    folder.mkdir(parents=True)
    for split, found in (SPLITS | numbers).items():
        rows = [
            {"prompt": f"word {number}", "completion": f"{answer}{number % 3}"} for number in found
        ]
        (folder / f"{split}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
    return folder


@pytest.fixture
def plan(base: BaseModel, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    begin = ["model=tiny", "data=files", f"storage={tmp_path / 'outputs'}"]
    return lambda folder, *more: planning.make(
        build(compose([*begin, f"data.folder={folder}", *more], None))
    )


def test_two_folders_of_one_name_are_two_tasks_where_their_test_rows_differ(
    plan: Any, tmp_path: Path
) -> None:
    one, other = (
        plan(write(tmp_path / name / "tiny", answer)) for name, answer in (("a", "A"), ("b", "B"))
    )
    assert one.config.registered_name == other.config.registered_name == "tiny-tiny"
    assert other.task.differences(one.task.tags) == ["other test rows"]
    assert (
        "data.name" not in (other.task.stranger("models:/tiny-tiny/1", one.task.tags) or "")
        and one.task.tags != other.task.tags
    )
    moved = plan(write(tmp_path / "elsewhere" / "tiny"))
    assert moved.task.tags == one.task.tags, "the same rows in another place"


@pytest.mark.parametrize("changed", [{"train": range(100, 150)}, {"valid": range(200, 205)}])
def test_other_training_rows_or_validation_rows_are_the_same_task(
    plan: Any, tmp_path: Path, changed: dict[str, range]
) -> None:
    one, other = (
        plan(write(tmp_path / "a" / "tiny")),
        plan(write(tmp_path / "b" / "tiny", **changed)),
    )
    assert one.name != other.name and one.task == other.task
    assert other.task.stranger("models:/x/1", one.task.tags) is None


def test_another_instruction_or_metric_is_another_task_and_named(plan: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "tiny")
    one = plan(folder)
    assert "another data.instruction" in plan(folder, "data.instruction=Spell").task.differences(
        one.task.tags
    )
    by_loss = plan(folder, "sweep.metric=valid/loss").task
    assert by_loss.differences(one.task.tags) == ["another sweep.metric (valid/exact_match)"]
    assert "chosen by another sweep.metric (valid/exact_match); it keeps its alias" in (
        by_loss.stranger("models:/x/1", one.task.tags) or ""
    )


def test_what_a_version_of_before_there_were_tasks_tells_is_believed() -> None:
    task = Task("d1", "Spell", "valid/loss")
    assert task.differences({TEST: "d1", "sweep": "x"}) == [] == task.differences({})
    assert task.differences({TEST: "d2"}) == ["other test rows"]
    assert len(task.tags[FINGERPRINT]) == 16


def test_scores_that_someone_has_edited_are_no_scores() -> None:
    tags = {f"test/exact_match{end}": "0.5" for end in ("", "_low", "_high")} | {
        "test.rows": "10",
        TEST: "d",
    }
    metric = "test/exact_match"
    known = champion_scores(tags, "d", metric, None)
    assert known is not None and known.value == 0.5
    assert champion_scores(tags, "other", metric, None) is None
    assert champion_scores(tags, "d", "test/accuracy", None) is None
    assert champion_scores(tags | {"test.rows": "many"}, "d", metric, None) is None
    assert champion_scores({TEST: "d"}, "d", metric, None) is None


def test_a_champion_is_judged_by_its_own_files_whatever_an_earlier_one_has_left(
    store: MlflowStore, tmp_path: Path, base: BaseModel, quick: None
) -> None:
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    append(sweep, SWEEP, trial(1), trial(2))
    writer = carry(sweep, store)
    described = {
        "name": "tiny",
        "source": "tiny",
        "id": "tiny",
        "revision": base.revision,
        "path": base.path,
    }
    for number, kind in ((1, "adapter"), (2, "model")):
        files = tmp_path / f"files-{number}"
        (files / kind).mkdir(parents=True)
        (files / kind / "config.json").write_text("{}")
        (files / "base.json").write_text(json.dumps(described))
        (files / "task.json").write_text(
            json.dumps({"instruction": "", "max_new_tokens": 1, "max_length": 8})
        )
        store.log_artifacts(run_of(writer, number), files, "model/step-000010")
        version = store.register("x", run_of(writer, number), "model/step-000010", {}, "")
        folder, _ = fetch_champion(store, version, base, tmp_path / "champion")
        assert {file.name for file in folder.iterdir() if file.is_dir()} == {kind}


def register(store: MlflowStore, folder: Path, tags: dict[str, str]) -> None:
    """A champion with these tags."""
    folder.mkdir()
    append(folder, SWEEP, trial(1))
    run_id = run_of(carry(folder, store), 1)
    version = store.register("tiny-tiny", run_id, "model", tags, "")
    store.set_champion("tiny-tiny", version.version)


def test_a_dry_run_asks_the_store_that_is_there_and_makes_none(
    plan: Any, tmp_path: Path, quick: None
) -> None:
    one, other = (
        plan(write(tmp_path / name / "tiny", answer)) for name, answer in (("a", "A"), ("b", "B"))
    )
    assert champion_lookup.noted(other) == other
    assert not (tmp_path / "outputs").exists()
    store = connect(
        f"sqlite:///{tmp_path}/outputs/mlflow.db", "orchestrator", tmp_path / "artifacts"
    )
    assert champion_lookup.noted(other) == other, "no model of this name yet"
    register(store, tmp_path / "sweep", one.task.tags)
    assert champion_lookup.noted(one) == one
    said = champion_lookup.noted(other).notes[-1]
    assert said.startswith(
        "tiny-tiny: another task than that of the champion models:/tiny-tiny/1: the champion was chosen by other test rows"
    )


def test_a_server_is_asked_too(
    plan: Any, tmp_path: Path, server: Server, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(write(tmp_path / "tiny"), f"tracking.uri={server.uri}")
    assert champion_lookup.champion(server.uri, "nobody") is None
    register(connect(server.uri, "tasks", None), tmp_path / "sweep", {TEST: "other"})
    assert "the champion was chosen by other test rows" in champion_lookup.noted(made).notes[-1]
    assert champion_lookup.champion(server.uri, "tiny-tiny") == (
        "models:/tiny-tiny/1",
        {TEST: "other"},
    )
    nobody = plan(tmp_path / "tiny", "tracking.uri=http://127.0.0.1:9")
    assert (
        "whether tiny-tiny is the name of another task is told when the sweep starts: tracking.uri=http://127.0.0.1:9"
        in (champion_lookup.noted(nobody).notes[-1])
    )


@pytest.mark.parametrize("content", [b"", b"no database", None])
def test_what_cannot_be_read_is_not_known(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "mlflow.db"
    if content is not None:
        file.write_bytes(content)
    if content:
        with pytest.raises(TrackingError):
            champion_lookup.champion(f"sqlite:///{file}", "x")
    else:
        assert champion_lookup.champion(f"sqlite:///{file}", "x") is None
    assert file.exists() == (content is not None) and os.listdir(tmp_path) == ["mlflow.db"] * (
        content is not None
    )
