"""MLflow for real: SQLite in a folder, one server over HTTP per session, PostgreSQL where its programs are installed."""

from __future__ import annotations

import glob
import json
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from orchestrator import outbox, tracking
from orchestrator.errors import InputError, TrackingError
from orchestrator.outbox import Writer
from orchestrator.tracking import Store, connect
from orchestrator.update import Event, Refused, Update

T = 1_700_000_000_000
DATASETS = [
    {"name": "titles", "digest": "a" * 64, "source": "/data/titles.jsonl", "context": "training", "rows": 20000, "weight": 0.6},
    {"name": "terms", "digest": "b" * 64, "source": "/data/terms.jsonl", "context": "test", "rows": 850},
]
SWEEP = {
    "t": T,
    "kind": "sweep",
    "name": "lora-7f3a91",
    "params": {"optim.lr": 1e-3},
    "tags": {"user": "x"},
    "config": "a: 1",
    "datasets": DATASETS,
}
POSTGRES = max(glob.glob("/usr/lib/postgresql/*/bin/initdb") + [shutil.which("initdb") or ""])


def trial(index: int, **params: object) -> Event:
    return {
        "t": T + index,
        "kind": "trial",
        "trial": index,
        "params": params or {"adapter.rank": 16},
        "datasets": DATASETS[:1],
        "config": "b: 2",
    }


def metric(index: int | None, step: int, value: float = 1.0) -> Event:
    return {"t": T + step, "kind": "metrics", "trial": index, "step": step, "metrics": {"valid/loss": value}}


def end(index: int, state: str = "finished", error: str | None = None) -> Event:
    return {"t": T + 9000, "kind": "end", "trial": index, "state": state, "error": error}


def append(folder: Path, *events: Event) -> None:
    with (folder / "journal.jsonl").open("a") as stream:
        stream.writelines(json.dumps(event) + "\n" for event in events)


def carry(folder: Path, store: Store, timeout_seconds: float = 20.0) -> Writer:
    writer = Writer(lambda: store, folder)
    writer.start()
    assert writer.close(timeout_seconds) == 0, writer.error
    return writer


def until(condition: Callable[[], object], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} seconds in vain"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FLUSH_SECONDS", 0.05)
    monkeypatch.setattr(outbox, "LONGEST_PAUSE_SECONDS", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables: making them takes seconds, copying them does not."""
    file = tmp_path_factory.mktemp("template") / "mlflow.db"
    connect(f"sqlite:///{file}", "template", file.parent)
    return file


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Store:
    shutil.copy(template, tmp_path / "mlflow.db")
    return connect(f"sqlite:///{tmp_path}/mlflow.db", "orchestrator", tmp_path / "the artifacts")


class Server:
    """A real `mlflow server`, as small as it gets, that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self.port)]
        program += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--artifacts-destination", str(self.folder / "files")]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # it looks for uvicorn there
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "PATH": path}
        log = (self.folder / "server.log").open("a")
        self.process = subprocess.Popen(program, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=self.folder)
        until(self._answers, 90)

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="session")
def server(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(template, folder / "mlflow.db")
    running = Server(folder)
    running.start()
    yield running
    running.kill()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    if not POSTGRES:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    # Not below pytest's own folder, which every session that starts closes to other users.
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder, port, programs = Path(name), free_port(), Path(POSTGRES).parent
        user = "postgres" if os.geteuid() == 0 else None
        if user is not None:  # PostgreSQL refuses to run as root
            shutil.chown(folder, user)
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"

        def run(*command: str) -> None:
            subprocess.run(command, user=user, check=True, cwd=folder, stdout=subprocess.DEVNULL)

        (folder / "password").write_text("secret")
        (folder / "password").chmod(0o644)
        run(str(programs / "initdb"), "-D", f"{folder}/data", "-U", "mlflow", "-A", "scram-sha-256", f"--pwfile={folder}/password")
        run(str(programs / "pg_ctl"), "-D", f"{folder}/data", "-w", "-l", f"{folder}/log", "-o", options, "start")
        yield f"postgresql://mlflow:secret@127.0.0.1:{port}/postgres"
        run(str(programs / "pg_ctl"), "-D", f"{folder}/data", "-m", "immediate", "stop")


def run_of(writer: Writer, trial: int | None) -> str:
    found = writer.run_id(trial)
    assert found is not None
    return found


def runs(store: Store, sweep: str = "lora-7f3a91") -> dict[str, Any]:
    """The runs of a sweep by name; fails when a name occurs twice."""
    found = store._client.search_runs([store._experiment_id], f"tags.`orchestrator.sweep` = '{sweep}'")
    names = [run.info.run_name for run in found]
    assert len(names) == len(set(names)), f"run made twice: {names}"
    return {run.info.run_name: run for run in found}


def history(store: Store, run: Any) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in store._client.get_metric_history(run.info.run_id, "valid/loss"))


