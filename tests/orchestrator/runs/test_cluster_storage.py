"""runs drop, clone, report, compare and debug for sweeps of a cluster: where their storage is seen
from here, where it is asked there, and what is said where neither works.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import InputError, OrchestratorError
from orchestrator.kuberay import submit
from orchestrator.output.remote_state import RemoteState, as_line
from orchestrator.runs import cluster_storage, relay
from orchestrator.runs.cluster_storage import JobStorage
from orchestrator.storage import requests
from tests.conftest import ROOT
from tests.support.in_process import runs_tool
from tests.support.journals import write_sweep
from tests.support.kuberay import ARGUMENTS, Serve, serving, settings
from tests.support.rayjobs import until

serve = pytest.fixture(serving)
JOB = JobStorage("first", None, "job-1", False)
KUBECTL = """#!{python}
import os, sys
words = sys.argv[sys.argv.index("--") + 1:]
assert words[:2] == ["env", "--chdir=/app"] and words[2:4] == ["python", "-m"], words
words = [word.replace("/mnt/shared/outputs", "{storage}") for word in words[3:]]
os.environ["PYTHONPATH"] = "{root}"
open("{log}", "a").write(" ".join(sys.argv[1:]) + "\\n")
os.execv(sys.executable, [sys.executable, *words])
"""
"""Stands for kubectl: runs here what would run in the pod, on the storage that the pod sees."""


@pytest.mark.parametrize(
    ("entrypoint", "storage"),
    [
        ("env --chdir=/app python -m orchestrator +sweep=lora storage=/mnt/a b=1", "/mnt/a"),
        ("p=1; exec \"$python\" -m orchestrator 'storage=s3://b/x y' storage=s3://c", "s3://c"),
        ("python -m orchestrator '++storage=/with space'", "/with space"),
        ("python -m orchestrator model=tiny", None),
        ("python -m orchestrator 'torn", None),
        ("python -m other storage=/x", None),
    ],
)
def test_a_jobs_command_tells_its_storage(entrypoint: str, storage: str | None) -> None:
    assert cluster_storage.storage_of(entrypoint) == storage


def job_of(storage: Path, submission: str, is_live: bool = False) -> JobStorage:
    return JobStorage("first", str(storage), submission, is_live)


def test_a_folder_of_the_same_name_that_is_another_one_is_not_taken(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweeps" / "first", 4)
    assert cluster_storage.seen_from_here([job_of(tmp_path, "job-1")]) is not None
    lines = (folder / "journal.jsonl").read_text().splitlines()
    start = json.loads(lines[0]) | {"submission": "job-1"}
    (folder / "journal.jsonl").write_text("\n".join([json.dumps(start), *lines[1:]]) + "\n")
    assert cluster_storage.seen_from_here([job_of(tmp_path, "job-1")]) is not None
    assert cluster_storage.seen_from_here([job_of(tmp_path, "job-2")]) is None
    assert cluster_storage.seen_from_here([job_of(tmp_path / "elsewhere", "job-1")]) is None


def test_a_sweep_that_the_cluster_works_on_runs_though_its_lock_is_not_seen(
    tmp_path: Path,
) -> None:
    folder = write_sweep(tmp_path / "sweeps" / "first", 4, judged=False)
    lines = (folder / "journal.jsonl").read_text().splitlines()
    (folder / "journal.jsonl").write_text(
        "".join(f"{line}\n" for line in lines if "sweep_end" not in line)
    )
    for is_live, state in ((True, "running"), (False, "died")):
        place = cluster_storage.seen_from_here([job_of(tmp_path, "job-1", is_live)])
        assert place is not None and place.record(folder)["state"] == state


def relayed(*words: str) -> str:
    """What the program prints on the cluster."""
    done = subprocess.run(
        [sys.executable, "-m", relay.MODULE, *words],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        timeout=500,
        check=True,
    )
    return done.stdout


def test_an_answer_and_its_file_come_back_whole(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "there" / "sweeps" / "first", 8)
    here = tmp_path / "here"
    here.mkdir()
    answer = relay.received(relayed(str(tmp_path / "there"), "report", "first"), here, "first")
    assert answer.record["report"] == answer.text == str(here / "report-first.html")
    assert (here / "report-first.html").read_bytes() == (folder / "report.html").read_bytes()
    assert answer.record["alerts"]
    answer = relay.received(relayed(str(tmp_path / "there"), "debug", "first"), here, "first")
    assert answer.text.startswith(str(here / "debug-first.tar.gz"))
    with tarfile.open(answer.record["archive"]) as archive:
        assert "debug-first/journal-end.jsonl" in archive.getnames()


def test_a_refusal_there_is_the_same_refusal_here(tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweeps" / "first", 4)
    with pytest.raises(InputError, match="first has finished, so nothing of it can be changed"):
        relay.received(relayed(str(tmp_path), "drop", "first", "2"), tmp_path, "first")
    with pytest.raises(OrchestratorError, match="it printed: No module named orchestrator.runs"):
        relay.received("No module named orchestrator.runs.relay\n\n", tmp_path, "first")


def forged(message: Any) -> str:
    """What a cluster prints that answers whatever it likes."""
    packed = zlib.compress(json.dumps(message).encode())
    return f"{relay.MARK} {base64.b64encode(packed).decode()}"


@pytest.mark.parametrize("key", ["report", "archive"])
@pytest.mark.parametrize("name", ["../x", "/outside", "..", ".bashrc"])
def test_a_clusters_answer_chooses_no_place_on_this_machine(
    key: str, name: str, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    name = f"{tmp_path}{name}" if name.startswith("/") else name
    body = base64.b64encode(b"evil").decode()
    record = {"name": name, key: name}
    sent = forged(
        {"text": name, "record": record, "file": {"key": key, "name": name, "body": body}}
    )
    answer = relay.received(sent, here, "first")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written == [Path(answer.record[key])] == [here / relay.FILES[key].format("first")]
    with pytest.raises(OrchestratorError, match="as the cluster calls the sweep, is no name"):
        relay.received(sent, here, "../../x")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == written


@pytest.mark.parametrize(
    "message", [[], "x", {}, {"text": "", "record": {}, "file": {"key": ".."}}]
)
def test_what_is_no_answer_is_one_message(message: Any, tmp_path: Path) -> None:
    with pytest.raises(OrchestratorError, match="no answer came from the cluster"):
        relay.received(forged(message), tmp_path, "first")
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MOST_BYTES", 1000)
    with pytest.raises(OrchestratorError, match="is larger than"):
        relay.received(forged({"text": "x" * 10_000, "record": {}}), tmp_path, "first")


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> Any:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    return runs_tool(capsys, "--namespace", "slm")


def test_a_rayjobs_storage_is_asked_in_its_head_pod(
    serve: Serve, tool: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    storage, log, programs = tmp_path / "volume", tmp_path / "asked.log", tmp_path / "bin"
    folder = write_sweep(storage / "sweeps" / "first", 8, judged=False)
    (folder / "journal.jsonl").write_text(
        "".join(
            f"{line}\n"
            for line in (folder / "journal.jsonl").read_text().splitlines()
            if "sweep_end" not in line
        )
    )
    api = serve("06d", waits_seconds=0, logs=[[as_line(RemoteState(sweep="first"))]])
    submit.run(settings("cluster.detach=true"), ARGUMENTS, None)
    until(lambda: any(kind == "pods" for kind, _ in api.things))
    job = next(name for kind, name in api.things if kind == "rayjobs")
    monkeypatch.setenv("PATH", str(programs))
    code, out, err = tool("drop", job, "3")
    assert (code, out) == (2, "") and "kubectl, which this machine lacks" in err
    assert "python -m orchestrator.runs drop first 3 --storage /mnt/shared/outputs" in err
    programs.mkdir()
    (programs / "kubectl").write_text(
        KUBECTL.format(python=sys.executable, storage=storage, root=ROOT, log=log)
    )
    (programs / "kubectl").chmod(0o755)
    code, out, err = tool("drop", job, "3")
    assert code == 0 and "first does not run now" in out, err
    (request,) = requests.waiting(str(folder))
    assert (request["action"], request["trial"]) == ("drop", 3)
    assert "--namespace slm" in log.read_text() and "--container ray-head" in log.read_text()
    code, out, err = tool("report", job, "--json")
    assert code == 0 and json.loads(out)["report"] == str(tmp_path / "here/report-first.html")
    code, out, err = tool("report", "nobody")
    assert code == 2 and "nobody: no RayJob or sweep of this program there" in err
    code, out, err = tool("report", job, "--storage", str(storage))
    assert code == 0 and out.strip() == str(folder / "report.html")
    code, out, err = tool("list", "--storage", str(storage))
    assert code == 2 and "list asks the cluster itself: leave out --storage" in err


def test_a_rayjob_without_a_pod_says_what_would_work(serve: Serve, tool: Any) -> None:
    serve(None)
    submit.run(settings("cluster.detach=true"), ARGUMENTS, None)
    job = json.loads(tool("list", "--json")[1])[0]["name"]
    code, out, err = tool("report", job)
    assert (code, out) == (2, "")
    assert f"storage /mnt/shared/outputs of RayJob {job} is not on this machine" in err
    assert "no head pod that runs now (starting)" in err and "--storage FOLDER" in err
