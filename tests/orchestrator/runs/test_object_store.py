"""runs on sweeps of an object store: a real S3 server over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.files import filesystem
from orchestrator.config.compose import compose
from orchestrator.runs import cli
from orchestrator.storage import requests
from tests.support.journals import write_sweep
from tests.support.object_store import BUCKET, s3_server
from tests.support.servers import free_port


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of an empty folder of a bucket."""
    with s3_server(tmp_path) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield f"{BUCKET}/team"


def test_a_sweep_of_a_store_is_shown_compared_and_asked_to_change(
    bucket: str, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_sweep(tmp_path / "local" / "lora-1", 8, judged=False)
    (folder / "config.yaml").write_text(
        json.dumps(compose(["+sweep=lora", "data=icd10", "model=tiny"], None))
    )
    lines = (folder / "journal.jsonl").read_text().splitlines()
    running = [line for line in lines if "sweep_end" not in line and '"trial": 8' not in line]
    (folder / "journal.jsonl").write_text("\n".join(running) + "\n")
    filesystem.put(folder, f"{bucket}/sweeps/lora-1")

    def tool(*words: str) -> tuple[int, str, str]:
        code = cli.main([*words, "--storage", bucket])
        told = capsys.readouterr()
        return code, told.out, told.err

    (record,) = json.loads(tool("list", "--json")[1])
    assert (record["state"], record["where"]) == ("died", f"{bucket}/sweeps/lora-1")
    assert json.loads(tool("show", "lora-1", "--json")[1])["alerts"] is not None
    code, out, err = tool("clone", "lora-1", "1", "optim.lr=0.0123")
    assert code == 0 and "does not run now" in out, err
    (request,) = requests.waiting(f"{bucket}/sweeps/lora-1")
    assert request["settings"] == {"optim.lr": 0.0123} and request["trial"] == 1
    requests.remove(f"{bucket}/sweeps/lora-1", request)
    assert requests.waiting(f"{bucket}/sweeps/lora-1") == []
    claim = {"who": "process 1 on head", "t": time.time(), "held": True}
    (tmp_path / "claim.json").write_text(json.dumps(claim))
    filesystem.put(tmp_path / "claim.json", f"{bucket}/owners/lora-1/claim.json")
    assert json.loads(tool("list", "--json")[1])[0]["state"] == "running"
    code, out, err = tool("stop", "lora-1")
    assert code == 2 and "is run by process 1 on head: stop it there" in err
    assert "report-lora-1.html" in tool("report", "lora-1")[1]
    assert (tmp_path / "report-lora-1.html").exists()


def test_a_store_that_does_not_answer_is_one_message(
    monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    assert cli.main(["list", "--storage", "s3://nothing"]) == 2
    told = capsys.readouterr().err
    assert "--storage s3://nothing cannot be read" in told and "Traceback" not in told


@pytest.mark.parametrize("verb", ["list", "show"])
def test_a_store_with_keys_in_its_address_is_refused_without_them(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = [] if verb == "list" else ["lora-1"]
    assert cli.main([verb, *name, "--storage", "s3://me:canary4711@bucket/x"]) == 2
    told = capsys.readouterr()
    assert "--storage s3://me:***@bucket/x holds a secret" in told.err
    assert "canary4711" not in told.out + told.err
