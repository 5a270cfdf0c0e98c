"""Environment variables between the machine that sends a command and the one that runs it, and the
mark before an answer.
"""

from __future__ import annotations

import os
import sys

SUBMISSION = "ORCHESTRATOR_SUBMISSION"
"""Environment variable that names the submission to the command on the cluster. It stays the same
when the cluster starts the command again, so that fresh=true forgets what was there before the
submission, not what an earlier attempt has done.
"""
EXPECTED = "ORCHESTRATOR_EXPECTS"
"""Environment variable with the versions that the command on the cluster must have."""
TYPED = "ORCHESTRATOR_TYPED"
"""Environment variable with the settings as they were typed where the command was sent from."""
JOB = "ORCHESTRATOR_JOB"
"""Environment variable with the name of the RayJob that the command belongs to."""
WORKERS = "ORCHESTRATOR_WORKERS"
"""Environment variable with the number of workers that a RayJob has asked for, and after a dash,
where they may become more, how many.
"""
RETRIED = "ORCHESTRATOR_RETRIED"
"""Environment variable that is set where a command that fails is started anew on another cluster,
whatever its exit code.
"""
MARK = "==== answer ===="


def mark_answer() -> None:
    """Called before the answer is printed."""
    if os.environ.get(SUBMISSION):
        sys.stderr.flush()
        print(MARK, flush=True)
