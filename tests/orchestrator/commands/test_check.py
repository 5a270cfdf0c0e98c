"""job=check prints all checks of a choice of data, trains nothing, and ends with 2 where a run would
be refused.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.base_models import fetch
from jobs.check_settings import CHECKS
from jobs.config import Model
from tests.support.in_process import run


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """63 rows in three files, of which one has an address and two contradict each other."""
    folder = tmp_path / "tickets"
    folder.mkdir()
    for split, number in {"train": 40, "valid": 10, "test": 10}.items():
        lines = [
            {"prompt": f"{split} question number {i} of the shop", "completion": "yn"[i % 2]}
            for i in range(number)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with (folder / "train.jsonl").open("a") as file:
        for prompt, answer in (
            ("Is ann@example.org a customer?", "y"),
            ("Are you open on Sunday?", "y"),
            ("Are you open on Sunday?", "n"),
        ):
            file.write("\n" + json.dumps({"prompt": prompt, "completion": answer}))
    return folder


def check(cache: Path, monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    fetch.prepare(Model(name="tiny", source="tiny"), cache)
    base = ["job=check", "model=tiny", "data=files", f"data.folder={folder}"]
    return run(cache, monkeypatch, *base, *arguments)


def test_all_checks_are_printed_with_their_rows(
    cache: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(rows.parent)
    assert check(cache, monkeypatch, rows) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0] == (
        "data    tickets: 1 source with 43 training rows, 10 validation rows, 10 test rows"
    )
    names = [line[8:].partition(":")[0] for line in lines if line[:1].strip() and ":" in line]
    assert names[1:] == [*CHECKS]
    assert "warning personal: e-mail addresses in 1 of 63 rows" in told.out
    assert "a***@e***.org (train.jsonl, line 41)" in told.out and "ann@" not in told.out
    assert "1 prompt is answered in two ways or more" in told.out
    assert "train: 43 rows, " in told.out and "0 of 43 rows (0.0%) truncated" in told.out
    assert lines[-1] == "result  a run starts; look at contradictions, personal"
    assert sorted(path.name for path in rows.parent.iterdir()) == ["tickets"]  # nothing written


def test_what_a_run_refuses_is_printed_and_ends_with_2(
    cache: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (rows / "train.jsonl").open("a") as file:
        leaked = {"prompt": "TEST question: number 3 - of the shop!", "completion": "n"}
        file.write("\n" + json.dumps(leaked))
    assert check(cache, monkeypatch, rows, "output=json") == 2
    told = capsys.readouterr()
    record = json.loads(told.out)["check"]
    assert record["refused"] and record["results"]["leakage"]["state"] == "fatal"
    assert told.err.startswith("error: data check leakage: ") and "Traceback" not in told.err
    assert check(cache, monkeypatch, rows, "data.checks.off=[leakage,personal]") == 0
    shown = capsys.readouterr().out
    assert "off     leakage: not made, as data.checks.off says" in shown
    assert "a***@" not in shown


def test_a_row_that_the_template_refuses_is_one_of_the_findings(
    cache: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (rows / "train.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"prompt": "long?", "completion": "y " * 300}))
    assert check(cache, monkeypatch, rows) == 2
    told = capsys.readouterr()
    assert "fatal   tokens: rows that cannot be used" in told.out
    assert "warning personal: " in told.out
    assert "too many for train.max_length=512" in told.err


def test_without_the_base_model_the_other_checks_are_made(
    tmp_path: Path,
    rows: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ["job=check", "data=files", f"data.folder={rows}"]
    assert run(tmp_path / "empty", monkeypatch, *line) == 0
    shown = capsys.readouterr().out
    assert "unknown tokens: needs the base model" in shown
    assert "unknown template: needs the base model" in shown
    assert "warning contradictions: " in shown


def test_settings_that_a_check_does_not_look_at_are_named(
    cache: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(cache, monkeypatch, rows, "optim.lr=0.1") == 0
    assert "optim.lr=0.1 has no effect: job=check does not look at it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("data.neighbours.count=9", "the training rows have 2 different answers"),
        ("data.slices=[nosuch]", 'no held-out row has a column "nosuch"'),
        ("data.retained=[nosuch]", 'no test row has the source "nosuch"'),
    ],
)
def test_settings_of_the_data_that_a_run_refuses_are_refused(
    cache: Path,
    rows: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    setting: str,
    said: str,
) -> None:
    assert check(cache, monkeypatch, rows, setting) == 2
    assert said in capsys.readouterr().err
