"""The run of a fleet in the tracking store, below which the runs of its tasks stand."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from orchestrator.errors import OrchestratorError
from orchestrator.fleet.fleet_plan import FleetPlan
from orchestrator.fleet.fleet_result import FleetResult
from orchestrator.output import result as sweep_texts
from orchestrator.report.delivery import ARTIFACT
from orchestrator.report.page import NAME
from orchestrator.storage.journal import Journal
from orchestrator.storage.locks import this_process
from orchestrator.tracking import provenance, shown_commands
from orchestrator.tracking.mlflow_store import MlflowStore
from orchestrator.tracking.outbox import OutboxWorker

HURRIED_SECONDS = 3.0
"""How long an interrupted command waits for a slow store; the next start writes the rest."""


class ParentRun:
    """Tells the tracking store of the fleet as a whole, by way of a journal of its own."""

    def __init__(
        self, folder: Path, fleet: FleetPlan, store: MlflowStore, overrides: list[str]
    ) -> None:
        self.store, self.fleet = store, fleet
        self.journal = Journal(folder)
        config = next(iter(fleet.plans.values())).config
        self.patience = config.tracking.patience_seconds
        self.journal.append(
            "sweep",
            by=this_process(),
            name=fleet.name,
            params={f"task.{task.name}": task.config.registered_name for task in fleet.tasks},
            tags=provenance.tags(config) | {"fleet": fleet.name},
            command=shown_commands.orchestrator(shown_commands.without_secrets(overrides), ""),
        )
        self.writer = OutboxWorker(lambda: store, folder)
        self.writer.start()

    def run_id(self) -> str | None:
        """The run, once the store has it."""
        self.writer.wake()
        return self.writer.run_id(None)

    def close(self, result: FleetResult) -> str | None:
        """Tell what came out; returns what the store lacks after it was given time, in words."""
        metrics = {}
        tags = {}
        for row in result.tasks:
            for name, value in (
                ("base", row.base),
                ("baseline", row.baseline),
                ("tuned", row.score),
                ("tuned_low", row.low),
                ("tuned_high", row.high),
            ):
                if value is not None:
                    metrics[f"{row.task}/{name}"] = value
            tags[f"task.{row.task}"] = row.model or f"{row.state}: {row.error or ''}"[:4000]
        with contextlib.suppress(OSError):
            self.journal.append("metrics", trial=None, metrics=metrics)
            self.journal.append("tags", trial=None, tags=tags)
            self.journal.append("sweep_end", state=result.state, error=None, metrics={})
        hurried = result.state == "interrupted"
        left = self.writer.close(min(self.patience, HURRIED_SECONDS) if hurried else self.patience)
        return sweep_texts.unfinished(
            left, self.writer.error, self.writer.num_refused, self.writer.refused_file
        )

    def keep(self, file: Path) -> None:
        """Put the fleet's page among the artifacts of its run, where the store takes it."""
        run_id = self.writer.run_id(None)
        if run_id is None:
            return
        with (
            contextlib.suppress(OrchestratorError, OSError),
            tempfile.TemporaryDirectory(prefix="report-") as draft,
        ):
            shutil.copyfile(file, Path(draft) / NAME)
            self.store.log_artifacts(run_id, Path(draft), ARTIFACT)
