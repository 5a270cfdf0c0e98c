"""What the rows and the base model's tokenizer say of a sweep before it starts: shares, supervised tokens, and rows that cannot be used."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from jobs.data import Corpus, Example, Row, Template, encode_rows, render_answers, shared_prefix
from orchestrator.config import Config
from orchestrator.errors import InputError

SAMPLE_ROWS = 250
MOST_MARKS = 64
"""Tokens that a template may put around an answer. An answer has hardly more tokens of its own than bytes."""
MOST_KINDS = 3000
"""Different answers up to which supervised tokens are counted exactly; beyond, the plan would take too long."""


@dataclass(frozen=True)
class Share:
    """What one source contributes."""

    rows: int
    share: float
    """Part of the examples drawn from it, 0..1, before any sweeping of weights."""
    answer_tokens: int | None
    """Tokens of all its rows that carry loss. None: the base model's tokenizer is not here yet."""
    exact: bool = True
    """Whether that was counted, not extrapolated."""


@dataclass(frozen=True)
class Measured:
    """What the rows and the tokenizer say."""

    sources: dict[str, Share]
    example: Example | None = None
    mean_tokens: float = 0.0
    """Mean number of tokens that an example costs, from a sample: what the prompts of a batch begin with alike is computed once."""
    notes: tuple[str, ...] = ()


def measure(config: Config, corpus: Corpus, template: Template | None) -> Measured:
    """Rows, share and supervised tokens per source, and one example. Raises InputError for a row that cannot be trained on."""
    weights = {name: config.data.sources[name].weight for name in corpus.sources}
    total = sum(weights.values()) or 1.0
    shares = {name: Share(len(rows), weights[name] / total, None) for name, rows in corpus.sources.items()}
    if template is None:
        return Measured(shares)
    try:
        for split in ("valid", "test"):
            sample(config, getattr(corpus, split), template, f"data.{split}")
        samples = {name: sample(config, rows, template, f"data.sources.{name}") for name, rows in corpus.sources.items()}
        counts = {name: count_tokens(config, corpus.sources[name], few, template) for name, few in samples.items()}
    except ValueError as error:
        raise InputError(str(error)) from error
    shares = {name: dataclasses.replace(share, answer_tokens=counts[name][0], exact=counts[name][1]) for name, share in shares.items()}
    every = [example for few in samples.values() for example in few]
    notes = (*cut_notes(config, samples), *length_notes(every, template), *lost_notes(samples, template))
    cost = sum(cost_tokens(config, few) for few in samples.values()) / len(every)
    return Measured(shares, every[0], cost, notes)


def cost_tokens(config: Config, examples: list[Example]) -> float:
    """Tokens that these examples of one source cost together."""
    prefix = 0 if config.train.on == "all" else shared_prefix(examples)
    return sum(len(example.ids) - prefix * (1 - 1 / config.train.batch_size) for example in examples)


def sample(config: Config, rows: list[Row], template: Template, where: str) -> list[Example]:
    """The first rows tokenised. The rows with the longest answers are tried too: one that does not fit must be said now, not in an hour."""
    limit = template.num_positions
    sizes = {row.answer: len(row.answer.encode()) for row in rows}
    doubtful = [row for row in rows if sizes[row.answer] + MOST_MARKS >= min(config.train.max_length, limit or config.train.max_length)]
    longest = sorted(doubtful, key=lambda row: -sizes[row.answer])[: 2 * SAMPLE_ROWS]
    for row, example in zip(longest, encode_rows(longest, template, config.train.max_length, where), strict=True):
        answer = len(example.ids) - example.prompt_length
        if limit is not None and answer >= limit:
            raise ValueError(f"{where}: {row.place}: the answer has {answer:,} tokens, and the base was made for {limit:,}; shorten it")
    examples = encode_rows(rows[:SAMPLE_ROWS], template, config.train.max_length, where)
    largest = max(max(example.ids) for example in examples)
    if template.vocab_size is not None and largest >= template.vocab_size:
        known = f"the model in {template.folder} knows {template.vocab_size:,} tokens"
        raise ValueError(f"{where}: the tokenizer gives token {largest}, but {known}; its tokenizer is another model's")
    return examples


def count_tokens(config: Config, rows: list[Row], few: list[Example], template: Template) -> tuple[int, bool]:
    """Tokens of `rows` that carry loss, and whether that is exact. Answers that repeat are counted once each, the rest from the sample."""
    if config.train.on == "all":
        return round(sum(len(e.ids) - 1 for e in few) / len(few) * len(rows)), len(few) == len(rows)
    kinds = {row.answer: row for row in rows}
    if len(kinds) > MOST_KINDS:
        return round(sum(len(e.ids) - e.prompt_length for e in few) / len(few) * len(rows)), False
    texts = render_answers(kinds.values(), template)
    lengths = {answer: len(template.encode_continuation(text)) for answer, text in zip(kinds, texts, strict=True)}
    return sum(lengths[row.answer] for row in rows), True


def cut_notes(config: Config, samples: dict[str, list[Example]]) -> tuple[str, ...]:
    """Which sources have prompts that do not fit."""
    shares = {name: sum(example.num_cut > 0 for example in few) / len(few) for name, few in samples.items()}
    limit = f"train.max_length={config.train.max_length}"
    return tuple(
        f"{name}: about {share:.0%} of the prompts are longer than {limit} and lose their beginning"
        for name, share in shares.items()
        if share
    )


def length_notes(examples: list[Example], template: Template) -> tuple[str, ...]:
    """Whether examples are longer than the model was made for: some architectures fail on those, others answer badly."""
    longest, limit = max(len(example.ids) for example in examples), template.num_positions
    if limit is None or longest <= limit:
        return ()
    return (f"an example has {longest:,} tokens, and the base was made for {limit:,}: try train.max_length={limit}",)


def lost_notes(samples: dict[str, list[Example]], template: Template) -> tuple[str, ...]:
    """Which sources have answers that the tokenizer does not give back, such as one with a special token in it: none can be matched."""
    notes = []
    for name, few in samples.items():
        given = {tuple(e.ids[e.prompt_length :]): e.reference for e in few}
        lost = {ids for ids, reference in given.items() if template.decode(ids).strip() != reference}
        share = sum(tuple(e.ids[e.prompt_length :]) in lost for e in few) / len(few)
        if share:
            example = next(given[ids] for ids in given if ids in lost)
            notes.append(f"{name}: about {share:.0%} of the answers come back changed from the tokenizer and can never match: {example!r}")
    return tuple(notes)


def supervised(config: Config, example: Example | None, template: Template | None) -> str:
    """The text of the example's tokens that carry loss."""
    if example is None or template is None:
        return ""
    start = 1 if config.train.on == "all" else example.prompt_length
    return template.decode(example.ids[start:], skip_special=False)
