"""Sources by epochs, and what happens when one is used up."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from jobs.config import Data, Source
from jobs.data.mixture import Mixture
from jobs.data.shares import examples_of, most_examples, shares_of

SIZES = {"terms": 70, "titles": 200, "notes": 31}


def mixture(seed: int = 0, sizes: dict[str, int] = SIZES, **settings: Any) -> Mixture:
    """The mix of some settings of data."""
    shares = shares_of(data(sizes, **settings), sizes)
    return Mixture(sizes, shares.weights, seed, shares.block_size, shares.limits, shares.stops)


def data(
    sizes: dict[str, int],
    weights: dict[str, float] | None = None,
    epochs: dict[str, float] | None = None,
    **settings: Any,
) -> Data:
    """Settings with these sources."""
    sources = {
        name: Source(
            path="x", weight=(weights or {}).get(name, 1.0), epochs=(epochs or {}).get(name)
        )
        for name in sizes
    }
    return Data(name="a", sources=sources, **settings)


def counted(mix: Mixture, count: int) -> Counter[tuple[str, int]]:
    """How often each row is among the first examples."""
    return Counter(mix.batch(0, count))


def test_two_epochs_show_each_row_twice_in_one_walk_and_four_times_in_two() -> None:
    mix = mixture(epochs={"terms": 2})
    assert mix.epoch_size == 2 * 70 + 200 + 31
    for walks in (1, 2):
        times = counted(mix, walks * mix.epoch_size)
        assert all(
            times[(name, row)] == walks * (2 if name == "terms" else 1)
            for name, size in SIZES.items()
            for row in range(size)
        )


def test_half_an_epoch_shows_half_the_rows_and_the_other_half_next_time() -> None:
    mix = mixture(epochs={"titles": 0.5})
    first = {pair for pair in mix.batch(0, mix.epoch_size) if pair[0] == "titles"}
    second = {pair for pair in mix.batch(1, mix.epoch_size) if pair[0] == "titles"}
    assert len(first) == len(second) == 100 and not first & second


def test_no_epochs_leave_a_source_out() -> None:
    assert mixture(epochs={"titles": 0, "terms": 1}).names == ["notes", "terms"]


@pytest.mark.parametrize("weights", [None, {"terms": 5.0, "titles": 1.0, "notes": 0.3}])
def test_stop_ends_where_the_first_source_is_used_up(weights: dict[str, float] | None) -> None:
    mix = mixture(weights=weights, exhausted="stop")
    total = int(mix.num_examples)
    times = counted(mix, total)
    assert max(times.values()) == 1, "no row comes twice"
    by_source = Counter(name for name, _ in times.elements())
    assert any(by_source[name] == size for name, size in SIZES.items())
    share = {name: weights[name] / 6.3 if weights else 1 / 3 for name in SIZES}
    for name in SIZES:
        assert abs(by_source[name] - total * share[name]) <= 2
    with pytest.raises(ValueError, match=f"used up after {total} examples"):
        mix.batch(total, 1)


def test_renormalise_draws_each_row_once_and_lets_the_others_share_out_the_rest() -> None:
    weights = {"terms": 8.0, "titles": 2.0, "notes": 1.0}
    mix = mixture(weights=weights, exhausted="renormalise")
    assert mix.num_examples == sum(SIZES.values())
    names = [name for name, _ in mix.batch(0, sum(SIZES.values()))]
    assert set(counted(mix, len(names)).values()) == {1}
    last_term = max(at for at, name in enumerate(names) if name == "terms")
    early, late = Counter(names[: last_term + 1]), Counter(names[last_term + 1 :])
    assert abs(early["terms"] / early.total() - 8 / 11) < 0.02
    until_notes_end = names[last_term + 1 :][: 3 * (31 - early["notes"])]
    share = Counter(until_notes_end)["titles"] / len(until_notes_end)
    assert abs(share - 2 / 3) < 0.15 and late["terms"] == 0


def test_a_cap_lets_rows_come_so_often_and_no_more() -> None:
    mix = mixture(weights={"terms": 9.0, "titles": 1.0, "notes": 0.0}, max_epochs=3)
    assert mix.num_examples == 3 * 270
    assert set(counted(mix, 810).values()) == {3}
    early = counted(mix, 200)
    assert max(early.values()) == 3, "terms are drawn anew before titles are through"


def test_without_a_cap_the_sources_never_end_and_the_order_is_as_before() -> None:
    plain = Mixture(SIZES, dict.fromkeys(SIZES, 1.0), 5)
    assert mixture(5).batch(3, 200) == plain.batch(3, 200)
    assert mixture(5).num_examples == math.inf
    assert mixture(5, max_epochs=9).batch(0, 200) == plain.batch(0, 200)


@pytest.mark.parametrize("settings", [{"exhausted": "renormalise"}, {"max_epochs": 2}])
@pytest.mark.parametrize("seed", [0, 1])
def test_counts_and_batches_agree_across_phases(seed: int, settings: dict[str, Any]) -> None:
    weights = {"terms": 3.0, "titles": 1.0, "notes": 0.5}
    mix = mixture(seed, weights=weights, **settings)
    shares = shares_of(data(SIZES, weights, **settings), SIZES)
    about = examples_of(shares, SIZES, 40 * 7)
    exact = mix.drawn(40, 7)
    assert all(abs(about[name] - exact[name]) < 15 for name in SIZES)
    assert sum(about.values()) == pytest.approx(280)
    for steps in (1, 20, 40):
        names = [name for step in range(steps) for name, _ in mix.batch(step, 7)]
        assert mix.drawn(steps, 7) == {name: names.count(name) for name in sorted(SIZES)}
    again = mixture(seed, weights=weights, **settings)
    backwards = [again.batch(step, 7) for step in reversed(range(40))][::-1]
    assert backwards == [mix.batch(step, 7) for step in range(40)]
    for step in range(40):  # the hidden states are found by these
        for (name, row), (source, chunk, _) in zip(
            mix.batch(step, 7), mix.chunks(step, 7), strict=True
        ):
            assert name == source and row in mix.rows(name, chunk)


@pytest.mark.parametrize("weights", [{"terms": 1.0, "titles": 1e-12, "notes": 1e-300}, None])
@pytest.mark.parametrize("exhausted", ["stop", "renormalise"])
def test_the_plan_reckons_with_as_many_examples_as_there_are(
    exhausted: str, weights: dict[str, float] | None
) -> None:
    settings = data(SIZES, weights, exhausted=exhausted)
    mix = mixture(weights=weights, exhausted=exhausted)
    assert most_examples(shares_of(settings, SIZES), SIZES) == mix.num_examples
    assert mix.num_examples <= sum(SIZES.values())


def test_the_order_is_drawn_anew_in_each_epoch() -> None:
    mix = mixture()
    epochs = [mix.batch(epoch, mix.epoch_size) for epoch in range(3)]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert epochs[one] != epochs[other]
        names = [[name for name, _ in epochs[at]] for at in (one, other)]
        assert names[0] != names[1] and Counter(names[0]) == Counter(names[1])


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_any_stretch_holds_a_share_within_sampling_error(share: float) -> None:
    sizes = {"a": 4000, "b": 6000}
    mix = mixture(2, sizes=sizes, weights={"a": share, "b": 1 - share})
    for start in range(5):
        drawn = Counter(name for name, _ in mix.batch(start, 1000))["a"]
        error = math.sqrt(1000 * share * (1 - share))
        assert abs(drawn - 1000 * share) <= 4 * error
