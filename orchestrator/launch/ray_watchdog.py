"""An eye on Ray's own processes on this machine, and what the loss of one means in words.

Without the GCS a driver waits a minute in silence and then ends with a line of Ray's; without the
raylet every call fails in its own way.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.exceptions import RayActorError, RayError

from jobs.workers.reporting import reason
from orchestrator.errors import OrchestratorError

LOOK_SECONDS = 0.2
CONFIRM_SECONDS = 1.0
"""How long after an error of Ray's, which the loss of a process may have caused, that loss may
first be seen.
"""
GOES_ON = "what is done is kept, and the same command continues"


@contextmanager
def watched(daemons: Mapping[str, Any], give_up: Callable[[str], None]) -> Iterator[None]:
    """Call `give_up`, in a thread, when one of the processes ends meanwhile; it does not return.
    Processes may be added meanwhile. An error of Ray's that the work ends with is told in a
    sentence: raises OrchestratorError.
    """
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            if lost := first_lost(daemons):
                give_up(lost)

    threading.Thread(target=look, name="watch", daemon=True).start()
    try:
        yield
    except Exception as error:
        deadline = time.monotonic() + CONFIRM_SECONDS
        while daemons and time.monotonic() < deadline:
            if lost := first_lost(daemons):
                give_up(lost)
            time.sleep(LOOK_SECONDS / 4)
        if isinstance(error, RayError):
            raise OrchestratorError(in_words(error)) from error
        raise
    finally:
        over.set()


def first_lost(daemons: Mapping[str, Any]) -> str | None:
    """What to say of a process that has ended, if one has."""
    for name, process in list(daemons.items()):
        code = process.poll()
        if code is not None:
            return f"Ray's {name} process (pid {process.pid}) {how_ended(code)}; {GOES_ON}"
    return None


def how_ended(code: int) -> str:
    """An exit status in words."""
    if code >= 0:
        return f"has ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    cause = ", by someone or by the system for lack of memory" if name == "SIGKILL" else ""
    return f"was ended by {name}{cause}"


def in_words(error: RayError) -> str:
    """An error of Ray's that ends a sweep, as one sentence."""
    if isinstance(error, RayActorError):
        return f"the sweep has lost a process of its own: {reason(error)}; {GOES_ON}"
    return f"Ray has failed: {reason(error)}; {GOES_ON}"
