"""Which checks of the rows are made before anything trains, and when they refuse."""

from __future__ import annotations

import difflib
from dataclasses import field

from jobs.settings_checks import config, require

CHECKS = {
    "splits": "held-out splits have rows",
    "tokens": "tokens carry loss, prompts are not cut",
    "empty": "prompts and answers say something",
    "duplicates": "no row repeats another",
    "contradictions": "no prompt has two answers",
    "text": "nothing was lost on the way from another program",
    "labels": "labels are written in one way and balanced",
    "leakage": "nothing that is held out is trained on",
    "language": "splits and sources have one language",
    "personal": "no personal data",
    "template": "the chat template keeps what the rows say",
}
"""Every check by its name, and what it looks for, in the order in which they are shown."""


@config
class Checks:
    """What is looked for in the rows before anything trains."""

    off: list[str] = field(default_factory=list)
    """Names of checks that are not made, and so refuse nothing."""
    leakage_share: float = 0.05
    """Share of a held-out split that may stand in the training files too, word for word or nearly,
    before a run is refused. A leaked share of 0.05 lifts a score by up to 0.05, which is about the
    smallest difference that some hundred held-out rows can show.
    """

    def __post_init__(self) -> None:
        require(
            *(
                (
                    name in CHECKS,
                    f"data.checks.off names {name!r}, which is no check{nearest(name)}; checks are "
                    f"{', '.join(CHECKS)}",
                )
                for name in self.off
            ),
            (
                len(set(self.off)) == len(self.off),
                f"data.checks.off must name each check once, got {', '.join(self.off)}",
            ),
            (
                0 <= self.leakage_share < 1,
                "data.checks.leakage_share must be at least 0 and below 1, got "
                f"{self.leakage_share}",
            ),
        )


def nearest(name: str) -> str:
    """ "; did you mean X?" for the check whose name is nearest, or nothing."""
    near = difflib.get_close_matches(name, CHECKS, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
