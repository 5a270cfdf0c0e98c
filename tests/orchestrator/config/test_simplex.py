"""Mixes of sources: uniform draws, coordinates, bounds, and what is refused."""

from __future__ import annotations

import random
from typing import Any

import pytest

from orchestrator.config.compose import compose
from orchestrator.config.search_space import Bounds, Knob
from orchestrator.config.simplex import (
    Simplex,
    coordinates_of,
    draw,
    every_mix,
    first_mixes,
    from_coordinates,
    nearest,
    num_mixes,
    problem,
    rounded,
    trials_needed,
)
from orchestrator.errors import ConfigError
from orchestrator.plan.points import Points, key, size
from tests.support.settings import build


def simplex(*bounds: tuple[float, float]) -> Simplex:
    names = tuple("abcdef"[: len(bounds)])
    return Simplex(names, tuple(low for low, _ in bounds), tuple(high for _, high in bounds))


OPEN = simplex((0, 1), (0, 1), (0, 1))
BOUND = simplex((0.1, 0.8), (0.0, 0.5), (0.2, 1.0), (0.05, 0.3))
TIGHT = simplex((0.0, 0.3), (0.0, 0.36), (0.0, 0.36))


@pytest.mark.parametrize("mixes", [OPEN, BOUND, TIGHT])
def test_draws_add_up_to_one_within_the_bounds(mixes: Simplex) -> None:
    for seed in range(300):
        mix = draw(mixes, random.Random(seed))
        assert sum(round(1000 * share) for share in mix.values()) == 1000
        for name, low, high in zip(mixes.names, mixes.low, mixes.high, strict=True):
            assert low - 1e-9 <= mix[name] <= high + 1e-9


def test_draws_are_uniform_on_the_simplex() -> None:
    mixes = [draw(OPEN, random.Random(seed)) for seed in range(4000)]
    for name in "abc":
        shares = sorted(mix[name] for mix in mixes)
        # the share of one of three is Beta(1, 2): P(share <= x) = 1 - (1 - x)^2
        for quantile, expected in ((0.25, 0.134), (0.5, 0.293), (0.75, 0.5)):
            assert abs(shares[int(quantile * 4000)] - expected) < 0.03
    corner = sum(mix["a"] > 0.5 for mix in mixes) / 4000
    assert abs(corner - 0.25) < 0.03, "the corner of a triangle is a quarter of it"


@pytest.mark.parametrize("mixes", [OPEN, BOUND, TIGHT, simplex((0, 1), (0, 1))])
def test_coordinates_lead_to_a_mix_and_back(mixes: Simplex) -> None:
    stream = random.Random(0)
    for _ in range(200):
        at = [stream.random() for _ in mixes.names[1:]]
        mix = from_coordinates(mixes, at)
        assert sum(mix.values()) == pytest.approx(1)
        for name, low, high in zip(mixes.names, mixes.low, mixes.high, strict=True):
            assert low - 1e-9 <= mix[name] <= high + 1e-9
        assert from_coordinates(mixes, coordinates_of(mixes, mix)) == pytest.approx(mix, abs=1e-6)


def test_the_ends_of_the_coordinates_are_corners() -> None:
    assert from_coordinates(OPEN, [1, 0]) == pytest.approx({"a": 1, "b": 0, "c": 0})
    assert from_coordinates(OPEN, [0, 1]) == pytest.approx({"a": 0, "b": 1, "c": 0})
    assert from_coordinates(OPEN, [0, 0]) == pytest.approx({"a": 0, "b": 0, "c": 1})
    for corner in ({"a": 1, "b": 0, "c": 0}, {"a": 0, "b": 0, "c": 1}):
        assert all(0 <= at <= 1 for at in coordinates_of(OPEN, corner))


