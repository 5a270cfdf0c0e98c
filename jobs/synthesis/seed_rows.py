"""Which training rows new ones are made from, their labels, and in which order they are drawn.

Only training rows are seeds: never a held-out one, never one that a teacher has written.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.data.corpus import Corpus
from jobs.data.neighbour_prompt import question_of
from jobs.data.readers import Row
from jobs.evaluation.json_answers import is_structured, parse
from jobs.evaluation.metric_choice import is_closed
from jobs.evaluation.scored_rows import training_labels
from jobs.synthesis.drafts import Seed

REPEATS = 3
"""How often a label stands in the training rows, on average."""


@dataclass(frozen=True)
class Seeds:
    """The training rows that may be seeds, and what their answers are."""

    rows: tuple[Seed, ...]
    is_structured: bool
    """Whether all answers are JSON."""
    is_closed: bool
    """Whether answers are labels as they stand."""
    label_field: str | None
    """The field of answers in JSON that is their label."""
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> Counter[str]:
        """Seeds by label, empty where there are no labels."""
        return Counter(seed.label for seed in self.rows if seed.label)


def seeds_of(corpus: Corpus, sources: Collection[str], label_field: str | None) -> Seeds:
    """The seeds among the training rows of some sources. Raises ValueError where there are none, or
    where no answer has the field.
    """
    rows: list[Seed] = []
    left_out: Counter[str] = Counter()
    for source in sorted(sources):
        for row in corpus.sources.get(source, []):
            reason = why_no_seed(row)
            if reason is not None:
                left_out[reason] += 1
                continue
            question = question_of(row.context, row.instruction).strip()
            rows.append(Seed(row, seed_name(source, row), question, row.answer.strip()))
    if not rows:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        raise ValueError(
            f"no training row can be a seed: {reasons or 'there are none'}; name a source of real "
            "rows with a question and an answer in text"
        )
    answers = [seed.answer for seed in rows]
    structured = is_structured(answers)
    closed = not structured and is_closed(corpus, training_labels(corpus))
    if label_field is not None and not structured:
        raise ValueError(f"synthesis.label={label_field}: the answers are no JSON objects")
    chosen = (label_field or most_repeated_field(answers)) if structured else None
    labels = [label_of(answer, chosen, closed) for answer in answers]
    if label_field is not None and not any(labels):
        raise ValueError(f"synthesis.label={label_field}: no answer has a field of that name")
    notes = [
        f"{count:,} training rows are no seeds: {reason}" for reason, count in left_out.items()
    ]
    seeds = [replace(seed, label=label) for seed, label in zip(rows, labels, strict=True)]
    return Seeds(tuple(seeds), structured, closed, chosen, tuple(notes))


def why_no_seed(row: Row) -> str | None:
    """Why a row is not rewritten, None where it is."""
    if row.synthetic:
        return "synthetic themselves"
    if row.tools or "tool_calls" in row.messages[-1]:
        return "with functions"
    if row.thinking:
        return "with reasoning"
    if not question_of(row.context, row.instruction).strip() or not row.answer.strip():
        return "without a question or an answer in text"
    return None


def seed_name(source: str, row: Row) -> str:
    """Where a row stands, the same on every machine."""
    return f"{source}: {row.place.rpartition('/')[2]}"


def label_of(answer: str, label_field: str | None, closed: bool) -> str:
    """What an answer is counted as."""
    if closed:
        return answer
    if label_field is None:
        return ""
    value = parse(answer)
    fields = value[0] if value is not None else None
    if not isinstance(fields, dict) or label_field not in fields:
        return ""
    return str(fields[label_field])


def most_repeated_field(answers: Sequence[str]) -> str | None:
    """The field that all JSON answers have with the fewest values, two at least, which repeat."""
    values: dict[str, Counter[str]] = {}
    for answer in answers:
        parsed = parse(answer)
        fields: Any = parsed[0] if parsed is not None else None
        if not isinstance(fields, dict):
            return None
        for name, value in fields.items():
            if isinstance(value, str | int | bool):
                values.setdefault(name, Counter())[str(value)] += 1
    fitting = [
        (len(counts), name)
        for name, counts in values.items()
        if counts.total() == len(answers) and 1 < len(counts) <= len(answers) / REPEATS
    ]
    return min(fitting)[1] if fitting else None


def cycled(size: int, name: str) -> Iterator[int]:
    """0 to size - 1 again and again, each time in another order that follows from the name."""
    cycle = 0
    while True:
        order = list(range(size))
        random.Random(f"{name}/{cycle}").shuffle(order)
        yield from order
        cycle += 1


def in_order(seeds: Seeds, seed: int) -> Iterator[Seed]:
    """The seeds as they are, all of them before any comes again."""
    for index in cycled(len(seeds.rows), f"seeds/{seed}"):
        yield seeds.rows[index]


def by_label(seeds: Seeds, seed: int) -> Iterator[Seed]:
    """Each label equally often."""
    queues = queues_of(seeds, seed)
    labels = sorted(queues)
    for index in cycled(len(labels), f"labels/{seed}"):
        yield next(queues[labels[index]])


def rarest_first(seeds: Seeds, seed: int) -> Iterator[Seed]:
    """A seed of the label that has the fewest rows, those drawn before counted in."""
    queues = queues_of(seeds, seed)
    heap = [(count, label) for label, count in seeds.counts.items()]
    heapq.heapify(heap)
    while True:
        count, label = heapq.heappop(heap)
        yield next(queues[label])
        heapq.heappush(heap, (count + 1, label))


def queues_of(seeds: Seeds, seed: int) -> dict[str, Iterator[Seed]]:
    """Seeds without end by label. Raises ValueError where answers are no labels."""
    by_name: dict[str, list[Seed]] = {}
    for row in seeds.rows:
        if row.label:
            by_name.setdefault(row.label, []).append(row)
    if len(by_name) < 2:
        raise ValueError(
            "the training answers are no labels that repeat, so none is rare; "
            "synthesis.recipe=paraphrase or new takes rows as they are, and synthesis.label=FIELD "
            "names the label in answers that are JSON"
        )
    return {label: drawn(rows, f"label/{label}/{seed}") for label, rows in by_name.items()}


def drawn(rows: Sequence[Seed], name: str) -> Iterator[Seed]:
    """Some seeds without end."""
    for index in cycled(len(rows), name):
        yield rows[index]
