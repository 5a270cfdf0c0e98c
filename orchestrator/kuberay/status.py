"""What is told of a job while it runs: one line per change, with the reason from wherever it
stands. Pure: objects in, lines out.

Reasons stand in five places: the RayJob's status, the conditions of its RayCluster, its pods,
events, and Kueue's Workload.
"""

from __future__ import annotations

import re

from orchestrator.config.cluster import Cluster
from orchestrator.kuberay.pods import Thing, has_started, is_placed, summary
from orchestrator.kuberay.reasons import Reason, Reasons, clean, deduplication_key, who_is

NOISE = ("Unhealthy", "BackOff", "FailedToUpdateStatus")
"""Warning events that come with every start, or repeat another."""
STUCK = (
    *(
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
    ),
    *("CreateContainerError", "RunContainerError", "CrashLoopBackOff"),
)
"""Reasons of a container that waits for something that will not come by itself."""
LOST = ("HeadPodNotFound", "PodFailed", "Unknown", "ContainerCreating", "PodInitializing")
"""Reasons of a head that is not ready because it is gone, or a new one that does not run yet.
Others are of the pod that is there: a probe of it fails, or a container of it has ended.
"""
BAD_INPUT = r"failed with exit code 2\b"


class StatusReporter:
    """What was seen of one RayJob, so that each change is told once."""

    def __init__(self, name: str, cluster: Cluster) -> None:
        self.name = name
        self.cluster = cluster
        self.phase = ("", "")
        """jobDeploymentStatus and jobStatus."""
        self.failed = 0
        self.last_failure = ""
        self.job_id = self.driver_started = ""
        self.silent = False
        self.head_is = ""
        """ready, unready, or lost; empty where that is not known of the present head."""
        self.reasons = Reasons()
        """Why the work has not started."""
        self.bad_input = ""
        """Message of an attempt that ended with exit code 2 and is followed by another, as its
        status tells.
        """
        self.queued_since = ""
        """When Kueue last said that there is no room."""
        self.unplaced = False
        """Whether it ended without a place: what is seen then still says why."""
        self.freed = False
        """Whether the cluster of a job that has ended is known to be gone."""
        self.seen_by_operator = False
        self.created = self.began = self.ray_cluster = self.up_since = ""
        """Of the job, of its present attempt; the attempt's RayCluster, and when all of that was
        there for the first time.
        """
        self.holds = False
        """Whether all pods are seen here: what an event says of one that was not seen yet, or is
        gone, has to wait.
        """
        self._told: set[str] = set()
        self._pods: dict[str, Thing] = {}
        self._early: dict[str, list[Thing]] = {}
        """Events about pods that were not seen yet."""

    @property
    def waits_for(self) -> str:
        """Why the work has not started, in words; empty when nothing is known to hold it up at
        present.
        """
        return self.reasons.newest

    def rayjob(self, job: Thing) -> list[str]:
        """Lines about a change of the job."""
        status = job.get("status") or {}
        self.created = job["metadata"].get("creationTimestamp", "")
        self.began = status.get("startTime") or self.began
        self.ray_cluster = status.get("rayClusterName") or self.ray_cluster
        self.seen_by_operator = self.seen_by_operator or bool(status)
        self.unplaced = status.get("reason") == "PreRunningDeadlineExceeded"
        phase = (status.get("jobDeploymentStatus", ""), status.get("jobStatus", ""))
        if phase[0] == "Retrying":
            self.last_failure = f": {summary(status)}"
            self.bad_input = (
                status.get("message", "") if re.search(BAD_INPUT, status.get("message", "")) else ""
            )
        lines = self.attempts(status, phase[0]) + self.head(status)
        if phase != self.phase and phase[0]:
            lines += self.entered(job, status, *phase)
            self.phase = phase
        return lines + self.conditions(status)

    def attempts(self, status: Thing, deployment: str) -> list[str]:
        """A failed attempt that is followed by another."""
        failed = status.get("failed", 0)
        before = self.failed
        if failed <= before or deployment in ("Failed", "Complete"):
            return []
        self.failed = failed
        self.reasons.drop()
        if self.bad_input:
            return []
        left = (
            f"attempt {failed + 1} of {self.cluster.retries + 1} starts on a new cluster and "
            "continues what is finished"
        )
        return [f"failed   attempt {failed}{self.last_failure}; {left}"]

    def head(self, status: Thing) -> list[str]:
        """A head that is lost, and the job submitted again to a new one: no event and no reason
        tell that.
        """
        lines = []
        silent = status.get("jobStatusCheckFailureStartTime")
        if silent and not self.silent:
            self.head_is = ""
            lines.append(
                f"head     does not answer since {silent}; the operator waits for it or for a new "
                "one"
            )
        self.silent = bool(silent)
        job_id = status.get("jobId", "")
        started = (status.get("rayJobInfo") or {}).get("startTime", "")
        if job_id not in ("", self.job_id):
            # another attempt, on another cluster
            self.job_id = job_id
            self.driver_started = ""
            self.head_is = ""
        if job_id and self.driver_started and started and started != self.driver_started:
            self.head_is = ""  # the conditions that come with this are older than the new head
            lines.append(
                "restart  the head was replaced and the job submitted again; it continues what is "
                "finished"
            )
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
            self.reasons.drop()
        texts = {
            ("Initializing", ""): f"starting cluster {where}",
            ("Running", ""): f"cluster  {where} is up",
            ("Running", "RUNNING"): f"running  {status.get('jobId', '')}",
            (
                "Suspending",
                state,
            ): "stopping the cluster is taken down: suspended by Kueue or by someone",
        }
        return [texts[deployment, state]] if (deployment, state) in texts else []

    def conditions(self, status: Thing) -> list[str]:
        """What the RayCluster's conditions say, as the RayJob repeats them."""
        by_type = {
            entry["type"]: entry
            for entry in (status.get("rayClusterStatus") or {}).get("conditions", [])
        }
        lines = []
        failure, ready, provisioned = (
            by_type.get(kind, {})
            for kind in ("ReplicaFailure", "HeadPodReady", "RayClusterProvisioned")
        )
        if failure.get("status") == "True":
            text = failure["message"].split("\n", 1)[-1]
            lines += self.waiting(
                "replicas", "", Reason(text, self.of_failure(failure.get("reason", ""), text))
            )
        elif by_type:
            self.reasons.drop("replicas")
            self.reasons.drop("event", self.ray_cluster or "-")
        if provisioned.get("status") == "True":
            self.up_since = provisioned.get("lastTransitionTime") or self.up_since
        if ready.get("reason") in STUCK:
            text = f"head: {ready['reason']}: {ready.get('message', '').split('; ', 1)[-1]}"
            lines += self.waiting("head", "", Reason(text, "head"))
        else:
            self.reasons.drop("head")
        return lines + self.head_condition(ready)

    def head_condition(self, ready: Thing) -> list[str]:
        """A head that is not ready any more, or is again. One whose probe fails is still there, and
        its job with it.
        """
        before = self.head_is
        reason = ready.get("reason", "")
        if ready.get("status") == "True":
            self.head_is = "ready"
            return ["head     is ready again"] if before == "unready" else []
        if (
            before not in ("ready", "unready")
            or ready.get("status") != "False"
            or self.phase[0] != "Running"
        ):
            return []
        self.head_is = "lost" if reason in LOST else "unready"
        if self.head_is == before:
            return []
        if self.head_is == "lost":
            return [f"head     lost ({reason}); a new one is on its way"]
        about = f"{reason}: {clean(ready.get('message', ''))}".rstrip(": ")
        return [
            f"head     is not ready ({about}): a probe of it fails, or a container of it has "
            "ended; its pod is there"
        ]

    def of_failure(self, reason: str, text: str) -> str:
        """The pods that a failure to make one is about."""
        named = re.search(r'pods "([^"]+)"', text)
        if named:
            return who_is(named[1])
        return "head" if "Head" in reason else ""

    def event(self, event: Thing) -> list[str]:
        """Lines about an event, where it is about this job and worth a line."""
        about = event.get("involvedObject", {})
        reason = event.get("reason", "")
        message = event.get("message", "")
        if (
            not self.is_ours(about)
            or event.get("type") != "Warning"
            or reason in NOISE
            or message.startswith("Error: ")
        ):
            return []
        when = (event.get("eventTime") or event.get("lastTimestamp") or "")[
            :19
        ]  # a creation has whole seconds, an event may have parts
        if when and when < self.created[:19]:
            return []  # about an earlier job of this name
        if "already exists" in message or reason.startswith("InvalidRayJob"):
            return []  # the operator meeting its own object; a refusal that the status tells too
        name = about.get("name", "")
        if self.holds and about.get("kind") == "Pod" and name not in self._pods:
            self._early.setdefault(name, []).append(event)
            return []
        if self.is_over(about, reason, when):
            return []
        if reason.startswith("FailedToCreate"):
            message = message.split(", ", 1)[-1]
        label = "warning" if self.phase[0] == "Running" else "waiting"
        pod = self._pods.get(name, {"metadata": {}})
        who = who_is(name, pod["metadata"].get("labels")) or self.of_failure(reason, message)
        return self.waiting(
            "event",
            name,
            Reason(message if reason.startswith("Failed") else f"{reason}: {message}", who),
            reason,
            label,
        )

    def is_over(self, about: Thing, reason: str, when: str) -> bool:
        """Whether what an event tells has passed: the server keeps events for an hour."""
        name = about.get("name", "")
        if (pod := self._pods.get(name)) is not None:
            return (reason == "FailedScheduling" and is_placed(pod)) or (
                reason.startswith("Failed") and has_started(pod)
            )
        if about.get("kind") != "RayCluster" or not when:
            return False
        earlier = self.ray_cluster != "" and name != self.ray_cluster and when < self.began[:19]
        return earlier or (reason.startswith("FailedToCreate") and when < self.up_since[:19])

    def all_seen(self) -> list[str]:
        """Pods are not seen here after all, for want of the right to watch them: what events say of
        them counts as it comes.
        """
        self.holds = False
        early = self._early
        self._early = {}
        return [line for events in early.values() for event in events for line in self.event(event)]

    def is_ours(self, about: Thing) -> bool:
        """Whether an object belongs to this job: the operator's names are the job's with five
        characters and more behind them.
        """
        name = about.get("name", "")
        return (
            name in (self.name, *self._pods)
            or re.match(rf"{re.escape(self.name)}-[a-z0-9]{{5}}(-|$)", name) is not None
        )

    def pod(self, pod: Thing) -> list[str]:
        """Lines about a pod that cannot start, was evicted or ran out of memory."""
        name = pod["metadata"]["name"]
        status = pod.get("status") or {}
        self._pods[name] = pod
        lines = [line for event in self._early.pop(name, []) for line in self.event(event)]
        who = who_is(name, pod["metadata"].get("labels"))
        waits = False
        if is_placed(pod):
            self.reasons.drop("event", name, "FailedScheduling")
        if has_started(pod):
            self.reasons.drop("event", name)
        for entry in status.get("conditions") or []:
            if entry["type"] == "PodScheduled" and entry.get("reason") == "Unschedulable":
                waits = True
                lines += self.waiting(
                    "pod", name, Reason(entry.get("message", "no node takes the pod"), who)
                )
            if entry["type"] == "DisruptionTarget" and entry["status"] == "True":
                lines += self.once(
                    f"evicted  {name}: {entry.get('reason')}: {entry.get('message', '')}"
                )
        for container in [
            *(status.get("initContainerStatuses") or []),
            *(status.get("containerStatuses") or []),
        ]:
            state = container.get("state") or {}
            before = container.get("lastState") or {}
            waiting = state.get("waiting") or {}
            ended = [(of.get("terminated") or {}).get("reason") for of in (state, before)]
            if waiting.get("reason") in STUCK:
                waits = True
                lines += self.waiting(
                    "pod", name, Reason(f"{waiting['reason']}: {waiting.get('message', '')}", who)
                )
            if "OOMKilled" in ended:  # before: of a container that was started again since
                lines += self.once(
                    f"memory   {name}: {container['name']} took more than its limit and was killed "
                    "(OOMKilled)"
                )
        if not waits:
            self.reasons.drop("pod", name)
        return lines

    def pod_gone(self, pod: Thing) -> None:
        """A pod that is no more holds nothing up."""
        name = pod["metadata"]["name"]
        self._pods.pop(name, None)
        self._early.pop(name, None)
        self.reasons.drop("pod", name)
        self.reasons.drop("event", name)

    def workload(self, workload: Thing) -> list[str]:
        """Lines about the job's place in Kueue's queue."""
        lines = []
        for entry in (workload.get("status") or {}).get("conditions") or []:
            message = " ".join(str(entry.get("message", "")).split())
            if entry["type"] == "QuotaReserved" and entry["status"] == "False":
                self.queued_since = entry.get("lastTransitionTime") or self.queued_since
                lines += self.waiting("queue", "", Reason(f"queue {self.cluster.queue}: {message}"))
            elif entry["type"] == "QuotaReserved" and entry["status"] == "True":
                self.reasons.drop("queue")
            elif entry["type"] == "Admitted" and entry["status"] == "True":
                lines += self.once(
                    f"admitted by Kueue: {message}", entry.get("lastTransitionTime", "")
                )
            elif entry["type"] == "Evicted" and entry["status"] == "True":
                lines += self.once(
                    f"evicted  by Kueue: {entry.get('reason')}: {message}",
                    entry.get("lastTransitionTime", ""),
                )
        return lines

    def waiting(
        self, source: str, name: str, reason: Reason, kind: str = "", label: str = "waiting"
    ) -> list[str]:
        """What holds the work up, told once per reason: names that the operator makes up anew do
        not count.
        """
        why = clean(reason.text).split(". no new claims")[0].split(" preemption: ")[0]
        if self.unplaced or self.phase[0] in ("", "Initializing", "Suspended"):
            self.reasons.put(source, name, kind, Reason(why, reason.who))
        return self.once(f"{label}  {why}")

    def once(self, line: str, occasion: str = "") -> list[str]:
        """The line, where it is new."""
        key = deduplication_key(line) + occasion
        if key in self._told:
            return []
        self._told.add(key)
        return [line]
