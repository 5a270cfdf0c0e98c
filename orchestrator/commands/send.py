"""A command for a cluster, typed outside of it: the plan as far as it can be known here, then on
its way. Nothing of it runs here.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

from jobs.data import locations
from jobs.files.json_types import JsonObject
from orchestrator import project
from orchestrator.config.settings import Config
from orchestrator.errors import ConfigError
from orchestrator.output import run_commands
from orchestrator.plan import planner as planning
from orchestrator.plan.planner import Plan
from orchestrator.plan.resources import Node, head_problem
from orchestrator.remote import code_archive
from orchestrator.remote.ray_jobs_client import NoAnswer
from orchestrator.remote.submission import Submission, remote_arguments
from orchestrator.storage import staging
from orchestrator.storage.paths import storage_folder

UNKNOWN = (Node(4096, 4096),)
"""Stands for a running cluster's nodes, which only the command on the cluster sees: it refuses what
they cannot hold.
"""


def run(config: Config, overrides: list[str], config_dir: str | None) -> int:
    """Send the command where the configuration says; returns its exit code."""
    if config.cluster.kind == "attached":
        from orchestrator.remote import ray_jobs

        arguments = remote_arguments(overrides, config.dry_run, config.budget.deadline)
        typed = overrides if config_dir is None else ["--config-dir", config_dir, *overrides]
        return ray_jobs.run(
            config, submission(config, arguments, typed, known_plan(config, UNKNOWN)), config_dir
        )
    return run_on_kubernetes(config, overrides, config_dir)


def run_on_kubernetes(config: Config, overrides: list[str], config_dir: str | None) -> int:
    """The same as a RayJob, or on a RayCluster that is there."""
    from orchestrator.kuberay import preflight, submit
    from orchestrator.kuberay.manifest import size_bytes

    if config.cluster.ray_cluster is not None:
        attached = dataclasses.replace(
            config.cluster, kind="attached", address=submit.address_of(config.cluster)
        )
        try:
            return run(dataclasses.replace(config, cluster=attached), overrides, config_dir)
        except NoAnswer as error:  # a Service is known and reached in its cluster only
            service = (attached.address or "").removeprefix("http://").split(".")[0]
            forward = run_commands.kubectl(attached, "port-forward", f"service/{service}", "8265")
            raise NoAnswer(
                f"{error}\n  from outside: {forward}, then cluster=attached cluster.address=http://localhost:8265"
            ) from error
    arguments = in_image(config, remote_arguments(overrides, False, config.budget.deadline))
    typed = shlex.join(overrides)
    problems = preflight.argument_problems(config.cluster, arguments)
    if config_dir is not None:
        problems.append(
            (
                "--config-dir",
                "does not travel to Kubernetes; put the folder's files into the image's conf/",
            )
        )
    if problems:
        raise ConfigError(problems)
    plan = known_plan(config, pods(config))
    if plan is not None and (
        problem := head_problem(plan.resources, size_bytes(config.cluster.head_memory))
    ):
        raise ConfigError([("cluster.head_memory", problem)])
    if config.dry_run:
        print_preview(config, plan, submit.preview(config, arguments, plan, typed))
        return 0
    return submit.run(config, arguments, plan, typed)


def in_image(config: Config, arguments: list[str]) -> list[str]:
    """The arguments, with the project's own data named by its place in the image."""
    typed = code_archive.local(
        staging.named_paths(config), storage_folder(config.storage), arguments
    )
    moved = {
        setting: path.relative_to(project.ROOT)
        for setting, path in typed.items()
        if path.is_relative_to(project.ROOT)
    }
    return arguments + [
        f"{setting}={Path(config.cluster.folder) / path_in_project}"
        for setting, path_in_project in moved.items()
    ]


def print_preview(config: Config, plan: Plan | None, manifest: JsonObject) -> None:
    """The plan and the manifest on stdout."""
    from orchestrator.kuberay.manifest import as_yaml
    from orchestrator.output import plan_text

    if config.output == "json":
        print(
            json.dumps(
                {"plan": plan_text.plan_record(plan) if plan else None, "manifest": manifest}
            )
        )
        return
    about = (
        plan_text.plan_text(plan)
        if plan
        else "plan    made on the cluster: the data is not on this machine"
    )
    print("\n".join(f"# {line}".rstrip() for line in about.splitlines()))
    print(as_yaml(manifest), end="")


def pods(config: Config) -> tuple[Node, ...]:
    """The worker pods that the cluster may grow to, as nodes."""
    cluster = config.cluster
    most = max(cluster.workers, cluster.max_workers or 0) + cluster.spot_workers
    return (Node(cluster.worker_cpus, cluster.worker_gpus),) * max(most, 1)


def known_plan(config: Config, nodes: tuple[Node, ...]) -> Plan | None:
    """The plan, when all data and the model's folder are on this machine. Raises InputError for
    data that is here and cannot be used.
    """
    if config.job.kind != "train" or not all(
        locations.is_here(path) for path in staging.named_paths(config).values()
    ):
        return None
    return planning.make(config, nodes)


def submission(
    config: Config, arguments: list[str], typed: list[str], plan: Plan | None
) -> Submission:
    """What is sent."""
    if plan is not None:
        sweep = plan.name
    elif config.job.kind == "train":
        sweep = config.sweep.name
    else:
        sweep = config.job.kind
    if config.dry_run:
        sweep = f"plan-of-{sweep}"  # not to be taken for the sweep itself
    return Submission(sweep, arguments, shlex.join(typed))
