"""A head that answers in other ways than Ray's does: behind proxies that cut streams, of other
programs, in the middle of a restart.
"""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.cluster import Cluster
from orchestrator.errors import OrchestratorError
from orchestrator.job_environment import MARK
from orchestrator.remote import ray_jobs
from orchestrator.remote.ray_jobs_client import RayJobsClient
from orchestrator.remote.submission import Submission

THERE = json.dumps({"version": "4", "ray_version": version("ray"), "ray_commit": "x"})
JOB = {"type": "SUBMISSION", "submission_id": "s", "status": "RUNNING", "entrypoint": "x", "start_time": 1, "metadata": {"orchestrator": "1"}}  # fmt: skip
LOG = json.dumps({"logs": f"plan    a\ntrial 1\n{MARK}\nbest    ü"})


class Stub:
    """A head of few words: the answer to a path is (status, body); each list of them is used up to
    its last.
    """

    def __init__(self) -> None:
        self.routes: dict[str, list[tuple[int, str]]] = {"/api/version": [(200, THERE)]}
        self.posts = 0
        self.refusals: list[tuple[int, str]] = []
        """The first answers to a job, before there is none."""
        stub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = stub.routes.get(self.path.rstrip("/"), [(404, "")])
                status, body = known.pop(0) if len(known) > 1 else known[0]
                data = body.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_POST(self) -> None:
                """Given a job: no answer, ever, after those that are named."""
                self.rfile.read(int(self.headers["Content-Length"]))
                stub.posts += 1
                if not stub.refusals:
                    self.close_connection = True
                    return
                status, body = stub.refusals.pop(0)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *arguments: Any) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def head(self) -> RayJobsClient:
        return RayJobsClient(
            Cluster(kind="attached", address=f"http://127.0.0.1:{self.server.server_port}")
        )


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    for name in [name for name in os.environ if name.startswith("RAY_")] + [
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
    ]:
        monkeypatch.setenv(name, "")  # given back afterwards, whatever signing in sets
    monkeypatch.setattr(ray_jobs, "FIRST_PAUSE_SECONDS", 0.05)
    made = Stub()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.mark.parametrize(
    "answer", [(200, "<html>"), (200, "[]"), (500, "x"), (200, "[" * 100_000), (404, ""), (302, "")]
)
def test_what_is_no_head_is_told_as_that(answer: tuple[int, str], stub: Stub) -> None:
    stub.routes["/api/version"] = [answer]
    with pytest.raises(
        OrchestratorError,
        match=rf"something answers \({answer[0]}\), but it is no Ray cluster; is it port 8265",
    ) as caught:
        stub.head()
    assert caught.value.exit_code == 2


JOBS = {
    (
        200,
        "<html>sign in</html>",
    ): "something else than Ray's Jobs API does; is there a proxy in between",
    (200, "null"): "something else than",
    (200, '["x"]'): "something else than",
    (200, json.dumps([JOB | {"status": "DREAMING"}])): "something else than",
    (502, "<html>bad gateway"): "Request failed with status code 502",
    (401, "no"): "refuses this token now",
}


