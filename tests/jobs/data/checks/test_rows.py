"""Empty, repeated and contradictory rows are counted with their places; labels are weighed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.config import Data
from jobs.data.checks import rows as checks
from jobs.data.checks.result import CheckResult
from jobs.data.corpus import Corpus, load_corpus
from jobs.data.row_quality import named_notes
from tests.support.row_files import write

Pairs = list[tuple[str, str]]


def corpus_of(folder: Path, train: Pairs, valid: Pairs, test: Pairs) -> Corpus:
    for name, pairs in {"train": train, "valid": valid, "test": test}.items():
        lines = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in pairs]
        write(folder, "\n".join(lines), f"{name}.jsonl")
    return load_corpus(Data(name="d", folder=str(folder)))


def notes_of(corpus: Corpus, name: str) -> list[str]:
    return [text for check, text in named_notes(corpus) if check == name]


def questions(split: str, *answers: str) -> Pairs:
    return [(f"{split} asks for number {i}", answer) for i, answer in enumerate(answers)]


def test_repeated_rows_are_counted_in_every_split(tmp_path: Path) -> None:
    again = [("How  are YOU?", "fine"), ("how are you?", "Fine"), ("how are you?", "fine")]
    corpus = corpus_of(
        tmp_path, [*again, *questions("train", "a")], questions("v", "a"), questions("t", "a")
    )
    result = checks.duplicates(corpus, notes_of(corpus, "duplicates"))
    assert result.numbers == {"train": 2, "valid": 0, "test": 0} and result.state == "ok"
    assert result.summary.endswith("another row: train 2 of 4 rows (50.0%)")
    assert result.details[0] == (
        "train: 'how are you?' (train.jsonl, line 2) repeats train.jsonl, line 1"
    )


def test_contradictory_rows_are_counted_with_both_answers(tmp_path: Path) -> None:
    two = [("Who?", "Ann"), ("who?", "Bob"), ("who?", "ann")]
    corpus = corpus_of(tmp_path, two, questions("v", "a"), [*questions("t", "a")])
    result = checks.contradictions(corpus, notes_of(corpus, "contradictions"))
    assert result.numbers["train"] == 1 and result.state == "warning"
    assert '"Ann" (train.jsonl, line 1) and "Bob" (train.jsonl, line 2)' in result.details[0]


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (("...", "yes"), "the prompt of 1 of 2 rows (50.0%) has no letter"),
        (("What is it?", "--"), "the answer of 1 of 2 rows (50.0%) has no letter"),
        (("What is it?", "N/A"), "answers that look like a missing value"),
    ],
)
def test_rows_that_say_nothing_are_told(tmp_path: Path, pair: tuple[str, str], words: str) -> None:
    corpus = corpus_of(tmp_path, [pair, ("Who?", "Ann")], questions("v", "a"), questions("t", "+"))
    result = checks.empty(corpus, notes_of(corpus, "empty"))
    (warning,) = result.warnings
    assert warning.startswith("train: ") and words in warning


def weighed(folder: Path, train: list[str], test: list[str]) -> CheckResult:
    corpus = corpus_of(
        folder, questions("train", *train), questions("v", "Yes"), questions("t", *test)
    )
    return checks.labels(corpus, notes_of(corpus, "labels"))


def test_labels_are_weighed(tmp_path: Path) -> None:
    even = weighed(tmp_path, ["Yes", "No"] * 50, ["Yes", "No"] * 30)
    assert even.warnings == [] and even.numbers["largest_share"] == 0.5
    assert '2 labels; the most frequent, "Yes", has 50.0%' in even.summary
    one_sided = weighed(tmp_path, ["Yes"] * 95 + ["No"] * 5, ["Yes"] * 57 + ["No"] * 3)
    (warning,) = one_sided.warnings
    assert warning.startswith('train: "Yes" is the answer of 95 of 100 rows (95.0%)')
    moved = weighed(tmp_path, ["Yes", "No"] * 50, ["Yes"] * 50 + ["No"] * 10)
    (warning,) = moved.warnings
    assert warning.startswith("test: labels are distributed otherwise") and "33%" in warning
    texts = weighed(tmp_path, [f"text {i}" for i in range(60)], ["text"])
    assert texts.summary.startswith("answers are no labels: 60 different answers in 60")


def test_a_held_out_split_without_rows_is_fatal(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, questions("a", "x"), questions("v", "a"), questions("t", "a"))
    assert checks.splits(corpus).state == "ok"
    corpus.test = []
    assert checks.splits(corpus).fatal.startswith("data.test has no rows, so nothing can be")
