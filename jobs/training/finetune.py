"""Training one trial: read the rows, attach the adapter, step, evaluate at rungs. Free of Ray, so
that it runs and is tested anywhere.

Every random choice comes from (seed, step), never from a global stream, so that a resumed trial
ends as an undisturbed one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from jobs.config import BaseModel, Scoring, Trial
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import load_corpus
from jobs.data.tokenization import Example, shared_prefix
from jobs.data.trial_data import TrialData, shortened
from jobs.evaluation import registry
from jobs.evaluation.answer_losses import NUM_SUMS, length_batches, teacher_forced_rows
from jobs.evaluation.by_source import numbered, sources_of
from jobs.evaluation.evaluate import EvaluationSums
from jobs.evaluation.generate import answer
from jobs.evaluation.rung_scores import RungScores
from jobs.files.manifest import Snapshot
from jobs.model import training_state
from jobs.model.loading import attach, load, pick_device, pick_dtype, precision, restore, save
from jobs.model.memory import out_of_memory
from jobs.model.seeded_dropout import DropoutSpec, DropoutState, seed_dropout
from jobs.model.shared_prefix import answer_logits, can_share_prefix
from jobs.training.distributed import World
from jobs.training.optimizer import NON_FINITE_LIMIT, adamw, learning_rate, not_finite


@dataclass
class Hooks:
    """What the training loop tells its surroundings."""

    on_rung: Callable[[dict[str, float], Snapshot], None]
    """Called by every worker after each evaluation, with the metrics and what writes a checkpoint
    into a folder.
    """
    on_step: Callable[[int, dict[str, float]], None] = field(default=lambda step, metrics: None)
    """Called by worker 0 after each optimizer step."""
    say: Callable[[str], None] = field(default=lambda text: None)
    """Called with what the user should know, such as a smaller micro-batch."""
    resting: Callable[[], bool] = field(default=lambda: False)
    """Called by every worker before each step: whether the sweep pauses here. All hear the same."""
    on_rest: Callable[[int, Snapshot], None] = field(default=lambda step, save: None)
    """Called by every worker where it does, with the step and what writes a checkpoint; then the
    loop ends.
    """


class Training:
    """The state of one trial in one worker: model, optimizer, data, and how far it is."""

    def __init__(
        self,
        trial: Trial,
        base: BaseModel,
        world: World,
        hooks: Hooks,
        checkpoint: Path | None,
        scoring: Scoring | None = None,
    ) -> None:
        self.trial = trial
        self.world = world
        self.hooks = hooks
        self.device = pick_device()
        self.dtype = pick_dtype(trial.train.dtype, self.device)
        self.full = trial.adapter.kind == "full"
        self.template = ChatTokenizer(base.path)
        self.course = TrialData(trial, self.template, load_corpus(trial.data))
        self.valid = self.course.valid()
        self.texts = (
            RungScores(scoring, self.course.corpus, self.valid)
            if scoring is not None and registry.needs_text(scoring.metric)
            else None
        )
        self.budget = trial.train.pass_tokens()
        self.evaluation_budget = 4 * self.budget  # no gradients to keep
        self.step = 0
        self.num_bad = 0
        """Steps in a row whose loss or gradient was not finite; they change no weight."""
        self.model = self.build(base, checkpoint)
        self.dropper = DropoutState()
        seed_dropout(self.model, self.dropper)
        self.sharing = can_share_prefix(self.model, self.valid, self.template.eos_id)
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = adamw(self.weights, trial.optim)
        if checkpoint is not None:
            optimizer, facts, _ = training_state.read(checkpoint, self.device)
            self.optimizer.load_state_dict(optimizer)
            self.step = facts["step"]
            self.num_bad = facts["num_bad"]

    def build(self, base: BaseModel, checkpoint: Path | None) -> Any:
        """The model at the start, or as a checkpoint left it."""
        if checkpoint is None:
            return attach(
                load(base.path, self.dtype_in_memory, self.device),
                self.trial.adapter,
                self.trial.seed,
            )
        model = restore(
            base, checkpoint / "model", self.dtype_in_memory, self.device, trainable=True
        )
        return model.requires_grad_(True) if self.full else model

    @property
    def dtype_in_memory(self) -> torch.dtype:
        """A frozen base lies in the computing format; weights that are trained lie in float32."""
        return torch.float32 if self.full else self.dtype

    def train_step(self) -> dict[str, float]:
        """One optimizer step; returns its metrics. Raises FloatingPointError after several steps in
        a row that were not finite.
        """
        began = time.perf_counter()
        batch = self.course.batch(self.step)
        supervised = sum(self.course.supervised(example) for example in batch)
        rate = learning_rate(self.trial.optim, self.step, self.trial.train.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.gradients(batch[self.world.rank :: self.world.size], supervised)
        norm = float(torch.nn.utils.clip_grad_norm_(self.weights, self.trial.optim.max_norm))
        self.step += 1
        self.num_bad = 0 if math.isfinite(loss) and math.isfinite(norm) else self.num_bad + 1
        if self.num_bad >= NON_FINITE_LIMIT:
            raise FloatingPointError(not_finite(self.step, self.trial.optim))
        if self.num_bad == 0:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - began
        tokens = sum(len(example.ids) for example in batch)
        return {
            registry.TRAIN_LOSS: loss,
            "train/learning_rate": rate,
            "train/gradient_norm": norm,
            "train/tokens_per_second": tokens / seconds,
            "train/examples_per_second": len(batch) / seconds,
            **shortened("train", batch),
        }

    def told(self) -> dict[str, float]:
        """What the data has come to so far, as metrics."""
        return self.course.drawn(self.step) | shortened("valid", self.valid)

    def gradients(self, share: list[Example], supervised: int) -> float:
        """Add this step's gradients up over micro-batches and workers; returns the mean loss per
        supervised token of the whole batch.

        Out of memory: the token budget is halved and the batch done again, which changes nothing in
        the sum but its rounding.
        """
        while True:
            try:
                self.model.train()
                loss = sum(
                    (
                        self.backward(*numbered_group, supervised)
                        for numbered_group in enumerate(length_batches(share, self.budget))
                    ),
                    0.0,
                )
                break
            except (MemoryError, RuntimeError) as error:
                self.budget = self.shrink(self.budget, share, error)
                self.hooks.say(
                    f"out of memory at step {self.step + 1}: goes on with "
                    f"train.tokens_per_step={self.budget}, same effective batch"
                )
        totals = [torch.tensor([loss], dtype=torch.float32, device=self.device)]
        if self.world.size > 1:
            for weight in self.weights:
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
                self.world.add(weight.grad)
            self.world.add(totals[0])
        return float(totals[0])

    def backward(self, group_index: int, group: list[Example], supervised: int) -> float:
        """Forward and backward of one micro-batch, `group_index` of its step."""
        torch.manual_seed(
            hash((self.trial.seed, self.step, self.world.rank, group_index)) & 0x7FFFFFFF
        )  # for what the base itself drops
        share = self.trial.adapter.dropout
        self.dropper.drop = DropoutSpec(self.trial.seed, self.step, share) if share > 0 else None
        everything = self.trial.train.on == "all"
        keep = max(len(e.ids) - e.targets(everything)[0][0] for e in group)
        with precision(self.dtype, self.device, self.full):
            prefix = shared_prefix(group) if self.sharing and not everything else 0
            logits, targets = answer_logits(
                self.model, group, keep, self.template.eos_id, prefix, self.dropper
            )
        targets = only_targets(targets, group, keep, everything)
        loss = (
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
            )
            / supervised
        )
        loss.backward()
        return float(loss.detach())

    def shrink(self, budget: int, examples: list[Example], error: Exception) -> int:
        """Half the token budget, after running out of memory; raises when one example alone does
        not fit, or on any other error.
        """
        if not out_of_memory(error):
            raise error
        self.optimizer.zero_grad(set_to_none=True)
        longest = max(len(example.ids) for example in examples)
        total = sum(len(example.ids) for example in examples)
        if budget <= longest:
            raise MemoryError(
                f"out of memory on one example of {longest} tokens; a smaller train.max_length or "
                "a smaller model helps"
            ) from None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return max(min(budget, total) // 2, longest)

    def evaluate(self) -> dict[str, float]:
        """Score the validation split, shared between the workers. Out of memory: as in training."""
        self.model.eval()
        rows = self.valid[self.world.rank :: self.world.size]
        names, numbers = numbered(sources_of(self.course.corpus.valid), len(self.valid))
        self.evaluation_budget = min(self.evaluation_budget, 4 * self.budget)
        while True:
            try:
                with precision(self.dtype, self.device, self.full):
                    scores = teacher_forced_rows(
                        self.model, rows, self.template.eos_id, self.evaluation_budget, self.sharing
                    )
                break
            except (MemoryError, RuntimeError) as error:
                self.evaluation_budget = self.shrink(self.evaluation_budget, rows, error)
                self.hooks.say(
                    f"out of memory in the evaluation: goes on with {self.evaluation_budget} "
                    "tokens at a time, same result"
                )
        sums = torch.zeros(len(names), NUM_SUMS, dtype=torch.float64)
        sums.index_add_(0, torch.tensor(numbers[self.world.rank :: self.world.size]), scores)
        totals = self.world.add(sums.to(self.device)).tolist()
        metrics = EvaluationSums.of_sources(names, totals).metrics()
        return metrics if self.texts is None else metrics | self.answer_valid(self.texts)

    def answer_valid(self, texts: RungScores) -> dict[str, float]:
        """Answer validation rows, shared between the workers, and score the answers."""
        rows = texts.rows(self.step >= self.trial.train.steps)
        mine = rows[self.world.rank :: self.world.size]
        with precision(self.dtype, self.device, self.full):
            answers = answer(
                self.model,
                texts.prompts(mine),
                self.template,
                texts.max_new_tokens,
                lambda count: None,
            )
        everyones = self.world.gather(list(zip(mine, answers, strict=True)))
        return texts.metrics(rows, [everyones[row] for row in rows])

    def save(self, folder: Path) -> None:
        """Write a checkpoint: model/ as it would be registered, and the state to go on from."""
        save(self.model, folder / "model")
        training_state.write(folder, self.optimizer, {"step": self.step, "num_bad": self.num_bad})

    def snapshot(self) -> Snapshot:
        """What writes a checkpoint: the weights that learn, and the optimizer's two moments."""
        return Snapshot(
            self.save, sum(3 * weight.numel() * weight.element_size() for weight in self.weights)
        )


