"""What a wrong `tracking.uri` is answered with."""

from __future__ import annotations

import http.server
import shutil
import socket
import threading
from pathlib import Path

import pytest

from orchestrator.config import credentials
from orchestrator.tracking import database_setup, store_errors
from orchestrator.tracking.mlflow_store import connect
from orchestrator.tracking.uri import database_file, resolve, sqlite_uri
from tests.support.unreachable import problem


class Answer(http.server.BaseHTTPRequestHandler):
    status, body = 200, b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b"<html>hello</html>", "a server answers there (200), but it is not MLflow"),
        (404, b"not here", "a server answers there (404), but it is not MLflow"),
        (401, b"", "access denied (401); set MLFLOW_TRACKING_USERNAME"),
        (
            403,
            b"Invalid Host header - possible DNS rebinding attack detected",
            "start it with --allowed-hosts 127.0.0.1:",
        ),
        (503, b"", "with an error (503)"),
    ],
)
def test_a_server_that_is_no_mlflow_or_will_not_is_named(
    status: int, body: bytes, expected: str, tmp_path: Path
):
    handler = type("Handler", (Answer,), {"status": status, "body": body})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        assert expected in problem(f"http://me:secret@127.0.0.1:{listener.server_port}", tmp_path)
        listener.shutdown()


def test_every_wrong_address_is_one_line_with_a_remedy(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("this is no database, is it?")
    with socket.socket() as listener:  # closed again at once: nothing listens on this port
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    expected = {
        f"http://127.0.0.1:{port}": "nothing listens there; start the server or correct tracking.uri=...",
        "http://no-such-host.invalid:5000": "no such host; correct tracking.uri=...",
        f"postgresql://me:secret@127.0.0.1:{port}/x": "nothing listens there",
        "htp://somewhere:5000": "did you mean tracking.uri=http://somewhere:5000?",
        "postgres2://me:secret@h/d": "did you mean tracking.uri=postgresql://me:***@h/d?",
        "databricks://x": "use one of http, https, sqlite, postgresql",
        "mlflow:5000": "did you mean tracking.uri=http://mlflow:5000?",
        "http://": "names no host",
        f"{tmp_path}/mlruns": f"use a database, tracking.uri=sqlite:///{tmp_path}/mlruns/mlflow.db",
        f"file://{tmp_path}/mlruns": f"use a database, tracking.uri=sqlite:///{tmp_path}/mlruns/mlflow.db",
        "sqlite://": "names no file",
        f"sqlite:///{tmp_path}": "is a folder; name a file in it",
        f"sqlite:///{tmp_path}/notes.txt": "is a file, but no SQLite database",
        f"sqlite:///{tmp_path}/notes.txt/mlflow.db": "choose another file",
        "sqlite:////proc/nowhere/mlflow.db": "choose another file",
    }
    found = {uri: problem(uri, tmp_path) for uri in expected}
    assert {uri: text for uri, text in found.items() if expected[uri] not in text} == {}
    assert not any("secret" in text for text in found.values())


def test_a_server_that_never_answers_is_given_up_after_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database_setup, "ANSWER_SECONDS", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert "no answer in time" in problem(
            f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path
        )


def test_addresses_are_brought_into_the_form_that_mlflow_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert (
        resolve("postgres://me:s@h/d")
        == resolve("postgresql+psycopg2://me:s@h/d")
        == "postgresql+psycopg://me:s@h/d"
    )
    assert resolve("sqlite:///a/mlflow.db") == f"sqlite:///{tmp_path}/a/mlflow.db"
    assert resolve("https://mlflow.example.org/prefix/") == "https://mlflow.example.org/prefix"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:s3cret@h/d",
        "error at http://me:s3cret@h:5000/api, try again",
        "x://:s3cret@h",
    ],
)
def test_passwords_are_masked(text: str):
    assert "s3cret" not in credentials.mask(text) and "@h" in credentials.mask(text)


def test_an_unknown_error_is_its_first_line_without_the_password():
    text = store_errors.explain("http://me:secret@h:1", "odd thing at http://me:secret@h:1\nmore")
    assert text == "tracking.uri=http://me:***@h:1: odd thing at http://me:***@h:1"


def test_a_database_appears_whole_or_not_at_all(tmp_path: Path):
    uri, file = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "mlflow.db"

    def interrupted(fresh: str) -> None:
        database_file(fresh).write_text("half of it")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        database_setup.create(uri, interrupted)
    assert list(tmp_path.iterdir()) == []
    file.touch()
    database_setup.create(uri, lambda fresh: database_file(fresh).write_text("all of it"))
    database_setup.create(uri, lambda fresh: pytest.fail("it is there already"))
    assert file.read_text() == "all of it" and list(tmp_path.iterdir()) == [file]


ODD = ["my%20runs", 'it\'s a "store"', "50% off?", "#1 [a]*", "größe ü", "a&b;c"]


@pytest.mark.parametrize("name", ODD)
def test_a_store_may_lie_in_a_folder_of_any_name(name: str, tmp_path: Path) -> None:
    from sqlalchemy.engine import make_url

    file = tmp_path / name / "mlflow.db"
    uri = sqlite_uri(file)
    assert database_file(uri) == file and resolve(uri) == uri
    assert make_url(uri).database == str(file)


def test_mlflow_keeps_runs_and_files_in_a_folder_of_any_name(
    template: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "".join(ODD)
    folder.mkdir()
    shutil.copy(template, folder / "mlflow.db")
    (tmp_path / "told.txt").write_text("kept")
    client = connect(sqlite_uri(folder / "mlflow.db"), "mine", folder / "artifacts")._client
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    client.log_artifact(
        client.create_run(experiment.experiment_id).info.run_id, str(tmp_path / "told.txt")
    )
    assert [path.read_text() for path in (folder / "artifacts").rglob("told.txt")] == ["kept"]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [folder.name]
