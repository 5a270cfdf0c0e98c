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


SERVER = ["synthesis.teacher.url=http://127.0.0.1:9/v1{}", "synthesis.teacher.model=m"]


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("?api_key=canary4711", "{}"),
        ("?api-version=1&key=canary4711", "{}"),
        ("", "{api_key: canary4711}"),
        ("", "{extra: {headers: {Authorization: canary4711}}}"),
        ("", "{auth_token: canary4711}"),
    ],
)
def test_a_teachers_key_stands_in_no_setting_that_is_kept(query: str, body: str) -> None:
    settings = [text.format(query) for text in SERVER]
    arguments = [*TINY, *settings, f"synthesis.teacher.body={body}"]
    with pytest.raises(ConfigError, match=r"must not hold .* synthesis\.teacher\.key names") as it:
        build(compose(arguments, None), typed_settings(arguments))
    assert "canary4711" not in str(it.value)


def test_a_teachers_other_fields_are_taken() -> None:
    settings = [text.format("?api-version=2024-06-01") for text in SERVER]
    body = "{max_tokens: null, max_completion_tokens: 9, stop_token_ids: [1], prompt_cache_key: ''}"
    arguments = [*TINY, *settings, f"synthesis.teacher.body={body}"]
    config = build(compose(arguments, None), typed_settings(arguments))
    assert config.synthesis.teacher.body["max_completion_tokens"] == 9
