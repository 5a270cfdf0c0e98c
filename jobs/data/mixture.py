"""The mix: which row of which source stands at each place of a trial's training data.

Owns the order of the examples and nothing else. It is a pure function of the seed and the position,
so that a trial that was stopped, moved or trained beside others sees the same examples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

CHUNK_ROWS = 64
"""Rows that follow each other in the walk through a source, as what is done once for all trials is
done for them together.
"""
ORDER, WALK = (
    0,
    1,
    # two streams per seed: the order of the sources within an epoch, and the order of the rows
    # within a source
)


class Mixture:
    """Draws examples from named sources in proportion to their weights.

    An epoch has as many examples as the sources with a positive weight have rows. In each epoch a
    source gives a fixed number of them, its share by weight (rounded by largest remainder); it is
    walked through in a random order, without repeating a row before all were drawn, and goes on in
    the next epoch where it stopped. `sizes` are row counts and `weights` shares, both by source
    name; neither the order of the names nor a source of weight 0 changes the result.
    """

    def __init__(self, sizes: dict[str, int], weights: dict[str, float], seed: int) -> None:
        check(sizes, weights, seed)
        self.seed = seed
        self.names = sorted(name for name, weight in weights.items() if weight > 0)
        self.sizes = [sizes[name] for name in self.names]
        self.epoch_size = sum(self.sizes)
        self.quotas = apportion(self.epoch_size, [weights[name] for name in self.names])
        # By name, not by place in the list: a source keeps its order when another one joins.
        self._keys = [
            int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") for name in self.names
        ]
        self._orders: dict[int, tuple[int, np.ndarray]] = {}
        self._firsts: dict[int, np.ndarray] = {}
        self._epoch: tuple[int, np.ndarray, np.ndarray, np.ndarray] | None = None

    def batch(self, step: int, size: int) -> list[tuple[str, int]]:
        """(source, row index) of the `size` examples of optimizer step `step`, counted from 0."""
        return [(self.names[source], row) for source, row, _ in self._drawn(step, size)]

    def stretches(self, step: int, size: int) -> list[tuple[str, int, int]]:
        """(source, number of the stretch of its walks, number of the row's stretch in its first
        walk) of the same examples; see `rows`.
        """
        found = []
        for source, row, walked in self._drawn(step, size):
            number, index = divmod(walked, self.sizes[source])
            first = index if number == 0 else int(self._first_places(source)[row])
            found.append(
                (
                    self.names[source],
                    number * self._num_stretches(source) + index // CHUNK_ROWS,
                    first // CHUNK_ROWS,
                )
            )
        return found

    def rows(self, name: str, stretch: int) -> list[int]:
        """Row indices of a stretch of a source's walk. They depend on its seed, name and size
        alone: trials of other weights share them.
        """
        source = self.names.index(name)
        number, part = divmod(stretch, self._num_stretches(source))
        walk = self._permuted(source, number)
        return walk[part * CHUNK_ROWS : (part + 1) * CHUNK_ROWS].tolist()

    def _drawn(self, step: int, size: int) -> Iterator[tuple[int, int, int]]:
        """Source number, row index and place in the source's walk of each example of a step."""
        for position in range(step * size, (step + 1) * size):
            epoch, place = divmod(position, self.epoch_size)
            sources, rows, walked = self._open(epoch)
            yield int(sources[place]), int(rows[place]), int(walked[place])

    def _first_places(self, source: int) -> np.ndarray:
        """Where each row of a source stands in the first walk through it."""
        if source not in self._firsts:
            self._firsts[source] = np.argsort(
                permutation(self.sizes[source], self.seed, WALK, self._keys[source], 0)
            )
        return self._firsts[source]

    def _num_stretches(self, source: int) -> int:
        """In how many stretches a walk through a source is cut."""
        return -(-self.sizes[source] // CHUNK_ROWS)

    def drawn(self, steps: int, size: int) -> dict[str, int]:
        """How many examples each source has given after `steps` steps of `size` examples."""
        epochs, rest = divmod(steps * size, self.epoch_size)
        counts = np.array(self.quotas) * epochs
        if rest:
            sources, *_ = self._open(epochs)
            counts = counts + np.bincount(sources[:rest], minlength=len(self.names))
        return {name: int(count) for name, count in zip(self.names, counts, strict=True)}

    def _open(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Source numbers, row indices and places in the sources' walks of one epoch. The last one
        asked for is kept.
        """
        if self._epoch is None or self._epoch[0] != epoch:
            labels = np.repeat(np.arange(len(self.names)), self.quotas)[
                permutation(self.epoch_size, self.seed, ORDER, epoch)
            ]
            rows, walked = np.empty_like(labels), np.empty_like(labels)
            for source, quota in enumerate(self.quotas):
                own = labels == source
                rows[own], walked[own] = (
                    self._walk(source, epoch),
                    np.arange(epoch * quota, (epoch + 1) * quota),
                )
            self._epoch = epoch, labels, rows, walked
        return self._epoch[1:]

    def _walk(self, source: int, epoch: int) -> np.ndarray:
        """Row indices that a source gives in one epoch."""
        size, quota = self.sizes[source], self.quotas[source]
        start, stop = epoch * quota, (epoch + 1) * quota
        rounds = range(start // size, -(-stop // size))
        walks = [self._permuted(source, number) for number in rounds]
        skip = start - rounds.start * size
        return np.concatenate(walks)[skip : skip + quota] if walks else np.empty(0, dtype=np.intp)

    def _permuted(self, source: int, number: int) -> np.ndarray:
        """The order of walk `number` through a source. Each source's last one is kept."""
        if self._orders.get(source, (None, None))[0] != number:
            self._orders[source] = (
                number,
                permutation(self.sizes[source], self.seed, WALK, self._keys[source], number),
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


def apportion(total: int, weights: list[float]) -> list[int]:
    """Whole numbers that add up to `total` in proportion to `weights`, by largest remainder; the
    first wins a tie.
    """
    largest = max(weights)
    scaled = [
        weight / largest for weight in weights
    ]  # the sum of the weights may overflow or vanish, that of the ratios cannot
    exact = [total * weight / sum(scaled) for weight in scaled]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda place: counts[place] - exact[place])
    for place in by_remainder[: total - sum(counts)]:
        counts[place] += 1
    return counts


def permutation(size: int, *key: int) -> np.ndarray:
    """The numbers below `size` in an order that depends on `key` only.

    numpy keeps the raw stream of PCG64 and SeedSequence the same between its versions, but not what
    `Generator.permutation` makes of it.
    """
    raw = np.random.PCG64(np.random.SeedSequence(list(key))).random_raw(size)
    return np.argsort(raw, kind="stable")
