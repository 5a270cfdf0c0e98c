"""The layers below the lowest adapter: frozen, so the same for every trial and every step. Each
stretch of rows goes through them once.

A stretch is always computed by itself, whoever asks for it first, so that what comes of it does not
depend on who stands beside it. The layers are found by their place in the model; check.py tries
whether hidden states are all that passes between them.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from jobs.data.mixture import CHUNK_ROWS
from jobs.data.tokenization import Example, shared_prefix
from jobs.data.trial_data import Chunk
from jobs.pack.batch.builder import pack_batch
from jobs.pack.batch.packed_batch import PackedBatch
from jobs.pack.batch.prefix_groups import PrefixGroup, group_by_prefix, micro_batches
from jobs.pack.batch.transfer import to_device
from jobs.pack.layers.lora_linear import AdapterStacks, PackedLoRALinear

MOST_BYTES = 1 << 30
"""Hidden states beyond these are forgotten, those first that nobody asked for the longest; fewer
after memory has run out.
"""


@dataclass
class Hidden:
    """What the frozen layers make of a stretch."""

    states: torch.Tensor
    """(P, H)."""
    places: dict[int, torch.Tensor]
    """By id of an example: int64 (its tokens but the last,), where they stand in `states`."""
    examples: list[Example]
    """Kept alive, so that no other one gets their ids."""


class ReachedFirstAdapter(Exception):
    """The first layer with an adapter is about to begin."""


def layers_of(model: Any) -> list[Any]:
    """The layers of a decoder: the longest list of modules that stands in no other one, as that of
    a layer's experts does.
    """
    stacks: list[tuple[str, torch.nn.ModuleList]] = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and not any(
            name.startswith(f"{outer}.") for outer, _ in stacks
        ):
            stacks.append((name, module))
    return list(max((stack for _, stack in stacks), key=len, default=[]))


class HiddenStateCache:
    """The frozen layers at the beginning of a model, and what they have made of the stretches that
    were asked for.
    """

    def __init__(self, model: Any, active: AdapterStacks, device: torch.device) -> None:
        self.model, self.device = model, device
        layers = layers_of(model)
        carriers = {id(layer) for layer in active.layers}
        carrying = [
            number
            for number, layer in enumerate(layers)
            if carriers & set(map(id, layer.modules()))
        ]
        inside = sum(
            isinstance(module, PackedLoRALinear) for layer in layers for module in layer.modules()
        )
        first = carrying[0] if carrying and inside == len(active.layers) else 0
        self.below, self.entry = layers[:first], layers[first] if first else None
        self.attached, self.most_bytes = False, MOST_BYTES
        self.known: OrderedDict[Hashable, Hidden] = OrderedDict()
        self.given: torch.Tensor | None = None
        """What enters the first layer with an adapter in the pass under way, (1, T, H)."""
        self.reached: list[torch.Tensor] | None = None
        self.handle: Any = None
        self.sources: dict[tuple[Hashable, ...], float] = {}
        """Bytes that sources take which are gone through again; 0 for one that is not kept
        whole.
        """
        self.stretches: dict[tuple[int, int], Chunk] = {}
        """Of the examples that are trained on, by slot and row of its batch; what is not there is
        computed for one pass.
        """

    def attach(self) -> None:
        """Begin. A model whose first layer carries an adapter stays as it is."""
        if self.entry is None:
            return
        for layer in self.below:
            layer.forward = self.skippable(layer.forward)
        self.handle = self.entry.register_forward_pre_hook(self.enter, with_kwargs=True)
        self.attached = True

    def detach(self) -> bool:
        """Leave the model as it was; whether that changes anything."""
        attached, self.attached = self.attached, False
        if attached:
            self.handle.remove()
            self.known.clear()
            for layer in self.below:
                del layer.forward
        return attached

    def skippable(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The forward of a layer, which hands its input on where the hidden states behind it are
        known.
        """
        others = 0

        def skip(*args: Any, **options: Any) -> Any:
            nonlocal others
            if self.given is not None:
                hidden = args[0] if args else options["hidden_states"]
                return (hidden, *[None] * (others - 1)) if others else hidden
            out = forward(*args, **options)
            others = len(out) if isinstance(out, tuple) else 0
            return out

        return skip

    def enter(self, module: Any, args: Any, options: Any) -> Any:
        """Take what the layers below have made, or hand in what is known of it."""
        hidden = args[0] if args else options["hidden_states"]
        if self.reached is not None:
            self.reached.append(hidden)
            raise ReachedFirstAdapter
        if self.given is None:
            return None
        return (
            ((self.given, *args[1:]), options)
            if args
            else (args, options | {"hidden_states": self.given})
        )

    @contextlib.contextmanager
    def expecting(
        self, stretches: dict[int, list[Chunk]], examples: list[Example]
    ) -> Iterator[None]:
        """The passes that follow are over these examples of these stretches, slot by slot in the
        order of its rows.

        Where what they need together would not be kept long enough to be of use again, each pass
        computes its own.
        """
        row_bytes, room = self.token_bytes() * tokens_of_a_row(examples), self.most_bytes / 2
        kept = {
            number: [self.known_again(stretch, row_bytes) for stretch in own]
            for number, own in stretches.items()
        }
        if (
            len({stretch.name for own in kept.values() for stretch in own}) * CHUNK_ROWS * row_bytes
            <= room
        ):
            self.stretches = {
                (number, row): stretch
                for number, own in kept.items()
                for row, stretch in enumerate(own)
            }
        try:
            yield
        finally:
            self.stretches = {}

    def known_again(self, stretch: Chunk, row_bytes: float) -> Chunk:
        """The stretch in which an example was met first, if all of its source may be kept until it
        is gone through again.
        """
        if stretch.first is None:
            return stretch
        if stretch.source not in self.sources:
            size = stretch.num_rows * row_bytes
            self.sources[stretch.source] = (
                size if sum(self.sources.values()) + size <= self.most_bytes / 2 else 0.0
            )
        return stretch.first if self.sources[stretch.source] else stretch

    def keep(self, walks: set[Hashable]) -> None:
        """Slots have left: what only they went through makes room for sources that had none.
        `walks` are those of the slots that remain.
        """
        self.sources = {
            source: size for source, size in self.sources.items() if size and source[0] in walks
        }

    def shrink(self, times: int = 1) -> None:
        """Memory has run out so often: forget all, and keep half as much each time."""
        self.known.clear()
        self.sources.clear()
        self.most_bytes >>= times

    def token_bytes(self) -> int:
        """What the hidden state of a token takes."""
        weight = self.model.get_input_embeddings().weight
        return weight.shape[1] * weight.element_size()

    @contextlib.contextmanager
    def behind(self, layout: PackedBatch) -> Iterator[None]:
        """A forward pass in which the layers below are skipped, if the layout says what comes of
        them.
        """
        self.given = layout.below
        try:
            yield
        finally:
            self.given = None

    @torch.no_grad()
    def run(self, layout: PackedBatch) -> torch.Tensor:
        """The hidden states (T, H) that the layers below make of a layout on the device."""
        self.reached = []
        try:
            self.model(**layout.inputs)
        except ReachedFirstAdapter:
            pass
        finally:
            reached, self.reached = self.reached, None
        return reached[0].squeeze(0)

    def fill(self, layout: PackedBatch, parts: list[PrefixGroup], budget: int) -> PackedBatch:
        """Say what enters the first layer with an adapter, for the portions of a layout on the CPU.
        Its `members` are then done with.
        """
        members, layout.members = layout.members, None
        if not self.attached or members is None:
            return layout
        pairs = [
            ((part.slot, row), example)
            for part in parts
            for row, example in zip(part.rows, part.examples, strict=True)
        ]
        found = [self.find(place, example, budget) for place, example in pairs]
        others = {
            id(example): example
            for (_, example), hidden in zip(pairs, found, strict=True)
            if hidden is None
        }
        other = self.make(list(others.values()), budget) if others else None
        given = [
            (example, hidden or other) for (_, example), hidden in zip(pairs, found, strict=True)
        ]
        layout.below = gathered(given, members, layout.positions[0])
        return layout

    def find(self, place: tuple[int, int], example: Example, budget: int) -> Hidden | None:
        """What is known of the stretch of an example, after computing it if need be; None where it
        belongs to none.
        """
        stretch = self.stretches.get(place)
        if stretch is None:
            return None
        if stretch.name not in self.known:
            self.known[stretch.name] = self.make(stretch.read(), budget)
            while (
                len(self.known) > 1
                and sum(hidden.states.nbytes for hidden in self.known.values()) > self.most_bytes
            ):
                self.known.popitem(last=False)
        self.known.move_to_end(stretch.name)
        return self.known[stretch.name] if id(example) in self.known[stretch.name].places else None

    def make(self, examples: list[Example], budget: int) -> Hidden:
        """Run examples through the layers below, their common beginnings once."""
        states, places, end = [], {}, 0
        for group in micro_batches(group_by_prefix(0, examples), budget):
            layout = to_device(pack_batch(group, device=self.device.type), self.device)
            states.append(self.run(layout)[: sum(part.num_tokens for part in group)])
            for part in group:
                beginning, end = torch.arange(end, end + part.prefix), end + part.prefix
                for example in part.examples:
                    length = len(example.ids) - 1 - part.prefix
                    places[id(example)], end = (
                        torch.cat([beginning, torch.arange(end, end + length)]),
                        end + length,
                    )
        return Hidden(torch.cat(states), places, examples)


