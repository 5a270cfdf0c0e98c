"""One process of a trial: binds the training loop to Ray Train's reports and checkpoints. With roster.py the only Ray import in jobs/."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import UserCallback
from ray.tune.integration.ray_train import TuneReportCallback

from jobs import fetch
from jobs.config import Assignment, BaseModel, Trial
from jobs.faults import told
from jobs.manifest import Snapshot
from jobs.roster import find_roster
from jobs.shelf import Shelf, fetched, report_in, why_unreadable
from jobs.trainer import run_job
from jobs.verdict import Judging, Verdict

POST_SECONDS = 1.0
ROOM_SECONDS = 0.1
MOST_WAITING = 10_000
"""Steps that may wait in a worker before it waits for the driver."""


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


def train(assignment: Assignment) -> dict[str, Any]:
    """Run one trial as a Ray Train job and return when it has ended, with how. Called inside a Tune trial, which receives its reports.

    A second call goes on from the first one's last whole checkpoint. Raises RuntimeError with the cause when the trial failed for a reason
    that another attempt would not mend. What it returns is empty, or holds "rested" when the sweep pauses, "fault" when the machine failed.
    """
    trial = assignment.trial
    result = run_job(
        work,
        {},
        assignment,
        name=f"trial-{trial.index:03d}",
        callbacks=[TuneReportCallback(), NoteDeaths(assignment.sweep, trial.index)],
    )
    ended = result.return_value or {}
    if "failure" in ended:
        raise RuntimeError(ended["failure"])
    return ended


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
    world = World(context.get_world_rank(), context.get_world_size())
    shelf = Shelf(assignment.storage, assignment.metric, assignment.maximise, posts.say, assignment.num_trials)
    hooks = Hooks(rung(world.rank, posts, shelf), posts.step, posts.say, resting(world, posts), rest(world.rank, posts, shelf))
    try:
        base = fetch.at_hand(assignment.base, trial.model)
        ray.get(roster.begin.remote(trial.index))
        finetune(trial, base, hooks, world, taken_up(world, posts, shelf))
    except (FloatingPointError, ValueError, MemoryError, OSError) as error:
        if world.size > 1 and isinstance(error, OSError):
            ray.get(roster.give_up.remote({"fault": told(error, assignment.storage)}))
        if world.size > 1 and isinstance(error, MemoryError | OSError):
            raise  # this worker alone has failed; returning would leave the others waiting for its gradients
        return {"fault": told(error, assignment.storage)} if isinstance(error, OSError) else {"failure": str(error)}
    finally:
        if world.rank == 0:
            roster.rested.remote(trial.index, {})  # whatever the end was: nobody waits for this trial when the sweep pauses
    return {"rested": True} if ray.get(roster.resting.remote()) else {}


def taken_up(world: Any, posts: Posts, shelf: Shelf) -> Path | None:
    """The checkpoint to go on from, the same for all workers. What it says of its rung is reported again: the process that wrote it may
    have died before anyone heard of it.
    """
    found = [shelf.newest(posts.trial) if world.rank == 0 else None]
    if world.size > 1:
        import torch

        steps = [None if found[0] is None else found[0][0]]
        torch.distributed.broadcast_object_list(steps, src=0)
        if world.rank > 0 and steps[0] is not None:
            found = [(steps[0], fetched(shelf.at(posts.trial, steps[0])))]
    if found[0] is None:
        return None
    step, folder = found[0]
    said = report_in(shelf.at(posts.trial, step))
    if said is not None:
        ray.train.report(said | {"checkpoint_path": shelf.at(posts.trial, step)})
    return folder


def use_own_gpu(assignment: Assignment) -> None:
    """Make the GPU that Ray Train gave this worker the present one: the workers of a machine all see all of its GPUs."""
    if assignment.gpus:
        import torch
        from ray.train.torch import get_device

        torch.cuda.set_device(get_device())


class Posts:
    """Step metrics for the driver, collected for a second at a time so that nothing waits for them. None is dropped: where the driver does
    not take them fast enough, they wait here, and at last the training waits.
    """

    def __init__(self, roster: Any, trial: int) -> None:
        self.roster, self.trial = roster, trial
        self.waiting: list[tuple[int, int, dict[str, float]]] = []
        self.sent = time.monotonic()
        self.room: Any = None
        """The roster's answer whether it takes more."""
        self.asked: Any = None
        """The roster's answer whether the sweep pauses."""

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """Note one optimizer step."""
        self.waiting.append((int(time.time() * 1000), step, metrics))
        if time.monotonic() - self.sent > POST_SECONDS:
            self.flush(now=len(self.waiting) >= MOST_WAITING)

    def flush(self, now: bool = False) -> None:
        """Send what waits, if the roster has room for it; with `now` wait until it has."""
        self.sent = time.monotonic()
        if not self.waiting:
            return
        while self.room is not None:
            if not now and not ray.wait([self.room], timeout=0)[0]:
                return
            if ray.get(self.room):
                break
            self.room = self.roster.has_room.remote()
            if not now:
                return
            time.sleep(ROOM_SECONDS)
        self.room = self.roster.post.remote(self.trial, "steps", {"steps": self.waiting})
        self.waiting = []

    def say(self, text: str) -> None:
        """Send one line for the user."""
        self.roster.post.remote(self.trial, "say", {"text": text})

    def resting(self) -> bool:
        """Whether the roster's latest answer says that the sweep pauses; no step waits for it."""
        if self.asked is None:
            self.asked = self.roster.resting.remote()
            return False
        if not ray.wait([self.asked], timeout=0)[0]:
            return False
        answer: Any = ray.get(self.asked)
        self.asked = None
        return answer


