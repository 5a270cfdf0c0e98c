"""The mix: which row of which source stands at each place of a trial's training data.

Owns the order of the examples and nothing else. It is a pure function of the seed and the position,
so that a trial that was stopped, moved or trained beside others sees the same examples.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator

import numpy as np

from jobs.data.shares import Phase, phases

CHUNK_ROWS = 64
"""Rows that follow each other in the walk through a source, as what is done once for all trials is
done for them together.
"""
ORDER = 0
WALK = 1


class Mixture:
    """Draws examples from named sources in proportion to their weights.

    An epoch has as many examples as the sources with a positive weight have rows, unless it is
    told. In each epoch a source gives a fixed number of them, its share by weight (rounded by
    largest remainder); it is walked through in a random order, without repeating a row before all
    were drawn, and goes on in the next epoch where it stopped. A source that has given as many
    examples as `limits` let it leaves the mix, and what follows is shared out among the others;
    with `stops` all ends there. `sizes` are row counts and `weights` shares, both by source name;
    neither the order of the names nor a source of weight 0 changes the result.
    """

    def __init__(
        self,
        sizes: dict[str, int],
        weights: dict[str, float],
        seed: int,
        epoch_size: int | None = None,
        limits: dict[str, int] | None = None,
        stops: bool = False,
    ) -> None:
        check(sizes, weights, seed)
        self.seed = seed
        self.names = sorted(name for name, weight in weights.items() if weight > 0)
        self.sizes = [sizes[name] for name in self.names]
        self.epoch_size = epoch_size or sum(self.sizes)
        self.phases = phases(
            self.epoch_size,
            [weights[name] for name in self.names],
            None if limits is None else [limits[name] for name in self.names],
            stops,
        )
        self._starts = [phase.start for phase in self.phases]
        # By name, not by place in the list: a source keeps its order when another one joins.
        self._keys = [
            int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") for name in self.names
        ]
        self._orders: dict[int, tuple[int, np.ndarray]] = {}
        self._firsts: dict[int, np.ndarray] = {}
        self._block: tuple[int, np.ndarray, np.ndarray, np.ndarray] | None = None

    @property
    def num_examples(self) -> float:
        """How many there are before the sources are used up; infinite where they begin anew."""
        return sum((phase.size for phase in self.phases), 0.0)

    def batch(self, step: int, size: int) -> list[tuple[str, int]]:
        """(source, row index) of the `size` examples of optimizer step `step`, counted from 0."""
        return [(self.names[source], row) for source, row, _ in self._drawn(step, size)]

    def draws(self, step: int, size: int) -> list[tuple[str, int, int]]:
        """The same examples as (source, row index, how often the source was walked through
        before).
        """
        return [
            (self.names[source], row, walked // self.sizes[source])
            for source, row, walked in self._drawn(step, size)
        ]

    def chunks(self, step: int, size: int) -> list[tuple[str, int, int]]:
        """The chunk of each of the same examples: (source, index of the chunk, index of the chunk
        of the first epoch that has the same row).

        Chunks are counted over all epochs of the source; see `rows`.
        """
        chunks = []
        for source, row, walked in self._drawn(step, size):
            epoch, position = divmod(walked, self.sizes[source])
            first = position if epoch == 0 else int(self._first_positions(source)[row])
            index = epoch * self._num_chunks(source) + position // CHUNK_ROWS
            chunks.append((self.names[source], index, first // CHUNK_ROWS))
        return chunks

    def rows(self, name: str, chunk: int) -> list[int]:
        """Row indices of a chunk of a source. They depend on seed, name and size of the source
        alone: trials with other weights share them.
        """
        source = self.names.index(name)
        epoch, index = divmod(chunk, self._num_chunks(source))
        order = self._permuted(source, epoch)
        return order[index * CHUNK_ROWS : (index + 1) * CHUNK_ROWS].tolist()

    def epoch(self, name: str, chunk: int) -> int:
        """How often a source was walked through before a chunk of it."""
        return chunk // self._num_chunks(self.names.index(name))

    def _drawn(self, step: int, size: int) -> Iterator[tuple[int, int, int]]:
        """Source number, row index and place in the source's walk of each example of a step."""
        for draw in range(step * size, (step + 1) * size):
            phase = self._phase(draw)
            block, index = divmod(draw - phase.start, phase.block_size)
            sources, rows, walked = self._open(phase, block)
            yield int(sources[index]), int(rows[index]), int(walked[index])

    def _phase(self, draw: int) -> Phase:
        """The phase that an example lies in. Raises ValueError for one after the last."""
        phase = self.phases[bisect_right(self._starts, draw) - 1] if self.phases else None
        if phase is None or draw - phase.start >= phase.size:
            raise ValueError(
                f"the sources are used up after {self.num_examples:,.0f} examples, so there is no "
                f"example {draw + 1:,}"
            )
        return phase

    def _first_positions(self, source: int) -> np.ndarray:
        """Where each row of a source stands in the first walk through it."""
        if source not in self._firsts:
            self._firsts[source] = np.argsort(
                permutation(self.sizes[source], self.seed, WALK, self._keys[source], 0)
            )
        return self._firsts[source]

    def _num_chunks(self, source: int) -> int:
        """Chunks in one epoch of a source."""
        return -(-self.sizes[source] // CHUNK_ROWS)

    def drawn(self, steps: int, size: int) -> dict[str, int]:
        """How many examples each source has given after `steps` steps of `size` examples."""
        total = steps * size
        counts = np.zeros(len(self.names), dtype=np.int64)
        for phase in self.phases:
            drawn = min(total - phase.start, phase.size)
            if drawn <= 0:
                break
            blocks, remainder = divmod(int(drawn), phase.block_size)
            counts += np.array(phase.quotas) * blocks
            if remainder:
                sources, *_ = self._open(phase, blocks)
                counts += np.bincount(sources[:remainder], minlength=len(self.names))
        return {name: int(count) for name, count in zip(self.names, counts, strict=True)}

    def _open(self, phase: Phase, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Source numbers, row indices and places in the sources' walks of one block of a phase. The
        last one asked for is kept.
        """
        number = phase.first_block + block
        if self._block is None or self._block[0] != number:
            labels = np.repeat(np.arange(len(self.names)), phase.quotas)[
                permutation(phase.block_size, self.seed, ORDER, number)
            ]
            rows = np.empty_like(labels)
            walked = np.empty_like(labels)
            for source, quota in enumerate(phase.quotas):
                of_source = labels == source
                start = phase.walked[source] + block * quota
                rows[of_source] = self._stretch(source, start, quota)
                walked[of_source] = np.arange(start, start + quota)
            self._block = number, labels, rows, walked
        return self._block[1:]

    def _stretch(self, source: int, start: int, count: int) -> np.ndarray:
        """Row indices of `count` examples of a source's walk, from place `start` on."""
        size = self.sizes[source]
        rounds = range(start // size, -(-(start + count) // size))
        walks = [self._permuted(source, round_index) for round_index in rounds]
        skip = start - rounds.start * size
        return np.concatenate(walks)[skip : skip + count] if walks else np.empty(0, dtype=np.intp)

    def _permuted(self, source: int, epoch: int) -> np.ndarray:
        """The order of walk `number` through a source. Each source's last one is kept."""
        if self._orders.get(source, (None, None))[0] != epoch:
            self._orders[source] = (
                epoch,
                permutation(self.sizes[source], self.seed, WALK, self._keys[source], epoch),
            )
        return self._orders[source][1]


def check(sizes: dict[str, int], weights: dict[str, float], seed: int) -> None:
    """Raise ValueError for a mix that could draw nothing."""
    if set(sizes) != set(weights):
        raise ValueError(
            f"every source needs rows and a weight: rows for {sorted(sizes)}, weights for "
            f"{sorted(weights)}"
        )
    if seed < 0:
        raise ValueError(f"the seed must be at least 0, got {seed}")
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise ValueError(
                f"data.sources.{name}.weight must be a number of at least 0, got {weight}"
            )
        if weight > 0 and sizes[name] < 1:
            raise ValueError(
                f"data.sources.{name} has no rows but weight {weight:g}; set its weight to 0"
            )
    if not any(weights.values()):
        raise ValueError(
            "every weight in data.sources is 0, so there is nothing to draw; give one source a "
            "weight above 0"
        )


def permutation(size: int, *key: int) -> np.ndarray:
    """The numbers below `size` in an order that depends on `key` only.

    numpy keeps the raw stream of PCG64 and SeedSequence the same between its versions, but not what
    `Generator.permutation` makes of it.
    """
    raw = np.random.PCG64(np.random.SeedSequence(list(key))).random_raw(size)
    return np.argsort(raw, kind="stable")
