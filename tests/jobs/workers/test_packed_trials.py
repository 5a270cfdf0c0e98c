"""Tune's own schedulers, searchers and restore over trials that train in a pack: a real Ray, a real
Ray Train job.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from ray import tune
from ray._private.state import state
from safetensors.torch import load_file

from jobs.base_models import fetch
from jobs.config import BaseModel, Model, WorkerSpec
from jobs.pack.membership import PackMembership, StepReport
from jobs.workers import pack_worker
from jobs.workers.coordinator import end_controllers, find_coordinator, free, open_coordinator
from jobs.workers.packed_trial import with_point
from orchestrator.launch import ray_local
from orchestrator.plan.resources import Node, Resources
from tests.support.plain import make


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "train.jsonl"
    lines = [
        {"prompt": f"{['alpha', 'beta', 'gamma'][i % 3]} {i}", "completion": "ABC"[i % 3]}
        for i in range(120)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def base(cache: Path) -> BaseModel:
    return fetch.prepare(Model(name="tiny", source="tiny"), cache)


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    """One local Ray for all tests of this file."""
    with ray_local.local(
        Resources(concurrent=4, workers=1, cpus=1, gpus=0, nodes=(Node(4),), packs=1)
    ):
        yield


@dataclass
class Running:
    """A pack at work, and what a trial of it is given."""

    config: Callable[[int], dict[str, Any]]
    storage: Path
    coordinator: Any
    thread: threading.Thread


def start(
    name: str, rows: Path, base: BaseModel, storage: Path, total: int | None = None
) -> Running:
    """Start a coordinator and one pack of four slots; trials take 30 steps, evaluated every 10."""
    coordinator = open_coordinator(name, PackMembership(1, None if total is None else 4, total))
    trial = make(rows, steps=30, eval_every=10)

    def assignment(index: int) -> WorkerSpec:
        given = with_point(trial, {"index": index, "optim.lr": 1e-3 * index})
        return WorkerSpec(
            sweep=name,
            trial=given,
            base=base,
            storage=str(storage),
            metric="valid/loss",
            maximise=False,
            cpus=1,
            gpus=0,
        )

    thread = threading.Thread(target=pack_worker.run, args=(assignment(1), 0), daemon=True)
    thread.start()
    return Running(
        lambda index: {"index": index, "assignment": assignment(index)},
        storage,
        coordinator,
        thread,
    )


def finish(running: Running) -> None:
    """Send the pack home and free its cores."""
    ray.get(running.coordinator.close.remote())
    running.thread.join(300)
    assert not running.thread.is_alive()
    free(ray.get(running.coordinator.leave.remote(pack_worker.place(0))))


@pytest.fixture(scope="module")
def running(
    session: None, rows: Path, base: BaseModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """One pack that serves all Tuners of these tests."""
    found = start("shared", rows, base, tmp_path_factory.mktemp("storage"))
    yield found
    finish(found)


class Ended(tune.Callback):
    """What the sweep's driver tells the coordinator: a trial's process that Tune ends need not have the
    time to.
    """

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Finished or stopped."""
        given = trial.config["trial"]
        coordinator = find_coordinator(given["assignment"].sweep)
        ray.get(
            coordinator.ended.remote(
                ray.get(coordinator.number.remote(trial.trial_id, given["index"]))
            )
        )

    on_trial_error = on_trial_complete


def assert_empty(running: Running) -> None:
    """Every slot is given back."""
    assert ray.get(running.coordinator.lease_ids.remote(0)) == {}


def fit(trials: Any, folder: Path, callbacks: Any = (), **settings: Any) -> Any:
    """Run a Tuner over the given trials, or over a space, at most four at a time."""
    space = {"trial": tune.grid_search(trials)} if isinstance(trials, list) else trials
    settings = {"max_concurrent_trials": 4, "reuse_actors": True} | settings
    run = tune.RunConfig(
        name="tuned", storage_path=str(folder), verbose=0, callbacks=[*callbacks, Ended()]
    )
    return tune.Tuner(
        trainable(), param_space=space, tune_config=tune.TuneConfig(**settings), run_config=run
    ).fit()


