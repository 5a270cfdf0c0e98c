"""One task of a fleet: the story of its sweep (pipeline.SweepCommand), told in a thread of its own,
with the tracking store, the packs and the screen of the fleet.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config.fleet import FleetTask
from orchestrator.earlier_result import kept_result, show_again
from orchestrator.errors import OrchestratorError
from orchestrator.evaluation.baseline_process import BaselineProcess
from orchestrator.output.heartbeat import print_line
from orchestrator.output.progress import ProgressDisplay
from orchestrator.output.sweep_result import SweepResult
from orchestrator.pipeline import SweepCommand
from orchestrator.plan.planner import Plan
from orchestrator.tracking.events import Refused, RunUpdate
from orchestrator.tracking.mlflow_store import MlflowStore
from orchestrator.tracking.outbox import SWEEP, OutboxState, OutboxWorker

if TYPE_CHECKING:
    from orchestrator.fleet.conductor import Conductor

PARENT_SECONDS = 0.1


class TaskScreen(ProgressDisplay):
    """A task's progress, a plain line for each event, under the task's name."""

    def __init__(self, name: str, plan: Plan) -> None:
        super().__init__(plan.num_trials, plan.config.train.steps, plan.config.sweep.metric)
        self.name = name

    def __enter__(self) -> TaskScreen:
        return self

    def line(self, text: str, always: bool = False) -> None:
        """A plain line."""
        print_line(f"{self.name}  {text}")


class TaskBaselines(BaselineProcess):
    """A task's baselines; begun by whoever comes first, its own thread or the one that begins those
    of all tasks one after the other.
    """

    def begin(self) -> None:
        """Start the process where nobody has."""
        with self.lock:
            if self.process is None:
                self.log.parent.mkdir(parents=True, exist_ok=True)
                super().start()

    def start(self) -> None:
        """Start the process, where it is needed."""
        self.begin()

    def __init__(self, command: SweepCommand) -> None:
        super().__init__(command.config.data, command.plan.digests, command.folder)
        self.lock = threading.Lock()


class TaskCommand(SweepCommand):
    """One run of one task's sweep."""

    alone = (
        "a fleet trains in packs; without data.tasks each task is tuned by itself, and there "
        "executor=plain trains each trial by itself"
    )

    def __init__(
        self,
        task: FleetTask,
        composed: str,
        overrides: list[str],
        plan: Plan,
        folder: Path,
        store: MlflowStore,
    ) -> None:
        super().__init__(plan.config, composed, overrides, plan, folder, time.monotonic())
        self.task = task
        self.store = store
        self.baselines: TaskBaselines = TaskBaselines(self)
        self.plan_text = lambda plan: f"{task.name}  sweep {plan.name}"
        self.screen = TaskScreen(task.name, plan)
        self.parent: Callable[[], str | None] = lambda: None
        """The fleet's run in the tracking store, once it is there."""
        self.earlier: SweepResult | None = None
        """The result of an earlier run, where it is of all that is asked for."""
        self.outcome: SweepResult | None = None
        self.error: str | None = None
        """Why there is no outcome."""
        self.fault: BaseException | None = None
        """What nobody has foreseen."""
        self.interrupted = False

    def connect(self) -> MlflowStore:
        """The tracking store of the fleet."""
        return self.store

    def has_result(self) -> bool:
        """Whether an earlier run of the fleet has kept a result of all that is asked of this task,
        which the tracking store may not have any more.
        """
        self.earlier = kept_result(self.config, self.plan, self.folder, self.about)
        return self.earlier is not None

    def finished_before(self) -> bool:
        """Whether that result is all that is to be done."""
        if self.earlier is not None:
            self.outcome = show_again(
                self.earlier, self.config, self.plan, self.folder, self.connect
            )
        if self.outcome is None:
            return False
        self.link()
        return True

    def link(self) -> None:
        """Let the run of a finished sweep stand below the fleet's, which may be another one than
        when it was trained.
        """
        run_id = OutboxState.read(self.folder / "tracking.json", "").runs.get(SWEEP)
        parent = None if run_id is None else self.parent_run()
        if run_id is None or parent is None:
            return
        with contextlib.suppress(OrchestratorError, Refused):
            self.store.write(run_id, RunUpdate(tags=self.tags(parent)))

    def tags(self, parent: str) -> dict[str, str]:
        """What ties the sweep's run to the fleet's."""
        return {"mlflow.parentRunId": parent, "fleet.task": self.task.name}

    def has_ended(self) -> bool:
        """Whether nothing more comes of this task."""
        return self.interrupted or self.outcome is not None or self.error is not None

    def run_in(self, conductor: Conductor) -> None:
        """The whole story; what has ended it is kept."""
        from orchestrator.fleet.conductor import TaskTrainer
        from orchestrator.sweep import runner
        from orchestrator.sweep.fleet_round import open_judging

        number = self.task.number
        runner.trainer.set(TaskTrainer(conductor, number))
        self.turn = lambda: conductor.turn(number, lambda: open_judging(self.plan.name))
        try:
            self.outcome = self.work()
        except KeyboardInterrupt:
            self.interrupted = True
        except OrchestratorError as error:
            self.error = str(error)
        except BaseException as error:  # noqa: BLE001  # the fleet's command raises it at its end
            self.error = str(error) or repr(error)
            self.fault = error
        finally:
            conductor.end(number)

    def train_and_judge(self, store: MlflowStore, writer: OutboxWorker) -> SweepResult:
        """Run the sweep with those of the others, judge its winner and register it."""
        assert self.screen is not None
        parent = self.parent_run()
        if parent is not None:
            self.journal.append("tags", trial=None, tags=self.tags(parent))
        try:
            return self.work_to_the_end(store, writer, self.screen)
        finally:
            self.baselines.close()

    def parent_run(self) -> str | None:
        """The fleet's run in the tracking store; None where that does not answer in time."""
        deadline = time.monotonic() + max(self.config.tracking.patience_seconds, 1)
        while (run_id := self.parent()) is None and time.monotonic() < deadline:
            time.sleep(PARENT_SECONDS)
        return run_id

    @property
    def state(self) -> str:
        """finished, failed or interrupted."""
        if self.interrupted:
            return "interrupted"
        return "failed" if self.outcome is None else self.outcome.state

    @property
    def why(self) -> str | None:
        """What has gone wrong, if something has."""
        return self.error if self.outcome is None else self.outcome.error
