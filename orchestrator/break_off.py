"""A command that ends before its sweep does: what is written down and told of it."""

from __future__ import annotations

import contextlib

from jobs.files.storage_faults import told
from orchestrator.config.settings import Config
from orchestrator.errors import OrchestratorError
from orchestrator.output.heartbeat import print_line
from orchestrator.process import interruption
from orchestrator.report import delivery
from orchestrator.storage.journal import Journal
from orchestrator.tracking.outbox import OutboxWorker


def break_off(
    config: Config, journal: Journal, error: BaseException, writer: OutboxWorker
) -> BaseException:
    """Note in the journal why the command ends, leave a report, and close the writer; returns what
    is to be raised: an OrchestratorError for a fault of the storage, KeyboardInterrupt for a wish
    to stop, else the error itself.
    """
    fault = None
    numbered = isinstance(error, OSError) and error.errno is not None
    if numbered and not isinstance(error, ConnectionError):
        assert isinstance(error, OSError)
        fault = told(error, config.storage)
    stopped = interruption.is_stop(error)
    interrupted = stopped or fault is not None
    reason = fault or (None if interrupted else str(error))
    state = "interrupted" if interrupted else "failed"
    with contextlib.suppress(OSError):
        journal.append("sweep_end", state=state, error=reason)
    page = delivery.deliver_unfinished(journal.folder)
    if page is not None:
        print_line(f"report  {page}")
    writer.close(1 if interrupted else config.tracking.patience_seconds)
    if fault is not None:
        return OrchestratorError(fault)
    return KeyboardInterrupt() if stopped else error
