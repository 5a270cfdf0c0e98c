"""Ray Train, started with as few processes and imports as its workers need: what stands beside them
is started for every job anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, cast

from ray.train import FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.backend import BackendConfig
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from jobs.workers.messages import WorkerSettings

FIXED_SIZE = "ORCHESTRATOR_FIXED_SIZE"
"""The environment variable that says, where it is set, that this cluster cannot grow."""

MOST_PREEMPTIONS = 10
"""So often a worker group starts again because its machine was taken back. Whoever loses it more
often may never get from one checkpoint to the next: the sweep then goes on itself, as often as it
does after other losses.
"""


class Unannounced(FixedScalingPolicy):
    """As many workers as asked for, of which nobody is told: the coordinator that Ray would start
    for it has nothing to let grow.
    """

    def after_controller_start(self, train_run_context: object) -> None:
        """Announces nothing."""

    def _maybe_send_resource_request(self) -> None:
        """Announces nothing."""


class Trainer(DataParallelTrainer):
    """Without processes that each job would start beside its workers: one hands out Ray datasets,
    of which there are none here; one takes the workers' places back when the controller has died,
    which the sweep does itself (jobs.workers.coordinator.free); one asks for more machines.
    """

    SPARED = ("DatasetsCallback", "PlacementGroupCleanerCallback")

    def _initialize_and_run_controller(self, **settings: Any) -> Result:
        if os.environ.get(FIXED_SIZE):
            settings["scaling_policy"] = Unannounced(self.scaling_config)
        return super()._initialize_and_run_controller(**settings)

    def _create_default_callbacks(self) -> list[object]:
        return [
            callback
            for callback in super()._create_default_callbacks()
            if type(callback).__name__ not in self.SPARED
        ]


def run_job(
    work: Callable[[WorkerSettings], object],
    settings: WorkerSettings,
    **run: Any,
) -> Result:
    """Run `work(settings)` in the workers that its assignment asks for until it has ended; `run`
    are further fields of Ray's RunConfig.

    Raises what Ray Train raises when more workers have died than train.max_failures allows, or when
    their machines were taken back more than MOST_PREEMPTIONS times.
    """
    assignment = settings["assignment"]
    train = assignment.trial.train
    with_gpu = assignment.gpus > 0
    resources: dict[str, float] = {"CPU": assignment.cpus} | (
        {"GPU": assignment.gpus} if with_gpu else {}
    )
    failures = FailureConfig(
        max_failures=train.max_failures,
        controller_failure_limit=5,
        max_preemption_failures=MOST_PREEMPTIONS,
    )
    return Trainer(
        cast("Callable[[dict], object]", work),
        train_loop_config=dict(settings),
        backend_config=backend(train.num_workers, with_gpu),
        scaling_config=ScalingConfig(
            num_workers=train.num_workers, use_gpu=with_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(storage_path=assignment.storage, failure_config=failures, **run),
    ).fit()


def backend(num_workers: int, with_gpu: bool) -> BackendConfig:
    """How the workers of a job find each other. One alone needs nobody, and nothing beside it has
    to wait until torch is imported.
    """
    if num_workers == 1:
        return BackendConfig()
    from jobs.workers.rendezvous import LoopbackTorchConfig

    return LoopbackTorchConfig(backend="nccl" if with_gpu else "gloo")
