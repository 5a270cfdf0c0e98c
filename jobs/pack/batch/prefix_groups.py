"""Examples grouped by their common prefix, and cut into micro-batches that fit the memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from jobs.data.tokenization import PREFIX_MIN, Example, shared_prefix


@dataclass(frozen=True)
class PrefixGroup:
    """Examples of one slot that begin with the same tokens. The prefix stands once in the row."""

    slot: int
    prefix: int
    """Tokens of the common prefix; 0 for none."""
    examples: tuple[Example, ...]
    rows: tuple[int, ...]
    """Index of each example in the slot's batch."""
    weight: float = 1.0
    """What each supervised token counts in the slot's loss: 1 / (supervised tokens of its whole
    batch).
    """
    everything: bool = False
    """Whether every token carries loss, not only answers."""

    @property
    def num_tokens(self) -> int:
        """Tokens in the flat row. The last token of an example is only predicted, so it is not
        counted.
        """
        return self.prefix + sum(len(example.ids) - 1 - self.prefix for example in self.examples)

    @property
    def num_supervised(self) -> int:
        """Tokens that carry loss."""
        return sum(example.num_targets(self.everything) for example in self.examples)


def group_by_prefix(
    slot: int,
    examples: list[Example],
    weight: float = 1.0,
    everything: bool = False,
    share: bool = True,
) -> list[PrefixGroup]:
    """Group a slot's batch by the prompt template of its examples.

    Examples that agree in their first PREFIX_MIN tokens are made from one template. With loss on
    every token no prefix is shared: its loss would count once instead of once per example.
    """
    heads: dict[tuple[int, ...], list[int]] = {}
    for row, example in enumerate(examples):
        shareable = share and not everything and example.first_target > PREFIX_MIN
        heads.setdefault(tuple(example.ids[:PREFIX_MIN]) if shareable else (), []).append(row)
    prefix_groups = []
    for head, rows in heads.items():
        chosen = tuple(examples[row] for row in rows)
        prefix = shared_prefix(list(chosen)) if head else 0
        prefix_groups.append(PrefixGroup(slot, prefix, chosen, tuple(rows), weight, everything))
    return prefix_groups


def micro_batches(prefix_groups: list[PrefixGroup], budget: int) -> Iterator[list[PrefixGroup]]:
    """Cut prefix groups into micro-batches of at most `budget` tokens. A longer example goes alone.

    A prefix group stays whole where it can, because each of its pieces repeats the prefix.
    """
    micro_batch: list[PrefixGroup] = []
    num_tokens = 0
    for prefix_group in prefix_groups:
        for piece in pieces(prefix_group, budget):
            if micro_batch and num_tokens + piece.num_tokens > budget:
                yield micro_batch
                micro_batch = []
                num_tokens = 0
            micro_batch.append(piece)
            num_tokens += piece.num_tokens
    if micro_batch:
        yield micro_batch


def pieces(prefix_group: PrefixGroup, budget: int) -> Iterator[PrefixGroup]:
    """A prefix group in pieces of at most `budget` tokens and nearly equal size."""
    if prefix_group.num_tokens <= budget or len(prefix_group.examples) == 1:
        yield prefix_group
        return
    middle = len(prefix_group.examples) // 2
    for rows in (slice(0, middle), slice(middle, None)):
        half = PrefixGroup(
            prefix_group.slot,
            prefix_group.prefix,
            prefix_group.examples[rows],
            prefix_group.rows[rows],
            prefix_group.weight,
            prefix_group.everything,
        )
        yield from pieces(half if len(half.examples) > 1 else unshared(half), budget)


def unshared(prefix_group: PrefixGroup) -> PrefixGroup:
    """A prefix group of one example, without a prefix."""
    return PrefixGroup(
        prefix_group.slot,
        0,
        prefix_group.examples,
        prefix_group.rows,
        prefix_group.weight,
        prefix_group.everything,
    )


def equalise_prefixes(
    prefix_groups: list[PrefixGroup], shortest_prefix: dict[tuple[int, ...], int]
) -> list[PrefixGroup]:
    """Shorten the prefixes of one template to the shortest that ever occurred.

    `shortest_prefix` remembers it by template and is updated in place. So the attention of a
    template has one shape.
    """
    for prefix_group in prefix_groups:
        if prefix_group.prefix:
            shortest_prefix[template_key(prefix_group)] = min(
                prefix_group.prefix,
                shortest_prefix.get(template_key(prefix_group), prefix_group.prefix),
            )
    return [
        replace(prefix_group, prefix=shortest_prefix[template_key(prefix_group)])
        if prefix_group.prefix
        else prefix_group
        for prefix_group in prefix_groups
    ]


def template_key(prefix_group: PrefixGroup) -> tuple[int, ...]:
    """The tokens that examples of one template agree in."""
    return tuple(prefix_group.examples[0].ids[:PREFIX_MIN])
