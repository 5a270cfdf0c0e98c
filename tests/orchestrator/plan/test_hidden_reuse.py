"""What the layers below the adapters have made of a row is reckoned once."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config.compose import compose
from orchestrator.plan.hidden_reuse import KEPT_BYTES, SourceRows, fresh_examples
from orchestrator.plan.mixes import batches_apart
from orchestrator.plan.model_shape import Shape
from orchestrator.plan.resources import Node, Resources
from orchestrator.plan.row_counts import RowCounts
from orchestrator.plan.timing import Speed, Timing
from tests.support.settings import build

SHAPE = Shape(layers=30, layer_weights=106e6, head_weights=28e6, hidden=576)


def timing(
    packs: int = 1,
    shape: Shape = SHAPE,
    workers: int = 1,
    more: tuple[str, ...] = (),
    **counts: Any,
) -> Timing:
    settings = ["model=tiny", "+sweep=lora", "train.steps=120", "train.batch_size=32"]
    config = build(compose([*settings, *more, "train.dtype=bfloat16"], None))
    usual: dict[str, Any] = {"tokens": 88, "answer": 4, "valid": 400, "scored": 200, "test": 850}
    rows = RowCounts(**{**usual, **counts})
    resources = Resources(6, workers, 2, 0, (Node(2),), packs)
    return Timing(config, shape, rows, resources, Speed(400e9, 200e9, 1.0, ""), 0.2)


def test_a_row_is_fresh_once_where_its_source_is_kept() -> None:
    two = [SourceRows(0.5, 100), SourceRows(0.5, 1000)]
    assert fresh_examples(two, 150, 1.0) == 150
    assert fresh_examples(two, 600, 1.0) == 100 + 300
    assert fresh_examples(two, 6000, 1.0) == 100 + 1000
    assert fresh_examples(two, 6000, KEPT_BYTES / 500) == 100 + 3000, "the large one is forgotten"
    assert fresh_examples([], 600, 1.0) == 600, "nothing is known of the rows"
    unread = [SourceRows(0.0, 100), SourceRows(1.0, 100)]
    assert fresh_examples(unread, 600, KEPT_BYTES / 100) == 100, "who is not read takes no room"
    often = [SourceRows(0.9, 80), SourceRows(0.1, 40)]
    assert fresh_examples(often, 1000, KEPT_BYTES / 100) == pytest.approx(80 + 100), "begins anew"


def test_later_epochs_cost_what_learns_alone() -> None:
    found = timing(sources=(SourceRows(1.0, 32 * 30),))
    assert found.fresh(0, 30) == 1 and found.fresh(30, 120) == 0
    assert found.fresh(0, 60) == pytest.approx(0.5)
    assert found.step_seconds(1, 0.0) < 0.5 * found.step_seconds(1, 1.0)
    rows = (SourceRows(1.0, 32 * 30),)
    assert timing(workers=2, sources=rows).fresh(30, 120) == 1, "several workers keep nothing"
    shown = ("data.neighbours.count=4",)
    assert timing(more=shown, sources=rows).fresh(30, 120) == 0, "the same prompt in each epoch"
    shuffled = (*shown, "data.neighbours.order=shuffled")
    assert timing(more=shuffled, sources=rows).fresh(30, 120) == 1
    first = found.seconds(1, 0, 30, False) - found.first_validation_seconds()
    assert found.seconds(1, 30, 60, False) < first


def test_validation_rows_cost_the_layers_below_once() -> None:
    kept, forgotten = timing(), timing(valid=40_000)
    assert kept.keeps_valid and not forgotten.keeps_valid
    whole = 2 * 400 * 88 * 106e6 * 0.8 / (400e9 * 0.65)
    assert kept.first_validation_seconds() == pytest.approx(whole)
    apart = timing(packs=0).evaluation_seconds(1, False)
    assert kept.evaluation_seconds(1, False) < 0.3 * apart
    assert forgotten.first_validation_seconds() == 0


def test_trials_of_different_mixes_read_different_rows() -> None:
    def apart(*settings: str) -> float:
        return batches_apart(build(compose(["model=tiny", *settings], None)))

    assert apart("+sweep=lora", "data=home") == 1, "one source"
    assert apart("data=icd10") == 1, "no search"
    assert apart("+sweep=lora", "data=icd10") == pytest.approx((0.5 + 0.9) / 2 + (0.5 + 1) / 2)
    bounds = "sweep.space.mix.bounds={titles: {low: 0.1, high: 0.3}}"
    narrow = apart("+sweep=mix", "data=icd10", bounds)
    epochs = "+sweep.space.often={path: data.sources.titles.epochs, type: uniform, low: 1, high: 4}"
    assert apart("data=icd10", epochs) > 1, "mixed by epochs"
    assert 1 < narrow < apart("+sweep=mix", "data=icd10") == pytest.approx(1.5)


@pytest.mark.parametrize("found", [timing(packs=0), timing(shape=Shape(30, 106e6, 28e6))])
def test_where_nothing_is_kept_every_row_is_fresh(found: Timing) -> None:
    assert found.fresh(0, 1000) == 1 and not found.keeps_valid
