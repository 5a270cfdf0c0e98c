"""Rows that were likely meant otherwise are named, each kind in a line; all others are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.config import Data
from jobs.data.corpus import load_corpus
from jobs.data.row_quality import notes
from tests.support.row_files import write

LABELS = ("yes", "no", "maybe")
PROMPTS = [f"what is item {i} of shelf {i % 7} called" for i in range(60)]


def notes_of(folder: Path, answers: list[str], **files: list[tuple[str, str]]) -> list[str]:
    """What is said of training rows with these answers, and of further files."""
    splits = {"train": list(zip(PROMPTS, answers, strict=True))} | files
    for name, rows in splits.items():
        lines = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in rows]
        write(folder, "\n".join(lines), f"{name}.jsonl")
    return notes(load_corpus(Data(name="d", folder=str(folder))))


def asked(split: str, *answers: str) -> list[tuple[str, str]]:
    """Held-out rows with these answers."""
    return [(f"{split} asks for number {i}", answer) for i, answer in enumerate(answers)]


@pytest.mark.parametrize(
    "answers",
    [
        [LABELS[i % 3] for i in range(60)],
        [f"a text of its own, number {i}" for i in range(60)],
        [f"Text {i % 30} stands here twice, {'No' if i < 30 else 'no'} more." for i in range(60)],
        [str(i) for i in range(60)],
        ["nano" if i % 2 else "not a null" for i in range(60)],
        ["na\u00efve caf\u00e9 \u00c2ge" if i % 2 else "\u00c3" for i in range(60)],
        ['"a" and "b"' if i % 2 else "'tis" for i in range(60)],
        ["1E5" if i % 2 else "12.5" for i in range(60)],
    ],
)
def test_rows_that_are_as_they_should_be_are_not_named(tmp_path: Path, answers: list[str]) -> None:
    assert notes_of(tmp_path, answers) == []


@pytest.mark.parametrize(
    ("forms", "told"),
    [
        (("yes", "Yes"), '"yes" (30), "Yes" (30)'),
        (("yes", "yes "), '"yes" (30), "yes " (30)'),
        (("yes", "yes."), '"yes" (30), "yes." (30)'),
        (("new york", "new\u00a0york"), '"new york" (30), "new\\xa0york" (30)'),
        (("yes", "yes\u200b"), '"yes" (30), "yes\\u200b" (30)'),
        (("7", "007"), '"7" (30), "007" (30)'),
        (("1", "1.0"), '"1" (30), "1.0" (30)'),
        (("1,000", "1000"), '"1,000" (30), "1000" (30)'),
    ],
)
def test_one_label_in_two_forms_is_named_with_both(
    tmp_path: Path, forms: tuple[str, str], told: str
) -> None:
    (note,) = notes_of(tmp_path, [forms[i % 2] for i in range(60)])
    assert note.startswith("answers that differ only in") and told in note


def test_a_label_in_two_unicode_forms_is_named_as_that(tmp_path: Path) -> None:
    """In the training rows and in the test rows."""
    forms = ("caf\u00e9", "cafe\u0301")
    answers = [forms[0] if i % 2 else "tea" for i in range(60)]
    (note,) = notes_of(tmp_path, answers, test=asked("test", forms[1], "tea"))
    assert '"caf\u00e9" (30), "cafe\u0301" (1)' in note and "write the files in NFC" in note
    assert "1 of 2 test rows have one in characters that no training row has" in note
    (tmp_path / "test.jsonl").unlink()
    (note,) = notes_of(tmp_path, [forms[i % 2] for i in range(60)])
    assert note.startswith("answers that look the same are written with other characters")


def test_a_prompt_with_two_answers_is_named_with_the_lines(tmp_path: Path) -> None:
    twice = [("What?", "yes"), ("what? ", "no"), ("What?", "yes"), ("When?", "no")]
    (conflict, again) = notes_of(
        tmp_path, [LABELS[i % 3] for i in range(60)], test=[*twice, *asked("test", "maybe")]
    )
    assert conflict.startswith("test: 1 prompt is answered in two ways or more: ")
    assert f'"yes" ({tmp_path}/test.jsonl, line 1) and "no" ({tmp_path}/test.jsonl, line 2)' in (
        conflict
    )
    assert again.startswith("test: 1 of 5 rows repeat prompt and answer of another one")


def test_training_rows_may_repeat_and_say_so_only_where_they_disagree(tmp_path: Path) -> None:
    rows = [(PROMPTS[i % 30], LABELS[i % 3]) for i in range(60)]
    held = {"valid": asked("valid", "yes", "no"), "test": asked("test", "no", "maybe")}
    assert notes_of(tmp_path, [LABELS[i % 3] for i in range(60)], **held) == []
    lines = "".join(json.dumps({"prompt": p, "completion": a}) + "\n" for p, a in rows)
    write(tmp_path, lines)
    assert notes(load_corpus(Data(name="d", folder=str(tmp_path)))) == []
    write(tmp_path, lines + json.dumps({"prompt": PROMPTS[3], "completion": "no"}) + "\n")
    (note,) = notes(load_corpus(Data(name="d", folder=str(tmp_path))))
    assert "train: 1 prompt is answered in two ways" in note and "line 61" in note


@pytest.mark.parametrize("missing", ["nan", "NaN", "N/A", "None", "null", "#N/A", "<NA>", "#REF!"])
def test_what_programs_write_where_there_is_no_value_is_named(tmp_path: Path, missing: str) -> None:
    said = notes_of(
        tmp_path,
        [missing if i % 10 == 0 else LABELS[i % 3] for i in range(60)],
        valid=asked("valid", "yes", "no"),
        test=asked("test", "yes", "no"),
    )
    assert said == [
        f'train: answers that look like a missing value: "{missing}" (6); leave those rows out if '
        "that is what they are"
    ]


def test_an_instruction_does_not_hide_a_missing_prompt(tmp_path: Path) -> None:
    lines = [{"prompt": p, "completion": LABELS[i % 3]} for i, p in enumerate([*PROMPTS, "nan"])]
    write(tmp_path, "".join(json.dumps(line) + "\n" for line in lines))
    data = Data(name="d", folder=str(tmp_path), instruction="Say:")
    assert any(
        'prompts that look like a missing value: "nan" (1)' in n for n in notes(load_corpus(data))
    )


def test_what_a_spreadsheet_or_a_wrong_encoding_has_left_is_named(tmp_path: Path) -> None:
    held = {"valid": asked("valid", "a", "b"), "test": asked("test", "a", "b")}
    answers = [f"1.23E+{10 + i % 3}" for i in range(60)]
    assert any(
        'look like long numbers, which a spreadsheet has rounded: "1.23E+10" (20)' in note
        for note in notes_of(tmp_path, answers, **held)
    )
    for lost, words in (
        ("caf\ufffd", "holds U+FFFD"),
        ("caf\u00c3\u00a9", "looks like UTF-8 that was read"),
    ):
        said = notes_of(tmp_path, ["a", "b"] * 30, test=[*asked("test", "a", "b"), (lost, "a")])
        assert any(
            f"test: text of 1 of 3 rows {words}" in note and "line 3" in note for note in said
        )


@pytest.mark.parametrize("quotes", ['""', "''", "\u201c\u201d"])
def test_answers_that_all_stand_in_quotes_are_named(tmp_path: Path, quotes: str) -> None:
    """As in a CSV file with a space after each comma."""
    answers = [f" {quotes[0]}{LABELS[i % 3]}{quotes[1]}" for i in range(60)]
    (note, padded) = notes_of(tmp_path, answers)
    assert note.startswith("train: every answer stands in quotes, which are trained")
    assert "48 of 48 answers begin or end with white space" in padded
    (padded,) = notes_of(tmp_path, [*answers[:-1], "yes"])
    assert "of 48 answers begin or end with white space" in padded


def test_labels_that_cannot_be_learned_are_named(tmp_path: Path) -> None:
    assert notes_of(tmp_path, ["yes"] * 60) == ['train: all answers are the same, "yes"']
    said = notes_of(
        tmp_path,
        [LABELS[i % 3] for i in range(60)],
        valid=asked("valid", "Yes", "no"),
        test=asked("test", "ja", "nein", "ja", "no"),
    )
    assert 'test: 3 of 4 rows have an answer that no training row has: "ja" (2), "nein" (1)' in said
    assert len(said) == 2 and '"yes" (20), "Yes" (1)' in said[0]
