"""What happens when the surroundings fail: the tracking server, a worker, the user's patience."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.finished_sweeps import journal
from tests.support.servers import free_port
from tests.support.stores import Server


def wait_for_reports(storage: Path, process: subprocess.Popen[str], count: int) -> None:
    """Until the trials have reported `count` times."""
    deadline = time.monotonic() + 500
    while len([e for e in journal(storage) if e["kind"] == "report"]) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no report came"
        time.sleep(0.2)


def kill_workers(process: subprocess.Popen[str], name: str = "RayTrainWorker") -> None:
    """Kill the training workers of a command, or its processes of another name, with no chance to
    clean up.
    """
    import psutil

    workers = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if name in "".join(child.cmdline()):
                workers.append(child)
    assert workers
    for worker in workers:
        os.kill(worker.pid, signal.SIGKILL)


def test_a_tracking_address_that_does_not_answer_is_one_line_and_nothing_starts(
    command: Any, tmp_path: Path
) -> None:
    done = command(
        f"tracking.uri=http://127.0.0.1:{free_port()}", f"storage={tmp_path}", "train.steps=10"
    )
    assert done.code == 2
    assert "tracking.uri" in done.err
    assert "Traceback" not in done.err
    assert not list(tmp_path.glob("sweeps/*/journal.jsonl"))


@pytest.mark.slow
def test_a_server_that_dies_in_mid_run_loses_nothing(command: Any, tmp_path: Path) -> None:
    server = Server(tmp_path)
    storage = tmp_path / "outputs"
    arguments = (
        "train.steps=300",
        "train.eval_every=50",
        "optim.lr=0.002",
        f"storage={storage}",
        "tracking.patience_seconds=3",
    )
    arguments = [*arguments, "registry.beat=[]"]
    server.start()
    try:
        process = command(*arguments, f"tracking.uri={server.uri}", start=True)
        wait_for_reports(storage, process, 1)
    finally:
        server.kill()
    out, err = process.communicate(timeout=500)
    assert process.returncode == 1, err
    assert "not registered" in json.loads(out)["error"]
    assert (
        len([e for e in journal(storage) if e["kind"] == "report" and "valid/loss" in e["metrics"]])
        == 6
    )
    server.start()
    try:
        done = command(*arguments, f"tracking.uri={server.uri}")
        assert done.code == 0, done.err
        query = f"{server.uri}/api/2.0/mlflow/metrics/get-history?run_id={done.result['best']['run_id']}&metric_key=valid/loss"
        with urllib.request.urlopen(query, timeout=120) as answer:
            assert [point["step"] for point in json.load(answer)["metrics"]] == [
                50,
                100,
                150,
                200,
                250,
                300,
            ]
    finally:
        server.kill()
    assert done.result["model"]["alias"] == "champion"


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_a_killed_worker_goes_on(
    command: Any, tmp_path: Path
) -> None:
    arguments = ("train.steps=600", "train.eval_every=50", "optim.lr=0.001")
    undisturbed = command(*arguments, f"storage={tmp_path / 'undisturbed'}")
    storage = tmp_path / "disturbed"
    process = command(*arguments, f"storage={storage}", start=True)
    wait_for_reports(storage, process, 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the command
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert json.loads(out)["state"] == "interrupted"
    done = len([e for e in journal(storage) if e["kind"] == "report"])
    process = command(*arguments, f"storage={storage}", start=True)
    wait_for_reports(storage, process, done + 1)
    kill_workers(process)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    best, other = (found["best"]["metrics"] for found in (json.loads(out), undisturbed.result))
    measured = ("train/loss", "valid/loss", "valid/exact_match", "test/exact_match")
    assert [best[key] for key in measured] == [other[key] for key in measured]


@pytest.mark.parametrize(
    ("when", "steps"), [("trial", 60), pytest.param("report", 600, marks=pytest.mark.slow)]
)
def test_a_killed_process_of_a_trial_is_no_failure_of_the_trial(
    when: str, steps: int, command: Any, tmp_path: Path
) -> None:
    """As soon as it has started, and once it has reported: the storage knows nothing of the kill
    yet, nor does it soon.
    """
    process = command(
        "sweep.space={rate: {path: optim.lr, type: grid, values: [0.002, 0.02]}}",
        *(f"train.steps={steps}", "train.eval_every=60", "sweep.scheduler=none", "executor=pack"),
        *("job.examples=0", f"storage={tmp_path}"),
        start=True,
    )
    deadline = time.monotonic() + 200
    while not any(event["kind"] == when for event in journal(tmp_path)):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"no {when} came"
        time.sleep(0.02)
    kill_workers(process, "ImplicitFunc")
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert json.loads(out)["trials"] == {"total": 2, "finished": 2, "stopped": 0, "failed": 0}, err
    assert not [e for e in journal(tmp_path) if e["kind"] == "end" and e["state"] == "failed"]
    assert "the sweep goes on from what is done" in err


def test_a_trial_that_fails_is_named_with_its_cause_and_the_others_go_on(
    command: Any, tmp_path: Path
) -> None:
    space = "sweep.space={rate: {path: optim.lr, type: grid, values: [0.01, 900.0]}}"
    # A decay of 900 times 1 turns the weights over and makes them 899 times larger at each step;
    # 0.01 times 1 is harmless.
    extreme = ("optim.max_norm=1e30", "optim.warmup_steps=0", "optim.weight_decay=1")
    done = command(space, "train.steps=40", "train.eval_every=20", *extreme, f"storage={tmp_path}")
    assert done.code == 0, done.err
    assert done.result["trials"] == {"total": 2, "finished": 1, "stopped": 0, "failed": 1}
    assert "loss or gradient is not finite" in done.err
    assert done.result["best"]["params"]["optim.lr"] == 0.01
    next(
        tmp_path.glob("sweeps/*/result.json")
    ).unlink()  # so that the same command goes through its trials again
    again = command(space, "train.steps=40", "train.eval_every=20", *extreme, f"storage={tmp_path}")
    assert again.code == 0, again.err
    ends = [
        event["error"]
        for event in journal(tmp_path)
        if event["kind"] == "end" and event["state"] == "failed"
    ]
    assert len(ends) == 2 and ends[0] == ends[1] and "not finite" in ends[0], (
        "a failure keeps its reason"
    )


@pytest.mark.slow
def test_two_workers_share_a_trial_and_score_as_one_does(command: Any, tmp_path: Path) -> None:
    arguments = ("train.steps=20", "train.eval_every=10", "optim.lr=0.005", "train.dtype=float32")
    losses = []
    for workers in (1, 2):
        done = command(
            *arguments, f"train.num_workers={workers}", f"storage={tmp_path / str(workers)}"
        )
        assert done.code == 0, done.err
        losses.append(done.result["best"]["metrics"]["valid/loss"])
    assert abs(losses[0] - losses[1]) < 1e-4


@pytest.mark.slow
def test_optuna_and_asha_run_a_full_fine_tuning_sweep(command: Any, tmp_path: Path) -> None:
    space = "sweep.space={rate: {path: optim.lr, type: loguniform, low: 0.0005, high: 0.01}}"
    arguments = (
        "adapter=full",
        "sweep.search=optuna",
        "sweep.scheduler=asha",
        "sweep.num_trials=3",
        "train.steps=20",
        "train.eval_every=10",
    )
    done = command(space, *arguments, f"storage={tmp_path}")
    assert done.code == 0, done.err
    assert done.result["trials"]["failed"] == 0
    version = next(tmp_path.glob("sweeps/*/export"))
    assert (version / "model" / "model.safetensors").exists()
    answer = command("job=predict", f"model_uri={version}", f"storage={tmp_path}", "prompt=beta 7")
    assert answer.code == 0, answer.err
    assert answer.result["answer"] == "B"
