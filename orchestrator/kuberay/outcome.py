"""How a job ended, or how following it ended: each way told apart, with its reason and what to do
next. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from jobs.files.json_types import JsonObject
from orchestrator.kuberay.placement import placement_remedy
from orchestrator.kuberay.reasons import COLOUR, clean
from orchestrator.kuberay.status import StatusReporter
from orchestrator.output import run_commands
from orchestrator.output.remote_state import STATE_MARK

LAST_LINES = 6
"""Of a failed command's log that are shown again."""
CHATTER = r"\[?\d{4}-\d\d-\d\d [\d:,]+\s+(INFO|W) |Running entrypoint for job |" + re.escape(
    STATE_MARK
)
"""Lines that Ray writes around every command, and those that are for programs."""


@dataclass(frozen=True)
class Outcome:
    """The last word on a job."""

    code: int
    """0 finished, 1 work failed or was lost, 2 refused."""
    state: str
    """One word: finished, failed, refused, stopped, deleted, overdue, unplaced, lost."""
    text: str
    """What happened and why, then what to do, on lines of their own."""


def outcome_of(job: JsonObject, story: StatusReporter) -> Outcome | None:
    """The ending that a RayJob's status tells, or None while it lives.

    An exit code of 2 is the command's own for bad input; every other failure is 1.
    """
    status = job.get("status") or {}
    deployment = status.get("jobDeploymentStatus", "")
    state = status.get("jobStatus", "")
    if deployment == "Complete":
        if state == "SUCCEEDED":
            return Outcome(0, "finished", f"finished RayJob {story.name}{held(story)}")
        text = (
            f"stopped: the job was stopped on its Ray cluster ({state or 'no state'}), by someone "
            "or, after bad input, by itself"
        )
        return Outcome(1, "stopped", f"{text}\n  {AGAIN}{held(story)}")
    if deployment == "ValidationFailed":
        text = (
            "refused: the KubeRay operator does not take the manifest: "
            f"{clean(status.get('message', ''))}"
        )
        return Outcome(2, "refused", f"{text}\n  remove it with: {command('delete', story)}")
    if deployment == "Failed":
        end = failure(status, story)
        return Outcome(end.code, end.state, end.text + held(story))
    return None


def held(story: StatusReporter) -> str:
    """That the operator leaves an ended job's cluster for a while, for its logs to be read, and how
    to have its room back at once.
    """
    seconds = story.cluster.ttl_seconds
    if seconds <= 0 or story.freed:
        return ""
    return (
        f"\n  its pods and their share of the quota stay for cluster.ttl_seconds={seconds}; free "
        f"them now: {command('delete', story)}"
    )


AGAIN = "the same command again continues what is finished"


def failure(status: JsonObject, story: StatusReporter) -> Outcome:
    """The ending of a job that the operator calls Failed, by its reason."""
    reason = status.get("reason", "")
    message = clean(status.get("message", ""))
    cluster = story.cluster
    attempts = f" after {status['failed']} attempts" if status.get("failed", 0) > 1 else ""
    if reason == "AppFailed":
        return command_failed(status, attempts)
    if reason == "DeadlineExceeded":
        text = (
            "overdue: the job took longer than "
            f"cluster.active_deadline_seconds={cluster.active_deadline_seconds} and was "
            f"ended{attempts}"
        )
        return Outcome(
            1,
            "overdue",
            f"{text}: {message}\n  {AGAIN}; give it longer with "
            "cluster.active_deadline_seconds=SECONDS",
        )
    if reason == "PreRunningDeadlineExceeded":
        why = story.waits_for or "nothing that was seen says why"
        text = (
            "unplaced: the cluster did not start within "
            f"cluster.wait_seconds={cluster.wait_seconds}: {why}"
        )
        return Outcome(
            1, "unplaced", f"{text}\n  {placement_remedy(why, story.reasons.who, cluster)}"
        )
    if reason == "SubmissionFailed":
        return Outcome(
            1,
            "failed",
            f"failed: the operator could not submit the command to the head{attempts}: {message}\n "
            f" {AGAIN}",
        )
    if reason in (
        "JobStatusCheckTimeoutExceeded",
        "JobDeploymentStatusTransitionGracePeriodExceeded",
    ):
        text = f"lost: the operator lost sight of the job ({reason}){attempts}: {message}"
        return Outcome(
            1,
            "lost",
            f"{text}\n  the head's pod probably died; {AGAIN}, with more cluster.head_memory if it "
            "ran out",
        )
    return Outcome(
        1,
        "failed",
        f"failed: {reason or 'no reason given'}{attempts}: {message or 'no message'}\n  {AGAIN}",
    )


