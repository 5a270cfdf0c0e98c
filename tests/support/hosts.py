"""Several hosts on one machine: network namespaces on a bridge, each with a raylet of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from pathlib import Path

from tests.support.servers import BIN

FAST = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""A Ray that soon takes a node that does not answer for dead."""
SMALL = (
    "train.steps=8",
    "train.eval_every=4",
    "train.batch_size=6",
    "train.dtype=float32",
    "train.cpus_per_worker=1",
)
GRID = "sweep.space={lr: {path: optim.lr, type: grid, values: [0.002, 0.01, 0.03]}}"
"""Three trials of a few steps each, with SMALL."""


def can_make_hosts() -> bool:
    """Whether this user may make network and mount namespaces."""
    tried = [
        "unshare",
        "-n",
        "-m",
        "sh",
        "-c",
        "ip link add name v0 type veth peer name v1 && ip link add name v2 type bridge && mount -t tmpfs none /mnt",
    ]
    return (
        bool(shutil.which("unshare") and shutil.which("ip"))
        and subprocess.run(tried, capture_output=True).returncode == 0
    )


class Hosts:
    """Network namespaces on one bridge: h0 to h2, 10.77.0.1 to .3."""

    def __init__(self, count: int) -> None:
        self.mark = uuid.uuid4().hex[:6]
        self.names = [f"h{number}-{self.mark}" for number in range(count)]
        self.bridge = f"br{self.mark}"
        self.do(f"link add name {self.bridge} type bridge")
        self.do(f"link set {self.bridge} up")
        for number, name in enumerate(self.names):
            outer = self.outer(number)
            self.do(f"netns add {name}")
            self.do(f"link add name {outer} type veth peer name eth0 netns {name}")
            self.do(f"link set {outer} master {self.bridge} up")
            for command in (
                f"addr add 10.77.0.{number + 1}/24 dev eth0",
                "link set eth0 up",
                "link set lo up",
            ):
                self.do(f"-n {name} {command}")

    def outer(self, number: int) -> str:
        """The bridge's end of a host's cable."""
        return f"v{number}x{self.mark}"

    def do(self, command: str) -> None:
        """One command of iproute2."""
        subprocess.run(["ip", *command.split()], check=True, capture_output=True)

    def line(self, number: int, *command: object) -> list[str]:
        """A command line as it runs on a host."""
        return ["ip", "netns", "exec", self.names[number], *map(str, command)]

    def remove(self) -> None:
        """All of it."""
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)


def join(hosts: Hosts, number: int, folder: Path, extra: str = "") -> None:
    """Start a raylet on a host and wait until it is there."""
    line = f"{extra} exec {BIN}/ray start --block --num-cpus 1 --disable-usage-stats --node-ip-address 10.77.0.{number + 1} "
    line += (
        "--head --port 6399 --include-dashboard false"
        if number == 0
        else "--address 10.77.0.1:6399"
    )
    line = line.replace("--num-cpus 1", "--num-cpus 0") if number == 0 else line
    line += f" --temp-dir {folder}" if number == 0 else ""
    line += " --object-store-memory 80000000"
    log = (folder / f"host{number}.log").open("wb")
    subprocess.Popen(
        hosts.line(number, "unshare", "-m", "sh", "-c", line),
        stdout=log,
        stderr=log,
        env={**os.environ, **FAST},
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while (
        "Local node IP" not in (folder / f"host{number}.log").read_text()
        or "This command will now block" not in (folder / f"host{number}.log").read_text()
    ):
        assert time.monotonic() < deadline, (folder / f"host{number}.log").read_text()
        time.sleep(0.2)
