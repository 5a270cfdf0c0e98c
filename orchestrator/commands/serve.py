"""An OpenAI-compatible endpoint over exported files: job=serve model_uri=models:/NAME@champion, or
several adapters of one base: serve.models='{a: ..., b: ...}'.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from orchestrator.commands import export
from orchestrator.commands.predict import find, local_folder
from orchestrator.config.settings import Config, changed
from orchestrator.errors import InputError
from orchestrator.job_environment import mark_answer
from orchestrator.launch.shipping_checks import LOOPBACK

if TYPE_CHECKING:
    from jobs.endpoint.shipped_model import ShippedModel

ALONE, TOGETHER = "gguf-q8_0", "gguf-adapter"
"""In which form a version is served by itself, and as one of several over the same base."""


def run(config: Config) -> int:
    """Serve until Ctrl-C; returns the exit code."""
    if config.dry_run:
        named = dict(asked(config))
        text = ", ".join(f"{name or 'model'} ({uri})" for name, uri in named.items())
        export.show(
            config,
            {"plan": {"job": "serve", "models": list(named.values()), "port": config.serve.port}},
            f"plan    would serve {text} on {config.serve.host}:{config.serve.port}",
        )
        return 0
    listening = listen(config)
    try:
        models = shipped_models(config)
        from jobs.endpoint.app import Endpoint, serve
        from jobs.endpoint.shipped_model import one_runtime

        with one_runtime(models, config.serve.slots, config.serve.threads) as runtime:
            token = None if config.serve.token is None else unquote(config.serve.token)
            hosts = {*LOOPBACK, config.serve.host, *config.serve.allowed_hosts}
            announce(config, listening, models)
            with contextlib.suppress(KeyboardInterrupt):
                serve(Endpoint(models, runtime, hosts, token), listening)
    except (ValueError, RuntimeError) as error:
        raise InputError(str(error)) from error
    finally:
        listening.close()
    print("stopped", file=sys.stderr)
    return 0


def asked(config: Config) -> list[tuple[str | None, str]]:
    """Names and addresses of what is served; model_uri has its own name."""
    alone = [] if config.model_uri is None else [(None, config.model_uri)]
    return [*alone, *config.serve.models.items()]


def shipped_models(config: Config) -> list[ShippedModel]:
    """Everything that is served, exported where it is not yet. Raises InputError."""
    entries = asked(config)
    form = ALONE if len(entries) == 1 else TOGETHER
    models = [shipped_model(config, name, uri, form) for name, uri in entries]
    names = [model.name for model in models]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two models are called {twice}; serve.models gives them names")
    return models


def shipped_model(config: Config, name: str | None, uri: str, form: str) -> ShippedModel:
    """An export's folder or a file as it is; a version is exported first, unless that was done."""
    from jobs.endpoint.shipped_model import ShippedModel

    local = local_folder(uri)
    try:
        if local is not None and (local.suffix == ".gguf" or (local / export.REPORT).exists()):
            if not local.exists():
                raise InputError(f"model_uri {uri}: there is no such file")
            return ShippedModel(name or exported_name(local), local)
        folder, of_version = exported(config, uri, form)
        return ShippedModel(name or of_version, folder)
    except ValueError as error:
        raise InputError(f"model_uri {uri}: {error}") from error


def exported_name(place: Path) -> str:
    """What an export calls itself; of a file from elsewhere its own name."""
    report = (place.parent if place.suffix == ".gguf" else place) / export.REPORT
    if not report.exists():
        return place.stem
    with contextlib.suppress(ValueError, KeyError):
        return str(json.loads(report.read_text(encoding="utf-8"))["name"])
    return place.stem


def exported(config: Config, uri: str, form: str) -> tuple[Path, str]:
    """The folder of a version's export and its name. It is made anew where the version is another
    one by now.
    """
    from jobs.export.shipment import version_digest

    settings = dataclasses.replace(config.export, format=form, score=False, folder=None)
    config = changed(config, model_uri=uri, export=settings)
    _, version = export.registered(config)
    name = export.model_name(uri, version)
    target = export.target_folder(config, name, version)
    with tempfile.TemporaryDirectory(prefix="version-") as scratch:
        folder = find(config, Path(scratch))
        digest = version_digest(folder)
        if digest is None or report_of(target).get("version_digest") != digest:
            export.check_target(target)
            export.ship(config, folder, name, version, target)
    return target, name


def report_of(target: Path) -> dict[str, object]:
    """What an export's folder says of itself; nothing where it is none."""
    try:
        return dict(json.loads((target / export.REPORT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def listen(config: Config) -> socket.socket:
    """The socket, before anything large is loaded. Raises InputError for a port that is taken."""
    host = config.serve.host
    try:
        family = socket.getaddrinfo(host, config.serve.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, config.serve.port), family=family)
    except OSError as error:
        raise InputError(
            f"cannot listen on serve.host={host} serve.port={config.serve.port}: "
            f"{error.strerror or error}; serve.port=0 takes a free one"
        ) from error


def announce(config: Config, listening: socket.socket, models: list[ShippedModel]) -> None:
    """Where it answers, on stdout."""
    host = f"[{config.serve.host}]" if ":" in config.serve.host else config.serve.host
    address = f"http://{host}:{listening.getsockname()[1]}/v1"
    names = [model.name for model in models]
    mark_answer()
    if config.output == "json":
        print(json.dumps({"job": "serve", "address": address, "models": names}), flush=True)
    else:
        print(f"serve   {address} ({', '.join(names)}); Ctrl-C stops it", flush=True)
