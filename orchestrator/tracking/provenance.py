"""Where a run comes from: code, libraries and machine; and how fast this machine was, for the next
estimate.
"""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata

from orchestrator.config.settings import Config
from orchestrator.job_environment import JOB, SUBMISSION
from orchestrator.project import ROOT

LIBRARIES = ("torch", "transformers", "peft", "ray", "mlflow", "hydra-core", "tokenizers")


def tags(config: Config) -> dict[str, str]:
    """Code version, library versions, machine, and on a cluster the job that it was, as tags of a
    run.
    """
    library_tags = {f"library.{name}": version(name) for name in LIBRARIES}
    library_tags |= {
        "library.python": platform.python_version(),
        "machine": f"{platform.machine()} {os.cpu_count()} cores",
    }
    if job := os.environ.get(JOB) or os.environ.get(SUBMISSION):
        library_tags["cluster.job"] = job
    return library_tags | {
        "code.version": code_version(),
        "data": config.data.name,
        "model": config.model.name,
    }


def version(name: str) -> str:
    """The installed version of a package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def code_version() -> str:
    """The commit of the code, with "+changes" when files differ from it; where there is no git,
    what the image was built from.
    """
    try:
        run = [
            "git",
            "-C",
            str(ROOT),
            "describe",
            "--always",
            "--abbrev=40",
            "--exclude=*",
            "--dirty=+changes",
        ]
        return subprocess.run(
            run, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("ORCHESTRATOR_REVISION") or version("slm-orchestrator")
