"""What a command starts and makes ends with it, however it ends: real processes, killed and let
go.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.process import lifeline
from tests.conftest import ROOT

COMMAND = """
import json, os, subprocess, sys, tempfile, time
from pathlib import Path
from orchestrator.process import lifeline
from orchestrator.storage.locks import locked

storage = sys.argv[1]
with locked(storage), lifeline.temporary_files():
    apart = subprocess.Popen(["sleep", "300"], start_new_session=True)
    shell = subprocess.Popen(["sh", "-c", "sleep 300 & echo $!; wait"], stdout=subprocess.PIPE, text=True, start_new_session=True)
    grandchild = int(shell.stdout.readline())
    bare = subprocess.Popen(["sh", "-c", "sleep 300 & echo $!; wait"], stdout=subprocess.PIPE, text=True, start_new_session=True, env={})
    lifeline.end_session(bare.pid)
    unmarked = int(bare.stdout.readline())
    forked = os.fork()
    if forked == 0:
        time.sleep(300)
    folder = Path(tempfile.mkdtemp())
    (folder / "half-written").write_text("x")
    made = Path(storage) / "session"
    made.mkdir()
    lifeline.remove_at_end(made)
    pids = [apart.pid, shell.pid, grandchild, forked, bare.pid, unmarked]
    print(json.dumps({"pids": pids, "folders": [str(folder), str(made), tempfile.gettempdir()]}), flush=True)
    time.sleep(float(sys.argv[2]))
"""


def start(storage: Path, seconds: float = 300) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """A command that has started processes of several kinds and made folders, and what they are."""
    line = [sys.executable, "-c", COMMAND, str(storage), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def lives(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def soon(condition: Callable[[], bool], seconds: float = 120) -> bool:
    """Whether something becomes so."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def remains(storage: Path, told: dict[str, Any]) -> list[Any]:
    """What is still there of a command."""
    left: list[Any] = [pid for pid in told["pids"] if lives(pid)]
    return (
        left
        + [folder for folder in told["folders"] if Path(folder).exists()]
        + list(storage.glob(".owner"))
    )


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)
@pytest.mark.parametrize("whole_group", [False, True], ids=["alone", "with its group"])
def test_of_a_command_that_is_ended_from_outside_nothing_is_left(
    tmp_path: Path, number: signal.Signals, whole_group: bool
) -> None:
    process, told = start(tmp_path)
    assert len(remains(tmp_path, told)) == 6 + 3 + 1
    (os.killpg if whole_group else os.kill)(process.pid, number)
    process.communicate()
    assert soon(lambda: not remains(tmp_path, told)), remains(tmp_path, told)


def test_a_command_that_ends_by_itself_has_nothing_left_when_it_has_ended(tmp_path: Path) -> None:
    process, told = start(tmp_path, 0.2)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert not remains(tmp_path, told)


def test_processes_of_others_live_on_and_so_does_an_owner_who_came_later(tmp_path: Path) -> None:
    one, of_one = start(tmp_path / "one")
    other, of_other = start(tmp_path / "other")
    (tmp_path / "one" / ".owner").write_text("process 1 on elsewhere, started 00:00:00")
    one.kill()
    one.communicate()
    assert soon(lambda: not any(map(lives, of_one["pids"])))
    assert all(map(lives, of_other["pids"])) and len(remains(tmp_path / "other", of_other)) == 10
    assert (tmp_path / "one" / ".owner").read_text().startswith("process 1 ")
    other.kill()
    other.communicate()
    assert soon(lambda: not remains(tmp_path / "other", of_other))


def test_the_environment_is_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    before = dict(os.environ)
    with lifeline.opened() as outer, lifeline.opened() as inner:
        assert lifeline.current is inner and os.environ[lifeline.MARK] in inner.mark
        assert outer.mark != inner.mark
        with lifeline.temporary_files():
            assert Path(os.environ["TMPDIR"]).stat().st_mode & 0o777 == 0o700
    assert lifeline.current is None and dict(os.environ) == before
    assert outer.keeper.returncode == inner.keeper.returncode == 0


def test_a_keeper_that_someone_kills_is_no_reason_to_fail(tmp_path: Path) -> None:
    with lifeline.opened() as line:
        line.keeper.kill()
        line.keeper.wait()
        lifeline.remove_at_end(tmp_path / "x")


@pytest.mark.parametrize(
    ("work", "said"),
    [
        ("with lifeline.last_words('error: gone'): os._exit(1)", "error: gone\n"),
        ("with lifeline.last_words('error: gone'): pass\n    os._exit(1)", ""),
        ("with lifeline.last_words('error: gone'): pass", ""),
    ],
)
def test_a_command_that_vanishes_has_its_last_words_said(
    tmp_path: Path, work: str, said: str
) -> None:
    program = f"""
import os, sys
from orchestrator.process import lifeline
from orchestrator.storage.locks import locked
with locked(sys.argv[1]):
    {work}
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert done.stderr == said
