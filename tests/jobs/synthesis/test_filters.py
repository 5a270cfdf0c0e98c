"""Each filter: what it drops, what it lets through, and that it can be turned off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.config import Data
from jobs.data.corpus import Corpus, load_corpus
from jobs.synthesis.drafts import Candidate, Draft, Passage, Rejected, Work
from jobs.synthesis.filters import NewRows, RowFilters
from jobs.synthesis.judges import agrees
from jobs.synthesis.seed_rows import Seeds, seeds_of
from jobs.synthesis.word_index import WordIndex
from jobs.synthesis_settings import Filters
from tests.support.synthesis import home_like, write_rows


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = home_like(tmp_path_factory.mktemp("data") / "home")
    return load_corpus(Data(name="home", folder=str(folder)))


@pytest.fixture(scope="module")
def seeds(corpus: Corpus) -> Seeds:
    return seeds_of(corpus, ["train"], None)


def reason(
    corpus: Corpus,
    seeds: Seeds,
    question: str,
    answer: str | None = None,
    recipe: str = "paraphrase",
    settings: Filters | None = None,
    passage: str = "",
) -> str | None:
    """Why a candidate from the first seed is dropped."""
    filters = RowFilters(settings or Filters(), recipe, seeds, corpus, False)
    seed = seeds.rows[0]
    draft = Draft(0, seed) if not passage else Draft(0, None, Passage("p", passage))
    candidate = Candidate(question, seed.answer if answer is None else answer, passage)
    rejected = filters.check(draft, candidate, Work(draft))
    return None if rejected is None else rejected.reason


GOOD = "would you start the heater in the kitchen for us"
OFF = {"schema": False, "length": 0, "vocabulary": 0, "values": False, "duplicates": False}


def test_a_good_paraphrase_passes(corpus: Corpus, seeds: Seeds) -> None:
    assert seeds.rows[0].question == "please start the heater that is in the kitchen for us"
    assert reason(corpus, seeds, GOOD) is None


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("  ", "empty"),
        ("I'm sorry, I cannot start the heater in the kitchen", "chatter"),
        ("start the heater\nin the kitchen for us", "chatter"),
        ("heater kitchen", "length"),
        (GOOD + " please" * 60, "length"),
        ("grünkohl schmeckt heater kitchen immer besonders wintertags", "vocabulary"),
        ("would you start the heater in the cellar for us", "values"),
        ("Please START the heater, that is in the kitchen for us!", "duplicate"),
        ("for us, please start the heater that is in the kitchen", "duplicate"),
    ],
)
def test_what_a_filter_drops_passes_without_it(
    question: str, wanted: str, corpus: Corpus, seeds: Seeds
) -> None:
    assert reason(corpus, seeds, question) == wanted
    if wanted != "empty":
        assert reason(corpus, seeds, question, settings=Filters(**OFF, leakage=False)) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.upper() + "!!",
        lambda text: "for us, " + text.removesuffix(" for us"),
        lambda text: text.replace(" ", ", "),
        lambda text: text.replace("the kitchen", "thekitchen"),
    ],
)
def test_a_row_that_is_nearly_a_held_out_one_is_dropped_whatever_its_answer(
    change, corpus: Corpus, seeds: Seeds
) -> None:
    for row in (corpus.test[0], corpus.valid[0]):
        question = change(row.messages[0]["content"])
        settings = Filters(**OFF)
        assert reason(corpus, seeds, question, "other", settings=settings) == "leakage"
        off = Filters(**OFF, leakage=False)
        assert reason(corpus, seeds, question, "other", settings=off) is None


def test_a_long_row_that_shares_nearly_all_words_with_a_held_out_one_is_dropped(
    tmp_path: Path,
) -> None:
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    rows = [{"prompt": f"{words} {n}{n} {n}x", "completion": "a"} for n in range(9)]
    write_rows(tmp_path / "train.jsonl", rows)
    held_out = "a long held out question that has many words of its own and is never to be trained"
    write_rows(tmp_path / "test.jsonl", [{"prompt": held_out, "completion": "b"}])
    corpus = load_corpus(Data(name="x", folder=str(tmp_path)))
    seeds = seeds_of(corpus, ["train"], None)
    near = held_out.replace("many", "lots")
    settings = Filters(**OFF)
    assert reason(corpus, seeds, near, "b", settings=settings) == "leakage"
    assert reason(corpus, seeds, " ".join(held_out.split()[:9]), "b", settings=settings) is None


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ('{"intent": "turn_on", "device": "heater", "room": "kitchen"}', None),
        ("turn_on", "schema"),
        ('{"intent": "explode", "device": "heater"}', "schema"),
        ('{"intent": "turn_on", "colour": "red"}', "schema"),
        ('{"intent": "turn_on"', "schema"),
    ],
)
def test_answers_in_json_stay_json_with_fields_and_labels_that_are_there(
    answer: str, wanted: str | None, corpus: Corpus, seeds: Seeds
) -> None:
    assert reason(corpus, seeds, GOOD, answer, recipe="new") == wanted


def test_answers_that_are_labels_stay_labels(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"the mood of day {n} is {n * n}", "completion": ["good", "bad"][n % 2]}
        for n in range(60)
    ]
    write_rows(tmp_path / "train.jsonl", rows)
    corpus = load_corpus(Data(name="x", folder=str(tmp_path)))
    seeds = seeds_of(corpus, ["train"], None)
    assert seeds.is_closed
    assert reason(corpus, seeds, "the mood of day is fine", "good", recipe="new") is None
    assert reason(corpus, seeds, "the mood of day is fine", "mixed", recipe="new") == "schema"


def test_answers_to_questions_stand_in_their_passage(corpus: Corpus, seeds: Seeds) -> None:
    passage = "The bridge was built in 1887 by Ada Holm of Kiel"
    asked = "Who built the bridge?"
    about = {"recipe": "questions", "passage": passage}
    assert reason(corpus, seeds, asked, "Ada Holm", **about) is None
    assert reason(corpus, seeds, asked, "Napoleon of France", **about) == "values"


def test_corrupted_copies_may_differ_in_case_and_marks_alone(corpus: Corpus, seeds: Seeds) -> None:
    spoken = "Please start the heater that is in the kitchen for us"
    assert reason(corpus, seeds, spoken, recipe="corrupt") is None
    assert reason(corpus, seeds, spoken) == "duplicate"
    assert reason(corpus, seeds, seeds.rows[0].question, recipe="corrupt") == "duplicate"


def work(question: str) -> Work:
    made = Work(Draft(0))
    made.candidate = Candidate(question, "a")
    made.words = tuple(question.split())
    return made


def test_new_rows_differ_from_each_other() -> None:
    rows = NewRows(0.6, "paraphrase")
    assert rows.check(work("turn the big lamp on in here")) is None
    again = rows.check(work("in here turn the big lamp on"))
    assert isinstance(again, Rejected) and again.reason == "diversity"
    assert rows.check(work("turn the big lamp on in there")) is not None
    other = work("what may the weather be tomorrow")
    assert rows.check(other) is None and other.scores["nearest_new"] == 0
    lenient = NewRows(0.0, "paraphrase")
    assert lenient.check(work("turn the big lamp on in here")) is None
    assert lenient.check(work("turn the big lamp on in there")) is None
    assert rows.figures()["distinct_words"] == 0.923, "one of 13 words stands there twice"


def test_the_index_finds_what_comparing_all_would() -> None:
    texts = [[f"w{(n * k) % 11}" for k in range(1, 8)] for n in range(1, 60)]
    index = WordIndex(texts)
    for text in texts:
        asked = [*text[:5], "new"]
        shares = [len(set(asked) & set(t)) / len(set(asked) | set(t)) for t in texts]
        best = max(shares)
        assert index.most_alike(asked, 0.5) == (best if best >= 0.5 else 0.0)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Yes.", True),
        ("**No**, it is not", False),
        ("<think>no</think> yes", True),
        ("maybe", None),
        ("", None),
    ],
)
def test_a_judges_word_is_yes_or_no_or_none(reply: str, verdict: bool | None) -> None:
    assert agrees(reply, "anything", False) is verdict


def test_a_student_has_to_give_the_same_answer() -> None:
    answer = json.dumps({"a": 1, "b": "x"})
    assert agrees('{"b":"x","a":1}', answer, True) is True
    assert agrees('{"b":"x"}', answer, True) is False
    assert agrees(" Good ", "good", True) is True
