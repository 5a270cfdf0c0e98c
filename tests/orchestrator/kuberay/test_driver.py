"""A command that runs as a RayJob: what it waits for that a command on a terminal does not."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.errors import InputError
from orchestrator.job_environment import JOB
from orchestrator.kuberay import driver
from orchestrator.storage import sync
from orchestrator.storage.locks import locked
from tests.support.manifests import build, named

HOLD = "import sys; from orchestrator.storage.locks import locked\nwith locked(sys.argv[1], 'lora-1'): print('held', flush=True); sys.stdin.read()"


@contextmanager
def held_elsewhere(storage: Path) -> Iterator[subprocess.Popen[str]]:
    """The sweep's lock in another process, as a head holds it whose node was lost."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(storage)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def take(storage: Path) -> int:
    """Work on the sweep."""
    with locked(str(storage), "lora-1"):
        return 0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LOOK_SECONDS", 0.1)


def test_a_lock_that_a_lost_head_still_holds_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(JOB, "lora-1")
    with held_elsewhere(tmp_path) as process:
        attempts = itertools.count(1)

        def take_later() -> int:
            """The lost head's lock goes at the third attempt."""
            if next(attempts) == 3:
                process.kill()
                process.wait()
            return take(tmp_path)

        assert driver.patient(take_later) == 0
    err = capsys.readouterr().err
    assert err.count("waiting  for up to 240 s: sweep lora-1 of storage") == 1


def test_a_lock_that_stays_is_told_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(JOB, "lora-1")
    monkeypatch.setattr(driver, "HELD_SECONDS", 0.3)
    with held_elsewhere(tmp_path), pytest.raises(InputError, match="is in use by process"):
        driver.patient(lambda: take(tmp_path))


def test_a_claim_in_an_object_store_is_told_in_the_words_that_are_waited_for(
    tmp_path: Path,
) -> None:
    text = Path(sync.__file__).read_text(encoding="utf-8")
    assert driver.HELD in text


def test_elsewhere_and_for_other_mistakes_nothing_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad() -> int:
        raise InputError("no such setting")

    monkeypatch.setattr(driver, "LOOK_SECONDS", 3600)
    with held_elsewhere(tmp_path):
        monkeypatch.delenv(JOB, raising=False)
        with pytest.raises(InputError, match="is in use by process"):
            driver.patient(lambda: take(tmp_path))
    monkeypatch.setenv(JOB, "lora-1")
    with pytest.raises(InputError, match="no such setting"):
        driver.patient(bad)


def test_a_submitter_inside_the_cluster_is_not_started_again_over_bad_input() -> None:
    job = named(build("+submitter"), "CronJob")["sweep"]["spec"]["jobTemplate"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    (container,) = job["template"]["spec"]["containers"]
    assert rule == {
        "action": "FailJob",
        "onExitCodes": {"containerName": container["name"], "operator": "In", "values": [2]},
    }
    assert job["backoffLimit"] > 0 and job["template"]["spec"]["restartPolicy"] == "Never"
