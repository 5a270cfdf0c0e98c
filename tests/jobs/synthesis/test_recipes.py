"""Each recipe: what the teacher is asked, and which row its replies make."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from jobs.config import Data
from jobs.data.corpus import Corpus, load_corpus
from jobs.synthesis.answer_values import values_of
from jobs.synthesis.attributes import sampled
from jobs.synthesis.corruption import corrupted
from jobs.synthesis.documents import passages_of
from jobs.synthesis.drafts import Ask, Candidate, Rejected
from jobs.synthesis.recipes import recipe_of
from jobs.synthesis.reply_text import cleaned, pair_in
from jobs.synthesis.seed_rows import Seeds, rarest_first, seeds_of
from jobs.synthesis_settings import Synthesis
from tests.support.synthesis import home_like, write_rows


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = home_like(tmp_path_factory.mktemp("data") / "home")
    return load_corpus(Data(name="home", folder=str(folder)))


@pytest.fixture(scope="module")
def seeds(corpus: Corpus) -> Seeds:
    return seeds_of(corpus, ["train"], None)


def text_of(ask: object) -> str:
    assert isinstance(ask, Ask)
    return str(ask.as_one[-1]["content"])


def test_a_paraphrase_keeps_the_seeds_answer_and_names_what_must_stay(seeds: Seeds) -> None:
    told = "Give the intent:"
    attributes = {"topic": ["light"], "style": ["curt"]}
    settings = Synthesis(recipe="paraphrase", attributes=attributes, instruction=told)
    recipe = recipe_of(settings, seeds, [], told, 0)
    draft = next(recipe.drafts())
    assert draft.seed is not None
    asked = text_of(recipe.advance(draft, []))
    assert draft.seed.question in asked and "Give the intent:" in asked
    assert "- style: curt\n- topic: light\n" in asked
    for value in (json.loads(draft.seed.answer)["room"], json.loads(draft.seed.answer)["device"]):
        assert f'"{value}"' in asked
    reply = '<think>Hm.</think>Sure, here is the text:\n\n"New words"'
    assert recipe.advance(draft, [reply]) == Candidate("New words", draft.seed.answer)


def test_rare_labels_are_drawn_until_all_are_alike(seeds: Seeds) -> None:
    assert seeds.label_field == "intent"
    before = seeds.counts
    assert before["turn_off"] < before["turn_on"]
    drawn = list(itertools.islice(rarest_first(seeds, 0), 90))
    after = before.copy()
    after.update(seed.label for seed in drawn)
    assert abs(after["turn_off"] - after["turn_on"]) <= 1
    assert drawn[0].label == "turn_off"
    recipe = recipe_of(Synthesis(recipe="rare", examples=3), seeds, [], "", 0)
    draft = next(recipe.drafts())
    asked = text_of(recipe.advance(draft, []))
    assert asked.count("Text: ") == 3 and all(seed.label == "turn_off" for seed in draft.examples)
    assert draft.seed is not None and f"exactly: {draft.seed.answer}" in asked
    assert recipe.advance(draft, ["Prompt: stop it"]) == Candidate("stop it", draft.seed.answer)


def test_rare_needs_labels(tmp_path: Path) -> None:
    rows = [{"prompt": f"what is number {n}", "completion": f"it is {n * 7}"} for n in range(40)]
    write_rows(tmp_path / "train.jsonl", rows)
    seeds = seeds_of(load_corpus(Data(name="x", folder=str(tmp_path))), ["train"], None)
    with pytest.raises(ValueError, match="no labels that repeat.*paraphrase or new"):
        recipe_of(Synthesis(recipe="rare"), seeds, [], "", 0)


def test_a_new_row_brings_its_own_answer_as_text_or_as_json(seeds: Seeds) -> None:
    recipe = recipe_of(Synthesis(recipe="new", examples=2), seeds, [], "", 0)
    draft = next(recipe.drafts())
    assert text_of(recipe.advance(draft, [])).count("Prompt: ") == 3
    labelled = 'Prompt: dim it\nAnswer: {"intent": "turn_off"}'
    assert recipe.advance(draft, [labelled]) == Candidate("dim it", '{"intent": "turn_off"}')
    as_json = '```json\n{"prompt": "dim it", "answer": {"intent": "turn_off"}}\n```'
    assert recipe.advance(draft, [as_json]) == Candidate("dim it", '{"intent": "turn_off"}')
    assert pair_in('{"question": "q", "answer": {"a": 1}}', compact=True) == ("q", '{"a":1}')
    nothing = recipe.advance(draft, ["I would rather not."])
    assert isinstance(nothing, Rejected) and nothing.reason == "no question and answer"


def test_back_translation_goes_there_and_comes_back(seeds: Seeds) -> None:
    settings = Synthesis(recipe="back_translation", languages=["German", "Greek"])
    recipe = recipe_of(settings, seeds, [], "", 0)
    drafts = list(itertools.islice(recipe.drafts(), 4))
    assert (
        sorted(draft.attributes["language"] for draft in drafts) == ["German"] * 2 + ["Greek"] * 2
    )
    draft = drafts[0]
    language = draft.attributes["language"]
    first = recipe.advance(draft, [])
    assert isinstance(first, Ask) and first.name == "0.0"
    assert f"Translate into {language}" in text_of(first)
    second = recipe.advance(draft, ["Licht an"])
    assert isinstance(second, Ask) and second.name == "0.1"
    assert f"from {language} into English" in text_of(second) and "Licht an" in text_of(second)
    assert draft.seed is not None
    assert recipe.advance(draft, ["Licht an", "light on"]) == Candidate(
        "light on", draft.seed.answer
    )


def test_questions_are_asked_about_passages_of_a_folder(tmp_path: Path, seeds: Seeds) -> None:
    (tmp_path / "deep").mkdir()
    long = " ".join(f"Sentence {n} says that the mill has {n} stones." for n in range(40))
    (tmp_path / "a.md").write_text(f"# Mills\n\nToo short.\n\n{long}", encoding="utf-8")
    (tmp_path / "deep" / "b.txt").write_text("The bridge was built in 1887 by Ada Holm of Kiel.")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    passages, unread = passages_of(str(tmp_path), 60)
    assert unread == ["picture.png"]
    assert passages[-1].name == "deep/b.txt, passage 1"
    assert all(len(passage.text.split()) <= 60 for passage in passages) and len(passages) > 5
    words = " ".join(passage.text for passage in passages if passage.name.startswith("a.md"))
    assert words.split() == f"# Mills Too short. {long}".split(), "no word is lost between passages"
    settings = Synthesis(recipe="questions", documents=str(tmp_path), with_passage=True)
    recipe = recipe_of(settings, seeds, passages[-1:], "", 0)
    draft = next(recipe.drafts())
    assert draft.origin == "deep/b.txt, passage 1"
    assert passages[-1].text in text_of(recipe.advance(draft, []))
    row = recipe.advance(draft, ["Question: Who built it?\nAnswer: Ada Holm"])
    assert row == Candidate(f"{passages[-1].text}\n\nWho built it?", "Ada Holm", passages[-1].text)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "none", "does not exist; name a folder"),
        (lambda folder: folder, "has no text.*it is empty"),
        (lambda folder: write_rows(folder / "x.jsonl", []), "is a file, not a folder"),
    ],
)
def test_documents_that_are_none_are_one_message(make, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        passages_of(str(make(tmp_path)), 100)


def test_a_document_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 " * 20)
    with pytest.raises(ValueError, match=r"a.txt: not UTF-8 .*save the file as UTF-8"):
        passages_of(str(tmp_path), 100)


TEXT = "Please set the temperature in the Kitchen to 21%, because you are cold tonight!"


@pytest.mark.parametrize("kind", ["typos", "abbreviations", "dictation"])
def test_corrupted_copies_follow_from_the_seed_and_keep_what_the_answer_repeats(kind: str) -> None:
    answer = '{"area": "Kitchen", "value": 21}'
    assert values_of(answer, TEXT) == ["Kitchen", "21"]
    copies = {
        corrupted(kind, TEXT, values_of(answer, TEXT), 0.3, random.Random(seed), {})
        for seed in range(30)
    }
    assert len(copies) > 2 and TEXT not in copies
    assert all("kitchen" in copy.lower() and "21" in copy for copy in copies)
    same = [corrupted(kind, TEXT, ["Kitchen"], 0.3, random.Random(5), {}) for _ in range(2)]
    assert same[0] == same[1]


def test_what_each_corruption_does() -> None:
    typed = corrupted("typos", "temperature", [], 0.1, random.Random(1), {})
    assert typed != "temperature" and typed[0] == "t" and abs(len(typed) - 11) <= 1
    short = corrupted("abbreviations", "with you and me", [], 1.0, random.Random(1), {"me": "ME!"})
    assert short == "w/ u & ME!"
    spoken = corrupted("dictation", "Set 105 lamps, 7%!", [], 0.1, random.Random(3), {})
    assert spoken.endswith("set one hundred five lamps seven percent")


def test_a_corrupted_copy_needs_no_teacher_and_one_that_is_none_is_rejected(seeds: Seeds) -> None:
    recipe = recipe_of(Synthesis(recipe="corrupt"), seeds, [], "", 0)
    assert recipe.steps == 0
    outcomes = [recipe.advance(draft, []) for draft in itertools.islice(recipe.drafts(), 60)]
    assert outcomes == [
        recipe.advance(draft, []) for draft in itertools.islice(recipe.drafts(), 60)
    ]
    copies = [outcome for outcome in outcomes if isinstance(outcome, Candidate)]
    assert len(copies) > 40 and all(copy.answer for copy in copies)


def test_attributes_come_in_all_combinations_before_any_comes_again() -> None:
    attributes = {"topic": ["a", "b", "c"], "style": ["x", "y"], "length": ["1", "2"]}
    drawn = [tuple(sorted(one.items())) for one in itertools.islice(sampled(attributes, 7), 24)]
    assert len(set(drawn[:12])) == 12 and len(set(drawn[12:])) == 12
    assert drawn[:12] != drawn[12:]
    again = [tuple(sorted(one.items())) for one in itertools.islice(sampled(attributes, 7), 24)]
    other = [tuple(sorted(one.items())) for one in itertools.islice(sampled(attributes, 8), 24)]
    assert again == drawn != other
    many = {f"n{n}": [str(value) for value in range(50)] for n in range(5)}
    first = list(itertools.islice(sampled(many, 0), 50))
    assert {one["n3"] for one in first} == {str(value) for value in range(50)}


def test_labels_can_be_drawn_alike_often(seeds: Seeds) -> None:
    recipe = recipe_of(Synthesis(labels="uniform"), seeds, [], "", 0)
    drawn = [draft.seed.label for draft in itertools.islice(recipe.drafts(), 20) if draft.seed]
    assert drawn.count("turn_off") == drawn.count("turn_on") == 10


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("  plain  ", "plain"),
        ("Paraphrase: **so**", "**so**"),
        ("```\ninside\n```", "inside"),
        ('"quoted"', "quoted"),
        ('"two" and "three"', '"two" and "three"'),
        ("Here is a rewritten version:\n\nBe so kind", "Be so kind"),
        ("<think>never closed", ""),
        ("Sure thing, I turn it on", "Sure thing, I turn it on"),
    ],
)
def test_a_reply_is_cleaned_of_what_is_around_it(reply: str, text: str) -> None:
    assert cleaned(reply) == text
