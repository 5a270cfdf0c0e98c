"""MLflow for real, for tests: events of a sweep, their way to a store, a server that can be killed,
what a store holds in the end.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.tracking.events import Event
from orchestrator.tracking.mlflow_store import MlflowStore
from orchestrator.tracking.outbox import OutboxWorker
from tests.support.servers import free_port

T = 1_700_000_000_000
DATASETS = [
    {
        "name": "titles",
        "digest": "a" * 64,
        "source": "/data/titles.jsonl",
        "context": "training",
        "rows": 20000,
        "weight": 0.6,
    },
    {
        "name": "terms",
        "digest": "b" * 64,
        "source": "/data/terms.jsonl",
        "context": "test",
        "rows": 850,
    },
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
    return {
        "t": T + step,
        "kind": "metrics",
        "trial": index,
        "step": step,
        "metrics": {"valid/loss": value},
    }


def end(index: int, state: str = "finished", error: str | None = None) -> Event:
    return {"t": T + 9000, "kind": "end", "trial": index, "state": state, "error": error}


def append(folder: Path, *events: Event) -> None:
    with (folder / "journal.jsonl").open("a") as stream:
        stream.writelines(json.dumps(event) + "\n" for event in events)


def carry(folder: Path, store: MlflowStore, timeout_seconds: float = 120.0) -> OutboxWorker:
    writer = OutboxWorker(lambda: store, folder)
    writer.start()
    assert writer.close(timeout_seconds) == 0, writer.error
    return writer


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} seconds in vain"
        time.sleep(0.05)


class Server:
    """A real `mlflow server`, as small as it gets, that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--workers",
            "1",
            "--port",
            str(self.port),
        ]
        program += [
            "--backend-store-uri",
            f"sqlite:///{self.folder}/mlflow.db",
            "--artifacts-destination",
            str(self.folder / "files"),
        ]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # it looks for uvicorn there
        environment = os.environ | {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PATH": path,
        }
        log = (self.folder / "server.log").open("a")
        self.process = subprocess.Popen(
            program,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=self.folder,
        )
        until(self._answers, 300)

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


def run_of(writer: OutboxWorker, trial: int | None) -> str:
    found = writer.run_id(trial)
    assert found is not None
    return found


def runs(store: MlflowStore, sweep: str = "lora-7f3a91") -> dict[str, Any]:
    """The runs of a sweep by name; fails when a name occurs twice."""
    found = store._client.search_runs(
        [store._experiment_id], f"tags.`orchestrator.sweep.runner` = '{sweep}'"
    )
    names = [run.info.run_name for run in found]
    assert len(names) == len(set(names)), f"run made twice: {names}"
    return {run.info.run_name: run for run in found}


def history(store: MlflowStore, run: Any) -> list[tuple[int, float]]:
    return sorted(
        (point.step, point.value)
        for point in store._client.get_metric_history(run.info.run_id, "valid/loss")
    )
