"""A wish to stop in all its forms, taken by a real process; and the loss of a process that a sweep
cannot do without.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError, RayTaskError

from jobs.workers.reporting import death
from orchestrator.errors import OrchestratorError
from orchestrator.launch.ray_watchdog import Daemons, in_words, watched
from orchestrator.pipeline import SweepCommand
from orchestrator.process import interruption
from tests.conftest import ROOT

CODE = """
import time
from orchestrator.process import interruption
interruption.arm()
wishes = []
try:
    with interruption.gently(lambda: wishes.append(print("gently", flush=True))):
        print("ready", flush=True)
        while True:
            time.sleep(0.05)
except KeyboardInterrupt:
    print("at once", len(wishes), flush=True)
"""


LOST = """
import os, signal, time
from orchestrator.process import interruption
interruption.arm()

class Asked:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)

try:
    Asked()
    print("goes on", flush=True)
    time.sleep(20)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""
"""A signal that comes while an object goes: what is raised there, nobody can take."""


def test_a_wish_that_comes_where_nobody_can_take_it_is_taken_a_little_later() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", LOST], capture_output=True, text=True, env=environment, timeout=15
    )
    assert done.stdout == "goes on\nstopped\n"
    assert done.stderr == "", "no traceback of what was lost"


def test_a_second_wish_that_is_lost_stays_a_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "AGAIN_SECONDS", 1000)
    stopped: list[bool] = []
    wish = interruption.Wish()
    wish.gently = lambda: stopped.append(True)
    wish.handle(signal.SIGINT, None)
    wish.asked_at = time.monotonic() - 2
    with pytest.raises(KeyboardInterrupt):
        wish.handle(signal.SIGINT, None)
    assert wish.lost()
    with pytest.raises(KeyboardInterrupt):
        wish.handle(signal.SIGINT, None)
    assert stopped == [True]


def test_a_wish_of_before_stops_what_can_be_stopped_gently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption.wish, "asked_at", time.monotonic())
    stopped: list[bool] = []
    with interruption.gently(lambda: stopped.append(True)):
        assert stopped == [True]


