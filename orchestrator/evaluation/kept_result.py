"""Whether what a kept result says is still true of the tracking store: someone may have deleted or
moved things meanwhile.

What is gone is made again, from the sweep's own files; an alias that someone has moved stays where
they put it, and the result says so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from jobs.files.json_types import JsonObject
from orchestrator.output.sweep_result import SweepResult
from orchestrator.tracking.mlflow_store import MlflowStore
from orchestrator.tracking.model_versions import CHAMPION


def missing(store: MlflowStore, result: SweepResult) -> str | None:
    """Why the end of the sweep has to be done again: what the store lacks of the result. None where
    it is all there.
    """
    best, model = result.best, result.model
    if model is None or best is None or not best.run_id:
        return "its winner was never registered"
    if not store.has_run(best.run_id):
        return f"MLflow no longer has the run of trial {best.trial}"
    registered = store.version(model.name, model.version)
    if registered is None:
        return f"MLflow no longer has {model.uri}"
    if registered.run_id != best.run_id:  # deleted and registered anew: the numbers begin again
        return f"{model.uri} is another model now"
    if not store.holds(model.uri):
        return f"the files of {model.uri} are gone"
    for shipped in result.shipped:
        folder = shipped.get("folder")
        if folder is not None and not (Path(str(folder)) / str(shipped["file"])).exists():
            return f"{shipped['file']} is no longer in {folder}"
    return None


def renew(store: MlflowStore, result: SweepResult) -> bool:
    """Bring what the result says of the aliases up to date; returns whether it had to be."""
    devices = [renewed(store, result, told) for told in result.devices]
    moved = devices != result.devices
    result.devices = devices
    return renew_champion(store, result) or moved


def renewed(store: MlflowStore, result: SweepResult, told: JsonObject) -> JsonObject:
    """What the result says of a device's alias, as it is now."""
    name = None if result.model is None else result.model.name
    if name is None or told.get("model") is None:
        return told
    holder = store.aliased(name, str(told["alias"]))
    holds = holder is not None and holder.uri == told["model"]
    if holds == told["holds"]:
        return told
    reason = f"it was given the alias {told['alias']} since"
    if not holds:
        where = "no version has it" if holder is None else f"it is at v{holder.version}"
        reason = f"the alias {told['alias']} was moved since: {where} now"
    return told | {"holds": holds, "reason": reason, "reasons": []}


def renew_champion(store: MlflowStore, result: SweepResult) -> bool:
    """The same of the champion's alias."""
    model = result.model
    if model is None:
        return False
    champion = store.champion(model.name)
    has_alias = champion is not None and champion.version == model.version
    if has_alias == (model.alias == CHAMPION) and not result.moved:
        return False
    before = model.alias, result.decision
    if has_alias:
        result.decision = f"it was given the alias {CHAMPION} since"
    elif champion is not None:
        result.decision = f"the alias {CHAMPION} is at v{champion.version} now"
    else:
        remedy = f"MLflow's page of {model.uri} can give it back"
        result.decision = (
            f"the alias {CHAMPION} was taken away since, and no version has it; {remedy}"
        )
    result.reasons = []
    model.alias = CHAMPION if has_alias else None
    result.moved = True  # from now on what is told is where the alias is, not what was decided
    return before != (model.alias, result.decision)


def unchecked(result: SweepResult, reason: str) -> None:
    """Mark a result whose store does not answer: what it says of the registered model is of
    earlier.
    """
    model = result.model
    result.unchecked = (
        f"this is what the sweep has found; whether MLflow still has it so is not known: {reason}"
    )
    if model is not None and model.alias:
        result.decision = f"it took the alias {model.alias} then"
        result.reasons = []
        result.model = replace(model, alias=None)
