"""retry=failed is the switch retry=true, named after what it does."""

from __future__ import annotations

import pytest

from orchestrator.config.compose import compose
from orchestrator.errors import ConfigError
from tests.support.settings import build


@pytest.mark.parametrize(
    ("typed", "again"),
    [
        ("retry=failed", True),
        ("retry=true", True),
        ("retry=yes", True),
        ("retry=false", False),
        (None, False),
    ],
)
def test_failed_trials_are_retried_on_request(typed: str | None, again: bool) -> None:
    assert build(compose(["model=tiny", *([typed] if typed else [])], None)).retry is again


def test_any_other_word_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        build(compose(["model=tiny", "retry=all"], None))
    assert caught.value.problems == [("retry", "must be failed, true or false, got 'all'")]
