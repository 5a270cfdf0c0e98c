"""The command of a sweep with other settings, ready to paste. Pure."""

from __future__ import annotations

import shlex

ANY = "python -m orchestrator"


def with_settings(command: str | None, *settings: str) -> str:
    """`command` with these settings in place of earlier ones of the same name."""
    try:
        words = shlex.split(command or ANY)
    except (ValueError, TypeError, AttributeError):  # a disk has changed what was kept of it
        words = shlex.split(ANY)
    names = {setting.lstrip("+").partition("=")[0] for setting in settings}
    rest = [word for word in words if word.lstrip("+").partition("=")[0] not in names]
    return shlex.join([*rest, *settings])
