"""What a fleet would do: the plan of each task, who shares what, and how long all of it takes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from jobs.base_models import fetch
from jobs.files.json_types import JsonObject
from jobs.files.storage_faults import free_bytes, size
from orchestrator.config.fleet import PATH, FleetTask, located
from orchestrator.config.left_open import MINUTES
from orchestrator.config.settings import Config, changed
from orchestrator.errors import ConfigError, InputError
from orchestrator.evaluation import champion_lookup
from orchestrator.output.console import duration, plural
from orchestrator.plan import planner as planning
from orchestrator.plan.cost import disk_bytes
from orchestrator.plan.planner import Plan
from orchestrator.plan.resources import Resources, divide, this_machine
from orchestrator.plan.sizing import MinutesTooShort
from orchestrator.plan.timing import FIRST_STEP_SECONDS, START_SECONDS
from orchestrator.storage.paths import storage_folder


@dataclass(frozen=True)
class FleetPlan:
    """One fleet, thought through."""

    name: str
    tasks: list[FleetTask]
    plans: dict[int, Plan]
    """By the task's number."""
    refused: dict[int, str] = field(default_factory=dict)
    """Why the rows of a task cannot be used: it is left out."""

    @property
    def config(self) -> Config:
        """Of the first task; what the command as a whole goes by is the same in all."""
        return self.tasks[0].config

    def resources(self, num_trials: int, most: int | None = None) -> Resources:
        """What so many trials of all tasks share, `most` of them at once where that is not None."""
        plan = next(iter(self.plans.values()))
        config = plan.config
        if most is not None:
            sweep = dataclasses.replace(config.sweep, max_concurrent=most)
            config = changed(config, sweep=sweep)
        return divide(config, num_trials, plan.resources.nodes, "pack")

    @property
    def num_trials(self) -> int:
        """Of all tasks."""
        return sum(plan.num_trials for plan in self.plans.values())

    def seconds(self) -> float | None:
        """How long it should take: what the sweeps would, with one start for all."""
        estimates = [plan.estimate for plan in self.plans.values() if plan.estimate is not None]
        if not estimates or len(estimates) < len(self.plans):
            return None
        spared = (len(estimates) - 1) * (START_SECONDS + FIRST_STEP_SECONDS)
        return max(sum(each.seconds for each in estimates) - spared, 0.0)


def name_of(tasks: list[FleetTask]) -> str:
    """What a fleet is called: the same for the same tasks, however far they are to go."""
    first = tasks[0]
    known_by = [[task.name, task.config.registered_name] for task in tasks]
    digest = hashlib.sha256(json.dumps(sorted(known_by)).encode()).hexdigest()[:6]
    return f"{sweep_name(first)}-fleet-{digest}"


def sweep_name(task: FleetTask) -> str:
    """The name of the fleet's sweeps, without the task's."""
    return task.config.sweep.name.removesuffix(f"-{task.name}")


def make(tasks: list[FleetTask], fetching: bool) -> FleetPlan:
    """The plan of each task. Where `fetching`, the base model is fetched first. Raises ConfigError
    for settings that cannot be used, InputError where no task's rows can.
    """
    name = name_of(tasks)
    if fetching:
        try:
            fetch.prepare(tasks[0].config.model)
        except (ValueError, RuntimeError) as error:
            raise InputError(str(error)) from error
    plans: dict[int, Plan] = {}
    refused: dict[int, str] = {}
    faults: dict[str, list[tuple[str, str]]] = {}
    short: dict[str, MinutesTooShort] = {}
    nodes = this_machine(tasks[0].config)
    for task in tasks:
        config = of_fleet(task)
        try:
            plan = champion_lookup.noted(planning.make(config, nodes))
        except MinutesTooShort as error:
            short[task.name] = error
            faults[task.name] = [] if task.share is not None else error.problems
        except ConfigError as error:
            faults[task.name] = error.problems
        except InputError as error:
            refused[task.number] = str(error)
        else:
            if plan.checks.refusal:  # which a dry run of a sweep by itself only tells
                refused[task.number] = plan.checks.refusal
            else:
                plans[task.number] = with_share_told(task, plan)
    problems = located(faults, [task.name for task in tasks]) + shared_minutes(tasks, short)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    fleet = FleetPlan(name, tasks, plans, refused)
    if not plans:
        raise InputError("\n".join(refusals(fleet)))
    # Without a timing no rate is remembered of a task: the packs train others beside it.
    resources = fleet.resources(fleet.num_trials)
    shared = {
        number: dataclasses.replace(plan, resources=resources, timing=None)
        for number, plan in plans.items()
    }
    return dataclasses.replace(fleet, plans=shared)


def of_fleet(task: FleetTask) -> Config:
    """A task's configuration with what the fleet decides of it. Its experiment is that of all
    tasks, so that their runs stand below the fleet's, and the same whatever tasks there are.
    """
    config = task.config
    tracking = config.tracking
    if tracking.experiment is None:
        experiment = f"{sweep_name(task)}-fleet-{config.model.name}"
        tracking = dataclasses.replace(tracking, experiment=experiment)
    sweep = dataclasses.replace(config.sweep, minutes=minutes_of(task))
    return changed(config, tracking=tracking, executor="pack", sweep=sweep)


def with_share_told(task: FleetTask, plan: Plan) -> Plan:
    """A task's plan whose notes say which part of the command's time is meant: its own minutes were
    never typed.
    """
    asked, own = task.config.sweep.minutes, plan.config.sweep.minutes
    if task.share is None or asked is None or own is None:
        return plan
    share = f"its share of {own:.2g} minutes of {MINUTES}={asked:g}"
    notes = [note.replace(f"{MINUTES}={own:g}", share) for note in plan.notes]
    return dataclasses.replace(plan, notes=notes)


