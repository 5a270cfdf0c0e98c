"""A sweep's journal of which a disk has changed lines: what is trained again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.config import BaseModel
from orchestrator.errors import OrchestratorError
from orchestrator.sweep.lost_lines import from_journal
from orchestrator.sweep.state import SweepState
from tests.support.trained_sweeps import TrainedSweep


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))


def flip(sweep: TrainedSweep, kind: str, trial: int, step: int | None = None) -> None:
    """Change a digit of the line that tells something of a trial."""
    lines = sweep.journal.file.read_bytes().splitlines(keepends=True)
    for at, line in enumerate(lines):
        event = json.loads(line)
        if (event["kind"], event.get("trial"), event.get("step")) == (kind, trial, step):
            digit = line.index(b'"t": ') + 6
            lines[at] = line[:digit] + bytes([line[digit] ^ 1]) + line[digit + 1 :]
    sweep.journal.file.write_bytes(b"".join(lines))


def mended(sweep: TrainedSweep) -> SweepState:
    """The state that the sweep goes on from."""
    return from_journal(sweep.sweep_state, {})


def reached(sweep_state: SweepState) -> dict[int, list[int]]:
    """The reports that each trial goes on from."""
    return {index: sorted(record.reports) for index, record in sweep_state.earlier.items()}


@pytest.fixture
def sweep(base: BaseModel, toy: Path, tmp_path: Path) -> TrainedSweep:
    sweep = TrainedSweep("plain", toy, tmp_path, base)
    for index in (1, 2):
        sweep.train(index, 60, state="finished")
    return sweep


def test_a_whole_journal_sends_nobody_back(sweep: TrainedSweep) -> None:
    sweep.journal.append("report", trial=3, step=40, metrics={"valid/loss": 0.5})
    assert reached(mended(sweep)) == {1: [20, 40, 60], 2: [20, 40, 60], 3: [40]}
    assert sweep.notes == []


def test_a_score_whose_checkpoint_is_there_is_read_from_it(sweep: TrainedSweep) -> None:
    before = sweep.sweep_state().records
    flip(sweep, "report", 2, 60)
    flip(sweep, "report", 1, 40)
    sweep_state = mended(sweep)
    assert reached(sweep_state) == {1: [20, 40, 60], 2: [20, 40, 60]}
    assert [sweep_state.records[i].reports for i in (1, 2)] == [before[i].reports for i in (1, 2)]
    assert sweep_state.records[2].checkpoints[60] == sweep.store.at(2, 60)
    (note,) = sweep.notes
    assert "2 lines of" in note and "2 scores that they told are read from checkpoints" in note
    again = mended(sweep)
    assert reached(again) == reached(sweep_state), "nothing is written down twice"
    assert len([e for e in sweep.journal.events() if e["kind"] == "report"]) == 6


def test_a_score_of_which_nothing_is_left_is_computed_again(sweep: TrainedSweep) -> None:
    flip(sweep, "report", 2, 20)
    assert reached(mended(sweep)) == {1: [20, 40, 60], 2: []}
    assert sweep.store.steps(2) == [] and sweep.store.steps(1) == [40, 60]
    (note,) = sweep.notes
    assert "1 line of" in note and "computed again, with trial 2" in note


def test_a_damaged_checkpoint_tells_no_score(sweep: TrainedSweep) -> None:
    flip(sweep, "report", 1, 60)
    sweep.harm(1, 60)
    assert reached(mended(sweep)) == {1: [20, 40], 2: [20, 40, 60]}
    assert sweep.store.steps(1) == [40]


def test_in_a_pack_all_go_back_together(base: BaseModel, toy: Path, tmp_path: Path) -> None:
    pack = TrainedSweep("pack", toy, tmp_path, base)
    for index in (1, 2, 3, 4):
        pack.train(index, 60)
    flip(pack, "report", 3, 60)
    pack.harm(3, 60)
    assert reached(mended(pack)) == {index: [20, 40] for index in (1, 2, 3, 4)}


def test_what_nobody_has_come_to_yet_has_not_happened(sweep: TrainedSweep) -> None:
    """A checkpoint whose report was still on its way when the command died."""
    flip(sweep, "metrics", 1, 7)
    sweep.shelf_put(2, 80)
    assert reached(mended(sweep)) == {1: [20, 40, 60], 2: [20, 40, 60]}
    assert 80 not in sweep.store.steps(2)


def test_lines_that_decide_nothing_are_named_and_nothing_is_trained_again(
    sweep: TrainedSweep,
) -> None:
    flip(sweep, "metrics", 1, 7)
    flip(sweep, "metrics", 2, 8)
    assert reached(mended(sweep)) == {1: [20, 40, 60], 2: [20, 40, 60]}
    assert sweep.notes == [f"2 lines of {sweep.journal.file} cannot be read any more"]


def test_a_trial_of_which_the_journal_tells_nothing_begins_anew(sweep: TrainedSweep) -> None:
    sweep.journal.append("trial", trial=3, point={"optim.lr": 0.01})
    sweep.shelf_put(3, 20)
    flip(sweep, "trial", 3)
    assert 3 not in reached(mended(sweep)) and sweep.store.steps(3) == []


def test_drawn_settings_are_drawn_again_and_those_of_optuna_are_asked_for(
    base: BaseModel, toy: Path, tmp_path: Path
) -> None:
    drawn = TrainedSweep("plain", toy, tmp_path / "drawn", base)
    drawn.train(1, 60, state="finished")
    flip(drawn, "trial", 1)
    assert mended(drawn).trial(1).optim.lr == drawn.plan.trials[0].optim.lr
    proposed = TrainedSweep("plain", toy, tmp_path / "optuna", base, "sweep.search=optuna")
    proposed.train(1, 60, state="finished")
    flip(proposed, "trial", 1)
    with pytest.raises(OrchestratorError, match=r"settings of trial 1 .* fresh=true"):
        mended(proposed)