def command_failed(status: JsonObject, attempts: str) -> Outcome:
    """The command itself ended with an error: its exit code, and its last lines."""
    message = re.sub(COLOUR, "", status.get("message", ""))
    code = re.search(r"failed with exit code (\d+)", message)
    lines = last_lines(message.split("\n")[1:])
    exit_code = int(code[1]) if code else None
    ending = f"with exit code {exit_code}" if code else clean(message.split("\n")[0])
    text = f"failed: the command on the cluster ended {ending}{attempts}"
    advice = CORRECT if exit_code == 2 else AGAIN
    return Outcome(
        2 if exit_code == 2 else 1,
        "failed",
        f"{text}{':' if lines else ''}{indented(lines)}\n  {advice}",
    )


CORRECT = "correct what it says and submit again"


def last_lines(lines: list[str]) -> list[str]:
    """The end of a command's log, without what Ray writes around it."""
    return [line for line in lines if line.strip() and not re.match(CHATTER, line)][-LAST_LINES:]


def indented(lines: list[str]) -> str:
    """Lines below a sentence."""
    return "".join(f"\n    {line[:300]}" for line in lines)


def refused_input(story: StatusReporter) -> Outcome:
    """The command has met bad input and stopped its own job. What is wrong stands in its log."""
    return Outcome(
        2,
        "refused",
        "refused: the command on the cluster does not take its input, see above; "
        f"{CORRECT}{held(story)}",
    )


def not_again(story: StatusReporter, done: str) -> Outcome:
    """An attempt has ended over bad input, and the operator, which knows no exit codes, was about
    to make another. `done` says what was done about that.
    """
    lines = last_lines(re.sub(COLOUR, "", story.bad_input).split("\n")[1:])
    text = (
        "refused: the command on the cluster ended with exit code "
        f"2{':' if lines else ''}{indented(lines)}"
    )
    return Outcome(
        2, "refused", f"{text}\n  {CORRECT}; a second attempt would end like this one, so {done}"
    )


def deleted(story: StatusReporter) -> Outcome:
    """The RayJob is gone before its end."""
    return Outcome(
        1,
        "deleted",
        f"deleted: someone deleted RayJob {story.name} while it was {phase(story)}\n  {AGAIN}",
    )


def suspended(story: StatusReporter) -> Outcome:
    """Someone, not Kueue, suspended the job."""
    text = (
        f"stopped: RayJob {story.name} was suspended and its cluster taken down\n  {AGAIN}; remove "
        f"this one: {command('delete', story)}"
    )
    return Outcome(1, "stopped", text)


def unsubmitted(story: StatusReporter, seconds: float) -> Outcome:
    """Running, says the operator, and yet there is no job on the Ray cluster."""
    text = (
        f"lost: the operator says Running for {seconds:.0f} s but has submitted nothing to the head"
    )
    cause = (
        "can the operator reach the head's port 8265 (network policies), and does it know "
        "submissionMode HTTPMode?"
    )
    return Outcome(1, "lost", f"{text}\n  {cause}\n  {left_as_it_is(story)}")


def unseen(story: StatusReporter, seconds: float) -> Outcome:
    """No operator has looked at the job."""
    text = f"lost: no KubeRay operator has looked at RayJob {story.name} for {seconds:.0f} s"
    cause = f"is one running that watches namespace {story.cluster.namespace}?"
    return Outcome(1, "lost", f"{text}\n  {cause}\n  {left_as_it_is(story)}")


def operator_gone(story: StatusReporter, deadline: str, seconds: float) -> Outcome:
    """A deadline has passed, and nobody has ended the job."""
    text = (
        f"lost: RayJob {story.name} is {phase(story)} after {seconds:.0f} s, although {deadline} "
        "has passed: no operator keeps it"
    )
    return Outcome(
        1, "lost", f"{text}\n  does the KubeRay operator still run?\n  {left_as_it_is(story)}"
    )


def left_as_it_is(story: StatusReporter) -> str:
    """What can be done about a job that may go on. One that has not ended is stopped; `runs delete`
    is for those that have.
    """
    return (
        f"the job is left as it is; come back with: {command('watch', story)}\n  or stop it: "
        f"{command('stop', story)}"
    )


def queued_too_long(story: StatusReporter) -> Outcome:
    """Kueue found no room in time."""
    text = (
        f"unplaced: still queued after cluster.wait_seconds={story.cluster.wait_seconds}: "
        f"{story.waits_for or 'Kueue gives no reason'}"
    )
    advice = (
        f"the job stays in the queue; come back with: {command('watch', story)}\n  take it out "
        f"with: {command('stop', story)}"
    )
    return Outcome(1, "unplaced", f"{text}\n  {advice}")


def lost(story: StatusReporter, why: str) -> Outcome:
    """The API server does not answer any more, or not to us. The job is not touched by that."""
    return Outcome(
        1, "lost", f"lost: {why}\n  the job goes on; come back with: {command('watch', story)}"
    )


def phase(story: StatusReporter) -> str:
    """The last known phase in a word or two."""
    deployment, state = story.phase
    return " ".join(filter(None, (deployment, state))) or "not yet begun"


def command(verb: str, story: StatusReporter) -> str:
    """The command that looks after a submitted job."""
    return run_commands.on_cluster(verb, story.name, story.cluster)
