"""What others do with the same trials in one warm process: transformers' Trainer + PEFT, and TRL's
SFTTrainer.

    python -m benchmarks.peers CONTENDER VARIANT WORK OUTCOME      started by benchmarks.makespan

Same base in the same format, same initial LoRA, same examples in the same order, same learning
rates and optimizer as jobs/training/finetune.py. The rest is the library's own way, with what would
slow it down switched off: checkpoints, logging, evaluation during training, gradient checkpointing,
autocast over a base that already is in its format, padding beyond the longest example of a batch.
"""

from __future__ import annotations

import pickle
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainingArguments

from benchmarks.contenders import Outcome, Work
from jobs.config import Trial
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import Corpus, load_corpus
from jobs.data.tokenization import Example
from jobs.data.trial_data import TrialData
from jobs.model.loading import attach, load, pick_device, pick_dtype
from jobs.training.optimizer import adamw, learning_rate

EVALUATION_ROWS = 32
"""Validation rows per forward pass. They are sorted by length first, so hardly anything is
padded.
"""


@dataclass(frozen=True)
class Padding:
    """Transformers' usual batch: padded on the right to its longest example, label -100 where there
    is no loss.
    """

    pad_id: int

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """The batch of `rows`."""
        width = max(len(row["input_ids"]) for row in rows)
        filled = {"input_ids": self.pad_id, "labels": -100, "attention_mask": 0}
        columns = {
            name: [row.get(name, [1] * len(row["input_ids"])) for row in rows] for name in filled
        }
        return {
            name: torch.tensor(
                [values + [filled[name]] * (width - len(values)) for values in column]
            )
            for name, column in columns.items()
        }


def as_row(example: Example, everything: bool) -> dict[str, list[int]]:
    """An example as the libraries take it."""
    unsupervised = 0 if everything else example.prompt_length
    return {"input_ids": example.ids, "labels": [-100] * unsupervised + example.ids[unsupervised:]}


def as_rows(
    trial: Trial, template: ChatTokenizer, corpus: Corpus
) -> tuple[list[dict[str, list[int]]], list[dict[str, list[int]]]]:
    """Training rows in the trial's own order, and validation rows, shortest first."""
    course = TrialData(trial, template, corpus)
    train = [example for step in range(trial.train.steps) for example in course.batch(step)]
    valid = sorted(course.valid(), key=lambda example: len(example.ids))
    return [as_row(e, trial.train.on == "all") for e in train], [as_row(e, False) for e in valid]