def test_the_first_mixes_are_by_size_and_uniform_moved_into_the_bounds() -> None:
    sizes = {"a": 0.7, "b": 0.2, "c": 0.1}
    by_size, uniform = first_mixes(OPEN, sizes)
    assert by_size == pytest.approx(sizes, abs=1e-5)
    assert uniform == pytest.approx(dict.fromkeys("abc", 1 / 3), abs=1e-5)
    moved, _ = first_mixes(TIGHT, sizes)
    assert moved["a"] == pytest.approx(0.3, abs=1e-5) and sum(moved.values()) == pytest.approx(1)
    assert nearest(OPEN, {"a": 1.0, "b": 0.0, "c": 0.0}) == pytest.approx(
        {"a": 1, "b": 0, "c": 0}, abs=1e-5
    )


def test_rounding_keeps_to_sum_and_bounds() -> None:
    narrow = simplex((0.3334, 0.3339), (0, 1))
    assert rounded(narrow, {"a": 0.3335, "b": 0.6665}) == {"a": 0.3335, "b": 0.6665}
    assert rounded(OPEN, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}) == {
        "a": 0.334,
        "b": 0.333,
        "c": 0.333,
    }


@pytest.mark.parametrize(
    "mixes",
    [
        simplex((0.2, 0.21), (0, 1)),
        simplex((0.2, 0.203), (0.2, 0.203), (0, 1)),
        simplex((0.499, 0.501), (0.499, 0.501)),
    ],
)
def test_a_narrow_simplex_is_tried_whole_and_no_mix_twice(mixes: Simplex) -> None:
    assert num_mixes(mixes) == len(list(every_mix(mixes))) < 100
    bounds = {
        name: Bounds(low=low, high=high)
        for name, low, high in zip(mixes.names, mixes.low, mixes.high, strict=True)
    }
    knob = Knob(path="data.sources", type="simplex", simplex=list(mixes.names), bounds=bounds)
    space = {"mix": knob, "rank": Knob(path="adapter.rank", type="choice", values=[4, 8])}
    count = int(size(space))
    points = Points(space, 0)
    try:
        found = {key(points[index]) for index in range(1, count + 1)}
    except ValueError:
        found = set()
    assert len(found) == count


def test_how_many_trials_so_many_sources_need() -> None:
    assert [trials_needed(count) for count in (2, 3, 5)] == [5, 8, 17]


def test_bounds_that_leave_no_two_mixes_are_named() -> None:
    assert "add up to 1.2, above 1" in str(problem(simplex((0.6, 1), (0.6, 1))))
    assert "add up to 0.8, below 1" in str(problem(simplex((0, 0.4), (0, 0.4))))
    assert "leave one mix" in str(problem(simplex((0.5, 0.5), (0.5, 0.5))))
    assert problem(OPEN) is None


def problems(*arguments: str) -> list[tuple[str, str]]:
    """What is wrong with a command."""
    data = [] if any(argument.startswith("data=") for argument in arguments) else ["data=icd10"]
    typed = [argument.partition("=")[0] for argument in arguments]
    try:
        build(compose(["model=tiny", *data, *arguments], None), typed)
    except ConfigError as error:
        return error.problems
    return []


MIX = "sweep.space.mix"


