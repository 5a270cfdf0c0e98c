"""What a sweep leaves in MLflow, and which addresses are refused: SQLite, a server over HTTP,
PostgreSQL.
"""

from __future__ import annotations

import json
import math
import shutil
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.errors import TrackingError
from orchestrator.tracking import datasets, mlflow_store
from orchestrator.tracking.events import Refused, RunUpdate
from orchestrator.tracking.mlflow_store import MlflowStore, connect
from tests.support.stores import (
    DATASETS,
    SWEEP,
    Server,
    T,
    append,
    carry,
    end,
    history,
    metric,
    runs,
    trial,
)
from tests.support.unreachable import problem

pytestmark = pytest.mark.usefixtures("quick")


# What a sweep leaves behind


def test_a_sweep_becomes_a_parent_and_children_with_params_data_and_states(
    store: MlflowStore, tmp_path: Path
):
    append(
        tmp_path,
        SWEEP,
        trial(1),
        metric(1, 40, 1.5),
        metric(1, 80, 1.2),
        end(1),
        trial(2),
        end(2, "failed", "boom " * 1000),
    )
    append(
        tmp_path,
        trial(3),
        end(3, "stopped"),
        {
            "t": T + 9999,
            "kind": "sweep_end",
            "state": "finished",
            "metrics": {"test/exact_match": 0.31},
        },
    )
    writer = carry(tmp_path, store)
    found = runs(store)
    parent, first, second = found["lora-7f3a91"], found["trial-001"], found["trial-002"]
    assert (parent.info.status, parent.info.end_time, parent.data.metrics["test/exact_match"]) == (
        "FINISHED",
        T + 9999,
        0.31,
    )
    assert first.info.run_id == writer.run_id(1) and first.data.tags[
        "mlflow.parentRunId"
    ] == parent.info.run_id == writer.run_id(None)
    assert first.data.params == {"adapter.rank": "16"} and parent.data.params == {
        "optim.lr": "0.001"
    }
    assert history(store, first) == [(40, 1.5), (80, 1.2)]
    assert [found[f"trial-00{index}"].info.status for index in (1, 2, 3)] == [
        "FINISHED",
        "FAILED",
        "KILLED",
    ]
    assert second.data.tags["state"] == "failed" and second.data.tags["failure"].startswith("boom")
    assert (
        tmp_path / "the artifacts" / second.info.run_id / "artifacts" / "failure.txt"
    ).read_text() == "boom " * 1000


def test_data_sets_are_inputs_with_rows_weight_and_context(store: MlflowStore, tmp_path: Path):
    append(tmp_path, SWEEP)
    carry(tmp_path, store)
    (tmp_path / "tracking.json").unlink()
    carry(tmp_path, store)
    inputs = {item.dataset.name: item for item in runs(store)["lora-7f3a91"].inputs.dataset_inputs}
    assert set(inputs) == {"titles", "terms"}
    assert {tag.key: tag.value for tag in inputs["titles"].tags} == {
        "mlflow.data.context": "training",
        "rows": "20000",
        "weight": "0.6",
    }
    assert inputs["titles"].dataset.digest == "a" * 36
    assert json.loads(inputs["terms"].dataset.source) == {"uri": "/data/terms.jsonl"}


def test_rows_that_serve_two_purposes_carry_both():
    (merged,) = datasets.inputs([DATASETS[0], DATASETS[0] | {"context": "validation"}])
    assert merged.tags[0].value == "training, validation"


@pytest.mark.parametrize("cut", [250, 6000])
def test_only_a_long_param_may_be_cut(cut: int):
    assert mlflow_store.same("x" * 7000, "x" * cut) and mlflow_store.same("24", "24")
    assert not mlflow_store.same("240", "24") and not mlflow_store.same("x" * 100, "x" * 99)


def test_a_wider_resume_keeps_the_params_and_tags_what_changed(store: MlflowStore, tmp_path: Path):
    append(tmp_path, SWEEP, trial(1, **{"train.steps": 16}), end(1, "failed", "boom"))
    carry(tmp_path, store)
    append(tmp_path, SWEEP, trial(1, **{"train.steps": 160, "train.new": True}), metric(1, 5))
    writer = carry(tmp_path, store)
    found = runs(store)["trial-001"]
    assert (
        found.data.params == {"train.steps": "16", "train.new": "true"}
        and found.data.tags["changed.train.steps"] == "160"
    )
    assert (found.info.status, found.data.tags["state"], found.data.tags["failure"]) == (
        "RUNNING",
        "running",
        "",
    )
    assert writer.num_refused == 0


