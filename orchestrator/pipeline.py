"""The story of one command: base model, plan, sweep, judgement, export, registration, result. Read
this first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.base_models import fetch
from jobs.config import BaseModel
from jobs.files import filesystem
from jobs.files.drafts import drop_drafts
from jobs.files.manifest import Damaged
from orchestrator.break_off import break_off
from orchestrator.config.settings import Config
from orchestrator.earlier_result import as_begun, kept_result, missing, show_again
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.evaluation import champion_lookup, device_preflight
from orchestrator.evaluation.baseline_process import BaselineProcess
from orchestrator.job_environment import SUBMISSION, mark_answer
from orchestrator.launch import ray_cluster, ray_local
from orchestrator.outcome import Outcome
from orchestrator.output import console, plan_text, result
from orchestrator.output.heartbeat import Heartbeat, print_line, waiting
from orchestrator.output.progress import ProgressDisplay, progress_of
from orchestrator.output.remote_state import RemoteState, tell
from orchestrator.output.sweep_result import BestTrial, SweepResult
from orchestrator.plan import planner as planning
from orchestrator.plan import sizing, throughput
from orchestrator.plan.budget import spending_of
from orchestrator.plan.cost import check_disk
from orchestrator.plan.planner import Plan
from orchestrator.plan.resources import Node
from orchestrator.plan.task import run_tags
from orchestrator.process import interruption
from orchestrator.report import delivery
from orchestrator.storage import staging, sync
from orchestrator.storage.journal import Journal, Record
from orchestrator.storage.json_files import write_sealed
from orchestrator.storage.locks import locked, this_process
from orchestrator.storage.paths import forget, storage_folder, sweep_folder
from orchestrator.tracking import mlflow_store, provenance, shown_commands, system_metrics
from orchestrator.tracking.outbox import OutboxWorker

if TYPE_CHECKING:
    from orchestrator.sweep.finalists import FinalState
    from orchestrator.sweep.state import SweepState

GOES_ON = "what is done is kept, and the same command continues"
MOST_TIMES_BACK = 10
"""How often a sweep goes on from a damaged checkpoint, or without a process that was killed."""
SIGNAL_SECONDS = 1.0
LAST_WORDS_SECONDS = 3.0
"""How long the tracking store is given when Ray is lost; the next start writes the rest."""


def run(config: Config, composed: str, overrides: list[str]) -> int:
    """Do what the configuration says; returns the exit code. `composed` is the configuration as
    YAML, `overrides` what was typed.
    """
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        nodes = None
        if config.cluster.kind == "attached":
            nodes = stack.enter_context(ray_cluster.joined(config))
        if config.dry_run:
            plan = champion_lookup.noted(planning.make(config, nodes))
            plan_text.print_plan(plan)
            return 0
        shared = nodes is not None or filesystem.is_uri(config.storage)
        if not shared:
            stack.enter_context(locked(config.storage))
        config = config if nodes is None else staging.stage_data(config)
        plan = prepared(config, nodes)
        if shared:
            stack.enter_context(locked(config.storage, plan.name))
            stack.enter_context(sync.synced(config.storage, plan.name))
            plan = as_begun(plan, config, nodes)
        config = plan.config  # with what the data and this machine have chosen
        folder = sweep_folder(config.storage, plan.name)
        if config.fresh:
            forget(folder, os.environ.get(SUBMISSION))
            sync.forget(config.storage, plan.name, folder)
        composed = sizing.as_decided(composed, config)
        command = SweepCommand(config, composed, overrides, plan, folder, began)
        command.leave = stack.close
        earlier = kept_result(config, plan, folder, command.about)
        shown = show_again(earlier, config, plan, folder, command.connect) if earlier else None
        outcome = shown or command.work()
        if outcome.report is None:
            outcome.report = delivery.present(folder)
    tell(result.remote_state(outcome))
    mark_answer()
    print(
        json.dumps(result.public(outcome))
        if config.output == "json"
        else result.text(outcome, shown_commands.programs_here(), console.terminal_width()),
        flush=True,
    )
    return {"finished": 0, "interrupted": 1 if outcome.error else 130}.get(outcome.state, 1)


def prepared(config: Config, nodes: tuple[Node, ...] | None) -> Plan:
    """The plan, with the base model fetched and converted if need be. What cannot work is said
    before a model is fetched for it; but a budget once an object store has told what is spent, see
    `as_begun`.
    """
    is_account_here = config.fresh or not filesystem.is_uri(config.storage)
    with Heartbeat(waiting("plan    being made")):
        first = planning.make(config, nodes, is_account_here)
    if nodes is not None:
        ray_cluster.check_head(first.resources)
    try:
        fetch.prepare(config.model)
    except (ValueError, RuntimeError) as error:
        raise InputError(str(error)) from error
    return planning.make(config, nodes, is_account_here)


class SweepCommand:
    """One run of one sweep."""

    alone = "executor=plain would train each trial by itself"
    """See restart.RestartingCommand."""

    def __init__(
        self,
        config: Config,
        composed: str,
        overrides: list[str],
        plan: Plan,
        folder: Path,
        began: float,
    ) -> None:
        assert plan.base is not None
        self.config = config
        self.composed = composed
        self.overrides = overrides
        self.plan = plan
        self.folder = folder
        self.base: BaseModel = plan.base
        self.began = began
        self.leave: Callable[[], None] = lambda: None
        """Gives back what the command holds: locks, and the processes and folders that it has
        made.
        """
        self.ending, self.journal = threading.Lock(), Journal(folder)
        self.baselines = BaselineProcess(config.data, plan.digests, folder)
        self.uri = champion_lookup.store_address(config)
        self.model_name = config.registered_name
        self.about = Outcome(config, overrides, self.uri, began)
        self.plan_text: Callable[[Plan], str] = plan_text.plan_text
        self.turn: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
        """Waited for and held while the winner is judged, by a task of a fleet."""
        self.screen: ProgressDisplay | None = None
        self.spending = spending_of(config, plan.resources, began, plan.name)
        self.final: FinalState | None = None
        """The state of the finalists' training, once that has begun."""

    def connect(self) -> mlflow_store.MlflowStore:
        """The tracking store; raises TrackingError when it does not answer."""
        return mlflow_store.connect(
            self.uri,
            self.config.tracking.experiment,
            storage_folder(self.config.storage) / "artifacts",
        )

    def describe(self, sweep_state: SweepState, best: Record) -> BestTrial:
        """The winner, as the result tells it."""
        return self.about.describe(sweep_state, best)

    def work(self) -> SweepResult:
        """Everything from the first connection to the written result."""
        check_disk(self.config, self.base, self.plan.num_runs, self.folder)
        ships = device_preflight.checked(self.config, self.base, self.plan.shipping, print_line)
        self.plan = dataclasses.replace(self.plan, shipping=ships)
        store = self.connect()
        champion = store.champion(self.model_name)
        if champion is not None and not self.config.tracking.same_task:
            self.plan = champion_lookup.with_stranger(self.plan, champion.uri, champion.tags)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(self.composed, encoding="utf-8")
        drop_drafts(self.folder)
        sizing.keep_choices(self.folder, self.config, self.plan.start.found)
        print_line(self.plan_text(self.plan))
        tell(RemoteState(sweep=self.plan.name))
        if self.plan.estimate is not None and not self.journal.file.exists():
            self.about.planned = round(self.plan.estimate.seconds, 1)
        self.journal.append(
            "sweep", by=this_process(), **self.about.start(self.plan, self.composed)
        )
        writer = OutboxWorker(lambda: store, self.folder)
        writer.start()
        try:
            outcome = self.train_and_judge(store, writer)
        except BaseException as error:
            told = break_off(self.config, self.journal, error, writer)
            if told is error:
                raise
            raise told from error
        # On a storage that takes nothing any more, what the outcome says of that is all that is
        # left to say.
        refusals = (OSError,) if outcome.state == "interrupted" else ()
        with contextlib.suppress(*refusals):
            self.journal.append("sweep_end", state=outcome.state, error=outcome.error, metrics={})
        outcome.missing = missing(writer, self.config)
        outcome.seconds.total = round(time.monotonic() - self.began, 1)
        outcome.spent = self.spending.now().metrics()
        with contextlib.suppress(*refusals):
            write_sealed(self.folder / "result.json", outcome.as_json())
        outcome.report = delivery.deliver(self.folder, store, writer.run_id(None), print_line)
        return outcome

    def train_and_judge(self, store: mlflow_store.MlflowStore, writer: OutboxWorker) -> SweepResult:
        """Start Ray, run the sweep, judge its winner and register it."""
        from orchestrator.launch.ray_watchdog import Daemons, watched

        def give_up(lost: str) -> None:
            self.end_at_once(lost, writer)

        running = watched(Daemons(), give_up)
        if self.config.cluster.kind == "local":
            print_line("ray     starting")
            running = ray_local.local(self.plan.resources, give_up)
        tune = self.folder / "tune"
        shutil.rmtree(tune, ignore_errors=True)  # what Ray Tune of a killed command has left
        with (
            Heartbeat(waiting("ray     starting")) as alive,
            running,
            self.baselines,
            system_metrics.recorded(self.journal, self.config.tracking.system_metrics),
            self.spending.recorded(self.journal),
            progress_of(self.plan, self.began, self.spending) as self.screen,
        ):
            alive.status = self.screen.status
            outcome = self.work_to_the_end(store, writer, self.screen)
        shutil.rmtree(tune, ignore_errors=True)
        return outcome

    def work_to_the_end(
        self, store: mlflow_store.MlflowStore, writer: OutboxWorker, screen: ProgressDisplay
    ) -> SweepResult:
        """Train and judge. Where a checkpoint is damaged, or a process of a trial was lost, go on
        from what is left, some times.
        """
        from orchestrator.evaluation.final_evaluation import FinalEvaluation
        from orchestrator.finalist_training import train_finalists
        from orchestrator.mixture_merging import merge_mixtures
        from orchestrator.restart import why_again
        from orchestrator.sweep import runner

        back: dict[int, int] = {}
        why = ""
        started = time.monotonic()
        stopped = merge_mixtures(self, screen)
        if stopped is not None:
            return self.about.of(self.plan, stopped, started - self.began, 0.0)
        for _ in range(MOST_TIMES_BACK):
            sweep_state = self.sweep_state(screen, back)
            with interruption.gently(functools.partial(self.stop, sweep_state)):
                recorder = runner.run(sweep_state)
                if sweep_state.pack_rejection is not None and not sweep_state.interrupted:
                    self.step_aside(sweep_state)
                    recorder = runner.run(sweep_state)
            recorder = train_finalists(self, sweep_state, recorder, screen, back)
            if (reason := why_again(self, sweep_state)) is not None:
                why = f"{reason}, as others before; {GOES_ON}"
                back = {}
                self.let_go(sweep_state)
                continue
            outcome = self.about.of(
                self.plan, sweep_state, started - self.began, time.monotonic() - started
            )
            if outcome.state != "finished":
                return outcome
            if sweep_state.damaged is None:
                throughput.remember_rate(
                    self.plan.timing, self.plan.machine_key, self.plan.num_trials, self.journal
                )
                try:
                    judge = FinalEvaluation(
                        self, sweep_state, store, writer, screen, recorder.drain
                    )
                    with self.turn():
                        judge.complete(outcome)
                    return outcome
                except Damaged as error:
                    sweep_state.damaged = error.place, error.why
            why = (
                f"storage {self.config.storage} damages what is written to it, again and again: "
                "look at its disk"
            )
            back = self.go_back(sweep_state)
        raise OrchestratorError(why)

    @staticmethod
    def stop(sweep_state: SweepState) -> None:
        """Let trials stop cleanly and keep what is done."""
        sweep_state.interrupted = True
        sweep_state.screen.note(
            "stopping: what is done is kept; to stop at once, press Ctrl-C again after "
            f"{interruption.SAME_WISH_SECONDS:g} s"
        )

    def end_at_once(self, lost: str, writer: OutboxWorker) -> None:
        """End this process, whose Ray is gone, telling why: what waits for Ray in it would wait for
        a minute, or for ever.
        """
        self.ending.acquire()  # for good: whoever else sees the loss has nothing more to say
        deadline = time.monotonic() + SIGNAL_SECONDS
        while not interruption.wish.asked and time.monotonic() < deadline:
            time.sleep(0.05)  # what has ended Ray may have been meant for all of us
        asked = interruption.wish.asked
        with contextlib.suppress(OSError):
            self.journal.append(
                "sweep_end",
                state="interrupted" if asked else "failed",
                error=None if asked else lost,
            )
        with contextlib.suppress(Exception):
            if self.screen is not None:
                self.screen.__exit__()
        console.error("interrupted; the same command continues" if asked else lost)
        delivery.deliver_unfinished(self.folder)
        writer.close(LAST_WORDS_SECONDS)
        shutil.rmtree(self.folder / "tune", ignore_errors=True)
        with contextlib.suppress(Exception):
            self.leave()
        os._exit(130 if asked else 1)

    def sweep_state(self, screen: ProgressDisplay, back: dict[int, int]) -> SweepState:
        """The state of the sweep as the journal tells it, and a coordinator for those who train.
        `back` are the trials that go back.
        """
        from orchestrator.sweep import runner
        from orchestrator.sweep.lost_lines import from_journal
        from orchestrator.sweep.state import SweepState

        common = {
            "tags": provenance.tags(self.config) | run_tags(self.plan),
            "config": self.composed,
        }
        sweep_state = from_journal(
            functools.partial(SweepState, self.plan, self.base, self.journal, screen, common), back
        )
        screen.num_trials = sweep_state.total()
        sweep_state.coordinator = runner.coordinator_for(self.plan)
        return sweep_state

    def go_back(self, sweep_state: SweepState) -> dict[int, int]:
        """From a damaged checkpoint to one before it; returns the step of each trial that goes
        back.
        """
        from orchestrator.sweep.rewind import go_back_from_damage, trial_and_step

        assert sweep_state.damaged is not None
        index, _ = trial_and_step(sweep_state.damaged[0])
        final = self.final if self.final is not None and self.final.belongs(index) else None
        back = go_back_from_damage(final or sweep_state, self.journal, sweep_state.damaged)
        self.let_go(sweep_state)
        return back

    def let_go(self, sweep_state: SweepState) -> None:
        """Forget the coordinator: its name is free once the actor is gone."""
        if self.final is not None:
            del self.final.coordinator
            self.final = None
        del sweep_state.coordinator

    def step_aside(self, sweep_state: SweepState) -> None:
        """Turn to the plain executor, since the packs do not fit the model. Raises
        OrchestratorError where the user insists on packs.
        """
        from orchestrator.sweep import runner

        reason = f"{self.base.name} cannot be packed: {sweep_state.pack_rejection}"
        if self.config.executor == "pack":
            raise InputError(f"executor=pack: {reason}; executor=plain trains each trial by itself")
        sweep_state.screen.note(f"{reason}; each trial trains by itself")
        self.journal.append("tags", trial=None, tags={"executor": f"plain: {reason}"})
        self.plan = sweep_state.plan = planning.unpacked(self.plan)
        del sweep_state.coordinator  # its name is free once the actor is gone
        sweep_state.coordinator = runner.coordinator_for(self.plan)
        sweep_state.pack_rejection = None
        sweep_state.slots_taken = set()
