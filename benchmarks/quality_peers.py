"""What others do with the same rows in the same time: transformers' Trainer + PEFT, and TRL's
SFTTrainer, one run with usual settings.

    python -m benchmarks.quality_peers CONTENDER TASK FOLDER       started by benchmarks.quality

The base, its number format and the tokens of the rows are those of this project; rate, rank,
schedule, order of the rows, evaluation and checkpoints are the library's own way. What would only
slow it down is switched off, as in benchmarks.peers. `trainer` and `trl` plan the usual three
epochs; `trainer_fitted` and `trl_fitted` time a few steps first and plan as many as fit, so that
the rate has fallen to 0 when the time is over.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.peers import EVALUATION_ROWS, Padding, as_row
from benchmarks.quality_task import PROGRESS, Task
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import load_corpus
from jobs.data.tokenization import encode_rows
from jobs.model.loading import load, pick_device, pick_dtype

EPOCHS = 3
EVALUATE_EVERY = 50
"""Steps between two evaluations, each with a checkpoint, where the epochs are planned."""
FITTED_EVALUATIONS = 6
"""Evaluations of a run whose steps are fitted to its time."""
VALID_ROWS = 100
TIMED_STEPS = 4
SPARE = 0.95
"""Share of the time that is left which a fitted run plans with."""

Rows = list[dict[str, list[int]]]


@dataclass(frozen=True)
class Recipe:
    """Settings of one run; the values are those that the tutorials of PEFT and TRL use."""

    lr: float = 2e-4
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    batch_size: int = 16
    warmup: float = 0.03
    schedule: str = "linear"


@dataclass(frozen=True)
class Length:
    """How long a run is."""

    steps: int
    evaluate_every: int


class Steps(TrainerCallback):
    """Writes down, after every step, how far a run has come."""

    def __init__(self, folder: Path, recipe: Recipe, length: Length) -> None:
        self.file = folder / PROGRESS
        self.content = {
            "lr": recipe.lr,
            "rank": recipe.rank,
            "batch_size": recipe.batch_size,
            "schedule": recipe.schedule,
            "planned": length.steps,
        }

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Whole or not at all."""
        draft = self.file.with_suffix(".draft")
        draft.write_text(json.dumps({**self.content, "steps": state.global_step}))
        os.replace(draft, self.file)


