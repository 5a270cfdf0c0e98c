"""What holds for any settings: they make a configuration or a list of problems, and a text is kept
as it was typed.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.compose import compose
from orchestrator.config.dotted_paths import assign, leaves
from orchestrator.errors import ConfigError
from tests.support.properties import attempt, drawn
from tests.support.settings import build

PLAIN = compose(["model=tiny", "+sweep=lora"], None)
PATHS = sorted(path for path in leaves(PLAIN) if not path.startswith(("data.sources", "storage")))
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(("auto", "lora", "none", "1e-3", "cpu")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=50)


@drawn
@given(st.dictionaries(st.sampled_from(PATHS), VALUES, min_size=1, max_size=3))
def test_any_values_make_a_configuration_or_named_problems(values: dict[str, Any]) -> None:
    raw = compose(["model=tiny", "+sweep=lora"], None)
    for path, value in values.items():
        assign(raw, path, value)
    made = attempt(lambda: build(raw), ConfigError)
    if isinstance(made, ConfigError):
        assert made.problems
        assert all(path and text for path, text in made.problems)


@drawn
@given(TEXTS)
def test_an_instruction_is_kept_as_it_was_typed(text: str) -> None:
    raw = compose(["model=tiny", f"data.instruction={text}"], None)
    assert raw["data"]["instruction"] == text


@drawn
@given(st.integers(1, 10**6), st.integers(1, 1024), st.floats(1e-9, 1.0))
def test_a_number_is_read_as_it_was_typed(steps: int, rank: int, rate: float) -> None:
    raw = compose([f"train.steps={steps}", f"adapter.rank={rank}", f"optim.lr={rate!r}"], None)
    assert (raw["train"]["steps"], raw["adapter"]["rank"]) == (steps, rank)
    assert raw["optim"]["lr"] == pytest.approx(rate, rel=1e-15)
