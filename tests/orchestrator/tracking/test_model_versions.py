"""Models in MLflow's registry, and a tracking server that dies, hangs or comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.errors import InputError, TrackingError
from orchestrator.tracking import mlflow_store
from orchestrator.tracking.mlflow_store import MlflowStore, connect
from orchestrator.tracking.outbox import OutboxWorker
from tests.support.stores import (
    SWEEP,
    Server,
    T,
    append,
    carry,
    end,
    history,
    metric,
    run_of,
    runs,
    trial,
    until,
)

pytestmark = pytest.mark.usefixtures("quick")


# Models


def model_folder(folder: Path, text: str = "weights") -> Path:
    (folder / "export").mkdir(exist_ok=True)
    (folder / "export" / "model.gguf").write_text(text)
    return folder / "export"


def register_and_fetch(store: MlflowStore, folder: Path) -> None:
    append(folder, SWEEP, trial(1))
    run_id = run_of(carry(folder, store), 1)
    store.log_artifacts(run_id, model_folder(folder), "model")
    version = store.register(
        "icd10-tiny", run_id, "model", {"sweep": "lora-7f3a91"}, "a description"
    )
    assert (version.version, version.uri, version.run_id, version.tags) == (
        1,
        "models:/icd10-tiny/1",
        run_id,
        {"sweep": "lora-7f3a91"},
    )
    assert store.register("icd10-tiny", run_id, "model", {}, "again") == version
    assert store.champion("icd10-tiny") is None
    store.set_champion("icd10-tiny", 1)
    assert (
        store.champion("icd10-tiny")
        == version
        == store.find_version("icd10-tiny", "sweep", "lora-7f3a91")
    )
    assert store.find_version("icd10-tiny", "sweep", "other") is None
    for index, uri in enumerate(
        ("models:/icd10-tiny@champion", "models:/icd10-tiny/1", f"runs:/{run_id}/model")
    ):
        path = store.download(uri, folder / f"fetched{index}")
        assert (path / "model.gguf").read_text() == "weights"
    assert fetched_by_others(store._address, "models:/icd10-tiny@champion") == "weights"


def fetched_by_others(uri: str, model_uri: str) -> str:
    """What someone gets who knows nothing but MLflow."""
    code = f"import mlflow.artifacts; print(mlflow.artifacts.download_artifacts({model_uri!r}))"
    fetched = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"MLFLOW_TRACKING_URI": uri},
        check=True,
        capture_output=True,
        text=True,
    )
    return (Path(fetched.stdout.splitlines()[-1]) / "model.gguf").read_text()


def test_a_model_is_registered_promoted_and_fetched_from_sqlite(store: MlflowStore, tmp_path: Path):
    register_and_fetch(store, tmp_path)


def test_a_model_is_registered_promoted_and_fetched_through_a_server(
    server: Server, tmp_path: Path
):
    store = connect(server.uri, "models", None)
    register_and_fetch(store, tmp_path)
    assert store.run_url("abc") == f"{server.uri}/#/experiments/{store._experiment_id}/runs/abc"


def test_a_model_is_registered_promoted_and_fetched_from_postgresql(postgres: str, tmp_path: Path):
    store = connect(postgres, "models", tmp_path / "files")
    register_and_fetch(store, tmp_path)
    assert (
        "secret"
        not in f"{store.uri} {store.run_url('abc')} {store.target} {(tmp_path / 'tracking.json').read_text()}"
    )


def test_a_missing_model_says_what_there_is(store: MlflowStore, tmp_path: Path):
    def problem(uri: str) -> str:
        with pytest.raises(InputError) as caught:
            store.download(uri, tmp_path / "fetched")
        return str(caught.value)

    assert (
        problem("models:/nobody@champion")
        == "models:/nobody@champion: there is no model nobody; registered are: none"
    )
    append(tmp_path, SWEEP)
    run_id = run_of(carry(tmp_path, store), None)
    store.log_artifacts(run_id, model_folder(tmp_path), "model")
    store.register("icd10-tiny", run_id, "model", {}, "")
    assert (
        problem("models:/icd10@champion")
        == "models:/icd10@champion: there is no model icd10; registered are: icd10-tiny"
    )
    assert (
        problem("models:/icd10-tiny/7")
        == "models:/icd10-tiny/7: no such version; icd10-tiny has versions 1 and aliases none"
    )
    assert "no such version" in problem("models:/icd10-tiny@champion")
    assert "is no model" in problem("models:/icd10-tiny")
    assert "there are no files" in problem(f"runs:/{run_id}/nothing")
    assert problem(f"runs:/{'0' * 32}/model").startswith("runs:/000")


def test_a_model_name_that_mlflow_refuses_is_a_tracking_error(store: MlflowStore, tmp_path: Path):
    append(tmp_path, SWEEP)
    run_id = run_of(carry(tmp_path, store), None)
    with pytest.raises(TrackingError, match="name"):
        store.register("a/b", run_id, "model", {}, "")


def test_an_upload_is_tried_again_with_more_patience(
    store: MlflowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    limits = []

    def fail_once(*_: object) -> None:
        limits.append(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])
        if len(limits) == 1:
            raise ConnectionError("Connection reset by peer")

    monkeypatch.setattr(store._client, "log_artifacts", fail_once)
    monkeypatch.setattr(mlflow_store.time, "sleep", lambda _: None)
    store.log_artifacts("0" * 32, tmp_path, "model")
    assert limits == ["600", "600"] and os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "3"


# A server that dies, hangs or comes back


def test_a_server_killed_in_mid_run_gets_every_event_once_when_it_is_back(
    server: Server, tmp_path: Path
):
    store = connect(server.uri, "killed", None)
    writer = OutboxWorker(lambda: store, tmp_path)
    writer.start()
    append(tmp_path, SWEEP, trial(1), metric(1, 0))
    until(lambda: writer.run_id(1))
    server.kill()
    try:
        append(tmp_path, *(metric(1, step) for step in range(1, 200)), trial(2), metric(2, 0))
        until(lambda: "nothing listens there" in (writer.error or ""))
    finally:
        server.start()
    assert writer.close(120) == 0 and writer.error is None and writer.num_refused == 0
    found = runs(store)
    assert [step for step, _ in history(store, found["trial-001"])] == list(range(200))
    assert set(found) == {"lora-7f3a91", "trial-001", "trial-002"}


def test_a_server_that_hangs_blocks_nothing_and_makes_no_run_twice(server: Server, tmp_path: Path):
    store = connect(server.uri, "hanging", None)
    writer = OutboxWorker(lambda: store, tmp_path)
    writer.start()
    append(tmp_path, SWEEP)
    until(lambda: writer.run_id(None))
    server.signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        append(tmp_path, trial(1), *(metric(1, step) for step in range(500)))
        writer.wake()
        assert time.monotonic() - started < 0.5
        assert writer.error is None, "nobody has waited for the server meanwhile"
        until(lambda: writer.error)
        assert "no answer in time" in str(writer.error)
    finally:
        server.signal(signal.SIGCONT)
    append(tmp_path, end(1), {"t": T, "kind": "sweep_end", "state": "finished", "metrics": {}})
    assert writer.close(120) == 0
    assert len(history(store, runs(store)["trial-001"])) == 500


def test_a_server_dead_at_the_end_leaves_a_count_and_the_next_start_writes_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = connect(server.uri, "late", None)
    append(tmp_path, SWEEP, trial(1))
    carry(tmp_path, store)
    append(tmp_path, metric(1, 40), end(1))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
    server.signal(signal.SIGSTOP)
    try:
        writer = OutboxWorker(lambda: store, tmp_path)
        writer.start()
        started = time.monotonic()
        assert writer.close(1.5) == 2
        assert time.monotonic() - started < 2.5, "a request waits for ten minutes"
    finally:
        server.signal(signal.SIGCONT)
    carry(tmp_path, store)
    assert history(store, runs(store)["trial-001"]) == [(40, 1.0)]
