"""The plan of a sweep whose trials do not fit into the memory at once. Pure."""

from __future__ import annotations

import dataclasses

from orchestrator.config.settings import changed
from orchestrator.plan.planner import Plan
from orchestrator.plan.resources import divide


def with_fewer_slots(plan: Plan) -> Plan | None:
    """The same plan with half as many trials at once, at last with one that trains by itself; None
    where there is nothing less.
    """
    resources, config = plan.resources, plan.config
    fewer = max(resources.concurrent // 2, 1)
    if resources.packs and resources.concurrent > resources.packs:
        concurrent = max(fewer, resources.packs)
        executor = "pack"
    elif resources.packs and config.executor == "pack":
        return None
    elif resources.packs or resources.concurrent > 1:
        concurrent = 1 if resources.packs else fewer
        executor = "plain"
    else:
        return None
    config = changed(config, sweep=dataclasses.replace(config.sweep, max_concurrent=concurrent))
    # The slots of a fleet may be more than the trials of a task.
    num_trials = max(plan.num_trials, concurrent)
    divided = divide(config, num_trials, resources.nodes, executor)
    timing = None if plan.timing is None else plan.timing.with_resources(divided)
    return dataclasses.replace(plan, config=config, resources=divided, timing=timing)
