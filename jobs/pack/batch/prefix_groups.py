"""A step's examples in portions with a common beginning, and the portions in passes that fit the
memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from jobs.data.tokenization import PREFIX_MIN, Example, shared_prefix


@dataclass(frozen=True)
class PrefixGroup:
    """Examples of one slot that begin with the same tokens, which stand once in the flat row."""

    slot: int
    prefix: int
    """Length of the common beginning; 0 for none."""
    examples: tuple[Example, ...]
    rows: tuple[int, ...]
    """Which rows of the slot's batch these are."""
    weight: float = 1.0
    """What each supervised token counts in the slot's loss: 1 / (supervised tokens of its whole
    batch).
    """
    everything: bool = False
    """Whether every token carries loss, not only the answers."""

    @property
    def num_tokens(self) -> int:
        """Tokens in the flat row: the last one of an example is only predicted, so it does not
        stand there.
        """
        return self.prefix + sum(len(example.ids) - 1 - self.prefix for example in self.examples)

    @property
    def num_supervised(self) -> int:
        """Tokens that carry loss."""
        return sum(
            len(example.ids) - (1 if self.everything else example.prompt_length)
            for example in self.examples
        )


def group_by_prefix(
    slot: int,
    examples: list[Example],
    weight: float = 1.0,
    everything: bool = False,
    share: bool = True,
) -> list[PrefixGroup]:
    """A slot's batch as portions with a common beginning each, one per template that its examples
    are made from.

    Examples that agree in their first PREFIX_MIN tokens are made from one template. With loss on
    every token nothing is shared: a token that carries loss would count once instead of once per
    example.
    """
    heads: dict[tuple[int, ...], list[int]] = {}
    for row, example in enumerate(examples):
        shareable = share and not everything and example.prompt_length > PREFIX_MIN
        heads.setdefault(tuple(example.ids[:PREFIX_MIN]) if shareable else (), []).append(row)
    portions = []
    for head, rows in heads.items():
        chosen = tuple(examples[row] for row in rows)
        prefix = shared_prefix(list(chosen)) if head else 0
        portions.append(PrefixGroup(slot, prefix, chosen, tuple(rows), weight, everything))
    return portions


def micro_batches(portions: list[PrefixGroup], budget: int) -> Iterator[list[PrefixGroup]]:
    """Cut portions into passes of at most `budget` tokens each; one example that is longer goes
    alone.

    A portion stays whole where it can: each of its parts repeats the common beginning.
    """
    group: list[PrefixGroup] = []
    used = 0
    for whole in portions:
        for part in pieces(whole, budget):
            if group and used + part.num_tokens > budget:
                yield group
                group, used = [], 0
            group.append(part)
            used += part.num_tokens
    if group:
        yield group


def pieces(whole: PrefixGroup, budget: int) -> Iterator[PrefixGroup]:
    """One portion in parts of at most `budget` tokens, of nearly equal size."""
    if whole.num_tokens <= budget or len(whole.examples) == 1:
        yield whole
        return
    middle = len(whole.examples) // 2
    for part in (slice(0, middle), slice(middle, None)):
        half = PrefixGroup(
            whole.slot,
            whole.prefix,
            whole.examples[part],
            whole.rows[part],
            whole.weight,
            whole.everything,
        )
        yield from pieces(half if len(half.examples) > 1 else unshared(half), budget)


def unshared(part: PrefixGroup) -> PrefixGroup:
    """A portion of one example, whose beginning is nobody else's."""
    return PrefixGroup(part.slot, 0, part.examples, part.rows, part.weight, part.everything)


def equalise_prefixes(
    parts: list[PrefixGroup], known: dict[tuple[int, ...], int]
) -> list[PrefixGroup]:
    """Portions of one template with equally long beginnings: the shortest that was ever `known`, so
    that their attention has one shape.
    """
    for part in parts:
        if part.prefix:
            known[template_key(part)] = min(part.prefix, known.get(template_key(part), part.prefix))
    return [
        replace(part, prefix=known[template_key(part)]) if part.prefix else part for part in parts
    ]


def template_key(part: PrefixGroup) -> tuple[int, ...]:
    """What tells a template."""
    return tuple(part.examples[0].ids[:PREFIX_MIN])
