"""Ray Train, started with as few processes and imports as its workers need: what stands beside them is started for every job anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


class Trainer(DataParallelTrainer):
    """Without two processes that each job would start beside its workers: one hands out Ray datasets, of which there are none here; one
    takes the workers' places back when the controller has died, which the sweep does itself (jobs.roster.free).
    """

    SPARED = ("DatasetsCallback", "PlacementGroupCleanerCallback")

    def _create_default_callbacks(self) -> list[Any]:
        return [callback for callback in super()._create_default_callbacks() if type(callback).__name__ not in self.SPARED]


@dataclass
class Collective(BackendConfig):
    """Joins the workers of a job for torch.distributed where there are several, as Ray Train's TorchConfig does; one alone needs nobody.

    So neither the command nor the controller of a single worker waits until torch is imported.
    """

    backend: str = "gloo"
    """gloo or nccl."""

    @property
    def backend_cls(self) -> type[Backend]:
        return Joining


class Joining(Backend):
    """What the controller does with the workers for `Collective`."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """The workers are there."""
        if len(worker_group) > 1:
            theirs, config = torch_backend(backend_config)
            theirs.on_start(worker_group, config)

    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        """They begin."""
        if len(worker_group) > 1:
            theirs, config = torch_backend(backend_config)
            theirs.on_training_start(worker_group, config)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """They go."""
        if len(worker_group) > 1:
            theirs, config = torch_backend(backend_config)
            theirs.on_shutdown(worker_group, config)


def torch_backend(given: Collective) -> tuple[Backend, BackendConfig]:
    """Ray Train's own for torch."""
    from ray.train.torch import TorchConfig

    config = TorchConfig(backend=given.backend)
    return config.backend_cls(), config
