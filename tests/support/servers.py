"""Real servers for tests: a Ray head with token authentication, an MLflow server, and a connection
that can be cut.
"""

from __future__ import annotations

import fcntl
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent
TOKEN = "a-token-of-the-tests-0123456789"


PORTS = range(20_000, 32_000)
"""Below those that a system takes for outgoing connections and for port 0
(net.ipv4.ip_local_port_range), and above those of Ray's workers: nothing but a test takes one.
"""


@functools.cache
def port_locks() -> int:
    """An open file of which each byte is the lock of one port. Closed at the end of this process."""
    file = Path(tempfile.gettempdir()) / f"ports-of-tests-{os.geteuid()}"
    return os.open(file, os.O_RDWR | os.O_CREAT, 0o600)


RESERVED: set[int] = set()
"""The ports that this process holds the locks of."""


def free_port() -> int:
    """A port that nobody listens on, and that no other process of tests is given while this one
    lives: it stays free until whoever asked for it listens there.
    """
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if port not in RESERVED and is_reserved(port):
            RESERVED.add(port)
            return port
    raise AssertionError(f"no port of {PORTS} is free")


def is_reserved(port: int) -> bool:
    """Whether the lock of a port could be had, and nobody listens there."""
    try:
        fcntl.lockf(port_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        with socket.socket() as probe:
            probe.bind(("", port))
    except OSError:
        return False
    return True


def wait(ready: Callable[[], bool], seconds: float = 300) -> None:
    """Until it is so; fails when it does not become so."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"the server did not start within {seconds} s"
        time.sleep(0.2)


def answers(url: str) -> bool:
    """Whether a server answers, be it with an error."""
    try:
        urllib.request.urlopen(url, timeout=2).read()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def started(
    line: list[str], environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process group of its own, ended with all its children."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            line, stdout=stream, stderr=stream, env=environment, start_new_session=True
        )
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            end_all(str(log.parent))


def end_all(mark: str) -> None:
    """Kill whatever still runs with `mark` on its command line: Ray's daemons outlive the process
    that has started them.
    """
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and int(entry.name) != os.getpid()
                and mark in (entry / "cmdline").read_text()
            ):
                os.kill(int(entry.name), signal.SIGKILL)
        except (OSError, UnicodeDecodeError):
            continue


@contextmanager
def ray_head(environment: dict[str, str], num_cpus: int = 2) -> Iterator[str]:
    """The address of the Jobs API of a running head. Its sockets need a short path, so it has a
    folder of its own.
    """
    folder = Path(tempfile.mkdtemp(prefix="head-"))
    gcs, dashboard, agent, client = (free_port() for _ in range(4))
    ports = [
        "--port",
        gcs,
        "--dashboard-port",
        dashboard,
        "--dashboard-agent-listen-port",
        agent,
        "--ray-client-server-port",
        client,
    ]
    line = [
        BIN / "ray",
        "start",
        "--head",
        "--block",
        "--num-cpus",
        num_cpus,
        "--dashboard-host",
        "127.0.0.1",
        *ports,
    ]
    line += ["--temp-dir", folder, "--object-store-memory", 200_000_000, "--disable-usage-stats"]
    other = (
        folder / "bin" / "python"
    )  # what a shell on the head takes for Python need not be the one that Ray runs in
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho this python has no ray; exit 3\n")
    other.chmod(0o755)
    signed = {
        **environment,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "PATH": f"{other.parent}:{BIN}:{environment['PATH']}",
    }
    for name in ("PYTHONPATH", "ORCHESTRATOR_CACHE"):
        signed.pop(
            name, None
        )  # what runs there is what was sent, and base models are kept in the storage
    with started([str(part) for part in line], signed, folder / "head.log"):
        address = f"http://127.0.0.1:{dashboard}"
        wait(lambda: answers(f"{address}/api/version") and answers(f"http://127.0.0.1:{agent}/"))
        yield address
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def mlflow_server(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of an MLflow server that keeps artifacts itself."""
    port = free_port()
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}",
        "--serve-artifacts",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    line = [
        str(BIN / "mlflow"),
        "server",
        *store,
        "--port",
        str(port),
        "--workers",
        "1",
        "--allowed-hosts",
        "*",
    ]
    with started(line, environment, folder / "mlflow.log"):
        address = f"http://127.0.0.1:{port}"
        wait(lambda: answers(f"{address}/health"))
        yield address


class Wire:
    """A TCP connection to `target` through a port of its own, or a given one, which can be cut and
    joined again.
    """

    def __init__(self, target: str, own: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        host, _, port = target.removeprefix("http://").partition(":")
        self.target, self.whole, self.ends, self.frozen = (host, int(port)), True, [], []
        self.listener = socket.create_server(own)
        self.host, port = self.listener.getsockname()
        self.address = f"http://{self.host}:{port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection and refuse new ones."""
        self.whole = False
        for end in self.ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def join(self) -> None:
        """Let connections through again."""
        self.whole = True

    def freeze(self) -> None:
        """Let nothing more through connections that stay open, as a firewall does that has
        forgotten them; new ones work.
        """
        self.frozen += self.ends

    def close(self) -> None:
        """For good."""
        self.cut()
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if not self.whole:
                near.close()
                continue
            try:
                far = socket.create_connection(self.target)
            except OSError:  # the next one may come through
                near.close()
                continue
            self.ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if source not in self.frozen:
                    sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
