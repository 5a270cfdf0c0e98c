"""What a sweep has spent: time, the machines that it held for that time, what they cost, and the
tokens that it trained on.

The figures go through the journal as metrics of the whole sweep, cumulative over all its commands:
so MLflow has them, whoever looks on reads them, and the next command counts on from them. A command
that is killed loses at most the figures of its last RECORD_SECONDS.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from jobs.files.json_types import JsonObject
from orchestrator.config.budget import UNITS, Budget, Prices
from orchestrator.storage.journal import Journal

PREFIX = "spent/"
RECORD_SECONDS = 10.0
HOUR = 3600.0


@dataclass(frozen=True)
class Spent:
    """Amounts by the names of the limits in Budget."""

    minutes: float = 0.0
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    money: float = 0.0
    tokens: float = 0.0

    def metrics(self) -> dict[str, float]:
        """The amounts as metrics; what is not spent at all is left out."""
        amounts = {name: getattr(self, name) for name in UNITS}
        return {
            f"{PREFIX}{name}": round(amount, 6) for name, amount in amounts.items() if amount > 0
        }

    def words(self, names: Iterable[str] = UNITS) -> str:
        """ "1.2 min, 0.04 CPU core hours"."""
        amounts_in_words = [
            f"{getattr(self, name):.3g} {UNITS[name]}"
            if name != "tokens"
            else f"{self.tokens:,.0f} {UNITS[name]}"
            for name in names
            if getattr(self, name) > 0
        ]
        return ", ".join(amounts_in_words) or "nothing"


def spent_of(metrics: Mapping[str, object]) -> Spent | None:
    """What an event's metrics tell of the spending; None where they tell nothing of it."""
    amounts: dict[str, float] = {}
    for name in UNITS:
        amount = metrics.get(f"{PREFIX}{name}")
        if isinstance(amount, int | float) and 0 <= amount < float("inf"):
            amounts[name] = float(amount)
    return Spent(**amounts) if amounts else None


def spent_before(events: Iterable[JsonObject]) -> Spent:
    """What the commands of a sweep have spent until now, by its journal."""
    newest = Spent()
    for event in events:
        if event["kind"] == "metrics" and event.get("trial") is None:
            newest = spent_of(event.get("metrics") or {}) or newest
    return newest


class Spending:
    """The meter of one command; it counts on from what earlier commands of the sweep have spent.

    `cpus` and `gpus` are what its workers hold from its start to its end.
    """

    def __init__(
        self,
        budget: Budget,
        prices: Prices,
        cpus: float,
        gpus: float,
        began: float,
        before: Spent | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`began` is when the command started, a moment of `clock`."""
        self.budget = budget
        self.prices = prices
        self.cpus = cpus
        self.gpus = gpus
        self.began = began
        self.before = before or Spent()
        self.clock = clock
        self.tokens = 0.0
        self.recorded_step = -1

    def now(self) -> Spent:
        """What all commands have spent."""
        hours = max(self.clock() - self.began, 0.0) / HOUR
        before = self.before
        return Spent(
            minutes=before.minutes + 60 * hours,
            cpu_hours=before.cpu_hours + hours * self.cpus,
            gpu_hours=before.gpu_hours + hours * self.gpus,
            money=before.money + hours * self.prices.per_hour(self.cpus, self.gpus),
            tokens=before.tokens + self.tokens,
        )

    def per_second(self, name: str) -> float:
        """By how much an amount grows in a second of the command, whatever it does."""
        rates = {
            "minutes": 1 / 60,
            "cpu_hours": self.cpus / HOUR,
            "gpu_hours": self.gpus / HOUR,
            "money": self.prices.per_hour(self.cpus, self.gpus) / HOUR,
        }
        return rates.get(name, 0.0)

    def left_seconds(self) -> tuple[float, str | None]:
        """How long the command may still run by its limits on time and machines, and which of them
        ends it first; infinity and None without one.
        """
        spent = self.now()
        left = {
            name: (limit - getattr(spent, name)) / self.per_second(name)
            for name, limit in self.budget.amounts().items()
            if self.per_second(name) > 0
        }
        if self.budget.ends_at is not None:
            left["deadline"] = self.budget.ends_at - time.time()
        first = min(left, key=lambda name: left[name], default=None)
        return (float("inf"), None) if first is None else (left[first], first)

    def tokens_left(self) -> float:
        """How many tokens may still be trained on."""
        if self.budget.tokens is None:
            return float("inf")
        return self.budget.tokens - self.now().tokens

    def words(self) -> str | None:
        """What is spent of each limit, in a few words; None without a limit."""
        spent = self.now()
        amounts_in_words = [
            f"{getattr(spent, name):,.3g} of {limit:,.6g} {UNITS[name]}"
            if name != "tokens"
            else f"{spent.tokens:,.0f} of {limit:,.0f} {UNITS[name]}"
            for name, limit in self.budget.amounts().items()
        ]
        if self.budget.deadline is not None:
            amounts_in_words.append(f"{spent.minutes:.3g} min, until {self.budget.deadline}")
        return f"spent {', '.join(amounts_in_words)}" if amounts_in_words else None

    def record(self, journal: Journal) -> None:
        """Write down what is spent."""
        spent = self.now()
        step = int(60 * spent.minutes)
        if step == self.recorded_step:
            return  # a second point of one second would stand beside it in every chart
        self.recorded_step = step
        with contextlib.suppress(OSError):  # whoever trains will say so
            journal.append("metrics", trial=None, step=step, metrics=spent.metrics())

    @contextlib.contextmanager
    def recorded(self, journal: Journal) -> Iterator[None]:
        """Write it down again and again while this is open, and once at the end."""
        over = threading.Event()

        def write() -> None:
            while not over.wait(RECORD_SECONDS):
                self.record(journal)

        thread = threading.Thread(target=write, name="spending", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(RECORD_SECONDS)
            self.record(journal)
