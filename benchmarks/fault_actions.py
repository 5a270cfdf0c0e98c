"""What a fault does: a signal to a process, a process that stands still, a disk that is full, fails
or hangs, a damaged checkpoint, a lost tracking server, a second command on the same storage.

Each is made for one round: `stage` gives the sweep its surroundings, `strike` does the harm while
the command runs, `heal` mends what a person would mend before the same command is given again.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import aftermath
from benchmarks.disks import Disk, SmallDisk
from benchmarks.fault_injection import hurt, victims
from benchmarks.stage import Ended, Stage

DISK_SIZE = "200M"
"""Room enough for a sweep of the tiny model."""
SHORT_SECONDS = (1.0, 12.0)
"""How long what passes by itself lasts."""
SERVER_SECONDS = 120.0
REFUSED_SECONDS = 60.0
"""How soon a second command on the same storage must have said that it is taken."""


class Fault:
    """A signal to one of the sweep's processes, to its group, or to all of them."""

    def __init__(self, kind: str, chance: random.Random) -> None:
        self.kind = kind
        self.chance = chance
        self.problems: list[str] = []
        """What was not as it should be while the fault lasted."""
        self.passing: list[threading.Thread] = []

    def stage(self, folder: Path, toy: Path, executor: str) -> Stage:
        """The sweep's surroundings. Raises NoDisk where they cannot be made."""
        return Stage(folder, toy, executor)

    def strike(self, stage: Stage, process: subprocess.Popen[str]) -> bool:
        """Do the harm; False when what it is for is not there yet, or not any more."""
        return hurt(stage, process, self.kind, self.chance)

    def soon(self, action: Callable[[], None]) -> None:
        """Do something after a while, beside the sweep."""
        seconds = self.chance.uniform(*SHORT_SECONDS)

        def later() -> None:
            time.sleep(seconds)
            action()

        thread = threading.Thread(target=later)
        thread.start()
        self.passing.append(thread)

    def excuses(self, left: str) -> bool:
        """Whether the hurt command could not but leave something behind."""
        return False

    def heal(self, stage: Stage) -> None:
        """Mend what a person would mend before the command is given again."""
        for thread in self.passing:
            thread.join()

    def leave(self, stage: Stage) -> None:
        """Take away the surroundings."""


class FrozenProcess(Fault):
    """TARGET-stop: a process stands still for a while, as on a machine that swaps."""

    def strike(self, stage: Stage, process: subprocess.Popen[str]) -> bool:
        """Stop it, and let it go on some seconds later."""
        target = self.kind.partition("-")[0]
        chosen = victims(stage, process, target, self.chance)
        for pid in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

        def go_on() -> None:
            for pid in chosen:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

        if chosen:
            self.soon(go_on)
        return bool(chosen)


class DamagedCheckpoint(Fault):
    """checkpoint-flip, checkpoint-cut: the command is killed, and the newest checkpoint on the disk
    loses a bit, or its end.
    """

    def strike(self, stage: Stage, process: subprocess.Popen[str]) -> bool:
        """Kill the command once there is a checkpoint that can be damaged."""
        if not self.checkpoints(stage) or process.poll() is not None:
            return False
        os.killpg(process.pid, signal.SIGKILL)
        return True

    @staticmethod
    def checkpoints(stage: Stage) -> list[Path]:
        """All there are, the newest last."""
        files = stage.storage.glob("sweeps/*/train/trial-*/step-*/state.safetensors")
        return sorted(files, key=lambda file: file.stat().st_mtime)

    def heal(self, stage: Stage) -> None:
        """Damage it, once nothing of the command is left that could write it anew."""
        super().heal(stage)
        found = self.checkpoints(stage)
        if not found:
            return
        content = bytearray(found[-1].read_bytes())
        where = self.chance.randrange(len(content))
        if self.kind.endswith("-cut"):
            found[-1].write_bytes(content[:where])
            return
        content[where] ^= 1 << self.chance.randrange(8)
        found[-1].write_bytes(content)


