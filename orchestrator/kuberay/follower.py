"""Follow one RayJob to its end: its changes, its pods and events, its place in a queue, its
driver's log; and a watch over silence.

What is told of a change is story.py's, what an ending means is ending.py's, how changes come here
in spite of lost connections feed.py's.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Callable

from orchestrator.config.cluster import Cluster
from orchestrator.errors import OrchestratorError
from orchestrator.kuberay import outcome as endings
from orchestrator.kuberay.client import EVENTS, PODS, RAYCLUSTERS, RAYJOBS, Client
from orchestrator.kuberay.names import JOB, LOG_CONTAINER, SWEEP_NAME
from orchestrator.kuberay.outcome import Outcome
from orchestrator.kuberay.pods import driver_pod
from orchestrator.kuberay.rayjobs import sweep_name_of
from orchestrator.kuberay.responses import Expired
from orchestrator.kuberay.status import StatusReporter
from orchestrator.kuberay.timeouts import Timeouts
from orchestrator.kuberay.watch import Change, Changes, Log, Watch
from orchestrator.output.log_relay import Relay
from orchestrator.output.log_summary import sweep_told


class Follower:
    """One job being followed. `say` takes a line for the user."""

    def __init__(
        self,
        client: Client,
        name: str,
        cluster: Cluster,
        as_json: bool,
        pace: Timeouts,
        say: Callable[[str], None],
    ) -> None:
        self.client = client
        self.name = name
        self.cluster = cluster
        self.pace = pace
        self.say = say
        self.story = StatusReporter(name, cluster)
        self.story.holds = True
        self.as_json = as_json
        self.answer: str | None = None
        """The line after the mark that output=json answers with."""
        self.relay = Relay()
        self.changes: Changes = queue.Queue()
        self.over = threading.Event()
        self.logs: dict[str, Log] = {}
        self.uid = ""
        self.since = time.monotonic()
        """When the present phase began."""
        self.attempt = ""
        self.attempt_since = self.since
        """startTime of the present attempt, and when it was first seen here: the clocks of two
        machines are not compared.
        """
        self.reminded = self.waiting_since = self.since
        self.waiting_attempt = ""
        """startTime of the attempt that waits."""
        self.sweep = ""
        """The sweep's own name, as far as it is known."""
        self.away = False
        """Whether the connection is lost at present."""
        self.last_log = 0.0

    def run(self) -> Outcome:
        """Follow until the job or the following ends. Ctrl-C passes through and leaves the job
        alone.
        """
        query = {"fieldSelector": f"metadata.name={self.name}"}
        collections = {
            "rayjob": (RAYJOBS, query),
            "pod": (PODS, {"labelSelector": f"{JOB}={self.name}"}),
            "event": (EVENTS, {}),
        }
        try:
            for source, (path, selector) in collections.items():
                Watch(self.client, source, path, selector, self.changes, self.over).start()
            if self.cluster.queue is not None:
                self.watch_queue()
            end = self.until_end()
            self.drain(end)
            if end.state == "stopped" and self.relay.refused:
                end = endings.refused_input(self.story)
            return end
        finally:
            self.over.set()
            self.client.close()

    def watch_queue(self) -> None:
        """Follow Kueue's Workloads, where Kueue is installed and may be asked."""
        try:
            group = self.client.ask(
                "GET", "/apis/kueue.x-k8s.io", patience_seconds=self.pace.patience_seconds
            )
            version = group["preferredVersion"]["groupVersion"]
        except (OrchestratorError, KeyError):
            self.say(
                "note     Kueue does not answer here, so its reasons for waiting are not shown"
            )
            return
        path = f"/apis/{version}/namespaces/{{}}/workloads"
        Watch(self.client, "workload", path, {}, self.changes, self.over).start()

    def until_end(self) -> Outcome:
        """Take changes until one is the last."""
        while True:
            try:
                change = self.changes.get(timeout=0.2)
            except queue.Empty:
                end = self.overdue()
                self.remind()
            else:
                end = self.take(change)
            if end is not None:
                return end

    def take(self, change: Change) -> Outcome | None:
        """Tell one change; an Ending where it is the last."""
        if change.source == "lost":
            return endings.lost(self.story, change.text)
        if change.source == "log":
            self.print_log(change.text)
        elif change.source in ("note", "away", "back"):
            self.take_note(change)
        elif change.source == "rayjob":
            return self.take_job(change)
        elif change.kind == "changed":
            self.tell_of(change)
        elif change.source == "pod" and change.object:
            self.story.pod_gone(change.object)
        return None

    def take_note(self, change: Change) -> None:
        """A word about the connection. What was not seen is not silent: the silence counts anew,
        the waiting does not.
        """
        self.since = time.monotonic()
        self.away = change.source == "away" or (self.away and change.source != "back")
        if change.text:
            self.say(f"note     {change.text}")
        if change.object.get("unseen") == "pod":
            self.tell(self.story.all_seen())

    def take_job(self, change: Change) -> Outcome | None:
        """A change of the job itself."""
        if change.kind == "gone" or self.uid not in ("", change.object["metadata"]["uid"]):
            return endings.deleted(self.story)
        self.uid = change.object["metadata"]["uid"]
        if self.attempt != (attempt := (change.object.get("status") or {}).get("startTime") or ""):
            self.attempt = attempt
            self.attempt_since = time.monotonic()
        before = self.story.phase
        self.tell(self.story.rayjob(change.object))
        if self.story.phase != before:
            self.since = time.monotonic()
        self.count_waiting(before)
        self.sweep = self.sweep or sweep_name_of(change.object)
        by_hand = self.cluster.queue is None and (change.object.get("spec") or {}).get("suspend")
        if self.story.phase[0] == "Suspended" and by_hand:
            return endings.suspended(self.story)
        if self.story.unplaced and not self.story.waits_for:
            self.look_back()
        if self.story.bad_input and self.story.phase[0] not in ("Failed", "Complete"):
            return endings.not_again(self.story, self.call_off())
        if self.story.phase[0] in ("Complete", "Failed"):
            self.story.freed = self.cluster_is_gone()
        return endings.outcome_of(change.object, self.story)

    def cluster_is_gone(self) -> bool:
        """Whether the job's RayCluster is there no more, as for who comes long after the end. Where
        that cannot be seen it may be there.
        """
        with contextlib.suppress(OrchestratorError):
            return (
                self.story.ray_cluster != ""
                and self.client.find(RAYCLUSTERS, self.story.ray_cluster, patience_seconds=0)
                is None
            )
        return False

    def call_off(self) -> str:
        """Keep the operator from another attempt at bad input; returns what was done. Kueue would
        start a suspended job again.
        """
        try:
            if self.cluster.queue is not None:
                self.client.delete(RAYJOBS, self.name)
                return "the job was deleted"
            self.client.patch(RAYJOBS, self.name, {"spec": {"suspend": True}})
        except OrchestratorError as error:
            return (
                f"stop it: {endings.command('stop', self.story)} (this command could not: {error})"
            )
        return "the job was suspended"

    def count_waiting(self, before: tuple[str, str]) -> None:
        """Begin to count what a job waits, which goes on while the connection is lost, and since
        before someone came to follow it.

        A moment that the server has written down is believed as long as the job could still wait by
        it.
        """
        phase = self.story.phase[0]
        limit = self.cluster.wait_seconds + self.pace.grace_seconds
        if phase in ("Initializing", "Suspended") and (
            phase != before[0] or self.story.began != self.waiting_attempt
        ):
            self.waiting_attempt = self.story.began
            waited = self.client.since(self.story.began) if phase == "Initializing" else None
            self.waiting_since = time.monotonic() - (
                waited if waited is not None and 0 < waited < limit else 0.0
            )

    def queued_since(self) -> None:
        """The same for a job in a queue, by Kueue's own word."""
        waited = self.client.since(self.story.queued_since)
        if (
            self.story.phase[0] == "Suspended"
            and waited is not None
            and 0 < waited < self.cluster.wait_seconds + self.pace.grace_seconds
        ):
            self.waiting_since = min(self.waiting_since, time.monotonic() - waited)

    def tell(self, lines: list[str]) -> None:
        """Say some lines."""
        for line in lines:
            self.say(line)

    def look_back(self) -> None:
        """Why a job found no place that had given up before its pods and events were seen here."""
        with contextlib.suppress(OrchestratorError, Expired):
            pods, _ = self.client.items(
                PODS, {"labelSelector": f"{JOB}={self.name}"}, patience_seconds=0
            )
            for pod in pods:
                self.tell_of(Change("pod", "changed", pod))
            events, _ = self.client.items(EVENTS, patience_seconds=0)
            for event in events:
                self.tell_of(Change("event", "changed", event))

    def tell_of(self, change: Change) -> None:
        """A change of something that belongs to the job."""
        changed_object = change.object
        if change.source == "workload":
            owners = changed_object["metadata"].get("ownerReferences") or []
            lines = (
                self.story.workload(changed_object)
                if any(owner.get("uid") == self.uid for owner in owners)
                else []
            )
        else:
            lines = (
                self.story.pod(changed_object)
                if change.source == "pod"
                else self.story.event(changed_object)
            )
        self.tell(lines)
        if change.source == "workload" and lines:
            self.queued_since()
        if change.source == "pod":
            self.read_log(driver_pod(changed_object))

    def read_log(self, name: str | None) -> None:
        """Begin with the log of a head pod."""
        if name is not None and name not in self.logs:
            # A new head runs the command anew: what an earlier one had answered is not its answer.
            self.relay = Relay()
            self.answer = None
            self.logs[name] = Log(self.client, name, LOG_CONTAINER, self.changes, self.over)
            self.logs[name].start()

    def overdue(self) -> Outcome | None:
        """What has been silent for too long."""
        if self.away:
            return None
        silence = time.monotonic() - self.since
        (deployment, state) = self.story.phase
        if not self.story.seen_by_operator and silence > self.pace.unseen_seconds:
            return endings.unseen(self.story, silence)
        if deployment == "Running" and not state and silence > self.pace.unsubmitted_seconds:
            return endings.unsubmitted(self.story, silence)
        if (
            deployment == "Suspended"
            and self.cluster.queue is not None
            and self.waited() > self.cluster.wait_seconds
        ):
            return endings.queued_too_long(self.story)
        return self.deadline_passed(silence)

    def deadline_passed(self, silence: float) -> Outcome | None:
        """A deadline that the operator should have kept, had it still been there."""
        pace = self.pace
        cluster = self.cluster
        deployment = self.story.phase[0]
        if deployment == "Initializing" and silence > cluster.wait_seconds + pace.grace_seconds:
            return endings.operator_gone(
                self.story, f"cluster.wait_seconds={cluster.wait_seconds}", silence
            )
        attempt = time.monotonic() - self.attempt_since
        if (
            deployment not in ("", "Suspended")
            and attempt > cluster.active_deadline_seconds + pace.grace_seconds
        ):
            return endings.operator_gone(
                self.story,
                f"cluster.active_deadline_seconds={cluster.active_deadline_seconds}",
                attempt,
            )
        return None

    def remind(self) -> None:
        """A word now and then while the job waits for its place."""
        now = time.monotonic()
        if (
            self.story.phase[0] in ("Initializing", "Suspended")
            and not self.away
            and now - self.reminded > self.pace.remind_seconds
        ):
            self.reminded = now
            why = self.story.waits_for or "the cluster starts up"
            self.say(
                f"waiting  for {self.waited():.0f} s of at most {self.cluster.wait_seconds} s: "
                f"{why}"
            )

    def waited(self) -> float:
        """Seconds for which the job has waited for its place."""
        return time.monotonic() - self.waiting_since

    def print_log(self, line: str) -> None:
        """One line of the driver's log: stderr, but for the answer."""
        self.last_log = time.monotonic()
        if (name := sweep_told(line)) is not None and name != self.sweep:
            self.learn(name)
        if self.as_json and self.relay.answering and self.answer is None and line.startswith("{"):
            self.answer = line
        elif not self.as_json:
            self.relay.line(line)
        else:
            with contextlib.redirect_stdout(sys.stderr):  # what is not the answer
                self.relay.line(line)

    def learn(self, name: str) -> None:
        """The sweep's own name, which the RayJob keeps, so that either leads to the other when the
        log is gone.
        """
        self.sweep = name
        with contextlib.suppress(OrchestratorError):
            self.client.patch(
                RAYJOBS,
                self.name,
                {"metadata": {"annotations": {SWEEP_NAME: name}}},
                patience_seconds=0,
            )

    def drain(self, end: Outcome) -> None:
        """Wait for the rest of the log: the operator may learn of the end before its last lines are
        here. Then give the answer.
        """
        deadline = time.monotonic() + self.pace.drain_seconds
        self.last_log = time.monotonic()
        while time.monotonic() < deadline:
            wanting = self.logs and self.as_json and end.code == 0 and self.answer is None
            broken = not all(log.open for log in self.logs.values())
            if (
                not (wanting or broken)
                and time.monotonic() - self.last_log > self.pace.settle_seconds
            ):
                break
            with contextlib.suppress(queue.Empty):
                change = self.changes.get(timeout=0.1)
                if change.source == "log":
                    self.print_log(change.text)
                elif change.source == "pod" and change.kind == "changed":
                    self.read_log(
                        driver_pod(change.object)
                    )  # of a job that had ended before it was followed
        if self.as_json and self.answer is not None:
            print(self.answer, flush=True)
        elif end.code == 0 and (self.as_json or not self.logs):
            self.say(
                "note     the driver's log could not be read to its end, so its answer is missing "
                "here; it is in the tracking server"
            )
