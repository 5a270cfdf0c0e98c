"""Which new rows are dropped, and why: those that cannot be read, that say something else, that are
there already, or that a validation or test row is nearly the same as.

Every filter gives its reason by one name, by which rejected rows are counted, and the scores that
it looked at, which stand in the row's provenance.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from jobs.data.corpus import Corpus
from jobs.data.messages import Malformed
from jobs.data.near_duplicates import ALIKE, FEWEST_WORDS, words_in, words_of
from jobs.data.neighbour_prompt import last_question
from jobs.data.readers import Row, normalise, read_messages, read_pair
from jobs.data.shapes import pair_shape
from jobs.evaluation.json_answers import parse
from jobs.synthesis import word_index
from jobs.synthesis.answer_values import share_in, stands_in, values_of
from jobs.synthesis.drafts import Candidate, Draft, Rejected, Work
from jobs.synthesis.reply_text import chatter_in
from jobs.synthesis.seed_rows import Seeds
from jobs.synthesis.word_index import WordIndex
from jobs.synthesis_settings import Filters

GROUNDED = 0.6
"""Share of an answer's words that its passage must hold."""
MOST_CHARACTERS = 4_000
"""Of a question about a document; such questions have no training prompts to go by."""
LOOKED_AT = 0.5
"""Shares of common words below this are not looked for."""
REASONS = {
    "empty": "nothing was written",
    "schema": "the row cannot be read, or its answer has another form",
    "chatter": "talk about the row instead of the row",
    "length": "far shorter or longer than the training prompts",
    "vocabulary": "most of its words stand in no training row",
    "values": "what the answer takes from the prompt is not in it",
    "duplicate": "a training row asks the same",
    "leakage": "a validation or test row is nearly the same",
    "diversity": "an earlier new row is nearly the same",
    "judge": "the judge does not agree with the answer",
}
"""What filters reject, by the names under which it is counted."""


