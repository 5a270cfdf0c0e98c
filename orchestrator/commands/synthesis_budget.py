"""What a budget allows job=synthesize: minutes of the command, and money by the teacher's and the
judge's prices. At a limit it ends in order, with the rows so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from jobs.files.json_types import JsonObject
from jobs.synthesis.synthesizer import Tally
from orchestrator.commands.synthesis_job import Job
from orchestrator.commands.synthesis_report import cost


class SynthesisBudget:
    """The limits of one command. Replies of earlier ones count as money, since they were paid."""

    def __init__(self, job: Job, clock: Callable[[], float] = time.monotonic) -> None:
        self.job = job
        self.limits = job.config.budget.amounts()
        self.clock = clock
        self.began = clock()

    def why_over(self, tally: Tally, num_rows: int, asks: bool) -> str:
        """The limit that is reached and what all rows would likely take, in words; empty before.
        `asks` is whether another request is to be made: what is answered already costs nothing.
        """
        spent = {"minutes": (self.clock() - self.began) / 60}
        if asks:
            spent["money"] = cost(tally, self.job)["price"] or 0.0
        for name, amount in spent.items():
            limit = self.limits.get(name)
            if limit is None or amount < limit:
                continue
            told = f"budget.{name}={limit:g} is spent"
            if not num_rows:
                return told
            whole = amount * self.job.settings.rows / num_rows
            return f"{told}; budget.{name}={whole:.2g} would likely pay them all"
        return ""


def is_wider(earlier: JsonObject, job: Job) -> bool:
    """Whether a budget that has ended an earlier command is another one now."""
    ended = str(earlier.get("ended") or "")
    return ended.startswith("budget.") and earlier.get("budget") != job.config.budget.amounts()
