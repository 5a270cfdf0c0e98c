"""The way to an API server and who one is there: by kubeconfig, or as the pod's own account. What
is wrong with either, in one line.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3
import yaml

from orchestrator.config.cluster import Cluster
from orchestrator.errors import InputError

SILENT = logging.NullHandler()
"""Without a handler the root logger makes one of its own, which prints."""


def sign_in(cluster: Cluster) -> Any:
    """The library's client for the chosen context, or for the pod's own account. Raises InputError
    when there is none to use.
    """
    from kubernetes import client, config
    from kubernetes.config.config_exception import ConfigException

    configuration = client.Configuration()
    files = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    has_kubeconfig = any(Path(file).is_file() for file in files.split(os.pathsep) if file)
    try:
        with heard() as complaints:
            if (
                cluster.context is None
                and not has_kubeconfig
                and "KUBERNETES_SERVICE_HOST" in os.environ
            ):
                config.load_incluster_config(configuration)
            elif not has_kubeconfig:
                raise InputError(
                    f"no kubeconfig at {files}, and this is no pod; set KUBECONFIG, or sign in to "
                    "the cluster first"
                )
            else:
                config.load_kube_config(files, cluster.context, configuration, persist_config=False)
        check(configuration, complaints)
    except ConfigException as error:
        shown = f"cluster.context={cluster.context}" if cluster.context else files
        raise InputError(f"{shown}: the kubeconfig cannot be used: {in_line(error)}") from error
    except (yaml.YAMLError, OSError, ValueError) as error:
        raise InputError(f"{files}: the kubeconfig cannot be read: {in_line(error)}") from error
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{files}: the kubeconfig has something else where a name or a list belongs "
            f"({in_line(error)})"
        ) from error
    except InputError:
        raise
    except Exception as error:  # a provider of some cloud fails in its own way
        raise InputError(
            f"{files}: the sign-in of this kubeconfig failed: {in_line(error)}; sign in again"
        ) from error
    return client.ApiClient(configuration)


def check(configuration: Any, complaints: list[str]) -> None:
    """Raise ValueError or InputError for an address or a token that cannot be sent, and for a
    sign-in that brought neither token nor certificate: the requests would go out without a name.
    """
    if not str(configuration.host).startswith(("http://", "https://")):
        raise ValueError(f"server {configuration.host!r} is no address such as https://HOST:6443")
    token = str(configuration.api_key.get("authorization", ""))
    if complaints and not token and not configuration.cert_file:
        raise InputError(
            f"the sign-in that the kubeconfig asks for failed: {' '.join(complaints[0].split())}; "
            "sign in again"
        )
    if not (token.isascii() and token.isprintable()):
        raise ValueError(
            "its token holds characters that cannot be sent, such as the end of a line"
        )
    if not configuration.verify_ssl:
        urllib3.disable_warnings(
            urllib3.exceptions.InsecureRequestWarning
        )  # insecure-skip-tls-verify is the user's own word


@contextmanager
def heard() -> Iterator[list[str]]:
    """What the library only logs, such as a sign-in program that failed: it would go on without a
    name.
    """
    complaints: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            complaints.append(record.getMessage())

    root = logging.getLogger()
    listener = Listener()
    root.addHandler(SILENT)
    root.addHandler(listener)
    try:
        yield complaints
    finally:
        root.removeHandler(listener)


def in_line(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())
