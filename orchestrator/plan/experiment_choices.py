"""What an experiment on someone's own rows should say, and why: instruction, metric, slices, and
which repeated rows are left out. Looks at the rows alone.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import Any

from jobs.config import Data
from jobs.data.column_names import LABEL_TEXTS, LABELS
from jobs.data.corpus import Corpus, load_corpus
from jobs.data.readers import Row
from jobs.evaluation import registry
from jobs.evaluation.json_answers import is_structured, parse
from jobs.evaluation.metric_choice import (
    choose_metric,
    held_out_answers,
    is_closed,
    misfit,
)
from jobs.evaluation.scored_rows import LENGTH, training_labels

FEW_LISTED = 12
"""Labels up to which the instruction lists them all."""
MOST_LISTED_CHARACTERS = 240
FEWEST_VALUES, MOST_VALUES = 2, 12
"""Different values of a column by which scores are worth telling apart."""
MOST_SLICES = 3
MOST_COLUMNS = 20
"""Columns that are looked at for slices."""
FILLED_SHARE = 0.9
"""Share of the held-out rows that such a column has to say something in."""
FEWEST_JUDGES = 20
"""Validation and test rows below which a score is little more than chance."""
NAMED_ANSWERS = ("summary", *LABELS)
"""Columns whose name says what is asked for."""


@dataclass(frozen=True)
class Choice:
    """One setting of an experiment, and why it has this value."""

    path: str
    value: Any
    reason: str


def choices_for(data: Data, corpus: Corpus, typed: frozenset[str]) -> list[Choice]:
    """What the rows ask for, as far as nobody has said it: `typed` are the settings that were."""
    proposed = [
        instruction(corpus),
        metric(corpus),
        slices(data, corpus),
        *repeated(corpus),
    ]
    return [choice for choice in proposed if choice is not None and choice.path not in typed]


def instruction(corpus: Corpus) -> Choice | None:
    """A sentence that says what is asked, where the rows do not say it themselves."""
    path = "data.instruction"
    if corpus.chats:
        return None
    answers = held_out_answers(corpus)
    if is_structured(answers):
        names = fields_of(answers)
        if not names:
            return Choice(path, "Answer as JSON:", "every answer is JSON")
        listed = ", ".join(names)
        return Choice(
            path, f"Answer as JSON, with {listed}:", f"every answer is JSON, with {listed}"
        )
    labels = spelled_labels(corpus)
    if is_closed(corpus, training_labels(corpus)):
        listed = ", ".join(labels)
        if len(labels) <= FEW_LISTED and len(listed) <= MOST_LISTED_CHARACTERS:
            return Choice(
                path, f"Answer with one of: {listed}.", f"there are {len(labels)} different answers"
            )
    column = answer_column(corpus)
    if column in NAMED_ANSWERS:
        return Choice(path, f"Give the {column} of this text:", f'answers stand in "{column}"')
    return None


def spelled_labels(corpus: Corpus) -> list[str]:
    """The different answers of the training rows as they are written, the most frequent first."""
    counts = Counter(row.answer.strip() for rows in corpus.sources.values() for row in rows)
    return [answer for answer, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]


def fields_of(answers: list[str]) -> list[str]:
    """Names that stand in most answers, which are JSON; none where those are lists."""
    counts: Counter[str] = Counter()
    for answer in answers:
        value = parse(answer)
        if value is not None and isinstance(value[0], dict):
            counts.update(map(str, value[0]))
    return [name for name, count in counts.items() if 2 * count > len(answers)][:FEW_LISTED]


def answer_column(corpus: Corpus) -> str:
    """The name of the column that answers stand in, as the shape says it; empty where it has
    none.
    """
    shape = next((shape for use, shape in corpus.shapes.items() if use.startswith("sources.")), "")
    name = shape.rpartition("-> ")[2].strip().lower()
    return "label" if name in LABEL_TEXTS else name


def metric(corpus: Corpus) -> Choice:
    """What the best trial is best at."""
    name, reason = choose_metric(corpus)
    if misfit(name, corpus) is not None:
        balanced = registry.key(registry.MACRO_F1)
        return Choice(
            "sweep.metric", balanced, "one answer is so frequent that accuracy says little"
        )
    return Choice("sweep.metric", name, reason)


def slices(data: Data, corpus: Corpus) -> Choice | None:
    """Columns of few values, by which scores are told too."""
    held_out = [*corpus.valid, *corpus.test]
    columns = [
        name
        for name in corpus.columns
        if name not in data.slices and name.strip().lower() not in (*LABELS, *LABEL_TEXTS, LENGTH)
    ][:MOST_COLUMNS]
    if not columns or not held_out:
        return None
    with_columns = load_corpus(dataclasses.replace(data, slices=columns))
    rows = [*with_columns.valid, *with_columns.test]
    values = values_by_column(rows)
    worth = [
        name
        for name in columns
        if FEWEST_VALUES <= len(values.get(name, Counter())) <= MOST_VALUES
        and values[name].total() >= FILLED_SHARE * len(held_out)
        and min(values[name].values()) > 1
        and not is_answer(name, rows)
    ][:MOST_SLICES]
    if not worth:
        return None
    counted = ", ".join(f"{name} has {len(values[name])} values" for name in worth)
    return Choice("data.slices", worth, f"scores are told for each value too: {counted}")


def is_answer(column: str, rows: list[Row]) -> bool:
    """Whether a column says the answer in other words: to each of its values belongs one answer,
    and to each answer one value.
    """
    pairs = {(value, row.answer) for row in rows for name, value in row.columns if name == column}
    return len({value for value, _ in pairs}) == len(pairs) == len({answer for _, answer in pairs})


def few_judges(corpus: Corpus) -> list[str]:
    """What is to be said of splits that are too small to judge a model by."""
    few = [
        f"{len(rows):,} {split}"
        for split, rows in (("validation", corpus.valid), ("test", corpus.test))
        if len(rows) < FEWEST_JUDGES
    ]
    if not few:
        return []
    one = few == ["1 validation"] or few == ["1 test"]
    return [
        f"only {' and '.join(few)} {'row judges' if one else 'rows judge'} a model, so scores are "
        f"little more than chance; add rows, so that there are at least {FEWEST_JUDGES} of each"
    ]


def values_by_column(rows: list[Row]) -> dict[str, Counter[str]]:
    """How often each value stands in each column."""
    values: dict[str, Counter[str]] = {}
    for row in rows:
        for name, value in row.columns:
            if value:
                values.setdefault(name, Counter())[value] += 1
    return values


def repeated(corpus: Corpus) -> list[Choice]:
    """Sources with rows that stand there twice, which say nothing new."""
    choices = []
    for name, rows in corpus.sources.items():
        distinct = {(row.key, row.answer) for row in rows}
        if len(distinct) < len(rows):
            choices.append(
                Choice(
                    f"data.sources.{name}.deduplicate",
                    True,
                    f"{len(rows) - len(distinct):,} of {len(rows):,} rows of {name} repeat another "
                    "one's prompt and answer",
                )
            )
    return choices
