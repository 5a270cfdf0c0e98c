"""A small sweep's command in surroundings of its own: a storage, a temporary folder, and a mark by
which all of its processes are known.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks import aftermath
from orchestrator.project import ROOT

SWEEP = (
    *(
        "model=tiny",
        "data=files",
        "train.max_length=128",
        "train.steps=60",
        "train.eval_every=10",
        "train.batch_size=8",
        "output=json",
    ),
    *(
        "sweep.space={rate: {path: optim.lr, type: grid, values: [0.002, 0.02]}}",
        "sweep.scheduler=none",
    ),
)
RUN_SECONDS = 600.0
"""A command that takes longer hangs."""
MARK = "ORCHESTRATOR_FAULT_ROUND"


@dataclass
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str
    seconds: float
    after_fault: float | None = None
    """Seconds from the fault to the end."""

    @property
    def result(self) -> dict[str, Any]:
        """The result line; empty when there is none."""
        with contextlib.suppress(ValueError, IndexError):
            return json.loads(self.out.strip().splitlines()[-1])
        return {}


class Stage:
    """One storage with its own temporary folder, in which the sweep's command is given."""

    def __init__(
        self,
        folder: Path,
        toy: Path,
        executor: str,
        settings: tuple[str, ...] = (),
        storage: Path | None = None,
        database: Path | None = None,
    ) -> None:
        """`storage` and `database`, MLflow's, are in the folder unless they are elsewhere."""
        self.storage = storage or folder / "storage"
        self.database = database or self.storage / "mlflow.db"
        # A short path: Ray's sockets lie below it.
        self.temporary = Path(tempfile.mkdtemp(prefix="f-", dir="/tmp"))
        self.mark = uuid.uuid4().hex
        own = (f"data.folder={toy}", f"storage={self.storage}", f"executor={executor}", *settings)
        self.line = [sys.executable, "-m", "orchestrator", *SWEEP, *own]
        variables = {
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.temporary),
            MARK: self.mark,
            "OMP_NUM_THREADS": "1",
        }
        self.environment = {**os.environ, **variables}
        self.shared = {entry.name for entry in aftermath.SHARED_MEMORY.iterdir()}

    def start(self, said: IO[str] | None = None) -> subprocess.Popen[str]:
        """The command, as the first of a process group of its own, which hears a hang-up although
        this program may run under nohup. What it says goes to a file, where one is given.
        """
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": said or subprocess.PIPE}
        pipes["preexec_fn"] = lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)
        return subprocess.Popen(
            self.line, text=True, env=self.environment, cwd=ROOT, start_new_session=True, **pipes
        )

    def finish(
        self, process: subprocess.Popen[str], began: float, hurt: float | None = None
    ) -> Ended:
        """Wait for its end; one that hangs is killed and has the code -999."""
        try:
            out, err = process.communicate(timeout=RUN_SECONDS)
            code = process.returncode
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            code = -999
        now = time.monotonic()
        return Ended(code, out, err, now - began, None if hurt is None else now - hurt)

    def run(self) -> Ended:
        """The command from its start to its end."""
        began = time.monotonic()
        return self.finish(self.start(), began)

    def runs(self, *arguments: str) -> Ended:
        """`python -m orchestrator.runs` on the storage."""
        line = [
            sys.executable,
            "-m",
            "orchestrator.runs",
            *arguments,
            "--storage",
            str(self.storage),
        ]
        done = subprocess.run(
            line,
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=ROOT,
            timeout=60,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr, 0.0)

    def left(self) -> list[str]:
        """What the command has left behind."""
        return aftermath.leftovers(self.storage, self.temporary, self.mark, self.shared)

    def close(self) -> None:
        """End what is left and remove the temporary folder."""
        for pid in aftermath.processes([self.mark]):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.temporary, ignore_errors=True)
