"""Writing new training rows: job=synthesize. What is asked and what becomes a row is in
jobs/synthesis; here are the folder, the lock, what is printed, and what goes wrong in words.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jobs.base_models import fetch
from jobs.config import BaseModel, Model
from jobs.files.json_types import JsonObject
from jobs.synthesis.answer_journal import Journal, write_lines
from jobs.synthesis.chat_server import ChatServer, Gone
from jobs.synthesis.filters import RowFilters
from jobs.synthesis.synthesizer import Client, Outcome, Synthesizer
from jobs.synthesis_settings import Judge, Teacher
from orchestrator.commands import synthesis_report as report
from orchestrator.commands.synthesis_budget import SynthesisBudget, is_wider
from orchestrator.commands.synthesis_job import (
    Job,
    digest,
    first_ask,
    local_model,
    prepare,
    task_of,
)
from orchestrator.config import credentials
from orchestrator.config.settings import Config, changed
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.job_environment import mark_answer
from orchestrator.output import console
from orchestrator.process.interruption import armed
from orchestrator.storage.file_lock import Lock
from orchestrator.storage.json_files import read_object, write_json

PREVIEWED = 10
ROWS, MANIFEST = "train.jsonl", "manifest.json"
HIDDEN = ".synthesis"
"""What a folder keeps beside the rows: replies, what was rejected, which settings it belongs to."""


def run(config: Config, overrides: list[str], folder: str | None) -> int:
    """Make the rows, or with synthesis.preview=true ten of them, or with dry_run=true say what
    would be asked; `folder` is --config-dir. Returns the exit code.
    """
    job = prepare(config)
    for note in job.notes:
        console.note(note)
    if config.dry_run:
        first = first_ask(job)
        show(config, report.plan_record(job, first), report.plan_lines(job, first))
        return 0
    with armed(), ExitStack() as stack:
        if job.settings.preview:
            outcome = work(job, Journal(None), min(PREVIEWED, job.settings.rows), stack)
            show(config, report.preview_record(job, outcome), report.preview_lines(job, outcome))
            return 0
        return write(job, report.same_rows(overrides, folder), stack)


def client_of(
    job: Job, teacher: Teacher, setting: str, done: queue.Queue[Any], stack: ExitStack
) -> Client:
    """Who answers. Raises InputError for a key that is not there and a model that cannot be had."""
    if isinstance(teacher, Judge) and teacher.version is not None:
        return student_of(job, teacher.version, done, stack)
    if teacher.url is not None:
        server = ChatServer(teacher, key_of(teacher, setting), done, setting)
        stack.callback(server.close)
        return server
    base = fetched(local_model(job.config, teacher.model, f"{setting}.model"))
    from jobs.synthesis.local_model import LocalModel

    return LocalModel(base, teacher, done)


def student_of(job: Job, uri: str, done: queue.Queue[Any], stack: ExitStack) -> Client:
    """A registered version as the judge."""
    from jobs.synthesis.local_model import Student
    from orchestrator.commands.predict import find
    from orchestrator.evaluation.version_folder import find_base

    config = changed(job.config, model_uri=uri)
    scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="version-"))
    folder = find(config, Path(scratch))
    return Student(find_base(config, folder), folder, uri, done)


def key_of(teacher: Teacher, setting: str) -> str | None:
    """The server's key, which nothing prints from now on. Raises InputError."""
    if teacher.key is None:
        return None
    key = os.environ.get(teacher.key, "").strip()
    if not key:
        raise InputError(
            f"{setting}.key: the environment variable {teacher.key}, which is to hold the API key, "
            "is not set; set it, or leave the setting out where the server wants none"
        )
    credentials.remember(key)
    return key


def fetched(model: Model) -> BaseModel:
    """A base model on disk. Raises InputError."""
    try:
        return fetch.prepare(model)
    except (ValueError, RuntimeError) as error:
        raise InputError(str(error)) from error


def work(job: Job, journal: Journal, wanted: int, stack: ExitStack) -> Outcome:
    """Ask, and let rows through the filters."""
    synthesizer = synthesizer_of(job, journal, stack)
    try:
        return synthesizer.run(wanted)
    except Exception as error:
        raise as_printed(error, "") from error


def synthesizer_of(job: Job, journal: Journal, stack: ExitStack) -> Synthesizer:
    """All that makes rows, put together."""
    settings = job.settings
    done: queue.Queue[Any] = queue.Queue()
    teacher, judge = None, None
    if job.recipe.steps:
        teacher = client_of(job, settings.teacher, "synthesis.teacher", done, stack)
    if settings.judge is not None:
        judge = client_of(job, settings.judge, "synthesis.judge", done, stack)
    as_chat = any(use.startswith("sources.") for use in job.corpus.chats)
    filters = RowFilters(settings.filters, settings.recipe, job.seeds, job.corpus, as_chat)
    task = task_of(job.config)
    limits = SynthesisBudget(job)
    return Synthesizer(
        settings, job.recipe, filters, journal, task, done, teacher, judge, say, limits
    )


def as_printed(error: Exception, remedy: str) -> Exception:
    """What went wrong, as what the command line prints; `remedy` says what is kept."""
    if isinstance(error, Gone):
        return OrchestratorError(f"{error}{remedy}")
    if isinstance(error, ValueError):
        return InputError(f"{error}{remedy}")
    if isinstance(error, MemoryError):
        return OrchestratorError(f"{error}{remedy}")
    return error


