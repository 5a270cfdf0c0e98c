"""What a command does otherwise where it runs as a RayJob: nobody sits before it, and who had its
place before may be dead.

KubeRay submits the command again when a head is lost, and makes another cluster when the command
fails, whatever its exit code. So it waits for what the dead still hold, and stops its own job when
its input is bad.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from orchestrator.errors import InputError
from orchestrator.job_environment import JOB, RETRIED

HELD = " is in use by "
"""What journal.locked and mirror.Mirror.claim say of a sweep that another process works on."""
HELD_SECONDS = 240.0
LOOK_SECONDS = 5.0
"""How long a lock may outlive its head: an NFS server keeps one for 90 s, and a claim in an object
store is believed as long."""


def patient(command: Callable[[], int]) -> int:
    """Run a command; in a RayJob again for a while where its sweep is held, which a head that was
    lost may seem to do."""
    deadline = time.monotonic() + HELD_SECONDS
    has_said = False
    while True:
        try:
            return command()
        except InputError as error:
            if JOB not in os.environ or HELD not in str(error) or time.monotonic() > deadline:
                raise
            if not has_said:
                print(
                    f"waiting  for up to {HELD_SECONDS:.0f} s: {error}", file=sys.stderr, flush=True
                )
            has_said = True
        time.sleep(LOOK_SECONDS)


def end(code: int) -> int:
    """The exit code of a command that ends. One that has met bad input is stopped before, where it
    would be tried again."""
    if code == 2 and os.environ.get(RETRIED):
        from orchestrator.remote.ray_jobs_client import stop_own_job

        stop_own_job()
    return code
