"""Every kind of bad input: exit code 2, one clear message on stderr, nothing on stdout, nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import fetch
from jobs.config import Model
from orchestrator.cli import main

ROW = {"prompt": "a question", "completion": "an answer"}


def lines(*rows: Any) -> str:
    """Rows as JSON lines; a string stands as it is."""
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


@pytest.fixture
def refuse(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`refuse(*arguments)` runs the command line, expects exit code 2 and gives the message."""
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    fetch.prepare(Model(name="tiny", source="tiny"))

    def run(*arguments: str) -> str:
        storage = tmp_path / "outputs"
        given = [] if any(a.startswith("storage=") for a in arguments) else [f"storage={storage}"]
        code = main(["model=tiny", *given, *arguments])
        printed = capsys.readouterr()
        assert code == 2, printed
        assert printed.out == ""
        assert "Traceback" not in printed.err
        assert not list(storage.rglob("journal.jsonl"))
        return printed.err

    return run


SETTINGS = [
    (["optim.lrr=1"], ["optim.lrr", "did you mean optim.lr?"]),
    (["train.steps=abc"], ["train.steps", "whole number", "'abc'"]),
    (["train.steps=true"], ["train.steps", "must be a number, got true"]),
    (["optim.lr=-1"], ["optim.lr", "above 0", "-1"]),
    (["adapter.kind=lorra"], ["adapter.kind", '"lorra" is not one of lora, full']),
    (["model=smol"], ["model", '"smol" is not one of', "smollm2-135m"]),
    (["+sweep=nosuch"], ["sweep", '"nosuch" is not one of', "lora"]),
    (
        ["adapter.rank=0", "optim.lrr=1", "model=x", "train.batch_size=0"],
        ["4 problems", "adapter.rank", "optim.lrr", "model", "train.batch_size"],
    ),
    (["+sweep=lora", "sweep.space.lr.path=optim.lrr"], ["sweep.space.lr.path", "optim.lrr", "did you mean optim.lr?"]),
    (["+sweep=lora", "sweep.space.rank.values=[8,0]"], ["sweep.space.rank", "adapter.rank must be between 1 and 1024, got 0"]),
    (["+sweep=lora", "sweep.space.lr.low=0"], ["above 0 on a logarithmic scale"]),
    (["+sweep=lora", "sweep.space.x={path: adapter.alpha, type: linked, to: optim.nosuch}"], ["sweep.space.x.to", "optim.nosuch"]),
    (["+sweep=lora", "sweep.space.x={path: cluster.kind, type: choice, values: [local]}"], ["cannot be searched"]),
    (["sweep.search=grid", "sweep.space={r: {path: adapter.rank, type: choice, values: [4]}}", "sweep.num_trials=5"], ["sweep.num_trials"]),
    (["sweep.metric=valid/f1"], ["sweep.metric", "valid/f1", "valid/exact_match"]),
    (["train.gpus_per_worker=64"], ["train.gpus_per_worker", "64", "GPU"]),
    (["train.batch_size=99999", "train.num_workers=9999"], ["train.num_workers", "CPU cores"]),
    (["storage=s3://bucket/x"], ["storage", "s3://bucket/x"]),
    (["tracking.uri=ftp://x"], ["tracking.uri", "ftp://x: ftp is not supported; use one of http, https, sqlite, postgresql"]),
    (["tracking.uri=databricks://x", "adapter.rank=0", "optim.lrr=1"], ["3 problems", "databricks is not supported", "optim.lrr"]),
    (["tracking.uri=mlruns"], ["tracking.uri", "MLflow no longer keeps runs as plain files", "sqlite:///"]),
    (["tracking.uri=localhost:5000"], ["did you mean tracking.uri=http://localhost:5000?"]),
    (["job=predict"], ["model_uri", "prompt"]),
    (["dry_run"], ["dry_run", "name=value"]),
    (["--nosuch"], ["--nosuch", "--help"]),
    (["adapter.rank=4,8"], ["adapter.rank", "search space"]),
    (["model=path"], ["model.path"]),
    (["data=files"], ["data.folder"]),
]


@pytest.mark.parametrize(("arguments", "expected"), SETTINGS, ids=[" ".join(arguments)[:50] for arguments, _ in SETTINGS])
def test_a_bad_setting_is_named_with_its_remedy(refuse: Callable[..., str], arguments: list[str], expected: list[str]) -> None:
    message = refuse(*arguments)
    for part in expected:
        assert part in message


FILES: list[tuple[str, dict[str, str], list[str]]] = [
    ("missing", {"valid.jsonl": lines(ROW)}, ["train.jsonl"]),
    ("empty", {"train.jsonl": ""}, ["train.jsonl", "empty"]),
    ("no answer", {"train.jsonl": lines(ROW, {"prompt": "x"})}, ["line 2", "answer"]),
    ("blank answer", {"train.jsonl": lines(ROW, {"prompt": "x", "completion": " "})}, ["line 2"]),
    ("broken", {"train.jsonl": lines(*[ROW] * 16, '{"prompt": "x", ', ROW)}, ["line 17"]),
    ("two files", {"train.jsonl": lines(ROW), "train.csv": "prompt,completion\na,b\n"}, ["train.jsonl", "train.csv"]),
    (
        "two shapes",
        {"train.jsonl": lines(ROW, {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]})},
        ["mix"],
    ),
    (
        "too long",
        {"train.jsonl": lines(*[{"prompt": f"p{i}", "completion": "word " * (400 if i == 7 else 1)} for i in range(30)])},
        ["train.max_length"],
    ),
]


@pytest.mark.parametrize(("files", "expected"), [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_bad_data_is_named_with_file_and_place(
    refuse: Callable[..., str], tmp_path: Path, files: dict[str, str], expected: list[str]
) -> None:
    folder = tmp_path / "data with ümlaut"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    message = refuse("data=files", f"data.folder={folder}")
    for part in expected:
        assert part in message


def test_a_missing_source_file_is_named(refuse: Callable[..., str]) -> None:
    assert "nosuch.jsonl" in refuse("+data.sources.mine={path: nosuch.jsonl, weight: 0.5}")


def test_a_model_folder_that_is_no_model_says_what_it_lacks(refuse: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "not-a-model").mkdir()
    assert "config.json" in refuse("model=path", f"model.path={tmp_path / 'not-a-model'}", "model.name=mine")


def test_a_model_folder_that_does_not_exist_is_named(refuse: Callable[..., str], tmp_path: Path) -> None:
    assert "nowhere" in refuse("model=path", f"model.path={tmp_path / 'nowhere'}", "model.name=mine")


def test_storage_that_is_a_file_is_named(refuse: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert "storage" in refuse(f"storage={tmp_path / 'file'}", "data.instruction=x")


def test_digits_are_text_where_text_is_due(cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    assert main(["model=tiny", "tracking.experiment=2024", "model.revision=1234567", "dry_run=true"]) == 0
    assert "plan    run-" in capsys.readouterr().out
