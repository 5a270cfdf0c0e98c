"""+sweep=pareto: the same sweep over several base models, one front over the files that their
winners ship as, and for each device the best file within its limits.

Each base is a sweep of its own, in a folder of its own, and goes on as any sweep does. All winners
are versions of one registered model, so that a device's alias can go to any of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.base_models import fetch
from jobs.config import BaseModel
from jobs.files.json_types import JsonObject
from orchestrator.commands.pareto_budget import check_budgets, why_unpaid
from orchestrator.config.chosen_files import written_settings
from orchestrator.config.compose import choices, compose, typed_settings
from orchestrator.config.device_settings import LIMITS
from orchestrator.config.settings import Config
from orchestrator.config.validation import Check, build
from orchestrator.errors import ConfigError, InputError, OrchestratorError
from orchestrator.evaluation import device_preflight, pareto_result
from orchestrator.evaluation.device_limits import MeasuredFile
from orchestrator.evaluation.pareto_front import FrontFile
from orchestrator.evaluation.shipped_files import scores_of
from orchestrator.job_environment import mark_answer
from orchestrator.output import pareto_text, result
from orchestrator.output.heartbeat import print_line
from orchestrator.output.sweep_result import SweepResult
from orchestrator.plan import planner as planning
from orchestrator.plan.planner import Plan
from orchestrator.plan.shipping import ShippingPlan, shipping_plan
from orchestrator.process import interruption
from orchestrator.project import ROOT
from orchestrator.report import pareto_page
from orchestrator.storage.json_files import read_sealed, write_json
from orchestrator.storage.locks import locked
from orchestrator.storage.paths import storage_folder, sweep_folder

RESULT = "result.json"
PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux."""


@dataclass(frozen=True)
class Part:
    """The sweep over one base."""

    base: str
    """As pareto.bases names it."""
    config: Config
    overrides: list[str]
    """What runs this sweep alone, as typed."""


@dataclass(frozen=True)
class Command:
    """What was typed."""

    config: Config
    overrides: list[str]
    folder: str | None
    """Of --config-dir."""
    checks: tuple[Check, ...]

    def part(self, base: str, *further: str) -> Part:
        """The sweep over one base. Raises ConfigError, with the base's name, for one that cannot
        be.
        """
        config = self.config
        own = [*self.overrides, *model_settings(base, self.folder), "pareto.bases=[]"]
        minutes = config.sweep.minutes
        if minutes is not None and {"sweep.num_trials", "train.steps"} & set(config.left_open):
            own.append(f"sweep.minutes={minutes / len(config.pareto.bases):g}")
        own += [
            f"budget.{name}={limit / len(config.pareto.bases):g}"
            for name, limit in config.budget.amounts().items()
        ]
        if config.tracking.model is None:
            own.append(f"tracking.model={config.data.name}")
        own += further
        try:
            raw = compose(own, self.folder, self.checks)
            written = written_settings(own, self.folder)
            single = build(raw, typed_settings(own), self.checks, written)
        except ConfigError as error:
            problems = [(path, f"{text} (for {base})") for path, text in error.problems]
            raise ConfigError(problems) from error
        return Part(base, single, own)


def run(config: Config, overrides: list[str], folder: str | None, checks: tuple[Check, ...]) -> int:
    """Do all sweeps and compare their files; returns the exit code."""
    typed = [text for text in overrides if text.lstrip("+").startswith(("model=", "model."))]
    if typed:
        raise InputError(
            f"{typed[0]} has no effect: pareto.bases names the base models, "
            f"{', '.join(config.pareto.bases)}; leave it out"
        )
    command = Command(config, overrides, folder, checks)
    parts = [command.part(base) for base in config.pareto.bases]
    if len({part.config.model.name for part in parts}) < len(parts):
        raise InputError(
            f"pareto.bases: two of {', '.join(config.pareto.bases)} have the same name; rename a "
            "folder"
        )
    shippings, infeasible = sorted_out(parts, fetched=not config.dry_run)
    feasible = [command.part(base, *settled(shippings[base], config)) for base in shippings]
    if config.dry_run:
        return show_plan(config, feasible, shippings, infeasible)
    for name, why in infeasible.items():
        print_line(f"pareto  {name} is not trained: {why}")
    return finish(config, results_of(feasible, infeasible, folder), infeasible)


