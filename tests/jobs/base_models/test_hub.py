"""jobs.base_models.hub against a server in a thread that speaks the hub's protocol, and against a
hub cache laid out by hand.

huggingface_hub reads its environment when it is imported, so every fetch runs in a process of its
own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jobs.base_models import fetch
from jobs.config import Model

ROOT = Path(__file__).resolve().parents[3]
ID = "owner/name"
FIRST, SECOND = "1" * 40, "2" * 40
SNAPSHOT = "models--owner--name/snapshots"
FETCH = """
import dataclasses, json, sys
from jobs.base_models import fetch
from jobs.config import Model
try:
    base = fetch.prepare(Model(**json.loads(sys.argv[1])))
    print(json.dumps({"base": dataclasses.asdict(base)}))
except (ValueError, RuntimeError) as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
"""


class Hub(ThreadingHTTPServer):
    """Serves one repository; its branch main stands for `head`."""

    files: Path
    head = FIRST
    refusal: tuple[int, str] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/")
        if self.server.refusal is not None:
            status, code = self.server.refusal
            self.reply(b"{}", status, {"X-Error-Code": code, "X-Error-Message": code})
        elif path == f"api/models/{ID}/revision/main":
            self.reply(
                json.dumps(
                    {"id": ID, "modelId": ID, "sha": self.server.head, "siblings": []}
                ).encode()
            )
        elif path.startswith(f"api/models/{ID}/revision/"):
            self.reply(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(f"api/models/{ID}/tree/"):
            self.reply(
                json.dumps(
                    [
                        self.entry(file)
                        for file in sorted(self.server.files.rglob("*"))
                        if file.is_file()
                    ]
                ).encode()
            )
        else:
            commit, name = path.removeprefix(f"{ID}/resolve/").split("/", 1)
            content = (self.server.files / name).read_bytes()
            self.reply(
                content,
                200,
                {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit},
            )

    def entry(self, file: Path) -> dict[str, object]:
        name = str(file.relative_to(self.server.files))
        return {
            "type": "file",
            "path": name,
            "size": file.stat().st_size,
            "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
        }

    def reply(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with what repositories hold besides: weights in other formats, and notes."""
    path = tmp_path_factory.mktemp("hub")
    base = fetch.prepare(Model(name="tiny", source="tiny"), path / "cache")
    files = path / "files"
    shutil.copytree(base.path, files, ignore=shutil.ignore_patterns("base.json", "recipe.json"))
    for name in ("README.md", "pytorch_model.bin", "consolidated.safetensors", "onnx/config.json"):
        (files / name).parent.mkdir(exist_ok=True)
        (files / name).write_text("not wanted")
    return files


