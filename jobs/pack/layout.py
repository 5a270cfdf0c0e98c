"""Where the tokens of a pack's step stand: one flat row, a common beginning once per slot, logits only where there is loss.

Pure bookkeeping: which token of which slot stands where, what it may attend to, and what is predicted from it. The arithmetic is in
attention.py, lora.py and engine.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from jobs.data import PREFIX_MIN, Example, shared_prefix
from jobs.masks import Drop


@dataclass(frozen=True)
class Portion:
    """Examples of one slot that begin with the same tokens, which stand once in the flat row."""

    slot: int
    prefix: int
    """Length of the common beginning; 0 for none."""
    examples: tuple[Example, ...]
    rows: tuple[int, ...]
    """Which rows of the slot's batch these are."""
    weight: float = 1.0
    """What each supervised token counts in the slot's loss: 1 / (supervised tokens of its whole batch)."""
    everything: bool = False
    """Whether every token carries loss, not only the answers."""

    @property
    def num_tokens(self) -> int:
        """Tokens in the flat row: the last one of an example is only predicted, so it does not stand there."""
        return self.prefix + sum(len(example.ids) - 1 - self.prefix for example in self.examples)


@dataclass
class Rectangle:
    """Attention of equally shaped blocks: B blocks of N rows of at most L tokens, each seeing its block's P prefix tokens and itself."""

    rows: torch.Tensor
    """int64 (B, N, L): places in the flat row. Behind a row's end stands its own last token again: what comes of it is thrown away."""
    lengths: torch.Tensor
    """int64 (B, N)."""
    prefix: torch.Tensor | None
    """int64 (B, P), or None."""


@dataclass(frozen=True)
class Group:
    """A stretch of the flat row: the same number of tokens for each of some slots, in turn."""

    slots: tuple[int, ...]
    start: int
    length: int
    """Tokens of each slot. Behind those that it needs stands padding, which nothing attends to and nothing is predicted from."""
    drops: tuple[Drop | None, ...] = ()
    """What each slot drops; empty when none drops anything."""
    chosen: torch.Tensor | None = None
    """int64 (S * length,): the mask that each token takes of its slot's."""

    @property
    def stop(self) -> int:
        """Where the stretch ends."""
        return self.start + len(self.slots) * self.length

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """The group's part (S, length, width) of rows (T, width)."""
        return rows[self.start : self.stop].view(len(self.slots), self.length, -1)


@dataclass
class Layout:
    """One forward pass of the pack over T tokens, S of them supervised."""

    ids: torch.Tensor
    """int64 (1, T)."""
    positions: torch.Tensor
    """int64 (1, T): place of a token in its own example."""
    groups: list[Group]
    rectangles: list[Rectangle]
    places: torch.Tensor
    """int64 (S,): from which token of the flat row a supervised token is predicted."""
    targets: torch.Tensor
    """int64 (S,): the supervised tokens."""
    weights: torch.Tensor
    """float32 (S,)."""
    owners: torch.Tensor
    """int64 (S,): which of `slots` it belongs to."""
    answers: torch.Tensor
    """int64 (S,): number of the example within this layout."""
    examples: list[tuple[int, int]]
    """(slot, row of its batch) of each example, in order."""
    num_padded: int = 0
    """Tokens that only fill up."""
    known_maps: dict[tuple[int, int], Any] = field(default_factory=dict)
    """What attention.py has derived from `rectangles`, by numbers of heads."""

    @property
    def slots(self) -> list[int]:
        """Whose tokens these are, in order."""
        return [slot for group in self.groups for slot in group.slots]


def portion(slot: int, examples: list[Example], weight: float = 1.0, everything: bool = False, share: bool = True) -> list[Portion]:
    """A slot's batch as portions with a common beginning each, one per template that its examples are made from.

    Examples that agree in their first PREFIX_MIN tokens are made from one template. With loss on every token nothing is shared: a token
    that carries loss would count once instead of once per example.
    """
    heads: dict[tuple[int, ...], list[int]] = {}
    for row, example in enumerate(examples):
        shareable = share and not everything and example.prompt_length > PREFIX_MIN
        heads.setdefault(tuple(example.ids[:PREFIX_MIN]) if shareable else (), []).append(row)
    portions = []
    for head, rows in heads.items():
        chosen = tuple(examples[row] for row in rows)
        prefix = shared_prefix(list(chosen)) if head else 0
        portions.append(Portion(slot, prefix, chosen, tuple(rows), weight, everything))
    return portions


def divide(portions: list[Portion], budget: int) -> Iterator[list[Portion]]:
    """Cut portions into passes of at most `budget` tokens each; one example that is longer goes alone.

    A portion stays whole where it can: each of its parts repeats the common beginning.
    """
    group: list[Portion] = []
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


def pieces(whole: Portion, budget: int) -> Iterator[Portion]:
    """One portion in parts of at most `budget` tokens, of nearly equal size."""
    if whole.num_tokens <= budget or len(whole.examples) == 1:
        yield whole
        return
    middle = len(whole.examples) // 2
    for part in (slice(0, middle), slice(middle, None)):
        half = Portion(whole.slot, whole.prefix, whole.examples[part], whole.rows[part], whole.weight, whole.everything)
        yield from pieces(half if len(half.examples) > 1 else unshared(half), budget)


