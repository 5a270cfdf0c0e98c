"""What runs and what has run: python -m orchestrator.runs list|show|watch|stop|delete NAME, for
sweeps of this machine's storage, of a running Ray cluster (--address) and of Kubernetes
(--namespace) alike; likewise drop NAME TRIAL, clone NAME TRIAL KNOB=VALUE ..., report NAME,
compare NAME NAME, debug NAME, clean [NAME], which look into a sweep's storage, from here or on its
cluster.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import time
from typing import Any, cast

from jobs.files import filesystem
from orchestrator.config import credentials
from orchestrator.config.cluster import Cluster
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.output import console
from orchestrator.output.run_commands import as_flags, flag
from orchestrator.runs import local_commands
from orchestrator.runs.backend import COLUMNS, RunBackend
from orchestrator.runs.cleaning import DRY
from orchestrator.runs.local_commands import IN_STORAGE, Answer
from orchestrator.runs.local_storage import LocalRuns

DEFAULT_STORAGE = "outputs"
ONE_NAME = ("show", "watch", "stop", "delete")
"""Commands that take a sweep's name and nothing else, wherever it runs."""


def main(arguments: list[str]) -> int:
    """Do one command; returns the exit code: 0 done, 1 the work watched has failed, 2 bad input,
    130 interrupted.
    """
    credentials.remember_environment()
    asked = parse(arguments)
    try:
        backend = place_of(asked)
        if asked.command == "list":
            records = backend.listed()
            print(json.dumps(records) if asked.json else table(records))
        elif asked.command == "show":
            record = backend.show(asked.name)
            print(json.dumps(record) if asked.json else details(record))
        elif asked.command == "watch":
            return watch_as_json(backend, asked.name) if asked.json else backend.watch(asked.name)
        elif asked.serve:
            return serve_beside(asked, backend)
        elif asked.command in IN_STORAGE:
            answer = answered(asked, backend)
            print(json.dumps(answer.record) if asked.json else answer.text)
        else:
            message = getattr(backend, asked.command)(asked.name)
            print(json.dumps({"name": asked.name, "done": message}) if asked.json else message)
        sys.stdout.flush()
    except OrchestratorError as error:
        console.error(as_flags(str(error)))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # Python flushes once more at its exit
        return 1
    return 0


def watch_as_json(backend: RunBackend, name: str) -> int:
    """Follow one, with all that it prints on stderr, and print its record at the end; returns its
    exit code.
    """
    with contextlib.redirect_stdout(sys.stderr):
        code = backend.watch(name)
    try:
        record = backend.show(name)
    except InputError:
        record = {"name": name, "state": "deleted"}
    print(json.dumps(record), flush=True)
    return code


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; ends the process with code 2 when it cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.runs", description=__doc__)
    parser.add_argument("command", choices=["list", *ONE_NAME, *IN_STORAGE])
    parser.add_argument(
        "words",
        nargs="*",
        metavar="name",
        help="a sweep, as list names it; then what the command takes",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="clean: say what would be removed, and remove nothing",
    )
    parser.add_argument("--json", action="store_true", help="the answer as one line of JSON")
    parser.add_argument(
        "--storage",
        help="storage of this machine's sweeps (default: outputs); for drop, clone, report, "
        "compare and debug on a cluster: where this machine sees the cluster's",
    )
    parser.add_argument(
        "--serve",
        action="store_true",
        help="for compare: both winners on one page of this machine, asked your own questions",
    )
    parser.add_argument("--port", type=int, help="of that page (default: a free one)")
    parser.add_argument("--address", help="of a running Ray cluster: http://HEAD:8265")
    parser.add_argument("--token-file", help="file with the token of that cluster")
    parser.add_argument("--namespace", help="of RayJobs on Kubernetes")
    parser.add_argument("--context", help="context of the kubeconfig")
    parser.add_argument(
        "--kubeconfig", help="the kubeconfig itself (default: KUBECONFIG, or ~/.kube/config)"
    )
    asked = parser.parse_intermixed_args(arguments)
    empty = [
        flag
        for flag in ("storage", "address", "namespace", "token_file", "context", "kubeconfig")
        if getattr(asked, flag) == ""
    ]
    if empty:
        parser.error(f"{flag(empty[0])} is empty")
    if asked.token_file is not None and asked.address is None:
        parser.error("--token-file is for a running Ray cluster: give its --address too")
    for name in ("context", "kubeconfig"):
        if getattr(asked, name) is not None and asked.namespace is None:
            parser.error(f"{flag(name)} is for Kubernetes: give the --namespace too")
    if asked.serve and asked.command != "compare":
        parser.error("--serve is for compare NAME NAME")
    if asked.port is not None and not asked.serve:
        parser.error("--port is for compare NAME NAME --serve")
    asked.name = next(iter(asked.words), None)
    if asked.command in IN_STORAGE:
        wrong = local_commands.problem(asked.command, asked.words)
        if wrong is not None:
            parser.error(wrong)
        if asked.command == "clean" and not asked.words and (asked.address or asked.namespace):
            parser.error("clean takes the name of a sweep on a cluster: see list")
    elif len(asked.words) != int(asked.command != "list"):
        parser.error(
            f"{asked.command} takes "
            f"{'no name' if asked.command == 'list' else 'the name of a sweep: see list'}"
            f"{'; drop NAME 3 ends one trial' if asked.command == 'stop' else ''}"
        )
    if asked.address and asked.namespace:
        parser.error(
            "--address is a running Ray cluster and --namespace is Kubernetes: give one of them"
        )
    if asked.dry_run and asked.command != "clean":
        parser.error(f"{asked.command} knows no --dry-run: it is for clean")
    if asked.dry_run:
        asked.words.append(DRY)
    elsewhere = next((name for name in ("address", "namespace") if getattr(asked, name)), None)
    if elsewhere and asked.storage is not None and asked.command not in IN_STORAGE:
        parser.error(
            f"{asked.command} asks the cluster itself: leave out --storage, or {flag(elsewhere)} "
            "for sweeps of this machine's storage"
        )
    return asked


