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
from jobs.data.neighbours import ORDERS, nearest_rows
from jobs.data.readers import Row
from jobs.data.shares import shares_of
from jobs.data.token_cache import stored_tokens
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

    `token_cache` has tokenised rows by (source, row), and where neighbours stand before them in
    changing orders by those too; trials on the same rows share it. Raises ValueError for rows that
    cannot be used.
    """

    def __init__(
        self,
        trial: Trial,
        template: ChatTokenizer,
        corpus: Corpus,
        token_cache: dict[Hashable, Example] | None = None,
    ) -> None:
        self.trial = trial
        self.template = template
        self.corpus = corpus
        self.token_cache: dict[Hashable, Example] = {} if token_cache is None else token_cache
        self.neighbours = trial.data.neighbours
        by = self.neighbours.embedding
        self.nearest = nearest_rows(corpus, by) if self.neighbours.count else None
        self.shuffled = self.neighbours.count > 1 and self.neighbours.order == "shuffled"
        self.mix = mixture_of(trial, corpus)
        self.tokens = [dict.fromkeys(self.mix.names, 0)]
        """Tokens of the examples that each source has given before each step, as far as counted."""

    @property
    def walk(self) -> Hashable:
        """Names the rows and their order. Trials with the same walk meet the same chunks."""
        return id(self.token_cache), self.trial.seed

    def batch(self, step: int) -> list[Example]:
        """The whole batch of optimizer step `step`, counted from 0, over all workers."""
        picks = self.mix.draws(step, self.trial.train.batch_size)
        missing: dict[tuple[str, int], list[int]] = {}
        for name, row, epoch in picks:
            if self.key(name, row, epoch) not in self.token_cache:
                missing.setdefault((name, epoch), []).append(row)
        for (name, epoch), rows in missing.items():
            self.read(name, rows, epoch)
        batch = [self.token_cache[self.key(*pick)] for pick in picks]
        if step == len(self.tokens) - 1:
            tokens = dict(self.tokens[step])
            for (name, _, _), example in zip(picks, batch, strict=True):
                tokens[name] += len(example.ids)
            self.tokens.append(tokens)
        return batch

    def key(self, name: str, row: int, epoch: int) -> Hashable:
        """Under which key the token cache has a row of a source in an epoch."""
        if not self.shuffled:
            return name, row
        return name, row, self.trial.seed, epoch % ORDERS

    def read(self, name: str, rows: list[int], epoch: int) -> None:
        """Tokenise some rows of a source, as they stand in an epoch. Raises ValueError for one that
        cannot be used.
        """
        length, where = self.trial.train.max_length, f"data.sources.{name}"
        every_answer = self.trial.train.on == "answers"
        stored = None
        if self.nearest is None and not every_answer:
            stored = stored_tokens(self.corpus, name, self.template)
        if stored is not None:
            encoded = stored.examples(self.corpus.sources[name], rows, self.template, length, where)
        else:
            shown = [self.row(name, row, epoch) for row in rows]
            encoded = encode_rows(shown, self.template, length, where, every_answer)
        self.token_cache |= {
            self.key(name, row, epoch): example for row, example in zip(rows, encoded, strict=True)
        }

    def row(self, name: str, row: int, epoch: int) -> Row:
        """A row of a source, with its neighbours."""
        if self.nearest is None:
            return self.corpus.sources[name][row]
        turn = epoch % ORDERS
        return self.nearest.training(name, row, self.neighbours, self.trial.seed, turn)

    def chunks(self, step: int) -> list[Chunk]:
        """The chunk that each example of a batch belongs to."""
        size = self.trial.train.batch_size
        return [self.chunk(*indices) for indices in self.mix.chunks(step, size)]

    def chunk(self, name: str, index: int, first: int) -> Chunk:
        """Chunk `index` of a source; `first` is the chunk of the first epoch with the same row."""
        source = self.walk, name
        # Neighbours in another order make other prompts of the same rows.
        again = first != index and not self.shuffled
        earlier = self.chunk(name, first, first) if again else None
        return Chunk(
            (*source, index),
            partial(self.readable, name, index),
            earlier,
            source,
            len(self.corpus.sources[name]),
        )

    def readable(self, name: str, chunk: int) -> list[Example]:
        """The examples of a chunk that can be used. The others fail the trial at their turn."""
        epoch = self.mix.epoch(name, chunk)
        keys = {row: self.key(name, row, epoch) for row in self.mix.rows(name, chunk)}
        missing = [row for row, key in keys.items() if key not in self.token_cache]
        for some in (missing, *([row] for row in missing)):
            if not all(keys[row] in self.token_cache for row in some):
                with contextlib.suppress(ValueError):
                    self.read(name, some, epoch)
        return [self.token_cache[key] for key in keys.values() if key in self.token_cache]

    def valid(self) -> list[Example]:
        """The validation split, tokenised."""
        rows, length = self.corpus.valid, self.trial.train.max_length
        if self.nearest is not None:
            rows = self.nearest.held_out("valid", self.neighbours)
        elif (stored := stored_tokens(self.corpus, "valid", self.template)) is not None:
            return stored.examples(rows, range(len(rows)), self.template, length, "valid")
        return encode_rows(rows, self.template, length, "valid")

    def supervised(self, example: Example) -> int:
        """Tokens of one example that carry loss."""
        return example.num_targets(self.trial.train.on == "all")

    def drawn(self, steps: int) -> dict[str, float]:
        """What each source has given after `steps` steps, as metrics: examples, their tokens, and
        how often that is all its rows.
        """
        for step in range(len(self.tokens) - 1, steps):  # those of before it was continued
            self.batch(step)
        metrics = {}
        for name, count in self.mix.drawn(steps, self.trial.train.batch_size).items():
            metrics[f"data/drawn_{name}"] = float(count)
            metrics[f"data/tokens_{name}"] = float(self.tokens[steps][name])
            metrics[f"data/epochs_{name}"] = count / len(self.corpus.sources[name])
        return metrics


def mixture_of(trial: Trial, corpus: Corpus) -> Mixture:
    """The mix that a trial asks for of some rows."""
    sizes = {name: len(rows) for name, rows in corpus.sources.items()}
    shares = shares_of(trial.data, sizes)
    return Mixture(
        sizes, shares.weights, trial.seed, shares.block_size, shares.limits, shares.stops
    )


def shortened(split: str, examples: list[Example]) -> dict[str, float]:
    """How many examples lost some of their prompt, as a metric; nothing where none did."""
    count = sum(example.num_cut > 0 for example in examples)
    return {f"data/shortened_{split}": float(count)} if count else {}
