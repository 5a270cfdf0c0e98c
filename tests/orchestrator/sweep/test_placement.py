"""A command that begins before its workers are there, as after a lost head, waits for as many as
its RayJob has asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from orchestrator.errors import InputError, OrchestratorError
from orchestrator.kuberay.manifest import asked_workers
from orchestrator.sweep import placement
from tests.support.kuberay import SETTINGS, settings


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "WORKER_SECONDS", 0.01)


def coming(*looks: tuple[int, bool]) -> Callable[[], tuple[int, bool]]:
    """What is seen at one look after the other; the last one stays."""
    seen = itertools.chain(looks, itertools.repeat(looks[-1]))
    return lambda: next(seen)


def test_workers_are_waited_for_and_that_is_said() -> None:
    said: list[str] = []
    placement.for_workers(
        "3", 30, coming((0, False), (1, False), (2, False), (3, False)), said.append
    )
    assert said == ["waiting  for workers: 0 of 3 workers are here, for 0 s of at most 30 s"]


def test_workers_that_are_there_are_not_waited_for() -> None:
    said: list[str] = []
    placement.for_workers("2", 0, coming((2, False)), said.append)
    placement.for_workers("0-4", 0, coming((0, True)), said.append)
    assert said == []


def test_when_the_time_is_over_those_that_are_there_are_enough() -> None:
    said: list[str] = []
    placement.for_workers("3", 0.05, coming((1, False)), said.append)
    assert said[-1].startswith("note     1 of 3 workers are here after") and said[-1].endswith(
        "going on with them"
    )


def test_without_any_worker_the_work_has_failed_and_is_no_bad_input() -> None:
    with pytest.raises(
        OrchestratorError,
        match="0 of 3 workers are here after cluster.wait_seconds=0; .*same command continues",
    ) as caught:
        placement.for_workers("3", 0.05, coming((0, False)), print)
    assert caught.value.exit_code == 1 and not isinstance(caught.value, InputError)


def test_a_cluster_that_grows_is_planned_once_its_autoscaler_has_told_how_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = iter([(2, False), (2, False), (2, True)])
    placement.for_workers("2-8", 30, lambda: next(looks), print)
    assert next(looks, None) is None
    monkeypatch.setattr(placement, "AUTOSCALER_SECONDS", 0.05)
    placement.for_workers("2-8", 30, coming((2, False)), print)


def test_progress_is_said_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "SAY_AGAIN_SECONDS", 0.02)
    said: list[str] = []
    placement.for_workers("1", 0.2, coming((0, True)), said.append)
    assert len([line for line in said if line.startswith("waiting  for workers: 0 of 1")]) > 2


@pytest.mark.parametrize(
    ("kind", "asked"), [("cpu", "1"), ("gpu", "2-8"), ("spot", "4"), ("kueue", "1")]
)
def test_a_rayjob_tells_its_command_how_many_workers_it_asked_for(kind: str, asked: str) -> None:
    assert asked_workers(settings(*SETTINGS[kind]).cluster) == asked
