"""Where the workers of one job meet: on a private Ray on loopback alone, since whoever else reaches
the place could speak for a worker.
"""

from __future__ import annotations

import importlib
import ipaddress
import socket
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]


class LoopbackTorchBackend(_TorchBackend):
    """Torch's processes as Ray Train sets them up, with a meeting place that listens where it was
    told to.
    """

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Join the workers into one process group."""
        worker_group.execute(stay_on_loopback)
        super().on_start(worker_group, backend_config)


class LoopbackTorchConfig(TorchConfig):
    """Ray Train's settings for torch's processes."""

    @property
    def backend_cls(self) -> type[LoopbackTorchBackend]:
        """What sets them up."""
        return LoopbackTorchBackend


def stay_on_loopback() -> None:
    """Have the store of this process's rendezvous listen on loopback where that is its address.
    torch lets it listen on all addresses.
    """
    # torch.distributed.rendezvous is a function by the same name.
    importlib.import_module("torch.distributed.rendezvous").TCPStore = open_store  # type: ignore[attr-defined]


def open_store(
    host_name: str, port: int, *arguments: Any, is_master: bool = False, **settings: Any
) -> TCPStore:
    """A TCPStore. Its server is given a socket that is bound already, where the host is a loopback
    address.
    """
    if is_master and is_loopback(host_name):
        with socket.create_server((host_name, port), family=family(host_name)) as listener:
            settings["master_listen_fd"] = listener.detach()  # the store closes it
    return TCPStore(host_name, port, *arguments, is_master=is_master, **settings)


def family(host: str) -> socket.AddressFamily:
    """IPv4 or IPv6."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def is_loopback(host: str) -> bool:
    """Whether an address means this machine and can be reached from no other."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