def test_two_thousand_metrics_take_few_calls_and_a_moment(
    store: MlflowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls = []
    inner = store._client._tracking_client.store
    log_batch = inner.log_batch
    monkeypatch.setattr(
        inner, "log_batch", lambda *args, **kwargs: calls.append(1) or log_batch(*args, **kwargs)
    )
    append(tmp_path, SWEEP, trial(1), *(metric(1, step) for step in range(2000)))
    carry(tmp_path, store)
    assert len(calls) <= 5
    assert len(history(store, runs(store)["trial-001"])) == 2000


def test_nan_and_infinity_are_stored_and_sent_twice_count_once(store: MlflowStore, tmp_path: Path):
    append(
        tmp_path,
        SWEEP,
        *(
            metric(None, step, value)
            for step, value in enumerate((math.nan, math.inf, -math.inf, 0.5))
        ),
    )
    carry(tmp_path, store)
    (tmp_path / "tracking.json").unlink()
    assert carry(tmp_path, store).num_refused == 0
    values = [value for _, value in history(store, runs(store)["lora-7f3a91"])]
    assert len(values) == 4 and math.isnan(values[0]) and values[1] > 1e308 and values[2] < -1e308


def test_a_lost_state_finds_the_same_runs_and_changes_nothing(store: MlflowStore, tmp_path: Path):
    append(tmp_path, SWEEP, trial(1), metric(1, 40), end(1))
    first = carry(tmp_path, store)
    (tmp_path / "tracking.json").unlink()
    second = carry(tmp_path, store)
    assert [first.run_id(key) for key in (None, 1)] == [second.run_id(key) for key in (None, 1)]
    found = runs(store)
    assert (
        len(found) == 2
        and history(store, found["trial-001"]) == [(40, 1.0)]
        and found["trial-001"].info.status == "FINISHED"
    )


def test_a_deleted_sweep_is_written_again(store: MlflowStore, tmp_path: Path):
    append(tmp_path, SWEEP, trial(1))
    writer = carry(tmp_path, store)
    for key in (None, 1):
        store._client.delete_run(writer.run_id(key))
    append(tmp_path, metric(1, 40))
    assert carry(tmp_path, store).run_id(None) != writer.run_id(None)
    assert set(runs(store)) == {"lora-7f3a91", "trial-001"}


def test_a_name_that_mlflow_refuses_is_set_aside(store: MlflowStore, tmp_path: Path):
    append(
        tmp_path,
        SWEEP,
        trial(1),
        {"t": T, "kind": "metrics", "trial": 1, "step": 1, "metrics": {"loss[0]": 1.0}},
        metric(1, 2),
    )
    writer = carry(tmp_path, store)
    assert (
        writer.num_refused == 1 and "loss[0]" in (tmp_path / "tracking-refused.jsonl").read_text()
    )
    assert history(store, runs(store)["trial-001"]) == [(2, 1.0)]


def test_writing_to_a_run_that_is_not_there_is_refused(store: MlflowStore):
    with pytest.raises(Refused, match="not found"):
        store.write("0" * 32, RunUpdate(tags={"a": "b"}))


# Addresses


def test_a_file_that_is_created_by_many_processes_at_once_is_whole(tmp_path: Path):
    code = f"from orchestrator.tracking.mlflow_store import connect; from pathlib import Path; connect('sqlite:///{tmp_path}/new/mlflow.db', 'e', Path('a'))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    assert [process.communicate() + (process.returncode,) for process in processes] == [
        (b"", b"", 0)
    ] * 2


def test_importing_the_module_does_not_import_mlflow():
    code = "import sys, orchestrator.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_real_server_refuses_a_strange_host_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **named: real(
            "127.0.0.1" if host == "mlflow.ns.svc" else host, *rest, **named
        ),
    )
    assert f"--allowed-hosts mlflow.ns.svc:{server.port}" in problem(
        f"http://mlflow.ns.svc:{server.port}", tmp_path
    )


def test_a_wrong_password_is_named_and_not_printed(postgres: str, tmp_path: Path):
    text = problem(postgres.replace("secret", "sekret"), tmp_path)
    assert "the database refuses this user or password" in text and "sekret" not in text
    assert "there is no such database" in problem(
        postgres.rpartition("/")[0] + "/nothing", tmp_path
    )


def test_a_run_that_takes_nothing_is_told_from_a_store_that_does(store: MlflowStore):
    names = ("storage.journal", "trial", "sweep.runner")
    tags = {f"orchestrator.{name}": "1" for name in names}
    run = store.open_run("a", tags, 1)
    assert store.answers() and store.answers(run)
    store._client.delete_run(run)
    assert store.answers() and not store.answers(run)


def test_a_deleted_experiment_is_named(store: MlflowStore, tmp_path: Path):
    store._client.delete_experiment(store._experiment_id)
    assert not store.answers()
    assert "was deleted" in problem(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)


def test_a_relative_path_means_the_current_folder(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copy(template, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    assert (
        connect("sqlite:///mlflow.db", "orchestrator", tmp_path).uri
        == f"sqlite:///{tmp_path}/mlflow.db"
    )


def test_a_database_whose_creation_was_ended_is_named_with_its_remedy(
    template: Path, tmp_path: Path
):
    shutil.copy(template, tmp_path / "mlflow.db")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("drop table experiments")
        database.execute("update alembic_version set version_num = '451aebb31d03'")
        database.commit()
    with pytest.raises(TrackingError, match=r"its tables were left half made; move it away"):
        connect(f"sqlite:///{tmp_path / 'mlflow.db'}", "x", tmp_path)


def test_a_damaged_database_is_named_with_its_remedy(template: Path, tmp_path: Path):
    content = template.read_bytes()
    (tmp_path / "mlflow.db").write_bytes(content[:100] + b"\xff" * (len(content) - 100))
    with pytest.raises(TrackingError, match=r"the file is damaged; move it away"):
        connect(f"sqlite:///{tmp_path / 'mlflow.db'}", "x", tmp_path)