def rung(rank: int, posts: Posts, shelf: Shelf) -> Callable[[dict[str, float], Snapshot], None]:
    """What happens after an evaluation: worker 0 keeps a checkpoint, and every worker reports."""

    def report(metrics: dict[str, float], save: Snapshot) -> None:
        if rank > 0:
            ray.train.report(metrics)
            return
        posts.flush(now=True)
        place = shelf.put(posts.trial, int(metrics["step"]), save, metrics)
        ray.train.report(metrics | {"checkpoint_path": place})

    return report


def resting(world: Any, posts: Posts) -> Callable[[], bool]:
    """Whether the sweep pauses before this step, which all workers must see alike."""

    def ask() -> bool:
        own = world.rank == 0 and posts.resting()
        if world.size == 1:
            return own
        import torch

        from jobs.model import pick_device

        return bool(world.add(torch.tensor([float(own)], device=pick_device())) > 0)

    return ask


def rest(rank: int, posts: Posts, shelf: Shelf) -> Callable[[int, Snapshot], None]:
    """What happens when the sweep pauses: worker 0 keeps what was learned since the last rung."""

    def keep(step: int, save: Snapshot) -> None:
        if rank > 0:
            return
        posts.flush(now=True)
        left = {}
        if step > 0:
            there = step in shelf.steps(posts.trial) and why_unreadable(shelf.at(posts.trial, step)) is None
            left[posts.trial] = (shelf.at(posts.trial, step) if there else shelf.put(posts.trial, step, save), step)
        ray.get(posts.roster.rested.remote(posts.trial, left))

    return keep


def attempt(config: dict[str, Any]) -> None:
    """A Tune trial: say again what is already known of it, then train on from there.

    `config` holds the trial's index, its assignment, the reports of an earlier run, and the failure of an earlier run or None.
    """
    from ray import tune

    assignment: Assignment = config["assignment"]
    roster: Any = find_roster(assignment.sweep)
    for report in config["recorded"]:
        tune.report(dict(report))
    if config["failed"] is not None:
        ray.get(roster.fail.remote(config["index"], config["failed"]))
        raise RuntimeError(config["failed"])
    if max((report["step"] for report in config["recorded"]), default=0) < assignment.trial.train.steps:
        try:
            ended = train(assignment)
        except Exception as error:
            if not is_loss(error):
                ray.get(roster.fail.remote(config["index"], reason(error)))
                raise
            ended = {"lost": reason(error)}
        if "fault" in ended or "lost" in ended:
            ray.get(roster.give_up.remote(ended))
        while ended:
            time.sleep(1)  # until the driver ends this trial with all others


def reason(error: BaseException) -> str:
    """Why a trial failed, in one line, without what Ray wraps around it."""
    inner = next(iter(getattr(error, "worker_failures", {}).values()), None) or getattr(error, "cause", None)
    if inner is not None and inner is not error:
        return reason(inner)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if "startup timed out" in str(error):
        return "its workers could not be placed: other work holds the CPU cores or GPUs"
    return death(str(error)) if is_loss(error) else lines[-1]


def is_loss(error: BaseException) -> bool:
    """Whether an error says that a process of the sweep's own has died. A job's workers, whose deaths count, come in another error."""
    return type(error).__name__.endswith(("ActorDiedError", "ActorError", "ActorUnavailableError", "WorkerCrashedError", "NodeDiedError"))


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


def judge(sweep: str, label: str, trial: Trial, base: BaseModel, folder: str | None, rule: Judging, sealed: bool = True) -> Verdict:
    """`evaluate.judge` as a Ray task, telling the roster how far it is. A `sealed` folder is checked before."""
    from jobs import evaluate

    roster = find_roster(sweep)

    def tick(done: int, total: int) -> None:
        roster.post.remote(0, "judged", {"label": label, "done": done, "total": total})

    trained = folder if folder is None or not sealed else str(checked(folder))
    return evaluate.judge(trial, fetch.at_hand(base, trial.model), trained, rule, tick)


def checked(folder: str) -> Path:
    """The local folder of an adapter or a model that lies in a sealed one. Raises Damaged when that is not what was sealed."""
    home, _, name = folder.rstrip("/").rpartition("/")
    return fetched(home) / name