class RowFilters:
    """The filters that look at one row and at real ones."""

    def __init__(
        self, settings: Filters, recipe: str, seeds: Seeds, corpus: Corpus, as_chat: bool
    ) -> None:
        self.settings = settings
        self.recipe = recipe
        self.seeds = seeds
        self.as_chat = as_chat
        training = [row for rows in corpus.sources.values() for row in rows]
        self.instruction = next((row.instruction for row in training if row.instruction), "")
        words = [words_of(row) for row in training]
        self.real = WordIndex(words)
        self.texts = {asked_text(row) for row in training}
        self.held_out = WordIndex(words_of(row) for row in (*corpus.valid, *corpus.test))
        self.vocabulary = {word for row_words in words for word in row_words}
        self.labels = {seed.label for seed in seeds.rows if seed.label}
        self.answers = {seed.answer for seed in seeds.rows}
        self.shortest, self.longest = usual_lengths([seed.question for seed in seeds.rows])
        self.single_line = not any("\n" in seed.question for seed in seeds.rows)
        self.fields = fields_of(seeds)

    def check(self, draft: Draft, candidate: Candidate, work: Work) -> Rejected | None:
        """Why a candidate is dropped, None where it passes; the row, its words and the scores go to
        `work`.
        """
        if not candidate.question.strip() or not candidate.answer.strip():
            return Rejected("empty")
        record, row, problem = self.row_of(draft, candidate)
        if row is None:
            return Rejected("schema", problem)
        work.record, work.row = record, row
        work.words = tuple(words_of(row))
        checks = (self.schema, self.length, self.known_words, self.values, self.real_rows)
        for check in checks:
            rejected = check(draft, candidate, work)
            if rejected is not None:
                return rejected
        return None

    def row_of(self, draft: Draft, candidate: Candidate) -> tuple[dict[str, Any], Row | None, str]:
        """The candidate as the record of a file, as the row that is read from it, and why it cannot
        be read.
        """
        record = self.record_of(draft, candidate)
        try:
            if "messages" in record:
                return record, read_messages(record, "new row"), ""
            return (
                record,
                read_pair(record, "new row", self.instruction.removesuffix("\n"), pair_shape()),
                "",
            )
        except Malformed as error:
            return record, None, str(error)

    def record_of(self, draft: Draft, candidate: Candidate) -> dict[str, Any]:
        """The candidate in the form of the training rows: a prompt, or the seed's conversation with
        another question at its end.
        """
        if not self.as_chat:
            return {"prompt": candidate.question, "completion": candidate.answer}
        question, answer = candidate.question, candidate.answer
        messages: list[dict[str, Any]] = []
        opening = self.instruction
        if draft.seed is not None:
            opening = draft.seed.row.instruction
            position = last_question(draft.seed.row.context)
            messages = [dict(message) for message in draft.seed.row.context[:position]]
        return {
            "messages": [
                *messages,
                {"role": "user", "content": opening + question},
                {"role": "assistant", "content": answer},
            ]
        }

    def schema(self, draft: Draft, candidate: Candidate, work: Work) -> Rejected | None:
        """The form of prompt and answer."""
        if not self.settings.schema:
            return None
        if self.recipe != "corrupt":
            text = candidate.question.removeprefix(candidate.passage)
            chatter = chatter_in(text.strip())
            lines = self.single_line and "\n" in text.strip()
            if chatter or lines:
                return Rejected("chatter", chatter or "several lines, where rows have one")
        if self.recipe == "questions":
            return None
        answer = candidate.answer
        if self.seeds.is_closed and answer not in self.answers:
            return Rejected("schema", f"{answer[:60]!r} is no label of the training rows")
        if not self.seeds.is_structured:
            return None
        value = parse(answer)
        if value is None or not isinstance(value[0], dict | list):
            return Rejected("schema", f"the answer is no JSON object: {answer[:60]!r}")
        return self.known_fields(value[0])

    def known_fields(self, value: Any) -> Rejected | None:
        """Fields and label of an answer in JSON, where training answers have them all alike."""
        if not self.fields or not isinstance(value, dict):
            return None
        unknown = value.keys() - self.fields
        if unknown:
            return Rejected("schema", f"no training answer has the field {sorted(unknown)[0]!r}")
        name = self.seeds.label_field
        if name is not None and str(value.get(name)) not in self.labels:
            return Rejected("schema", f"{name}={value.get(name)!r} is no label of the rows")
        return None

    def length(self, draft: Draft, candidate: Candidate, work: Work) -> Rejected | None:
        """How long the prompt is."""
        factor, size = self.settings.length, len(candidate.question)
        if not factor:
            return None
        if self.recipe == "questions":
            fits = size - len(candidate.passage) <= MOST_CHARACTERS
        else:
            fits = self.shortest / factor <= size <= self.longest * factor
        return None if fits else Rejected("length", f"{size:,} characters")

    def known_words(self, draft: Draft, candidate: Candidate, work: Work) -> Rejected | None:
        """Whether it is about anything that the rows are about."""
        least = self.settings.vocabulary
        if not least or self.recipe == "corrupt":
            return None
        # Of the question alone: what all rows share, such as a system message, says nothing of it.
        words = plain_words(candidate.question)
        passage = set(plain_words(candidate.passage))
        share = sum(word in self.vocabulary or word in passage for word in words)
        share = share / len(words) if words else 0.0
        work.scores["known_words"] = round(share, 3)
        if share < least:
            return Rejected("vocabulary", f"{share:.2f} of its words: {candidate.question[:80]!r}")
        return None

    def values(self, draft: Draft, candidate: Candidate, work: Work) -> Rejected | None:
        """Whether the answer can still be had from the prompt."""
        if not self.settings.values:
            return None
        if candidate.passage:
            share = share_in(candidate.answer, candidate.passage)
            work.scores["answer_in_passage"] = round(share, 3)
            return None if share >= GROUNDED else Rejected("values", candidate.answer[:80])
        if draft.seed is None or self.recipe == "new" or self.seeds.is_closed:
            return None
        lost = [
            value
            for value in values_of(draft.seed.answer, draft.seed.question)
            if not stands_in(value, candidate.question)
        ]
        return Rejected("values", f"without {lost[0]!r}") if lost else None

    def real_rows(self, draft: Draft, candidate: Candidate, work: Work) -> Rejected | None:
        """Whether training rows, or held-out ones, ask the same."""
        words = work.words
        if self.settings.leakage and self.is_held_out(words):
            return Rejected("leakage", candidate.question[:80])
        if self.settings.duplicates and self.is_real(candidate, words):
            return Rejected("duplicate", candidate.question[:80])
        work.scores["nearest_real"] = round(self.real.most_alike(words, LOOKED_AT), 3)
        return None

    def is_held_out(self, words: Sequence[str]) -> bool:
        """Whether a held-out row is nearly the same, whatever its answer."""
        if self.held_out.holds(words):
            return True
        return len(set(words)) >= FEWEST_WORDS and self.held_out.most_alike(words, ALIKE) > 0

    def is_real(self, candidate: Candidate, words: Sequence[str]) -> bool:
        """Whether a training row asks the same; a corrupted copy may differ in case and marks
        alone.
        """
        if self.recipe == "corrupt":
            return candidate.question in self.texts
        return self.real.holds(words)


