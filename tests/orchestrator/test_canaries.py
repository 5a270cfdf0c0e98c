"""Secrets planted wherever a command can hold one, and looked for wherever it leaves something."""

from __future__ import annotations

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.launch.ray_session import PREFIX
from tests.conftest import environment
from tests.support.servers import mlflow_server

PASSWORD = "canary@pass/word"
ENVIRONMENT = (
    *(
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SECURITY_TOKEN",
        "AWS_SESSION_TOKEN",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
    ),
    *(
        "MLFLOW_TRACKING_TOKEN",
        "RAY_AUTH_TOKEN",
        "PGPASSWORD",
        "WANDB_API_KEY",
        "OPTUNA_STORAGE_PASSWORD",
        "GITHUB_TOKEN",
    ),
)
SIZES = ("train.steps=2", "train.eval_every=1", "train.batch_size=4", "sweep.num_trials=2")


@contextmanager
def signed_in(server: str, user: str, password: str) -> Iterator[str]:
    """The address of a proxy before `server` that asks for a name and a password, as one before a
    company's MLflow does.
    """
    wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    class Proxy(http.server.BaseHTTPRequestHandler):
        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != wanted:
                return self.answer(401, b"who are you?", {})
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in ("authorization", "host", "connection")
            }
            request = urllib.request.Request(
                server + self.path, body or None, headers, method=self.command
            )
            try:
                with urllib.request.urlopen(request) as answer:
                    self.answer(answer.status, answer.read(), dict(answer.headers))
            except urllib.error.HTTPError as error:
                self.answer(error.code, error.read(), dict(error.headers))

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() in ("content-type", "content-disposition"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

        def log_message(self, format: str, *arguments: object) -> None:
            return

    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True).start()
    yield f"127.0.0.1:{listener.server_port}"
    listener.shutdown()
    listener.server_close()


def leaks(folder: Path, canaries: dict[str, str]) -> set[tuple[str, str]]:
    """Which canary stands in which file below a folder, or in its name."""
    found = set()
    for file in folder.rglob("*"):
        try:
            content = file.read_bytes() if file.is_file() and not file.is_symlink() else b""
        except OSError:
            continue
        for name, canary in canaries.items():
            forms = {
                canary,
                canary.replace("@", "%40").replace("/", "%2F"),
                base64.b64encode(canary.encode()).decode(),
            }
            if any(form.encode() in content or form in str(file) for form in forms):
                found.add((name, str(file.relative_to(folder))))
    return found


