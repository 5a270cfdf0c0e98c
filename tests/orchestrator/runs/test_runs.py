"""python -m orchestrator.runs on a storage of this machine: real sweeps, finished, running, killed
and torn.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.runs import cli, local_storage
from orchestrator.storage.locks import locked
from tests.conftest import ROOT, Finished

LONG = ("train.steps=100000", "train.eval_every=50000", "train.batch_size=4")


@pytest.fixture
def tool(tmp_path: Path) -> Any:
    """`tool(*arguments)` runs the command on a storage."""

    def run(*arguments: str) -> Finished:
        line = [sys.executable, "-m", "orchestrator.runs", *arguments, "--storage", str(tmp_path)]
        done = subprocess.run(
            line,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=500,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


def test_a_running_sweep_is_listed_watched_stopped_and_deleted(
    command: Any, tool: Any, tmp_path: Path
) -> None:
    process = command(*LONG, f"storage={tmp_path}", "output=text", start=True)
    for line in process.stderr:
        if " starts" in line:
            break
    (record,) = json.loads(tool("list", "--json").out)
    assert (record["state"], record["trials"]) == ("running", "0/1")
    name = record["name"]
    refused = tool("delete", name)
    assert refused.code == 2 and f"runs stop {name}" in refused.err
    assert tool("stop", name).code == 0
    process.communicate()
    assert process.returncode == 130
    watched = tool("watch", name)
    assert watched.code == 130
    assert watched.out == (
        f"{name} interrupted: what is done is kept, and the same command continues it\n"
    )
    told = tool("watch", "--json", name)
    assert told.code == 130 and json.loads(told.out)["state"] == "interrupted"
    assert "does not run" in tool("stop", name).out
    assert tool("delete", name).code == 0
    assert tool("list").out == "no sweeps here\n"


def test_a_sweep_whose_process_was_killed_has_died(command: Any, tool: Any, tmp_path: Path) -> None:
    process = command(*LONG, f"storage={tmp_path}", start=True)
    for line in process.stderr:
        if " starts" in line:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    name = json.loads(tool("list", "--json").out)[0]["name"]
    shown = tool("show", name)
    assert re.search(r"^state +died$", shown.out, re.MULTILINE)
    assert re.search(r"^hint +.*; the same command continues it$", shown.out, re.MULTILINE)
    watched = tool("watch", name)
    assert watched.code == 1 and watched.out.startswith(f"{name} died: ")
    assert watched.out.endswith("; the same command continues it\n")
    assert re.search(r"^trial +1  running", shown.out, re.MULTILINE)


def write(folder: Path, name: str, *lines: str) -> None:
    """A sweep's journal."""
    (folder / "sweeps" / name).mkdir(parents=True)
    (folder / "sweeps" / name / "journal.jsonl").write_text("\n".join(lines))


def test_torn_and_foreign_lines_do_not_hide_the_other_sweeps(tool: Any, tmp_path: Path) -> None:
    start = '{"t": 1700000000000, "kind": "sweep", "name": "a", "params": {"sweep.num_trials": 2}, "tags": {}, "config": "", "datasets": []}'
    write(
        tmp_path,
        "whole-1",
        start,
        '{"t": 1700000009000, "kind": "sweep_end", "state": "failed", "error": "disk full"}',
        "",
    )
    write(tmp_path, "torn-1", start, '{"t": 17000')
    write(tmp_path, "empty-1")
    write(
        tmp_path,
        "foreign-1",
        '{"t": 1, "kind": "sweep"}',
        '{"kind": "report", "trial": 1}',
        '{"t": 2, "kind": "trial", "trial": 1}',
    )
    (tmp_path / "sweeps" / "whole-1" / "result.json").write_text('{"best": {"metrics"')
    (tmp_path / "sweeps" / "linked-1").symlink_to(tmp_path / "sweeps" / "whole-1")
    done = tool("list")
    assert done.code == 0
    assert {line.split()[0]: line.split()[1] for line in done.out.splitlines()[1:]} == {
        "whole-1": "failed",
        "torn-1": "died",
        "empty-1": "died",
        "foreign-1": "died",
        "linked-1": "failed",
    }
    linked = tool("delete", "linked-1")
    assert linked.code == 1 and "linked-1 cannot be deleted" in linked.err
    shown = tool("show", "whole-1")
    assert re.search(r"^error +disk full$", shown.out, re.MULTILINE)
    missing = tool("show", "whole-2")
    assert (
        missing.code == 2
        and "no sweep whole-2; what it has: empty-1, foreign-1, linked-1, torn-1, whole-1"
        in missing.err
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["list", "x"], "list takes no name"),
        (["show"], "show takes the name of a sweep"),
        (["go", "x"], "invalid choice"),
        (["list", "--address", "http://h:8265", "--namespace", "n"], "give one of them"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_code_2(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["list", "--storage", "/no/such/folder"], "no such folder"),
        (["list", "--address", "head:8265"], "--address"),
        (
            ["list", "--address", "http://me:secret@head:8265"],
            "--address http://me:***@head:8265: write it as http://HEAD:8265",
        ),
        (
            ["list", "--address", "http://127.0.0.1:1"],
            "--address http://127.0.0.1:1: nothing listens there",
        ),
        (
            ["list", "--address", "http://127.0.0.1:1", "--token-file", "/no/such"],
            "--token-file /no/such: No such file",
        ),
        (["list", "--namespace", "Not_A_Label"], "--namespace must be a name of Kubernetes"),
    ],
)
def test_a_place_that_cannot_be_used_is_one_line_and_code_2(
    arguments: list[str],
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(
        "RAY_AUTH_MODE", "disabled"
    )  # given back afterwards, whatever signing in sets
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and text in err and len(err.strip().splitlines()) == 1


def test_a_process_that_has_just_gone_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a-1", '{"t": 1, "kind": "sweep", "params": {}}')
    monkeypatch.setattr(local_storage, "STOP_SECONDS", 0.1)
    with locked(str(tmp_path)):
        gone = subprocess.Popen(["true"])
        gone.wait()
        (tmp_path / ".owner").write_text(
            f"process {gone.pid} on {os.uname().nodename}, started 00:00:00"
        )
        with pytest.raises(OrchestratorError, match="a-1 was asked to stop and has not ended"):
            local_storage.LocalRuns(str(tmp_path)).stop("a-1")
