"""Putting the base model on disk and measuring this machine: job=setup, and what it would do with
dry_run=true.
"""

from __future__ import annotations

import dataclasses
import json

from jobs.base_models import fetch
from jobs.config import Model
from jobs.files import cache
from orchestrator.config.settings import Config
from orchestrator.errors import InputError
from orchestrator.job_environment import mark_answer
from orchestrator.output import plan_text
from orchestrator.plan import machine

VERBS = {"wheel": "fetch and convert", "hub": "fetch", "path": "read", "tiny": "build"}


def run(config: Config) -> int:
    """Print where the base model lies and how fast this machine is, on stdout; returns the exit
    code.
    """
    record, line = plan(config.model) if config.dry_run else work(config.model)
    found = None if config.dry_run else machine.look(config).speed
    if found is not None:
        record = record | {"machine": dataclasses.asdict(found)}
        line += f"\nmachine {found.describe()}"
    mark_answer()
    print(json.dumps(record, ensure_ascii=False) if config.output == "json" else line)
    return 0


def plan(model: Model) -> tuple[dict[str, object], str]:
    """What `work` would do, as a record and as a line. Downloads and writes nothing. Raises
    InputError for a model that cannot be used.
    """
    try:
        base = fetch.locate(model)
    except ValueError as error:
        raise InputError(str(error)) from error
    record = {
        "job": "setup",
        "model": model.name,
        "from": plan_text.origin(model),
        "ready": base is not None,
        "cache": str(cache.cache_folder()),
    }
    if base is not None:
        return {
            "plan": record | {"path": base.path}
        }, f"plan    nothing to fetch: {base.name} is ready in {base.path}"
    return (
        {"plan": record},
        f"plan    would {VERBS[model.source]} {model.name} ({plan_text.origin(model)}), cache "
        f"{cache.cache_folder()}",
    )


def work(model: Model) -> tuple[dict[str, object], str]:
    """Fetch and convert the base model if need be. Raises InputError when it cannot be had."""
    try:
        base = fetch.prepare(model)
    except (ValueError, RuntimeError) as error:
        raise InputError(str(error)) from error
    return {"base": dataclasses.asdict(base)}, f"base    {base.name} is ready in {base.path}"
