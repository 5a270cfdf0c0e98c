"""What job=new proposes for rows: by what their scores are told, and by what they are scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.config import Data
from jobs.data.corpus import load_corpus
from orchestrator.plan.experiment_choices import choices_for, few_judges
from tests.support.own_files import TOPICS, write_lines

COLOURS = ("red", "green", "blue")


def chosen(folder: Path, rows: list[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """The proposed settings, and what is said of splits that are too small."""
    data = Data(name="mine", folder=str(write_lines(folder / "rows.jsonl", rows)))
    corpus = load_corpus(data)
    choices = choices_for(data, corpus, frozenset())
    return {choice.path: choice.value for choice in choices}, few_judges(corpus)


@pytest.mark.parametrize(
    ("columns", "slices"),
    [
        (lambda i: {"label": i % 3, "label_text": COLOURS[i % 3]}, None),
        (lambda i: {"label": COLOURS[i % 3], "code": "xyz"[i % 3]}, None),
        (lambda i: {"label": COLOURS[i % 3], "answer_length": i % 2}, None),
        (lambda i: {"label": COLOURS[i % 3], "half": "ab"[i % 3 > 1]}, ["half"]),
        (lambda i: {"label": COLOURS[i % 3], "channel": "ab"[i % 2]}, ["channel"]),
    ],
)
def test_scores_are_told_by_columns_that_say_something_beside_the_answer(
    tmp_path: Path, columns: Any, slices: list[str] | None
) -> None:
    rows = [{"text": f"{topic} {half}"} for topic in TOPICS for half in ("now", "then")]
    written = [row | columns(i // 2 if i % 2 else i * 7) for i, row in enumerate(rows)]
    settings, said = chosen(tmp_path, written)
    assert settings.get("data.slices") == slices and said == []


def test_balanced_labels_of_few_rows_are_scored_as_those_of_many(tmp_path: Path) -> None:
    rows = [{"text": topic, "label": COLOURS[i % 3]} for i, topic in enumerate(TOPICS[:12])]
    settings, said = chosen(tmp_path, rows)
    assert settings["sweep.metric"] == "valid/accuracy"
    assert said == [
        "only 1 validation and 1 test rows judge a model, so scores are little more than chance; "
        "add rows, so that there are at least 20 of each"
    ]


def test_labels_of_few_rows_of_which_one_is_frequent_are_counted_alike(tmp_path: Path) -> None:
    rows = [{"text": t, "label": "red" if i % 6 else "blue"} for i, t in enumerate(TOPICS[:60])]
    settings, said = chosen(tmp_path, rows)
    assert settings["sweep.metric"] == "valid/macro_f1"
    assert said[0].startswith("only 6 validation and 6 test rows judge a model")