def settings(trial: Trial, folder: str) -> dict[str, Any]:
    """Arguments of a Trainer. Learning rate and schedule come with the optimizer; without logging,
    saving and workers nothing waits.
    """
    ampere = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
    return {
        "output_dir": folder,
        "max_steps": trial.train.steps,
        "per_device_train_batch_size": trial.train.batch_size,
        "per_device_eval_batch_size": EVALUATION_ROWS,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "max_grad_norm": trial.optim.max_norm,
        "train_sampling_strategy": "sequential",
        "dataloader_num_workers": 0,
        "remove_unused_columns": False,
        # the base lies in bfloat16 already and the adapters stay float32; autocast would only add
        # casts
        "bf16": False,
        "tf32": True if ampere else None,
        "seed": trial.seed,
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def optimizers(model: Any, trial: Trial) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Fused AdamW, as Trainer has it by default, at the rates of jobs/training/finetune.py
    (Trainer's own warm-up begins with a step at rate 0).
    """
    optimizer = adamw(
        [weight for weight in model.parameters() if weight.requires_grad], trial.optim, fused=True
    )
    return optimizer, LambdaLR(
        optimizer, lambda step: learning_rate(trial.optim, step, trial.train.steps) / trial.optim.lr
    )


def final_loss(trainer: Any) -> float:
    """Validation loss per answer token over the whole split, as jobs/evaluate.EvaluationSums has
    it; Trainer.evaluate would weigh by rows.
    """
    trainer.model.eval()
    loss, tokens = 0.0, 0
    for batch in trainer.get_eval_dataloader():
        answers = int((batch["labels"] != -100).sum())
        loss += (
            float(trainer.prediction_step(trainer.model, batch, prediction_loss_only=True)[0])
            * answers
        )
        tokens += answers
    return loss / tokens


def train(model: Any, trial: Trial, template: ChatTokenizer, corpus: Corpus) -> float:
    """One trial with Trainer, from fresh adapter to validation loss."""
    rows, valid = as_rows(trial, template, corpus)
    with tempfile.TemporaryDirectory() as folder:
        trainer: Any = Trainer(
            model=model,
            args=TrainingArguments(**settings(trial, folder)),
            data_collator=Padding(template.eos_id),
            train_dataset=rows,  # type: ignore[arg-type]
            eval_dataset=valid,  # type: ignore[arg-type]
            optimizers=optimizers(model, trial),
        )
        trainer.train()
        return final_loss(trainer)


def load_base(work: Work) -> Any:
    """The base model in the trials' number format, on the GPU if there is one."""
    device = pick_device()
    return load(work.base.path, pick_dtype(work.trials[0].train.dtype, device), device)


def warm_trainer(work: Work, variant: str) -> Outcome:
    """One process, the base loaded once, a fresh adapter for each trial, one trial after the
    other.
    """
    base, template, corpus = (
        load_base(work),
        ChatTokenizer(work.base.path),
        load_corpus(work.trials[0].data),
    )
    losses, ended = [], 0.0
    for trial in work.trials:
        model = attach(base, trial.adapter, trial.seed)
        losses.append(train(model, trial, template, corpus))
        ended = time.time()
        base = fresh(model)
    return Outcome(ended, losses, f"base loaded once, {work.cores} threads")


def fresh(model: Any) -> Any:
    """The base without the adapter, and without what TRL and PEFT have left on it."""
    base = model.unload()
    base.__dict__.pop("forward", None)
    base.__dict__.pop("peft_config", None)
    return base


def trl(work: Work, variant: str) -> Outcome:
    """TRL's SFTTrainer in one warm process; `variant` is "padding_free" or "padded"."""
    from transformers import AutoTokenizer

    base, template, corpus = (
        load_base(work),
        ChatTokenizer(work.base.path),
        load_corpus(work.trials[0].data),
    )
    note = choose_attention(base, variant == "padding_free")
    tokenizer = AutoTokenizer.from_pretrained(work.base.path)
    losses, ended = [], 0.0
    for trial in work.trials:
        model = attach(base, trial.adapter, trial.seed)
        losses.append(
            train_with_trl(model, trial, template, corpus, tokenizer, variant == "padding_free")
        )
        ended = time.time()
        base = fresh(model)
    return Outcome(ended, losses, note)


def train_with_trl(
    model: Any,
    trial: Trial,
    template: ChatTokenizer,
    corpus: Corpus,
    tokenizer: Any,
    padding_free: bool,
) -> float:
    """One trial with SFTTrainer. The rows come tokenised, with labels at the answer: what it would
    otherwise prepare itself.
    """
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    rows, valid = (Dataset.from_list(part) for part in as_rows(trial, template, corpus))
    with tempfile.TemporaryDirectory() as folder:
        own = {
            "max_length": None,
            "padding_free": padding_free,
            "dataset_kwargs": {"skip_prepare_dataset": True},
        }
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**settings(trial, folder), **own),
            train_dataset=rows,
            eval_dataset=valid,
            processing_class=tokenizer,
            optimizers=optimizers(model, trial),
        )
        trainer.train()
        return final_loss(trainer)


def choose_attention(base: Any, padding_free: bool) -> str:
    """Flash attention for padding_free where it is installed; says what runs.

    Without it transformers recognises the restarting position ids and gives
    scaled_dot_product_attention a block-diagonal mask: correct, but every example computes scores
    against the whole batch.
    """
    from transformers.utils.import_utils import is_flash_attn_2_available

    if padding_free and torch.cuda.is_available() and is_flash_attn_2_available():
        base.set_attn_implementation("flash_attention_2")
    name = base.config._attn_implementation
    if not padding_free:
        return f"padded batches, {name} attention; loss at the answers only"
    masked = (
        ""
        if name.startswith("flash")
        else " with a block-diagonal mask, as flash attention is not available here"
    )
    return f"padding_free, {name} attention{masked}; loss at the answers only"


def main(arguments: list[str]) -> None:
    """Run one contender on the pickled work and write its outcome."""
    name, variant, source, target = arguments
    work: Work = pickle.loads(Path(source).read_bytes())
    torch.set_num_threads(work.cores)
    outcome = {"warm_trainer": warm_trainer, "trl": trl}[name](work, variant)
    outcome.write(Path(target))


if __name__ == "__main__":
    main(sys.argv[1:])