def results_of(
    parts: Sequence[Part], infeasible: dict[str, str], folder: str | None
) -> list[tuple[Part, SweepResult]]:
    """What came of the bases' sweeps, one after the other. Those that the budget has left nothing
    for come into `infeasible`. Raises OrchestratorError where none has a result.
    """
    check_budgets({part.config.model.name: part.config for part in parts})
    results: list[tuple[Part, SweepResult]] = []
    unpaid: list[str] = []
    for number, part in enumerate(parts, start=1):
        name = part.config.model.name
        why = why_unpaid(part.config) if part.config.cluster.kind == "local" else None
        if why is None:
            print_line(f"pareto  {name}, base {number} of {len(parts)}")
            try:
                results.append((part, result_of(part, folder)))
                continue
            except OrchestratorError as error:
                why = why_unpaid(part.config)
                if why is None:
                    raise
                print_line(f"pareto  {error}")
        print_line(f"pareto  {name} is not compared: {why}")
        infeasible[name] = why
        unpaid.append(f"{name}: {why}")
    if not results:
        raise OrchestratorError("; ".join(unpaid))
    return results


def settled(shipping: ShippingPlan, config: Config) -> list[str]:
    """The settings of a base's sweep: it makes the files that some device may take, and who gets a
    device's alias is decided over those of all bases.
    """
    named = {profile.limits.threads for profile in shipping.profiles}
    counts = [count for count in named if count is not None]
    settings = [f"export.format=[{','.join(shipping.formats)}]", "device.profiles={}"]
    settings += [f"device.{name}=null" for name in (*LIMITS, "threads", "name")]
    if counts:
        threads = ",".join(map(str, sorted({*config.export.threads, *counts})))
        settings.append(f"export.threads=[{threads}]")
    return settings


def result_of(part: Part, folder: str | None) -> SweepResult:
    """What came of a base's sweep, which runs in a process of its own: a Ray that has ended leaves
    things behind in the process that it was started from. Raises OrchestratorError where it did not
    finish.
    """
    once = ["output=json"]
    line = [sys.executable, "-m", "orchestrator"]
    line += ["--config-dir", folder] if folder is not None else []
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    }
    with (
        interruption.armed(),
        subprocess.Popen(
            [*line, *part.overrides, *once],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=end_with_parent,
        ) as process,
    ):
        try:
            out, _ = process.communicate()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)  # Ctrl-C has reached it already: one wish
            process.communicate()
            raise
    if process.returncode == 130:
        raise KeyboardInterrupt
    told = last_object(out)
    name = part.config.model.name
    if process.returncode != 0 or "sweep" not in told:
        error = told.get("error") or f"its command has ended with exit code {process.returncode}"
        kind = InputError if process.returncode == 2 else OrchestratorError
        raise kind(f"{name}: {error}; what is done is kept, and the same command continues")
    outcome = result.read(read_sealed(sweep_folder(part.config.storage, told["sweep"]) / RESULT))
    if outcome is None:
        raise OrchestratorError(f"{name}: the result of {told['sweep']} cannot be read")
    return outcome


