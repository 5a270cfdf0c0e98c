"""Hosts that do not see the storage, or lose each other: each has a network of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, finished
from tests.support.hosts import FAST, GRID, SMALL, Hosts, can_make_hosts, join
from tests.support.servers import BIN, end_all, wait


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    if not can_make_hosts():
        pytest.skip("this user may not make network and mount namespaces")
    made = Hosts(3)
    yield made
    end_all(str(tmp_path))
    made.remove()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ray's sockets need a short path."""
    return Path(tempfile.mkdtemp(prefix="o", dir="/tmp"))


def on_head(hosts: Hosts, toy: Path, storage: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command on the first host, with an MLflow server beside it."""
    known = {**os.environ, **FAST, "RAY_ADDRESS": "10.77.0.1:6399", "PYTHONPATH": str(ROOT)}
    known.pop("ORCHESTRATOR_CACHE", None)
    base = [
        "model=tiny",
        "data=files",
        f"data.folder={toy}",
        "train.max_length=128",
        "cluster=attached",
        "cluster.address=auto",
    ]
    base += ["tracking.uri=http://10.77.0.1:5000", f"storage={storage}"]
    line = hosts.line(0, sys.executable, "-m", "orchestrator", *base, *arguments)
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=known, cwd=storage
    )


def test_a_node_that_does_not_see_the_storage_is_named(
    hosts: Hosts, toy: Path, tmp_path: Path, folder: Path
) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    join(hosts, 0, folder)
    join(hosts, 1, folder, extra=f"mount -t tmpfs none {storage} &&")
    done = finished(on_head(hosts, toy, storage, *SMALL))
    assert done.code == 2, done.err
    assert "is not shared: 1 of 2 nodes do not see it (10.77.0.2)" in done.err
    end_all(str(folder))


@pytest.mark.slow
def test_a_host_that_is_cut_off_costs_no_trial(
    hosts: Hosts, toy: Path, tmp_path: Path, folder: Path
) -> None:
    for number in range(3):
        join(hosts, number, folder)
    store = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--serve-artifacts",
        "--artifacts-destination",
        f"{tmp_path}/files",
    ]
    server = hosts.line(
        0,
        BIN / "mlflow",
        "server",
        *store,
        "--host",
        "10.77.0.1",
        "--port",
        5000,
        "--workers",
        1,
        "--allowed-hosts",
        "*",
    )
    subprocess.Popen(
        server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    look = "import urllib.request as u; u.urlopen('http://10.77.0.1:5000/health', timeout=5)"
    wait(lambda: not subprocess.run(hosts.line(0, sys.executable, "-c", look)).returncode)
    process = on_head(
        hosts,
        toy,
        tmp_path,
        *SMALL,
        GRID,
        "executor=plain",
        "train.steps=1500",
        "train.eval_every=500",
        "output=json",
    )
    read = ""
    assert process.stderr is not None
    for text in process.stderr:
        read += text
        if "step 500/1500" in text:
            hosts.do(f"link set {hosts.outer(2)} down")
            break
    done = finished(process)
    assert done.code == 0, read + done.err
    assert re.search(r"goes on from the last checkpoint", read + done.err)
    assert done.result["trials"]["finished"] == 3
    end_all(str(folder))
