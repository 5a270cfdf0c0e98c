"""Texts by their words: is one there in any order, and which one has most words in common.

Two texts of which at least a share of all their words is common share one of the rarest words of
either (prefix filtering; Chaudhuri et al., 2006), so few are compared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

FEWEST_WORDS = 5
"""Shorter texts that differ in a word say something else."""


class WordIndex:
    """A growing collection of texts as words."""

    def __init__(self, texts: Iterable[Sequence[str]] = ()) -> None:
        self.sets: list[frozenset[str]] = []
        self.any_order: set[tuple[str, ...]] = set()
        self.letters: set[str] = set()
        self.postings: dict[str, list[int]] = {}
        for words in texts:
            self.add(words)

    def add(self, words: Sequence[str]) -> None:
        """Put a text in."""
        position = len(self.sets)
        self.sets.append(frozenset(words))
        self.any_order.add(tuple(sorted(words)))
        self.letters.add("".join(words))
        for word in self.sets[-1]:
            self.postings.setdefault(word, []).append(position)

    def holds(self, words: Sequence[str]) -> bool:
        """Whether a text of the same words in any order is there, or one of the same letters."""
        return tuple(sorted(words)) in self.any_order or "".join(words) in self.letters

    def most_alike(self, words: Sequence[str], least: float) -> float:
        """The largest share of words (Jaccard) that a text of the index has in common with this
        one; 0 where no text reaches `least`.
        """
        asked = frozenset(words)
        if not asked:
            return 0.0
        rarest = sorted(asked, key=lambda word: (len(self.postings.get(word, ())), word))
        prefix = rarest[: len(rarest) - math.ceil(least * len(rarest)) + 1]
        candidates = {position for word in prefix for position in self.postings.get(word, ())}
        best = 0.0
        for position in candidates:
            words_there = self.sets[position]
            shared = len(asked & words_there)
            best = max(best, shared / (len(asked) + len(words_there) - shared))
        return best if best >= least else 0.0


def distinct_share(texts: Iterable[Sequence[str]], length: int) -> float:
    """Share of the stretches of so many words that are different (distinct-n; Li et al., 2016)."""
    counts: Counter[tuple[str, ...]] = Counter()
    for words in texts:
        counts.update(
            tuple(words[start : start + length]) for start in range(len(words) - length + 1)
        )
    return len(counts) / counts.total() if counts else 0.0
