"""The story of a fleet's command: plan, one Ray, the sweeps of all tasks in packs that they share,
one judgement after the other, a table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.commands import check, fetch_model, serve
from orchestrator.config import credentials
from orchestrator.config.compose import FREE_TEXT, as_yaml
from orchestrator.config.fleet import FleetTask
from orchestrator.errors import InputError
from orchestrator.evaluation import champion_lookup, device_preflight
from orchestrator.fleet import fleet_plan, fleet_result, page
from orchestrator.fleet.conductor import Conductor
from orchestrator.fleet.fleet_plan import FleetPlan
from orchestrator.fleet.fleet_result import FleetResult, TaskRow
from orchestrator.fleet.parent_run import ParentRun
from orchestrator.fleet.served import served
from orchestrator.fleet.task_command import TaskCommand
from orchestrator.job_environment import mark_answer
from orchestrator.launch import ray_local
from orchestrator.output import console
from orchestrator.output.heartbeat import Heartbeat, print_line, waiting
from orchestrator.plan import sizing
from orchestrator.process import interruption
from orchestrator.storage.json_files import write_sealed
from orchestrator.storage.locks import locked
from orchestrator.storage.paths import forget, storage_folder, sweep_folder
from orchestrator.tracking import mlflow_store, shown_commands, system_metrics

if TYPE_CHECKING:
    from orchestrator.sweep.fleet_tasks import TaskCallback
    from orchestrator.sweep.state import SweepState

BASELINE_SECONDS = 0.5
CODES = {"finished": 0, "interrupted": 130}
ENDING_SECONDS = 20.0
"""How long the tasks' threads may take to write down that they were interrupted."""


def run(tasks: list[FleetTask], overrides: list[str]) -> int:
    """Do what the configuration of these tasks says; returns the exit code."""
    config = tasks[0].config
    if config.job.kind == "check":
        return max(checked(task) for task in tasks)
    if config.job.kind == "setup":
        return fetch_model.run(config)
    if config.job.kind == "serve":
        return serve.run(served(tasks))
    if config.dry_run:
        fleet = fleet_plan.make(tasks, fetching=False)
        mark_answer()
        as_json = config.output == "json"
        print(json.dumps(fleet_plan.as_json(fleet)) if as_json else fleet_plan.text(fleet))
        return 2 if fleet.refused else 0
    with locked(config.storage):
        with Heartbeat(waiting("plan    being made")):
            fleet = fleet_plan.make(tasks, fetching=True)
        result = FleetCommand(fleet, overrides).run()
    mark_answer()
    programs = shown_commands.programs_here()
    if config.output == "json":
        print(json.dumps(result.as_json()), flush=True)
    else:
        print(fleet_result.text(result, programs), flush=True)
    return CODES.get(result.state, 1)


def checked(task: FleetTask) -> int:
    """What the checks say of one task's rows, whatever they say of the others'."""
    if task.config.output == "text":
        print(f"task    {task.name}", flush=True)
    try:
        return check.run(task.config)
    except InputError as error:
        console.error(f"{task.name}: {error}")
        return error.exit_code


