"""Between a sweep and the judgement of its winner: the finalists are chosen, and what they lack is
trained.
"""

from __future__ import annotations

import functools
from typing import Protocol

from orchestrator.output.progress import ProgressDisplay
from orchestrator.plan.planner import Plan
from orchestrator.process import interruption
from orchestrator.storage.journal import Journal
from orchestrator.sweep import finalists, runner
from orchestrator.sweep.callback import SweepCallback
from orchestrator.sweep.rewind import forget_unknown
from orchestrator.sweep.state import SweepState


class TrainingCommand(Protocol):
    """What the finalists' training needs of the command that runs the sweep; see
    pipeline.SweepCommand.
    """

    plan: Plan
    journal: Journal
    final: finalists.FinalState | None

    def stop(self, sweep_state: SweepState) -> None:
        """Let trials stop cleanly and keep what is done."""
        ...


def train_finalists(
    command: TrainingCommand,
    sweep_state: SweepState,
    recorder: SweepCallback,
    screen: ProgressDisplay,
    back: dict[int, int],
) -> SweepCallback:
    """Choose the finalists of a sweep that has ended and train what they lack, in packs as the
    trials were, or by themselves. `back` are the runs that go back to an earlier checkpoint, and to
    which step. Returns what writes the workers' later messages down.
    """
    if sweep_state.halted or sweep_state.abort_reason is not None:
        return recorder
    chosen = finalists.choose_finalists(sweep_state)
    runs = finalists.unfinished(sweep_state, chosen)
    for number, tags in finalists.first_tags(chosen):
        command.journal.append("tags", trial=number, tags=tags)
    lacking = [finalists.lacking_steps(sweep_state, run) for run in runs]
    if runs and (sweep_state.allowance.over or not sweep_state.allowance.pays_for(lacking)):
        sweep_state.allowance.closed = True
        screen.note(f"{sweep_state.allowance.reason()}: the finalists are judged as they are")
        runs = {}
    if runs:
        screen.note(finalists.announced(chosen, runs))
        final = finalists.FinalState(sweep_state, command.plan, runs, back)
        forget_unknown(final)
        command.final = final
        del sweep_state.coordinator  # its name is free once the actor is gone
        sweep_state.coordinator = final.coordinator = runner.coordinator_for(final.plan)
        with interruption.gently(functools.partial(command.stop, final)):
            recorder = runner.run(final)
        finalists.take_over(sweep_state, final)
    if not sweep_state.halted and sweep_state.abort_reason is None:
        sweep_state.standings = finalists.standings(sweep_state, chosen)
        for number, tags in finalists.last_tags(sweep_state.standings):
            command.journal.append("tags", trial=number, tags=tags)
    return recorder
