"""The pack: one frozen base, many trials in slots, one forward and backward for all of them, and each its own optimizer step.

A trial ends as it would have alone: its examples, initial weights and learning rates come from (seed, step), its loss is weighted by its
own token count, its gradient clipped by its own norm, and nothing is averaged across slots. Free of Ray.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from jobs.config import BaseModel, Trial
from jobs.course import Course
from jobs.data import Corpus, Example, Template, load_corpus
from jobs.evaluate import Tally, out_of_memory
from jobs.finetune import NON_FINITE_LIMIT, World, learning_rate, not_finite
from jobs.masks import Drop
from jobs.model import load, pick_device, pick_dtype
from jobs.pack.adapter import Adapter
from jobs.pack.attention import NAME, register
from jobs.pack.dropout import draw
from jobs.pack.head import Losses, hits
from jobs.pack.initial import Initial
from jobs.pack.layout import Layout, Portion, build, divide, portion
from jobs.pack.lora import Active, inject
from jobs.pack.norm import replace_norms
from jobs.pack.slot import Slot
from jobs.pack.tail import Tail

PASS_TOKENS_ON_CPU = 3072
"""Eight slots of short examples in one pass. Smaller passes cost more calls where matrix units are quick, larger ones gain nothing."""


class NotPackable(ValueError):
    """This model has to take the plain executor."""


class Pack:
    """The worker's side of a pack. `first` is any trial that will join: base, format and layers are the same for all."""

    def __init__(self, base: BaseModel, first: Trial, world: World | None = None, say: Callable[[str], None] = lambda text: None) -> None:
        self.base, self.world, self.say = base, world or World(), say
        self.device = pick_device()
        self.dtype = pick_dtype(first.train.dtype, self.device)
        self.template = Template(base.path)
        self.initial = Initial(base.path, self.dtype)
        self.slots: dict[int, Slot] = {}
        self.active = Active()
        self.layout: Layout | None = None
        self.corpora: dict[str, tuple[Corpus, dict[tuple[str, int], Example], list[Example]]] = {}
        self.sharing = True
        """Whether a common beginning is computed once. Off, it stands before every example: as a reference, for tests and benchmarks."""
        self.budget = first.train.tokens_per_step
        if self.device.type == "cpu":
            self.budget = min(self.budget, PASS_TOKENS_ON_CPU)
        self.model: Any = load(base.path, self.dtype, self.device).requires_grad_(False)
        self.names = self._names(first)
        head = self.model.get_output_embeddings()
        if head is None or any(self.model.get_submodule(name) is head for name in self.names):
            raise NotPackable("it has no output layer of its own that could be asked for some tokens only")
        try:
            self.shapes = inject(self.model, self.names, self.active)
        except ValueError as error:
            raise NotPackable(str(error)) from error
        self.tail = Tail(self.model, self.active)
        register()
        head.register_forward_pre_hook(self._supervised_only)

    def _names(self, trial: Trial) -> list[str]:
        """The layers that carry an adapter. Raises ValueError for targets that PEFT refuses anywhere."""
        try:
            return self.initial.names(trial.adapter)
        except (AttributeError, TypeError, NotImplementedError, RuntimeError) as error:
            raise NotPackable(f"PEFT cannot attach to its structure alone: {' '.join(str(error).split())[:150]}") from error

    def _supervised_only(self, module: Any, inputs: Any) -> Any:
        """Hand the head the hidden states of the tokens that something is predicted from."""
        return None if self.layout is None else (inputs[0][:, self.layout.places], *inputs[1:])

    def join(self, number: int, trial: Trial, checkpoint: Path | None = None) -> None:
        """Give a trial the slot `number`, at its start or where a checkpoint left it. Raises ValueError for data that cannot be used."""
        corpus, known, _ = self.corpus(trial)
        state, settings = self.initial.draw(trial.adapter, trial.seed)
        scale = trial.adapter.alpha / trial.adapter.rank
        adapter = Adapter(self.shapes, trial.adapter.rank, scale, self.dtype, self.device)
        adapter.read(state)
        slot = Slot(trial, Course(trial, self.template, corpus, known), adapter, settings)
        if checkpoint is not None:
            slot.restore(checkpoint)
        self.slots[number] = slot
        self.active.adapters[number] = adapter

    def leave(self, number: int) -> None:
        """Free a slot."""
        del self.slots[number]
        self.active.leave(number)

    def corpus(self, trial: Trial) -> tuple[Corpus, dict[tuple[str, int], Example], list[Example]]:
        """Rows, tokenised rows and the tokenised validation split; trials on the same files share them."""
        key = repr((trial.data.folder, {name: source.path for name, source in trial.data.sources.items()}))
        key += repr((trial.data.valid, trial.data.test, trial.data.instruction, trial.train.max_length))
        if key not in self.corpora:
            corpus = load_corpus(trial.data)
            self.corpora[key] = corpus, {}, Course(trial, self.template, corpus).valid()
        return self.corpora[key]

    def run(self, parts: list[Portion], drops: dict[int, Drop] | None = None) -> tuple[Layout, torch.Tensor]:
        """One forward pass: its layout, and logits (S, V) at the supervised tokens. The slots must have been arranged."""
        self.layout = layout = build(parts, self.device, lambda number: self.active.adapters[number].family)
        if drops:
            layout.groups = draw(layout.groups, parts, drops, self.device)
        self.active.groups = layout.groups
        self.tail.begin(layout)
        try:
            inputs = {"input_ids": layout.ids, "position_ids": layout.positions, "use_cache": False, "pack": layout}
            return layout, self.model(**inputs).logits.squeeze(0)  # whose gradient, unlike that of [0], is no copy
        finally:
            self.layout, self.active.groups, self.active.ready, self.tail.row = None, [], {}, None

    def step(self, numbers: list[int]) -> dict[int, dict[str, float]]:
        """One optimizer step of each of these slots; returns their metrics.

        Raises MemoryError when not even one example fits.
        """
        began = time.perf_counter()
        chosen = {number: self.slots[number] for number in sorted(numbers)}
        batches = {number: slot.course.batch(slot.step) for number, slot in chosen.items()}
        losses = self.gradients(batches)
        norms = torch.stack([torch.linalg.vector_norm(slot.adapter.gradient) for slot in chosen.values()]).tolist()
        rates = {number: self.update(number, losses[number], norm) for number, norm in zip(chosen, norms, strict=True)}
        seconds = time.perf_counter() - began
        return {
            number: {
                "train/loss": losses[number],
                "train/learning_rate": rates[number],
                "train/gradient_norm": norm,
                "train/tokens_per_second": sum(len(example.ids) for example in batches[number]) / seconds,
                "train/examples_per_second": len(batches[number]) / seconds,
            }
            for number, norm in zip(chosen, norms, strict=True)
        }

    def update(self, number: int, loss: float, norm: float) -> float:
        """One slot's own optimizer step; returns its learning rate. What is not finite changes nothing."""
        slot = self.slots[number]
        optim = slot.trial.optim
        rate = learning_rate(optim, slot.step, slot.trial.train.steps)
        slot.step += 1
        slot.num_bad = 0 if math.isfinite(loss) and math.isfinite(norm) else slot.num_bad + 1
        if slot.num_bad == 0:
            shrink = optim.max_norm / (norm + 1e-6)  # as torch.nn.utils.clip_grad_norm_
            if shrink < 1:
                slot.adapter.gradient.mul_(shrink)
            for group in slot.optimizer.param_groups:
                group["lr"] = rate
            slot.optimizer.step()
        return rate

    def unreadable(self, number: int) -> str | None:
        """Why the slot's next batch cannot be trained on, if so. Reading it here costs nothing: rows are tokenised once."""
        slot = self.slots[number]
        try:
            slot.course.batch(slot.step)
        except ValueError as error:
            return str(error)
        return None

    def failure(self, number: int) -> str | None:
        """Why a slot should not go on, if so."""
        slot = self.slots[number]
        return not_finite(slot.step, slot.trial.optim) if slot.num_bad >= NON_FINITE_LIMIT else None

    def gradients(self, batches: dict[int, list[Example]]) -> dict[int, float]:
        """Fill every slot's gradient for its batch; returns the mean loss per supervised token of each whole batch.

        Out of memory: the token budget is halved and all of it done again, which changes nothing in the sums but their rounding.
        """
        shares = {number: self.share(number, batch) for number, batch in batches.items()}
        adapters, counts = self.active.adapters, {number: sum(part.num_tokens for part in own) for number, own in shares.items()}
        order = sorted(filter(counts.get, shares), key=lambda number: (adapters[number].family, counts[number]))
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
        return dict(zip(batches, self.world.add(totals).tolist(), strict=True))

    def share(self, number: int, batch: list[Example]) -> list[Portion]:
        """This worker's part of a slot's batch."""
        slot = self.slots[number]
        weight = 1 / sum(slot.course.supervised(example) for example in batch)
        own = batch[self.world.rank :: self.world.size]
        return portion(number, own, weight, slot.trial.train.on == "all", self.sharing)

    def backward(self, parts: list[Portion], numbers: list[int]) -> torch.Tensor:
        """Forward and backward of all passes; float32 losses in the order of `numbers`."""
        place, drops = {number: index for index, number in enumerate(numbers)}, self.drops(numbers)
        totals = torch.zeros(len(numbers), device=self.device)
        for group in divide(parts, self.budget):
            layout, logits = self.run(group, drops)
            total, losses = Losses.apply(logits, layout.targets, layout.weights)  # type: ignore[misc]
            total.backward()
            self.active.collect(layout.slots)
            owners = torch.tensor([place[slot] for slot in layout.slots], device=self.device)[layout.owners]
            totals.index_add_(0, owners, losses * layout.weights)
        return totals

    def drops(self, numbers: list[int]) -> dict[int, Drop]:
        """What these slots drop in their present step, where they do."""
        trials = {number: self.slots[number].trial for number in numbers}
        return {
            number: Drop(trial.seed, self.slots[number].step, trial.adapter.dropout)
            for number, trial in trials.items()
            if trial.adapter.dropout > 0
        }

    def shrink(self, parts: list[Portion], error: Exception) -> None:
        """Halve the token budget after running out of memory; raises when one example alone does not fit, or on any other error."""
        if not out_of_memory(error):
            raise error
        longest = max(len(example.ids) for part in parts for example in part.examples)
        if self.budget <= longest:
            text = f"out of memory on one example of {longest} tokens; a smaller train.max_length or a smaller model helps"
            raise MemoryError(text) from None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.budget = max(min(self.budget, sum(part.num_tokens for part in parts)) // 2, longest)
        self.say(f"out of memory: goes on with train.tokens_per_step={self.budget}, same effective batch")

    @torch.no_grad()
    def evaluate(self, numbers: list[int]) -> dict[int, Tally]:
        """Loss and exact match of each slot on its validation split, shared between the workers; see jobs/evaluate.tally."""
        return {number: self.tally(number) for number in sorted(numbers)}

    def tally(self, number: int) -> Tally:
        """One slot's validation."""
        _, _, valid = self.corpus(self.slots[number].trial)
        parts = portion(number, valid[self.world.rank :: self.world.size], share=self.sharing)
        self.active.arrange([number])
        while True:
            try:
                sums = torch.zeros(4, dtype=torch.float64, device=self.device)
                for group in divide(parts, self.budget if self.device.type == "cpu" else 4 * self.budget):  # no gradients to keep
                    sums += self.tally_pass(group)
                break
            except (MemoryError, RuntimeError) as error:
                self.shrink(parts, error)
        loss, tokens, exact, rows = self.world.add(sums).tolist()
        return Tally(loss, int(tokens), int(exact), int(rows))

    def tally_pass(self, group: list[Portion]) -> torch.Tensor:
        """Sums over one pass: loss, tokens, examples answered exactly, examples; float64 (4,)."""
        layout, logits = self.run(group)
        _, losses = Losses.apply(logits, layout.targets, layout.weights)  # type: ignore[misc]
        missed = torch.zeros(len(layout.examples), device=self.device).index_add_(
            0, layout.answers, (~hits(logits, layout.targets)).float()
        )
        sums = (losses.double().sum(), len(losses), (missed == 0).sum(), len(missed))
        return torch.tensor([float(value) for value in sums], dtype=torch.float64, device=self.device)

    def save(self, number: int, folder: Path) -> None:
        """Write one slot's checkpoint into an empty folder."""
        self.slots[number].save(folder)

    def specialise(self) -> None:
        """Turn the model that was loaded, which runs examples one by one, into the one that runs the flat row."""
        self.model.set_attn_implementation(NAME)
        replace_norms(self.model)
        self.active.join_layers()
        self.tail.attach()