def test_when_no_answer_comes_to_a_submission_nobody_knows(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(ray_jobs.time, "sleep", pauses.append)
    head = stub.head()
    with pytest.raises(
        OrchestratorError,
        match="may have been accepted or not: the same command again finds it or sends it",
    ) as caught:
        ray_jobs.post(head, "run-1", "true", {}, Submission("run", [], ""))
    assert caught.value.exit_code == 1, "the job may run"
    assert (stub.posts, pauses) == (4, [1, 2, 4])


BUSY = (500, "No available agent to submit job, please try again later.")


def test_a_head_that_takes_no_job_yet_is_asked_again(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(ray_jobs.time, "sleep", pauses.append)
    stub.refusals = [
        BUSY,
        (503, "starting"),
        (200, json.dumps({"job_id": "run-1", "submission_id": "run-1"})),
    ]
    assert ray_jobs.post(stub.head(), "run-1", "true", {}, Submission("run", [], "")) == "run-1"
    assert pauses == [0.05, 0.1]
    assert capsys.readouterr().err.count("is not ready") == 2, "who waits is told why"


def test_a_head_that_lists_no_jobs_yet_is_asked_again(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_jobs.time, "sleep", lambda seconds: None)
    head = stub.head()
    stub.routes["/api/jobs"] = [(500, "starting"), (503, "starting"), (200, json.dumps([JOB]))]
    assert [job.submission_id for job in ray_jobs.listed(head)] == ["s"]
    stub.routes["/api/jobs"] = [(500, "broken")]
    with pytest.raises(OrchestratorError, match="broken"):
        ray_jobs.listed(head)


def test_a_head_that_never_takes_a_job_is_given_up_as_its_own_trouble(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_jobs.time, "sleep", lambda seconds: None)
    stub.refusals = [BUSY] * 20
    with pytest.raises(
        OrchestratorError,
        match=r"still takes no job: .*No available agent to submit job.*; look at",
    ) as caught:
        ray_jobs.post(stub.head(), "run-1", "true", {}, Submission("run", [], ""))
    assert caught.value.exit_code == 1, "the command was not wrong"
    assert stub.posts == ray_jobs.MOST_REFUSALS


def test_a_job_that_is_wrong_is_refused_at_once(stub: Stub) -> None:
    stub.refusals = [(400, "no such runtime_env")]
    with pytest.raises(
        OrchestratorError, match="the job was refused: .*no such runtime_env"
    ) as caught:
        ray_jobs.post(stub.head(), "run-1", "true", {}, Submission("run", [], ""))
    assert (caught.value.exit_code, stub.posts) == (2, 1)


def test_a_head_without_a_token_is_said_and_one_with_it_is_not(stub: Stub) -> None:
    head = stub.head()
    assert head.is_open()
    stub.routes["/api/version"] = [(401, "who are you?")]
    assert not head.is_open()


def test_a_job_runs_with_the_python_of_ray(tmp_path: Path) -> None:
    """Below a process whose command line is a raylet's; and with `python` where there is none."""
    for name in ("the-rays", "python"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "{name}" "$@"\n')
        program.chmod(0o755)
    command = Submission("run", [], "").command(["optim.lr=1", "data.instruction=it's"])
    surroundings = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    raylet = "import subprocess, sys; subprocess.run(['sh', '-c', 'sh -c \"$1\"; true', 'sh', sys.argv[1]])"
    line = [sys.executable, "-c", raylet, command]
    worker = f"--python_worker_command={tmp_path}/the-rays setup_worker.py -x"
    for arguments, name in (
        ([worker], "the-rays"),
        (["--python_worker_command=/no/such x"], "python"),
        ([], "python"),
    ):
        done = subprocess.run(
            [*line, *arguments], capture_output=True, text=True, env=surroundings, check=True
        )
        assert done.stdout == f"{name} -m orchestrator optim.lr=1 data.instruction=it's\n"


@pytest.mark.parametrize("answer", JOBS)
def test_an_answer_that_cannot_be_read_is_one_line(answer: tuple[int, str], stub: Stub) -> None:
    head = stub.head()
    stub.routes["/api/jobs"] = [answer]
    with pytest.raises(OrchestratorError, match=JOBS[answer]) as caught:
        head.jobs()
    assert "\n" not in str(caught.value)


ENDS = {
    "done": ({"status": "SUCCEEDED"}, 0, ""),
    "failed by itself": ({"status": "FAILED", "driver_exit_code": 1}, 1, ""),
    "refused": ({"status": "FAILED", "driver_exit_code": 2}, 2, ""),
    "killed": (
        {"status": "FAILED", "driver_exit_code": 137, "message": "out of memory"},
        1,
        "failed  job s: out of memory",
    ),
    "without a word": ({"status": "FAILED"}, 1, "failed  job s: no reason given"),
    "stopped": ({"status": "STOPPED"}, 1, "stopped job s; the same command continues"),
}


@pytest.mark.parametrize(("end", "code", "words"), ENDS.values(), ids=ENDS)
def test_a_job_whose_log_comes_as_no_stream_is_heard_in_pieces_to_its_end(
    end: dict[str, Any], code: int, words: str, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    """As behind a proxy that takes no WebSocket. The log is there in halves, and the head is away
    in between.
    """
    head = stub.head()
    stub.routes["/api/jobs/s"] = [
        (200, json.dumps(JOB)),
        (502, "bad gateway"),
        (200, json.dumps(JOB | end)),
    ]
    stub.routes["/api/jobs/s/logs"] = [(200, json.dumps({"logs": "plan    a\ntri"})), (200, LOG)]
    assert ray_jobs.follow(head, "s") == code
    out, err = capsys.readouterr()
    assert out == "best    ü\n"
    told = [line for line in err.splitlines() if line]
    assert (
        told[0] == "plan    a"
        and told[1].startswith("lost ")
        and sorted(told[2:4]) == ["back    the connection is there again", "trial 1"]
    )
    assert "".join(told[4:]).startswith(words) and bool(words) == bool(told[4:])


def test_a_log_that_cannot_be_read_hides_no_ending(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    head = stub.head()
    stub.routes["/api/jobs/s"] = [(200, json.dumps(JOB | {"status": "SUCCEEDED"}))]
    stub.routes["/api/jobs/s/logs"] = [(500, "the node of the log is gone")]
    assert ray_jobs.follow(head, "s") == 0
    assert capsys.readouterr().out == ""
