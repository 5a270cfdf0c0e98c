"""What Ray Tune's tutorials do with the same trials: a process per trial that loads the model and
trains with transformers' Trainer + PEFT.

    python -m benchmarks.peers_tune CONCURRENT WORK OUTCOME      started by benchmarks.makespan

Only the trials' own processes import torch and transformers, so that Ray is up before they are
needed. Ray is started as quietly as this project starts it: no dashboard, no loggers.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.contenders import Outcome, Work
from orchestrator.launch import ray_local
from orchestrator.plan.resources import Node, Resources


def attempt(point: dict[str, int], work: Work, cpus: int) -> None:
    """One trial: load, attach, train, report."""
    import torch
    from ray import tune

    from benchmarks import peers
    from jobs.data.chat_template import ChatTokenizer
    from jobs.data.corpus import load_corpus
    from jobs.model.loading import attach

    torch.set_num_threads(cpus)
    trial = work.trials[point["trial"]]
    model = attach(peers.load_base(work), trial.adapter, trial.seed)
    loss = peers.train(model, trial, ChatTokenizer(work.base.path), load_corpus(trial.data))
    tune.report({"valid/loss": loss, "trial": point["trial"]})


@contextmanager
def tune_session(cores: int, all_gpus: int, concurrent: int) -> Iterator[tuple[int, float, str]]:
    """A private Ray for so many trials at once; yields the cores and GPUs of each, and a folder for
    results.
    """
    cpus, gpus = max(1, cores // concurrent), min(1.0, all_gpus / concurrent)
    resources = Resources(concurrent, 1, cpus, gpus, (Node(cores, all_gpus),))
    with ray_local.local(resources), tempfile.TemporaryDirectory() as folder:
        os.environ.pop(
            "TUNE_MAX_PENDING_TRIALS_PG"
        )  # how many wait at once is Tune's own choice here
        yield cpus, gpus, folder


def run(work: Work, concurrent: int) -> Outcome:
    """All trials, `concurrent` at once. Raises RuntimeError when one failed."""
    with tune_session(work.cores, work.gpus, concurrent) as (cpus, gpus, folder):
        from ray import tune

        ends: list[float] = []

        class Clock(tune.Callback):
            def on_trial_result(self, *arguments: Any, **named: Any) -> None:
                ends.append(time.time())

        results = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(attempt, work=work, cpus=cpus), {"cpu": cpus, "gpu": gpus}
            ),
            param_space={"trial": tune.grid_search(list(range(len(work.trials))))},
            tune_config=tune.TuneConfig(max_concurrent_trials=concurrent),
            run_config=tune.RunConfig(storage_path=folder, callbacks=[Clock()], verbose=0),
        ).fit()
    if results.errors:
        raise RuntimeError(
            f"{len(results.errors)} of {len(work.trials)} trials failed: "
            f"{str(results.errors[0])[-2000:]}"
        )
    found = {
        result.metrics["trial"]: result.metrics["valid/loss"]
        for result in results
        if result.metrics
    }
    losses = [found[index] for index in range(len(work.trials))]
    return Outcome(ends[-1], losses, f"{concurrent} at once, a process each with {cpus} threads")


def main(arguments: list[str]) -> None:
    """Run the pickled work and write the outcome."""
    concurrent, source, target = arguments
    run(pickle.loads(Path(source).read_bytes()), int(concurrent)).write(Path(target))


if __name__ == "__main__":
    from benchmarks import peers_tune  # Ray's workers know the function by the name of its module

    peers_tune.main(sys.argv[1:])
