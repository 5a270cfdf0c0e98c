"""How hypothesis draws here: the same examples in every run, and no clock that decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, settings

Made = TypeVar("Made")

drawn = settings(
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def attempt(call: Callable[[], Made], refusal: type[Exception]) -> Made | Exception:
    """What a call makes, or the refusal that it raises; anything else that it raises goes on."""
    try:
        return call()
    except refusal as error:
        return error
