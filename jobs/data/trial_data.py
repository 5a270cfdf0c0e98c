"""What one trial is trained and validated on: the examples of each step, tokenised once. Both
executors read their data here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial

from jobs.config import Trial
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import Corpus
from jobs.data.mixture import Mixture
from jobs.data.tokenization import Example, encode_rows


@dataclass(frozen=True)
class Chunk:
    """Examples that what is done once for all trials is done for together, under a name that tells
    them.
    """

    name: Hashable
    read: Callable[[], list[Example]]
    first: Chunk | None = None
    """Where a source is gone through again: the stretch in which an example of it was met the first
    time.
    """
    source: tuple[Hashable, ...] = ()
    """Tells the walk, the order in which a course's sources are gone through, and the source."""
    num_rows: int = 0
    """Of the source."""


class TrialData:
    """One trial's examples. Pure in (trial, step): a trial that was stopped, moved or trained
    beside others sees the same ones.

    `known` keeps tokenised rows by (source, row); trials on the same rows can share it. Raises
    ValueError for rows that cannot be used.
    """

    def __init__(
        self,
        trial: Trial,
        template: ChatTokenizer,
        corpus: Corpus,
        known: dict[tuple[str, int], Example] | None = None,
    ) -> None:
        self.trial, self.template, self.corpus = trial, template, corpus
        self.known = {} if known is None else known
        weights = {name: source.weight for name, source in trial.data.sources.items()}
        sizes = {name: len(rows) for name, rows in corpus.sources.items()}
        self.mix = Mixture(sizes, {name: weights.get(name, 1.0) for name in sizes}, trial.seed)

    @property
    def walk(self) -> Hashable:
        """Tells the rows and the order in which they are gone through: courses with the same one
        meet the same stretches.
        """
        return id(self.known), self.trial.seed

    def batch(self, step: int) -> list[Example]:
        """The whole batch of optimizer step `step`, counted from 0, over all workers."""
        picks = self.mix.batch(step, self.trial.train.batch_size)
        missing: dict[str, list[int]] = {}
        for name, row in picks:
            if (name, row) not in self.known:
                missing.setdefault(name, []).append(row)
        for name, rows in missing.items():
            self.read(name, rows)
        return [self.known[pick] for pick in picks]

    def read(self, name: str, rows: list[int]) -> None:
        """Tokenise some rows of a source. Raises ValueError for one that cannot be used."""
        chosen = [self.corpus.sources[name][row] for row in rows]
        encoded = encode_rows(
            chosen, self.template, self.trial.train.max_length, f"data.sources.{name}"
        )
        self.known |= {(name, row): example for row, example in zip(rows, encoded, strict=True)}

    def stretches(self, step: int) -> list[Chunk]:
        """The stretch that each example of a batch belongs to."""
        return [
            self.stretch(*place) for place in self.mix.stretches(step, self.trial.train.batch_size)
        ]

    def stretch(self, name: str, number: int, first: int) -> Chunk:
        """A stretch of a source's walks; `first` is where in the first walk one of its rows
        stood.
        """
        source = self.walk, name
        earlier = None if first == number else self.stretch(name, first, first)
        return Chunk(
            (*source, number),
            partial(self.readable, name, number),
            earlier,
            source,
            len(self.corpus.sources[name]),
        )

    def readable(self, name: str, stretch: int) -> list[Example]:
        """The examples of a stretch, without those that cannot be used: they fail the trial when
        their turn comes.
        """
        rows = self.mix.rows(name, stretch)
        missing = [row for row in rows if (name, row) not in self.known]
        for some in (missing, *([row] for row in missing)):
            if not all((name, row) in self.known for row in some):
                with contextlib.suppress(ValueError):
                    self.read(name, some)
        return [self.known[name, row] for row in rows if (name, row) in self.known]

    def valid(self) -> list[Example]:
        """The validation split, tokenised."""
        return encode_rows(self.corpus.valid, self.template, self.trial.train.max_length, "valid")

    def supervised(self, example: Example) -> int:
        """Tokens of one example that carry loss."""
        return (
            len(example.ids) - 1
            if self.trial.train.on == "all"
            else len(example.ids) - example.prompt_length
        )

    def drawn(self, steps: int) -> dict[str, float]:
        """Examples that each source has given after `steps` steps, as metrics."""
        counts = self.mix.drawn(steps, self.trial.train.batch_size)
        return {f"data/drawn_{name}": float(count) for name, count in counts.items()}


def shortened(split: str, examples: list[Example]) -> dict[str, float]:
    """How many examples lost some of their prompt, as a metric; nothing where none did."""
    count = sum(example.num_cut > 0 for example in examples)
    return {f"data/shortened_{split}": float(count)} if count else {}