@pytest.mark.parametrize(
    ("arguments", "path", "text"),
    [
        (["data=home", "+sweep=mix"], MIX, "two sources or more, and data=home has one (train)"),
        ([f"{MIX}={{simplex: [titles]}}"], MIX, "name two of them"),
        ([f"{MIX}={{simplex: [titles, other]}}"], MIX, "no source other; it has terms, titles"),
        ([f"{MIX}={{simplex: [titles, titles]}}"], MIX, "titles stands twice"),
        ([f"{MIX}={{simplex: []}}"], MIX, "names no source"),
        (["+sweep=mix", f"{MIX}.bounds.other.low=0.1"], f"{MIX}.bounds.other", "no source of this"),
        (["+sweep=mix", f"{MIX}.bounds.terms.low=0.8", f"{MIX}.bounds.terms.high=0.2"], MIX, "low"),
        (["+sweep=mix", f"{MIX}.bounds.terms.high=1.5"], MIX, "share of terms needs"),
        (["+sweep=mix", f"{MIX}.bounds.terms.most=0.5"], f"{MIX}.bounds.terms.most", "no such"),
        (
            ["+sweep=mix", f"{MIX}.bounds={{terms: {{high: 0.2}}, titles: {{high: 0.3}}}}"],
            f"{MIX}.bounds",
            "add up to 0.5, below 1",
        ),
        (["+sweep=mix", f"{MIX}.low=0.1"], f"{MIX}.low", "simplex takes simplex, bounds"),
        (["+sweep=mix", f"{MIX}.path=data.sources.terms.weight"], MIX, "leave `path` out"),
        (
            ["+sweep=mix", "data.sources.terms.epochs=2"],
            MIX,
            "terms.epochs mixes the sources by epochs",
        ),
        (["+sweep=mix", "sweep.search=grid"], f"{MIX}.type", "needs a list of values"),
        (
            ["+sweep=lora", f"{MIX}={{type: simplex}}"],
            f"{MIX}.path",
            "searched twice, also by sweep.space.t",
        ),
        (["+sweep=mix", "sweep.space.more={type: simplex}"], "sweep.space.more", "second simplex"),
        (["+sweep=lora", "sweep.space.lr.simplex=[terms, titles]"], "sweep.space.lr", "takes low"),
    ],
)
def test_a_mix_that_cannot_be_searched_is_refused_in_words(
    arguments: list[str], path: str, text: str
) -> None:
    found = problems(*arguments)
    assert any(where.startswith(path) and text in what for where, what in found), found


def test_an_optional_mix_is_left_out_where_there_is_one_source() -> None:
    config = build(compose(["model=tiny", "data=home", "+sweep=mix", f"{MIX}.optional=true"], None))
    assert not config.sweep.space
    assert "has one (train)" in config.skipped["mix"]


@pytest.mark.parametrize(
    "typed", ["{simplex: [titles, terms]}", "{type: simplex}", "{type: simplex, simplex: null}"]
)
def test_a_mix_is_written_by_its_sources_or_by_its_type(typed: str) -> None:
    config = build(compose(["model=tiny", "data=icd10", f"+sweep.space.mix={typed}"], None))
    knob = config.sweep.space["mix"]
    assert sorted(knob.paths) == ["data.sources.terms.weight", "data.sources.titles.weight"]


@pytest.mark.parametrize(
    ("arguments", "path", "text"),
    [
        (["data.sources.terms.epochs=-1"], "data.sources.terms.epochs", "at least 0"),
        (
            ["data.sources.terms.epochs=2", "data.sources.titles.weight=0.3"],
            "data.sources.titles.weight",
            "data.sources.terms.epochs mixes the sources by epochs",
        ),
        (["data.exhausted=wrap"], "data.exhausted", "cycle, stop, renormalise"),
        (["data.max_epochs=0"], "data.max_epochs", "at least 1"),
        (["data.exhausted=stop", "data.max_epochs=2"], "data.max_epochs", "begin anew"),
        (
            ["data.sources.terms.epochs=0", "data.sources.titles.epochs=0"],
            "data.sources",
            "every weight is 0",
        ),
    ],
)
def test_epochs_and_the_end_of_a_source_are_checked(
    arguments: list[str], path: str, text: str
) -> None:
    found = problems("data=icd10", *arguments)
    assert any(where == path and text in what for where, what in found), found


def point_of(**settings: Any) -> dict[str, Any]:
    return {f"data.sources.{name}.weight": share for name, share in settings.items()}


def test_the_first_two_trials_differ_in_the_mix_alone() -> None:
    knob = Knob(path="data.sources", type="simplex", simplex=["a", "b"])
    object.__setattr__(knob, "natural", {"a": 0.9, "b": 0.1})
    space = {"mix": knob, "lr": Knob(path="optim.lr", type="uniform", low=0.1, high=0.9)}
    points = Points(space, 3)
    first, second, third = (points[index] for index in (1, 2, 3))
    assert point_of(a=0.9, b=0.1).items() <= first.items()
    assert point_of(a=0.5, b=0.5).items() <= second.items()
    assert first["optim.lr"] == second["optim.lr"] != third["optim.lr"]
    assert Points(space, 3)[3] == third
