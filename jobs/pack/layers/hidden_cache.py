"""The hidden-state cache: what the frozen layers below the lowest adapter compute, once per row.

Implementation notes
--------------------
Layers below the lowest adapter are frozen, so their output is the same for every trial and every
step. The cache keeps it by chunk: 64 consecutive rows (CHUNK_ROWS) of one epoch over a source.

    step batch:     row 130          row 7            row 68       of slots 1, 1 and 2
                       |               |                |
    cache:        chunk 2 (P, H)  chunk 0 (P, H)  chunk 1 (P, H)   least recently used first
                       |               |                |
    gathered:     (1, T, H), the input of the first layer with an adapter

Algorithm:
1. `expecting` books the chunks of the step's examples before its passes.
2. `fill` finds or computes the chunk of each example of a pass (`find`, `make`), and gathers the
   hidden states of the pass's tokens in the order of its row (`gathered`).
3. `behind` hands these states to the hooks: the layers below return their input unchanged, and
   `enter` replaces the input of the first layer with an adapter.

Invariants:
- A chunk is always computed by itself, whoever asks for it first. So its states do not depend on
  the neighbours, and a trial's result does not depend on who shares the pack.
- An entry is found by the ids of its examples, so it keeps them alive.
- A second epoch reads the chunk in which a row was met first, if the whole source may be kept
  until then (`first_chunk`). Otherwise each epoch computes its own chunks.
- Chunks are kept up to `most_bytes`; the least recently used one is forgotten first. If one step
  needs more than half of that, each pass computes its own states and keeps nothing.

Cost: P * H numbers for a chunk of P tokens, a common prefix counted once. A hit costs two
`index_select` of T rows.

The layers are found by their place in the model. pack/compatibility.py tries whether hidden states
are all that passes between them.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from jobs.data.mixture import CHUNK_ROWS
from jobs.data.tokenization import Example, shared_prefix
from jobs.data.trial_data import Chunk
from jobs.pack.batch.builder import pack_batch
from jobs.pack.batch.packed_batch import PackedBatch
from jobs.pack.batch.prefix_groups import PrefixGroup, group_by_prefix, micro_batches
from jobs.pack.batch.transfer import to_device
from jobs.pack.layers.lora_linear import AdapterStacks, PackedLoRALinear

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel

MOST_BYTES = 1 << 30
"""The largest size of the cache. It is halved each time that memory runs out."""


@dataclass
class Hidden:
    """The hidden states of some examples: one entry of the cache."""

    states: torch.Tensor
    """(P, H)."""
    positions: dict[int, torch.Tensor]
    """By id of an example: int64 (its tokens but the last,), indices into `states`."""
    examples: list[Example]
    """Kept alive, so that no other example gets their ids."""


class ReachedFirstAdapter(Exception):
    """The first layer with an adapter is about to begin."""


def layers_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers of a decoder: the longest ModuleList that stands in no other one.

    The list of a layer's experts may be longer, but stands in the list of the layers.
    """
    stacks: list[tuple[str, torch.nn.ModuleList]] = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and not any(
            name.startswith(f"{outer}.") for outer, _ in stacks
        ):
            stacks.append((name, module))
    return list(max((stack for _, stack in stacks), key=len, default=[]))


