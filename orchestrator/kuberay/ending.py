"""How a job ended, or how following it ended: each way told apart, with its reason and what to do next. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from orchestrator.kuberay.story import COLOUR, Story, clean

LAST_LINES = 6
"""Of a failed command's log that are shown again."""
CHATTER = r"\[?\d{4}-\d\d-\d\d [\d:,]+\s+(INFO|W) |Running entrypoint for job "
"""Lines that Ray writes around every command."""


@dataclass(frozen=True)
class Ending:
    """The last word on a job."""

    code: int
    """0 finished, 1 work failed or was lost, 2 refused."""
    state: str
    """One word: finished, failed, refused, stopped, deleted, overdue, unplaced, lost."""
    text: str
    """What happened and why, then what to do, on lines of their own."""


def ending(job: dict[str, Any], story: Story) -> Ending | None:
    """The ending that a RayJob's status tells, or None while it lives.

    An exit code of 2 is the command's own for bad input; every other failure is 1.
    """
    status = job.get("status") or {}
    deployment, state = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    if deployment == "Complete":
        if state == "SUCCEEDED":
            return Ending(0, "finished", f"finished RayJob {story.name}")
        return Ending(1, "stopped", f"stopped: someone stopped the job on its Ray cluster ({state or 'no state'}); {AGAIN}")
    if deployment == "ValidationFailed":
        text = f"refused: the KubeRay operator does not take the manifest: {clean(status.get('message', ''))}"
        return Ending(2, "refused", f"{text}\n  remove it with: {command('delete', story)}")
    if deployment == "Failed":
        return failure(status, story)
    return None


AGAIN = "the same command again continues what is finished"


def failure(status: dict[str, Any], story: Story) -> Ending:
    """The ending of a job that the operator calls Failed, by its reason."""
    reason, message, cluster = status.get("reason", ""), clean(status.get("message", "")), story.cluster
    attempts = f" after {status['failed']} attempts" if status.get("failed", 0) > 1 else ""
    if reason == "AppFailed":
        return command_failed(status, attempts)
    if reason == "DeadlineExceeded":
        text = (
            f"overdue: the job took longer than cluster.active_deadline_seconds={cluster.active_deadline_seconds} and was ended{attempts}"
        )
        return Ending(1, "overdue", f"{text}: {message}\n  {AGAIN}; give it longer with cluster.active_deadline_seconds=SECONDS")
    if reason == "PreRunningDeadlineExceeded":
        why = story.waits_for or "nothing that was seen says why"
        text = f"unplaced: the cluster did not start within cluster.wait_seconds={cluster.wait_seconds}: {why}"
        return Ending(1, "unplaced", f"{text}\n  {placement_remedy(why)}")
    if reason == "SubmissionFailed":
        return Ending(1, "failed", f"failed: the operator could not submit the command to the head{attempts}: {message}\n  {AGAIN}")
    if reason in ("JobStatusCheckTimeoutExceeded", "JobDeploymentStatusTransitionGracePeriodExceeded"):
        text = f"lost: the operator lost sight of the job ({reason}){attempts}: {message}"
        return Ending(1, "lost", f"{text}\n  the head's pod probably died; {AGAIN}, with more cluster.head_memory if it ran out")
    return Ending(1, "failed", f"failed: {reason or 'no reason given'}{attempts}: {message or 'no message'}\n  {AGAIN}")


def command_failed(status: dict[str, Any], attempts: str) -> Ending:
    """The command itself ended with an error: its exit code, and its last lines."""
    message = re.sub(COLOUR, "", status.get("message", ""))
    code = re.search(r"failed with exit code (\d+)", message)
    lines = [line for line in message.split("\n")[1:] if line.strip() and not re.match(CHATTER, line)][-LAST_LINES:]
    number = int(code[1]) if code else None
    what = f"with exit code {number}" if code else clean(message.split("\n")[0])
    text = f"failed: the command on the cluster ended {what}{attempts}"
    shown = "".join(f"\n    {line[:300]}" for line in lines)
    remedy = "correct what it says and submit again" if number == 2 else AGAIN
    return Ending(2 if number == 2 else 1, "failed", f"{text}{':' if lines else ''}{shown}\n  {remedy}")


def placement_remedy(why: str) -> str:
    """What to do about work that found no place."""
    return next((remedy for pattern, remedy in PLACEMENT if re.search(pattern, why)), ELSE)