def unshared(part: Portion) -> Portion:
    """A portion of one example, whose beginning is nobody else's."""
    return Portion(part.slot, 0, part.examples, part.rows, part.weight, part.everything)


class Builder:
    """Collects the flat row of one pass."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.places: list[int] = []
        self.targets: list[int] = []
        self.weights: list[float] = []
        self.owners: list[int] = []
        self.answers: list[int] = []
        self.examples: list[tuple[int, int]] = []
        self.blocks: dict[tuple[int, int, int], list[tuple[list[range], range]]] = {}

    def put(self, ids: list[int], position: int) -> range:
        """Append tokens; returns their places."""
        start = len(self.ids)
        self.ids += ids
        self.positions += range(position, position + len(ids))
        return range(start, len(self.ids))

    def add(self, part: Portion, segment: int) -> None:
        """Append one portion: its common beginning, then every example's own tokens."""
        shared = self.put(part.examples[0].ids[: part.prefix], 0)
        rows = []
        for row, example in zip(part.rows, part.examples, strict=True):
            own = self.put(example.ids[part.prefix : -1], part.prefix)
            rows.append(own)
            first = 1 if part.everything else example.prompt_length
            count = len(example.ids) - first
            self.places += range(own.start + first - 1 - part.prefix, own.start + first - 1 - part.prefix + count)
            self.targets += example.ids[first:]
            self.weights += [part.weight] * count
            self.owners += [segment] * count
            self.answers += [len(self.examples)] * count
            self.examples.append((part.slot, row))
        if shared:
            self.blocks.setdefault((1, 0, 0), []).append(([shared], range(0)))
        for number, half in enumerate(halves(rows)):
            self.blocks.setdefault((len(half), part.prefix, number), []).append((half, shared))


HALVED_FROM = 8
"""So many rows or more are laid into two rectangles, the shorter and the longer half: a rectangle is as wide as its longest row."""


def halves(rows: list[range]) -> list[list[range]]:
    """Rows as one block, or as two where lengths differ much."""
    by_length = sorted(rows, key=len)
    middle = len(rows) // 2
    if len(rows) < HALVED_FROM or 3 * len(by_length[-1]) < 4 * len(by_length[middle - 1]):
        return [rows]
    return [by_length[:middle], by_length[middle:]]


MOST_PADDING = 1 / 32
"""Slots whose numbers of tokens differ by less than this share are filled up to the same: batched products want equal parts."""


@dataclass(frozen=True)
class Share:
    """One slot's part of a pass."""

    slot: int
    parts: tuple[Portion, ...]
    num_tokens: int


def alike(shares: list[Share], family: Callable[[int], int]) -> Iterator[list[Share]]:
    """Neighbours that can be filled up to equally many tokens at little cost, and whose slots are of one family."""
    together: list[Share] = []
    for share in shares:
        whole = [*together, share]
        most = len(whole) * max(each.num_tokens for each in whole)
        fits = most <= (1 + MOST_PADDING) * sum(each.num_tokens for each in whole)
        if together and not (fits and family(together[0].slot) == family(share.slot)):
            yield together
            together = []
        together.append(share)
    if together:
        yield together


def build(parts: list[Portion], device: torch.device, family: Callable[[int], int] = lambda slot: 0) -> Layout:
    """The flat row of one pass; portions of one slot must follow each other. Slots of one `family` may be grouped."""
    builder, groups, num_shares = Builder(), [], 0
    sorted_out = [(slot, tuple(own)) for slot, own in itertools.groupby(parts, key=lambda part: part.slot)]
    shares = [Share(slot, own, sum(part.num_tokens for part in own)) for slot, own in sorted_out]
    for together in alike(shares, family):
        groups.append(Group(tuple(share.slot for share in together), len(builder.ids), max(share.num_tokens for share in together)))
        for share in together:
            for part in share.parts:
                builder.add(part, num_shares)
            builder.put([builder.ids[-1]] * (groups[-1].length - share.num_tokens), 0)
            num_shares += 1

    def long(values: object) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return Layout(
        ids=long([builder.ids]),
        positions=long([builder.positions]),
        groups=groups,
        rectangles=[rectangle(blocks, device) for blocks in builder.blocks.values()],
        places=long(builder.places),
        targets=long(builder.targets),
        weights=torch.tensor(builder.weights, dtype=torch.float32, device=device),
        owners=long(builder.owners),
        answers=long(builder.answers),
        examples=builder.examples,
        num_padded=len(builder.ids) - sum(share.num_tokens for share in shares),
    )


def rectangle(blocks: list[tuple[list[range], range]], device: torch.device) -> Rectangle:
    """Blocks of equal row count and prefix length as one rectangle."""
    longest = max(len(row) for rows, _ in blocks for row in rows)
    padded = [[[*row, *[row[-1]] * (longest - len(row))] for row in rows] for rows, _ in blocks]
    lengths = [[len(row) for row in rows] for rows, _ in blocks]
    prefix = torch.tensor([list(shared) for _, shared in blocks], device=device) if len(blocks[0][1]) else None
    return Rectangle(torch.tensor(padded, device=device), torch.tensor(lengths, device=device), prefix)
