"""From drafts to rows: asks teacher and judge, keeps every reply, and lets rows through the filters
in the order of their drafts.

Implementation notes
--------------------
Drafts follow from the settings alone, and a reply that the journal holds is never asked for again.
What becomes of a draft is decided in the drafts' order, whatever order the replies come in: a
command that was killed and started again ends with the rows of one that was not. No draft is begun
that the wanted rows do not need, those under way counted as if they passed; but a local model
answers a batch in about the time of one, so its batches are full, and what is not needed is left.
"""

from __future__ import annotations

import queue
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from jobs.synthesis.answer_journal import Journal
from jobs.synthesis.drafts import Ask, Candidate, Draft, Rejected, Reply, Work
from jobs.synthesis.filters import NewRows, RowFilters, with_provenance
from jobs.synthesis.judges import agrees, question_to
from jobs.synthesis.recipes import Recipe
from jobs.synthesis_settings import Synthesis

FAILED = "teacher failed"
CUT = "cut off"
UNCLEAR = "judge unclear"
MOST_UNJUDGED = 64
"""Rows that wait for the judge, at which no further draft is begun."""
TOLD_SECONDS = 5.0
"""Seconds between two lines of progress."""
WAIT_SECONDS = 1.0
"""For a reply, before the limits are looked at again."""


class Client(Protocol):
    """Who answers requests: a server, or a model here."""

    is_local: bool
    name: str

    @property
    def identity(self) -> str: ...

    def free(self) -> int: ...

    def submit(self, ask: Ask) -> None: ...

    def received(self) -> None: ...

    def close(self) -> None: ...

    def figures(self) -> dict[str, int]: ...


class Limits(Protocol):
    """What may be spent."""

    def why_over(self, tally: Tally, num_rows: int, asks: bool) -> str: ...


@dataclass
class Tally:
    """What was asked and what came of it."""

    drafts: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """The first thing that was rejected, by reason."""
    requests: int = 0
    """Made by this command."""
    taken_over: int = 0
    """Of an earlier one, from the journal."""
    input_tokens: int = 0
    output_tokens: int = 0
    estimated_tokens: bool = False
    judge_requests: int = 0
    judge_input_tokens: int = 0
    judge_output_tokens: int = 0
    seconds: float = 0.0


@dataclass
class Outcome:
    """The rows, and what it took."""

    rows: list[dict[str, Any]]
    tally: Tally
    rejected: list[dict[str, Any]]
    figures: dict[str, float]
    pace: dict[str, int]
    """How a server was asked; empty for a local model."""
    ended: str = ""
    """Why there are fewer rows than wanted."""