class HiddenStateCache:
    """The frozen layers at the beginning of a model, and the cache of their output."""

    def __init__(self, model: PreTrainedModel, active: AdapterStacks, device: torch.device) -> None:
        self.model = model
        self.device = device
        layers = layers_of(model)
        carriers = {id(layer) for layer in active.layers}
        adapted = [
            index for index, layer in enumerate(layers) if carriers & set(map(id, layer.modules()))
        ]
        num_inside = sum(
            isinstance(module, PackedLoRALinear) for layer in layers for module in layer.modules()
        )
        first = adapted[0] if adapted and num_inside == len(active.layers) else 0
        self.below: list[torch.nn.Module] = layers[:first]
        """The layers that are skipped."""
        self.entry: torch.nn.Module | None = layers[first] if first else None
        """The first layer with an adapter; None where there is nothing below it."""
        self.attached = False
        self.most_bytes = MOST_BYTES
        self.cache: OrderedDict[Hashable, Hidden] = OrderedDict()
        """By name of a chunk, the most recently used last."""
        self.cached_input: torch.Tensor | None = None
        """(1, T, H): what enters the first layer with an adapter in the pass under way."""
        self.reached: list[torch.Tensor] | None = None
        """What `enter` has caught while `run` is under way."""
        self.hook: RemovableHandle | None = None
        self.sources: dict[tuple[Hashable, ...], float] = {}
        """Bytes booked for each source that is read a second time; 0 for one that is not kept."""
        self.chunks: dict[tuple[int, int], Chunk] = {}
        """By (slot, row of its batch): the chunks of the present step. A row that is not in it is
        computed for one pass.
        """

    def attach(self) -> None:
        """Set the hooks. A model whose first layer carries an adapter stays as it is."""
        if self.entry is None:
            return
        for layer in self.below:
            layer.forward = self.skippable(layer.forward)
        self.hook = self.entry.register_forward_pre_hook(self.enter, with_kwargs=True)
        self.attached = True

    def detach(self) -> bool:
        """Remove the hooks; returns whether there were any."""
        attached = self.attached
        self.attached = False
        if attached and self.hook is not None:
            self.hook.remove()
            self.cache.clear()
            for layer in self.below:
                del layer.forward
        return attached

    def skippable(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A layer's forward that returns its input (1, T, H) while `cached_input` is set."""
        num_outputs = 0  # 0 for a layer that returns a tensor and no tuple

        def skip(*args: Any, **options: Any) -> Any:
            nonlocal num_outputs
            if self.cached_input is not None:
                hidden = args[0] if args else options["hidden_states"]
                return (hidden, *[None] * (num_outputs - 1)) if num_outputs else hidden
            out = forward(*args, **options)
            num_outputs = len(out) if isinstance(out, tuple) else 0
            return out

        return skip

    def enter(self, module: Any, args: Any, options: Any) -> Any:
        """The hook before the first layer with an adapter: catch its input (1, T, H), or replace
        it by the cached one.
        """
        hidden = args[0] if args else options["hidden_states"]
        if self.reached is not None:
            self.reached.append(hidden)
            raise ReachedFirstAdapter
        if self.cached_input is None:
            return None
        if args:
            return (self.cached_input, *args[1:]), options
        return args, options | {"hidden_states": self.cached_input}

    @contextlib.contextmanager
    def expecting(self, chunks: dict[int, list[Chunk]], examples: list[Example]) -> Iterator[None]:
        """Book the chunks of the passes that follow.

        `chunks` has, by slot, the chunk of each row of its batch; `examples` are all examples of
        these passes. Nothing is booked where the chunks together would be forgotten before they
        are of use again: then each pass computes its own states.
        """
        row_bytes = self.token_bytes() * tokens_of_a_row(examples)
        chunks_to_keep = {
            slot_id: [self.first_chunk(chunk, row_bytes) for chunk in slot_chunks]
            for slot_id, slot_chunks in chunks.items()
        }
        names = {chunk.name for slot_chunks in chunks_to_keep.values() for chunk in slot_chunks}
        if len(names) * CHUNK_ROWS * row_bytes <= self.most_bytes / 2:
            self.chunks = {
                (slot_id, row): chunk
                for slot_id, slot_chunks in chunks_to_keep.items()
                for row, chunk in enumerate(slot_chunks)
            }
        try:
            yield
        finally:
            self.chunks = {}

    def first_chunk(self, chunk: Chunk, row_bytes: float) -> Chunk:
        """The chunk of the first epoch that has the same row, if its whole source may be kept;
        otherwise `chunk` itself.

        The first call for a source books `row_bytes` bytes for each of its rows.
        """
        if chunk.first is None:
            return chunk
        if chunk.source not in self.sources:
            size = chunk.num_rows * row_bytes
            fits = sum(self.sources.values()) + size <= self.most_bytes / 2
            self.sources[chunk.source] = size if fits else 0.0
        return chunk.first if self.sources[chunk.source] else chunk

    def keep(self, walks: set[Hashable]) -> None:
        """Free the bookings of slots that have left; `walks` are those of the slots that remain."""
        self.sources = {
            source: size for source, size in self.sources.items() if size and source[0] in walks
        }

    def shrink(self, times: int = 1) -> None:
        """Memory has run out `times` times: forget everything, and halve the size each time."""
        self.cache.clear()
        self.sources.clear()
        self.most_bytes >>= times

    def token_bytes(self) -> int:
        """Bytes of the hidden state of one token."""
        weight = cast("torch.nn.Embedding", self.model.get_input_embeddings()).weight
        return weight.shape[1] * weight.element_size()

    @contextlib.contextmanager
    def behind(self, layout: PackedBatch) -> Iterator[None]:
        """A forward pass that skips the layers below, if the batch has their output."""
        self.cached_input = layout.below
        try:
            yield
        finally:
            self.cached_input = None

    @torch.no_grad()
    def run(self, layout: PackedBatch) -> torch.Tensor:
        """The output (T, H) of the layers below for a batch on the device.

        In the format of the base.
        """
        self.reached = []
        try:
            self.model(**layout.inputs)
        except ReachedFirstAdapter:
            pass
        finally:
            reached = self.reached
            self.reached = None
        return reached[0].squeeze(0)

    def fill(
        self, layout: PackedBatch, prefix_groups: list[PrefixGroup], budget: int
    ) -> PackedBatch:
        """Set `below` (1, T, H) of a batch on the CPU, which was built from `prefix_groups`.

        Takes its `members` away, which nobody needs any more.
        """
        members = layout.members
        layout.members = None
        if not self.attached or members is None:
            return layout
        examples = [
            ((prefix_group.slot, row), example)
            for prefix_group in prefix_groups
            for row, example in zip(prefix_group.rows, prefix_group.examples, strict=True)
        ]
        # 1) The examples whose chunk is booked: from the cache.
        cached = [self.find(slot_row, example, budget) for slot_row, example in examples]
        # 2) The others: computed together, for this pass only.
        uncached = {
            id(example): example
            for (_, example), hidden in zip(examples, cached, strict=True)
            if hidden is None
        }
        computed = self.make(list(uncached.values()), budget) if uncached else None
        # 3) All tokens in the order of the row.
        sources: list[tuple[Example, Any]] = [
            (example, hidden or computed)
            for (_, example), hidden in zip(examples, cached, strict=True)
        ]
        layout.below = gathered(sources, members, layout.positions[0])
        return layout

    def find(self, slot_row: tuple[int, int], example: Example, budget: int) -> Hidden | None:
        """The entry of an example's chunk, computed if need be; None where no chunk is booked."""
        chunk = self.chunks.get(slot_row)
        if chunk is None:
            return None
        if chunk.name not in self.cache:
            self.cache[chunk.name] = self.make(chunk.read(), budget)
            while len(self.cache) > 1 and self.num_bytes() > self.most_bytes:
                self.cache.popitem(last=False)
        self.cache.move_to_end(chunk.name)
        hidden = self.cache[chunk.name]
        return hidden if id(example) in hidden.positions else None

    def num_bytes(self) -> int:
        """Bytes of all cached states."""
        return sum(hidden.states.nbytes for hidden in self.cache.values())

    def make(self, examples: list[Example], budget: int) -> Hidden:
        """Run examples through the layers below, in passes of `budget` tokens."""
        states = []
        positions = {}
        end = 0
        for micro_batch in micro_batches(group_by_prefix(0, examples), budget):
            layout = to_device(pack_batch(micro_batch, device=self.device.type), self.device)
            num_tokens = sum(prefix_group.num_tokens for prefix_group in micro_batch)
            states.append(self.run(layout)[:num_tokens])
            for prefix_group in micro_batch:
                prefix = torch.arange(end, end + prefix_group.prefix)
                end += prefix_group.prefix
                for example in prefix_group.examples:
                    length = len(example.ids) - 1 - prefix_group.prefix
                    suffix = torch.arange(end, end + length)
                    positions[id(example)] = torch.cat([prefix, suffix])
                    end += length
        return Hidden(torch.cat(states), positions, examples)


def tokens_of_a_row(examples: list[Example]) -> float:
    """Mean tokens that one example adds to a chunk of such examples, the prefix counted once."""
    prefix = shared_prefix(examples)
    return (
        sum(len(example.ids) - 1 - prefix for example in examples) / max(len(examples), 1)
        + prefix / CHUNK_ROWS
    )


def gathered(
    sources: list[tuple[Example, Hidden]], members: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """The hidden states (1, T, H) of a packed row.

    `members` (T,) says to which of the examples in `sources` a token belongs, `positions` (T,)
    where in that example it stands.

    The indices are int64; the states keep the format of the base.
    """
    # 1) Number the entries that the states come from, and concatenate the indices of all examples.
    entries = {id(hidden): hidden for _, hidden in sources}
    entry_index = {entry_id: index for index, entry_id in enumerate(entries)}
    example_indices = [hidden.positions[id(example)] for example, hidden in sources]
    starts = torch.tensor([0, *itertools.accumulate(map(len, example_indices))][:-1])
    # 2) Sort the tokens by entry, so that each entry is read by one index_select.
    entry_of_token = torch.tensor([entry_index[id(hidden)] for _, hidden in sources])[members]
    order = torch.argsort(entry_of_token, stable=True)
    device = sources[0][1].states.device
    sorted_indices = torch.cat(example_indices)[starts[members] + positions][order].to(device)
    tokens_per_entry = entry_of_token.bincount(minlength=len(entries)).tolist()
    selected = [
        hidden.states.index_select(0, indices)
        for hidden, indices in zip(
            entries.values(), sorted_indices.split(tokens_per_entry), strict=True
        )
    ]
    # 3) Bring the tokens back into the order of the row.
    return torch.cat(selected).index_select(0, order.argsort().to(device)).unsqueeze(0)
