"""job=new writes an experiment from a file of rows: it says why it is as it is, and runs as it
stands.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli import main
from orchestrator.commands.new_experiment import write_new
from orchestrator.errors import InputError
from tests.support.own_files import (
    TOPICS,
    alpaca,
    conversations,
    json_answers,
    labelled_table,
    long_texts,
    numbered_labels,
    pairs,
    preferences,
    repeated_rows,
    sharegpt,
    splits_in_a_folder,
    write_lines,
)

KINDS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "pairs": (pairs, {"sweep.metric": "valid/chrf"}),
    "labelled": (
        labelled_table,
        {
            "sweep.metric": "valid/accuracy",
            "data.slices": ["channel"],
            "data.instruction": "Answer with one of: billing, returns.",
        },
    ),
    "numbered": (
        numbered_labels,
        {"sweep.metric": "valid/accuracy", "data.instruction": "Answer with one of: no, yes."},
    ),
    "chats": (conversations, {"sweep.metric": "valid/chrf", "data.instruction": None}),
    "sharegpt": (sharegpt, {"sweep.metric": "valid/chrf", "data.instruction": None}),
    "alpaca": (alpaca, {"sweep.metric": "valid/exact_match"}),
    "preferences": (preferences, {"sweep.metric": "valid/chrf"}),
    "slots": (
        json_answers,
        {
            "sweep.metric": "valid/exact_match",
            "data.instruction": "Answer as JSON, with item, box:",
        },
    ),
    "splits": (splits_in_a_folder, {"sweep.metric": "valid/macro_f1"}),
    "reports": (
        long_texts,
        {
            "sweep.metric": "valid/chrf",
            "data.instruction": "Give the summary of this text:",
            "train.max_length": (1024, 2048),
        },
    ),
    "repeated": (repeated_rows, {"data.sources": {"train": {"deduplicate": True}}}),
}
"""Name -> what writes the file, and some settings that the experiment must have (None: must not)."""


def lookup(settings: dict[str, Any], path: str) -> Any:
    for key in path.split("."):
        settings = settings.get(key, {}) if isinstance(settings, dict) else {}
    return settings if settings != {} else None


@pytest.mark.parametrize("kind", KINDS)
def test_an_experiment_on_any_kind_of_file_runs_unedited(
    kind: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write, wanted = KINDS[kind]
    rows, conf = write(tmp_path), tmp_path / "conf"
    made = main(["job=new", kind, "--from", str(rows), "model=tiny", "--config-dir", str(conf)])
    told = capsys.readouterr()
    assert made == 0, told.err
    file = conf / "experiment" / f"{kind}.yaml"
    text = file.read_text(encoding="utf-8")
    assert text.startswith(f"# python -m orchestrator +experiment={kind} --config-dir {conf}\n")
    assert text.rstrip() in told.out and "read as " in text
    settings = yaml.safe_load(text)
    for path, value in wanted.items():
        got = lookup(settings, path)
        assert got in value if isinstance(value, tuple) else got == value, (path, text)
    assert [entry.name for entry in (conf / "experiment").iterdir()] == [file.name]
    command = [f"+experiment={kind}", "--config-dir", str(conf)]
    assert main([*command, "dry_run=true"]) == 0
    shown = capsys.readouterr()
    assert f"plan    {kind}-" in shown.out and "a run is refused" not in shown.out
    assert main([*command, "job=check"]) == 0


def test_an_experiment_that_is_there_is_never_written_over(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, conf = labelled_table(tmp_path), tmp_path / "conf"
    line = ["job=new", "mine", "--from", str(rows), "model=tiny", "--config-dir", str(conf)]
    assert main(line) == 0
    file = conf / "experiment" / "mine.yaml"
    file.write_text("# edited\n")
    assert main(line) == 2
    assert "there is an experiment mine already" in capsys.readouterr().err
    assert file.read_text() == "# edited\n"
    assert main(["job=new", "tiny", "--from", str(rows), "model=tiny"]) == 2  # one of the project's
    assert "there is an experiment tiny already" in capsys.readouterr().err


def test_a_dry_run_writes_nothing_and_json_names_all_settings(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, conf = labelled_table(tmp_path), tmp_path / "conf"
    line = ["job=new", "mine", f"--from={rows}", "model=tiny", "--config-dir", str(tmp_path)]
    assert main([*line, "dry_run=true", "output=json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["file"] is None and not (tmp_path / "experiment").exists() and not conf.exists()
    assert record["settings"]["sweep.metric"] == "valid/accuracy"
    assert "2 different answers" in record["reasons"]["sweep.metric"]


def test_what_was_typed_is_kept_and_not_guessed(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_lines(
        tmp_path / "odd.jsonl", [{"title": t, "team": "abc"[i % 3]} for i, t in enumerate(TOPICS)]
    )
    line = ["job=new", "odd", "--from", str(file), "model=tiny", "--config-dir", str(tmp_path)]
    assert main(line) == 2  # which column is the prompt nobody knows
    assert "data.columns.prompt" in capsys.readouterr().err
    assert not (tmp_path / "experiment").exists()
    mine = [
        "data.columns.prompt=title",
        "data.columns.completion=team",
        "data.instruction=Which team?",
        "train.batch_size=8",
    ]
    assert main([*line, *mine, f"storage={tmp_path}"]) == 0
    assert "note    storage is no part of an experiment" in capsys.readouterr().err
    settings = yaml.safe_load((tmp_path / "experiment" / "odd.yaml").read_text())
    assert settings["data"]["instruction"] == "Which team?"
    assert settings["data"]["columns"] == {"prompt": "title", "completion": "team"}
    assert settings["train"]["batch_size"] == 8
    assert {"override /model": "tiny"} in settings["defaults"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["job=new", "--from", "x.jsonl"], "it takes one NAME"),
        (["job=new", "mine"], "the rows are not named"),
        (["job=new", "one", "two", "--from", "x.jsonl"], "it takes one NAME"),
        (["job=new", "a_b", "--from", "x.jsonl"], "cannot be an experiment's name"),
        (["job=new", "mine", "--from", "no-such-file.jsonl"], "no-such-file.jsonl"),
        (["job=new", "mine", "--from", "x.jsonl", "data=icd10"], "comes with the project"),
        (["job=new", "mine", "--from", "x.jsonl", "data.folder=y.jsonl"], "both name the rows"),
        (
            ["job=new", "mine", "--from", "x.jsonl", "data.name=other"],
            "called after the experiment",
        ),
        (
            ["job=new", "mine", "--from", "x.jsonl", "cluster=attached"],
            "does not belong into an experiment",
        ),
        (
            ["job=new", "mine", "--from", "x.jsonl", "optim.lrr=1"],
            "no such setting; did you mean optim.lr?",
        ),
        (
            ["job=new", "mine", "--from", "x.jsonl", "device=phone"],
            "device=phone does not belong into an experiment",
        ),
        (["job=new", "m" * 300, "--from", "x.jsonl"], "has at most 100 letters"),
        (["job=new", "mine", "--from", "x.jsonl", "+sweep=pareto"], "add +sweep=pareto to the"),
        (["job=new", "mine", "--from", "x.jsonl", "+fleet=languages"], "does not belong into"),
        (
            ["job=new", "mine", "--from", "x.jsonl", "data.tasks={a: {folder: x}}"],
            "about one set of rows",
        ),
        (["+sweep=lora", "--from", "x.jsonl"], "belongs to job=new"),
        (["job=new", "mine", "--from"], "--from needs a value: --from FILE"),
        (["job.kind=new"], "is not the whole command"),
    ],
)
def test_a_request_that_cannot_be_followed_is_answered_with_the_remedy(
    words: list[str],
    said: str,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "experiment").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="experiment is a file"):
        write_new(tmp_path / "experiment" / "mine.yaml", "text")


def test_leaked_rows_are_refused_and_nothing_is_written(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = splits_in_a_folder(tmp_path)
    (folder / "test.tsv").write_text((folder / "train.tsv").read_text())
    assert (
        main(
            ["job=new", "mine", "--from", str(folder), "model=tiny", "--config-dir", str(tmp_path)]
        )
        == 2
    )
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "experiment").exists()