class FullDisk(Fault):
    """disk-full: the storage's disk has no room left; room is made before the next command."""

    def stage(self, folder: Path, toy: Path, executor: str) -> Stage:
        """A storage on a disk of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        self.disk = SmallDisk(folder / "disk", DISK_SIZE)
        return Stage(folder, toy, executor, storage=folder / "disk" / "storage")

    def strike(self, stage: Stage, process: subprocess.Popen[str]) -> bool:
        """Fill it. In half the rounds room is made while the sweep may still be running."""
        self.disk.fill()
        if self.chance.random() < 0.5:
            self.soon(self.disk.free)
        return True

    def heal(self, stage: Stage) -> None:
        """Make room."""
        super().heal(stage)
        self.disk.free()

    def leave(self, stage: Stage) -> None:
        """Take the disk out."""
        self.disk.remove()


class FailingDisk(Fault):
    """disk-abort: the storage's disk takes nothing any more, and is repaired before the next
    command. disk-freeze: every write waits for some seconds.
    """

    def stage(self, folder: Path, toy: Path, executor: str) -> Stage:
        """A storage on a disk of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        self.disk = Disk(folder / "disk", DISK_SIZE)
        return Stage(folder, toy, executor, storage=folder / "disk" / "storage")

    def strike(self, stage: Stage, process: subprocess.Popen[str]) -> bool:
        """Let it fail, or hang for a while."""
        if self.kind == "disk-freeze":
            self.disk.freeze()
            self.soon(self.disk.thaw)
        else:
            self.disk.fail()
        return True

    def excuses(self, left: str) -> bool:
        """Nothing can be removed from a disk that takes nothing any more."""
        return self.kind == "disk-abort" and left.startswith(("owner ", "draft "))

    def heal(self, stage: Stage) -> None:
        """Repair it."""
        super().heal(stage)
        if self.kind == "disk-abort":
            self.disk.repair()

    def leave(self, stage: Stage) -> None:
        """Take the disk out."""
        self.disk.thaw()
        self.disk.remove()


class LostServer(Fault):
    """server-kill: the MLflow server is killed, and is back some seconds later."""

    def stage(self, folder: Path, toy: Path, executor: str) -> Stage:
        """A sweep that is tracked by a server of its own."""
        self.folder = folder / "server"
        self.folder.mkdir(parents=True)
        self.port = free_port()
        self.server = self.start()
        address = f"tracking.uri=http://127.0.0.1:{self.port}"
        database = self.folder / "mlflow.db"
        return Stage(folder, toy, executor, settings=(address,), database=database)

    def start(self) -> subprocess.Popen[bytes]:
        """A server that answers."""
        line = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port)]
        line += ["--workers", "1", "--serve-artifacts"]
        line += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        line += ["--artifacts-destination", str(self.folder / "files")]
        with (self.folder / "log").open("ab") as log:
            server = subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + SERVER_SECONDS
        while not answers(self.port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no MLflow server: see {self.folder / 'log'}")
            time.sleep(0.2)
        return server

    def strike(self, stage: Stage, process: subprocess.Popen[str]) -> bool:
        """Kill it, and start it again later."""
        self.end()

        def again() -> None:
            self.server = self.start()

        self.soon(again)
        return True

    def end(self) -> None:
        """Kill it with its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait()

    def leave(self, stage: Stage) -> None:
        """End it for good."""
        self.end()


class SecondCommand(Fault):
    """command-twice: the same command is given a second time while the first one runs."""

    def strike(self, stage: Stage, process: subprocess.Popen[str]) -> bool:
        """The second one must say that the storage is taken, and leave the first one alone."""
        if process.poll() is not None or not aftermath.events(stage.storage):
            return False
        began = time.monotonic()
        second = stage.finish(stage.start(), began)
        self.problems += self.wrong_with(second, process.poll() is not None)
        return True

    @staticmethod
    def wrong_with(second: Ended, first_is_over: bool) -> list[str]:
        """What is wrong with how the second command has ended. Where the first one was over in the
        meantime it may also have told its result.
        """
        if first_is_over and second.code == 0:
            return []
        problems = []
        errors = [line for line in second.err.splitlines() if line.startswith("error:")]
        if second.code == 0:
            problems.append("a second command ran beside the first one")
        if second.seconds > REFUSED_SECONDS:
            problems.append(f"a second command was refused after {second.seconds:.0f} s")
        if "Traceback" in second.err or len(errors) != 1:
            problems.append(f"a second command ended with: {second.err[-300:]}")
        return problems


ACTIONS: dict[str, type[Fault]] = {
    **dict.fromkeys(
        ("worker-stop", "driver-stop", "coordinator-stop", "raylet-stop"), FrozenProcess
    ),
    **dict.fromkeys(("checkpoint-flip", "checkpoint-cut"), DamagedCheckpoint),
    "disk-full": FullDisk,
    **dict.fromkeys(("disk-abort", "disk-freeze"), FailingDisk),
    "server-kill": LostServer,
    "command-twice": SecondCommand,
}
"""Faults that are no signals, by kind."""


def fault_of(kind: str, chance: random.Random) -> Fault:
    """The fault of a round."""
    return ACTIONS.get(kind, Fault)(kind, chance)


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def answers(port: int) -> bool:
    """Whether an MLflow server is well there."""
    import urllib.request

    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