class Clock(TrainerCallback):
    """Notes when each step has ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """One more."""
        self.ends.append(time.monotonic())


class Peer:
    """A model with a fresh adapter, and the rows, for one library."""

    def __init__(self, task: Task, recipe: Recipe, library: str) -> None:
        self.recipe, self.library = recipe, library
        corpus, template = load_corpus(task.trial.data), ChatTokenizer(task.base.path)
        longest = task.trial.train.max_length
        rows = [row for source in corpus.sources.values() for row in source]
        self.train = [as_row(one, False) for one in encode_rows(rows, template, longest, "train")]
        gap = max(1, len(corpus.valid) // VALID_ROWS)
        valid = encode_rows(corpus.valid[::gap][:VALID_ROWS], template, longest, "valid")
        valid.sort(key=lambda example: len(example.ids))
        self.valid = [as_row(one, False) for one in valid]
        self.padding = Padding(template.eos_id)
        self.base_folder = task.base.path
        self.model = self.adapted(task)

    def adapted(self, task: Task) -> Any:
        """The base with a fresh LoRA on all its linear layers."""
        from peft import LoraConfig, get_peft_model

        device = pick_device()
        model = load(task.base.path, pick_dtype(task.trial.train.dtype, device), device)
        torch.manual_seed(task.trial.seed)
        settings = LoraConfig(
            r=self.recipe.rank,
            lora_alpha=self.recipe.alpha,
            lora_dropout=self.recipe.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, settings)

    def arguments(self, folder: Path, length: Length, lr: float) -> dict[str, Any]:
        """Arguments of a Trainer that evaluates and saves as it goes."""
        often = {"eval_strategy": "steps", "eval_steps": length.evaluate_every}
        often |= {"save_strategy": "steps", "save_steps": length.evaluate_every}
        never = {"eval_strategy": "no", "save_strategy": "no"}
        return {
            "output_dir": str(folder),
            "max_steps": length.steps,
            "learning_rate": lr,
            "lr_scheduler_type": self.recipe.schedule,
            "warmup_steps": max(1, round(self.recipe.warmup * length.steps)),
            "per_device_train_batch_size": self.recipe.batch_size,
            "per_device_eval_batch_size": EVALUATION_ROWS,
            "prediction_loss_only": True,
            "save_only_model": True,
            "gradient_checkpointing": False,
            "remove_unused_columns": False,
            "bf16": False,
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            **(often if length.evaluate_every else never),
        }

    def trainer(
        self, folder: Path, length: Length, lr: float, callbacks: Sequence[TrainerCallback]
    ) -> Any:
        """The library's trainer over the rows."""
        arguments = self.arguments(folder, length, lr)
        if self.library == "trl":
            return self.sft_trainer(arguments, callbacks)
        return Trainer(
            model=self.model,
            args=TrainingArguments(**arguments),
            data_collator=self.padding,
            train_dataset=self.train,  # type: ignore[arg-type]
            eval_dataset=self.valid,  # type: ignore[arg-type]
            callbacks=list(callbacks),
        )

    def sft_trainer(self, arguments: dict[str, Any], callbacks: Sequence[TrainerCallback]) -> Any:
        """TRL's. The rows come tokenised, with labels at the answer: what it would otherwise
        prepare itself.
        """
        from datasets import Dataset
        from transformers import AutoTokenizer
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer

        own = {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
        return SFTTrainer(
            model=self.model,
            args=SFTConfig(**arguments, **own),
            train_dataset=Dataset.from_list(self.train),
            eval_dataset=Dataset.from_list(self.valid),
            processing_class=AutoTokenizer.from_pretrained(self.base_folder),
            callbacks=list(callbacks),
        )

    def pace(self, folder: Path) -> tuple[float, float]:
        """Seconds of a training step and of an evaluation. The rate is 0 meanwhile: nothing is
        learned.
        """
        clock = Clock()
        trainer = self.trainer(folder, Length(1 + TIMED_STEPS, 0), 0.0, [clock])
        trainer.train()
        began = time.monotonic()
        trainer.evaluate()
        return (clock.ends[-1] - clock.ends[0]) / TIMED_STEPS, time.monotonic() - began

    def epochs(self) -> Length:
        """The usual length."""
        steps = -(-EPOCHS * len(self.train) // self.recipe.batch_size)
        every = min(EVALUATE_EVERY, steps)
        return Length(-(-steps // every) * every, every)

    def run(self, folder: Path, length: Length, *callbacks: TrainerCallback) -> None:
        """Train to the end, with a checkpoint after each evaluation."""
        steps = Steps(folder, self.recipe, length)
        self.trainer(folder, length, self.recipe.lr, [steps, *callbacks]).train()


def fitted(
    seconds: float, step_seconds: float, evaluation_seconds: float, evaluations: int
) -> Length:
    """The longest run of so many evaluations that fits into the seconds, of a step at least."""
    left = SPARE * seconds - evaluations * evaluation_seconds
    every = max(1, int(left / step_seconds / evaluations))
    return Length(every * evaluations, every)


def run(name: str, task: Task, folder: Path, left: Callable[[], float]) -> None:
    """One contender; `left` tells how many seconds it still has."""
    library, _, plan = name.partition("_")
    peer = Peer(task, Recipe(), library)
    length = peer.epochs()
    if plan == "fitted":
        step, evaluation = peer.pace(folder / "pace")
        length = fitted(left(), step, evaluation, FITTED_EVALUATIONS)
    peer.run(folder, length)


def main(arguments: list[str]) -> None:
    """Run one contender on the pickled task."""
    name, source, target = arguments
    task: Task = pickle.loads(Path(source).read_bytes())
    torch.set_num_threads(task.cores)
    end = psutil.Process().create_time() + task.seconds
    run(name, task, Path(target), lambda: end - time.time())


if __name__ == "__main__":
    main(sys.argv[1:])