def serve_beside(asked: argparse.Namespace, backend: RunBackend) -> int:
    """Serve two winners beside each other until Ctrl-C; returns the exit code."""
    if not isinstance(backend, LocalRuns):
        raise InputError(
            "compare --serve runs the winners here: give the --storage folder in which this "
            "machine sees both sweeps, without --address and --namespace"
        )
    from orchestrator.runs import side_by_side

    return side_by_side.serve(backend, asked.words, asked.port or 0, asked.json)


def answered(asked: argparse.Namespace, backend: RunBackend) -> Answer:
    """The answer of a command that needs to see the sweep's storage."""
    if isinstance(backend, LocalRuns):
        return local_commands.run(backend, asked.command, asked.words)
    from orchestrator.runs import cluster_storage

    cluster = cast(cluster_storage.ClusterRuns, backend)
    return cluster_storage.run(cluster, asked.command, asked.words, asked.storage)


def place_of(asked: argparse.Namespace) -> RunBackend:
    """Where to look. Raises InputError when it does not answer."""
    if asked.address and not re.fullmatch(r"https?://[^/\s@]+/?[^@]*", asked.address):
        raise InputError(
            f"--address {credentials.mask(asked.address)}: write it as http://HEAD:8265; the "
            "token is given apart: --token-file FILE"
        )
    if asked.storage is not None and filesystem.is_uri(asked.storage):
        problem = credentials.store_problem(asked.storage)
        if problem is not None:
            raise InputError(f"--storage {credentials.mask(asked.storage)} {problem}")
    try:
        return find_place(asked)
    except ValueError as error:
        raise InputError(str(error)) from error


def find_place(asked: argparse.Namespace) -> RunBackend:
    """The place, whose settings may be wrong: a ValueError."""
    if asked.address:
        from orchestrator.runs.ray_cluster import RayJobRuns

        return RayJobRuns(
            Cluster(kind="attached", address=asked.address, token_file=asked.token_file)
        )
    if asked.namespace:
        from orchestrator.runs.kubernetes import KubeRayRuns

        if asked.kubeconfig is not None:
            os.environ["KUBECONFIG"] = asked.kubeconfig
        return KubeRayRuns(
            Cluster(kind="kuberay", namespace=asked.namespace, context=asked.context)
        )
    storage = DEFAULT_STORAGE if asked.storage is None else asked.storage
    if filesystem.is_uri(storage):
        from orchestrator.runs.object_store import StoreRuns

        return StoreRuns(storage)
    return LocalRuns(storage)


def table(records: list[dict[str, Any]]) -> str:
    """Records as aligned columns. Where a job of a cluster and its sweep have two names both are
    shown: every command takes either.
    """
    if not records:
        return "no sweeps here"
    differs = any(record.get("sweep") not in (None, record["name"]) for record in records)
    columns = (COLUMNS[0], "sweep", *COLUMNS[1:]) if differs else COLUMNS
    rows = [columns, *([shown(record.get(column)) for column in columns] for record in records)]
    widths = [max(len(row[column_index]) for row in rows) for column_index in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def details(record: dict[str, Any]) -> str:
    """A record, one line per aspect, then whatever it has of tables and logs."""
    width = max(map(len, record)) + 2
    lines = [
        f"{key:<{width}}{shown(value)}"
        for key, value in record.items()
        if not isinstance(value, list | dict)
    ]
    for key, value in record.items():
        if isinstance(value, dict):
            lines += [f"{key:<{width}}{name} {of}" for name, of in value.items()]
        elif isinstance(value, list):
            lines += [f"{key:<{width}}{listed(item)}" for item in value]
    return "\n".join(lines)


def listed(item: Any) -> str:
    """An entry of a list: a line, or an alert."""
    return f"{item['level']}: {item['text']}" if isinstance(item, dict) else str(item)


def shown(value: Any) -> str:
    """A value in a cell; a moment, in seconds since the epoch, as local time."""
    if isinstance(value, float) and value > 10**9:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(value))
    return "-" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
