"""A sweep that a real Ray head runs, with its storage in a real object store, is changed and told of
from outside: by whoever reads the store, and, through the head, by whoever does not.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.storage import requests
from tests.conftest import environment, finished
from tests.support.object_store import BUCKET, s3_server
from tests.support.outside import outside_command, until
from tests.support.servers import (
    free_port,
    mlflow_server,
    ray_head,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
LENGTH = ("train.steps=800", "train.eval_every=100", "train.batch_size=8")
SWEEP = ("+sweep=lora", "sweep.num_trials=3", "sweep.max_concurrent=2", "sweep.scheduler=none")
RUNS = {"module": "orchestrator.runs"}


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The URI of a storage in an empty bucket, and the environment that leads to it."""
    with s3_server(tmp_path) as variables:
        yield f"{BUCKET}/team", variables


def test_a_sweep_on_a_cluster_is_changed_from_here_and_through_its_head(
    bucket: tuple[str, dict[str, str]],
    cache: Path,
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage, known = bucket
    here = tmp_path / "here"
    here.mkdir()
    closed = known | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
    with (
        mlflow_server(tmp_path, environment(cache)) as tracking,
        ray_head(environment(cache) | known) as head,
    ):
        outside = outside_command(toy, tracking, here)

        def asked(*words: str, reads_store: bool) -> Any:
            with monkeypatch.context() as patch:
                for name, value in (known if reads_store else closed).items():
                    patch.setenv(name, value)
                return finished(outside(*words, "--address", head, **RUNS))

        with monkeypatch.context() as patch:
            for name, value in known.items():
                patch.setenv(name, value)
            process = outside(*SWEEP, *LENGTH, f"storage={storage}", address=head)
        read = until(process, "^trial 1/.* step ")
        name = re.findall(r"^plan +(\S+) · ", read, re.MULTILINE)[-1]
        dropped = asked("drop", name, "2", reads_store=False)
        assert dropped.code == 0 and "trial 2 is dropped" in dropped.out, dropped.err
        assert f"asking  {head}: the storage is not here" in dropped.err
        copied = asked("clone", name, "1", "lr=0.0123", "--json", reads_store=True)
        assert copied.code == 0, copied.err
        assert json.loads(copied.out)["done"].startswith("trial 4 is a copy of trial 1")
        assert "asking" not in copied.err
        again = asked("clone", name, "1", "optim.lr=0.0123", reads_store=False)
        assert again.code == 2, again.out
        assert "trial 4 has exactly these settings already" in again.err
        page = asked("report", name, reads_store=False)
        assert page.out.strip() == str(here / f"report-{name}.html"), page.err
        assert "The sweep is not finished" in Path(page.out.strip()).read_text(encoding="utf-8")
        done = finished(process, 900)
        assert done.code == 0, read + done.err
        assert done.result["trials"] == {"total": 4, "finished": 3, "stopped": 1, "failed": 0}
        with monkeypatch.context() as patch:
            for key, value in known.items():
                patch.setenv(key, value)
            assert requests.waiting(f"{storage}/sweeps/{name}") == []
        late = asked("drop", name, "1", reads_store=False)
        assert late.code == 2 and "has finished, so nothing of it can be changed" in late.err
        archive = json.loads(asked("debug", name, "--json", reads_store=False).out)["archive"]
        with tarfile.open(archive) as stream:
            assert f"debug-{name}/result.json" in stream.getnames()
        jobs = json.loads(asked("list", "--json", reads_store=False).out)
        assert [job["sweep"] for job in jobs] == [name], "what was asked is forgotten again"
