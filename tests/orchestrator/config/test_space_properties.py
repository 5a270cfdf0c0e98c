"""What holds for any search space: points lie within it, the same command names the same trials,
mixes add up.
"""

from __future__ import annotations

import functools
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.config import simplex
from orchestrator.config.search_space import Knob, draw, extremes, point
from orchestrator.config.simplex import Simplex
from orchestrator.sweep.sampler import TPESampler
from tests.support.properties import attempt, drawn

PATHS = ("optim.lr", "optim.weight_decay", "adapter.rank", "adapter.alpha")


@st.composite
def knobs(draws: st.DrawFn, path: str) -> Knob:
    """A knob of any type but linked."""
    kind = draws(st.sampled_from(("choice", "uniform", "loguniform", "randint")))
    if kind == "choice":
        values = st.lists(st.integers(1, 10**6), min_size=1, max_size=6)
        values = values.filter(lambda drawn: len(drawn) == 1 or len(set(drawn)) > 1)
        return Knob(path=path, type="choice", values=list(draws(values)))
    if kind == "randint":
        low, high = sorted(draws(st.tuples(st.integers(-1000, 1000), st.integers(-1000, 1000))))
        step = draws(st.none() | st.integers(1, 50))
        return Knob(path=path, type="randint", low=low, high=high, step=step)
    magnitudes = st.floats(1e-9, 1e6)
    low, high = sorted(draws(st.tuples(magnitudes, magnitudes)))
    step = draws(st.none() | st.floats(1e-3, 1.0)) if kind == "uniform" else None
    return Knob(path=path, type=kind, low=low, high=high, step=step)  # type: ignore[arg-type]


@st.composite
def spaces(draws: st.DrawFn) -> dict[str, Knob]:
    """Some knobs over different settings."""
    return {path: draws(knobs(path)) for path in PATHS[: draws(st.integers(1, len(PATHS)))]}


@st.composite
def simplexes(draws: st.DrawFn) -> Simplex:
    """Sources with bounds that hold at least two mixes."""
    count = draws(st.integers(2, 6))
    shares = st.floats(0, 1).map(lambda share: round(share, 3))
    pairs = [sorted(draws(st.tuples(shares, shares))) for _ in range(count)]
    names = tuple(f"s{number}" for number in range(count))
    made = Simplex(names, tuple(low for low, _ in pairs), tuple(high for _, high in pairs))
    assume(simplex.problem(made) is None)
    return made


@drawn
@given(knobs("optim.lr"), st.integers(0, 2**32))
def test_a_draw_is_a_value_that_the_knob_holds(knob: Knob, seed: int) -> None:
    value = draw(knob, random.Random(seed))
    assert knob.holds(value)
    assert all(knob.holds(edge) for edge in extremes(knob, {"x": knob}) if knob.step is None)


@drawn
@given(spaces(), st.integers(0, 10**9), st.integers(1, 500))
def test_a_point_is_a_function_of_space_seed_and_position(
    space: dict[str, Knob], seed: int, index: int
) -> None:
    made = point(space, seed, index)
    assert made == point(dict(space), seed, index)
    assert list(made) == [knob.path for knob in space.values()]
    name = next(iter(space))
    alone = point({name: space[name]}, seed, index)
    assert alone[name] == made[name], "another knob beside it changes nothing"


@drawn
@given(simplexes(), st.integers(0, 2**32))
def test_a_mix_adds_up_and_keeps_its_bounds(bounds: Simplex, seed: int) -> None:
    mix = simplex.draw(bounds, random.Random(seed))
    assert sum(mix.values()) == pytest.approx(1, abs=1e-5)
    for name, low, high in zip(bounds.names, bounds.low, bounds.high, strict=True):
        assert low - 1e-5 <= mix[name] <= high + 1e-5
    again = simplex.from_coordinates(bounds, simplex.coordinates_of(bounds, mix))
    assert again == pytest.approx(mix, abs=2e-5), "its coordinates name it"


@drawn
@given(simplexes())
def test_the_first_mixes_lie_within_the_bounds(bounds: Simplex) -> None:
    natural = dict.fromkeys(bounds.names, 0.0) | {bounds.names[0]: 1.0}
    for mix in simplex.first_mixes(bounds, natural):
        assert sum(mix.values()) == pytest.approx(1, abs=1e-4)
        for name, low, high in zip(bounds.names, bounds.low, bounds.high, strict=True):
            assert low - 1e-5 <= mix[name] <= high + 1e-5


@drawn
@given(spaces(), st.booleans(), st.lists(st.floats(0, 1) | st.none(), min_size=3, max_size=6))
def test_the_sampler_proposes_different_points_of_the_space(
    space: dict[str, Knob], maximise: bool, scores: list[float | None]
) -> None:
    sampler = TPESampler(space, 0, maximise, len(scores))
    seen = []
    for index, score in enumerate(scores, start=1):
        proposed = attempt(functools.partial(sampler.ask, index), ValueError)
        if isinstance(proposed, Exception):
            assert "different points, and no other" in str(proposed)
            break
        assert all(knob.holds(proposed[knob.path]) for knob in space.values())
        assert proposed not in seen
        seen.append(proposed)
        sampler.tell(index, score)
