"""What is done where lines of a sweep's journal are damaged, so that the sweep ends as it would
have without that.

A score whose checkpoint is still there is read from that: of each trial these are the best and the
last one. Any other that is missing is computed again: its trial goes back to before it, as from a
damaged checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from jobs.files.checkpoints import report_in, steps_in, why_unreadable
from orchestrator.errors import OrchestratorError
from orchestrator.sweep.rewind import forget_unknown, go_back

if TYPE_CHECKING:
    from orchestrator.sweep.state import SweepState


def from_journal(
    make: Callable[[Mapping[int, int]], SweepState], back: Mapping[int, int]
) -> SweepState:
    """The state of a sweep as its journal tells it, and what else tells what that has lost. `make`
    reads the journal for trials that go back to these steps. Raises OrchestratorError where nothing
    tells any more with which settings a trial was trained.
    """
    sweep_state = make(back)
    damaged = sweep_state.journal.num_damaged
    if not damaged:
        forget_unknown(sweep_state)
        return sweep_state
    check_settings(sweep_state)
    num_read = restore_reports(sweep_state, back)
    if num_read:
        sweep_state = make(back)
    forget_unknown(sweep_state)
    steps = go_back_from_lost_reports(sweep_state, back)
    if steps != back:
        sweep_state = make(steps)
    lines = "1 line" if damaged == 1 else f"{damaged:,} lines"
    text = f"{lines} of {sweep_state.journal.file} cannot be read any more"
    if num_read:
        text += f"; {num_read:,} scores that they told are read from checkpoints"
    if steps != back:
        trials = ", ".join(map(str, sorted(steps)))
        text += f"; scores that they told are computed again, with trial {trials}"
    sweep_state.screen.note(text)
    return sweep_state


def restore_reports(sweep_state: SweepState, back: Mapping[int, int]) -> int:
    """Write down again what whole checkpoints tell of their rungs, as far as some trial is known to
    have come; returns how many that were.
    """
    furthest = max((max(r.reports, default=0) for r in sweep_state.asked_for()), default=0)
    num_read = 0
    for index, record in sorted(sweep_state.earlier.items()):
        home = sweep_state.place("train", f"trial-{index:03d}")
        for step in steps_in(home):
            place = sweep_state.place("train", f"trial-{index:03d}", f"step-{step:06d}")
            if step in record.reports or step > min(furthest, back.get(index, furthest)):
                continue
            told = None if why_unreadable(place) is not None else report_in(place)
            if told is not None:
                metrics = {key: value for key, value in told.items() if "/" in key}
                sweep_state.journal.append(
                    "report", trial=index, step=step, metrics=metrics, checkpoint=place
                )
                num_read += 1
    return num_read


def go_back_from_lost_reports(sweep_state: SweepState, back: Mapping[int, int]) -> dict[int, int]:
    """The step that each trial goes back to: those of `back`, and those that lack a report."""
    steps = dict(back)
    lost = lost_reports(sweep_state)
    for index, step in sorted(lost.items(), key=lambda item: (item[1], item[0])):
        if step <= steps.get(index, step):
            for trial, before in go_back(sweep_state, index, step).items():
                steps[trial] = min(before, steps.get(trial, before))
    return steps


def lost_reports(sweep_state: SweepState) -> dict[int, int]:
    """Of each trial that lacks a report before another one, or of a step that it had come to, the
    step of the first one.
    """
    train = sweep_state.config.train
    lost = {}
    for index, record in sweep_state.earlier.items():
        trained = sweep_state.logged.last(index) // train.eval_every * train.eval_every
        last = max(trained, *record.reports, 0)
        if record.state == "finished":
            last = max(last, sweep_state.trained(index).train.steps)
        steps = set(range(train.eval_every, last + 1, train.eval_every))
        steps |= {last} if last else set()
        missing = sorted(steps - record.reports.keys())
        if missing:
            lost[index] = missing[0]
    return lost


def check_settings(sweep_state: SweepState) -> None:
    """Raise OrchestratorError where a trial's settings are lost. Drawn points are drawn again as
    they were; what Optuna has proposed is not.
    """
    if sweep_state.config.sweep.search != "optuna" or not sweep_state.config.sweep.space:
        return
    for index, record in sorted(sweep_state.records.items()):
        if record.reports and not record.point and index not in sweep_state.steering.copies:
            raise OrchestratorError(
                f"the line of {sweep_state.journal.file} that tells the settings of trial {index} "
                "is damaged, and sweep.search=optuna would choose others; put a copy of the file "
                "in its place, or start anew with fresh=true"
            )
