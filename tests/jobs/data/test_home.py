"""The committed requests to a smart home keep what their README promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.data_builders import load_builder, read_rows

FOLDER = Path(__file__).resolve().parents[3] / "data" / "home"
SIZES = {"train": 8_000, "valid": 300, "test": 600}
OPEN_SLOTS = ("name", "item", "message", "search_query", "conversation_command")


def answers(name: str) -> list[dict[str, object]]:
    return [json.loads(row["completion"]) for row in read_rows(FOLDER / f"{name}.jsonl")]


@pytest.mark.parametrize("name", SIZES)
def test_every_row_holds_a_request_and_its_intent_first(name: str) -> None:
    rows = read_rows(FOLDER / f"{name}.jsonl")
    assert len(rows) == SIZES[name]
    for row in rows:
        assert row["prompt"] == " ".join(row["prompt"].split()) != ""
        answer = json.loads(row["completion"])
        assert next(iter(answer)) == "intent"
        assert row["completion"] == json.dumps(answer, separators=(",", ":"))
    wordings = {row["wording"] for row in rows}
    assert wordings == ({"known"} if name == "train" else {"known", "new"})


def test_no_request_stands_twice() -> None:
    normalise = load_builder(FOLDER).normalise
    requests = [
        normalise(row["prompt"]) for name in SIZES for row in read_rows(FOLDER / f"{name}.jsonl")
    ]
    assert len(requests) == len(set(requests)) == sum(SIZES.values())


def test_what_held_out_rows_name_in_open_slots_is_trained_on_nowhere() -> None:
    def values(name: str) -> set[object]:
        slots = [answer.get(slot) for answer in answers(name) for slot in OPEN_SLOTS]
        people = load_builder(FOLDER).vocabulary.PEOPLE
        return {value for value in slots if value is not None} - {*people}

    assert not values("train") & (values("valid") | values("test"))
    assert len(values("test")) > 150


def test_slots_are_words_of_the_request_or_follow_from_it() -> None:
    for row in read_rows(FOLDER / "test.jsonl"):
        answer = json.loads(row["completion"])
        for slot in ("area", "floor", *OPEN_SLOTS):
            assert str(answer.get(slot, "")) in row["prompt"]


def test_building_again_gives_the_committed_bytes() -> None:
    for package in ("home_assistant_intents", "hassil"):
        pytest.importorskip(package, reason="the committed files need it only to be rebuilt")
    for name, content in load_builder(FOLDER).build().items():
        assert (FOLDER / name).read_bytes() == content.encode()
