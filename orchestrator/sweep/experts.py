"""The experts of mix.method=merge: their training, as a small sweep of its own before the search,
and where they are kept.

They are no trials: they have a journal of their own below the sweep's folder, which is read only to
go on with those that were interrupted. What is trained lies in the storage, for all its sweeps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from jobs.config import BaseModel, Trial
from jobs.files import filesystem, manifest
from jobs.files.checkpoints import fetched, why_unreadable
from orchestrator.errors import OrchestratorError
from orchestrator.output.expert_progress import ExpertProgress
from orchestrator.output.progress import ProgressDisplay
from orchestrator.plan.merge import ExpertPlan, expert_config, expert_steps
from orchestrator.plan.planner import Plan
from orchestrator.plan.resources import divide
from orchestrator.storage.journal import Journal, Record
from orchestrator.sweep.merge_allowance import MergeAllowance
from orchestrator.sweep.state import SweepState

FOLDER = "experts"
ABOUT = "expert.json"


class ExpertState(SweepState):
    """The state of the experts' training: a sweep whose trials are known, and none is stopped."""

    def __init__(
        self,
        plan: Plan,
        base: BaseModel,
        folder: Path,
        screen: ProgressDisplay,
        common: Mapping[str, object],
        missing: list[ExpertPlan],
    ) -> None:
        """`folder` is the sweep's, `missing` are the experts to train."""
        assert plan.merge is not None
        numbers = {expert.digest: n for n, expert in enumerate(plan.merge.experts, start=1)}
        self.experts = {numbers[expert.digest]: expert for expert in missing}
        self.below = (FOLDER, key_of(plan))
        journal = Journal(folder.joinpath(*self.below))
        journal.folder.mkdir(parents=True, exist_ok=True)
        sources = {number: expert.source for number, expert in self.experts.items()}
        shown = ExpertProgress(screen, sources, expert_steps(plan.config))
        super().__init__(expert_phase(plan, len(missing)), base, journal, shown, common)
        self.steering.closed = True
        self.allowance = MergeAllowance(self, screen.spending)

    @property
    def most_kept(self) -> int:
        """All."""
        return len(self.experts)

    def trial(self, index: int) -> Trial:
        """An expert's settings, for it to start with."""
        point = self.experts[index].point
        self.records.setdefault(index, Record(index)).point = point
        return self.plan.trial_of(index, point)

    def belongs(self, index: int) -> bool:
        """Whether a number is one of the experts that are still to be trained."""
        return index in self.experts

    def extra_copies(self) -> list[int]:
        """None: nobody changes an expert."""
        return []

    def numbers(self) -> list[int]:
        """The experts by number, in the order in which they start."""
        return sorted(self.experts)

    def place(self, *names: str) -> str:
        """A place of the experts' training in the storage: a folder, or a URI."""
        if filesystem.is_uri(self.config.storage):
            return filesystem.join(
                self.config.storage, "sweeps", self.plan.name, *self.below, *names
            )
        return filesystem.join(str(self.journal.folder), *names)

    def failures(self) -> list[str]:
        """Why experts have failed, in words."""
        return [
            f"the expert of {expert.source} failed: {self.records[number].error}"
            for number, expert in self.experts.items()
            if number in self.records and self.records[number].state == "failed"
        ]

    def keep(self) -> None:
        """Keep the experts that are trained in the storage, and remove what their training has
        left. Raises OrchestratorError where one has no checkpoint.
        """
        for number, expert in self.experts.items():
            record = self.records.get(number)
            checkpoint = None if record is None else record.checkpoints.get(expert.steps)
            if checkpoint is None:
                raise OrchestratorError(
                    f"the expert of {expert.source} has not come to step {expert.steps}; the same "
                    "command trains it again"
                )
            keep(expert, fetched(checkpoint) / "model")
        filesystem.remove(self.place())
        shutil.rmtree(self.journal.folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # what another set of experts has left
            self.journal.folder.parent.rmdir()


def key_of(plan: Plan) -> str:
    """Names the experts of a sweep: others are trained apart."""
    assert plan.merge is not None
    digests = "".join(expert.digest for expert in plan.merge.experts)
    return hashlib.sha256(digests.encode()).hexdigest()[:12]


def expert_phase(plan: Plan, num_experts: int) -> Plan:
    """The plan of the experts' training."""
    executor = "pack" if plan.resources.packs else "plain"
    config = expert_config(plan.config)
    return dataclasses.replace(
        plan,
        config=config,
        num_trials=num_experts,
        resources=divide(config, num_experts, plan.resources.nodes, executor),
    )


def still_missing(plan: Plan, screen: ProgressDisplay) -> list[ExpertPlan]:
    """The experts that are not in the storage, or damaged there, which is told."""
    assert plan.merge is not None
    missing = []
    for expert in plan.merge.experts:
        if not filesystem.exists(filesystem.join(expert.place, manifest.NAME)):
            missing.append(expert)
            continue
        why = why_unreadable(expert.place)
        if why is not None:
            screen.note(
                f"the expert of {expert.source} in {expert.place} is damaged ({why}): it is "
                "trained again"
            )
            filesystem.remove(expert.place)
            missing.append(expert)
    return missing


def keep(expert: ExpertPlan, adapter: Path) -> None:
    """Copy an expert's adapter to its place in the storage, whole or not at all."""
    remote = filesystem.is_uri(expert.place)
    home = None if remote else os.path.dirname(expert.place)
    if home is not None:
        Path(home).mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix="draft-", dir=home))
    try:
        shutil.copytree(adapter, draft, dirs_exist_ok=True)
        about = {"source": expert.source, "digest": expert.digest, "steps": expert.steps}
        (draft / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
        manifest.seal(draft)
        if remote:
            filesystem.put(draft, expert.place)
        else:
            with contextlib.suppress(OSError):  # another command has kept the same one meanwhile
                draft.rename(expert.place)
            if not os.path.exists(os.path.join(expert.place, manifest.NAME)):
                raise OrchestratorError(
                    f"the expert of {expert.source} cannot be kept in {expert.place}; is "
                    "something else there? Remove it, or choose another storage"
                )
    finally:
        shutil.rmtree(draft, ignore_errors=True)
