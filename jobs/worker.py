"""One process of a trial: binds the training loop to Ray Train's reports and checkpoints. With roster.py the only Ray import in jobs/."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import Checkpoint, CheckpointConfig, UserCallback
from ray.tune.integration.ray_train import TuneReportCallback

from jobs import fetch, store
from jobs.config import Assignment, BaseModel, Trial
from jobs.roster import find_roster
from jobs.trainer import run_job
from jobs.verdict import Judging, Verdict

POST_SECONDS = 1.0
DISK_MARGIN = 3


class NoteDeaths(UserCallback):
    """Tells the roster when a worker has died, and when it did for lack of memory. Runs in the controller's process."""

    def __init__(self, sweep: str, trial: int) -> None:
        self.sweep, self.trial = sweep, trial

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called before a failed worker group is restarted."""
        roster: Any = find_roster(self.sweep)
        said = {"text": f"{reason(next(iter(worker_exceptions.values())))}; goes on from the last checkpoint"}
        roster.post.remote(max(self.trial, 0), "say", said)
        if any("OutOfMemory" in f"{type(error).__name__} {error}" for error in worker_exceptions.values()):
            ray.get(roster.shrink.remote(self.trial))


def train(assignment: Assignment) -> None:
    """Run one trial as a Ray Train job and return when it has ended. Called inside a Tune trial, which receives its reports.

    The job's name is the trial's, so a second call goes on from the first one's last checkpoint. Raises RuntimeError with the cause when
    the trial failed for a reason that another attempt would not mend.
    """
    trial = assignment.trial
    result = run_job(
        work,
        {},
        assignment,
        name=f"trial-{trial.index:03d}",
        callbacks=[TuneReportCallback(), NoteDeaths(assignment.sweep, trial.index)],
        checkpoint_config=CheckpointConfig(
            num_to_keep=1,
            checkpoint_score_attribute=assignment.metric,
            checkpoint_score_order="max" if assignment.maximise else "min",
        ),
    )
    failure = (result.return_value or {}).get("failure")
    if failure:
        raise RuntimeError(failure)


def work(settings: dict[str, Any]) -> dict[str, Any]:
    """The training loop of one worker. A failure that would come again is returned rather than raised, so that nobody retries it."""
    import torch

    from jobs.finetune import Hooks, World, finetune

    assignment: Assignment = settings["assignment"]
    trial, context = assignment.trial, ray.train.get_context()
    torch.set_num_threads(max(1, assignment.cpus))
    use_own_gpu(assignment)
    roster = find_roster(assignment.sweep)
    seat: Any = ray.util.get_current_placement_group()
    times_shrunk: int = ray.get(roster.sit.remote(trial.index, seat.id.hex()))  # type: ignore[assignment]
    budget = max(trial.train.pass_tokens() >> times_shrunk, 16)
    trial = replace(trial, train=replace(trial.train, tokens_per_step=budget))
    posts = Posts(roster, trial.index)
    if times_shrunk and context.get_world_rank() == 0:
        posts.say(f"out of memory: goes on with train.tokens_per_step={budget}, same effective batch")
    hooks = Hooks(on_rung=rung(context.get_world_rank(), posts), on_step=posts.step, say=posts.say)
    world = World(context.get_world_rank(), context.get_world_size())
    try:
        base = fetch.at_hand(assignment.base, trial.model)
        found = ray.train.get_checkpoint()
        if found is None:
            finetune(trial, base, hooks, world)
        else:
            with found.as_directory() as folder:
                finetune(trial, base, hooks, world, Path(folder))
    except (FloatingPointError, ValueError, MemoryError, OSError) as error:
        if context.get_world_size() > 1 and isinstance(error, MemoryError | OSError):
            raise  # this worker alone has failed; returning would leave the others waiting for its gradients
        return {"failure": str(error)}
    return {}


def use_own_gpu(assignment: Assignment) -> None:
    """Make the GPU that Ray Train gave this worker the present one: the workers of a machine all see all of its GPUs."""
    if assignment.gpus:
        import torch
        from ray.train.torch import get_device

        torch.cuda.set_device(get_device())


class Posts:
    """Step metrics for the driver, collected for a second at a time so that nothing waits for them."""

    def __init__(self, roster: Any, trial: int) -> None:
        self.roster, self.trial = roster, trial
        self.waiting: list[tuple[int, int, dict[str, float]]] = []
        self.sent = time.monotonic()

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """Note one optimizer step."""
        self.waiting.append((int(time.time() * 1000), step, metrics))
        if time.monotonic() - self.sent > POST_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        self.roster.post.remote(self.trial, "steps", {"steps": self.waiting})
        self.waiting, self.sent = [], time.monotonic()

    def say(self, text: str) -> None:
        """Send one line for the user."""
        self.roster.post.remote(self.trial, "say", {"text": text})


def rung(rank: int, posts: Posts) -> Callable[[dict[str, float], Callable[[Path], None]], None]:
    """What happens after an evaluation: every worker reports, worker 0 with a checkpoint."""
    size = 0

    def report(metrics: dict[str, float], save: Callable[[Path], None]) -> None:
        nonlocal size
        if rank > 0:
            ray.train.report(metrics)
            return
        posts.flush()
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
            free = shutil.disk_usage(folder).free
            if free < DISK_MARGIN * size:
                raise OSError(f"disk full: {free / 1e6:.0f} MB free in {folder}, a checkpoint needs {size / 1e6:.0f} MB; free some space")
            save(Path(folder))
            size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))

    return report


def attempt(config: dict[str, Any]) -> None:
    """A Tune trial: say again what is already known of it, then train on from there.

    `config` holds the trial's index, its assignment, the reports of an earlier run, and the failure of an earlier run or None.
    """
    from ray import tune

    assignment: Assignment = config["assignment"]
    for report in config["recorded"]:
        tune.report(dict(report))
    if config["failed"] is not None:
        raise RuntimeError(config["failed"])
    if max((report["step"] for report in config["recorded"]), default=0) < assignment.trial.train.steps:
        try:
            train(assignment)
        except Exception as error:
            ray.get(find_roster(assignment.sweep).fail.remote(config["index"], reason(error)))
            raise


def reason(error: BaseException) -> str:
    """Why a trial failed, in one line, without what Ray wraps around it."""
    inner = next(iter(getattr(error, "worker_failures", {}).values()), None) or getattr(error, "cause", None)
    if inner is not None and inner is not error:
        return reason(inner)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if "startup timed out" in str(error):
        return "its workers could not be placed: other work holds the CPU cores or GPUs"
    if type(error).__name__.endswith(("ActorDiedError", "ActorError", "ActorUnavailableError", "WorkerCrashedError", "NodeDiedError")):
        return death(str(error))
    return lines[-1]


def death(told: str) -> str:
    """One sentence from all that Ray tells of a process that has died: which, where and, as far as Ray knows, of what."""
    pid, node = re.search(r"\bpid[:=] ?(\d+)", told), re.search(r"\bip[:=] ?([\w.:-]+[\w])", told)
    facts = [] if pid is None else [f"pid {pid[1]}"]
    if node is not None and pid is not None and not node[1].startswith("127."):
        facts.append(f"on {node[1]}")
    who = f"a worker process ({', '.join(facts)})" if facts else "a worker process"
    if re.search(r"out.of.memory|OutOfMemory|memory pressure|low on memory", told) and "potential root causes" not in told:
        return f"{who} was ended by Ray for lack of memory on its machine"
    if re.search(r"node (has )?died|node was terminated|node failure", told):
        return f"{who} was lost with its machine"
    if "INTENDED" in told or "exit code" in told.lower():
        return f"{who} has ended by itself or was told to end"
    return f"{who} was killed: by someone, by the system for lack of memory, or by a crash of its own"


def judge(sweep: str, label: str, trial: Trial, base: BaseModel, folder: str | None, rule: Judging) -> Verdict:
    """`evaluate.judge` as a Ray task, telling the roster how far it is."""
    from jobs import evaluate

    roster = find_roster(sweep)

    def tick(done: int, total: int) -> None:
        roster.post.remote(0, "judged", {"label": label, "done": done, "total": total})

    trained = None if folder is None else store.get(folder)
    return evaluate.judge(trial, fetch.at_hand(base, trial.model), trained, rule, tick)
