"""`runs compare NAME NAME --serve`: the winners of two sweeps on one page of this machine, asked
the user's own questions.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.config import BaseModel
from jobs.export.formats import FORMATS
from orchestrator.config.shipping import DEFAULT_FORMAT
from orchestrator.errors import InputError
from orchestrator.evaluation.shipped_files import read_report
from orchestrator.evaluation.version_folder import check_version
from orchestrator.runs.local_storage import LocalRuns
from orchestrator.storage.json_files import read_sealed

if TYPE_CHECKING:
    from jobs.endpoint.shipped_model import ShippedModel

HOSTS = ("127.0.0.1", "localhost")
FOLDER = "side-by-side"
"""Below a sweep's folder: its winner as a file, where the sweep has not exported it."""


def serve(place: LocalRuns, names: list[str], port: int, as_json: bool) -> int:
    """Serve the page until Ctrl-C; returns the exit code. Raises InputError."""
    if names[0] == names[1]:
        raise InputError(f"compare takes two sweeps, got {names[0]} twice")
    listening = listen(port)
    try:
        models = [shipped_model(name, place.sweep(name)) for name in names]
        from jobs.endpoint.app import serve as answer
        from jobs.endpoint.shipped_model import one_runtime
        from jobs.endpoint.side_by_side import SideBySide

        with contextlib.ExitStack() as stack:
            runtimes = {
                model.name: stack.enter_context(one_runtime([model], 1, None)) for model in models
            }
            address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
            line = f"{' and '.join(names)} answer on {address}; Ctrl-C stops it"
            print(
                json.dumps({"address": address, "models": names}) if as_json else line, flush=True
            )
            with contextlib.suppress(KeyboardInterrupt):
                answer(SideBySide(models, runtimes, HOSTS), listening)
    except (ValueError, RuntimeError) as error:
        raise InputError(str(error)) from error
    finally:
        listening.close()
    print("stopped", file=sys.stderr)
    return 0


def listen(port: int) -> socket.socket:
    """The socket, before anything large is loaded. Raises InputError for a port that is taken."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot listen on --port {port}: {reason}; --port 0 takes a free one"
        ) from error


def shipped_model(name: str, folder: Path) -> ShippedModel:
    """A sweep's winner as a file that answers: the one that the sweep has exported, else one that
    is made here. Raises InputError for a sweep without a winner.
    """
    from jobs.endpoint.shipped_model import ShippedModel

    return ShippedModel(name, exported(folder) or made(name, folder))


def exported(folder: Path) -> Path | None:
    """The first GGUF file that the sweep has exported and that is still there."""
    for report in read_sealed(folder / "result.json").get("shipped") or []:
        place = Path(str(report.get("folder")))
        if str(report.get("file", "")).endswith(".gguf") and read_report(place):
            return place
    return None


def made(name: str, folder: Path) -> Path:
    """The winner as a file, made unless that was done. Raises InputError."""
    version = folder / "export"
    if not version.is_dir():
        raise InputError(f"{name} has no winner yet: its command has to end first")
    check_version(str(version), version)
    from jobs.export.shipment import Shipment, ShipmentSettings, version_digest

    target = folder / FOLDER / DEFAULT_FORMAT
    if read_report(target).get("version_digest") == version_digest(version):
        return target
    described = json.loads((version / "base.json").read_text(encoding="utf-8"))
    base = BaseModel(
        **{key: described[key] for key in ("name", "source", "id", "revision", "path")}
    )
    if not Path(base.path).is_dir():
        raise InputError(f"{name}: its base model is no longer in {base.path}")
    settings = ShipmentSettings(uri=name, name=name, score=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    Shipment(version, base, FORMATS[DEFAULT_FORMAT], settings).run(target)
    return target
