"""How long a sweep should take and how much disk it needs, and where those figures come from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from jobs.base_models.hf_folder import num_weights
from jobs.config import BaseModel
from jobs.files import filesystem
from jobs.files.checkpoints import KEPT
from jobs.files.storage_faults import free_bytes, size
from orchestrator.config.settings import Config
from orchestrator.errors import InputError
from orchestrator.plan.finalists import FinalPlan
from orchestrator.plan.machine import ThisMachine, speed_of
from orchestrator.plan.merge import MergePlan
from orchestrator.plan.model_shape import Shape
from orchestrator.plan.resources import Resources
from orchestrator.plan.row_counts import RowCounts
from orchestrator.plan.throughput import adapted, rate_key, read_rates
from orchestrator.plan.timing import Phase, TestAnswers, Timing
from orchestrator.storage.paths import storage_folder

LORA_SHARE = 0.005
"""Bytes of a LoRA checkpoint per unit of rank, optimizer state included, as a share of the base's
in float32: 0.4 % for SmolLM2-135M.
"""


@dataclass(frozen=True)
class Estimate:
    """How long it should take, and why we think so."""

    seconds: float
    origin: str
    phases: tuple[Phase, ...] = ()
    """The search, from rung to rung."""
    final: float = 0.0
    """Seconds of the finalists' training, at most."""
    final_start: float = 0.0
    """Those of these that pass before their first step."""
    judging: float = 0.0
    test_answers: TestAnswers | None = None
    """Of what is judged, the answers of each model."""


def estimate(
    timing: Timing, num_trials: int, final: FinalPlan, merge: MergePlan | None = None
) -> Estimate:
    """The whole command, with what is done before the search."""
    before = 0.0 if merge is None else merge.seconds or 0.0
    return Estimate(
        before + timing.total(num_trials, final),
        timing.speed.origin,
        tuple(timing.phases(num_trials)),
        timing.final_seconds(final),
        timing.final_start_seconds(final),
        timing.judging_seconds(),
        timing.test_answers(),
    )


def timing_of(
    config: Config,
    shape: Shape,
    rows: RowCounts,
    resources: Resources,
    machine: ThisMachine,
) -> Timing:
    """How long the parts of the sweep take, by what was measured of this machine and of earlier
    sweeps like it.
    """
    speed = speed_of(config, resources, machine)
    remembered = read_rates(config.storage).get(rate_key(config, resources, machine.key))
    if remembered is not None:
        speed = dataclasses.replace(
            speed,
            efficiency=remembered["efficiency"],
            origin=f"the rate of {remembered.get('sweep')} on this machine",
        )
    return Timing(config, shape, rows, resources, speed, adapted(config))


def disk_bytes(config: Config, base: BaseModel, num_trials: int) -> int:
    """Room for the checkpoints of a sweep: what is kept of every trial that can still win, and the
    exported version.
    """
    trained = 4 * num_weights(Path(base.path))  # in float32, whatever the base is kept in
    share = (
        3.0 if config.adapter.kind == "full" else LORA_SHARE * config.adapter.rank * adapted(config)
    )
    return int(trained * share * (KEPT * num_trials + 1))


def check_disk(config: Config, base: BaseModel, num_trials: int, folder: Path) -> None:
    """Raise InputError when the checkpoints of the sweep in `folder` would fill the disk."""
    if filesystem.is_uri(config.storage):
        return
    needed = disk_bytes(config, base, num_trials)
    existing_bytes = sum(
        file.stat().st_size for file in (folder / "train").rglob("*") if file.is_file()
    )
    free = free_bytes(str(storage_folder(config.storage)))
    if free is not None and free + existing_bytes < needed:
        more = f" more, beside the {size(existing_bytes)} that are there" if existing_bytes else ""
        sizes = (
            f"{size(free)} free, and {num_trials} trials may leave "
            f"{size(needed - existing_bytes)} of checkpoints{more}"
        )
        raise InputError(
            f"storage {config.storage}: {sizes}; free some space, or choose another one: "
            "storage=FOLDER"
        )