def trainable() -> Any:
    """The trainable under test, with its settings one level down so that any searcher can hand them
    out; pickled by value.
    """

    def attempt(config: dict[str, Any]) -> None:
        from jobs.workers import packed_trial

        packed_trial.run_packed_trial({**config["trial"], "point": config.get("point", {})})

    return tune.with_resources(attempt, {"CPU": 0.001})


# The first of this file: it takes every pack of the session away.
def test_a_pack_that_is_ended_while_it_starts_leaves_no_core_taken(
    session: None, rows: Path, base: BaseModel, tmp_path: Path
) -> None:
    late, deadline = start("late", rows, base, tmp_path), time.monotonic() + 300
    while not any(told["state"] == "CREATED" for told in ray.util.placement_group_table().values()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert ray.get(late.coordinator.leave.remote(pack_worker.place(0))) is None, (
        "its worker has not sat down"
    )
    end_controllers()
    late.thread.join(300)
    assert not late.thread.is_alive()
    while ray.available_resources().get("CPU", 0) < 4:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.1)


def test_asha_stops_trials_and_the_freed_slots_are_filled_again(
    running: Running, tmp_path: Path
) -> None:
    # The faster learners come first: those that follow are behind them at the first rung.
    asha = tune.schedulers.ASHAScheduler(
        "step", "valid/loss", "min", max_t=30, grace_period=10, reduction_factor=2
    )
    grid = fit([running.config(index) for index in range(8, 0, -1)], tmp_path, scheduler=asha)
    steps = sorted(result.metrics["step"] for result in grid)
    assert grid.num_errors == 0 and len(steps) == 8
    assert steps[-1] == 30 and steps[0] < 30
    assert_empty(running)
    best = grid.get_best_result("valid/loss", "min")
    assert (Path(best.metrics["checkpoint_path"]) / "model" / "adapter_model.safetensors").exists()


def test_population_based_training_copies_the_better_trials(
    running: Running, tmp_path: Path
) -> None:
    mutations = {"point": {"optim.lr": tune.loguniform(1e-4, 1e-2)}}
    pbt = tune.schedulers.PopulationBasedTraining(
        "step",
        "valid/loss",
        "min",
        perturbation_interval=10,
        hyperparam_mutations=mutations,
        quantile_fraction=0.5,
        log_config=True,
    )
    trials = tune.grid_search([running.config(index) for index in (11, 12, 13, 14)])
    grid = fit(
        {"trial": trials, "point": {"optim.lr": tune.loguniform(1e-4, 1e-2)}},
        tmp_path,
        scheduler=pbt,
        reuse_actors=False,
    )
    assert grid.num_errors == 0
    assert [result.metrics["step"] for result in grid] == [30] * 4
    copies = next(tmp_path.glob("**/pbt_global.txt")).read_text().splitlines()
    assert copies, "no trial was copied"
    assert_empty(running)


def test_optuna_searches_over_a_pack(running: Running, tmp_path: Path) -> None:
    from ray.tune.search.optuna import OptunaSearch

    space = {"trial": running.config(21), "point": {"optim.lr": tune.loguniform(1e-4, 1e-2)}}
    grid = fit(
        space,
        tmp_path,
        search_alg=OptunaSearch(metric="valid/loss", mode="min", seed=0),
        num_samples=4,
        max_concurrent_trials=1,
    )
    rates = {result.config["point"]["optim.lr"] for result in grid}
    assert grid.num_errors == 0 and len(rates) == 4
    assert [result.metrics["step"] for result in grid] == [30] * 4


def test_a_sweep_that_broke_off_is_restored_by_tune(running: Running, tmp_path: Path) -> None:
    class Break(tune.Callback):
        """Breaks the driver off once, after the first reports."""

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            if result["step"] == 20 and not (tmp_path / "broken").exists():
                (tmp_path / "broken").touch()
                raise ConnectionError("the driver breaks off")

    with pytest.raises(Exception, match="breaks off"):
        fit([running.config(index) for index in (31, 32)], tmp_path, [Break()])
    grid = tune.Tuner.restore(
        str(tmp_path / "tuned"), trainable=trainable(), resume_errored=True
    ).fit()
    assert grid.num_errors == 0
    assert [result.metrics["step"] for result in grid] == [30, 30]
    assert_empty(running)


