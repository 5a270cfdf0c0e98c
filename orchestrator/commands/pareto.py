"""+sweep=pareto: the same sweep over several base models, one front over the files that their
winners ship as, and for each device the best file within its limits.

Each base is a sweep of its own, in a folder of its own, and goes on as any sweep does. All winners
are versions of one registered model, so that a device's alias can go to any of them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.base_models import fetch
from jobs.config import BaseModel
from jobs.files.json_types import JsonObject
from orchestrator import pipeline
from orchestrator.config import credentials
from orchestrator.config.compose import FREE_TEXT, as_yaml, choices, compose, typed_settings
from orchestrator.config.device_settings import Device
from orchestrator.config.settings import Config, changed
from orchestrator.config.shipping import formats_of
from orchestrator.config.validation import Check, build
from orchestrator.errors import ConfigError, InputError, OrchestratorError
from orchestrator.evaluation import device_preflight, pareto_result
from orchestrator.evaluation.device_limits import MeasuredFile
from orchestrator.evaluation.pareto_front import FrontFile
from orchestrator.evaluation.shipped_files import scores_of
from orchestrator.job_environment import mark_answer
from orchestrator.output import pareto_text
from orchestrator.output.heartbeat import print_line
from orchestrator.output.sweep_result import SweepResult
from orchestrator.plan import planner as planning
from orchestrator.plan.planner import Plan
from orchestrator.plan.shipping import ShippingPlan, shipping_plan
from orchestrator.report import pareto_page
from orchestrator.storage.json_files import write_json
from orchestrator.storage.locks import locked
from orchestrator.storage.paths import storage_folder


@dataclass(frozen=True)
class Part:
    """The sweep over one base."""

    base: str
    """As pareto.bases names it."""
    config: Config
    composed: str
    """The configuration as YAML."""
    overrides: list[str]
    """What runs this sweep alone, as typed."""


def run(config: Config, overrides: list[str], folder: str | None, checks: tuple[Check, ...]) -> int:
    """Do all sweeps and compare their files; returns the exit code."""
    named = next(
        (text for text in overrides if text.lstrip("+").startswith(("model=", "model."))), None
    )
    if named is not None:
        raise InputError(
            f"{named} has no effect: pareto.bases names the base models, "
            f"{', '.join(config.pareto.bases)}; leave it out"
        )
    parts = [part_of(config, base, overrides, folder, checks) for base in config.pareto.bases]
    twice = {part.config.model.name for part in parts}
    if len(twice) < len(parts):
        raise InputError(
            f"pareto.bases: two of {', '.join(config.pareto.bases)} have the same name; rename a "
            "folder"
        )
    if config.dry_run:
        return show_plan(config, parts)
    feasible, infeasible = sorted_out(config, parts, fetched=True)
    for name, why in infeasible.items():
        print_line(f"pareto  {name} is not trained: {why}")
    results: list[tuple[Part, SweepResult]] = []
    for number, part in enumerate(feasible, start=1):
        print_line(f"pareto  {part.config.model.name}, base {number} of {len(feasible)}")
        outcome = pipeline.result_of(part.config, part.composed, part.overrides)
        assert outcome is not None  # only a dry run has none
        results.append((part, outcome))
        if outcome.state != "finished":
            raise unfinished(part, outcome)
    return finish(config, results, infeasible)


def unfinished(part: Part, outcome: SweepResult) -> BaseException:
    """What ends the command where the sweep over a base was stopped, or has failed."""
    if outcome.state == "interrupted" and outcome.error is None:
        return KeyboardInterrupt()
    return OrchestratorError(
        f"{part.config.model.name}: {outcome.error or 'its sweep has failed'}; what is done is "
        "kept, and the same command continues"
    )


def part_of(
    config: Config,
    base: str,
    overrides: list[str],
    folder: str | None,
    checks: tuple[Check, ...],
) -> Part:
    """The sweep over one base. Raises ConfigError, with the base's name, for one that cannot be."""
    own = [*overrides, *model_settings(base, folder), "pareto.bases=[]"]
    minutes = config.sweep.minutes
    if minutes is not None and {"sweep.num_trials", "train.steps"} & set(config.left_open):
        own.append(f"sweep.minutes={minutes / len(config.pareto.bases):g}")
    if config.tracking.model is None:
        own.append(f"tracking.model={config.data.name}")
    try:
        raw = compose(own, folder, checks)
        single = build(raw, typed_settings(own), checks)
    except ConfigError as error:
        raise ConfigError(
            [(path, f"{text} (for {base})") for path, text in error.problems]
        ) from error
    shown = as_yaml(credentials.without_secrets(raw, FREE_TEXT))
    typed = [] if folder is None else ["--config-dir", folder]
    return Part(base, single, shown, [*typed, *(credentials.printable(text) for text in own)])


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
    config: Config, parts: Sequence[Part], fetched: bool
) -> tuple[list[Part], dict[str, str]]:
    """The sweeps whose files may be within some device's limits, each with the formats that may,
    and why the others are not run. `fetched` fetches bases that are not there yet. Raises
    ConfigError where none is left.
    """
    feasible: list[Part] = []
    infeasible: dict[str, str] = {}
    refusals: list[tuple[str, str]] = []
    for part in parts:
        try:
            shipping = shipping_of(part, fetched)
        except ConfigError as error:
            infeasible[part.config.model.name] = "; ".join(
                f"{path} {text}" for path, text in error.problems
            )
            refusals += error.problems
            continue
        feasible.append(dataclasses.replace(part, config=as_part(config, part.config, shipping)))
    if not feasible:
        raise ConfigError(list(dict.fromkeys(refusals)))
    return feasible, infeasible


def shipping_of(part: Part, fetched: bool) -> ShippingPlan | None:
    """The files that a base may ship as. Raises ConfigError where none can be small enough."""
    try:
        if fetched:
            base: BaseModel | None = fetch.prepare(part.config.model)
        else:
            base = fetch.locate(part.config.model)
    except (ValueError, RuntimeError) as error:
        raise InputError(str(error)) from error
    plan = shipping_plan(part.config, base)
    if base is None or not fetched:
        return plan
    return device_preflight.checked(part.config, base, plan, print_line)


def as_part(whole: Config, single: Config, shipping: ShippingPlan | None) -> Config:
    """The settings of one base's sweep: it makes the files, and who gets a device's alias is
    decided over those of all bases.
    """
    formats = formats_of(single) if shipping is None else list(shipping.formats)
    threads = {profile.limits.threads for profile in (shipping.profiles if shipping else ())}
    counts = sorted({*single.export.threads, *(count for count in threads if count is not None)})
    export = dataclasses.replace(single.export, format=formats, threads=counts)
    return changed(single, export=export, device=Device(), output=whole.output)


def show_plan(config: Config, parts: Sequence[Part]) -> int:
    """The plans of all bases on stdout."""
    feasible, infeasible = sorted_out(config, parts, fetched=False)
    plans: list[tuple[Plan, ShippingPlan | None]] = []
    by_base = {part.base: part for part in parts}
    for part in feasible:
        plans.append((planning.make(part.config), shipping_of(by_base[part.base], False)))
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
