"""The baselines, computed by a process of its own while the sweep runs, and kept in the cache with
the data's digest: the same data are computed once.

The process has the lowest priority and one core, and ends with this one. Where it fails nothing of
the sweep is lost: it is tried once more at the end, and then the reason is told.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from jobs.config import Data
from jobs.evaluation.baselines import VERSION, Answers
from jobs.files.cache import cache_folder
from orchestrator.project import ROOT
from orchestrator.storage.json_files import read_sealed

POLL_SECONDS = 0.2
MOST_SECONDS = 900.0
"""How long the end of a sweep waits."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class BaselineProcess:
    """The baselines of one sweep's data."""

    def __init__(self, data: Data, digests: Mapping[str, str], folder: Path) -> None:
        """`digests` are the corpus's; a failure's last words are kept in `folder`."""
        key = json.dumps([VERSION, dict(digests)], sort_keys=True)
        name = hashlib.sha256(key.encode()).hexdigest()[:24]
        self.data, self.log = data, folder / "baselines.log"
        self.file = cache_folder() / "baselines" / f"{name}.json"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> BaselineProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Begin, unless it is known what would come out."""
        if self.read() is not None:
            return
        line = [sys.executable, "-m", "jobs.evaluation.baselines", str(self.file)]
        environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": python_path()}
        with contextlib.suppress(OSError), self.log.open("wb") as log:
            self.process = subprocess.Popen(
                line,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(dataclasses.asdict(self.data)).encode())
            self.process.stdin.close()

    def collect(self, meanwhile: Callable[[], None]) -> tuple[Answers | None, str | None]:
        """What the baselines answer, or why that is not known. `meanwhile` is called while it is
        waited for.
        """
        reason = "it did not start"
        for _ in range(2):
            if (answers := self.read()) is not None:
                return answers, None
            if self.process is None:
                self.start()
            reason = self.wait(meanwhile)
            self.close()
        answers = self.read()
        return answers, None if answers is not None else reason

    def busy(self) -> bool:
        """Whether there is still something to wait for."""
        return self.process is not None and self.process.poll() is None

    def wait(self, meanwhile: Callable[[], None]) -> str:
        """Until the process has ended; why nothing came of it, if nothing did."""
        deadline = time.monotonic() + MOST_SECONDS
        if self.process is None:
            return "it did not start"
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                return f"it took more than {MOST_SECONDS:.0f} s"
            meanwhile()
            time.sleep(POLL_SECONDS)
        code = self.process.returncode
        with contextlib.suppress(OSError):
            words = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            if code > 0 and words:
                return words[-1]
        return f"it was ended by signal {-code}" if code < 0 else f"it ended with code {code}"

    def close(self) -> None:
        """End the process, if it still works."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process = None
        with contextlib.suppress(OSError):
            if not self.log.stat().st_size:
                self.log.unlink()

    def read(self) -> Answers | None:
        """What is kept, None where there is nothing that can be used."""
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(Answers).validate_python(read_sealed(self.file) or None)
        except ValidationError:
            return None


def python_path() -> str:
    """Where the process finds this project, whatever the folder it was started from."""
    before = os.environ.get("PYTHONPATH")
    return str(ROOT) if not before else os.pathsep.join([str(ROOT), before])
