"""Answering one prompt with a registered model: job=predict model_uri=models:/NAME@champion
prompt="...".
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.data.task_prompt import from_messages
from jobs.files.json_types import JsonObject
from orchestrator.config.credentials import mask
from orchestrator.config.settings import Config
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.evaluation.version_folder import check_version, find_base
from orchestrator.job_environment import mark_answer
from orchestrator.output import console
from orchestrator.output.heartbeat import Heartbeat, waiting
from orchestrator.storage.paths import storage_folder
from orchestrator.tracking import mlflow_store
from orchestrator.tracking.uri import sqlite_uri

if TYPE_CHECKING:
    from jobs.data.task_prompt import AskedPrompt


def run(config: Config) -> int:
    """Print the model's answer, or with dry_run=true what would be asked, on stdout; returns the
    exit code.
    """
    assert config.model_uri is not None and (
        config.prompt is not None or config.messages is not None
    )
    note = None
    with Heartbeat(waiting(f"predict loading {mask(config.model_uri)}")):
        if config.dry_run:
            record, line = plan(config)
        else:
            record, line, note = ask(config)
    if note is not None:
        console.note(note)
    mark_answer()
    print(json.dumps(record, ensure_ascii=False) if config.output == "json" else line)
    return 0


def plan(config: Config) -> tuple[JsonObject, str]:
    """What would be asked, as a record and as a line. Fetches and loads nothing, and asks no
    server.
    """
    local = local_folder(config.model_uri or "")
    source = mask(store_address(config)) if local is None else str(local)
    if local is not None:
        check_version(config.model_uri or "", local)
    record = {"job": "predict", "model_uri": config.model_uri, **asked(config), "from": source}
    where = f"in {source}" if local is not None else f"of {source}"
    (question,) = asked(config).values()
    return {
        "plan": record
    }, f"plan    would ask {config.model_uri} {where}: {json.dumps(question, ensure_ascii=False)}"


def asked(config: Config) -> JsonObject:
    """What is asked, as plain values. Raises InputError for a conversation that cannot be read."""
    if config.messages is None:
        return {"prompt": config.prompt}
    try:
        from_messages(config.messages, {})
    except ValueError as error:
        raise InputError(str(error)) from error
    return {"messages": json.loads(config.messages)}


def ask(config: Config) -> tuple[JsonObject, str, str | None]:
    """The model's answer as a record and as text, and a note where the prompt was cut. Raises
    InputError for a model that cannot be used.
    """
    question = asked(config)
    prompts: list[AskedPrompt] = []
    with tempfile.TemporaryDirectory(prefix="version-") as scratch:
        folder = find(config, Path(scratch))
        try:
            from jobs.serving.predict import predict

            base = find_base(config, folder)
            answered = predict(base, folder, config.prompt, config.messages, prompts.append)
        except MemoryError as error:
            raise OrchestratorError(str(error)) from error
        except (ValueError, RuntimeError) as error:
            raise InputError(f"model_uri {config.model_uri}: {error}") from error
    (prompt,) = prompts
    record = {**question, "answer": answered}
    if prompt.cut_note is not None:
        record["prompt_cut"] = {"tokens": prompt.num_tokens, "read": len(prompt.ids)}
    return record, answered, prompt.cut_note


def find(config: Config, scratch: Path) -> Path:
    """The version's folder: a local one, or fetched from the tracking store. Raises InputError."""
    uri = config.model_uri or ""
    folder = local_folder(uri)
    if folder is None:
        artifacts = storage_folder(config.storage) / "artifacts"
        folder = mlflow_store.connect(
            store_address(config), config.tracking.experiment, artifacts
        ).download(uri, scratch)
    check_version(uri, folder)
    return folder


def local_folder(uri: str) -> Path | None:
    """The folder that a model_uri names, None for one that the tracking store resolves."""
    return (
        None
        if "://" in uri or uri.startswith(("models:", "runs:"))
        else Path(os.path.expanduser(uri))
    )


def store_address(config: Config) -> str:
    """Where registered models are looked for. Raises InputError when nothing can have been
    registered yet.
    """
    default = storage_folder(config.storage) / "mlflow.db"
    if config.tracking.uri is None and not default.exists():
        raise InputError(
            f"model_uri {config.model_uri}: nothing was trained yet in storage {config.storage} "
            f"({default} does not exist)"
        )
    return config.tracking.uri or sqlite_uri(default)
