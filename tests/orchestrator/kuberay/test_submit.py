"""The whole command against the stand-in: submitted once whatever happens, found again; its answer
and its exit code.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.errors import InputError, OrchestratorError
from orchestrator.job_environment import MARK
from orchestrator.kuberay import manifest, submit
from orchestrator.kuberay.names import SWEEP, sweep_name
from tests.support.apiserver import Fault
from tests.support.kuberay import ARGUMENTS, Serve, impatient, serving, settings
from tests.support.rayjobs import ANSWER, SWEEP_NAME, names, other, posts

serve = pytest.fixture(serving)
ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("answer", [ANSWER, '{"prompt": "a", "answer": "b"}'])
def test_the_answer_alone_is_on_stdout(
    answer: str, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(
        "01",
        logs=[
            [
                "plan    lora",
                '{"sweep": "an earlier line"}',
                "trial 1",
                MARK,
                answer,
                "Ray says goodbye",
            ]
        ],
    )
    assert submit.run(settings("output=json"), ARGUMENTS, None) == 0
    out, err = capsys.readouterr()
    assert out == answer + "\n"
    assert "plan    lora" in err
    assert "Ray says goodbye" in err
    assert MARK not in err


def test_as_text_the_result_is_on_stdout_and_the_rest_on_stderr(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve("01", logs=[["plan    lora", MARK, "best    trial 3"]])
    assert submit.run(settings(), ARGUMENTS, None) == 0
    out, err = capsys.readouterr()
    assert out == "best    trial 3\n"
    assert "plan    lora" in err


def test_an_answer_that_was_not_heard_is_said_to_be_missing(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve("01", logs=[["plan    lora"]])
    impatient(monkeypatch, drain_seconds=0.5)
    assert submit.run(settings("output=json"), ARGUMENTS, None) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "its answer is missing here" in err


def test_the_answer_is_that_of_the_head_that_ended_it(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(
        "10b",
        speed=25.0,
        logs=[[MARK, "half an answer"], ["plan    again", MARK, "best    trial 3"]],
    )
    assert submit.run(settings(), ARGUMENTS, None) == 0
    out, err = capsys.readouterr()
    assert out == "half an answer\nbest    trial 3\n"
    assert "plan    again" in err


def test_what_is_sent_is_the_manifest(serve: Serve) -> None:
    api = serve(None)
    assert submit.run(settings("cluster.detach=true"), ARGUMENTS, None) == 0
    sent = api.job(SWEEP_NAME)
    key = sent["metadata"]["annotations"]["slm-orchestrator/submission"]
    assert sent["spec"] == manifest.make(settings(), SWEEP_NAME, ARGUMENTS, key)["spec"]
    (request,) = [line for line in api.requests if line.startswith("POST") and "/rayjobs" in line]
    assert "fieldValidation=Strict" in request


def test_detached_it_returns_when_the_job_is_accepted(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve("01", speed=0.01)  # it would take half an hour
    assert submit.run(settings("cluster.detach=true"), ARGUMENTS, None) == 0
    assert f"runs watch {SWEEP_NAME} --namespace slm" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["lost", "drop"])
def test_a_creation_whose_answer_was_lost_is_one_job(kind: str, serve: Serve) -> None:
    api = serve("01")
    api.faults = [Fault("POST .*/rayjobs", kind)]
    assert submit.run(settings(), ARGUMENTS, None) == 0
    assert posts(api) == 2
    assert names(api) == [SWEEP_NAME]


def test_a_creation_that_is_never_answered_says_that_nobody_knows(serve: Serve) -> None:
    api = serve(None)
    api.faults = [Fault("POST .*/rayjobs", "drop", None, 100)]
    with pytest.raises(
        OrchestratorError, match="may have been accepted or not: the same command again finds it"
    ) as caught:
        submit.run(settings(), ARGUMENTS, None)
    assert caught.value.exit_code == 1


def test_a_sweep_that_runs_is_followed_and_not_started_twice(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    api = serve("01", speed=20.0)
    assert submit.run(settings("cluster.detach=true"), ARGUMENTS, None) == 0
    assert submit.run(settings(), ARGUMENTS, None) == 0
    assert posts(api) == 1
    err = capsys.readouterr().err
    assert f"running  RayJob slm/{SWEEP_NAME} of the same sweep already" in err
    assert "finished RayJob" in err


def test_of_two_submissions_at_once_the_slower_follows_the_faster(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    api = serve("01")
    create = api.fault

    def first_another(request: str) -> Fault | None:
        """Just before our creation arrives, someone else's does."""
        if "POST" in request and "/rayjobs" in request and not names(api):
            api.put("ADDED", "rayjobs", other(SWEEP_NAME))
            import threading

            threading.Thread(target=api.play, args=(SWEEP_NAME,), daemon=True).start()
        return create(request)

    api.fault = first_another  # type: ignore[method-assign]
    assert submit.run(settings(), ARGUMENTS, None) == 0
    assert "of the same sweep already" in capsys.readouterr().err
    assert names(api) == [SWEEP_NAME]