def start(*before: str) -> subprocess.Popen[str]:
    """A process that can be stopped gently, and says how it was."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [*before, sys.executable, "-c", CODE]
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)
def test_one_wish_told_to_the_process_and_to_its_group_stops_gently_and_a_later_one_at_once(
    number: signal.Signals,
) -> None:
    process = start()
    assert process.stdout is not None
    os.kill(process.pid, number)
    os.killpg(process.pid, number)  # as `timeout` does
    assert process.stdout.readline() == "gently\n"
    time.sleep(1.2)
    assert process.poll() is None
    os.kill(process.pid, number)
    assert process.stdout.readline() == "at once 1\n"
    process.communicate()
    assert process.returncode == 0


def test_the_note_about_a_second_ctrl_c_says_from_when_on_it_counts() -> None:
    notes: list[str] = []
    sweep_state = SimpleNamespace(interrupted=False, screen=SimpleNamespace(note=notes.append))
    SweepCommand.stop(sweep_state)
    assert sweep_state.interrupted
    (seconds,) = re.findall(r"press Ctrl-C again after ([\d.]+) s$", notes[0])
    process = start()
    assert process.stdout is not None
    os.kill(process.pid, signal.SIGINT)
    assert process.stdout.readline() == "gently\n"
    time.sleep(float(seconds) + 0.1)
    os.kill(process.pid, signal.SIGINT)
    assert process.stdout.readline() == "at once 1\n"
    process.communicate()


def test_a_hang_up_that_nohup_keeps_away_stops_nothing() -> None:
    process = start("nohup")
    assert process.stdout is not None
    os.kill(process.pid, signal.SIGHUP)
    os.kill(process.pid, signal.SIGTERM)
    assert process.stdout.readline() == "gently\n"
    process.kill()
    process.communicate()


class GivenUp(BaseException):
    """What stands here for the end of the process."""


def test_a_lost_daemon_is_told_in_a_sentence_within_seconds() -> None:
    daemon = subprocess.Popen(["sleep", "60"])
    told: list[str] = []
    with watched(Daemons({"gcs_server": daemon}), told.append):
        assert not told
        daemon.kill()
        deadline = time.monotonic() + 120
        while not told and time.monotonic() < deadline:
            time.sleep(0.05)
    text = f"Ray's gcs_server process (pid {daemon.pid}) was ended by SIGKILL, by someone or by the system for lack of memory; "
    assert told[0] == text + "what is done is kept, and the same command continues"


def test_an_error_that_a_lost_daemon_causes_is_told_as_that_loss() -> None:
    daemon = subprocess.Popen(["sleep", "0.3"])

    def give_up(lost: str) -> None:
        raise GivenUp(lost)

    with (
        pytest.raises(GivenUp, match="Ray's raylet process .* has ended with exit code 0"),
        watched(Daemons({"raylet": daemon}), give_up),
    ):
        raise ValueError("what Ray makes of it")
    daemon.wait()


def test_errors_of_ray_are_sentences_and_ours_stay_as_they_are() -> None:
    with (
        pytest.raises(
            OrchestratorError,
            match="the sweep has lost a process of its own: a worker process was killed",
        ),
        watched(Daemons(), print),
    ):
        raise RayActorError()
    with pytest.raises(ValueError, match="ours"), watched(Daemons(), print):
        raise ValueError("ours")
    error = RayTaskError(
        "judge", "Traceback\n  File x\nValueError: no such row", ValueError("no such row")
    )
    assert in_words(error).startswith("Ray has failed: no such row; what is done is kept")


ACTOR_DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: RayTrainWorker
\tactor_id: 9c1b1cf81a2d81cb67efa00701000000
\tpid: 4711
\tnamespace: 5b4ecf39-8fd9-4f8c-9d6c-1f5a5c0f8f3f
\tip: 10.0.0.7
The actor is dead because its worker process has died. Worker exit type: {kind} Worker exit detail: {detail}"""
ROOTS = (
    "Worker unexpectedly exits with a connection error code 2. End of file. There are some potential root causes. (1) The process is killed by "
    "SIGKILL by OOM killer due to high memory usage. (2) ray stop --force is called. (3) The worker is crashed unexpectedly due to SIGSEGV or "
    "other unexpected errors."
)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (
            ACTOR_DIED.format(kind="SYSTEM_ERROR", detail=ROOTS),
            "a worker process (pid 4711, on 10.0.0.7) was killed: by someone, by the system for lack of memory, or by a crash of its own",
        ),
        (
            ACTOR_DIED.format(
                kind="NODE_OUT_OF_MEMORY",
                detail="Task was killed due to the node running low on memory.",
            ),
            "a worker process (pid 4711, on 10.0.0.7) was ended by Ray for lack of memory on its machine",
        ),
        (
            "The actor died because its node has died. Node Id: 4f7d, Ip: 10.0.0.7",
            "a worker process was lost with its machine",
        ),
        (
            ACTOR_DIED.replace("10.0.0.7", "127.0.0.1").format(
                kind="INTENDED_SYSTEM_EXIT", detail="Worker exits by a signal. SIGTERM"
            ),
            "a worker process (pid 4711) has ended by itself or was told to end",
        ),
    ],
)
def test_a_worker_that_has_died_is_told_in_one_sentence(told: str, sentence: str) -> None:
    assert death(told) == sentence


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_signal_while_the_winner_is_judged_is_an_interruption_with_a_report(
    command: Any, tmp_path: Path
) -> None:
    """Once Ray runs in it, a process that is told to end exits by Ray's own handler."""
    process = command("train.steps=20", "train.eval_every=10", f"storage={tmp_path}", start=True)
    for line in process.stderr:
        if line.startswith("judging "):
            break
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "interrupted; the same command continues" in err
    (page,) = tmp_path.glob("sweeps/*/report.html")
    text = page.read_text(encoding="utf-8")
    assert "The sweep is not finished (interrupted)" in text
    assert "This command continues it:" in text
