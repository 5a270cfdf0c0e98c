"""One trial's place in a pack: its course, its adapter, its optimizer, and how it is written and
taken up again.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.config import Trial
from jobs.data.tokenization import Example
from jobs.data.trial_data import TrialData, shortened
from jobs.evaluation import registry
from jobs.files.manifest import Snapshot
from jobs.model.loading import sort_targets
from jobs.model.seeded_dropout import DropoutSpec
from jobs.model.training_state import read, write
from jobs.pack.layers.adapter_weights import Adapter
from jobs.pack.loss_curves import remembered
from jobs.training.optimizer import adamw, learning_rate

if TYPE_CHECKING:
    from peft import LoraConfig

ORDER = "A, then B"
"""How a checkpoint's flat weights are laid out; see lora.Adapter."""


class Slot:
    """One trial's place in the pack."""

    def __init__(
        self, trial: Trial, course: TrialData, adapter: Adapter, settings: LoraConfig
    ) -> None:
        self.trial = trial
        self.course = course
        self.adapter = adapter
        self.settings = settings
        self.step = 0
        self.num_bad = 0
        """Steps in a row whose loss or gradient was not finite; they change no weight."""
        self.losses: list[float] = []
        """Of the first step and of the last ones; see loss_curves.py."""
        adapter.weights.grad = adapter.gradient
        self.optimizer = adamw([adapter.weights], trial.optim, fused=True)

    def unreadable(self, ahead: int = 0) -> str | None:
        """Why the next batch, or one further on, cannot be trained on, if so. Reading it here costs
        nothing: rows are tokenised once.
        """
        try:
            self.course.batch(self.step + ahead)
        except ValueError as error:
            return str(error)
        return None

    def read_ahead(self) -> None:
        """Tokenise the batch after the next one, where there is one; if it cannot be read, that is
        told when its turn comes.
        """
        if self.step + 1 < self.trial.train.steps:
            self.unreadable(1)

    def update(self, loss: float, norm: float) -> float:
        """One optimizer step with the gradient of this norm; returns its learning rate. What is not
        finite changes nothing.
        """
        optim = self.trial.optim
        rate = learning_rate(optim, self.step, self.trial.train.steps)
        self.step += 1
        self.losses = remembered([*self.losses, loss])
        self.num_bad = 0 if math.isfinite(loss) and math.isfinite(norm) else self.num_bad + 1
        if self.num_bad == 0:
            shrink = optim.max_norm / (norm + 1e-6)  # as torch.nn.utils.clip_grad_norm_
            if shrink < 1:
                self.adapter.gradient.mul_(shrink)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        return rate

    def save(self, folder: Path) -> None:
        """Write a checkpoint: model/ as an ordinary PEFT adapter, and the state to go on from."""
        from safetensors.torch import save_file

        (folder / "model").mkdir(parents=True)
        save_file(
            self.adapter.written(),
            str(folder / "model" / "adapter_model.safetensors"),
            metadata={"format": "pt"},
        )
        self.settings.save_pretrained(str(folder / "model"))
        sort_targets(folder / "model" / "adapter_config.json")
        facts = {"step": self.step, "num_bad": self.num_bad, "order": ORDER, "losses": self.losses}
        write(folder, self.optimizer, facts, {"weights": self.adapter.weights.data})

    def snapshot(self) -> Snapshot:
        """What writes a checkpoint: the adapter, the weights as they lie, and the optimizer's two
        moments.
        """
        return Snapshot(
            self.save, 4 * self.adapter.weights.numel() * self.adapter.weights.element_size()
        )

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint of a trial with the same layers and rank; ValueError for another
        one.
        """
        optimizer, facts, tensors = read(folder, self.adapter.weights.device)
        if facts.get("order") != ORDER:
            raise ValueError(
                f"the checkpoint {folder} was written by an earlier version; a new sweep.name "
                "starts afresh"
            )
        if tensors["weights"].shape != self.adapter.weights.shape:
            raise ValueError(
                f"the checkpoint {folder} belongs to another rank than {self.trial.adapter.rank}"
            )
        self.adapter.weights.data.copy_(tensors["weights"])
        rate = {"lr": self.trial.optim.lr, "weight_decay": self.trial.optim.weight_decay}
        self.optimizer.load_state_dict(optimizer)
        for group in self.optimizer.param_groups:
            group.update(
                rate
            )  # a trial that was copied from another one goes on with its own settings
        self.step = facts["step"]
        self.num_bad = facts["num_bad"]
        self.losses = facts.get("losses", [])  # of an earlier version: nothing to compare yet


def dropouts(slots: dict[int, Slot]) -> dict[int, DropoutSpec]:
    """The dropout of the present step of each slot that has any."""
    return {
        slot_id: DropoutSpec(slot.trial.seed, slot.step, slot.trial.adapter.dropout)
        for slot_id, slot in slots.items()
        if slot.trial.adapter.dropout > 0
    }


def step_metrics(
    loss: float, rate: float, norm: float, batch: list[Example], seconds: float
) -> dict[str, float]:
    """The metrics of one step of a slot."""
    return {
        registry.TRAIN_LOSS: loss,
        "train/learning_rate": rate,
        "train/gradient_norm": norm,
        "train/tokens_per_second": sum(len(example.ids) for example in batch) / seconds,
        "train/examples_per_second": len(batch) / seconds,
        **shortened("train", batch),
    }
