"""What each place of runs can do, and the columns of its list."""

from __future__ import annotations

from typing import Any, Protocol

COLUMNS = ("name", "state", "trials", "best", "started", "spent", "where")


_CONTINUES = "the same command continues it"
_HINTS = {
    "died": f"its process is gone without a word (killed, or the machine went down); {_CONTINUES}",
    "interrupted": f"what is done is kept, and {_CONTINUES}",
}


def hint(state: str) -> str | None:
    """What to do about a sweep in this state; None where nothing is to be done."""
    return _HINTS.get(state)


class RunBackend(Protocol):
    """Where sweeps are: each answers the same five questions. A name that is not there is an
    InputError.
    """

    def listed(self) -> list[dict[str, Any]]:
        """One record a sweep, with the keys of COLUMNS; newest first."""
        ...

    def show(self, name: str) -> dict[str, Any]:
        """All that is known of one."""
        ...

    def watch(self, name: str) -> int:
        """Follow one to its end; returns its exit code."""
        ...

    def stop(self, name: str) -> str:
        """End one, keeping what is done; returns what happened."""
        ...

    def delete(self, name: str) -> str:
        """Remove one that has ended; returns what happened."""
        ...
