"""Settings of job=synthesize that a recipe, a teacher or a judge does not look at are refused."""

from __future__ import annotations

import pytest

from orchestrator.config.compose import compose, typed_settings
from orchestrator.errors import ConfigError
from tests.support.settings import build

TINY = ["model=tiny", "job=synthesize"]


@pytest.mark.parametrize(
    ("before", "setting", "reason"),
    [
        ([], "synthesis.languages=[German]", "recipe=paraphrase does not look at it"),
        (["synthesis.recipe=corrupt"], "synthesis.teacher.model=tiny", "needs no teacher"),
        (["synthesis.recipe=corrupt"], "synthesis.attributes.topic=[a]", "does not look at it"),
        ([], "synthesis.teacher.requests=4", "a model on this machine has no such setting"),
        (
            ["synthesis.judge.version=models:/x@champion"],
            "synthesis.judge.model=tiny",
            "the version answers as it was trained",
        ),
    ],
)
def test_a_setting_that_changes_nothing_is_refused(
    before: list[str], setting: str, reason: str
) -> None:
    arguments = [*TINY, *before, setting]
    build(compose([*TINY, *before], None), typed_settings([*TINY, *before]))
    with pytest.raises(ConfigError) as caught:
        build(compose(arguments, None), typed_settings(arguments))
    assert "has no effect" in str(caught.value) and reason in str(caught.value)