@pytest.fixture
def hub(repository: Path, tmp_path: Path) -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), Answer)
    server.files = tmp_path / "repository"
    shutil.copytree(repository, server.files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def environment(tmp_path: Path) -> dict[str, str]:
    return {"ORCHESTRATOR_CACHE": str(tmp_path / "cache"), "HF_HUB_CACHE": str(tmp_path / "hf")}


def fetched(model: Model, tmp_path: Path, **settings: str) -> tuple[dict, str]:
    """What prepare returned or raised, and what it said on stderr."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))
    }
    variables = {
        **kept,
        **environment(tmp_path),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_DISABLE_XET": "1",
        **settings,
    }
    done = subprocess.run(
        [sys.executable, "-c", FETCH, json.dumps(dataclasses.asdict(model))],
        check=False,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def repository_model(revision: str | None = None, id: str = ID) -> Model:
    return Model(name="mine", source="hub", id=id, revision=revision)


def test_the_commit_behind_main_is_recorded_and_kept_when_main_moves(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    model = repository_model()
    assert fetch.locate(model) is None
    result, said = fetched(model, tmp_path, HF_ENDPOINT=hub.address)
    path = tmp_path / "hf" / SNAPSHOT / FIRST
    assert result == {
        "base": {"name": "mine", "source": "hub", "id": ID, "revision": FIRST, "path": str(path)}
    }
    record = tmp_path / "cache" / "hub" / "owner--name" / "revision.json"
    assert json.loads(record.read_text()) == {"main": FIRST}
    assert said == (
        f"fetching owner/name at revision main\nowner/name main is commit {FIRST} from now on (recorded in {record})\n"
    )
    assert sorted(file.name for file in path.iterdir()) == [
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    ]  # fmt: skip
    hub.head = SECOND
    assert dataclasses.asdict(fetch.locate(model)) == result["base"]
    shutil.rmtree(tmp_path / "hf")
    assert fetch.locate(model) is None
    assert fetched(model, tmp_path, HF_ENDPOINT=hub.address)[0] == result
    assert json.loads(record.read_text()) == {"main": FIRST}


def test_a_pinned_commit_is_fetched_as_it_is(hub: Hub, tmp_path: Path):
    result, _ = fetched(repository_model(SECOND), tmp_path, HF_ENDPOINT=hub.address)
    assert result["base"]["revision"] == SECOND
    again, said = fetched(repository_model(SECOND), tmp_path, HF_HUB_OFFLINE="1")
    assert (again, said) == (result, "")


@pytest.mark.parametrize("revision", [None, "main", FIRST])
def test_a_filled_hub_cache_needs_no_network(
    repository: Path, tmp_path: Path, revision: str | None
):
    snapshot = tmp_path / "hf" / SNAPSHOT / FIRST
    shutil.copytree(repository, snapshot)
    ref = tmp_path / "hf" / "models--owner--name" / "refs" / "main"
    ref.parent.mkdir()
    ref.write_text(FIRST)
    result, _ = fetched(repository_model(revision), tmp_path, HF_HUB_OFFLINE="1")
    assert result["base"]["revision"] == FIRST and result["base"]["path"] == str(snapshot)


def test_a_missing_tokenizer_json_is_made_from_the_slow_tokenizer(hub: Hub, tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    vocabulary = json.loads((hub.files / "tokenizer.json").read_text())["model"]["vocab"]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (hub.files / name).unlink()
    (hub.files / "vocab.json").write_text(json.dumps({**vocabulary, "<|im_end|>": 257, "ab": 256}))
    (hub.files / "merges.txt").write_text("#version: 0.2\na b\n")
    settings = {
        "tokenizer_class": "GPT2Tokenizer",
        "eos_token": "<|im_end|>",
        "bos_token": "<|im_end|>",
        "unk_token": "<|im_end|>",
    }
    (hub.files / "tokenizer_config.json").write_text(json.dumps(settings))
    result, said = fetched(repository_model(), tmp_path, HF_ENDPOINT=hub.address)
    path = Path(result["base"]["path"])
    assert (
        path == tmp_path / "cache" / "models" / f"owner--name-{FIRST[:12]}"
        and "converting the tokenizer" in said
    )
    assert AutoTokenizer.from_pretrained(path).tokenize("abc") == ["ab", "c"]
    assert AutoModelForCausalLM.from_pretrained(path).config.hidden_size == 64
    untouched = tmp_path / "hf" / SNAPSHOT / FIRST / "tokenizer_config.json"
    assert json.loads(untouched.read_text()) == settings
    assert fetched(repository_model(), tmp_path, HF_HUB_OFFLINE="1") == (result, "")


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((403, "GatedRepo"), "owner/name is gated: accept its terms at https://huggingface.co/owner/name, then set HF_TOKEN to a token of that account"),
        ((401, "GatedRepo"), "owner/name is gated: accept its terms at https://huggingface.co/owner/name, then set HF_TOKEN to a token of that account"),
        ((403, ""), "access to owner/name was refused (HTTP 403): set HF_TOKEN to a token that may read it"),
        ((401, ""), "there is no public repository owner/name: correct model.id, or set HF_TOKEN to a token that may read it"),
        ((404, "RepoNotFound"), "there is no public repository owner/name: correct model.id, or set HF_TOKEN to a token that may read it"),
        ((404, "RevisionNotFound"), "owner/name has no revision v9; correct model.revision, or leave it out for main"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_to_do(
    hub: Hub, tmp_path: Path, refusal: tuple[int, str], message: str
):
    hub.refusal = refusal
    result, _ = fetched(repository_model("v9"), tmp_path, HF_ENDPOINT=hub.address)
    assert result == {"error": f"RuntimeError: model mine: {message}"}
    assert not (tmp_path / "cache" / "hub").exists()


@pytest.mark.parametrize(
    "settings", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}]
)
def test_without_a_network_the_command_that_fetches_it_is_named(
    tmp_path: Path, settings: dict[str, str]
):
    result, _ = fetched(repository_model("v9"), tmp_path, **settings)
    assert result["error"].startswith(
        "RuntimeError: model mine: owner/name at revision v9 could not be fetched (LocalEntryNotFoundError: "
    )
    assert result["error"].endswith(
        "Where there is a network, run: hf download owner/name --revision v9"
    )


def test_a_repository_without_a_usable_model_says_why(hub: Hub, tmp_path: Path):
    (hub.files / "model.safetensors").unlink()
    result, _ = fetched(repository_model(), tmp_path, HF_ENDPOINT=hub.address)
    assert result["error"].startswith(
        f"ValueError: model.id owner/name at {FIRST}: no model.safetensors in it"
    )


@pytest.mark.parametrize("id", ["not a name", "../..", "a/b/c", "/a"])
def test_an_id_that_is_no_repository_name_is_bad_input(id: str):
    with pytest.raises(
        ValueError, match="model.id must be a repository of the Hugging Face hub, OWNER/NAME"
    ):
        repository_model(id=id)


def test_an_id_that_only_the_hub_refuses_is_bad_input(tmp_path: Path):
    result, _ = fetched(repository_model(id="two--dashes"), tmp_path)
    assert result["error"].startswith(
        "ValueError: model.id two--dashes is no repository name, which looks like owner/name"
    )
