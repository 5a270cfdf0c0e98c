"""What a lookup makes of a task, and where none is claimed."""

from __future__ import annotations

import pytest

from jobs.config import Data, Source
from jobs.data.corpus import Corpus, load_corpus
from jobs.data.readers import Row, context_key
from jobs.evaluation.baselines import answers_of
from orchestrator.project import ROOT


def row(prompt: str, answer: str) -> Row:
    messages = ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
    return Row(messages, prompt.casefold(), "here")


def test_the_nearest_prompt_answers_and_the_right_one_is_counted() -> None:
    train = [row(f"card stolen {n}", "fraud") for n in range(9)]
    train += [row(f"new address {n}", "change") for n in range(6)]
    asked = [row("a stolen card", "fraud"), row("my address", "change"), row("???", "change")]
    told = answers_of(Corpus({"train": train}, asked, asked))
    assert told.splits["test"]["nearest_prompt"] == ["fraud", "change", "fraud"]
    assert told.splits["test"]["most_frequent"] == ["fraud"] * 3
    assert told.splits["test"]["linear_classifier"][:2] == ["fraud", "change"]
    assert told.nearest_hold["test"] == pytest.approx(2 / 3)


def test_free_text_has_no_label_baseline_but_the_nearest_rows_answer() -> None:
    rows = [row(f"lamp {n} in the room {n}", f"turn lamp {n} on") for n in range(20)]
    asked = [row("the lamp 7, room 7", "turn lamp 7 on"), row("???", "nothing")]
    told = answers_of(Corpus({"train": rows}, asked, asked))
    assert told.free_text and "no label baseline: answers are free text" in told.notes[0]
    assert told.splits["test"] == {"nearest_prompt": ["turn lamp 7 on", ""]}
    assert told.nearest_hold["test"] == 0.5


def test_calls_of_functions_have_no_lookup() -> None:
    call = {"function": {"name": "on", "arguments": {}}}
    messages = (
        {"role": "user", "content": "light"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    )
    rows = [Row(messages, "light", "here")] * 4
    told = answers_of(Corpus({"train": rows}, rows, rows))
    assert told.splits == {} and "answers call functions" in told.notes[0]


def test_a_smart_homes_json_has_the_nearest_row_that_was_measured() -> None:
    folder = ROOT / "data" / "home"
    held_out = {split: str(folder / f"{split}.jsonl") for split in ("valid", "test")}
    sources = {"train": Source(path=str(folder / "train.jsonl"))}
    corpus = load_corpus(Data(name="home", sources=sources, **held_out))
    told = answers_of(corpus)
    nearest = told.splits["test"]["nearest_prompt"]
    hits = [given == one.answer for given, one in zip(nearest, corpus.test, strict=True)]
    assert told.free_text and set(told.splits["test"]) == {"nearest_prompt"}
    assert len(hits) == 600 and sum(hits) / 600 == pytest.approx(0.122, abs=0.002)


def test_in_a_conversation_what_is_said_is_compared_and_not_who_says_it() -> None:
    def chat(asked: str, answer: str) -> Row:
        context = ({"role": "system", "content": "Sort."}, {"role": "user", "content": asked})
        messages = (*context, {"role": "assistant", "content": answer})
        return Row(messages, context_key(context), "here")

    texts = {"hello user, where is it": "a", "is it there yet, system": "b", "or so": "a"}
    train = [chat(text, answer) for text, answer in texts.items()] * 4
    held_out = {"there": "b", "hello": "a", "so": "a", "where": "a"}
    bare = [row(f"sort. {text}", answer) for text, answer in texts.items()] * 4
    chats = [chat(*one) for one in held_out.items()]
    prompts = [row(f"sort. {text}", answer) for text, answer in held_out.items()]
    said = answers_of(Corpus({"train": train}, chats, chats))
    plain = answers_of(Corpus({"train": bare}, prompts, prompts))
    assert said.splits == plain.splits


def test_the_default_task_has_the_nearest_row_that_was_measured() -> None:
    folder = ROOT / "data" / "icd10"
    sources = {name: Source(path=str(folder / f"{name}.jsonl")) for name in ("terms", "titles")}
    held_out = {split: str(folder / f"{split}.jsonl") for split in ("valid", "test")}
    corpus = load_corpus(Data(name="icd10", sources=sources, **held_out))
    nearest = answers_of(corpus).splits["test"]["nearest_prompt"]
    hits = [given == one.answer for given, one in zip(nearest, corpus.test, strict=True)]
    assert len(hits) == 850 and sum(hits) / 850 == pytest.approx(0.632, abs=0.002)
