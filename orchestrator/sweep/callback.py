"""What Tune and the workers say, into the journal and onto the screen; and what stopped trials
leave behind, back to Ray.
"""

from __future__ import annotations

import re
import time

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial

from jobs.config import WorkerSpec
from jobs.files import filesystem
from jobs.files.checkpoints import checkpoint_of, reports_in
from jobs.files.json_types import Json, JsonObject
from jobs.files.storage_faults import probe, told
from jobs.pack.membership import AbortReason
from jobs.workers.coordinator import free
from jobs.workers.messages import JudgingProgress, Note, Posted, StepMetrics
from orchestrator.config.credentials import mask
from orchestrator.plan.run_inputs import datasets, flat_params
from orchestrator.sweep.placement import PlacementMonitor
from orchestrator.sweep.sampler import is_not_finite
from orchestrator.sweep.scheduler import TuneResult
from orchestrator.sweep.state import SweepState
from orchestrator.sweep.trial_errors import is_process_lost, reason_in, why_failed

FREE_AFTER_SECONDS = 3.0
DRAIN_SECONDS = 0.5
REST_SECONDS = 60.0
"""How long those who train have to end their step and write a checkpoint, when the user asks for an
end.
"""


class SweepCallback(Callback):
    """Writes what Tune and the workers say into the journal and onto the screen, and frees what
    stopped trials leave behind.
    """

    def __init__(self, sweep_state: SweepState) -> None:
        self.sweep_state = sweep_state
        sweep_state.started = set()
        sweep_state.ended = set()
        self.with_checkpoints: set[int] = set()
        """Ended trials whose checkpoints are still on disk: the best of them, and the last."""
        self.to_free: list[tuple[float, str]] = []
        self.drained = 0.0
        self.waiting_events: list[JsonObject] = []
        """What the journal has not taken yet, since the storage refuses it."""
        self.asked_to_rest: float | None = None
        """When those who train were asked to keep what they have learned, since the sweep
        pauses.
        """
        self.has_rested = False
        self.waiting = PlacementMonitor(sweep_state)

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """A trial's first start, or its return from a pause."""
        index = trial.config["index"]
        if index not in self.sweep_state.started:
            self.sweep_state.started.add(index)
            assignment: WorkerSpec = trial.config["assignment"]
            params = flat_params(assignment.trial)
            inputs = datasets(self.sweep_state.plan, assignment.trial)
            self.write(
                "trial",
                trial=index,
                point=self.sweep_state.records[index].point,
                params=params,
                datasets=inputs,
                **self.sweep_state.common,
            )
            self.sweep_state.screen.goes_on_from(index, trial.config.get("step", 0))
        self.sweep_state.screen.start(index, self.sweep_state.records[index].point)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: TuneResult, **info: object
    ) -> None:
        """A trial's report at a rung."""
        index = trial.config["index"]
        step = int(result["step"])
        record = self.sweep_state.records[index]
        self.drain()  # the steps up to here, before the rung that the trial may go on from
        if self.sweep_state.metric not in result:
            metric_names = ", ".join(
                sorted(
                    key for key in result if "/" in key and key.split("/")[0] in ("valid", "train")
                )
            )
            self.sweep_state.abort_reason = (
                f"trial {index} reports no {self.sweep_state.metric}; sweep.metric can be "
                f"{metric_names}"
            )
        self.sweep_state.allowance.tell_report(index, step)
        is_known = step in record.reports
        if not is_known:
            self.write_report(index, step, result, result.get("checkpoint_path"))
        self.sweep_state.screen.rung(index, step, record.reports[step], is_known)

    def write_report(
        self, index: int, step: int, result: TuneResult, checkpoint: str | None
    ) -> None:
        """Take in what came out at a rung."""
        record = self.sweep_state.records[index]
        record.reports[step] = {
            key: float(value)
            for key, value in result.items()
            if "/" in key and isinstance(value, int | float)
        }
        if checkpoint:
            record.checkpoints[step] = checkpoint
        self.write(
            "report", trial=index, step=step, metrics=record.reports[step], checkpoint=checkpoint
        )

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """A trial that reached its end or was stopped."""
        index = trial.config["index"]
        steps = self.sweep_state.trained(index).train.steps
        done = max(self.sweep_state.records[index].reports, default=0) >= steps
        inside: str | None = None
        state = "finished"
        if not done:
            inside = ray.get(self.sweep_state.coordinator.why_stopped.remote(index))
            cut = self.sweep_state.halted or self.sweep_state.allowance.has_ended(index)
            state = "interrupted" if cut and inside is None else "stopped"
        self.end(index, state, None, inside)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """A trial that failed."""
        index = trial.config["index"]
        sweep_state = self.sweep_state
        self.hear()
        refused = (
            None
            if sweep_state.halted or filesystem.is_uri(sweep_state.config.storage)
            else probe(sweep_state.journal.folder)
        )
        if refused is not None:
            sweep_state.fault = told(refused, sweep_state.config.storage)
        if sweep_state.halted:
            self.end(index, "interrupted", None)
            return
        reported_failure: str | None = ray.get(
            sweep_state.coordinator.failure.remote(index)
        ) or trial.config.get("failed")
        error = why_failed(trial)
        if reported_failure is None and is_process_lost(trial, error):
            # The trial is not to blame: its process only waits, or hands on what others compute.
            why = "a process was lost" if error is None else reason_in(error)
            sweep_state.lost = sweep_state.lost or f"{why} (it spoke for trial {index})"
            self.end(index, "interrupted", None)
            return
        why = reported_failure or reason_in(error)
        self.end(index, "failed", mask(why))

    def hear(self) -> None:
        """What ends all training, if the coordinator knows of it."""
        reason: AbortReason = (
            ray.get(self.sweep_state.coordinator.abort_reason.remote()) or AbortReason()
        )
        self.sweep_state.pack_rejection = reason.pack_rejection
        self.sweep_state.crowded = self.sweep_state.crowded or reason.crowded
        self.sweep_state.fault = self.sweep_state.fault or reason.fault
        self.sweep_state.damaged = self.sweep_state.damaged or reason.damaged
        self.sweep_state.lost = self.sweep_state.lost or reason.lost

    def write(self, kind: str, **fields: Json) -> None:
        """Append to the journal. What the storage refuses waits here, in order, and the sweep
        ends.
        """
        self.waiting_events.append({"t": int(time.time() * 1000), "kind": kind, **fields})
        self.write_waiting()

    def write_waiting(self) -> None:
        """Append what waits, as far as the storage takes it."""
        try:
            while self.waiting_events:
                self.sweep_state.journal.append(**self.waiting_events[0])
                del self.waiting_events[0]
        except OSError as error:
            self.sweep_state.fault = self.sweep_state.fault or told(
                error, self.sweep_state.config.storage
            )

    def rested(self) -> bool:
        """Whether everyone who trains has kept what was learned, after the user has asked for an
        end. Asks them the first time.
        """
        now = time.monotonic()
        if self.asked_to_rest is None:
            self.asked_to_rest = now
            ray.get(self.sweep_state.coordinator.rest.remote())
        if self.has_rested:
            return True
        over, left = ray.get(self.sweep_state.coordinator.left.remote())
        if not over and now - self.asked_to_rest < REST_SECONDS and self.sweep_state.fault is None:
            return False
        self.has_rested = True
        self.drain()
        for index, (checkpoint, step) in sorted(left.items()):
            record = self.sweep_state.records[index]
            if index in self.sweep_state.ended or step <= max(record.checkpoints, default=0):
                continue
            for reached in reports_in(checkpoint):  # of rungs whose reports were still on their way
                rung = int(reached["step"])
                if rung not in record.reports:
                    self.write_report(index, rung, reached, checkpoint_of(checkpoint, rung))
            if step not in record.reports:
                record.checkpoints[step] = checkpoint
                self.write("checkpoint", trial=index, step=step, checkpoint=checkpoint)
        return True

    def end(self, index: int, state: str, error: str | None, inside: str | None = None) -> None:
        """Write down how a trial ended, once; `inside` is why it did so inside a rung."""
        if index in self.sweep_state.ended:
            return
        self.sweep_state.ended.add(index)
        sweep_state = self.sweep_state
        sweep_state.slots_taken.discard(index)
        self.release(index)
        ray.get(sweep_state.coordinator.ended.remote(index))
        record = sweep_state.records[index]
        record.state = state
        record.error = error
        best = record.best(sweep_state.metric, sweep_state.maximise)
        sweep_state.search.ended(
            index,
            best[1] if best and state != "failed" else None,
            is_bad=inside is not None or is_not_finite(error),
        )
        if index in sweep_state.steering.dropped:
            self.write("tags", trial=index, tags={"note": "dropped on request"})
        if state == "interrupted" and sweep_state.allowance.has_ended(index):
            reached = max([*record.reports, *record.checkpoints], default=0)
            note = f"ended by the budget ({sweep_state.allowance.limit}) at step {reached}"
            self.write("tags", trial=index, tags={"note": note})
        record.inside = inside
        if inside is not None:
            self.write("tags", trial=index, tags={"note": f"stopped inside a rung: {inside}"})
            sweep_state.screen.say(index, f"ends here: {inside}")
            self.write("end", trial=index, state=state, error=error, inside=inside)
        else:
            self.write("end", trial=index, state=state, error=error)
        sweep_state.screen.end(index, state, error, max(record.reports, default=0))
        sweep_state.abort_reason = sweep_state.abort_reason or hopeless(sweep_state)
        if state != "interrupted":
            self.prune(index)

    def prune(self, present: int) -> None:
        """Delete the checkpoints of ended trials that cannot win any more. The one that ends right
        now may still be closing its files.
        """
        ended = self.with_checkpoints | {present}
        ranked = [
            (rank, index)
            for index in ended
            if (rank := self.sweep_state.rank(self.sweep_state.records[index])) is not None
        ]
        best = sorted(ranked, reverse=True)[: self.sweep_state.most_kept]
        self.with_checkpoints = {present, *(index for _, index in best)}
        for index in ended - self.with_checkpoints:
            filesystem.remove(self.sweep_state.place("train", f"trial-{index:03d}"))

    def release(self, index: int) -> None:
        """Have the trial's placement group removed once its own processes are gone: a living
        controller would ask for a new one.
        """
        if self.sweep_state.packed:
            return  # the group is its pack's
        group: str | None = ray.get(self.sweep_state.coordinator.leave.remote(index))
        if group:
            self.to_free.append((time.monotonic() + FREE_AFTER_SECONDS, group))

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Called several times a second."""
        now = time.monotonic()
        for due, group in [item for item in self.to_free if item[0] <= now]:
            free(group)
            self.to_free.remove((due, group))
        if now - self.drained > DRAIN_SECONDS:
            self.drained = now
            self.drain()
            self.hear()
            self.sweep_state.steering.look(self.sweep_state)
            self.sweep_state.allowance.look()
        self.waiting.look(self.sweep_state.started & self.sweep_state.slots_taken)
        self.sweep_state.screen.refresh()

    def drain(self) -> None:
        """Take the workers' messages into the journal and onto the screen."""
        drained: list[Posted] = ray.get(self.sweep_state.coordinator.drain.remote())
        for posted in drained:
            message = posted.message
            if isinstance(message, JudgingProgress):
                self.sweep_state.screen.progress(message.label, message.done, message.total)
            elif isinstance(message, Note):
                tags = {"note": message.text}
                self.write("tags", t=posted.milliseconds, trial=message.trial, tags=tags)
                if message.trial is None:
                    self.sweep_state.screen.note(message.text)
                else:
                    self.sweep_state.screen.say(message.trial, message.text)
            else:
                self.take_steps(message)

    def take_steps(self, message: StepMetrics) -> None:
        """Take the metrics of optimizer steps into the journal, each step once."""
        index = message.trial
        for moment, step, metrics in message.steps:
            self.sweep_state.allowance.tell_step(index, moment, step, metrics)
            if self.sweep_state.logged.add(index, step):
                self.write("metrics", t=moment, trial=index, step=step, metrics=metrics)
            self.sweep_state.screen.step(index, step, metrics)


def hopeless(sweep_state: SweepState) -> str | None:
    """Why the sweep should not go on: its first trials have all failed alike and none has
    scored.
    """
    if any(
        record.reports for record in sweep_state.asked_for()
    ):  # the first trial has, mostly: so this comes before the long lists
        return None
    failed = [record for record in sweep_state.asked_for() if record.state == "failed"]
    if len(failed) < min(sweep_state.config.sweep.give_up_after, sweep_state.plan.num_trials):
        return None
    # Numbers in a reason, such as a step, do not tell it from another.
    reasons = {re.sub(r"\d+", "#", (record.error or "").split("(")[0])[:60] for record in failed}
    return (
        f"the first {len(failed)} trials failed for the same reason: {failed[0].error}"
        if len(reasons) == 1 and len(failed) > 1
        else None
    )