def minutes_of(task: FleetTask) -> float | None:
    """How long a task's sweep may take, as if it were started by itself: its share of the command's
    time, and the start that all have in common.
    """
    minutes = task.config.sweep.minutes
    if minutes is None or task.share is None:
        return minutes
    start = (START_SECONDS + FIRST_STEP_SECONDS) / 60
    return max(minutes - start, 0.0) * task.share + start


def shared_minutes(
    tasks: list[FleetTask], short: Mapping[str, MinutesTooShort]
) -> list[tuple[str, str]]:
    """What is wrong with the command's time where the shares of some tasks are too short: how long
    it would have to be for the task that lacks most.
    """
    lacking = [task for task in tasks if task.share is not None and task.name in short]
    if not lacking:
        return []
    needed = {task.name: minutes_for(task, short[task.name].least_minutes) for task in lacking}
    most = max(lacking, key=lambda task: needed[task.name])
    text = (
        f"{most.config.sweep.minutes:g} is too short: the tasks share it by weight, which gives "
        f"{most.name} {minutes_of(most):.2g} of them, and there {short[most.name].needs}; the "
        f"smallest that works for all is {max(1, math.ceil(needed[most.name]))}"
    )
    return [(MINUTES, text)]


def minutes_for(task: FleetTask, minutes: float) -> float:
    """How long the command's time must be for a task's share to be so long; see minutes_of."""
    assert task.share is not None
    start = (START_SECONDS + FIRST_STEP_SECONDS) / 60
    return max(minutes - start, 0.0) / task.share + start


def check_room(fleet: FleetPlan) -> None:
    """Raise InputError where the checkpoints of all tasks would fill the disk."""
    needed = sum(
        disk_bytes(plan.config, plan.base, plan.num_runs)
        for plan in fleet.plans.values()
        if plan.base is not None
    )
    storage = fleet.config.storage
    free = free_bytes(str(storage_folder(storage)))
    if free is not None and free < needed:
        raise InputError(
            f"storage {storage}: {size(free)} free, and the trials of {len(fleet.plans)} tasks may "
            f"leave {size(needed)} of checkpoints; free some space, or choose another one: "
            "storage=FOLDER"
        )


def refusals(fleet: FleetPlan) -> list[str]:
    """What is wrong with the rows of each task that is left out."""
    names = {task.number: task.name for task in fleet.tasks}
    return [f"{PATH}.{names[number]}: {reason}" for number, reason in fleet.refused.items()]


def text(fleet: FleetPlan) -> str:
    """The plan, a few lines for each task."""
    plans = fleet.plans
    first = next(iter(plans.values()))
    resources = first.resources
    packs = "one pack" if resources.packs == 1 else f"{resources.packs} packs"
    lines = [
        (
            "fleet",
            f"{fleet.name}: {plural(len(plans), 'task')}, {plural(fleet.num_trials, 'trial')}, at "
            f"most {resources.concurrent} at a time in {packs} over {first.config.model.name}",
        )
    ]
    for task in fleet.tasks:
        plan = plans.get(task.number)
        if plan is not None:
            lines += task_lines(task, plan)
    for task in fleet.tasks:
        plan = plans.get(task.number)
        if plan is not None and plan.shipping is not None:
            told = plan.shipping.lines(plan.num_test)
            lines += [(label, f"{task.name}: {line}") for label, line in told]
    if first.machine is not None:
        lines.append(("machine", first.machine))
    lines += [
        ("sizes", f"{task.name}: {plans[task.number].sizes}")
        for task in fleet.tasks
        if task.number in plans and plans[task.number].sizes is not None
    ]
    lines += [("left out", reason) for reason in refusals(fleet)]
    notes = {task.name: plans[task.number].notes for task in fleet.tasks if task.number in plans}
    common = [note for note in first.notes if all(note in others for others in notes.values())]
    lines += [("note", note) for note in common]
    for name, own in notes.items():
        lines += [("note", f"{name}: {note}") for note in own if note not in common]
    seconds = fleet.seconds()
    if seconds is not None:
        lines.append(("time", f"about {duration(seconds)}, started once for all tasks"))
    return "\n".join(f"{label:<8} {line}" for label, line in lines)


def task_lines(task: FleetTask, plan: Plan) -> list[tuple[str, str]]:
    """What one task does."""
    config = plan.config
    rows = sum(share.rows for share in plan.sources.values())
    weight = "" if task.weight == 1 else f", weight {task.weight:g}"
    return [
        (
            "task",
            f"{task.name}: {plural(plan.num_trials, 'trial')} of {config.train.steps} steps on "
            f"{plural(rows, 'row')} ({plan.num_valid:,} valid, {plan.num_test:,} test), by "
            f"{config.sweep.metric}{weight}; sweep {plan.name}, model {config.registered_name}",
        )
    ]


def as_json(fleet: FleetPlan) -> JsonObject:
    """The plan for another program."""
    tasks: list[JsonObject] = []
    for task in fleet.tasks:
        plan = fleet.plans.get(task.number)
        if plan is None:
            tasks.append({"task": task.name, "error": fleet.refused[task.number]})
            continue
        tasks.append(
            {
                "task": task.name,
                "sweep": plan.name,
                "weight": task.weight,
                "trials": plan.num_trials,
                "steps": plan.config.train.steps,
                "metric": plan.config.sweep.metric,
                "model": plan.config.registered_name,
                "ships": None if plan.shipping is None else plan.shipping.record(),
                "notes": plan.notes,
            }
        )
    seconds = fleet.seconds()
    return {"plan": {"fleet": fleet.name, "tasks": tasks, "seconds": seconds}}
