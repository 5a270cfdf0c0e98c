"""Metrics, cost matrices, slices and rules that cannot be meant: each is one message with the remedy,
before anything starts.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main

FUNCTIONS = """
import math, sys
print("a module that greets")
def nan(answers, references): return math.nan
def late(answers, references): return [1.0 if a else math.inf for a in answers]
def exits(answers, references): sys.exit(3)
def speaks(answers, references):
    print("hello", len(answers))
    return [float(a == r) for a, r in zip(answers, references)]
"""


@pytest.fixture
def told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """`told(*settings)` plans a sweep of rows that are answered yes and no."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"prompt": f"is {n} even?", "completion": "no" if n % 2 else "yes", "lang": "en"}
        | {"label": n % 2, "answer_length": 3 - n % 2}
        for n in range(60)
    ]
    for name, part in (("train", rows[:30]), ("valid", rows[30:40]), ("test", rows[40:])):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (tmp_path / f"{name}.jsonl").write_text(text)
    module = f"mine_{uuid.uuid4().hex}"
    (tmp_path / f"{module}.py").write_text(FUNCTIONS)

    def run(*settings: str) -> tuple[int, str, str]:
        usual = ["+sweep=lora", "model=tiny", "data=files", f"data.folder={tmp_path}"]
        usual += [f"storage={tmp_path}/out", "dry_run=true", "output=json"]
        code = main([*usual, *(text.replace("MINE", module) for text in settings)])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out, printed.err

    return run


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["sweep.metric=MINE:nan"], "returned nan for right answers; it must be a finite number"),
        (["sweep.metric=MINE:late"], "returned inf for empty answers; it must be a finite number"),
        (["sweep.metric=MINE:exits"], "raised SystemExit: 3"),
        (["data.slices=[lang,lang]"], "data.slices   names lang twice"),
        (
            ["data.slices=[label]"],
            'told by "label" anyway, by the right answer itself; leave it out',
        ),
        (["data.slices=[lang,answer_length]"], 'told by "answer_length" anyway, by the length'),
        (["registry.floor=60"], "must be at most 1, which is the best that valid/accuracy can be"),
        (["registry.floor=nan"], "registry.floor   must be a finite number, got nan"),
        (["registry.beat=[base,base]"], "registry.beat   must name each once, got base, base"),
    ],
)
def test_what_cannot_be_meant_is_refused(told: Any, settings: list[str], message: str) -> None:
    code, out, err = told(*settings)
    assert (code, out) == (2, "") and message in err, err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yes: {no: 3}\nno: {yes: 1, '*': 2}\n", None),
        ("no: {yes: 1}\nno: {yes: 2}\n", "names no twice"),
        ("no: {yes: 1, yes: 2}\n", "names yes twice"),
        ("no: {yes: true}\n", "sweep.costs.no.yes   must be a number, got 'true'"),
        ("no: {yes: -1}\n", "sweep.costs.no.yes   must be a number of at least 0, got -1.0"),
        ("no: {maybe: 1}\n", 'no row has the answer "maybe"'),
        ("[1, 2]\n", "is no cost matrix"),
        ("no: {yes: 1\n", "is no YAML"),
    ],
)
def test_a_cost_matrix_names_labels_as_they_are(
    told: Any, tmp_path: Path, text: str, message: str | None
) -> None:
    (tmp_path / "costs.yaml").write_text(text)
    code, out, err = told("sweep.metric=cost", "sweep.costs=costs.yaml")
    if message is None:
        assert code == 0 and json.loads(out), err
    else:
        assert (code, out) == (2, "") and message in err, err


def test_what_a_function_prints_is_not_taken_for_the_answer(told: Any) -> None:
    code, out, err = told("sweep.metric=MINE:speaks")
    assert code == 0 and len(out.strip().splitlines()) == 1 and json.loads(out)["plan"]
    assert "hello 8" in err and "a module that greets" in err


@pytest.mark.parametrize(
    ("metric", "answers", "note"),
    [
        ("json_valid", ["yes", "no"], "is for answers that are JSON, and none of the 10 held-out"),
        ("field_agreement", ["yes", "no"], "is for answers that are JSON"),
        ("json_valid", ['{"a": 1}'], None),
        (
            "macro_f1",
            [f"answer {n}" for n in range(60)],
            "is for labels that repeat, but there are 30",
        ),
        ("accuracy", [f"answer {n}" for n in range(60)], "is for labels that repeat"),
        ("auto", ["yes"] * 9 + ["no"], '54 of 60 rows have the label "yes", so always'),
        ("macro_f1", ["yes"] * 9 + ["no"], None),
        ("auto", ["yes", "no"], None),
    ],
)
def test_a_metric_that_says_little_about_the_rows_is_noted(
    told: Any, tmp_path: Path, metric: str, answers: list[str], note: str | None
) -> None:
    rows = [{"prompt": f"row {n}", "completion": answers[n % len(answers)]} for n in range(60)]
    for name, part in (("train", rows[:30]), ("valid", rows[30:40]), ("test", rows[40:])):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (tmp_path / f"{name}.jsonl").write_text(text)
    code, out, err = told(f"sweep.metric={metric}")
    assert code == 0, err
    notes = [
        text
        for text in json.loads(out)["plan"]["notes"]
        if "auto chooses" in text or "have the label" in text
    ]
    assert len(notes) == (note is not None) and all(str(note) in text for text in notes), notes