class Synthesizer:
    """One command's work on one folder."""

    def __init__(
        self,
        settings: Synthesis,
        recipe: Recipe,
        filters: RowFilters,
        journal: Journal,
        task: str,
        done: queue.Queue[Any],
        teacher: Client | None,
        judge: Client | None,
        say: Callable[[str], None],
        limits: Limits,
    ) -> None:
        self.settings = settings
        self.recipe = recipe
        self.filters = filters
        self.journal = journal
        self.task = task
        self.done = done
        self.teacher = teacher
        self.judge = judge
        self.judge_is_student = settings.judge is not None and settings.judge.version is not None
        self.say = say
        self.limits = limits
        self.tally = Tally()
        self.new_rows = NewRows(settings.filters.diversity, settings.recipe)
        self.rows: list[dict[str, Any]] = []
        self.rejected: list[dict[str, Any]] = []
        self.under_way: dict[int, Work] = {}
        self.by_ask: dict[str, Work] = {}
        self.to_teacher: list[Ask] = []
        self.to_judge: list[Ask] = []
        self.in_flight = 0
        self.begun = 0
        self.next_index = 0
        """The draft whose turn it is to be decided."""
        self.rejected_in_a_row = 0
        self.ended = ""
        self.told_at = time.monotonic()

    def run(self, wanted: int) -> Outcome:
        """Make so many rows, or as many as there can be. Raises what the clients raise; what was
        answered until then is kept.
        """
        began = time.monotonic()
        drafts = self.recipe.drafts()
        try:
            while self.more(wanted, drafts):
                self.collect()
        finally:
            self.tally.seconds += time.monotonic() - began
            for client in (self.teacher, self.judge):
                if client is not None:
                    client.close()
            self.journal.close()
        pace = {} if self.teacher is None else self.teacher.figures()
        figures = self.new_rows.figures()
        return Outcome(self.rows, self.tally, self.rejected, figures, pace, self.ended)

    def more(self, wanted: int, drafts: Iterator[Draft]) -> bool:
        """Begin what can be begun; says whether anything is to be waited for."""
        most = wanted * self.settings.tries
        while True:
            self.decide(wanted)
            if not self.ended and len(self.rows) < wanted:
                asks = bool(self.in_flight or self.to_judge or self.to_teacher)
                self.ended = self.limits.why_over(self.tally, len(self.rows), asks)
            if self.ended or len(self.rows) >= wanted:
                return False
            self.send(self.to_judge, self.judge)
            self.send(self.to_teacher, self.teacher)
            if self.begun >= most or not self.has_room(wanted):
                break
            self.begun += 1
            work = Work(next(drafts))
            self.under_way[work.draft.index] = work
            self.advance(work)
        if not self.under_way:
            self.ended = f"{most:,} drafts were made (synthesis.tries={self.settings.tries})"
        return bool(self.under_way)

    def has_room(self, wanted: int) -> bool:
        """Whether a further draft is to be begun now: one that is needed, or that a local model
        answers along with others.
        """
        if self.to_teacher or len(self.to_judge) > MOST_UNJUDGED:
            return False
        missing = wanted - len(self.rows)
        if self.teacher is not None and self.teacher.is_local:
            missing = max(missing, self.teacher.free() + self.in_flight)
        return len(self.under_way) < missing

    def send(self, asks: list[Ask], client: Client | None) -> None:
        """Hand a client as many requests as it takes."""
        while asks and client is not None and client.free() > 0:
            client.submit(asks.pop(0))
            self.in_flight += 1

    def collect(self) -> None:
        """Wait for a reply, and take all that are there. Local models answer when nothing else is
        under way, or when they have gathered enough.
        """
        for client in (self.teacher, self.judge):
            if client is not None and client.is_local:
                client.answer_gathered()  # pyright: ignore[reportAttributeAccessIssue]
        if self.in_flight:
            try:
                entry = self.done.get(timeout=WAIT_SECONDS)
            except queue.Empty:
                return
            self.take(*entry)
        while self.in_flight:
            try:
                entry = self.done.get_nowait()
            except queue.Empty:
                break
            self.take(*entry)
        self.tell()

    def take(self, ask: Ask | None, reply: Reply | BaseException) -> None:
        """One reply: on disk first, then on with its draft."""
        if ask is None or isinstance(reply, BaseException):
            assert isinstance(reply, BaseException)
            raise reply
        work = self.by_ask.pop(ask.name)
        client = self.judge if ask.name.endswith(".judge") else self.teacher
        assert client is not None
        client.received()
        self.in_flight -= 1
        if not reply.error:
            self.journal.keep(ask, client.identity, reply)
        self.tally.requests += 1
        self.use(work, ask, reply)
        self.advance(work)

    def use(self, work: Work, ask: Ask, reply: Reply) -> None:
        """What a reply means for its draft."""
        tally = self.tally
        tally.estimated_tokens |= not reply.counted
        if ask.name.endswith(".judge"):
            tally.judge_requests += 1
            tally.judge_input_tokens += reply.input_tokens
            tally.judge_output_tokens += reply.output_tokens
            self.judged(work, reply)
            return
        tally.input_tokens += reply.input_tokens
        tally.output_tokens += reply.output_tokens
        if reply.error:
            self.reject(work, Rejected(FAILED, reply.error))
        elif not reply.text.strip():
            self.reject(work, Rejected("empty"))
        elif reply.finish == "length":
            limit = self.settings.teacher.max_new_tokens
            self.reject(work, Rejected(CUT, f"after {limit} tokens: {reply.text[:120]!r}"))
        else:
            work.replies.append(reply.text)

    def advance(self, work: Work) -> None:
        """Take a draft as far as it goes without waiting."""
        while not work.is_done:
            if work.candidate is not None:
                ask, client, queued = self.judge_ask(work), self.judge, self.to_judge
            else:
                step = self.recipe.advance(work.draft, work.replies)
                if isinstance(step, Rejected):
                    self.reject(work, step)
                    return
                if isinstance(step, Candidate):
                    self.check(work, step)
                    continue
                ask, client, queued = step, self.teacher, self.to_teacher
            if ask is None or client is None:
                work.is_done = True
                return
            reply = self.journal.reply_to(ask, client.identity)
            if reply is None:
                self.by_ask[ask.name] = work
                queued.append(ask)
                return
            self.tally.taken_over += 1
            self.use(work, ask, reply)

    def check(self, work: Work, candidate: Candidate) -> None:
        """Let a candidate through the filters that look at it alone."""
        work.candidate = candidate
        rejected = self.filters.check(work.draft, candidate, work)
        if rejected is not None:
            self.reject(work, rejected)
        elif self.judge is None:
            work.is_done = True

    def judge_ask(self, work: Work) -> Ask | None:
        """What the judge is asked."""
        if self.judge is None or work.row is None:
            return None
        return question_to(work, self.task, work.row, self.judge_is_student)

    def judged(self, work: Work, reply: Reply) -> None:
        """The judge's verdict."""
        assert work.candidate is not None
        if reply.error:
            self.reject(work, Rejected(UNCLEAR, reply.error))
            return
        verdict = agrees(reply.text, work.candidate.answer, self.judge_is_student)
        work.scores["judge"] = float(bool(verdict))
        if verdict is None:
            self.reject(work, Rejected(UNCLEAR, reply.text[:120]))
        elif not verdict:
            detail = f"{reply.text[:60]!r} for {work.candidate.answer[:60]!r}"
            self.reject(work, Rejected("judge", detail))
        work.is_done = True

    def reject(self, work: Work, reason: Rejected) -> None:
        """No row comes of a draft."""
        work.rejected = reason
        work.is_done = True

    def decide(self, wanted: int) -> None:
        """Let finished drafts become rows, in order, until there are enough."""
        while len(self.rows) < wanted:
            work = self.under_way.get(self.next_index)
            if work is None or not work.is_done:
                return
            del self.under_way[self.next_index]
            self.next_index += 1
            self.tally.drafts = self.next_index
            rejected = work.rejected or self.new_rows.check(work)
            if rejected is not None:
                self.count(work, rejected)
                if self.ended:
                    return
                continue
            self.rejected_in_a_row = 0
            teacher = "none" if self.teacher is None else self.teacher.name
            self.rows.append(with_provenance(work, teacher, self.settings.recipe))

    def count(self, work: Work, rejected: Rejected) -> None:
        """Count a row that was rejected; too many in a row are the end."""
        self.tally.rejected[rejected.reason] += 1
        self.tally.examples.setdefault(rejected.reason, rejected.detail)
        question = "" if work.candidate is None else work.candidate.question
        self.rejected.append(
            {
                "draft": work.draft.index,
                "reason": rejected.reason,
                "detail": rejected.detail,
                "seed": work.draft.origin,
                "prompt": question,
            }
        )
        self.rejected_in_a_row += 1
        if self.rejected_in_a_row >= self.settings.give_up_after:
            self.ended = (
                f"{self.rejected_in_a_row} drafts in a row were rejected "
                f"(synthesis.give_up_after={self.settings.give_up_after})"
            )

    def tell(self) -> None:
        """A line of progress every few seconds."""
        if time.monotonic() - self.told_at < TOLD_SECONDS:
            return
        self.told_at = time.monotonic()
        rejected = self.tally.rejected.total()
        self.say(
            f"{len(self.rows):,} of {self.settings.rows:,} rows, {rejected:,} rejected, "
            f"{len(self.under_way):,} under way"
        )