# What a sweep leaves behind


def test_a_sweep_becomes_a_parent_and_children_with_params_data_and_states(store: Store, tmp_path: Path):
    append(tmp_path, SWEEP, trial(1), metric(1, 40, 1.5), metric(1, 80, 1.2), end(1), trial(2), end(2, "failed", "boom " * 1000))
    append(
        tmp_path,
        trial(3),
        end(3, "stopped"),
        {"t": T + 9999, "kind": "sweep_end", "state": "finished", "metrics": {"test/exact_match": 0.31}},
    )
    writer = carry(tmp_path, store)
    found = runs(store)
    parent, first, second = found["lora-7f3a91"], found["trial-001"], found["trial-002"]
    assert (parent.info.status, parent.info.end_time, parent.data.metrics["test/exact_match"]) == ("FINISHED", T + 9999, 0.31)
    assert first.info.run_id == writer.run_id(1) and first.data.tags["mlflow.parentRunId"] == parent.info.run_id == writer.run_id(None)
    assert first.data.params == {"adapter.rank": "16"} and parent.data.params == {"optim.lr": "0.001"}
    assert history(store, first) == [(40, 1.5), (80, 1.2)]
    assert [found[f"trial-00{index}"].info.status for index in (1, 2, 3)] == ["FINISHED", "FAILED", "KILLED"]
    assert second.data.tags["state"] == "failed" and second.data.tags["failure"].startswith("boom")
    assert (tmp_path / "the artifacts" / second.info.run_id / "artifacts" / "failure.txt").read_text() == "boom " * 1000


def test_data_sets_are_inputs_with_rows_weight_and_context(store: Store, tmp_path: Path):
    append(tmp_path, SWEEP)
    carry(tmp_path, store)
    (tmp_path / "tracking.json").unlink()
    carry(tmp_path, store)
    inputs = {item.dataset.name: item for item in runs(store)["lora-7f3a91"].inputs.dataset_inputs}
    assert set(inputs) == {"titles", "terms"}
    assert {tag.key: tag.value for tag in inputs["titles"].tags} == {"mlflow.data.context": "training", "rows": "20000", "weight": "0.6"}
    assert inputs["titles"].dataset.digest == "a" * 36
    assert json.loads(inputs["terms"].dataset.source) == {"uri": "/data/terms.jsonl"}


def test_rows_that_serve_two_purposes_carry_both():
    (merged,) = tracking.inputs([DATASETS[0], DATASETS[0] | {"context": "validation"}])
    assert merged.tags[0].value == "training, validation"


@pytest.mark.parametrize("cut", [250, 6000])
def test_only_a_long_param_may_be_cut(cut: int):
    assert tracking.same("x" * 7000, "x" * cut) and tracking.same("24", "24")
    assert not tracking.same("240", "24") and not tracking.same("x" * 100, "x" * 99)


