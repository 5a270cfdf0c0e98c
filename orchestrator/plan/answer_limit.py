"""How many tokens an answer may have: those of the longest one in the rows, which base and
candidates alike never need more of.

An untouched base that rambles on costs the whole limit in every row. So a few answers that are far
longer than all others do not set it: they are counted, and it is said that they cannot be right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.plan.token_counts import Count

USUAL = 0.99
"""Share of a split's answers that are of usual length."""
FAR_LONGER = 2.0
"""Answers of more than so many times a usual one's tokens do not set the limit."""
ALWAYS = 32
"""Tokens that every answer may have where others have more."""


@dataclass(frozen=True)
class AnswerLimit:
    """Where answers end."""

    tokens: int
    longest: int
    """Tokens of the longest answer in the rows."""
    mean: float
    """Of a test row's answer."""
    longer: int
    """Test rows whose right answer is longer."""
    rows: int
    """Test rows."""

    @property
    def notes(self) -> list[str]:
        """What is to be said of it."""
        if not self.longer:
            return []
        return [
            f"answers end after {self.tokens:,} tokens (job.max_new_tokens): {self.longer:,} of "
            f"{self.rows:,} right answers to test rows are longer and cannot be given; "
            f"job.max_new_tokens={self.longest} gives them room, and makes judging longer"
        ]


def answer_limit(setting: int | None, counts: Mapping[str, Count]) -> AnswerLimit:
    """The limit that `setting` asks for, or that follows from the counts of all splits, of which
    one is "test".
    """
    lengths = {name: count.by_length() for name, count in counts.items()}
    longest = max(max(split, default=1) for split in lengths.values())
    tokens = setting or usual_limit(longest, lengths)
    test = lengths["test"]
    rows = sum(test.values())
    return AnswerLimit(
        tokens=tokens,
        longest=longest,
        mean=sum(length * times for length, times in test.items()) / max(rows, 1),
        longer=sum(times for length, times in test.items() if length > tokens),
        rows=rows,
    )


def usual_limit(longest: int, lengths: Mapping[str, Counter[int]]) -> int:
    """The longest answer's tokens, unless that is far longer than usual in each of the splits."""
    usual = max((quantile(split) for split in lengths.values()), default=longest)
    return min(longest, max(ALWAYS, round(FAR_LONGER * usual)))


def quantile(lengths: Counter[int]) -> int:
    """The length that the usual share of answers does not exceed."""
    least = USUAL * sum(lengths.values())
    seen = 0
    for length, times in sorted(lengths.items()):
        seen += times
        if seen >= least:
            return length
    return 1
