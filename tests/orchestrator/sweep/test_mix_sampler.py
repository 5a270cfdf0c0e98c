"""Optuna over mixes: the first ones are always tried, and it learns in coordinates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.config import Source
from orchestrator.config.compose import compose
from orchestrator.config.search_space import Point
from orchestrator.config.settings import Config, changed
from orchestrator.plan.merge import with_merged
from orchestrator.storage.journal import Record
from orchestrator.sweep.sampler import Sampler
from tests.support.settings import build

NAMES = ("a", "b", "c")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A sweep over a mix of three sources and a rank."""
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    sources = "{" + ", ".join(f"{name}: {{path: {file}}}" for name in NAMES) + "}"
    space = "{mix: {type: simplex}, rank: {path: adapter.rank, type: choice, values: [4, 8]}}"
    arguments = ["model=tiny", "data=files", "data.folder=null", f"+data.sources={sources}"]
    raw = compose([*arguments, f"sweep.space={space}", "sweep.search=optuna"], None)
    made = build(raw)
    assert isinstance(made.data.sources["a"], Source)
    knob = made.sweep.space["mix"]
    object.__setattr__(knob, "natural", {"a": 0.6, "b": 0.3, "c": 0.1})
    return changed(made)


def mix(point: Point) -> dict[str, Any]:
    return {name: point[f"data.sources.{name}.weight"] for name in NAMES}


def test_optuna_tries_the_first_mixes_first_with_all_else_alike(config: Config) -> None:
    sampler = Sampler(config, 12, {})
    first, second, third = (sampler.next_point(index) for index in (1, 2, 3))
    assert mix(first) == pytest.approx({"a": 0.6, "b": 0.3, "c": 0.1}, abs=1e-5)
    assert mix(second) == pytest.approx(dict.fromkeys(NAMES, 1 / 3), abs=1e-5)
    assert first["adapter.rank"] == second["adapter.rank"]
    assert sum(mix(third).values()) == pytest.approx(1)
    assert mix(third) not in (mix(first), mix(second))


def test_a_source_of_few_rows_keeps_its_share_in_the_first_mix(config: Config) -> None:
    knob = config.sweep.space["mix"]
    object.__setattr__(knob, "natural", {"a": 0.7999, "b": 0.2, "c": 0.0001})
    sampler = Sampler(config, 12, {})
    assert mix(sampler.next_point(1))["c"] == pytest.approx(0.0001, abs=2e-6)
    assert mix(sampler.next_point(2)) == pytest.approx(dict.fromkeys(NAMES, 1 / 3), abs=1e-5)
    assert len({str(mix(sampler.next_point(index))) for index in range(1, 8)}) == 7


def test_optuna_moves_towards_the_mix_that_scores(config: Config) -> None:
    sampler = Sampler(config, 60, {})
    points = []
    for index in range(1, 61):
        points.append(sampler.next_point(index))
        shares = mix(points[-1])
        sampler.ended(index, 1 - abs(shares["a"] - 0.2) - abs(shares["b"] - 0.7))
    late = [mix(point) for point in points[40:]]
    assert sum(each["b"] for each in late) / 20 > 0.5
    assert len({tuple(sorted(point.items())) for point in points}) == 60


def test_a_continued_sweep_does_not_try_the_first_mixes_again(config: Config) -> None:
    sampler = Sampler(config, 12, {})
    records = {}
    for index in range(1, 5):
        records[index] = Record(index)
        records[index].point = sampler.next_point(index)
        records[index].state = "finished"
        records[index].reports = {10: {config.sweep.metric: 0.1 * index}}
    again = Sampler(config, 12, records)
    assert again.next_point(2) == records[2].point
    later = [again.next_point(index) for index in range(5, 9)]
    known = [mix(records[index].point) for index in (1, 2)]
    assert all(mix(point) not in known for point in later)
    early = Sampler(config, 12, {1: records[1]})
    assert mix(early.next_point(2)) == pytest.approx(dict.fromkeys(NAMES, 1 / 3), abs=2e-3)


def test_optuna_tries_the_best_merged_mixes_after_the_first_two_and_goes_on_with_them(
    config: Config,
) -> None:
    merged = [{"a": 0.2, "b": 0.7, "c": 0.1}, {"a": 0.0, "b": 1.0, "c": 0.0}]
    begun = with_merged(config, merged)
    sampler = Sampler(begun, 12, {})
    points = {index: sampler.next_point(index) for index in range(1, 6)}
    assert [mix(points[index]) for index in (3, 4)] == merged
    assert len({points[index]["adapter.rank"] for index in range(1, 5)}) == 1
    assert mix(points[5]) not in merged
    known = {index: Record(index, point=points[index], state="interrupted") for index in (1, 2, 3)}
    again = Sampler(begun, 12, known)
    assert [again.next_point(index) for index in (1, 2, 3)] == [points[i] for i in (1, 2, 3)]
    assert mix(again.next_point(4)) == merged[1], "the next one that was chosen"
