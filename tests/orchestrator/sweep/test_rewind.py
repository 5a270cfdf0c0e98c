"""Which trials go back when a checkpoint is damaged, how far, and that a step that is computed
again is told once.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.config import BaseModel
from orchestrator.sweep.logged_steps import Logged, Steps
from orchestrator.sweep.rewind import forget_unknown, go_back
from orchestrator.sweep.searcher import TrialSearcher
from tests.support.trained_sweeps import TrainedSweep


@pytest.fixture
def pack(
    base: BaseModel, cache: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TrainedSweep:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    return TrainedSweep("pack", toy, tmp_path, base)


@pytest.fixture
def plain(
    base: BaseModel, cache: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TrainedSweep:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    return TrainedSweep("plain", toy, tmp_path, base)


def test_who_was_rounded_together_goes_back_together_to_what_all_have(pack: TrainedSweep) -> None:
    for index in (1, 2, 3, 4):
        pack.train(index, 47)
    pack.harm(2, 40)
    assert go_back(pack.sweep_state(), 2, 40) == {1: 20, 2: 20, 3: 20, 4: 20}
    assert [pack.store.steps(index) for index in (1, 2, 3, 4)] == [[20]] * 4


def test_what_is_damaged_at_another_trial_too_sends_all_further_back(pack: TrainedSweep) -> None:
    for index in (1, 2, 3, 4):
        pack.train(index, 40)
    pack.harm(2, 40)
    pack.harm(4, 20)
    assert go_back(pack.sweep_state(), 2, 40) == {1: 0, 2: 0, 3: 0, 4: 0}
    assert [pack.store.steps(index) for index in (1, 2, 3, 4)] == [[]] * 4


def test_who_had_left_before_stays_as_it_is(pack: TrainedSweep) -> None:
    pack.train(1, 20, state="stopped")
    pack.train(2, 13, state="failed")
    for index in (3, 4):
        pack.train(index, 60)
    pack.harm(3, 60)
    back = go_back(pack.sweep_state(), 3, 60)
    assert back == {3: 40, 4: 40}
    sweep_state = pack.sweep_state(back)
    assert [sweep_state.earlier[index].state for index in (1, 2, 3, 4)] == [
        "stopped",
        "failed",
        "running",
        "running",
    ]
    assert max(sweep_state.earlier[3].reports) == 40 and max(sweep_state.records[3].reports) == 60


def test_a_trial_that_failed_since_is_trained_again_as_company(pack: TrainedSweep) -> None:
    pack.train(1, 33, state="failed")
    for index in (2, 3):
        pack.train(index, 40)
    pack.harm(2, 40)
    back = go_back(pack.sweep_state(), 2, 40)
    assert back == {1: 20, 2: 20, 3: 20}
    assert pack.sweep_state(back).earlier[1].error is None


def test_a_trial_by_itself_goes_back_alone(plain: TrainedSweep) -> None:
    for index in (1, 2):
        plain.train(index, 60, state="finished")
    plain.harm(2, 60)
    assert go_back(plain.sweep_state(), 2, 60) == {2: 40}
    plain.harm(2, 40)
    assert go_back(plain.sweep_state(), 2, 60) == {2: 20} or go_back(
        plain.sweep_state(), 2, 60
    ) == {2: 0}


def test_what_the_journal_has_not_heard_of_has_not_happened(pack: TrainedSweep) -> None:
    pack.train(1, 40)
    pack.shelf_put(1, 60)
    forget_unknown(pack.sweep_state())
    assert pack.store.steps(1) == [40]


def test_a_pause_is_where_a_trial_goes_on(pack: TrainedSweep) -> None:
    pack.train(1, 33)
    pack.shelf_put(1, 33)
    place = pack.store.at(1, 33)
    pack.journal.append("checkpoint", trial=1, step=33, checkpoint=place)
    earlier = pack.sweep_state().earlier[1]
    assert TrialSearcher.left_at(earlier, 20, 60) == (33, place)
    assert TrialSearcher.left_at(earlier, 20, 30) == (20, pack.store.at(1, 20)), "a shorter sweep"
    assert TrialSearcher.left_at(None, 0, 60) == (0, None)


def test_a_trial_that_has_ended_may_have_lost_its_checkpoints_and_one_under_way_may_not(
    pack: TrainedSweep,
) -> None:
    pack.train(1, 40, state="stopped")
    pack.train(2, 40, state="interrupted")
    sweep_state = pack.sweep_state()
    for index in (1, 2):
        for step in (20, 40):
            (Path(pack.store.at(index, step)) / "state").unlink()
            (Path(pack.store.at(index, step)) / "SHA256SUMS").unlink()
            (Path(pack.store.at(index, step)) / "report.json").unlink()
            Path(pack.store.at(index, step)).rmdir()
    assert TrialSearcher.left_at(sweep_state.earlier[1], 40, 60) == (0, None)
    assert TrialSearcher.left_at(sweep_state.earlier[2], 40, 60) == (40, pack.store.at(2, 40))


def test_steps_are_told_once_in_whatever_order_they_come() -> None:
    steps = Steps()
    assert [steps.add(step) for step in (1, 2, 5, 2, 4, 3, 3, 7)] == [
        True,
        True,
        True,
        False,
        True,
        True,
        False,
        True,
    ]
    assert steps.upto == 5 and steps.beyond == {7} and steps.last() == 7
    logged = Logged(
        [{"kind": "metrics", "trial": 3, "step": step} for step in (1, 2, 3)]
        + [{"kind": "metrics", "trial": None, "step": 9}]
    )
    assert logged.last(3) == 3 and logged.last(4) == 0 and not logged.add(3, 2) and logged.add(3, 4)