def test_a_wider_resume_keeps_the_params_and_tags_what_changed(store: Store, tmp_path: Path):
    append(tmp_path, SWEEP, trial(1, **{"train.steps": 16}), end(1, "failed", "boom"))
    carry(tmp_path, store)
    append(tmp_path, SWEEP, trial(1, **{"train.steps": 160, "train.new": True}), metric(1, 5))
    writer = carry(tmp_path, store)
    found = runs(store)["trial-001"]
    assert found.data.params == {"train.steps": "16", "train.new": "true"} and found.data.tags["changed.train.steps"] == "160"
    assert (found.info.status, found.data.tags["state"], found.data.tags["failure"]) == ("RUNNING", "running", "")
    assert writer.num_refused == 0


def test_two_thousand_metrics_take_few_calls_and_a_moment(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []
    inner = store._client._tracking_client.store
    log_batch = inner.log_batch
    monkeypatch.setattr(inner, "log_batch", lambda *args, **kwargs: calls.append(1) or log_batch(*args, **kwargs))
    append(tmp_path, SWEEP, trial(1), *(metric(1, step) for step in range(2000)))
    carry(tmp_path, store)
    assert len(calls) <= 5
    assert len(history(store, runs(store)["trial-001"])) == 2000


def test_nan_and_infinity_are_stored_and_sent_twice_count_once(store: Store, tmp_path: Path):
    append(tmp_path, SWEEP, *(metric(None, step, value) for step, value in enumerate((math.nan, math.inf, -math.inf, 0.5))))
    carry(tmp_path, store)
    (tmp_path / "tracking.json").unlink()
    assert carry(tmp_path, store).num_refused == 0
    values = [value for _, value in history(store, runs(store)["lora-7f3a91"])]
    assert len(values) == 4 and math.isnan(values[0]) and values[1] > 1e308 and values[2] < -1e308


def test_a_lost_state_finds_the_same_runs_and_changes_nothing(store: Store, tmp_path: Path):
    append(tmp_path, SWEEP, trial(1), metric(1, 40), end(1))
    first = carry(tmp_path, store)
    (tmp_path / "tracking.json").unlink()
    second = carry(tmp_path, store)
    assert [first.run_id(key) for key in (None, 1)] == [second.run_id(key) for key in (None, 1)]
    found = runs(store)
    assert len(found) == 2 and history(store, found["trial-001"]) == [(40, 1.0)] and found["trial-001"].info.status == "FINISHED"


def test_a_deleted_sweep_is_written_again(store: Store, tmp_path: Path):
    append(tmp_path, SWEEP, trial(1))
    writer = carry(tmp_path, store)
    for key in (None, 1):
        store._client.delete_run(writer.run_id(key))
    append(tmp_path, metric(1, 40))
    assert carry(tmp_path, store).run_id(None) != writer.run_id(None)
    assert set(runs(store)) == {"lora-7f3a91", "trial-001"}


def test_a_name_that_mlflow_refuses_is_set_aside(store: Store, tmp_path: Path):
    append(tmp_path, SWEEP, trial(1), {"t": T, "kind": "metrics", "trial": 1, "step": 1, "metrics": {"loss[0]": 1.0}}, metric(1, 2))
    writer = carry(tmp_path, store)
    assert writer.num_refused == 1 and "loss[0]" in (tmp_path / "tracking-refused.jsonl").read_text()
    assert history(store, runs(store)["trial-001"]) == [(2, 1.0)]


def test_writing_to_a_run_that_is_not_there_is_refused(store: Store):
    with pytest.raises(Refused, match="not found"):
        store.write("0" * 32, Update(tags={"a": "b"}))


# Models


def model_folder(folder: Path, text: str = "weights") -> Path:
    (folder / "export").mkdir(exist_ok=True)
    (folder / "export" / "model.gguf").write_text(text)
    return folder / "export"


def register_and_fetch(store: Store, folder: Path) -> None:
    append(folder, SWEEP, trial(1))
    run_id = run_of(carry(folder, store), 1)
    store.log_artifacts(run_id, model_folder(folder), "model")
    version = store.register("icd10-tiny", run_id, "model", {"sweep": "lora-7f3a91"}, "a description")
    assert (version.version, version.uri, version.run_id, version.tags) == (1, "models:/icd10-tiny/1", run_id, {"sweep": "lora-7f3a91"})
    assert store.register("icd10-tiny", run_id, "model", {}, "again") == version
    assert store.champion("icd10-tiny") is None
    store.set_champion("icd10-tiny", 1)
    assert store.champion("icd10-tiny") == version == store.find_version("icd10-tiny", "sweep", "lora-7f3a91")
    assert store.find_version("icd10-tiny", "sweep", "other") is None
    for index, uri in enumerate(("models:/icd10-tiny@champion", "models:/icd10-tiny/1", f"runs:/{run_id}/model")):
        path = store.download(uri, folder / f"fetched{index}")
        assert (path / "model.gguf").read_text() == "weights"
    assert fetched_by_others(store._address, "models:/icd10-tiny@champion") == "weights"


def fetched_by_others(uri: str, model_uri: str) -> str:
    """What someone gets who knows nothing but MLflow."""
    code = f"import mlflow.artifacts; print(mlflow.artifacts.download_artifacts({model_uri!r}))"
    fetched = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"MLFLOW_TRACKING_URI": uri}, check=True, capture_output=True, text=True
    )
    return (Path(fetched.stdout.splitlines()[-1]) / "model.gguf").read_text()


