"""What the plan says of neighbours in the prompt: an example, what they cost, and how often the
right answer is among them.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import Corpus
from jobs.data.embeddings import SETTING, check_installed, open_model
from jobs.data.nearest_rows import answer_of
from jobs.data.neighbours import NearestRows, nearest_rows, training_rows
from jobs.data.tokenization import Example, encode_rows
from jobs.evaluation.baselines import calls_functions
from jobs.neighbour_settings import Neighbours
from orchestrator.config.settings import Config
from orchestrator.errors import ConfigError, InputError
from orchestrator.plan.points import all_values

COUNT, LAYERS = "data.neighbours.count", "adapter.layers"
NEEDED_LAYERS = 0.5
"""To choose among neighbours is not learnt in fewer, by docs/defaults.md."""
MOST_MEASURED = 4
"""Of more different counts not all are measured for the plan."""


@dataclass(frozen=True)
class NeighbourPlan:
    """What stands before each question."""

    counts: tuple[int, ...]
    """How many; several where that is searched."""
    num_rows: int
    """Training rows that may be shown."""
    hold: dict[int, float]
    """By count: share of the validation rows whose answer is among their neighbours' that have
    room.
    """
    nearest: float
    """Share of the validation rows whose answer is the nearest neighbour's."""
    mean_tokens: float
    """What they add to a training prompt, from a sample, with the mean of the counts."""
    mean_shown: float
    """Neighbours for which there is room, with the largest count."""
    longest: int
    """Tokens of the longest example of the sample."""
    example: Example
    """A training row with the largest count."""
    embedding: str | None = None
    """The model by which rows are similar; None: by their letters."""
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """As plain values, without the example."""
        return {
            "counts": list(self.counts),
            "rows": self.num_rows,
            "hold": {str(count): share for count, share in self.hold.items()},
            "nearest": self.nearest,
            "tokens": self.mean_tokens,
            "shown": self.mean_shown,
            "embedding": self.embedding,
        }


def counts_of(config: Config) -> tuple[int, ...]:
    """The counts that trials have, in ascending order."""
    for knob in config.sweep.space.values():
        if knob.path == COUNT:
            return tuple(sorted({int(value) for value in all_values(knob)}))
    return (config.data.neighbours.count,)