def test_how_the_answer_is_printed_and_where_it_begins_do_not_make_another_sweep() -> None:
    same = [*reversed(ARGUMENTS), "output=json", "++fresh=true", "retry=true"]
    assert sweep_name(settings(), same, None) == SWEEP_NAME
    assert sweep_name(settings(), [*ARGUMENTS, "seed=2"], None) != SWEEP_NAME


def test_a_job_of_others_with_our_name_is_left_alone(serve: Serve) -> None:
    api = serve("01")
    api.put(
        "ADDED",
        "rayjobs",
        {**other(SWEEP_NAME), "metadata": {"name": SWEEP_NAME, "namespace": "slm", "uid": "1"}},
    )
    with pytest.raises(
        InputError, match=f"a RayJob {SWEEP_NAME} that is not of this program is in the way"
    ):
        submit.run(settings(), ARGUMENTS, None)


def test_an_ended_sweep_gets_a_new_job_that_continues_it(serve: Serve) -> None:
    api = serve("03")
    assert submit.run(settings(), ARGUMENTS, None) == 1
    api.scenario = "01"
    assert submit.run(settings(), ARGUMENTS, None) == 0
    assert names(api) == [SWEEP_NAME, f"{SWEEP_NAME}-r2"]
    assert {api.job(name)["metadata"]["labels"][SWEEP] for name in names(api)} == {SWEEP_NAME}
    assert submit.run(settings(), ARGUMENTS, None) == 0
    assert names(api)[-1] == f"{SWEEP_NAME}-r3"


def test_beginning_anew_beside_a_live_job_is_refused(serve: Serve) -> None:
    serve("01", speed=0.01)
    submit.run(settings("cluster.detach=true"), ARGUMENTS, None)
    with pytest.raises(
        InputError,
        match=f"fresh=true, and RayJob {SWEEP_NAME} of the same sweep runs; stop it first",
    ):
        submit.run(settings("fresh=true"), ARGUMENTS, None)


def test_a_field_that_the_server_does_not_know_is_an_error_and_nothing_is_started(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = serve("01")
    make = manifest.make

    def misspelt(*arguments: Any) -> dict[str, Any]:
        job = make(*arguments)
        job["spec"]["ttlSecondsAfterFinishd"] = 1
        return job

    monkeypatch.setattr(manifest, "make", misspelt)
    with pytest.raises(
        OrchestratorError, match=r'unknown field "spec.ttlSecondsAfterFinishd".*older'
    ) as caught:
        submit.run(settings(), ARGUMENTS, None)
    assert caught.value.exit_code == 2
    assert names(api) == []


def test_a_server_that_cannot_be_reached_is_bad_input(serve: Serve, tmp_path: Path) -> None:
    serve(None).kubeconfig(tmp_path, address="http://127.0.0.1:9")
    with pytest.raises(InputError, match="refuses the connection") as caught:
        submit.run(settings(), ARGUMENTS, None)
    assert caught.value.exit_code == 2


def test_ctrl_c_detaches_and_the_job_goes_on(serve: Serve) -> None:
    api = serve("01", speed=0.5)
    code = "from tests.support.kuberay import *; from orchestrator.kuberay import submit; import sys; sys.exit(submit.run(settings(), ARGUMENTS, None))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    assert process.stderr is not None
    try:
        seen = ""
        while "starting cluster" not in seen:
            line = process.stderr.readline()
            assert line, seen
            seen += line
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert f"detached RayJob slm/{SWEEP_NAME} goes on" in err
    assert f"python -m orchestrator.runs watch {SWEEP_NAME} --namespace slm" in err
    assert names(api) == [SWEEP_NAME]
    assert not any(request.startswith(("DELETE", "PATCH")) for request in api.requests)


def test_a_preview_is_the_manifest_and_asks_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    text = manifest.as_yaml(submit.preview(settings(), ARGUMENTS, None))
    assert yaml.safe_load(text) == manifest.make(settings(), SWEEP_NAME, ARGUMENTS, "0" * 12)
