"""The story of one command: base model, plan, sweep, judgement, export, registration, result. Read this first."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs import fetch, store
from jobs.config import BaseModel
from jobs.faults import free_bytes, size, told
from jobs.manifest import Damaged
from orchestrator import launch, mirror, provenance, report, result, sharing, tracking
from orchestrator import plan as planning
from orchestrator.address import database_file
from orchestrator.config import Config
from orchestrator.cost import disk_bytes
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.journal import Journal, forget, locked, read_object, storage_folder, sweep_folder, write_json
from orchestrator.outbox import Writer
from orchestrator.plan import Plan
from orchestrator.relay import SUBMISSION, TYPED, mark_answer
from orchestrator.resources import Node
from orchestrator.screen import Screen
from orchestrator.validation import trial_of


def run(config: Config, composed: str, overrides: list[str]) -> int:
    """Do what the configuration says; returns the exit code. `composed` is the configuration as YAML, `overrides` what was typed."""
    began = time.monotonic()
    with contextlib.ExitStack() as held:
        nodes = held.enter_context(launch.joined(config)) if config.cluster.kind == "attached" else None
        if config.dry_run:
            show_plan(planning.make(config, nodes))
            return 0
        shared = nodes is not None or store.is_uri(config.storage)
        if not shared:
            held.enter_context(locked(config.storage))
        config = config if nodes is None else sharing.publish(config)
        plan = prepared(config, nodes)
        if shared:
            held.enter_context(locked(config.storage, plan.name))
            held.enter_context(mirror.kept(config.storage, plan.name))
        folder = sweep_folder(config.storage, plan.name)
        if config.fresh:
            forget(folder, os.environ.get(SUBMISSION))
            mirror.forget(config.storage, plan.name, folder)
        command = Command(config, composed, overrides, plan, folder, began)
        kept = command.kept_result()
        outcome = command.show_again(kept) if kept else command.work()
    mark_answer()
    print(json.dumps(result.public(outcome)) if config.output == "json" else result.text(outcome, result.programs_here()), flush=True)
    return {"finished": 0, "interrupted": 1 if outcome["error"] else 130}.get(outcome["state"], 1)


def show_plan(plan: Plan) -> None:
    """The plan on stdout, for a dry run."""
    mark_answer()
    print(report.plan_json(plan) if plan.config.output == "json" else report.plan_text(plan), flush=True)


def prepared(config: Config, nodes: tuple[Node, ...] | None) -> Plan:
    """The plan, with the base model fetched and converted if need be. What cannot work is said before a model is fetched for it."""
    first = planning.make(config, nodes)
    if nodes is not None:
        launch.check_head(first.resources)
    try:
        fetch.prepare(config.model)
    except (ValueError, RuntimeError) as error:
        raise InputError(str(error)) from error
    return planning.make(config, nodes)


MOST_TIMES_BACK = 10
"""How often a sweep goes back for the sake of a damaged checkpoint."""


class Command:
    """One run of one sweep."""

    def __init__(self, config: Config, composed: str, overrides: list[str], plan: Plan, folder: Path, began: float) -> None:
        assert plan.base is not None
        self.config, self.composed, self.overrides, self.plan, self.folder = config, composed, overrides, plan, folder
        self.base: BaseModel = plan.base
        self.began = began
        self.journal = Journal(folder)
        self.uri = config.tracking.uri or f"sqlite:///{storage_folder(config.storage) / 'mlflow.db'}"
        self.model_name = config.registered_name

    def connect(self) -> tracking.Store:
        """The tracking store; raises TrackingError when it does not answer."""
        return tracking.connect(self.uri, self.config.tracking.experiment, storage_folder(self.config.storage) / "artifacts")

    def kept_result(self) -> result.Result | None:
        """What an earlier run of the same sweep has found, if that covers all that is asked for now."""
        kept = read_object(self.folder / "result.json")
        if not result.is_whole(kept) or kept["state"] != "finished" or kept["steps"] < self.config.train.steps:
            return None
        if kept.get("judging") != self.judging():
            report_line("the winner is judged again: another job.confidence, job.resamples or job.max_new_tokens than before")
            return None
        wider = kept["trials"]["total"] < self.plan.num_trials
        again = self.config.retry and kept["trials"]["failed"] > 0
        elsewhere = kept["target"] != [self.uri, self.config.tracking.experiment, self.model_name]
        gone = self.uri.startswith("sqlite:") and not database_file(self.uri).exists()
        return None if wider or again or elsewhere or gone else kept

    def judging(self) -> dict[str, Any]:
        """The settings that decide what the test split says of a model."""
        job = self.config.job
        return {"confidence": job.confidence, "resamples": job.resamples, "max_new_tokens": job.max_new_tokens}

    def show_again(self, kept: result.Result) -> result.Result:
        """The earlier result, after one more attempt to bring the tracking store up to date."""
        asked = {"steps": (kept["steps"], self.config.train.steps), "trials": (kept["trials"]["total"], self.plan.num_trials)}
        more = [f"{had} {what}, not the {wanted} asked for now" for what, (had, wanted) in asked.items() if had != wanted]
        what = f"its result, of {' and '.join(more)}" if more else "its result"
        report_line(f"sweep {self.plan.name} is finished; this is {what} (fresh=true starts anew)")
        if kept.get("missing"):
            writer = Writer(self.connect, self.folder)
            writer.start()
            kept["missing"] = self.missing(writer)
            write_json(self.folder / "result.json", kept)
        return kept

    def missing(self, writer: Writer) -> str | None:
        """What the tracking store lacks after it was given time, in words."""
        left = writer.close(self.config.tracking.patience_seconds)
        return result.unfinished(left, writer.error, writer.num_refused, writer.aside)

    def work(self) -> result.Result:
        """Everything from the first connection to the written result."""
        self.check_disk()
        store = self.connect()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(self.composed, encoding="utf-8")
        report_line(report.plan_text(self.plan))
        tags = provenance.tags(self.config)
        params = {"sweep.num_trials": self.plan.num_trials, "sweep.metric": self.config.sweep.metric}
        datasets = planning.used(self.plan, trial_of(self.config, 1, {}))
        self.journal.append("sweep", name=self.plan.name, params=params, tags=tags, config=self.composed, datasets=datasets)
        writer = Writer(lambda: store, self.folder)
        writer.start()
        try:
            outcome = self.train_and_judge(store, writer)
        except BaseException as error:
            fault = None
            if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
                fault = told(error, self.config.storage)
            interrupted = isinstance(error, KeyboardInterrupt) or fault is not None
            said = fault or (None if interrupted else str(error))
            with contextlib.suppress(OSError):
                self.journal.append("sweep_end", state="interrupted" if interrupted else "failed", error=said)
            writer.close(1 if interrupted else self.config.tracking.patience_seconds)
            if fault is None:
                raise
            raise OrchestratorError(fault) from error
        # On a storage that takes nothing any more, what the outcome says of that is all that is left to say.
        with contextlib.suppress(OSError) if outcome["state"] == "interrupted" else contextlib.nullcontext():
            self.journal.append("sweep_end", state=outcome["state"], error=outcome.get("error"), metrics={})
        outcome["missing"] = self.missing(writer)
        outcome["seconds"]["total"] = round(time.monotonic() - self.began, 1)
        with contextlib.suppress(OSError) if outcome["state"] == "interrupted" else contextlib.nullcontext():
            write_json(self.folder / "result.json", outcome)
        return outcome

    def check_disk(self) -> None:
        """Raise InputError when the checkpoints would fill the disk."""
        if store.is_uri(self.config.storage):
            return
        needed = disk_bytes(self.config, self.base, self.plan.num_trials)
        there = sum(file.stat().st_size for file in (self.folder / "train").rglob("*") if file.is_file())
        free = free_bytes(str(storage_folder(self.config.storage)))
        if free is not None and free + there < needed:
            more = f" more, beside the {size(there)} that are there" if there else ""
            sizes = f"{size(free)} free, and {self.plan.num_trials} trials may leave {size(needed - there)} of checkpoints{more}"
            raise InputError(f"storage {self.config.storage}: {sizes}; free some space, or choose another one: storage=FOLDER")

    def train_and_judge(self, store: tracking.Store, writer: Writer) -> result.Result:
        """Start Ray, run the sweep, judge its winner and register it."""
        report_line("ray     starting") if self.config.cluster.kind == "local" else None
        running = launch.local(self.plan.resources) if self.config.cluster.kind == "local" else contextlib.nullcontext()
        with running, Screen(self.plan.num_trials, self.config.train.steps, self.config.sweep.metric) as screen:
            from orchestrator import sweep
            from orchestrator.judgement import Judgement

            back: dict[int, int] = {}
            started = time.monotonic()
            for _ in range(MOST_TIMES_BACK):
                board = self.board(screen, back)
                with interruptible(board):
                    sweep.run(board)
                    if board.aside is not None and not board.interrupted:
                        self.step_aside(board)
                        sweep.run(board)
                outcome = self.outcome(board, started - self.began, time.monotonic() - started)
                if outcome["state"] != "finished":
                    return outcome
                if board.damaged is None:
                    provenance.remember_rate(self.config, self.plan, self.journal)
                    try:
                        Judgement(self, board, store, writer, screen).complete(outcome)
                        return outcome
                    except Damaged as error:
                        board.damaged = error.place, error.why
                back = self.go_back(board)
        raise OrchestratorError(f"storage {self.config.storage} damages what is written to it, again and again: look at its disk")

    def board(self, screen: Screen, back: dict[int, int]) -> Any:
        """The state of the sweep as the journal tells it, and a roster for those who train. `back` are the trials that go back."""
        from jobs.roster import open_roster
        from orchestrator.board import Board
        from orchestrator.rewind import forget_unknown

        common = {"tags": provenance.tags(self.config), "config": self.composed}
        board = Board(self.plan, self.base, self.journal, screen, common, back)
        forget_unknown(board)
        board.roster = open_roster(self.plan.name, *self.seats())
        return board

    def go_back(self, board: Any) -> dict[int, int]:
        """From a checkpoint that cannot be used to the one before it, or to the start; returns the step that each trial goes back to."""
        from orchestrator.rewind import go_back

        place, why = board.damaged
        index, step = (int(number) for number in re.findall(r"(?:trial|step)-(\d+)", place)[-2:])
        back = go_back(board, index, step)
        where = f"step {back[index]}" if back[index] else "the start"
        others = [str(number) for number in sorted(back) if number != index]
        beside = f", and beside it trial{'s' * (len(others) > 1)} {', '.join(others)}, so that the result stays the same" if others else ""
        text = f"{place} is damaged ({why}); trial {index} goes on from {where}{beside}"
        board.screen.note(text)
        self.journal.append("tags", trial=None, tags={"note": text})
        del board.roster
        return back

    def seats(self) -> tuple[int, int | None, int | None]:
        """Number of packs, how many trials one holds, and how many trials there are; the last two are None without packs."""
        resources = self.plan.resources
        if not resources.packs:
            return 1, None, None
        return resources.packs, -(-resources.concurrent // resources.packs), self.plan.num_trials

    def step_aside(self, board: Any) -> None:
        """Turn to the plain executor, since the packs do not fit the model. Raises OrchestratorError where the user insists on packs."""
        from jobs.roster import open_roster

        reason = f"{self.base.name} cannot be packed: {board.aside}"
        if self.config.executor == "pack":
            raise InputError(f"executor=pack: {reason}; executor=plain trains each trial by itself")
        board.screen.note(f"{reason}; each trial trains by itself")
        self.journal.append("tags", trial=None, tags={"executor": f"plain: {reason}"})
        self.plan = board.plan = planning.unpacked(self.plan)
        del board.roster  # its name is free once the actor is gone
        board.roster, board.aside, board.seats = open_roster(self.plan.name), None, set()

    def outcome(self, board: Any, setup: float, train: float) -> result.Result:
        """The result as far as the sweep alone decides it."""
        records = [board.records[index] for index in sorted(board.records) if index <= self.plan.num_trials]
        best = board.best()
        stopped = board.interrupted or board.fault is not None
        done = board.damaged is not None or (best is not None and board.fatal is None)
        state = "interrupted" if stopped else "finished" if done else "failed"
        error = board.fault or board.fatal or ("no trial has a score" if best is None and state == "failed" else None)
        sent = os.environ.get(TYPED)
        typed = [o for o in (self.overrides if sent is None else shlex.split(sent)) if not o.startswith(("fresh=", "output=", "retry="))]
        wider, more = [o for o in typed if not o.startswith("sweep.num_trials=")], 2 * self.plan.num_trials
        return {
            "sweep": self.plan.name,
            "state": state,
            "trials": result.counted([record.state for record in records], self.plan.num_trials),
            "best": None if best is None else self.describe(board, best),
            "base": None,
            "model": None,
            "seconds": {"setup": round(setup, 1), "train": round(train, 1), "total": round(time.monotonic() - self.began, 1)},
            "tracking_uri": self.uri if self.config.tracking.uri is None else store_name(self.uri),
            "steps": self.config.train.steps,
            "target": [self.uri, self.config.tracking.experiment, self.model_name],
            "error": error,
            "failures": result.failures(records),
            "searched": [knob.path for knob in self.config.sweep.space.values()],
            "confidence": self.config.job.confidence,
            "judging": self.judging(),
            "command": f"python -m orchestrator {shlex.join(typed)}".rstrip(),
            "wider": f"python -m orchestrator {shlex.join([*wider, f'sweep.num_trials={more}'])}"
            if planning.has(self.config, more)
            else None,
            "settings": [o for o in typed if o.startswith(("storage=", "tracking"))],
        }

    def describe(self, board: Any, best: Any) -> dict[str, Any]:
        """The best trial, with its metrics at its best step."""
        step, _ = best.best(board.metric, board.maximise)
        params = planning.flat_params(self.config, board.trial(best.index))
        return {"trial": best.index, "run_id": None, "step": step, "params": params, "metrics": dict(best.reports[step])}


@contextlib.contextmanager
def interruptible(board: Any) -> Iterator[None]:
    """Ctrl-C once lets trials stop cleanly and keeps what is done; twice stops at once."""

    def handle(number: int, frame: Any) -> None:
        if board.interrupted:
            raise KeyboardInterrupt
        board.interrupted = True
        board.screen.note("stopping: what is done is kept; press Ctrl-C again to stop at once")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def store_name(uri: str) -> str:
    """A tracking address without its password."""
    from orchestrator import address

    return address.mask(uri)


def report_line(text: str) -> None:
    """Progress on stderr."""
    print(text, file=sys.stderr, flush=True)
