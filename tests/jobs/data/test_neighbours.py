"""Which training rows stand before a question, in which order, and what is left out when there is
no room.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from jobs.config import BaseModel, Data, Neighbours, Trial
from jobs.data import neighbours as looked_up
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import Corpus, load_corpus
from jobs.data.mixture import CHUNK_ROWS
from jobs.data.nearest_rows import RowIndex
from jobs.data.neighbours import nearest_rows
from jobs.data.readers import Row, normalise
from jobs.data.tokenization import encode_asked, encode_rows
from jobs.data.trial_data import TrialData
from tests.support.neighbours import many_answers, with_neighbours
from tests.support.plain import make

SIX = Neighbours(count=6)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))


def row(question: str, answer: str, *earlier: str) -> Row:
    turns = [{"role": "user", "content": text} for text in earlier]
    turns = [m for turn in turns for m in (turn, {"role": "assistant", "content": "Go on."})]
    messages = (*turns, {"role": "user", "content": question})
    key = json.dumps(messages) if turns else normalise(question)
    return Row((*messages, {"role": "assistant", "content": answer}), key, "here")


def shown(rows: list[Row], place: int, count: int = 6) -> list[tuple[str, str]]:
    """Question and answer of the neighbours of a training row, the nearest first."""
    corpus = Corpus({"train": rows}, [], [])
    near = nearest_rows(corpus).neighbours("train/train", place, count)
    return [(one.question, one.answer) for one in near]


def test_neighbours_are_the_nearest_of_each_other_answer_and_never_the_row_itself() -> None:
    rows = [
        row("broken left femur", "S72"),
        row("broken right femur, closed", "S72"),
        row("broken left tibia", "S82"),
        row("a left tibia that is broken", "S82"),
        row("broken nose", "S02"),
        row("xyz", "Z99"),
    ]
    assert shown(rows, 0) == [
        ("broken left tibia", "S82"),
        ("broken right femur, closed", "S72"),
        ("broken nose", "S02"),
    ]
    assert shown(rows, 0, 2) == shown(rows, 0)[:2]


@pytest.mark.parametrize(
    ("twin", "answer", "is_shown"),
    [
        ("BROKEN  left femur", "S72", False),
        ("Broken: left femur!", "S72", False),
        ("Broken: left femur!", "S82", False),
        ("left femur broken", "S72", False),
        ("left femur broken", "S82", True),
        ("broken left femur neck", "S72", True),
    ],
)
def test_near_duplicates_of_a_row_are_not_shown_before_it(
    twin: str, answer: str, is_shown: bool
) -> None:
    rows = [row("broken left femur", "S72"), row(twin, answer), row("broken nose", "S02")]
    assert (twin in [question for question, _ in shown(rows, 0)]) == is_shown


def test_a_long_near_duplicate_is_not_shown_and_the_next_of_its_answer_takes_its_place() -> None:
    words = [f"word{chr(97 + n)}" for n in range(20)]
    rows = [
        row(" ".join(words), "A"),
        row(" ".join([*words[:19], "other"]), "A"),
        row(" ".join([*words[:12], "some", "more", "of", "it"]), "A"),
        row(" ".join([*words[:15], "b"]), "B"),
    ]
    assert [question for question, _ in shown(rows, 0)] == [
        rows[3].context[0]["content"],
        rows[2].context[0]["content"],
    ]


def test_rows_of_the_same_conversation_are_not_shown_before_it() -> None:
    rows = [row(f"may I go to place {n}?", ["yes", "no"][n % 2], f"Hello {n}") for n in range(8)]
    follow = dataclasses.replace(
        rows[0],
        messages=(
            *rows[0].messages,
            {"role": "user", "content": "may I go to place 0 again?"},
            {"role": "assistant", "content": "never"},
        ),
        key="another",
    )
    questions = [question for question, _ in shown([*rows, follow], 0)]
    assert questions and "may I go to place 0 again?" not in questions


def test_near_twins_of_held_out_rows_are_shown_to_nobody() -> None:
    rows = [row("sick euthyroid syndrome", "E07"), row("sick sinus syndrome", "I49")]
    rows += [row("euthyroid goitre", "E04"), row("sick sinus node", "I49")]
    asked = [row("Euthyroid-sick syndrome", "E07")]
    for valid, test in ((asked, []), ([], asked)):
        nearest = nearest_rows(Corpus({"train": rows}, valid, test))
        assert [one.answer for one in nearest.shown] == ["I49", "E04", "I49"]
        near = nearest.neighbours("valid" if valid else "test", 0, 6)
        assert {one.answer for one in near} == {"I49", "E04"}
        assert all("euthyroid s" not in one.question for one in near)


def test_a_question_alone_and_one_among_many_find_the_same_rows() -> None:
    texts = [f"{'abcdefgh'[n % 8] * 3} {n} of {'xyz'[n % 3]} {n * 7 % 11}" for n in range(400)]
    rows = [row(text, f"L{n % 37}") for n, text in enumerate(texts)]
    asked = [row(f"{text} please", "?") for text in texts[::5]]
    index = RowIndex(rows)
    together = index.nearest(asked, 6, left_out=False)
    alone = [RowIndex(rows).nearest([one], 6, left_out=False)[0].tolist() for one in asked[:9]]
    assert together[:9].tolist() == alone
    features = index.vectors.features
    similar = (features @ features.T).toarray()
    for place, near in enumerate(index.nearest(rows[:50], 6, left_out=True)):
        best = sorted(range(400), key=lambda other, place=place: (-similar[place, other], other))
        best = [other for other in best if other != place and similar[place, other] > 0]
        first = {rows[other].answer: other for other in reversed(best)}
        expected = sorted(first.values(), key=best.index)[:6]
        assert similar[place, near].tolist() == pytest.approx(similar[place, expected].tolist())
        assert len({rows[other].answer for other in near}) == 6


def course(trial: Trial, base: BaseModel) -> TrialData:
    return TrialData(trial, ChatTokenizer(base.path), load_corpus(trial.data))


def test_the_order_in_training_follows_from_seed_row_and_epoch(
    base: BaseModel, tmp_path: Path
) -> None:
    trial = with_neighbours(
        make(many_answers(tmp_path / "rows", 40) / "train.jsonl", batch_size=8), 4, order="shuffled"
    )
    first, again = course(trial, base), course(trial, base)
    texts = [[one.text for one in first.batch(step)] for step in range(12)]
    assert texts == [[one.text for one in again.batch(step)] for step in reversed(range(12))][::-1]
    other = course(dataclasses.replace(trial, seed=4), base)
    name, place = "train", 5
    orders = {first.row(name, place, epoch).neighbours for epoch in range(4)}
    assert len(orders) > 1
    assert len({frozenset(order) for order in orders}) == 1
    assert {other.row(name, place, epoch).neighbours for epoch in range(4)} != orders
    assert first.row(name, place, 0) == first.row(name, place, 4), "orders repeat after a few"


@pytest.mark.parametrize("order", ["shuffled", "nearest_first", "nearest_last"])
def test_chunks_hold_the_examples_of_the_batches_in_every_epoch(
    order: str, base: BaseModel, tmp_path: Path
) -> None:
    trial = with_neighbours(
        make(many_answers(tmp_path / "rows", 40) / "train.jsonl", batch_size=8), 3, order=order
    )
    data = course(trial, base)
    for step in range(14):
        for example, chunk in zip(data.batch(step), data.chunks(step), strict=True):
            assert any(example is one for one in chunk.read())
            assert (chunk.first is not None) <= (order != "shuffled")
    assert len(data.corpus.sources["train"]) < CHUNK_ROWS


def test_the_nearest_stands_last_when_a_model_is_asked_unless_it_was_first_in_training(
    tmp_path: Path,
) -> None:
    data = Data(name="toy", folder=str(many_answers(tmp_path / "rows", 40)))
    nearest = nearest_rows(load_corpus(data))
    for order, ranks in (("shuffled", [2, 1, 0]), ("nearest_last", [2, 1, 0])):
        for one in nearest.held_out("valid", Neighbours(count=3, order=order)):  # type: ignore[arg-type]
            assert [near.rank for near in one.neighbours] == ranks[-len(one.neighbours) :]
    first = nearest.held_out("test", Neighbours(count=3, order="nearest_first"))
    assert [near.rank for near in first[0].neighbours] == [0, 1, 2]


def test_whole_neighbours_are_left_out_before_anything_of_the_question_is(
    base: BaseModel, tmp_path: Path
) -> None:
    data = Data(
        name="toy", folder=str(many_answers(tmp_path / "rows", 40)), instruction="Which letter?"
    )
    corpus, template = load_corpus(data), ChatTokenizer(base.path)
    rows = nearest_rows(corpus).held_out("test", SIX)
    whole = encode_rows(rows, template, 512)
    bare = encode_rows(corpus.test, template, 512)
    seen = set()
    for length in range(len(bare[0].ids) - 6, len(whole[0].ids) + 2):
        (example,) = encode_rows(rows[:1], template, length)
        (asked,), _ = encode_asked(rows[:1], template, length, 3)
        seen.add(example.num_neighbours)
        for one in (example, asked):
            kept = [near for near in rows[0].neighbours if near.rank < one.num_neighbours]
            lines = [f"{near.question} -> {near.answer}\n" for near in kept]
            assert "Which letter?\n" + "".join(lines) in one.text
            assert one.text.count(" -> ") == len(kept)
            assert (one.num_cut > 0) <= (one.num_neighbours == 0)
            if one.num_cut == 0:
                assert str(corpus.test[0].context[-1]["content"]).split("\n")[1] in one.text
        assert len(example.ids) <= length
    assert seen == set(range(len(rows[0].neighbours) + 1))


def test_a_conversation_shows_neighbours_of_its_last_question_before_that(
    base: BaseModel, tmp_path: Path
) -> None:
    system = {"role": "system", "content": "Sort."}
    hello = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello!"}]
    lines = [
        {
            "messages": [
                system,
                *hello,
                {"role": "user", "content": f"ticket {n} of {'xyz'[n % 3]}"},
                {"role": "assistant", "content": f"L{n % 5}"},
            ]
        }
        for n in range(40)
    ]
    (tmp_path / "rows").mkdir()
    file = tmp_path / "rows" / "train.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    corpus = load_corpus(Data(name="chat", folder=str(file.parent)))
    (asked, *_) = nearest_rows(corpus).held_out("test", Neighbours(count=2))
    last = asked.as_shown.context[-1]["content"]
    assert asked.as_shown.context[:-1] == asked.context[:-1]
    first, second, empty, question = last.split("\n")
    assert (empty, question) == ("", asked.context[-1]["content"])
    assert first.startswith("ticket ") and " -> L" in first and " -> L" in second


def test_what_was_looked_up_is_kept_and_is_that_of_these_rows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Data(name="toy", folder=str(many_answers(tmp_path / "rows", 40)))
    before = nearest_rows(load_corpus(data)).held_out("test", SIX)
    (file,) = (tmp_path / "cache" / "neighbours").glob("*.npz")

    def fail(corpus: Corpus, model: Any) -> Any:
        raise AssertionError("looked up again")

    real = looked_up.look_up
    monkeypatch.setattr(looked_up, "look_up", fail)
    asked = dataclasses.replace(data, instruction="Which?")  # the questions are the same
    again = nearest_rows(load_corpus(asked)).held_out("test", SIX)
    assert [one.neighbours for one in again] == [one.neighbours for one in before]
    many_answers(tmp_path / "rows", 41)
    with pytest.raises(AssertionError, match="again"):
        nearest_rows(load_corpus(data))
    monkeypatch.setattr(looked_up, "look_up", real)
    many_answers(tmp_path / "rows", 40)
    file.write_bytes(file.read_bytes()[:100])  # a torn file
    torn = nearest_rows(load_corpus(data)).held_out("test", SIX)
    assert [one.neighbours for one in torn] == [one.neighbours for one in before]


def test_a_cache_that_cannot_be_written_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "file"))
    data = Data(name="toy", folder=str(many_answers(tmp_path / "rows", 40)))
    assert nearest_rows(load_corpus(data)).held_out("test", SIX)[0].neighbours


def test_rows_that_are_all_near_twins_of_held_out_ones_leave_nothing_to_show() -> None:
    corpus = Corpus(
        {"train": [row("one two", "A"), row("two one", "A")]}, [row("ONE-two", "A")], []
    )
    with pytest.raises(ValueError, match=r"no training row can be shown.*count to 0"):
        nearest_rows(corpus)


def test_without_neighbours_rows_and_examples_are_what_they_were(
    base: BaseModel, tmp_path: Path
) -> None:
    trial = make(many_answers(tmp_path / "rows", 40) / "train.jsonl")
    data = course(trial, base)
    assert data.nearest is None
    assert all(one.num_neighbours == 0 and " -> " not in one.text for one in data.batch(0))
    assert not (tmp_path / "cache" / "neighbours").exists()


def test_a_long_prompt_that_all_rows_begin_with_makes_no_two_rows_alike() -> None:
    system = " ".join(f"rule{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(60))
    kinds = ["billing", "shipping", "technical"]
    rows = []
    for n in range(12):
        question = f"{kinds[n % 3]} trouble with {'abcdefghijkl'[n]} today please"
        messages = (
            {"role": "system", "content": system},
            {"role": "user", "content": question},
            {"role": "assistant", "content": kinds[n % 3]},
        )
        rows.append(Row(messages, json.dumps(messages[:2]), "here"))
    for place, asked in enumerate(rows):
        assert asked.answer in [answer for _, answer in shown(rows, place)]


def test_equally_near_rows_are_the_same_ones_however_many_are_asked_for() -> None:
    rows = [row("hello", f"L{n}") for n in range(60)]
    index = RowIndex(rows)
    asked = [row("hello there", "")]
    most = index.nearest(asked, 32, left_out=False)[0].tolist()
    assert most == list(range(32))
    for count in (1, 6, 12):
        assert index.nearest(asked, count, left_out=False)[0].tolist() == most[:count]
    own = index.nearest([rows[3]], 6, left_out=True)[0].tolist()
    assert own == [-1] * 6, "all are the same prompt"


def test_ties_are_found_by_looking_at_few_of_many_answers() -> None:
    rows = [row(f"hello {chr(97 + n % 5)}", f"L{n}") for n in range(4_000)]
    index = RowIndex(rows)
    looked_at: list[int] = []
    alike = index.alike

    def counted(place: int, asked: Any) -> bool:
        looked_at.append(place)
        return alike(place, asked)

    index.alike = counted  # type: ignore[method-assign]
    nearest = index.nearest([row("hello b there", "")], 6, left_out=True)[0].tolist()
    assert nearest == [1, 6, 11, 16, 21, 26]
    assert len(looked_at) < 50
