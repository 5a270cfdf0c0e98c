"""What of a question stands in columns of its own is used or named: job=new leaves nothing of it out
without a word, and what it says to write reads it whole.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from tests.support.own_files import TOPICS, write_lines

FOUR = ["a lamp", "a chair", "a kettle", "a pencil"]
PARTS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "choices that are counted": (
        [{"choices": FOUR, "answer": i % 4} for i in range(100)],
        "{topic}?|0: a lamp|1: a chair|2: a kettle|3: a pencil",
    ),
    "choices with letters": (
        [{"options": FOUR, "answer": "ABCD"[i % 4]} for i in range(100)],
        "{topic}?|A: a lamp|B: a chair|C: a kettle|D: a pencil",
    ),
    "choices that are named": (
        [{"options": FOUR[:2] if i < 99 else None, "answer": FOUR[i % 2]} for i in range(100)],
        "{topic}?|- a lamp|- a chair",
    ),
    "choices by letter": (
        [{"options": {"A": "a lamp", "B": "a chair"}, "answer": "AB"[i % 2]} for i in range(100)],
        "{topic}?|A: a lamp|B: a chair",
    ),
    "choices as texts and labels": (
        [
            {"choices": {"text": FOUR[:2], "label": ["A", "B"]}, "answer": "AB"[i % 2]}
            for i in range(100)
        ],
        "{topic}?|A: a lamp|B: a chair",
    ),
    "a column for each choice": (
        [{"A": "a lamp", "B": "a chair", "answer": "AB"[i % 2]} for i in range(100)],
        "{topic}?|A: a lamp|B: a chair",
    ),
    "columns whose names are no words": (
        [{"Option A": "a lamp", "Option B": "3", "answer": "AB"[i % 2]} for i in range(100)],
        "{topic}?|A: a lamp|B: 3",
    ),
    "a passage": (
        [{"passage": "It is here.", "answer": "no" if i % 2 else "yes"} for i in range(100)],
        "It is here.||{topic}?",
    ),
    "a second text that some lack": (
        [
            ({"text_pair": "Or there?"} if i < 99 else {}) | {"answer": "ab"[i % 2]}
            for i in range(100)
        ],
        "{topic}?||Or there?",
    ),
}


def asked(folder: Path, file: Path) -> list[str]:
    """job=new on a file, with the folder for its experiment."""
    line = ["job=new", "mine", "--from", str(file), "model=tiny"]
    return [*line, "--config-dir", str(folder)]


@pytest.mark.parametrize(("rows", "whole"), PARTS.values(), ids=PARTS)
def test_a_part_of_the_question_is_refused_and_the_remedy_reads_it_whole(
    rows: list[dict[str, Any]],
    whole: str,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written = [{"question": f"{topic}?"} | row for topic, row in zip(TOPICS, rows, strict=True)]
    line = asked(tmp_path, write_lines(tmp_path / "rows.jsonl", written))
    assert main([*line]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "would be left out of the question" in said
    assert not (tmp_path / "experiment").exists()
    whole_remedy, plain_remedy = (
        shlex.split(part.strip())
        for part in said.partition("; add ")[2].split(", or to leave them out ")
    )
    assert plain_remedy == ["data.columns.prompt=question", "data.columns.completion=answer"]
    assert main([*line, *whole_remedy]) == 0
    capsys.readouterr()
    assert main(["+experiment=mine", "--config-dir", str(tmp_path), "dry_run=true"]) == 0
    shown = [part.strip(" |") for part in capsys.readouterr().out.splitlines()]
    first, *others = whole.split("|")
    at = next(place for place, part in enumerate(shown) if part.endswith("?") or part == first)
    prompt = [part.removesuffix("<|im_end|>") for part in shown[at : at + len(others) + 1]]
    topic = next(topic for topic in TOPICS if any(topic in part for part in prompt))
    assert prompt == whole.format(topic=topic).split("|")


def test_what_is_not_used_and_what_the_plan_says_are_among_the_things_to_look_at(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"title": f"No. {i}", "text": t, "label": i % 2} for i, t in enumerate(TOPICS)]
    line = asked(tmp_path, write_lines(tmp_path / "titled.jsonl", rows))
    assert main(line) == 0
    looked = [one for one in capsys.readouterr().out.splitlines() if one.startswith("look    ")]
    assert any(
        'columns not used, with the number of their rows: "title" (100)' in one for one in looked
    )
    assert any("labels are whole numbers without names" in one for one in looked)
    assert not any(" cut from " in one for one in looked), "which stands beside data.folder"