class FleetCommand:
    """One run of one fleet."""

    def __init__(self, fleet: FleetPlan, overrides: list[str]) -> None:
        self.fleet = fleet
        self.overrides = overrides
        self.began = time.monotonic()
        self.config = next(iter(fleet.plans.values())).config
        self.folder = storage_folder(self.config.storage) / "fleets" / fleet.name
        self.uri = champion_lookup.store_address(self.config)
        self.conductor = Conductor(self.train)
        self.commands: dict[int, TaskCommand] = {}
        self.num_rounds = 0
        """Each has a coordinator of its own, under a name of its own."""

    def run(self) -> FleetResult:
        """Everything from the first connection to the written table."""
        fleet_plan.check_room(self.fleet)
        store = mlflow_store.connect(
            self.uri,
            self.config.tracking.experiment,
            storage_folder(self.config.storage) / "artifacts",
        )
        for task in self.fleet.tasks:
            if task.number in self.fleet.plans:
                self.commands[task.number] = self.command_of(task, store)
        self.check_devices()
        if self.config.fresh:
            for folder in (self.folder, *(command.folder for command in self.commands.values())):
                forget(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        print_line(fleet_plan.text(self.fleet))
        parent = ParentRun(self.folder, self.fleet, store, self.overrides)
        todo = []
        try:
            for command in self.commands.values():
                command.parent = parent.run_id
                if not command.finished_before():
                    todo.append(command)
            if todo:
                self.work(todo, parent)
        finally:
            shutil.rmtree(self.folder / "tune", ignore_errors=True)
            result = self.result()
            result.missing = parent.close(result)
            with contextlib.suppress(OSError):
                result.report = str(page.write_page(self.folder, result))
                parent.keep(Path(result.report))
            with contextlib.suppress(OSError):
                write_sealed(self.folder / "fleet.json", result.as_json())
        unforeseen = next((command.fault for command in todo if command.fault is not None), None)
        if unforeseen is not None:
            raise unforeseen
        return result

    def check_devices(self) -> None:
        """Measure what the base costs on a device for the tasks that are to be trained or judged,
        before anything trains beside that: their threads find it. Raises ConfigError for limits
        that no file of the base keeps.
        """
        for number, command in self.commands.items():
            plan = command.plan
            if plan.base is None or (not self.config.fresh and command.has_result()):
                continue
            ships = device_preflight.checked(plan.config, plan.base, plan.shipping, print_line)
            command.plan = dataclasses.replace(plan, shipping=ships)
            self.fleet.plans[number] = command.plan

    def command_of(self, task: FleetTask, store: mlflow_store.MlflowStore) -> TaskCommand:
        """The command of one task's sweep."""
        plan = self.fleet.plans[task.number]
        folder = sweep_folder(self.config.storage, plan.name)
        shown = as_yaml(credentials.without_secrets(task.raw, FREE_TEXT))
        composed = sizing.as_decided(shown, plan.config)
        return TaskCommand(task, composed, self.overrides, plan, folder, store)

    def work(self, todo: list[TaskCommand], parent: ParentRun) -> None:
        """Start Ray, and let each task's thread go through its sweep."""
        print_line("ray     starting")
        resources = self.fleet.resources(self.fleet.num_trials)
        threads = [
            threading.Thread(
                target=command.run_in,
                args=(self.conductor,),
                name=f"task-{command.task.name}",
                daemon=True,
            )
            for command in todo
        ]
        with (
            Heartbeat(self.status),
            ray_local.local(resources, self.end_at_once),
            system_metrics.recorded(parent.journal, self.config.tracking.system_metrics),
            interruption.gently(self.stop),
        ):
            for command in todo:
                self.conductor.begin(command.task.number)
            for thread in threads:
                thread.start()
            threading.Thread(target=self.begin_baselines, args=(todo,), daemon=True).start()
            try:
                self.conductor.conduct()
            finally:
                self.conductor.stopping = True
                deadline = time.monotonic() + ENDING_SECONDS
                for thread in threads:
                    thread.join(max(0.0, deadline - time.monotonic()))
                for command in todo:
                    command.baselines.close()

    def begin_baselines(self, commands: list[TaskCommand]) -> None:
        """Compute the baselines of all tasks while they train, one after the other."""
        for command in commands:
            if not self.conductor.stopping and not command.has_ended():
                command.baselines.begin()
            while command.baselines.busy():
                time.sleep(BASELINE_SECONDS)

    def train(self, sweep_states: Mapping[int, SweepState]) -> Mapping[int, TaskCallback]:
        """One round: the trials of all these sweeps."""
        from orchestrator.sweep.fleet_round import train_together

        weights = {task.number: task.weight for task in self.fleet.tasks}
        total = sum(sweep_state.total() for sweep_state in sweep_states.values())
        resources = self.fleet.resources(total, self.most_at_once())
        self.num_rounds += 1
        name = f"{self.fleet.name}-{self.num_rounds}"
        recorders = train_together(name, sweep_states, weights, resources, self.folder, print_line)
        for sweep_state in sweep_states.values():
            if sweep_state.pack_rejection is not None:
                sweep_state.abort_reason = sweep_state.abort_reason or (
                    f"{self.config.model.name} cannot be packed: {sweep_state.pack_rejection}; "
                    "a fleet trains in packs, and without data.tasks each task is tuned by itself"
                )
                sweep_state.pack_rejection = None
        return recorders

    def most_at_once(self) -> int | None:
        """How many trials the memory holds at most, as far as a task has found out or the user has
        said; see restart.py.
        """
        plans = [command.plan for command in self.commands.values()]
        limits = [plan.config.sweep.max_concurrent for plan in plans]
        return min((limit for limit in limits if limit is not None), default=None)

    def stop(self) -> None:
        """Let trials stop cleanly and keep what is done."""
        self.conductor.stop()
        print_line(
            "stopping: what is done is kept; to stop at once, press Ctrl-C again after "
            f"{interruption.SAME_WISH_SECONDS:g} s"
        )

    def status(self) -> str | None:
        """What goes on, in a line."""
        states = []
        for command in self.commands.values():
            said = None if command.screen is None else command.screen.status()
            if said is not None and self.conductor.states.get(command.task.number) != "over":
                states.append(f"{command.task.name}: {said}")
        return "; ".join(states) or None

    def end_at_once(self, lost: str) -> None:
        """End this process, whose Ray is gone, telling why."""
        asked = interruption.wish.asked
        for command in self.commands.values():
            if command.outcome is None:
                with contextlib.suppress(OSError):
                    command.journal.append(
                        "sweep_end",
                        state="interrupted" if asked else "failed",
                        error=None if asked else lost,
                    )
        console.error("interrupted; the same command continues" if asked else lost)
        os._exit(130 if asked else 1)

    def result(self) -> FleetResult:
        """What has come out so far."""
        rows = [self.row(task) for task in self.fleet.tasks]
        states = {row.state for row in rows}
        state = next(s for s in ("interrupted", "failed", "finished") if s in states)
        command = shown_commands.orchestrator(self.typed(), "")
        serving = None
        if sum(row.alias is not None for row in rows) > 0:
            serving = shown_commands.orchestrator([*self.typed(), "job=serve"], "")
        seconds = round(time.monotonic() - self.began, 1)
        address = shown_commands.bare(self.uri)
        return FleetResult(self.fleet.name, state, rows, seconds, address, command, serving)

    def typed(self) -> list[str]:
        """The settings as they were typed, but those of one run, and no secret."""
        return next(iter(self.commands.values())).about.typed()

    def row(self, task: FleetTask) -> TaskRow:
        """A task's row of the table."""
        if task.number in self.fleet.refused:
            return TaskRow(
                task.name, None, "failed", task.weight, error=self.fleet.refused[task.number]
            )
        command = self.commands[task.number]
        if command.outcome is None:
            state = "interrupted" if self.conductor.stopping and command.error is None else "failed"
            return TaskRow(task.name, command.plan.name, state, task.weight, error=command.why)
        return fleet_result.row_of(task.name, task.weight, command.outcome)
