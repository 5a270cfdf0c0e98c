"""An eye on Ray's own processes on this machine, and what the loss of one means in words.

Without the GCS a driver waits a minute in silence and then ends with a line of Ray's; without the
raylet every call fails in its own way.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError, RayError

from jobs.workers.reporting import reason
from orchestrator.errors import OrchestratorError
from orchestrator.launch.ray_session import LOOPBACK

GCS = "gcs_server"
LOOK_SECONDS = 0.2
PORT_SECONDS = 1.0
CONFIRM_SECONDS = 2.5
"""How long after an error of Ray's, which the loss of a process may have caused, that loss may
first be seen.
"""
GOES_ON = "what is done is kept, and the same command continues"


class GcsPort:
    """The port that a GCS listens on. One that is asked to end closes it at once and may then stand
    for minutes; whoever needs it hears nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """Where Ray keeps its sessions."""
        self.number: int | None = None
        self.next_look = 0.0
        self.times_refused = 0

    def is_closed(self) -> bool:
        """Whether it has listened and does so no more. Looks once a second."""
        now = time.monotonic()
        if now >= self.next_look:
            self.next_look = now + PORT_SECONDS
            self.times_refused = self.times_refused + 1 if self.refuses() else 0
        return self.times_refused >= 2

    def refuses(self) -> bool:
        """Whether nobody listens there now."""
        if self.number is None:
            file = next(self.folder.glob("session_*/gcs_server_port_*"), None)
            with contextlib.suppress(OSError, ValueError):
                self.number = None if file is None else int(file.read_text())
        if self.number is None:
            return False
        try:
            socket.create_connection((LOOPBACK, self.number), timeout=PORT_SECONDS).close()
        except ConnectionRefusedError:
            return True
        except OSError:  # a machine that is busy answers late
            return False
        return False


@dataclass
class Daemons:
    """The processes of a private Ray that it cannot do without."""

    processes: dict[str, Any] = field(default_factory=dict)
    """By name; some may be added later."""
    port: GcsPort | None = None

    def first_lost(self) -> str | None:
        """What to say of one that has ended, or is about to, if one has."""
        for name, process in list(self.processes.items()):
            code = process.poll()
            if code is not None:
                return f"Ray's {name} process (pid {process.pid}) {how_ended(code)}; {GOES_ON}"
        if self.port is not None and self.port.is_closed():
            return f"Ray's {GCS} process is ending, asked by someone or by the system; {GOES_ON}"
        return None


@contextmanager
def watched(daemons: Daemons, give_up: Callable[[str], None]) -> Iterator[None]:
    """Call `give_up`, in a thread, when one of the processes ends meanwhile; it does not return. An
    error of Ray's that the work ends with is told in a sentence: raises OrchestratorError.
    """
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            if lost := daemons.first_lost():
                give_up(lost)

    threading.Thread(target=look, name="watch", daemon=True).start()
    try:
        yield
    except Exception as error:
        deadline = time.monotonic() + CONFIRM_SECONDS
        while daemons.processes and time.monotonic() < deadline:
            if lost := daemons.first_lost():
                give_up(lost)
            time.sleep(LOOK_SECONDS / 4)
        if isinstance(error, RayError):
            raise OrchestratorError(in_words(error)) from error
        raise
    finally:
        over.set()


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