def looked_at(counts: tuple[int, ...]) -> tuple[int, ...]:
    """The counts that are measured: of many, the ends and the middle one."""
    if len(counts) <= MOST_MEASURED:
        return counts
    return counts[0], counts[len(counts) // 2], counts[-1]


def check_neighbours(config: Config, corpus: Corpus) -> None:
    """Raise ConfigError for neighbours that these rows do not have."""
    most = max(counts_of(config), default=0)
    if most == 0:
        return
    searched = [n for n, knob in config.sweep.space.items() if knob.path == COUNT]
    path = f"sweep.space.{searched[0]}" if searched else COUNT
    rows = training_rows(corpus)
    reason = None
    if calls_functions([*rows, *corpus.valid, *corpus.test]):
        reason = "answers call functions"
    elif any(row.thinking for row in rows):
        reason = "answers come with reasoning"
    if reason is not None:
        text = f"is {most}, but {reason}, which no neighbour can show as text; set it to 0"
        raise ConfigError([(path, text)])
    num_answers = len({answer_of(row) for row in rows})
    if (problem := embedding_problem(config.data.neighbours.embedding)) is not None:
        raise ConfigError([("data.neighbours.embedding", problem)])
    if most > num_answers:
        text = (
            f"is {most}, and the training rows have {num_answers:,} different answers: each "
            f"neighbour has another one; set it to {num_answers} or less"
        )
        raise ConfigError([(path, text)])


def embedding_problem(location: str | None) -> str | None:
    """Why an embedding model cannot be used; None where it can, or where there is none."""
    if location is None:
        return None
    try:
        open_model(location)
        check_installed(location)
    except (OSError, ValueError) as error:
        return str(error).removeprefix(SETTING).lstrip("=: ")
    return None


def decisive_neighbours(config: Config) -> list[Any]:
    """What of the neighbours decides a sweep's result; nothing where there are none, as in sweeps
    of before.
    """
    counts = counts_of(config)
    if not any(counts):
        return []
    order = config.data.neighbours.order if max(counts) > 1 else None
    return [list(counts), order, *embedding_digest(config.data.neighbours.embedding)]


def decisive_settings(neighbours: Neighbours) -> dict[str, Any]:
    """The settings that decide what stands before a question, wherever an embedding model lies."""
    by = embedding_digest(neighbours.embedding)
    return dataclasses.asdict(neighbours) | {"embedding": by or None}


def embedding_digest(location: str | None) -> list[str]:
    """What tells an embedding model apart, wherever it lies; nothing where there is none."""
    if location is None:
        return []
    try:
        return [open_model(location).digest]
    except (OSError, ValueError):
        return [location]  # it lies on the cluster


def neighbour_plan(
    config: Config, corpus: Corpus, template: ChatTokenizer, sample: int
) -> NeighbourPlan | None:
    """What is shown, measured on the first `sample` rows of each source and on all validation rows;
    None where nothing is shown. Raises InputError where nothing can be.
    """
    counts = counts_of(config)
    most = max(counts, default=0)
    if most == 0:
        return None
    try:
        nearest = nearest_rows(corpus, config.data.neighbours.embedding, say)
    except ValueError as error:
        raise InputError(str(error)) from error
    length = config.train.max_length
    measured = looked_at(counts)
    bare, shown = [], {count: [] for count in measured}
    num_found = 0
    for name, rows in corpus.sources.items():
        few = range(min(sample, len(rows)))
        where = f"data.sources.{name}"
        bare += encode_rows([rows[index] for index in few], template, length, where)
        for count in measured:
            settings = dataclasses.replace(config.data.neighbours, count=count)
            chosen = [nearest.training(name, i, settings, config.seed, 0) for i in few]
            shown[count] += encode_rows(chosen, template, length, where)
            num_found += sum(bool(row.neighbours) for row in chosen)
    added = [tokens(examples) - tokens(bare) for examples in shown.values()]
    valid = nearest.held_out("valid", Neighbours(count=most))
    room = encode_rows(valid, template, length, "data.valid")
    examples = [*shown[most], *room]
    if not any(example.num_neighbours for example in examples):
        has_some = num_found > 0 or any(row.neighbours for row in valid)
        raise InputError(none_shown(most, len(examples), length if has_some else None))
    return NeighbourPlan(
        counts=counts,
        num_rows=len(nearest.shown),
        hold={count: hold(nearest, count, room) for count in measured if count},
        nearest=hold(nearest, 1, room),
        mean_tokens=sum(added) / len(added) / max(len(bare), 1),
        mean_shown=sum(one.num_neighbours for one in shown[most]) / max(len(bare), 1),
        longest=max(len(one.ids) for one in examples),
        example=shown[most][0],
        embedding=config.data.neighbours.embedding,
        notes=(*dropped(shown[most], most, length), *few_layers(config)),
    )


def say(text: str) -> None:
    """A remark while the plan is being made."""
    print(f"note    {text}", file=sys.stderr, flush=True)


def none_shown(most: int, looked_at: int, length: int | None) -> str:
    """That not one neighbour stands before any row: none has room in `length` tokens, or, where
    that is None, there is none.
    """
    begin = f"{COUNT}={most}: none would stand before any of {looked_at:,} rows looked at, since "
    if length is not None:
        return (
            f"{begin}none has room in train.max_length={length} beside the question and its "
            f"answer; set a larger train.max_length, or {COUNT}=0"
        )
    return (
        f"{begin}no training row with another answer has anything in common with a question; set "
        f"{COUNT}=0"
    )


def tokens(examples: Sequence[Example]) -> int:
    """Tokens of all examples."""
    return sum(len(example.ids) for example in examples)


def hold(nearest: NearestRows, count: int, room: Sequence[Example]) -> float:
    """Share of the validation rows whose answer is among the first `count` neighbours that have
    room.
    """
    rows = nearest.corpus.valid
    hits = 0
    for index, row in enumerate(rows):
        near = nearest.neighbours("valid", index, min(count, room[index].num_neighbours))
        hits += answer_of(row) in [one.answer for one in near]
    return hits / max(len(rows), 1)


def few_layers(config: Config) -> list[str]:
    """A note where a model that is to choose among neighbours learns in few layers."""
    if config.adapter.kind == "full" or config.adapter.layers >= NEEDED_LAYERS:
        return []
    if any(knob.path == LAYERS for knob in config.sweep.space.values()):
        return []
    return [
        f"to choose among neighbours is learnt in more layers than the last "
        f"{config.adapter.layers:.0%}: {LAYERS}={NEEDED_LAYERS} (docs/defaults.md)"
    ]


def dropped(examples: Sequence[Example], most: int, length: int) -> list[str]:
    """A note where not all neighbours have room, or rows have fewer."""
    fewer = [example for example in examples if example.num_neighbours < most]
    if not fewer:
        return []
    return [
        f"neighbours: {len(fewer):,} of {len(examples):,} training rows looked at show fewer than "
        f"{most}: the farthest are left out where train.max_length={length} has no room, and rows "
        "that have nothing in common with a question are none"
    ]