def finetune(
    trial: Trial,
    base: BaseModel,
    hooks: Hooks,
    world: World | None = None,
    checkpoint: Path | None = None,
    scoring: Scoring | None = None,
) -> None:
    """Train `trial` to its last step, from the start or from a checkpoint folder. `scoring` is what
    the sweep chooses trials by, where that needs generated answers.

    Raises ValueError for data that cannot be used, FloatingPointError for a loss that is not
    finite, MemoryError when not even one example fits.
    """
    world = world or World()
    training = Training(trial, base, world, hooks, checkpoint, scoring)
    while training.step < trial.train.steps:
        if hooks.resting():
            hooks.on_rest(training.step, training.snapshot())
            return
        metrics = training.train_step()
        step = training.step
        if world.rank == 0:
            hooks.on_step(step, metrics)
        if step % trial.train.eval_every == 0 or step == trial.train.steps:
            reached = {"step": step, **metrics, **training.evaluate(), **training.told()}
            hooks.on_rung(reached, training.snapshot())


def only_targets(
    targets: torch.Tensor, group: list[Example], keep: int, everything: bool
) -> torch.Tensor:
    """`targets` (N, keep), the last tokens of each example, with those that carry no loss set to
    -100.
    """
    carries = torch.zeros(targets.shape, dtype=torch.bool)
    for row, example in enumerate(group):
        before = keep - len(example.ids)
        for start, stop in example.targets(everything):
            carries[row, before + start : before + stop] = True
    return targets.masked_fill(~carries.to(targets.device), -100)
