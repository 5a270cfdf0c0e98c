"""Why a trial of Ray Tune has failed, read from the text that Tune keeps of it. Beside it Tune
keeps the error itself as a pickle, which is not opened: what lies on a disk may be anyone's.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from ray.tune.experiment import Trial

from jobs.workers.reporting import death

HEADING = re.compile(r"^Failure # \d+ \(occurred at [^)\n]*\)\n", re.MULTILINE)
OWN_CODE = re.compile(r"\A\s*(\x1b\[\d+m)*ray::")
"""How Ray begins the traceback of what a trial's own code has raised; of a process that is gone
there is none.
"""
LOSS = re.compile(
    r"\b(ActorDiedError|RayActorError|ActorUnavailableError|WorkerCrashedError|NodeDiedError)\b"
)
ERROR_NAME = re.compile(r"\A[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)(\(\w+\))?: ")


def why_failed(trial: Trial) -> str | None:
    """What Tune has written of a trial's last failure; None where nothing can be read. It writes
    that into a folder of this machine first, and copies it to the storage only once the trial has
    run.
    """
    text: object = None
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if trial.error_file and os.path.exists(trial.error_file):
            text = Path(trial.error_file).read_text(encoding="utf-8")
        else:
            text = trial.get_error()
    if text is None:
        return None
    last = HEADING.split(str(text))[-1].strip()
    return last or None


def is_process_lost(trial: Trial, text: str | None) -> bool:
    """Whether a trial has failed by the end of its process. Of what Ray has done to it, such as
    taking its memory back, Tune keeps no error of its own.
    """
    if not trial.pickled_error_file:
        return True
    return text is not None and OWN_CODE.match(text) is None


def reason_in(text: str | None) -> str:
    """The reason in one line, without what Ray wraps around it."""
    if text is None:
        return "it has not said why"
    if OWN_CODE.match(text) is None or LOSS.search(text):
        return death(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return ERROR_NAME.sub("", lines[-1])