LESS = "ask for less (cluster.worker_cpus, worker_memory, worker_gpus, workers), or wait longer: cluster.wait_seconds"
PLACEMENT = (
    (
        "ErrImagePull|ImagePullBackOff|pull image|InvalidImageName",
        "check cluster.image, and that the namespace's service account may pull it",
    ),
    ("PodSecurity", "the namespace's Pod Security refuses the pod: the text names what; cluster policies may have changed the manifest"),
    ("(?i)persistentvolumeclaim", "check cluster.claim: kubectl get pvc -n NAMESPACE; it must be there, ReadWriteMany, and Bound"),
    ("(?i)service ?account", "check cluster.service_account; k8s/base/accounts.yaml makes one"),
    (
        r"(?i)secret \S+ not found|references non-existent secret key",
        "make the Secret, or check cluster.token_secret and cluster.environment_secrets",
    ),
    ("AdmissionPolicy|admission webhook", "a policy of the cluster refuses the pod: change what it names, or ask who keeps the policy"),
    ("Insufficient", LESS),
    (
        "affinity/selector",
        "no node has these labels: check cluster.worker_selector and spot_selector against kubectl get nodes --show-labels",
    ),
    (
        "untolerated taint",
        "the nodes are kept for others by a taint: use nodes without it, or a group that tolerates it (cluster.spot_selector)",
    ),
    ("nodes are available", LESS),
    ("quota|^queue", "ask for less, free some of the quota, or wait longer: cluster.wait_seconds"),
)
"""Words of the reason that a pod waits for, and what to do; the first that is found counts."""
ELSE = "see: kubectl describe rayjob,raycluster,pod -n NAMESPACE; wait longer with cluster.wait_seconds"


def deleted(story: Story) -> Ending:
    """The RayJob is gone before its end."""
    return Ending(1, "deleted", f"deleted: someone deleted RayJob {story.name} while it was {phase(story)}\n  {AGAIN}")


def suspended(story: Story) -> Ending:
    """Someone, not Kueue, suspended the job."""
    text = f"stopped: RayJob {story.name} was suspended and its cluster taken down\n  {AGAIN}; remove this one: {command('delete', story)}"
    return Ending(1, "stopped", text)


def unsubmitted(story: Story, seconds: float) -> Ending:
    """Running, says the operator, and yet there is no job on the Ray cluster."""
    text = f"lost: the operator says Running for {seconds:.0f} s but has submitted nothing to the head"
    remedy = "can the operator reach the head's port 8265 (network policies), and does it know submissionMode HTTPMode?"
    return Ending(1, "lost", f"{text}\n  {remedy} The job is left as it is; remove it with: {command('delete', story)}")


def unseen(story: Story, seconds: float) -> Ending:
    """No operator has looked at the job."""
    text = f"lost: no KubeRay operator has looked at RayJob {story.name} for {seconds:.0f} s"
    remedy = f"is one running that watches namespace {story.cluster.namespace}? The job is left as it is; remove it with:"
    return Ending(1, "lost", f"{text}\n  {remedy} {command('delete', story)}")


def operator_gone(story: Story, deadline: str, seconds: float) -> Ending:
    """A deadline has passed, and nobody has ended the job."""
    text = f"lost: RayJob {story.name} is {phase(story)} after {seconds:.0f} s, although {deadline} has passed: no operator keeps it"
    remedy = f"does the KubeRay operator still run? The job is left as it is; come back with: {command('watch', story)}"
    return Ending(1, "lost", f"{text}\n  {remedy}\n  or remove it with: {command('delete', story)}")


def queued_too_long(story: Story) -> Ending:
    """Kueue found no room in time."""
    text = f"unplaced: still queued after cluster.wait_seconds={story.cluster.wait_seconds}: {story.waits_for or 'Kueue gives no reason'}"
    remedy = f"the job stays in the queue; come back with: {command('watch', story)}\n  take it out with: {command('delete', story)}"
    return Ending(1, "unplaced", f"{text}\n  {remedy}")


def lost(story: Story, why: str) -> Ending:
    """The API server does not answer any more, or not to us. The job is not touched by that."""
    return Ending(1, "lost", f"lost: {why}\n  the job goes on; come back with: {command('watch', story)}")


def phase(story: Story) -> str:
    """The last known phase in a word or two."""
    deployment, state = story.phase
    return " ".join(filter(None, (deployment, state))) or "not yet begun"


def command(verb: str, story: Story) -> str:
    """The command that looks after a submitted job."""
    context = f" --context {story.cluster.context}" if story.cluster.context else ""
    return f"python -m orchestrator.runs {verb} {story.name} --namespace {story.cluster.namespace}{context}"