def kill_worker() -> None:
    """Kill the pack's worker process with no chance to clean up."""
    workers = [
        p
        for p in psutil.Process().children(recursive=True)
        if "RayTrainWorker" in "".join(p.cmdline())
    ]
    assert workers
    for worker in workers:
        os.kill(worker.pid, signal.SIGKILL)


class Kill(tune.Callback):
    """Kills the worker once, after the first rung."""

    def __init__(self) -> None:
        self.done = False

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if not self.done:
            self.done = True
            kill_worker()


class Weigh(tune.Callback):
    """Weighs the trials' processes while they run."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        processes = psutil.Process().children(recursive=True)
        self.sizes.extend(
            p.memory_info().rss for p in processes if "ImplicitFunc" in "".join(p.cmdline())
        )


def trained(
    name: str, rows: Path, base: BaseModel, folder: Path, callback: tune.Callback
) -> list[torch.Tensor]:
    """What two trials have learned at their end."""
    cores = round(
        ray.available_resources()["CPU"]
    )  # without the thousandths that a trial of an earlier test may still hold
    running = start(name, rows, base, folder / name, total=2)
    grid = fit([running.config(index) for index in (1, 2)], folder / f"{name}-tune", [callback])
    assert grid.num_errors == 0
    finish(running)
    assert find_coordinator(name) is not None
    deadline = time.monotonic() + 120
    while ray.available_resources().get("CPU", 0) < cores - 0.01 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert round(ray.available_resources()["CPU"]) == cores, "the pack's cores did not come back"
    files = [
        folder / name / f"trial-{index:03d}" / "step-000030" / "state.safetensors"
        for index in (1, 2)
    ]
    return [load_file(file)["weights"] for file in files]


@dataclass
class Undisturbed:
    """Two trials that nothing has happened to."""

    learned: list[torch.Tensor]
    sizes: list[int]
    """Bytes of the trials' processes."""
    kinds: set[str]
    """Of all actors that there have been."""


@pytest.fixture(scope="module")
def undisturbed(
    session: None, rows: Path, base: BaseModel, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    weigh = Weigh()
    learned = trained("calm", rows, base, tmp_path_factory.mktemp("calm"), weigh)
    actors = state.actor_table(None, None).values()
    kinds = {actor["ActorClassName"].rpartition(".")[2] for actor in actors}
    return Undisturbed(learned, weigh.sizes, kinds)


def test_a_worker_that_dies_is_replaced_and_every_adapter_ends_bitwise_the_same(
    undisturbed: Undisturbed, rows: Path, base: BaseModel, tmp_path: Path
) -> None:
    kill = Kill()
    killed = trained("killed", rows, base, tmp_path, kill)
    assert kill.done
    assert all(
        torch.equal(one, other) for one, other in zip(undisturbed.learned, killed, strict=True)
    )


def test_trials_processes_are_small_and_nothing_stands_beside_the_workers(
    undisturbed: Undisturbed,
) -> None:
    assert undisturbed.sizes and max(undisturbed.sizes) < 250e6, undisturbed.sizes
    assert undisturbed.kinds == {
        "Coordinator",
        "TrainController",
        "RayTrainWorker",
        "SynchronizationActor",
        "ImplicitFunc",
    }


def test_the_roster_still_answers_when_more_than_a_thousand_trials_wait(session: None) -> None:
    count, trial = 1200, make(Path("rows.jsonl"))
    coordinator: Any = open_coordinator("crowd", PackMembership(100, 12, count))
    lease_ids = {
        index: coordinator.join_pack.remote(index, trial, None, 0) for index in range(1, count + 1)
    }
    lease_ids = dict(zip(lease_ids, ray.get(list(lease_ids.values())), strict=True))
    waiting = [coordinator.train.remote(index, lease_id) for index, lease_id in lease_ids.items()]
    companies = [ray.get(coordinator.members.remote(pack), timeout=300) for pack in (0, 99)]
    assert [len(members) for members in companies] == [12, 12]
    told = StepReport({}, {index: {"step": 1} for index in lease_ids}, {})
    ray.get(coordinator.publish.remote(told, lease_ids), timeout=300)
    assert all(answer.metrics == {"step": 1} for answer in ray.get(waiting, timeout=300))
