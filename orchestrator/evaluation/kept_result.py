"""Whether what a kept result says is still true of the tracking store: someone may have deleted or
moved things meanwhile.

What is gone is made again, from the sweep's own files; an alias that someone has moved stays where
they put it, and the result says so.
"""

from __future__ import annotations

from typing import Any

from orchestrator.tracking.model_versions import CHAMPION


def missing(store: Any, kept: dict[str, Any]) -> str | None:
    """Why the end of the sweep has to be done again: what the store lacks of the result. None where
    it is all there.
    """
    best, model = kept["best"], kept["model"]
    if model is None or not best or not best.get("run_id"):
        return "its winner was never registered"
    if not store.has_run(best["run_id"]):
        return f"MLflow no longer has the run of trial {best['trial']}"
    found = store.version(model["name"], model["version"])
    if found is None:
        return f"MLflow no longer has {model['uri']}"
    if found.run_id != best["run_id"]:  # deleted and registered anew: the numbers begin again
        return f"{model['uri']} is another model now"
    if not store.holds(model["uri"]):
        return f"the files of {model['uri']} are gone"
    return None


def renew(store: Any, kept: dict[str, Any]) -> bool:
    """Bring what the result says of the champion's alias up to date; returns whether it had to
    be.
    """
    model = kept["model"]
    champion = store.champion(model["name"])
    held = champion is not None and champion.version == model["version"]
    if held == (model["alias"] == CHAMPION) and not kept.get("moved"):
        return False
    before = model["alias"], kept["decision"]
    if held:
        kept["decision"] = f"it was given the alias {CHAMPION} since"
    elif champion is not None:
        kept["decision"] = f"the alias {CHAMPION} is at v{champion.version} now"
    else:
        remedy = f"MLflow's page of {model['uri']} can give it back"
        kept["decision"] = (
            f"the alias {CHAMPION} was taken away since, and no version has it; {remedy}"
        )
    model["alias"] = CHAMPION if held else None
    kept["moved"] = True  # from now on what is told is where the alias is, not what was decided
    return before != (model["alias"], kept["decision"])


def unchecked(kept: dict[str, Any], reason: str) -> None:
    """Mark a result whose store does not answer: what it says of the registered model is of
    earlier.
    """
    model = kept["model"]
    kept["unchecked"] = (
        f"this is what the sweep has found; whether MLflow still has it so is not known: {reason}"
    )
    if model is not None and model["alias"]:
        kept["decision"] = f"it took the alias {model['alias']} then"
        kept["model"] = model | {"alias": None}