@pytest.fixture
def place() -> Iterator[Path]:
    """A temporary folder with a path that Ray's sockets can have."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="c", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.slow
def test_no_secret_is_written_or_printed_and_the_printed_commands_run(
    cache: Path, toy: Path, tmp_path: Path, place: Path
) -> None:
    canaries = {name: f"canary-{name.lower()}-0815" for name in ENVIRONMENT} | {
        "password": PASSWORD
    }
    (tmp_path / "server").mkdir()
    (tmp_path / "home").mkdir()
    with (
        mlflow_server(tmp_path / "server", environment(cache)) as server,
        signed_in(server, "me", PASSWORD) as proxy,
    ):
        surroundings = environment(cache) | {name: canaries[name] for name in ENVIRONMENT}
        surroundings |= {
            "TMPDIR": str(place),
            "HOME": str(tmp_path / "home"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        line = [
            sys.executable,
            "-m",
            "orchestrator",
            "+sweep=lora",
            "model=tiny",
            "data=files",
            f"data.folder={toy}",
            "train.max_length=128",
        ]
        line += [
            *SIZES,
            f"storage={tmp_path}/my%20runs",
            f"tracking.uri=http://me:{PASSWORD}@{proxy}",
        ]
        process = subprocess.Popen(
            line,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=surroundings,
            cwd=tmp_path,
        )
        during: set[tuple[str, str]] = set()
        logs = 0
        while process.poll() is None:
            during |= leaks(place, canaries)
            logs = max(logs, len(list(place.glob(f"{PREFIX}*/r/session_*/logs/*.log"))))
            time.sleep(0.5)
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert logs > 3, "the session's logs were looked at"
        assert during == set()
        assert [name for name, canary in canaries.items() if canary in out + err] == []
        assert leaks(tmp_path, canaries) == set() == leaks(place, canaries)
        assert not list(place.glob(f"{PREFIX}*")) and not list(place.glob("ray*"))
        kept = json.loads(next((tmp_path / "my%20runs").glob("sweeps/*/result.json")).read_text())
        assert kept["target"][0] == f"http://{proxy}", (
            "whoever signs in there, it is the same store"
        )
        signed = surroundings | {"MLFLOW_TRACKING_PASSWORD": PASSWORD}
        told = {line[:8].strip(): line[8:] for line in out.splitlines()}
        assert (
            "MLFLOW_TRACKING_PASSWORD" in told["more"] and "MLFLOW_TRACKING_PASSWORD" in told["try"]
        )
        for command in (told["try"], f"{told['more']} dry_run=true", kept["command"]):
            done = run(command, signed, tmp_path)
            assert done.returncode == 0, done.stderr
            assert not any(canary in done.stdout + done.stderr for canary in canaries.values())
        assert "is finished; this is its result" in done.stderr, (
            "the same sweep, however its password is given"
        )
        done = run(told["try"], surroundings, tmp_path)
        assert (
            done.returncode == 2
            and "MLFLOW_TRACKING_PASSWORD, which holds the secret, is not set" in done.stderr
        )


def run(
    command: str, surroundings: dict[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """A command as it is pasted into a shell."""
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=surroundings, cwd=folder
    )


REFUSED: dict[str, Any] = {
    "a token for a server that is away": ["tracking.uri=http://{}@127.0.0.1:9"],
    "a password for a server that is away": ["tracking.uri=http://me:{}@127.0.0.1:9"],
    "a token in a query": ["tracking.uri=http://127.0.0.1:9/?token={}"],
    "a database that is away": ["tracking.uri=postgresql://me:{}@127.0.0.1:9/d?sslpassword={}"],
    "a scheme that is none": ["tracking.uri=htp://{}@127.0.0.1:9"],
    "no scheme": ["tracking.uri=me:{}@127.0.0.1:9"],
    "a port that is none": ["tracking.uri=http://me:{}@127.0.0.1:9x"],
    "a value that hydra cannot read": ['tracking.uri="http://me:{}@127.0.0.1:9'],
    "a setting that is none": ["tracking.urii=http://me:{}@127.0.0.1:9"],
    "a storage with keys": ["storage=s3://me:{}@bucket/x", "tracking.uri=http://127.0.0.1:9"],
    "a storage with keys in its query": [
        "storage=s3://bucket/x?secret_key={}",
        "tracking.uri=http://127.0.0.1:9",
    ],
    "rows with keys": ["data.folder=s3://me:{}@bucket/x"],
    "a validation file with keys": ["data.valid=s3://me:{}@bucket/x.jsonl"],
    "a test file with keys in its query": ["data.test=s3://bucket/x.jsonl?secret_key={}"],
    "a source with keys": ["+data.sources.more.path=abfs://a:{}@a.dfs.core.windows.net/x.jsonl"],
    "a head's address": [
        "cluster=attached",
        "cluster.address=http://me:{}@127.0.0.1:9",
        "storage=/mnt/x",
        "tracking.uri=http://127.0.0.1:9",
    ],
    "a cluster": [
        "cluster=attached",
        "cluster.address=http://127.0.0.1:9",
        "storage=/mnt/x",
        "tracking.uri=http://{}@127.0.0.1:9",
    ],
    "a manifest": [
        "cluster=kuberay",
        "cluster.namespace=x",
        "cluster.image=x@sha256:" + 64 * "0",
        "cluster.claim=x",
        "storage=/mnt/shared/x",
        "tracking.uri=http://{}@mlflow.x.svc",
        "dry_run=true",
    ],
}


@pytest.mark.parametrize("arguments", REFUSED.values(), ids=REFUSED)
def test_a_refusal_repeats_no_secret(
    arguments: list[str],
    cache: Path,
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    base = ["+sweep=lora", "model=tiny", "data=files", f"data.folder={toy}"]
    storage = (
        []
        if any(argument.startswith("storage=") for argument in arguments)
        else [f"storage={tmp_path}/store"]
    )
    code = main(
        [*base, *storage, *(argument.replace("{}", "canary4711") for argument in arguments)]
    )
    out, err = capfd.readouterr()
    assert code == 2 and "canary4711" not in out + err, err
    assert leaks(tmp_path, {"it": "canary4711"}) == set()
