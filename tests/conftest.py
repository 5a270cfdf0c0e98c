"""What the tests share: a cache of base models of their own, toy data, and the command line as a
user runs it.
"""

from __future__ import annotations

import functools
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.base_models import fetch
from jobs.config import BaseModel, Model
from jobs.machine.identity import usable_cores
from orchestrator.tracking import outbox
from orchestrator.tracking.mlflow_store import MlflowStore, connect
from tests.support.servers import free_port
from tests.support.stores import Server

# The tests' tensors are tiny: a second thread only waits for the first, and on a busy machine for
# its core too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What a nohup around the tests has told their processes is undone: some are stopped by a hang-up.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # so a shell starts what runs behind it
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
POSTGRES = max(glob.glob("/usr/lib/postgresql/*/bin/initdb") + [shutil.which("initdb") or ""])
CODES = {"alpha": "A", "beta": "B", "gamma": "C"}


@dataclass
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The result line of output=json."""
        return json.loads(self.out.strip().splitlines()[-1])


def finished(process: subprocess.Popen[str], timeout: float = 570) -> Finished:
    """The end of a command that was started."""
    out, err = process.communicate(timeout=timeout)
    return Finished(process.returncode, out, err)


def environment(cache: Path) -> dict[str, str]:
    """A user's environment with a cache of its own."""
    return {**os.environ, "ORCHESTRATOR_CACHE": str(cache), "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where base models are kept during the tests, and how fast this machine is: measured once, so
    that no command does.
    """
    folder = tmp_path_factory.mktemp("cache")
    line = [sys.executable, "-m", "jobs.model.matrix_rate", str(usable_cores())]
    subprocess.run(line, env=environment(folder), cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def base(cache: Path) -> BaseModel:
    """The tiny model, ready on disk."""
    return fetch.prepare(Model(name="tiny", source="tiny"), cache)


@pytest.fixture(scope="session")
def model_of(
    base: BaseModel, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], BaseModel]:
    """`model_of(kind)`: a tiny random model of an architecture, made once; tiny is the project's
    own.
    """
    from tests.support.plain import architecture

    @functools.cache
    def made(kind: str) -> BaseModel:
        return base if kind == "tiny" else architecture(kind, tmp_path_factory.mktemp(kind), base)

    return made


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of unequal length with a common beginning, and answers of one to three tokens."""
    file = tmp_path_factory.mktemp("rows") / "train.jsonl"
    words = ["alpha", "beta", "gamma"]
    lines = [
        {
            "prompt": f"{words[i % 3]} " + "x" * (i % 11) + str(i),
            "completion": "ABC"[i % 3] * (1 + i % 2),
        }
        for i in range(120)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 rows whose answer is a letter for the first word of the prompt."""
    folder = tmp_path_factory.mktemp("toy")
    names = list(CODES)
    rows = [
        {"prompt": f"{names[(7 * i) % 3]} {i}", "completion": CODES[names[(7 * i) % 3]]}
        for i in range(300)
    ]
    (folder / "train.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    return folder


@pytest.fixture(scope="session")
def command(cache: Path, toy: Path) -> Any:
    """`command(*arguments)` runs `python -m orchestrator` on the tiny model and the toy data;
    `start=True` gives the running process.
    """

    def run(
        *arguments: str, start: bool = False, timeout: float = 570, cwd: Path | None = None
    ) -> Any:
        base = [
            "model=tiny",
            "data=files",
            f"data.folder={toy}",
            "train.max_length=128",
            "output=json",
        ]
        line = [sys.executable, "-m", "orchestrator", *base, *arguments]
        process = subprocess.Popen(
            line,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(cache),
            cwd=cwd or ROOT,
            start_new_session=True,
        )
        if start:
            return process
        return finished(process, timeout)

    return run


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that does not wait as long as it should where nobody watches."""
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
def store(template: Path, tmp_path: Path) -> MlflowStore:
    shutil.copy(template, tmp_path / "mlflow.db")
    return connect(f"sqlite:///{tmp_path}/mlflow.db", "orchestrator", tmp_path / "the artifacts")


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
        run(
            str(programs / "initdb"),
            "-D",
            f"{folder}/data",
            "-U",
            "mlflow",
            "-A",
            "scram-sha-256",
            f"--pwfile={folder}/password",
        )
        run(
            str(programs / "pg_ctl"),
            "-D",
            f"{folder}/data",
            "-w",
            "-l",
            f"{folder}/log",
            "-o",
            options,
            "start",
        )
        yield f"postgresql://mlflow:secret@127.0.0.1:{port}/postgres"
        run(str(programs / "pg_ctl"), "-D", f"{folder}/data", "-m", "immediate", "stop")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n N --dist loadfile`: the files that train are not run side by side."""
    if config.getvalue("dist") != "loadfile":
        return None
    from tests.support.distribution import HeavyApart

    return HeavyApart(config, log)
