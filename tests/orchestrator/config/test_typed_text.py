"""What was typed is what a setting holds: texts with any punctuation, quotes, variables, a plus
that may be left out.
"""

from __future__ import annotations

import pytest

from orchestrator.config.compose import compose

TEXTS = [
    "12e4567",
    "0123456",
    "2024_1",
    "1.50",
    "true",
    "2024-01-02",
    "a,b",
    "a b",
    "x=y",
    "{x: 1}",
    "Größe (1)",
    "[1]",
    'q"x',
    "b\\",
    "it's",
]
SENTENCES = [
    '"Hi", she said: {x}',
    "costs ${5}",
    "\\${x}",
    "a\\",
    '\\"',
    "'",
    "1,2",
    "a\nb",
    "x # y",
    "~",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_setting_holds_what_was_typed(text: str) -> None:
    composed = compose(
        [f"model.revision={text}", f"data.folder=/tmp/{text}", f"storage={text}"], None
    )
    assert (composed["model"]["revision"], composed["data"]["folder"], composed["storage"]) == (
        text,
        f"/tmp/{text}",
        text,
    )


@pytest.mark.parametrize("text", [*TEXTS, *SENTENCES])
def test_a_prompt_may_hold_any_punctuation(text: str) -> None:
    composed = compose([f"prompt={text}", f"data.instruction={text}"], None)
    assert (composed["prompt"], composed["data"]["instruction"]) == (text, text)


def test_quotes_around_a_text_setting_are_hydras_and_null_is_nothing() -> None:
    composed = compose(
        ["data.folder='a b'", 'model.revision="7"', "tracking.uri=null", "prompt="], None
    )
    assert (composed["data"]["folder"], composed["model"]["revision"]) == ("a b", "7")
    assert composed["tracking"]["uri"] is None
    assert composed["prompt"] == ""


def test_an_environment_variable_can_name_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_ROWS", "/some/where")
    assert compose(["data.folder=${oc.env:MY_ROWS}/x"], None)["data"]["folder"] == "/some/where/x"


def test_the_plus_before_a_group_or_a_setting_may_be_left_out() -> None:
    assert compose(["sweep=lora", "experiment=tiny"], None) == compose(
        ["+sweep=lora", "+experiment=tiny"], None
    )
    assert (
        compose(["+prompt=x"], None) == compose(["prompt=x"], None) == compose(["++prompt=x"], None)
    )
