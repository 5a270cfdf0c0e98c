"""The description that MLflow shows of a version: the card with the decision, at most as long as it
takes.
"""

from __future__ import annotations

import pytest

from orchestrator.evaluation import model_card

REASONS = ("it does not beat the champion: 0.2 against 0.3", "its 0.2 does not reach the floor")


@pytest.mark.parametrize("length", [10, 1_000_000])
def test_each_reason_is_an_entry_of_a_list_also_where_the_card_is_cut(length: int) -> None:
    text = model_card.description("x" * length, False, REASONS)
    assert len(text) <= max(model_card.LONGEST_DESCRIPTION, 200)
    ending = "It did not take the alias champion:\n\n" + "".join(f"- {r}\n" for r in REASONS)
    assert text.endswith(f"## Decision\n\n{ending}")
    assert ("cut; the whole card" in text) == (length > 1000)