def write(job: Job, same: list[str], stack: ExitStack) -> int:
    """The rows and the manifest in their folder; `same` is what report.same_rows tells."""
    folder = job.folder
    hidden = folder / HIDDEN
    check_folder(job, folder)
    try:
        hidden.mkdir(parents=True, exist_ok=True)
        lock = Lock(hidden / ".lock")
        if not lock.acquire():
            raise InputError(
                f"{folder} is being filled by another command; wait for it to end, or name another "
                "folder: synthesis.folder=FOLDER"
            )
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written: {error.strerror or error}; name another one: "
            "synthesis.folder=FOLDER"
        ) from error
    stack.callback(lock.release)
    if job.config.fresh:
        clear(folder)
    check_unchanged(folder)
    earlier = finished(job, folder)
    if earlier:
        show(job.config, earlier, report.result_lines(job, folder, earlier, same))
        return 0
    check_identity(job, hidden)
    (folder / MANIFEST).unlink(missing_ok=True)
    journal = Journal(hidden / "replies.jsonl")
    if journal.damaged:
        say(f"{journal.damaged:,} of the replies in {journal.file} cannot be read; asked for again")
    synthesizer = synthesizer_of(job, journal, stack)
    outcome = filled(synthesizer, job, folder)
    if not outcome.rows:
        raise OrchestratorError(report.nothing_text(job, folder, outcome))
    manifest = report.manifest(job, outcome, ROWS, file_digest(folder / ROWS))
    write_json(folder / MANIFEST, manifest)
    show(job.config, manifest, report.result_lines(job, folder, manifest, same))
    return 0


def filled(synthesizer: Synthesizer, job: Job, folder: Path) -> Outcome:
    """The outcome; the rows are written however it ends."""
    try:
        outcome = synthesizer.run(job.settings.rows)
    except BaseException as error:
        keep_rows(synthesizer, folder)
        if not isinstance(error, Exception):
            raise
        replies = len(synthesizer.journal.replies)
        progress = f"; {replies:,} replies and {len(synthesizer.rows):,} rows are kept in {folder}"
        raise as_printed(error, f"{progress}, and the same command continues") from error
    keep_rows(synthesizer, folder)
    return outcome


def keep_rows(synthesizer: Synthesizer, folder: Path) -> None:
    """Write what there is: rows, and what was rejected."""
    rejected: list[dict[str, object]] = list(synthesizer.rejected)
    write_lines(folder / HIDDEN / "rejected.jsonl", rejected)
    if synthesizer.rows:
        write_lines(folder / ROWS, list(synthesizer.rows))


def check_folder(job: Job, folder: Path) -> None:
    """Raise InputError for a folder with rows of somebody else's."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"synthesis.folder={folder} is a file; name a folder")
    foreign = folder / ROWS
    if foreign.exists() and not (folder / HIDDEN).is_dir():
        raise InputError(
            f"{foreign} was not written by job=synthesize, and would be lost; name another folder: "
            "synthesis.folder=FOLDER"
        )


def check_identity(job: Job, hidden: Path) -> None:
    """Raise InputError for a folder that holds replies to other requests."""
    decisive = json.loads(json.dumps(job.decisive))
    before = read_object(hidden / "settings.json")
    if before and before != decisive:
        names = sorted(
            name for name in {*before, *decisive} if before.get(name) != decisive.get(name)
        )
        raise InputError(
            f"{hidden.parent} holds rows of other settings ({', '.join(names)}); name another "
            "folder, synthesis.folder=FOLDER, or forget them: fresh=true"
        )
    write_json(hidden / "settings.json", decisive)


def check_unchanged(folder: Path) -> None:
    """Raise InputError for a finished file that somebody has changed since: it would be lost."""
    manifest = read_object(folder / MANIFEST)
    written = manifest.get("sha256")
    if written and file_digest(folder / ROWS) not in ("", written):
        raise InputError(
            f"{folder / ROWS} was changed since it was written, and would be lost; move it away, "
            "name another folder, synthesis.folder=FOLDER, or forget it: fresh=true"
        )


def finished(job: Job, folder: Path) -> JsonObject:
    """The manifest of the very same rows, empty where there is none or a file has changed since."""
    manifest = read_object(folder / MANIFEST)
    wanted = json.loads(json.dumps(job.wanted))
    same = manifest.get("identity") == digest(job.decisive) and manifest.get("wanted") == wanted
    if not same or is_wider(manifest, job) or file_digest(folder / ROWS) != manifest.get("sha256"):
        return {}
    return manifest


def clear(folder: Path) -> None:
    """Forget what an earlier command has left."""
    for file in (folder / ROWS, folder / MANIFEST):
        file.unlink(missing_ok=True)
    for file in (folder / HIDDEN).iterdir():
        if file.name != ".lock":
            file.unlink()


def file_digest(file: Path) -> str:
    """SHA-256 of a file, nothing where there is none."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def say(text: str) -> None:
    """A line of progress on stderr."""
    print(f"rows    {text}", file=sys.stderr, flush=True)


def show(config: Config, record: JsonObject, lines: list[str]) -> None:
    """The answer on stdout, without secrets."""
    mark_answer()
    text = json.dumps(record, ensure_ascii=False) if config.output == "json" else "\n".join(lines)
    print(credentials.mask(text))
