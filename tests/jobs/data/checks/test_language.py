"""Languages are told where splits differ or rows stand apart, here and in a process of its own, and
nothing is said of texts that have none.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest

from jobs.data.checks.language import LanguageProcess
from jobs.data.checks.result import CheckResult
from jobs.data.corpus import Corpus
from jobs.data.readers import Row, normalise

ENGLISH = [
    "Where is my parcel, it was due yesterday",
    "Please turn on the light in the kitchen",
    "The lamp that I ordered arrived broken and I want my money back",
    "Can you tell me how to change my password",
]
GERMAN = ["Wo bleibt mein Paket, es sollte gestern kommen", "Bitte schalte das Licht im Bad ein"]
RUSSIAN = "Включи, пожалуйста, свет на кухне"


def make(prompts: list[str], split: str) -> list[Row]:
    return [
        Row(
            ({"role": "user", "content": prompt}, {"role": "assistant", "content": "ok"}),
            normalise(prompt),
            f"/data/{split}.jsonl, line {line}",
        )
        for line, prompt in enumerate(prompts, start=1)
    ]


def looked_at(train: list[str], valid: list[str], test: list[str]) -> CheckResult:
    sources = {"train": make(train, "train")}
    return LanguageProcess(Corpus(sources, make(valid, "valid"), make(test, "test"))).collect()


@pytest.fixture(params=["here", "in a process of its own"])
def way(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With numpy loaded, and without."""
    import numpy

    if request.param == "here":
        monkeypatch.setitem(sys.modules, "numpy", numpy)
    else:
        monkeypatch.delitem(sys.modules, "numpy")


def test_rows_that_stand_apart_are_named(way: None) -> None:
    result = looked_at([*ENGLISH * 10, RUSSIAN, GERMAN[0]], ENGLISH, ENGLISH)
    (warning,) = result.warnings
    assert warning.startswith("train: the prompts of 2 of 42 rows (4.8%) are in another language")
    assert "(train.jsonl, line 41)" in warning and "(train.jsonl, line 42)" in warning
    assert result.numbers["train"]["others"].get("de") == 1
    assert result.numbers["valid"] == {"main": "en", "rows": 4, "others": {}}


def test_splits_in_different_languages_are_told() -> None:
    result = looked_at(ENGLISH * 10, ENGLISH, GERMAN * 3)
    assert result.warnings == [
        "the prompts are in different languages: train en, valid en, test de"
    ]


def test_prompts_in_several_scripts_have_no_one_language(way: None) -> None:
    mixed = ["你好世界 编号", "שלום עולם", "hello world", "नमस्ते दुनिया"] * 10
    result = looked_at(mixed, mixed[:8], ENGLISH)
    train, valid = result.warnings
    assert train.startswith("train: the prompts are in 4 scripts") and valid.startswith("valid")
    assert "Hebrew 25% (such as 'שלום עולם', train.jsonl, line 2)" in train
    assert result.summary == "several scripts in train, valid; en in test"
    assert result.numbers["valid"]["scripts"]["Chinese or Japanese"] == 2


@pytest.mark.parametrize(
    "prompts",
    [
        ["用 Python 写一个 function", "你好世界", "ありがとう、世界", "カタカナ"] * 9,
        [*ENGLISH * 10, RUSSIAN],
        ["Translate to English: Включи свет на кухне", "Переведи: свет"] * 9,
        ["12 + 5 = ?", "x", "🎉", "π = 3", *ENGLISH * 10],
    ],
)
def test_terms_and_single_rows_in_another_script_do_not_make_several(prompts: list[str]) -> None:
    assert "several scripts" not in looked_at(prompts, prompts, prompts).summary


@pytest.mark.parametrize(
    "prompts",
    [
        ENGLISH * 10,
        [f"case {i}" for i in range(200)],
        [f"SELECT a{i} FROM t{i} WHERE x = {i}" for i in range(100)],
        ["Plasmodium malariae malaria NOS", *ENGLISH],
        ["12 + 5 = ?", "7 * 8"],
    ],
)
def test_nothing_is_said_where_nothing_clearly_differs(prompts: list[str]) -> None:
    assert looked_at(prompts, ["train 1", "Case 7"], ["x"]).warnings == []
