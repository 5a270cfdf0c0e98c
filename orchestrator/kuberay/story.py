"""What is told of a job while it runs: one line per change, with the reason from wherever it stands. Pure: objects in, lines out.

Reasons stand in five places: the RayJob's status, the conditions of its RayCluster, its pods, events, and Kueue's Workload.
"""

from __future__ import annotations

import re
from typing import Any

from orchestrator.cluster import Cluster
from orchestrator.kuberay.names import LOG_CONTAINER

NOISE = ("Unhealthy", "BackOff", "FailedToUpdateStatus")
"""Warning events that come with every start, or repeat another."""
STUCK = (
    *("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError"),
    *("CreateContainerError", "RunContainerError", "CrashLoopBackOff"),
)
"""Reasons of a container that waits for something that will not come by itself."""
COLOUR = r"\x1b\[[0-9;]*m"

Thing = dict[str, Any]


class Story:
    """What was seen of one RayJob, so that each change is told once."""

    def __init__(self, name: str, cluster: Cluster) -> None:
        self.name, self.cluster = name, cluster
        self.phase = ("", "")
        """jobDeploymentStatus and jobStatus."""
        self.failed = 0
        self.last_failure = ""
        self.job_id = self.driver_started = ""
        self.silent = self.head_ready = False
        self.waits_for = ""
        """Why the work has not started, in words; empty when nothing is known to hold it up."""
        self.unplaced = False
        """Whether it ended without a place: what is seen then still says why."""
        self.seen_by_operator = False
        self.created = ""
        self._told: set[str] = set()
        self._pods: set[str] = set()

    def rayjob(self, job: Thing) -> list[str]:
        """Lines about a change of the job."""
        status = job.get("status") or {}
        self.created = job["metadata"].get("creationTimestamp", "")
        self.seen_by_operator = self.seen_by_operator or bool(status)
        self.unplaced = status.get("reason") == "PreRunningDeadlineExceeded"
        phase = (status.get("jobDeploymentStatus", ""), status.get("jobStatus", ""))
        if phase[0] == "Retrying":
            self.last_failure = f": {summary(status)}"
        lines = self.attempts(status, phase[0]) + self.head(status)
        if phase != self.phase and phase[0]:
            lines += self.entered(job, status, *phase)
            self.phase = phase
        return lines + self.conditions(status)

    def attempts(self, status: Thing, deployment: str) -> list[str]:
        """A failed attempt that is followed by another."""
        failed, before = status.get("failed", 0), self.failed
        if failed <= before or deployment in ("Failed", "Complete"):
            return []
        self.failed = failed
        left = f"attempt {failed + 1} of {self.cluster.retries + 1} starts on a new cluster and continues what is finished"
        return [f"failed   attempt {failed}{self.last_failure}; {left}"]

    def head(self, status: Thing) -> list[str]:
        """A head that is lost, and the job submitted again to a new one: no event and no reason tell that."""
        lines = []
        silent = status.get("jobStatusCheckFailureStartTime")
        if silent and not self.silent:
            self.head_ready = False
            lines.append(f"head     does not answer since {silent}; the operator waits for it or for a new one")
        self.silent = bool(silent)
        job_id, started = status.get("jobId", ""), (status.get("rayJobInfo") or {}).get("startTime", "")
        if job_id not in ("", self.job_id):
            self.job_id, self.driver_started, self.head_ready = job_id, "", False  # another attempt, on another cluster
        if job_id and self.driver_started and started and started != self.driver_started:
            self.head_ready = False  # the conditions that come with this are older than the new head
            lines.append("restart  the head was replaced and the job submitted again; it continues what is finished")
        self.driver_started = started or self.driver_started
        return lines

    def entered(self, job: Thing, status: Thing, deployment: str, state: str) -> list[str]:
        """A phase that begins."""
        where = status.get("rayClusterName", "")
        if deployment == "Suspended":
            if not (job.get("spec") or {}).get("suspend"):
                return []
            queued = f"queued   in {self.cluster.queue}; Kueue starts it when there is room"
            return [queued] if self.cluster.queue is not None else []
        if deployment == "Running" and state in ("", "PENDING", "RUNNING"):
            self.waits_for = ""
        texts = {
            ("Initializing", ""): f"starting cluster {where}",
            ("Running", ""): f"cluster  {where} is up",
            ("Running", "RUNNING"): f"running  {status.get('jobId', '')}",
            ("Suspending", state): "stopping the cluster is taken down: suspended by Kueue or by someone",
        }
        return [texts[deployment, state]] if (deployment, state) in texts else []

    def conditions(self, status: Thing) -> list[str]:
        """What the RayCluster's conditions say, as the RayJob repeats them."""
        found = {entry["type"]: entry for entry in (status.get("rayClusterStatus") or {}).get("conditions", [])}
        lines = []
        failure, ready = found.get("ReplicaFailure", {}), found.get("HeadPodReady", {})
        if failure.get("status") == "True":
            lines += self.waiting(failure["message"].split("\n", 1)[-1])
        if ready.get("status") == "True":
            self.head_ready = True
        elif self.head_ready and ready.get("status") == "False" and self.phase[0] == "Running":
            self.head_ready = False
            lines.append(f"head     lost ({ready.get('reason')}); a new one is on its way")
        if ready.get("reason") in STUCK:
            lines += self.waiting(f"head: {ready['reason']}: {ready.get('message', '').split('; ', 1)[-1]}")
        return lines

    def event(self, event: Thing) -> list[str]:
        """Lines about an event, where it is about this job and worth a line."""
        about, reason, message = event.get("involvedObject", {}), event.get("reason", ""), event.get("message", "")
        if not self.is_ours(about) or event.get("type") != "Warning" or reason in NOISE or message.startswith("Error: "):
            return []
        when = event.get("eventTime") or event.get("lastTimestamp")
        if when and when[:19] < self.created[:19]:  # a creation has whole seconds, an event may have parts of one
            return []  # about an earlier job of this name
        if "already exists" in message or reason.startswith("InvalidRayJob"):
            return []  # the operator meeting its own object; a refusal that the status tells too
        if reason.startswith("FailedToCreate"):
            message = message.split(", ", 1)[-1]
        label = "warning" if self.phase[0] == "Running" else "waiting"
        return self.waiting(message if reason.startswith("Failed") else f"{reason}: {message}", label)

    def is_ours(self, about: Thing) -> bool:
        """Whether an object belongs to this job: the operator's names are the job's with five characters and more behind them."""
        name = about.get("name", "")
        return name in (self.name, *self._pods) or re.match(rf"{re.escape(self.name)}-[a-z0-9]{{5}}(-|$)", name) is not None

    def pod(self, pod: Thing) -> list[str]:
        """Lines about a pod that cannot start, was evicted or ran out of memory."""
        name, status = pod["metadata"]["name"], pod.get("status") or {}
        self._pods.add(name)
        lines = []
        for entry in status.get("conditions") or []:
            if entry["type"] == "PodScheduled" and entry.get("reason") == "Unschedulable":
                lines += self.waiting(entry.get("message", "no node takes the pod"))
            if entry["type"] == "DisruptionTarget" and entry["status"] == "True":
                lines += self.once(f"evicted  {name}: {entry.get('reason')}: {entry.get('message', '')}")
        for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
            state, before = container.get("state") or {}, container.get("lastState") or {}
            waiting, ended = state.get("waiting") or {}, [(of.get("terminated") or {}).get("reason") for of in (state, before)]
            if waiting.get("reason") in STUCK:
                lines += self.waiting(f"{waiting['reason']}: {waiting.get('message', '')}")
            if "OOMKilled" in ended:  # before: of a container that was started again since
                lines += self.once(f"memory   {name}: {container['name']} took more than its limit and was killed (OOMKilled)")
        return lines

    def workload(self, workload: Thing) -> list[str]:
        """Lines about the job's place in Kueue's queue."""
        lines = []
        for entry in (workload.get("status") or {}).get("conditions") or []:
            message = " ".join(str(entry.get("message", "")).split())
            if entry["type"] == "QuotaReserved" and entry["status"] == "False":
                lines += self.waiting(f"queue {self.cluster.queue}: {message}")
            elif entry["type"] == "Admitted" and entry["status"] == "True":
                lines += self.once(f"admitted by Kueue: {message}", entry.get("lastTransitionTime", ""))
            elif entry["type"] == "Evicted" and entry["status"] == "True":
                lines += self.once(f"evicted  by Kueue: {entry.get('reason')}: {message}", entry.get("lastTransitionTime", ""))
        return lines

    def waiting(self, why: str, label: str = "waiting") -> list[str]:
        """What holds the work up, told once per reason: names that the operator makes up anew do not count."""
        why = clean(why).split(". no new claims")[0].split(" preemption: ")[0]
        if (self.unplaced or self.phase[0] in ("", "Initializing", "Suspended")) and essence(why) != essence(self.waits_for):
            self.waits_for = why
        return self.once(f"{label}  {why}")

    def once(self, line: str, occasion: str = "") -> list[str]:
        """The line, where it is new."""
        key = essence(line) + occasion
        if key in self._told:
            return []
        self._told.add(key)
        return [line]


def essence(text: str) -> str:
    """What makes two reasons the same, although the operator makes up new names and a pull is told in five ways."""
    image = re.search(r"pull.*?image \"([^\"]+)\"", text)
    return f"image {image[1]}" if image else re.sub(r"-[a-z0-9]{5}\b", "-*", text)


def clean(text: str) -> str:
    """A message on one line, without colours, short enough to read."""
    text = " ".join(re.sub(COLOUR, "", text).split())
    return text if len(text) <= 600 else f"{text[:600]}..."


def summary(status: Thing) -> str:
    """Reason and first sentence of a status' message."""
    message = re.sub(COLOUR, "", status.get("message", "")).split(", last available logs")[0].split("\n")[0]
    return f"{status.get('reason', 'no reason given')}: {message}"


def driver_pod(pod: Thing) -> str | None:
    """Name of a head pod whose log container has something to say, or None."""
    if pod["metadata"].get("labels", {}).get("ray.io/node-type") != "head":
        return None
    states = {entry["name"]: entry.get("state") or {} for entry in (pod.get("status") or {}).get("containerStatuses") or []}
    return pod["metadata"]["name"] if {"running", "terminated"} & set(states.get(LOG_CONTAINER, {})) else None