class NewRows:
    """The filter that looks at the new rows before one, in their order."""

    def __init__(self, least_different: float, recipe: str) -> None:
        self.most_alike = least_different
        self.recipe = recipe
        self.index = WordIndex()
        self.texts: set[str] = set()
        self.nearest: list[float] = []

    def check(self, work: Work) -> Rejected | None:
        """Why a row is dropped; one that passes is put in."""
        assert work.candidate is not None
        question = work.candidate.question
        if self.recipe == "corrupt":
            same = question in self.texts
        else:
            same = self.index.holds(work.words)
        if same:
            return Rejected("diversity", question[:80])
        alike = self.index.most_alike(work.words, LOOKED_AT)
        work.scores["nearest_new"] = round(alike, 3)
        enough = len(set(work.words)) >= word_index.FEWEST_WORDS
        strict = self.most_alike and self.recipe != "corrupt" and enough
        if strict and alike >= self.most_alike:
            return Rejected("diversity", question[:80])
        self.index.add(work.words)
        self.texts.add(question)
        self.nearest.append(alike)
        return None

    def figures(self) -> dict[str, float]:
        """How different the rows are."""
        words = [sorted(row) for row in self.index.sets]
        return {
            "distinct_words": round(word_index.distinct_share(words, 1), 3),
            "mean_nearest": round(statistics.fmean(self.nearest), 3) if self.nearest else 0.0,
        }


def plain_words(text: str) -> list[str]:
    """The words of a text, whatever their case and accents."""
    return words_in(normalise(text))


def asked_text(row: Row) -> str:
    """What a row asks at last, as it stands."""
    position = last_question(row.context)
    if position is None:
        return ""
    return str(row.context[position].get("content") or "").removeprefix(row.instruction).strip()


def usual_lengths(texts: Sequence[str]) -> tuple[int, int]:
    """Characters of the shortest and of the longest texts, less one in a hundred."""
    lengths = sorted(map(len, texts))
    odd = len(lengths) // 100
    return lengths[odd], lengths[-1 - odd]


def fields_of(seeds: Seeds) -> frozenset[str]:
    """The fields of all answers in JSON."""
    names: set[str] = set()
    for seed in seeds.rows if seeds.is_structured else ():
        value = parse(seed.answer)
        names |= set(value[0]) if value is not None and isinstance(value[0], dict) else set()
    return frozenset(names)


def with_provenance(work: Work, teacher: str, recipe: str) -> dict[str, Any]:
    """The record of a row with where it comes from."""
    assert work.record is not None
    origin: dict[str, Any] = {
        "teacher": teacher,
        "recipe": recipe,
        "seed": work.draft.origin,
        "scores": work.scores,
    }
    if work.draft.attributes:
        origin["attributes"] = work.draft.attributes
    return {**work.record, "provenance": origin}