def test_a_model_is_registered_promoted_and_fetched_from_sqlite(store: Store, tmp_path: Path):
    register_and_fetch(store, tmp_path)


def test_a_model_is_registered_promoted_and_fetched_through_a_server(server: Server, tmp_path: Path):
    store = connect(server.uri, "models", None)
    register_and_fetch(store, tmp_path)
    assert store.run_url("abc") == f"{server.uri}/#/experiments/{store._experiment_id}/runs/abc"


def test_a_model_is_registered_promoted_and_fetched_from_postgresql(postgres: str, tmp_path: Path):
    store = connect(postgres, "models", tmp_path / "files")
    register_and_fetch(store, tmp_path)
    assert "secret" not in f"{store.uri} {store.run_url('abc')} {store.target} {(tmp_path / 'tracking.json').read_text()}"


def test_a_missing_model_says_what_there_is(store: Store, tmp_path: Path):
    def problem(uri: str) -> str:
        with pytest.raises(InputError) as caught:
            store.download(uri, tmp_path / "fetched")
        return str(caught.value)

    assert problem("models:/nobody@champion") == "models:/nobody@champion: there is no model nobody; registered are: none"
    append(tmp_path, SWEEP)
    run_id = run_of(carry(tmp_path, store), None)
    store.log_artifacts(run_id, model_folder(tmp_path), "model")
    store.register("icd10-tiny", run_id, "model", {}, "")
    assert problem("models:/icd10@champion") == "models:/icd10@champion: there is no model icd10; registered are: icd10-tiny"
    assert problem("models:/icd10-tiny/7") == "models:/icd10-tiny/7: no such version; icd10-tiny has versions 1 and aliases none"
    assert "no such version" in problem("models:/icd10-tiny@champion")
    assert "is no model" in problem("models:/icd10-tiny")
    assert "there are no files" in problem(f"runs:/{run_id}/nothing")
    assert problem(f"runs:/{'0' * 32}/model").startswith("runs:/000")


def test_a_model_name_that_mlflow_refuses_is_a_tracking_error(store: Store, tmp_path: Path):
    append(tmp_path, SWEEP)
    run_id = run_of(carry(tmp_path, store), None)
    with pytest.raises(TrackingError, match="name"):
        store.register("a/b", run_id, "model", {}, "")


def test_an_upload_is_tried_again_with_more_patience(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    limits = []

    def fail_once(*_: object) -> None:
        limits.append(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])
        if len(limits) == 1:
            raise ConnectionError("Connection reset by peer")

    monkeypatch.setattr(store._client, "log_artifacts", fail_once)
    monkeypatch.setattr(tracking.time, "sleep", lambda _: None)
    store.log_artifacts("0" * 32, tmp_path, "model")
    assert limits == ["600", "600"] and os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "3"


# A server that dies, hangs or comes back


