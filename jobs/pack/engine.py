"""The pack: many trials in slots over one frozen base model.

Implementation notes
--------------------
One forward and backward pass serves all slots; each slot has its own adapter, loss, gradient clip
and optimizer. A training step (`step`, and `gradients` within it):

    batch of slot 1 --+                                               +-> gradient, AdamW of slot 1
    batch of slot 2 --+-> prefix groups -> micro-batches -> one pass -+-> gradient, AdamW of slot 2
    batch of slot 5 --+                                  for all      +-> gradient, AdamW of slot 5

Invariants:
- A trial ends as it would have alone. Its examples, initial weights and learning rates come from
  (seed, step), its loss is weighted by its own token count, its gradient is clipped by its own
  norm. Nothing is averaged across slots, and no slot's NaN reaches another slot.
- Slots of one family (ranks padded to one size) stand side by side in one stack. So the slots of a
  step are sorted by family, then by tokens, and slots of equally many tokens form a `Group`.
- Every optimizer step sees the whole batch, in as many passes as the token budget asks for. After
  running out of memory the budget is halved and the step begins again; only rounding changes.
- Each of several workers takes a share of every batch; their gradients are added.

Cost: a pass reads the frozen weights once for all slots. With W frozen weights it takes about
4 * T * W operations; layers below the lowest adapter take 2 * T * W once per row.

Shapes: T tokens of the packed row, S supervised tokens, V the vocabulary, H the hidden width.
Free of Ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch

from jobs.config import BaseModel, Scoring, Trial
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import Corpus, load_corpus
from jobs.data.paths import rows_key
from jobs.data.tokenization import Example
from jobs.data.trial_data import TrialData
from jobs.model.frozen_linear import drop_prepacked, prepack_weights
from jobs.model.loading import load, pick_device, pick_dtype
from jobs.model.memory import out_of_memory
from jobs.model.seeded_dropout import DropoutSpec
from jobs.pack.attention.interface import NAME, register
from jobs.pack.batch.builder import pack_batch, room_for
from jobs.pack.batch.dropout import draw
from jobs.pack.batch.packed_batch import BatchShape, PackedBatch
from jobs.pack.batch.prefix_groups import (
    PrefixGroup,
    equalise_prefixes,
    group_by_prefix,
    micro_batches,
)
from jobs.pack.batch.transfer import to_device
from jobs.pack.cuda_graphs import CudaGraphCache
from jobs.pack.layers.adapter_weights import Adapter
from jobs.pack.layers.cross_entropy import CrossEntropy
from jobs.pack.layers.hidden_cache import HiddenStateCache
from jobs.pack.layers.initial_weights import Initial
from jobs.pack.layers.lora_linear import AdapterStacks, inject
from jobs.pack.layers.rms_norm import replace_norms
from jobs.pack.layers.selective_mlp import SelectiveMLP, row_of
from jobs.pack.slot import Slot, dropouts, step_metrics
from jobs.training.distributed import World
from jobs.training.optimizer import NON_FINITE_LIMIT, not_finite

PASS_TOKENS_ON_CPU = 3072
"""The token budget of a pass on a CPU: eight slots of short examples."""


class NotPackable(ValueError):
    """This model has to take the plain executor."""


class Pack:
    """Model, slots and training of one worker. `first` is any trial that will join."""

    def __init__(
        self,
        base: BaseModel,
        first: Trial,
        world: World | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.base = base
        self.world = world or World()
        self.say = say
        self.scorings = {
            0: Scoring()
        }  # what each task's sweep chooses by, where that needs answers
        self.generator: Any = None  # the model that generates them; see generation.py
        self.device = pick_device()
        self.dtype = pick_dtype(first.train.dtype, self.device)
        self.template = ChatTokenizer(base.path)
        self.initial = Initial(base.path, self.dtype)
        self.slots: dict[int, Slot] = {}
        self.active = AdapterStacks()
        self.layout: PackedBatch | None = None
        """The batch of the forward pass under way."""
        self.corpora: dict[str, tuple[Corpus, dict[Hashable, Example], list[Example]]] = {}
        self.sharing = True
        """Whether a common prefix is computed once. Off, it stands before every example: the
        reference of tests and benchmarks.
        """
        self.budget = first.train.pass_tokens(self.device.type == "cuda")
        if self.device.type == "cpu":
            self.budget = min(self.budget, PASS_TOKENS_ON_CPU)
        self.frames = CudaGraphCache(self.device, self.say) if self.device.type == "cuda" else None
        self.beginnings: dict[tuple[int, ...], int] = {}
        """The shortest prefix of each template so far; see `equalise_prefixes`."""
        self.model = load(base.path, self.dtype, self.device).requires_grad_(False)
        self.names = self._names(first)
        head = self.model.get_output_embeddings()
        if head is None or any(self.model.get_submodule(name) is head for name in self.names):
            raise NotPackable(
                "it has no output layer of its own that could be asked for some tokens only"
            )
        try:
            self.shapes = inject(self.model, self.names, self.active)
        except ValueError as error:
            raise NotPackable(str(error)) from error
        self.tail = SelectiveMLP(self.model, self.active)
        self.hidden_cache = HiddenStateCache(self.model, self.active, self.device)
        register()
        head.register_forward_pre_hook(self._supervised_only)

    def _names(self, trial: Trial) -> list[str]:
        """The layers that carry an adapter. Raises ValueError for targets that PEFT refuses."""
        try:
            names = self.initial.names(trial.adapter)
            for name in names:
                self.model.get_submodule(name)  # PEFT names layers that it makes itself, too
            return names
        except (AttributeError, TypeError, NotImplementedError, RuntimeError) as error:
            raise NotPackable(
                f"PEFT cannot attach to its structure alone: {' '.join(str(error).split())[:150]}"
            ) from error

    def _supervised_only(self, module: torch.nn.Module, inputs: Any) -> Any:
        """The hook before the head: hidden states (1, T, H) -> those of the loss positions
        (1, S, H).
        """
        if self.layout is None:
            return None
        return inputs[0][:, self.layout.loss_positions], *inputs[1:]

    def join(self, slot_id: int, trial: Trial, checkpoint: Path | None = None) -> None:
        """Give a trial the slot `slot_id`, at its start or where a checkpoint left it.

        Raises ValueError for data that cannot be used.
        """
        corpus, token_cache, _ = self.corpus(trial)
        state, settings = self.initial.draw(trial.adapter, trial.seed)
        scale = trial.adapter.alpha / trial.adapter.rank
        adapter = Adapter(self.shapes, trial.adapter.rank, scale, self.dtype, self.device)
        adapter.read(state)
        slot = Slot(trial, TrialData(trial, self.template, corpus, token_cache), adapter, settings)
        if checkpoint is not None:
            slot.restore(checkpoint)
        self.slots[slot_id] = slot
        self.active.adapters[slot_id] = adapter
        self.forget_frames()

    def leave(self, slot_id: int) -> None:
        """Free a slot."""
        del self.slots[slot_id]
        self.active.leave(slot_id)
        self.hidden_cache.keep({slot.course.walk for slot in self.slots.values()})
        self.forget_frames()

    def forget_frames(self) -> None:
        """Drop the captured graphs, which read weights at their old addresses."""
        if self.frames is not None:
            self.frames.clear()

    def corpus(self, trial: Trial) -> tuple[Corpus, dict[Hashable, Example], list[Example]]:
        """The rows, the cache of tokenised rows, and the tokenised validation split. Trials on the
        same files that show as many neighbours share them.
        """
        data = trial.data
        key = rows_key(data) + repr((trial.train.max_length, trial.train.on, data.neighbours))
        if key not in self.corpora:
            corpus = load_corpus(trial.data)
            self.corpora[key] = corpus, {}, TrialData(trial, self.template, corpus).valid()
        return self.corpora[key]

    def lay(
        self,
        prefix_groups: list[PrefixGroup],
        drops: dict[int, DropoutSpec] | None = None,
        room: BatchShape | None = None,
    ) -> PackedBatch:
        """The packed batch of a pass, on the CPU. Its slots must have been arranged."""
        layout = pack_batch(prefix_groups, self.family, room, self.device.type)
        if drops:
            layout.groups = draw(layout.groups, prefix_groups, drops)
        layout.row = row_of(layout) if self.tail.handles else None
        return layout

    def family(self, slot_id: int) -> int:
        """The family of a slot: slots of one family may form a group."""
        return self.active.adapters[slot_id].family

    def run(self, prefix_groups: list[PrefixGroup]) -> tuple[PackedBatch, torch.Tensor]:
        """One forward pass: its packed batch, and logits (S, V) at the supervised tokens."""
        layout = self.hidden_cache.fill(self.lay(prefix_groups), prefix_groups, self.budget)
        layout = to_device(layout, self.device)
        return layout, self.forward(layout)

    def forward(self, layout: PackedBatch) -> torch.Tensor:
        """Logits (S, V) in `dtype`, at the supervised tokens of a packed batch on the device."""
        self.layout = layout
        self.active.groups = layout.groups
        self.tail.begin(layout)
        try:
            with self.hidden_cache.behind(layout):
                # The gradient of squeeze(0), unlike that of [0], is no copy.
                return self.model(**layout.inputs).logits.squeeze(0)
        finally:
            self.layout = None
            self.active.groups = []
            self.active.ready = {}
            self.tail.begin(None)

    def step(self, slot_ids: list[int]) -> dict[int, dict[str, float]]:
        """One optimizer step of each of these slots; returns their metrics.

        Raises MemoryError when not even one example fits.
        """
        began = time.perf_counter()
        # 1) Read every slot's batch.
        chosen = {slot_id: self.slots[slot_id] for slot_id in sorted(slot_ids)}
        batches = {slot_id: slot.course.batch(slot.step) for slot_id, slot in chosen.items()}
        examples = [example for batch in batches.values() for example in batch]
        # 2) Book what the frozen layers below make of them. Several workers see different rows:
        #    then each runs its own rows, and books nothing.
        chunks = {}
        if self.hidden_cache.attached and self.world.size == 1:
            chunks = {slot_id: slot.course.chunks(slot.step) for slot_id, slot in chosen.items()}
        with self.hidden_cache.expecting(chunks, examples):
            # 3) Forward and backward in as many passes as the memory needs.
            losses = self.gradients(batches)
        # 4) Clip and update each slot by itself. The norms come to the CPU in one copy.
        norms = torch.stack(
            [torch.linalg.vector_norm(slot.adapter.gradient) for slot in chosen.values()]
        ).tolist()
        rates = {
            slot_id: slot.update(losses[slot_id], norm)
            for (slot_id, slot), norm in zip(chosen.items(), norms, strict=True)
        }
        # 5) Metrics.
        seconds = time.perf_counter() - began
        return {
            slot_id: step_metrics(losses[slot_id], rates[slot_id], norm, batches[slot_id], seconds)
            for slot_id, norm in zip(chosen, norms, strict=True)
        }

    def gradients(self, batches: dict[int, list[Example]]) -> dict[int, float]:
        """Fill every slot's gradient for its batch; returns the mean loss per supervised token of
        each whole batch, by slot.
        """
        # 1) This worker's examples, by common prefix.
        shares = {slot_id: self.share(slot_id, batch) for slot_id, batch in batches.items()}
        # 2) Sort the slots so that those which can be grouped are neighbours.
        adapters = self.active.adapters
        num_tokens = {
            slot_id: sum(prefix_group.num_tokens for prefix_group in slot_groups)
            for slot_id, slot_groups in shares.items()
        }
        order = sorted(
            (slot_id for slot_id in shares if num_tokens[slot_id]),
            key=lambda slot_id: (adapters[slot_id].family, num_tokens[slot_id]),
        )
        for slot_id in shares.keys() - set(order):
            adapters[slot_id].gradient.zero_()
        prefix_groups = [prefix_group for slot_id in order for prefix_group in shares[slot_id]]
        # 3) All passes; again with half the token budget when memory runs out.
        while True:
            self.active.arrange(order)
            try:
                totals = self.passes(prefix_groups, list(batches))
                break
            except (MemoryError, RuntimeError) as error:
                self.shrink(prefix_groups, error)
        # 4) Add the workers' gradients and losses.
        if self.world.size > 1:
            for slot_id in batches:
                self.world.add(self.slots[slot_id].adapter.gradient)
        if self.device.type == "cuda":  # which is still busy: tokenise meanwhile
            for slot_id in batches:
                self.slots[slot_id].read_ahead()
        return dict(zip(batches, self.world.add(totals).tolist(), strict=True))

    def passes(self, prefix_groups: list[PrefixGroup], slot_ids: list[int]) -> torch.Tensor:
        """Forward and backward of all micro-batches; losses, float32 (slots,), in the order of
        `slot_ids`.
        """
        row_of_slot = {slot_id: row for row, slot_id in enumerate(slot_ids)}
        drops = dropouts({slot_id: self.slots[slot_id] for slot_id in slot_ids})
        totals = torch.zeros(len(slot_ids), device=self.device)
        for micro_batch in micro_batches(prefix_groups, self.budget):
            num_tokens = sum(prefix_group.num_tokens for prefix_group in micro_batch)
            if self.frames is None or drops or num_tokens >= self.frames.enough:
                # a) Build the packed batch, look up its hidden states, run it.
                packed = self.lay(micro_batch, drops)
                layout = self.hidden_cache.fill(packed, micro_batch, self.budget)
                sums = self.both_ways(to_device(layout, self.device))
            else:
                # a) The same in the padded shape of a CUDA graph.
                needed = room_for(micro_batch, self.family)
                graph = self.frames.find(needed, self.active.stands(micro_batch))
                layout = self.lay(micro_batch, room=graph.room)
                layout = self.hidden_cache.fill(layout, micro_batch, self.budget)
                sums = self.frames.run(graph, layout, self.both_ways)
            # b) Add the gradients of the pass to those of its slots, and the losses likewise.
            self.active.collect(layout.slots)
            rows = [row_of_slot[slot_id] for slot_id in layout.slots]
            totals.index_add_(0, torch.tensor(rows, device=self.device), sums)
        return totals

    def both_ways(self, layout: PackedBatch) -> torch.Tensor:
        """Forward and backward of a packed batch on the device; losses, float32 (slots,), in the
        order of its slots.
        """
        total, losses = CrossEntropy.apply(self.forward(layout), layout.targets, layout.weights)  # type: ignore[misc]
        total.backward()
        return torch.zeros(len(layout.slots), device=self.device).index_add_(
            0, layout.owners, losses * layout.weights
        )

    def share(self, slot_id: int, batch: list[Example]) -> list[PrefixGroup]:
        """The examples of a slot's batch that this worker trains on, by common prefix."""
        slot = self.slots[slot_id]
        weight = 1 / sum(slot.course.supervised(example) for example in batch)
        worker_batch = batch[self.world.rank :: self.world.size]
        prefix_groups = group_by_prefix(
            slot_id, worker_batch, weight, slot.trial.train.on == "all", self.sharing
        )
        if self.frames is None:
            return prefix_groups
        return equalise_prefixes(prefix_groups, self.beginnings)

    def unreadable(self, slot_id: int) -> str | None:
        """Why the slot's next batch cannot be trained on; None when it can."""
        return self.slots[slot_id].unreadable()

    def failure(self, slot_id: int) -> str | None:
        """Why a slot should not go on; None when it should."""
        slot = self.slots[slot_id]
        if slot.num_bad < NON_FINITE_LIMIT:
            return None
        return not_finite(slot.step, slot.trial.optim)

    def shrink(self, prefix_groups: list[PrefixGroup], error: Exception) -> None:
        """Halve the token budget after running out of memory.

        Raises MemoryError when one example alone does not fit, and any other error again.
        """
        if not out_of_memory(error):
            raise error
        longest = max(
            len(example.ids) for prefix_group in prefix_groups for example in prefix_group.examples
        )
        if self.budget <= longest:
            text = (
                f"out of memory on one example of {longest} tokens; a smaller train.max_length or "
                "a smaller model helps"
            )
            raise MemoryError(text) from None
        self.forget_frames()
        self.hidden_cache.shrink()
        drop_prepacked(self.model)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.budget = max(
            min(self.budget, sum(prefix_group.num_tokens for prefix_group in prefix_groups)) // 2,
            longest,
        )
        self.say(
            f"out of memory: goes on with train.tokens_per_step={self.budget}, same effective batch"
        )

    def save(self, slot_id: int, folder: Path) -> None:
        """Write one slot's checkpoint into an empty folder."""
        self.slots[slot_id].save(folder)

    def enable_packing(self) -> None:
        """Turn the loaded model, which runs examples one by one, into the one that runs the packed
        row. The shortcuts `tail` and `hidden_cache` can be detached again.
        """
        self.model.set_attn_implementation(NAME)
        replace_norms(self.model)
        prepack_weights(self.model, [layer.frozen for layer in self.active.layers])
        self.active.join_layers()
        self.tail.attach()
        self.hidden_cache.attach()
