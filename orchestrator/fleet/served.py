"""Which models of a fleet are served: those that have the champion's alias."""

from __future__ import annotations

import dataclasses

from orchestrator.config.fleet import FleetTask
from orchestrator.config.settings import Config, changed
from orchestrator.errors import InputError
from orchestrator.evaluation import champion_lookup
from orchestrator.output import console

START, END = "models:/", "@champion"


def served(tasks: list[FleetTask]) -> Config:
    """The configuration with the models of all tasks that can be served; of others it is said what
    they lack. Raises InputError where there is none, TrackingError where the store does not answer.
    """
    config = tasks[0].config
    address = champion_lookup.store_address(config)
    asked: dict[str, str] = {}
    for task in tasks:
        asked |= task.config.serve.models
    models = {}
    for name, uri in asked.items():
        registered = uri.removeprefix(START).removesuffix(END)
        if uri != f"{START}{registered}{END}" or champion_lookup.champion(address, registered):
            models[name] = uri
            continue
        console.note(
            f"{name} is not served: no version of {registered} has the alias champion; "
            f"job=promote model_uri=models:/{registered}/VERSION gives it to one"
        )
    if not models:
        raise InputError(
            "no task of this fleet has a champion to serve; the same command without job=serve "
            "tunes them"
        )
    return changed(config, serve=dataclasses.replace(config.serve, models=models))
