"""What Ray Tune's tutorials do with the same rows in the same time: ASHA over learning rate and
rank, two trials at once, each a process of transformers' Trainer + PEFT that reports after every
evaluation and saves what it has.

    python -m benchmarks.quality_tune TASK FOLDER                  started by benchmarks.quality

New trials come for as long as there is time; one that is never stopped takes half of it, by the
pace of the first. The search space is that of conf/sweep/lora.yaml; this project's plan puts
ranges of its own in its place.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers_tune import tune_session
from benchmarks.quality_task import Task

CONCURRENT = 2
EVALUATIONS = 8
"""Of a trial that is never stopped: ASHA's rungs are after 1, 2, 4 and 8 of them."""
SHARE = 0.5
"""Of the time, that such a trial takes."""
PACE = "pace.json"


def attempt(point: dict[str, Any], task: Task, folder: str, cpus: int) -> None:
    """One trial: load, attach, train, report."""
    import torch
    from ray import tune
    from transformers import TrainerCallback

    from benchmarks import quality_peers

    class Report(TrainerCallback):
        """Tells Tune the loss of a model once that is saved: the trial may be stopped by it."""

        def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            """The last evaluation is of this step."""
            losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
            tune.report({"eval_loss": losses[-1], "step": state.global_step})

    torch.set_num_threads(cpus)
    recipe = quality_peers.Recipe(lr=point["lr"], rank=point["rank"])
    peer = quality_peers.Peer(task, recipe, "trainer")
    runs = Path(folder)
    step, evaluation = agreed_pace(peer, runs)
    length = quality_peers.fitted(SHARE * task.seconds, step, evaluation, EVALUATIONS)
    output = runs / f"trial-{tune.get_context().get_trial_id()}"
    output.mkdir()
    peer.run(output, length, Report())


def agreed_pace(peer: Any, folder: Path) -> tuple[float, float]:
    """Seconds of a step and of an evaluation as the first trial has timed them: all trials have
    the same rungs.
    """
    file = folder / PACE
    if not file.exists():
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            draft = Path(temporary) / PACE
            draft.write_text(json.dumps(peer.pace(Path(temporary) / "timed")), encoding="utf-8")
            with contextlib.suppress(FileExistsError):  # another trial was quicker
                os.link(draft, file)
    step, evaluation = json.loads(file.read_text(encoding="utf-8"))
    return step, evaluation


def run(task: Task, folder: Path, end: float) -> None:
    """Trials until the time is over. Raises RuntimeError when all have failed."""
    with tune_session(task.cores, task.gpus, CONCURRENT) as (cpus, gpus, results):
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler

        trainable = tune.with_parameters(attempt, task=task, folder=str(folder), cpus=cpus)
        outcome = tune.Tuner(
            tune.with_resources(trainable, {"cpu": cpus, "gpu": gpus}),
            param_space={"lr": tune.loguniform(5e-5, 5e-3), "rank": tune.choice([4, 8, 16, 32])},
            tune_config=tune.TuneConfig(
                metric="eval_loss",
                mode="min",
                scheduler=ASHAScheduler(max_t=EVALUATIONS, grace_period=1, reduction_factor=2),
                num_samples=-1,
                max_concurrent_trials=CONCURRENT,
                time_budget_s=max(1.0, end - time.time()),
            ),
            run_config=tune.RunConfig(
                storage_path=results,
                verbose=0,
                failure_config=tune.FailureConfig(fail_fast=True),
            ),
        ).fit()
    if outcome.errors and len(outcome.errors) == len(outcome):
        raise RuntimeError(f"all trials failed: {str(outcome.errors[0])[-2000:]}")


def main(arguments: list[str]) -> None:
    """Run the pickled task."""
    source, target = arguments
    task: Task = pickle.loads(Path(source).read_bytes())
    run(task, Path(target), psutil.Process().create_time() + task.seconds)


if __name__ == "__main__":
    from benchmarks import quality_tune  # Ray's workers know the function by its module's name

    quality_tune.main(sys.argv[1:])
