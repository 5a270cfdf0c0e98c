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
    """A chunk of CHUNK_ROWS consecutive rows of an epoch of one source.

    The hidden-state cache keeps one entry per chunk, under its name.
    """

    name: Hashable
    read: Callable[[], list[Example]]
    """Gives its examples, tokenised."""
    first: Chunk | None = None
    """In a later epoch: the chunk of the first epoch that has the same row. None in the first one.
    """
    source: tuple[Hashable, ...] = ()
    """(`TrialData.walk`, name of the source)."""
    num_rows: int = 0
    """Rows of the whole source."""


class TrialData:
    """One trial's examples. Pure in (trial, step): a trial that was stopped, moved or trained
    beside others sees the same ones.

    `token_cache` has tokenised rows by (source, row); trials on the same rows share it. Raises
    ValueError for rows that cannot be used.
    """

    def __init__(
        self,
        trial: Trial,
        template: ChatTokenizer,
        corpus: Corpus,
        token_cache: dict[tuple[str, int], Example] | None = None,
    ) -> None:
        self.trial = trial
        self.template = template
        self.corpus = corpus
        self.token_cache = {} if token_cache is None else token_cache
        weights = {name: source.weight for name, source in trial.data.sources.items()}
        sizes = {name: len(rows) for name, rows in corpus.sources.items()}
        self.mix = Mixture(sizes, {name: weights.get(name, 1.0) for name in sizes}, trial.seed)

    @property
    def walk(self) -> Hashable:
        """Names the rows and their order. Trials with the same walk meet the same chunks."""
        return id(self.token_cache), self.trial.seed

    def batch(self, step: int) -> list[Example]:
        """The whole batch of optimizer step `step`, counted from 0, over all workers."""
        picks = self.mix.batch(step, self.trial.train.batch_size)
        missing: dict[str, list[int]] = {}
        for name, row in picks:
            if (name, row) not in self.token_cache:
                missing.setdefault(name, []).append(row)
        for name, rows in missing.items():
            self.read(name, rows)
        return [self.token_cache[pick] for pick in picks]

    def read(self, name: str, rows: list[int]) -> None:
        """Tokenise some rows of a source. Raises ValueError for one that cannot be used."""
        chosen = [self.corpus.sources[name][row] for row in rows]
        encoded = encode_rows(
            chosen, self.template, self.trial.train.max_length, f"data.sources.{name}"
        )
        self.token_cache |= {
            (name, row): example for row, example in zip(rows, encoded, strict=True)
        }

    def chunks(self, step: int) -> list[Chunk]:
        """The chunk that each example of a batch belongs to."""
        size = self.trial.train.batch_size
        return [self.chunk(*indices) for indices in self.mix.chunks(step, size)]

    def chunk(self, name: str, index: int, first: int) -> Chunk:
        """Chunk `index` of a source; `first` is the chunk of the first epoch with the same row."""
        source = self.walk, name
        earlier = None if first == index else self.chunk(name, first, first)
        return Chunk(
            (*source, index),
            partial(self.readable, name, index),
            earlier,
            source,
            len(self.corpus.sources[name]),
        )

    def readable(self, name: str, chunk: int) -> list[Example]:
        """The examples of a chunk that can be used. The others fail the trial at their turn."""
        rows = self.mix.rows(name, chunk)
        missing = [row for row in rows if (name, row) not in self.token_cache]
        for some in (missing, *([row] for row in missing)):
            if not all((name, row) in self.token_cache for row in some):
                with contextlib.suppress(ValueError):
                    self.read(name, some)
        return [self.token_cache[name, row] for row in rows if (name, row) in self.token_cache]

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
