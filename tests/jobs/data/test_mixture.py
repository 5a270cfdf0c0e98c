"""The order of the examples is a function of the seed and the position, and follows the weights."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from jobs.data.mixture import CHUNK_ROWS, Mixture, permutation
from jobs.data.shares import apportion

SIZES = {"terms": 70, "titles": 200, "notes": 31}
WEIGHTS = {"terms": 2.0, "titles": 5.0, "notes": 1.0}


def take(mix: Mixture, count: int) -> list[tuple[str, int]]:
    return mix.batch(0, count)


def walk(mix: Mixture, name: str, epoch: int) -> list[int]:
    """The rows of a source in one epoch, in the order of its walk."""
    source = mix.names.index(name)
    quota = mix.phases[0].quotas[source]
    return mix._stretch(source, epoch * quota, quota).tolist()


@pytest.mark.parametrize(
    "weights",
    [WEIGHTS, {"terms": 1, "titles": 1, "notes": 1}, {"terms": 1e-9, "titles": 3, "notes": 1e300}],
)
def test_an_epoch_shares_its_examples_out_by_weight(weights: dict[str, float]) -> None:
    mix = Mixture(SIZES, weights, seed=0)
    counts = Counter(name for name, _ in take(mix, mix.epoch_size))
    assert mix.epoch_size == sum(SIZES.values()) == counts.total()
    for name, weight in weights.items():
        assert abs(counts[name] - mix.epoch_size * weight / sum(weights.values())) < 1


def test_early_batches_are_mixed_as_the_whole_epoch_is() -> None:
    mix = Mixture({"a": 5000, "b": 5000}, {"a": 3, "b": 1}, seed=1)
    share = Counter(name for name, _ in take(mix, 1000))["a"] / 1000
    assert abs(share - 0.75) < 0.05  # 3.6 standard deviations


def test_weights_equal_to_the_sizes_show_every_row_once_per_epoch() -> None:
    mix = Mixture(SIZES, {name: float(size) for name, size in SIZES.items()}, seed=0)
    first, second = take(mix, mix.epoch_size), take(mix, 2 * mix.epoch_size)[mix.epoch_size :]
    every = {(name, row) for name, size in SIZES.items() for row in range(size)}
    assert set(first) == set(second) == every
    assert first != second


@pytest.mark.parametrize("weights", [WEIGHTS, {"terms": 1, "titles": 0, "notes": 9}])
def test_no_row_comes_again_before_all_rows_of_its_source_came(weights: dict[str, float]) -> None:
    mix = Mixture(SIZES, weights, seed=3)
    by_epoch: dict[str, list[int]] = {name: [] for name in mix.names}
    for number in range(
        5
    ):  # within an epoch the order is shuffled, so the walk is read off epoch by epoch
        for name in mix.names:
            by_epoch[name] += walk(mix, name, number)
    for name, rows in by_epoch.items():
        size = SIZES[name]
        for start in range(0, len(rows) - size + 1, size):
            assert sorted(rows[start : start + size]) == list(range(size))


def test_a_batch_depends_on_its_place_alone() -> None:
    mix = Mixture(SIZES, WEIGHTS, seed=7)
    in_order = [example for step in range(150) for example in mix.batch(step, 7)]
    backwards = [mix.batch(step, 7) for step in reversed(range(150))][::-1]
    assert in_order == [example for batch in backwards for example in batch]
    assert in_order == take(Mixture(SIZES, WEIGHTS, seed=7), 150 * 7)


def test_the_batch_size_cuts_one_and_the_same_sequence() -> None:
    assert [
        pair for step in range(12) for pair in Mixture(SIZES, WEIGHTS, 0).batch(step, 50)
    ] == take(Mixture(SIZES, WEIGHTS, 0), 600)


def test_seeds_differ_and_repeat() -> None:
    assert (
        take(Mixture(SIZES, WEIGHTS, 0), 40)
        == take(Mixture(SIZES, WEIGHTS, 0), 40)
        != take(Mixture(SIZES, WEIGHTS, 1), 40)
    )


def test_the_order_of_the_names_does_not_matter() -> None:
    turned = Mixture(dict(reversed(SIZES.items())), dict(reversed(WEIGHTS.items())), seed=0)
    assert take(turned, 700) == take(Mixture(SIZES, WEIGHTS, seed=0), 700)


def test_a_source_of_weight_zero_is_never_drawn_and_changes_nothing() -> None:
    joined = Mixture({**SIZES, "aside": 12}, {**WEIGHTS, "aside": 0.0}, seed=0)
    assert take(joined, 700) == take(Mixture(SIZES, WEIGHTS, seed=0), 700)


def test_a_source_walks_in_the_same_order_beside_any_neighbour() -> None:
    alone, beside = (
        Mixture({"b": 40}, {"b": 1}, seed=5),
        Mixture({"a": 40, "b": 40}, {"a": 1, "b": 1}, seed=5),
    )
    assert walk(alone, "b", 0) == walk(beside, "b", 0)


@pytest.mark.parametrize("steps", [0, 1, 43, 44, 200])
def test_the_count_of_drawn_examples_is_what_the_batches_hold(steps: int) -> None:
    mix = Mixture(SIZES, WEIGHTS, seed=2)
    counted = Counter(name for step in range(steps) for name, _ in mix.batch(step, 7))
    assert Mixture(SIZES, WEIGHTS, seed=2).drawn(steps, 7) == {
        name: counted[name] for name in sorted(SIZES)
    }


def test_the_order_is_the_same_in_another_process_and_for_ever() -> None:
    code = "from jobs.data.mixture import Mixture; print(Mixture({'a': 9, 'b': 4}, {'a': 1, 'b': 2}, 11).batch(3, 4))"
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "9"},
    )
    assert other.stdout.strip() == str(Mixture({"a": 9, "b": 4}, {"a": 1, "b": 2}, 11).batch(3, 4))
    assert permutation(10, 0, 1, 2).tolist() == [8, 3, 4, 7, 6, 1, 5, 9, 2, 0]


def test_shares_are_rounded_by_largest_remainder() -> None:
    assert apportion(10, [1, 1, 1]) == [4, 3, 3]
    assert apportion(7, [0.5, 0.25, 0.25]) == [3, 2, 2]
    assert apportion(3, [1e308, 1e308, 1e308]) == [1, 1, 1]


@pytest.mark.parametrize(
    ("sizes", "weights", "seed", "message"),
    [
        ({"a": 3}, {"a": 0.0}, 0, "every weight in data.sources is 0"),
        ({"a": 0}, {"a": 1.0}, 0, "data.sources.a has no rows"),
        ({"a": 3}, {"a": -1.0}, 0, "data.sources.a.weight"),
        ({"a": 3}, {"a": float("nan")}, 0, "data.sources.a.weight"),
        ({"a": 3}, {"b": 1.0}, 0, "rows for ['a'], weights for ['b']"),
        ({"a": 3}, {"a": 1.0}, -1, "seed"),
    ],
)
def test_a_mix_that_can_draw_nothing_is_refused(
    sizes: dict, weights: dict, seed: int, message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        Mixture(sizes, weights, seed)
    assert message in str(caught.value)


def test_a_stretch_of_a_walk_holds_the_rows_that_are_drawn_next_to_each_other() -> None:
    sizes = {"terms": 70, "titles": 200, "notes": 31}
    mixes = [
        Mixture(sizes, weights, 5)
        for weights in (
            {"terms": 2, "titles": 5, "notes": 1},
            {"terms": 9, "titles": 1, "notes": 4},
        )
    ]
    for mix in mixes:
        for step in range(60):
            for (name, row), (source, number, first) in zip(
                mix.batch(step, 9), mix.chunks(step, 9), strict=True
            ):
                assert (
                    name == source
                    and row in mix.rows(name, number)
                    and len(mix.rows(name, number)) <= CHUNK_ROWS
                )
                assert (
                    row in mix.rows(name, first)
                    and first * CHUNK_ROWS < sizes[name]
                    and first <= number
                )
    assert all(mixes[0].rows(name, 3) == mixes[1].rows(name, 3) for name in sizes)
    opened = [place for step in range(10) for place in mixes[0].chunks(step, 9)]
    titles = [number for name, number, _ in opened if name == "titles"]
    assert titles == sorted(titles)
