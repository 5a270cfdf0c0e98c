"""The pack: one frozen base, many trials in slots, one forward and backward for all of them, and
each its own optimizer step.

A trial ends as it would have alone: its examples, initial weights and learning rates come from
(seed, step), its loss is weighted by its own token count, its gradient clipped by its own norm, and
nothing is averaged across slots. Free of Ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from jobs.config import BaseModel, Scoring, Trial
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import Corpus, load_corpus
from jobs.data.tokenization import Example
from jobs.data.trial_data import TrialData, shortened
from jobs.evaluation import registry
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
from jobs.pack.slot import Slot
from jobs.training.distributed import World
from jobs.training.optimizer import NON_FINITE_LIMIT, not_finite

PASS_TOKENS_ON_CPU = 3072
"""Eight slots of short examples in one pass. Smaller passes cost more calls where matrix units are
quick, larger ones gain nothing.
"""


class NotPackable(ValueError):
    """This model has to take the plain executor."""


class Pack:
    """The worker's side of a pack. `first` is any trial that will join: base, format and layers are
    the same for all.
    """

    def __init__(
        self,
        base: BaseModel,
        first: Trial,
        world: World | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.base, self.world, self.say = base, world or World(), say
        self.scoring = Scoring()
        """What the sweep chooses trials by, where that needs generated answers."""
        self.generator: Any = None
        """The model that generates them; see generation.py."""
        self.device = pick_device()
        self.dtype = pick_dtype(first.train.dtype, self.device)
        self.template = ChatTokenizer(base.path)
        self.initial = Initial(base.path, self.dtype)
        self.slots: dict[int, Slot] = {}
        self.active = AdapterStacks()
        self.layout: PackedBatch | None = None
        self.corpora: dict[str, tuple[Corpus, dict[tuple[str, int], Example], list[Example]]] = {}
        self.sharing = True
        """Whether a common beginning is computed once. Off, it stands before every example: as a
        reference, for tests and benchmarks.
        """
        self.budget = first.train.pass_tokens(self.device.type == "cuda")
        if self.device.type == "cpu":
            self.budget = min(self.budget, PASS_TOKENS_ON_CPU)
        self.frames = CudaGraphCache(self.device, self.say) if self.device.type == "cuda" else None
        self.beginnings: dict[tuple[int, ...], int] = {}
        """How long the beginning is that the examples of a template share."""
        self.model: Any = load(base.path, self.dtype, self.device).requires_grad_(False)
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
        self.tail, self.trunk = (
            SelectiveMLP(self.model, self.active),
            HiddenStateCache(self.model, self.active, self.device),
        )
        register()
        head.register_forward_pre_hook(self._supervised_only)

    def _names(self, trial: Trial) -> list[str]:
        """The layers that carry an adapter. Raises ValueError for targets that PEFT refuses
        anywhere.
        """
        try:
            names = self.initial.names(trial.adapter)
            for name in names:
                self.model.get_submodule(name)  # PEFT names layers that it makes itself, too
            return names
        except (AttributeError, TypeError, NotImplementedError, RuntimeError) as error:
            raise NotPackable(
                f"PEFT cannot attach to its structure alone: {' '.join(str(error).split())[:150]}"
            ) from error

    def _supervised_only(self, module: Any, inputs: Any) -> Any:
        """Hand the head the hidden states of the tokens that something is predicted from."""
        return None if self.layout is None else (inputs[0][:, self.layout.places], *inputs[1:])

    def join(self, number: int, trial: Trial, checkpoint: Path | None = None) -> None:
        """Give a trial the slot `number`, at its start or where a checkpoint left it. Raises
        ValueError for data that cannot be used.
        """
        corpus, known, _ = self.corpus(trial)
        state, settings = self.initial.draw(trial.adapter, trial.seed)
        scale = trial.adapter.alpha / trial.adapter.rank
        adapter = Adapter(self.shapes, trial.adapter.rank, scale, self.dtype, self.device)
        adapter.read(state)
        slot = Slot(trial, TrialData(trial, self.template, corpus, known), adapter, settings)
        if checkpoint is not None:
            slot.restore(checkpoint)
        self.slots[number] = slot
        self.active.adapters[number] = adapter
        self.forget_frames()

    def leave(self, number: int) -> None:
        """Free a slot."""
        del self.slots[number]
        self.active.leave(number)
        self.trunk.keep({slot.course.walk for slot in self.slots.values()})
        self.forget_frames()

    def forget_frames(self) -> None:
        """What was recorded reads weights that have another place now."""
        if self.frames is not None:
            self.frames.clear()

    def corpus(self, trial: Trial) -> tuple[Corpus, dict[tuple[str, int], Example], list[Example]]:
        """Rows, tokenised rows and the tokenised validation split; trials on the same files share
        them.
        """
        key = repr(
            (trial.data.folder, {name: source.path for name, source in trial.data.sources.items()})
        )
        key += repr(
            (trial.data.valid, trial.data.test, trial.data.instruction, trial.train.max_length)
        )
        if key not in self.corpora:
            corpus = load_corpus(trial.data)
            self.corpora[key] = corpus, {}, TrialData(trial, self.template, corpus).valid()
        return self.corpora[key]

    def lay(
        self,
        parts: list[PrefixGroup],
        drops: dict[int, DropoutSpec] | None = None,
        room: BatchShape | None = None,
    ) -> PackedBatch:
        """The layout of a pass, on the CPU. The slots must have been arranged."""
        layout = pack_batch(parts, self.family, room, self.device.type)
        if drops:
            layout.groups = draw(layout.groups, parts, drops)
        layout.row = row_of(layout) if self.tail.handles else None
        return layout

    def family(self, number: int) -> int:
        """Which slots may be grouped."""
        return self.active.adapters[number].family

    def run(self, parts: list[PrefixGroup]) -> tuple[PackedBatch, torch.Tensor]:
        """One forward pass: its layout, and logits (S, V) at the supervised tokens."""
        layout = to_device(self.trunk.fill(self.lay(parts), parts, self.budget), self.device)
        return layout, self.forward(layout)

    def forward(self, layout: PackedBatch) -> torch.Tensor:
        """Logits (S, V) at the supervised tokens of a layout on the device."""
        self.layout, self.active.groups = layout, layout.groups
        self.tail.begin(layout)
        try:
            with self.trunk.behind(layout):
                return self.model(**layout.inputs).logits.squeeze(
                    0
                )  # whose gradient, unlike that of [0], is no copy
        finally:
            self.layout, self.active.groups, self.active.ready = None, [], {}
            self.tail.begin(None)

    def step(self, numbers: list[int]) -> dict[int, dict[str, float]]:
        """One optimizer step of each of these slots; returns their metrics.

        Raises MemoryError when not even one example fits.
        """
        began = time.perf_counter()
        chosen = {number: self.slots[number] for number in sorted(numbers)}
        batches = {number: slot.course.batch(slot.step) for number, slot in chosen.items()}
        alone = (
            self.trunk.attached and self.world.size == 1
        )  # several workers see different rows: each runs its own, whole
        stretches = (
            {number: slot.course.stretches(slot.step) for number, slot in chosen.items()}
            if alone
            else {}
        )
        with self.trunk.expecting(
            stretches, [example for batch in batches.values() for example in batch]
        ):
            losses = self.gradients(batches)
        norms = torch.stack(
            [torch.linalg.vector_norm(slot.adapter.gradient) for slot in chosen.values()]
        ).tolist()
        rates = {
            number: slot.update(losses[number], norm)
            for (number, slot), norm in zip(chosen.items(), norms, strict=True)
        }
        seconds = time.perf_counter() - began
        return {
            number: {
                registry.TRAIN_LOSS: losses[number],
                "train/learning_rate": rates[number],
                "train/gradient_norm": norm,
                "train/tokens_per_second": sum(len(example.ids) for example in batches[number])
                / seconds,
                "train/examples_per_second": len(batches[number]) / seconds,
                **shortened("train", batches[number]),
            }
            for number, norm in zip(chosen, norms, strict=True)
        }

    def unreadable(self, number: int) -> str | None:
        """Why the slot's next batch cannot be trained on, if so."""
        return self.slots[number].unreadable()

    def failure(self, number: int) -> str | None:
        """Why a slot should not go on, if so."""
        slot = self.slots[number]
        return not_finite(slot.step, slot.trial.optim) if slot.num_bad >= NON_FINITE_LIMIT else None

    def gradients(self, batches: dict[int, list[Example]]) -> dict[int, float]:
        """Fill every slot's gradient for its batch; returns the mean loss per supervised token of
        each whole batch.

        Out of memory: the token budget is halved and all of it done again, which changes nothing in
        the sums but their rounding.
        """
        shares = {number: self.share(number, batch) for number, batch in batches.items()}
        adapters, counts = (
            self.active.adapters,
            {number: sum(part.num_tokens for part in own) for number, own in shares.items()},
        )
        order = sorted(
            filter(counts.get, shares), key=lambda number: (adapters[number].family, counts[number])
        )
        for number in shares.keys() - set(order):
            adapters[number].gradient.zero_()
        parts = [part for number in order for part in shares[number]]
        while True:
            self.active.arrange(order)
            try:
                totals = self.backward(parts, list(batches))
                break
            except (MemoryError, RuntimeError) as error:
                self.shrink(parts, error)
        for number in batches if self.world.size > 1 else ():
            self.world.add(self.slots[number].adapter.gradient)
        for number in batches if self.device.type == "cuda" else ():  # which is still busy
            self.slots[number].read_ahead()
        return dict(zip(batches, self.world.add(totals).tolist(), strict=True))

    def share(self, number: int, batch: list[Example]) -> list[PrefixGroup]:
        """This worker's part of a slot's batch."""
        slot = self.slots[number]
        weight = 1 / sum(slot.course.supervised(example) for example in batch)
        own = batch[self.world.rank :: self.world.size]
        parts = group_by_prefix(number, own, weight, slot.trial.train.on == "all", self.sharing)
        return parts if self.frames is None else equalise_prefixes(parts, self.beginnings)

    def backward(self, parts: list[PrefixGroup], numbers: list[int]) -> torch.Tensor:
        """Forward and backward of all passes; float32 losses in the order of `numbers`."""
        place, drops = {number: index for index, number in enumerate(numbers)}, self.drops(numbers)
        totals = torch.zeros(len(numbers), device=self.device)
        for group in micro_batches(parts, self.budget):
            slots, sums = self.one_pass(group, drops)
            self.active.collect(slots)
            totals.index_add_(
                0, torch.tensor([place[slot] for slot in slots], device=self.device), sums
            )
        return totals

    def one_pass(
        self, parts: list[PrefixGroup], drops: dict[int, DropoutSpec]
    ) -> tuple[list[int], torch.Tensor]:
        """Forward and backward of one pass: whose they were, and their losses."""
        if (
            self.frames is None
            or drops
            or sum(part.num_tokens for part in parts) >= self.frames.enough
        ):
            layout = self.lay(parts, drops)
            return layout.slots, self.both_ways(
                to_device(self.trunk.fill(layout, parts, self.budget), self.device)
            )
        needed = room_for(parts, self.family)
        frame = self.frames.find(needed, self.active.stands(parts))
        layout = self.trunk.fill(self.lay(parts, room=frame.room), parts, self.budget)
        return layout.slots, self.frames.run(frame, layout, self.both_ways)

    def both_ways(self, layout: PackedBatch) -> torch.Tensor:
        """Forward and backward of a layout on the device; float32 losses in the order of its
        slots.
        """
        total, losses = CrossEntropy.apply(self.forward(layout), layout.targets, layout.weights)  # type: ignore[misc]
        total.backward()
        return torch.zeros(len(layout.slots), device=self.device).index_add_(
            0, layout.owners, losses * layout.weights
        )

    def drops(self, numbers: list[int]) -> dict[int, DropoutSpec]:
        """What these slots drop in their present step, where they do."""
        trials = {number: self.slots[number].trial for number in numbers}
        return {
            number: DropoutSpec(trial.seed, self.slots[number].step, trial.adapter.dropout)
            for number, trial in trials.items()
            if trial.adapter.dropout > 0
        }

    def shrink(self, parts: list[PrefixGroup], error: Exception) -> None:
        """Halve the token budget after running out of memory; raises when one example alone does
        not fit, or on any other error.
        """
        if not out_of_memory(error):
            raise error
        longest = max(len(example.ids) for part in parts for example in part.examples)
        if self.budget <= longest:
            text = (
                f"out of memory on one example of {longest} tokens; a smaller train.max_length or "
                "a smaller model helps"
            )
            raise MemoryError(text) from None
        self.forget_frames()
        self.trunk.shrink()
        drop_prepacked(self.model)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.budget = max(min(self.budget, sum(part.num_tokens for part in parts)) // 2, longest)
        self.say(
            f"out of memory: goes on with train.tokens_per_step={self.budget}, same effective batch"
        )

    def save(self, number: int, folder: Path) -> None:
        """Write one slot's checkpoint into an empty folder."""
        self.slots[number].save(folder)

    def specialise(self) -> None:
        """Turn the model that was loaded, which runs examples one by one, into the one that runs
        the flat row.
        """
        self.model.set_attn_implementation(NAME)
        replace_norms(self.model)
        prepack_weights(self.model, [layer.frozen for layer in self.active.layers])
        self.active.join_layers()
        self.tail.attach()
        self.trunk.attach()
