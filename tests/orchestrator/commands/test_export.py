"""job=export and the chat: what a command writes, tells the registry and refuses."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from jobs.config import BaseModel
from orchestrator import chat
from orchestrator.cli import main
from orchestrator.tracking.mlflow_store import MlflowStore
from tests.support.shipping import adapted_version
from tests.support.stores import SWEEP, append, carry, run_of, trial


@pytest.fixture(scope="module")
def version(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapted_version(base, tmp_path_factory.mktemp("versions"))


@pytest.fixture(autouse=True)
def cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))


def test_a_registered_version_is_told_what_its_file_scores_and_costs(
    version: Path, store: MlflowStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    append(tmp_path, SWEEP, trial(1))
    run_id = run_of(carry(tmp_path, store), 1)
    store.log_artifacts(run_id, version, "model/step")
    store.register("toy-tiny", run_id, "model/step", {}, "What it is.")
    store.set_champion("toy-tiny", 1)
    command = (
        *("job=export", "model_uri=models:/toy-tiny@champion", "export.format=gguf-q8_0"),
        *("export.rows=4", "export.threads=[1]", f"storage={tmp_path / 'st'}", "output=json"),
        "device.profiles={watch: {max_size_mb: 1}, pin: {max_size_mb: 0.01}}",
        f"tracking.uri=sqlite:///{tmp_path}/mlflow.db",
    )
    for _ in range(2):  # the same command again says the same
        assert main(list(command)) == 0
        report = json.loads(capsys.readouterr().out)
    assert Path(report["folder"]) == tmp_path / "st" / "exports" / "toy-tiny-1" / "gguf-q8_0"
    assert (Path(report["folder"]) / report["file"]).exists()
    assert [told["holds"] for told in report["devices"]] == [True, False]
    assert "MB on disk are more than" in report["devices"][1]["reason"]
    watch = store.aliased("toy-tiny", "champion-watch")
    assert watch is not None and watch.version == 1
    assert store.aliased("toy-tiny", "champion-pin") is None
    champion = store.champion("toy-tiny")
    assert champion is not None and champion.run_id is not None
    told = json.loads(champion.tags["shipped.gguf-q8_0"])
    assert told["exact_match"] == report["scores"]["value"]
    assert told["tokens_per_second_1_threads"] > 0
    metrics = store._client.get_run(champion.run_id).data.metrics
    assert metrics["shipped/gguf-q8_0/size_mb"] == report["costs"]["size_mb"]
    text = store.description("toy-tiny", 1)
    assert text.startswith("What it is.") and text.count("- gguf-q8_0: exact_match") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model_uri=x", "export.format=gguf-q9"], "must be one of safetensors"),
        ([], "model_uri"),
        (["model_uri=x", "export.format=[gguf-f16,gguf-q8_0]"], "job=export makes one file"),
        (["model_uri=x", "device=phone"], "only a version of the registry gets an alias"),
        (["model_uri=models:/x/1", "device.max_size_mb=3"], "device.name"),
        (["model_uri=x", "export.rows=0"], "must be at least 1, got 0"),
        (["model_uri=x", "export.score=false", "export.rows=5"], "has no effect"),
        (["model_uri=x", "export.threads=[0]"], "must be numbers from 1"),
        (["model_uri=nowhere"], "nowhere has no base.json that can be read"),
        (["model_uri=models:/x"], "models:/NAME@champion"),
        (["model_uri=models:/x/1"], "nothing was trained yet in storage"),
    ],
)
def test_what_cannot_be_exported_is_one_message(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["job=export", f"storage={tmp_path / 'st'}", *arguments]) == 2
    told = capsys.readouterr()
    assert words in told.err and not told.out, told.err
    assert not (tmp_path / "st").exists()


def test_a_folder_that_holds_something_else_is_left_alone(
    version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    command = ["job=export", f"model_uri={version}", f"export.folder={tmp_path / 'mine'}"]
    assert main(command) == 2
    assert "holds something else" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_made_is_named(
    version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("years")
    target = tmp_path / "file" / "below"
    assert main(["job=export", f"model_uri={version}", f"export.folder={target}"]) == 2
    told = capsys.readouterr().err
    assert f"{target} cannot be written" in told and "export.folder=DIR" in told


def test_settings_of_the_shipped_file_are_refused_where_none_is_made(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["model=tiny", "export.folder=x", "dry_run=true"]) == 2
    assert "it belongs to job=export" in capsys.readouterr().err
    assert main(["job=serve", "model_uri=x", "serve.host=0.0.0.0", "dry_run=true"]) == 2
    assert "serve.token" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(
    version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"storage={tmp_path / 'st'}"
    for job in ("export", "serve"):
        assert main([f"job={job}", f"model_uri={version}", where, "dry_run=true"]) == 0
        assert f"plan    would {job}" in capsys.readouterr().out
    assert not (tmp_path / "st").exists()


def test_a_version_is_chatted_with_and_remembers_what_was_said(
    version: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def talk(*lines: str) -> tuple[str, int]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        settings = [f"storage={tmp_path / 'st'}", "serve.threads=1"]
        assert chat.main([str(version), *settings]) == 0
        told = capsys.readouterr()
        return told.out, told.err.count("per second")

    asked, other = "Ticket 3 from d?", "Ticket 8 from i?"
    first, _ = talk(asked)
    exported = json.loads(next((tmp_path / "st").rglob("export.json")).read_text(encoding="utf-8"))
    assert exported["format"] == "gguf-q8_0" and "scores" not in exported
    second, _ = talk(other)
    apart, answers = talk(asked, "/new", other, "/exit", asked)
    assert (apart, answers) == (first + second, 2)
    together, answers = talk(asked, other)
    assert answers == 2 and together.startswith(first)
    assert together != first + second, "the second question is asked after the first answer"


def test_a_model_to_chat_with_that_is_not_there_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model in ("nobody", "nobody/3", str(tmp_path / "gone.gguf")):
        assert chat.main([model, f"storage={tmp_path / 'st'}"]) == 2
        told = capsys.readouterr()
        assert told.err.startswith("error: ") and "Traceback" not in told.err, told.err