def test_a_server_killed_in_mid_run_gets_every_event_once_when_it_is_back(server: Server, tmp_path: Path):
    store = connect(server.uri, "killed", None)
    writer = Writer(lambda: store, tmp_path)
    writer.start()
    append(tmp_path, SWEEP, trial(1), metric(1, 0))
    until(lambda: writer.run_id(1))
    server.kill()
    try:
        append(tmp_path, *(metric(1, step) for step in range(1, 200)), trial(2), metric(2, 0))
        until(lambda: "nothing listens there" in (writer.error or ""))
    finally:
        server.start()
    assert writer.close(30) == 0 and writer.error is None and writer.num_refused == 0
    found = runs(store)
    assert [step for step, _ in history(store, found["trial-001"])] == list(range(200))
    assert set(found) == {"lora-7f3a91", "trial-001", "trial-002"}


def test_a_server_that_hangs_blocks_nothing_and_makes_no_run_twice(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    store = connect(server.uri, "hanging", None)
    writer = Writer(lambda: store, tmp_path)
    writer.start()
    append(tmp_path, SWEEP)
    until(lambda: writer.run_id(None))
    server.signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        append(tmp_path, trial(1), *(metric(1, step) for step in range(500)))
        writer.wake()
        assert time.monotonic() - started < 0.5
        until(lambda: writer.error)
        assert "no answer in time" in str(writer.error)
    finally:
        server.signal(signal.SIGCONT)
    append(tmp_path, end(1), {"t": T, "kind": "sweep_end", "state": "finished", "metrics": {}})
    assert writer.close(20) == 0
    assert len(history(store, runs(store)["trial-001"])) == 500


def test_a_server_dead_at_the_end_leaves_a_count_and_the_next_start_writes_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = connect(server.uri, "late", None)
    append(tmp_path, SWEEP, trial(1))
    carry(tmp_path, store)
    append(tmp_path, metric(1, 40), end(1))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    server.signal(signal.SIGSTOP)
    try:
        writer = Writer(lambda: store, tmp_path)
        writer.start()
        started = time.monotonic()
        assert writer.close(1.5) == 2
        assert time.monotonic() - started < 2.5
    finally:
        server.signal(signal.SIGCONT)
    carry(tmp_path, store)
    assert history(store, runs(store)["trial-001"]) == [(40, 1.0)]


# Addresses


def test_a_file_that_is_created_by_many_processes_at_once_is_whole(tmp_path: Path):
    code = f"from orchestrator.tracking import connect; from pathlib import Path; connect('sqlite:///{tmp_path}/new/mlflow.db', 'e', Path('a'))"
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate() + (process.returncode,) for process in processes] == [(b"", b"", 0)] * 2


def test_importing_the_module_does_not_import_mlflow():
    code = "import sys, orchestrator.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def problem(uri: str, folder: Path) -> str:
    started = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        connect(uri, "orchestrator", folder)
    assert time.monotonic() - started < 8
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    return str(caught.value)


def test_the_real_server_refuses_a_strange_host_name(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **named: real("127.0.0.1" if host == "mlflow.ns.svc" else host, *rest, **named)
    )
    assert f"--allowed-hosts mlflow.ns.svc:{server.port}" in problem(f"http://mlflow.ns.svc:{server.port}", tmp_path)


def test_a_wrong_password_is_named_and_not_printed(postgres: str, tmp_path: Path):
    text = problem(postgres.replace("secret", "sekret"), tmp_path)
    assert "the database refuses this user or password" in text and "sekret" not in text
    assert "there is no such database" in problem(postgres.rpartition("/")[0] + "/nothing", tmp_path)


def test_a_deleted_experiment_is_named(store: Store, tmp_path: Path):
    store._client.delete_experiment(store._experiment_id)
    assert not store.answers()
    assert "was deleted" in problem(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)


def test_a_relative_path_means_the_current_folder(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copy(template, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    assert connect("sqlite:///mlflow.db", "orchestrator", tmp_path).uri == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_database_whose_creation_was_ended_is_named_with_its_remedy(template: Path, tmp_path: Path):
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
