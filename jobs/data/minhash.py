"""Which of many sets of words may be nearly the same: MinHash (Broder, 1997) with
locality-sensitive hashing, so that of all pairs a few are compared word by word.

rensa is imported where it is needed: whoever has short prompts does without.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

NUM_HASHES = 192
NUM_BANDS = 24
"""Two sets become candidates when all hashes of one band are equal. With eight hashes in a band, a
pair that shares 0.85 of its words is missed once in two thousand times, and of pairs that share
half of them one in eleven is looked at in vain.
"""
SEED = 7


class MinHashIndex:
    """An index over some sets, which is asked for those that may be nearly the same as others."""

    def __init__(self, sets: Sequence[Collection[str]], alike: float) -> None:
        self.index: Any = None
        if sets:
            self.index = native().RMinHashLSH(alike, NUM_HASHES, NUM_BANDS)
            self.index.insert_many(hashes(sets))

    def candidates(self, sets: Sequence[Collection[str]]) -> list[list[int]]:
        """For each of these sets, the indices of those in the index that may be nearly the same."""
        if self.index is None or not sets:
            return [[] for _ in sets]
        return [sorted(keys) for keys in self.index.query_all(hashes(sets))]


def hashes(sets: Sequence[Collection[str]]) -> Any:
    """The MinHash of each set."""
    return native().RMinHash.from_token_sets([list(words) for words in sets], NUM_HASHES, SEED)


def native() -> Any:
    """rensa, which is compiled and tells no types."""
    import rensa

    return rensa