def tokens_of_a_row(examples: list[Example]) -> float:
    """What an example adds to a stretch of such ones, a common beginning counted once in each."""
    prefix = shared_prefix(examples)
    return (
        sum(len(example.ids) - 1 - prefix for example in examples) / max(len(examples), 1)
        + prefix / CHUNK_ROWS
    )


def gathered(
    pairs: list[tuple[Example, Any]], members: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """The hidden states (1, T, H) of tokens: of which of the examples each is one, and its place
    therein.
    """
    hiddens = {id(hidden): hidden for _, hidden in pairs}
    numbers = {each: number for number, each in enumerate(hiddens)}
    places = [hidden.places[id(example)] for example, hidden in pairs]
    firsts = torch.tensor([0, *itertools.accumulate(map(len, places))][:-1])
    whose = torch.tensor([numbers[id(hidden)] for _, hidden in pairs])[members]
    order = torch.argsort(whose, stable=True)
    device = pairs[0][1].states.device
    chosen = (
        torch.cat(places)[firsts[members] + positions][order]
        .to(device)
        .split(whose.bincount(minlength=len(hiddens)).tolist())
    )
    parts = [
        hidden.states.index_select(0, own)
        for hidden, own in zip(hiddens.values(), chosen, strict=True)
    ]
    return torch.cat(parts).index_select(0, order.argsort().to(device)).unsqueeze(0)
