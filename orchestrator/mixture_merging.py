"""Before the search of mix.method=merge: the experts that are missing are trained, mixes are scored
by merging them, and the best ones become the search's first trials.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Protocol

from jobs.config import BaseModel
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.output.progress import ProgressDisplay
from orchestrator.plan.merge import merged_knob, with_merged
from orchestrator.plan.mixes import shown
from orchestrator.plan.planner import Plan, unpacked
from orchestrator.process import interruption
from orchestrator.storage.journal import Journal
from orchestrator.sweep import mixture_scores, runner
from orchestrator.sweep.experts import ExpertState, still_missing
from orchestrator.sweep.merge_allowance import MergeAllowance
from orchestrator.sweep.rewind import forget_unknown
from orchestrator.sweep.state import SweepState

MOST_TIMES = 5
"""How often the experts' training goes on after a process or a checkpoint of it was lost."""


class MergingCommand(Protocol):
    """What this needs of the command that runs the sweep; see pipeline.SweepCommand."""

    plan: Plan
    base: BaseModel
    journal: Journal
    folder: Path
    composed: str

    def stop(self, sweep_state: SweepState) -> None:
        """Let trials stop cleanly and keep what is done."""
        ...


def merge_mixtures(command: MergingCommand, screen: ProgressDisplay) -> SweepState | None:
    """Choose the mixes of the sweep's first trials, and plan them. Returns the state of the sweep
    where this was interrupted, None where the search can begin. Raises OrchestratorError where an
    expert fails.
    """
    knob = merged_knob(command.plan.config)
    if command.plan.merge is None or knob is None:
        return None
    mixes = mixture_scores.chosen_before(command.journal, knob.simplex or [])
    if mixes is None:
        sweep_state = SweepState(command.plan, command.base, command.journal, screen, {})
        mixes = found_mixes(command, screen, sweep_state)
        if mixes is None:
            return sweep_state
        screen.note("the best merged mixtures: " + "; ".join(shown(mix) for mix in mixes))
    screen.task = None
    config = with_merged(command.plan.config, mixes)
    command.plan = dataclasses.replace(command.plan, config=config)
    return None


def found_mixes(
    command: MergingCommand, screen: ProgressDisplay, sweep_state: SweepState
) -> list[dict[str, float]] | None:
    """Train what is missing, score the candidates and choose; None where it was interrupted, which
    `sweep_state` then says.
    """
    missing = still_missing(command.plan, screen)
    assert command.plan.merge is not None
    names = [expert.source for expert in missing]
    present = [e.source for e in command.plan.merge.experts if e.source not in names]
    if present:
        screen.note(f"experts found again: {', '.join(present)}")
    if names:
        screen.note(f"training the experts of {', '.join(names)}")
        if not train_experts(command, screen, sweep_state):
            return None
    screen.note(f"scoring {len(command.plan.merge.candidates)} mixtures of the experts")
    coordinator = runner.coordinator_for(command.plan)
    allowance = MergeAllowance(sweep_state, screen.spending)
    with interruption.gently(functools.partial(command.stop, sweep_state)):
        candidates = mixture_scores.score_candidates(
            command.plan,
            command.base,
            coordinator,
            screen,
            lambda: sweep_state.interrupted,
            allowance.overdrawn,
        )
    del coordinator  # its name is free once the actor is gone
    if candidates is None:
        return None
    chosen = mixture_scores.choose(command.plan, candidates)
    mixture_scores.write_down(command.journal, command.plan, candidates, chosen, names)
    return chosen


def train_experts(
    command: MergingCommand, screen: ProgressDisplay, sweep_state: SweepState
) -> bool:
    """Train the experts that are missing and keep them; False where it was interrupted, which
    `sweep_state` then says.
    """
    why = ""
    for _ in range(MOST_TIMES):
        missing = still_missing(command.plan, screen)
        if not missing:
            return True
        state = ExpertState(
            command.plan,
            command.base,
            command.folder,
            screen,
            {"config": command.composed},
            missing,
        )
        forget_unknown(state)
        state.coordinator = runner.coordinator_for(state.plan)
        with interruption.gently(functools.partial(command.stop, state)):
            runner.run(state)
        del state.coordinator  # its name is free once the actor is gone
        shutil.rmtree(state.journal.folder / "tune", ignore_errors=True)
        sweep_state.interrupted, sweep_state.fault = state.interrupted, state.fault
        if sweep_state.halted:
            return False
        failures = state.failures()
        if failures or state.abort_reason is not None:
            raise OrchestratorError("; ".join(failures) or str(state.abort_reason))
        if state.pack_rejection is not None:
            leave_packs(command, state.pack_rejection, screen)
        elif state.damaged is not None:
            why = f"{state.damaged[0]} is damaged ({state.damaged[1]})"
            screen.note(f"{why}: the experts are trained from the start")
            shutil.rmtree(state.journal.folder, ignore_errors=True)
        elif state.lost is not None:
            why = state.lost
            screen.note(f"{why}; the experts' training goes on from what is done")
        else:
            state.keep()
    if still_missing(command.plan, screen):
        raise OrchestratorError(
            f"the experts cannot be trained here: {why}; what is done is kept, and the same "
            "command continues"
        )
    return True


def leave_packs(command: MergingCommand, why: str, screen: ProgressDisplay) -> None:
    """Turn to the plain executor. Raises InputError where the user insists on packs."""
    reason = f"{command.base.name} cannot be packed: {why}"
    if command.plan.config.executor == "pack":
        raise InputError(f"executor=pack: {reason}; executor=plain trains each trial by itself")
    screen.note(f"{reason}; each trial trains by itself")
    command.journal.append("tags", trial=None, tags={"executor": f"plain: {reason}"})
    command.plan = unpacked(command.plan)