def end_with_parent() -> None:
    """Have a process that was just started stop gently when this one is killed (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)


def last_object(text: str) -> JsonObject:
    """The object on the last line of an output; empty where there is none."""
    with contextlib.suppress(IndexError, ValueError, TypeError):
        return dict(json.loads(text.strip().splitlines()[-1]))
    return {}


def model_settings(base: str, folder: str | None) -> list[str]:
    """What names a base on the command line. Raises InputError for what is neither a choice nor a
    folder.
    """
    if base in choices(folder)["model"]:
        return [f"model={base}"]
    if Path(base).expanduser().is_dir():
        return ["model=path", f"model.path={base}"]
    raise InputError(
        f'pareto.bases: "{base}" is neither one of {", ".join(choices(folder)["model"])} nor a '
        "folder"
    )


def sorted_out(
    parts: Sequence[Part], fetched: bool
) -> tuple[dict[str, ShippingPlan], dict[str, str]]:
    """By base the files that may be within some device's limits, and why other bases are not
    trained. `fetched` fetches bases that are not there yet, and measures what they cost. Raises
    ConfigError where none is left.
    """
    shippings: dict[str, ShippingPlan] = {}
    infeasible: dict[str, str] = {}
    refusals: list[tuple[str, str]] = []
    for part in parts:
        try:
            shippings[part.base] = shipping_of(part, fetched)
        except ConfigError as error:
            told = [f"{path} {text}" for path, text in error.problems]
            infeasible[part.config.model.name] = "; ".join(told)
            refusals += error.problems
    if not shippings:
        raise ConfigError(list(dict.fromkeys(refusals)))
    return shippings, infeasible


def shipping_of(part: Part, fetched: bool) -> ShippingPlan:
    """The files that a base may ship as. Raises ConfigError where none can be small enough."""
    try:
        if fetched:
            base: BaseModel | None = fetch.prepare(part.config.model)
        else:
            base = fetch.locate(part.config.model)
    except (ValueError, RuntimeError) as error:
        raise InputError(str(error)) from error
    plan = shipping_plan(part.config, base)
    if plan is None:
        raise InputError(
            "pareto.bases compares files, and none is asked for: add export.format=gguf-q8_0"
        )
    if base is None or not fetched:
        return plan
    checked = device_preflight.checked(part.config, base, plan, print_line)
    assert checked is not None
    return checked


def show_plan(
    config: Config,
    parts: Sequence[Part],
    shippings: dict[str, ShippingPlan],
    infeasible: dict[str, str],
) -> int:
    """The plans of all bases on stdout."""
    plans = [(planning.make(part.config), shippings[part.base]) for part in parts]
    mark_answer()
    as_text = pareto_text.plan_json if config.output == "json" else pareto_text.plan_text
    print(as_text(plans, infeasible), flush=True)
    return 0


def finish(
    config: Config, results: Sequence[tuple[Part, SweepResult]], infeasible: dict[str, str]
) -> int:
    """Compare the files of all bases, move the aliases, and tell of it; returns the exit code."""
    first = results[0][0].config
    plan = planning.make(first)
    files = [
        FrontFile(part.config.model.name, str(report["version"]), measured(report, plan))
        for part, outcome in results
        for report in outcome.shipped
        if "refused" not in report
    ]
    name = pareto_result.name_of(config.sweep.name, [outcome.sweep for _, outcome in results])
    with locked(config.storage):
        found = pareto_result.compare(
            plan, config.device, files, [outcome for _, outcome in results], name
        )
    record: JsonObject = {
        "version": 1,
        "pareto": name,
        "sweeps": {part.config.model.name: outcome.sweep for part, outcome in results},
        "not_trained": infeasible,
        "not_made": not_made(results),
        **found,
    }
    folder = storage_folder(config.storage) / "pareto" / name
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "front.json", record)
    record["report"] = str(pareto_page.write(folder, record))
    mark_answer()
    print(
        json.dumps(record) if config.output == "json" else pareto_text.result_text(record),
        flush=True,
    )
    return 0


def measured(report: JsonObject, plan: Plan) -> MeasuredFile:
    """A file of a base's sweep."""
    return MeasuredFile(str(report["format"]), report, scores_of(report, plan.digests["test"]))


def not_made(results: Sequence[tuple[Part, SweepResult]]) -> dict[str, Any]:
    """The files that a base does not ship as, with the reason."""
    return {
        f"{part.config.model.name} {report['format']}": report["refused"]
        for part, outcome in results
        for report in outcome.shipped
        if "refused" in report
    }
