"""How long the follower of a job waits for what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timeouts:
    """How long what may last."""

    patience_seconds: float = 60.0
    """A request before anything was started."""
    doubt_seconds: float = 60.0
    """A refusal of what was allowed before: see client.Client."""
    lost_seconds: float = 600.0
    """Without the API server, once there is a job."""
    unseen_seconds: float = 120.0
    """From the job's creation to the operator's first word."""
    unsubmitted_seconds: float = 300.0
    """From Running to a job on the Ray cluster. The operator polls every 3 s."""
    grace_seconds: float = 120.0
    """Beyond a deadline that the operator keeps, before it counts as gone."""
    remind_seconds: float = 60.0
    """Between two words about a job that still waits for its place."""
    settle_seconds: float = 2.0
    """Silence of the log after which it counts as read to its end."""
    drain_seconds: float = 15.0
    """Waiting for the rest of the log at most."""


DEFAULT = Timeouts()
"""What a command keeps to."""
