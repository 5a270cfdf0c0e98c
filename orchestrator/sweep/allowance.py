"""What a budget allows a running sweep: which trials it admits, who goes on, when it is over.

At each look the time that is left is compared with what the trials that train need for their next
evaluation, and the judgement after it:

- a trial that would not come to its first evaluation is not admitted, nor is any after it;
- where those that train do not all come to their next one, the leaders alone go on to it;
- where the leaders do not either, and some trial has a score, training is over: what is best so far
  is judged.

Whoever trains is never ended without any score of the sweep: one trial comes to its first rung even
where that goes over the limit, by the tolerance at most.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from orchestrator.plan.budget import tolerance_seconds, training_tokens
from orchestrator.storage.spending import Spending

if TYPE_CHECKING:
    from orchestrator.plan.timing import Timing

FEW_SECONDS = 3.0
"""A rung that has begun may be late by so much, and by SLACK of it, before trials are ended for
it.
"""
SLACK = 0.25
MOST_CORRECTION = 3.0
FINAL_START_SECONDS = 10.0
"""From one training to the next one on a Ray that runs."""
Needed = tuple[float, int]
"""Seconds until the next evaluation, and steps of all trials together."""


class TrialPace:
    """How fast one trial has been since its last evaluation."""

    def __init__(self, step: int) -> None:
        self.step = step
        """The last step that is told."""
        self.first: tuple[float, int] | None = None
        self.last: tuple[float, int] | None = None

    def tell(self, seconds: float, step: int) -> None:
        """A step, and the worker's clock at it."""
        self.step = max(step, self.step)
        is_again = self.last is not None and step <= self.last[1]
        self.last = seconds, step
        if self.first is None or is_again:
            self.first = self.last

    def evaluated(self, step: int) -> None:
        """The trial has met the validation rows at a step."""
        self.step = max(step, self.step)
        self.first = self.last = None

    @property
    def seconds(self) -> float | None:
        """Seconds for a step; None before two of them are told."""
        if self.first is None or self.last is None or self.last[1] <= self.first[1]:
            return None
        return max(self.last[0] - self.first[0], 0.0) / (self.last[1] - self.first[1])


class Allowance:
    """A budget's rule over the state of one sweep. Without a budget it allows everything."""

    def __init__(self, sweep_state: Any, spending: Spending | None) -> None:
        self.sweep_state = sweep_state
        self.spending = spending
        self.closed = False
        """Whether no more trials are admitted."""
        self.not_admitted: set[int] = set()
        self.cut: set[int] = set()
        """Trials that end where they are, since the leaders alone go on."""
        self.over = False
        """Whether all training ends."""
        self.has_score = False
        self.limit: str | None = None
        """The limit that has ended something, by its name in Budget."""
        self.paces: dict[int, TrialPace] = {}
        self.batch_sizes: dict[int, int] = {}
        self.step_seconds: float | None = None
        """Seconds for a step of the trials that train at once, as observed last."""
        self.evaluation_seconds: float | None = None

    @property
    def limits(self) -> Spending | None:
        """The meter, where there is a limit."""
        spending = self.spending
        return spending if spending is not None and spending.budget.is_set else None

    def tell_step(
        self, index: int, milliseconds: int, step: int, metrics: dict[str, float]
    ) -> None:
        """A step of a trial, each time that it is trained: after a kill some are trained again."""
        if self.spending is None:
            return
        examples = metrics.get("train/examples_per_second", 0.0)
        if examples > 0 and math.isfinite(examples):
            each = metrics.get("train/tokens_per_second", 0.0) / examples
            self.spending.tokens += each * self.batch_size(index)
        self.pace(index).tell(milliseconds / 1000, step)

    def batch_size(self, index: int) -> int:
        """Examples of a step of a trial; looked up once, since each step asks."""
        if index not in self.batch_sizes:
            self.batch_sizes[index] = self.sweep_state.trained(index).train.batch_size
        return self.batch_sizes[index]

    def tell_report(self, index: int, step: int) -> None:
        """A trial has been evaluated."""
        pace = self.pace(index)
        if pace.last is not None and pace.last[1] == step:
            self.evaluation_seconds = max(time.time() - pace.last[0], 0.0)
        if pace.seconds is not None:
            self.step_seconds = pace.seconds
        pace.evaluated(step)

    def pace(self, index: int) -> TrialPace:
        """The pace of a trial, from where its records have it."""
        if index not in self.paces:
            record = self.sweep_state.records.get(index)
            checkpoints = [] if record is None else [*record.reports, *record.checkpoints]
            self.paces[index] = TrialPace(max(checkpoints, default=0))
        return self.paces[index]

    def admits(self, index: int) -> bool:
        """Whether a trial that has not begun may start. One that has is continued: whether it goes
        on is seen while it trains.
        """
        if self.limits is None or self.has_begun(index) or self.sweep_state.steering.closed:
            return True  # of the finalists all start or none: what they take was looked at before
        running = self.running()
        if not running and not self.scored() and not self.sweep_state.slots_taken:
            return not self.over
        if self.closed or self.over:
            return False
        first = min(self.sweep_state.config.train.eval_every, self.sweep_state.config.train.steps)
        needed = self.for_steps(len(self.sweep_state.slots_taken) + 1, first)
        if not self.paces:
            needed = needed[0] + self.start_left(), needed[1]
        if self.fits(needed):
            return True
        self.close()
        return False

    def has_ended(self, index: int) -> bool:
        """Whether the budget ends a trial where it is."""
        return self.over or index in self.cut

    def has_begun(self, index: int) -> bool:
        """Whether something of a trial is known from before."""
        earlier = self.sweep_state.earlier.get(index)
        return earlier is not None and bool(earlier.reports or earlier.checkpoints)

    def close(self) -> None:
        """Admit no more trials."""
        if not self.closed:
            self.closed = True
            self.sweep_state.screen.note(f"{self.reason()}: no more trials are started")

    def look(self) -> None:
        """Compare what is left with what is needed, and decide who goes on."""
        if self.limits is None or self.over or self.sweep_state.halted:
            return
        running, scored = self.running(), self.scored()
        if not running:
            if scored and not self.fits((0.0, 0)):
                self.end()
            return
        if self.ends_late(scored):
            return
        if any(self.awaits_report(index) for index in running):
            return
        slack = self.slack(running)
        if not self.fits(self.needed(running), slack):
            leaders = self.leaders(running, slack)
            others = set(running) - set(leaders)
            if others:
                self.let_lead(leaders, others)
            if scored and not self.fits(self.needed(leaders), slack):
                self.end()

    def ends_late(self, scored: bool) -> bool:
        """End what is over a limit of time by more than its tolerance, whatever is still to come of
        it; whether that was so. Of a sweep with a score the judgement has to end by then.
        """
        assert self.limits is not None
        left, name = self.limits.left_seconds()
        left += tolerance_seconds(self.whole_seconds())
        if left >= (self.judging_seconds() if scored else 0.0):
            return False
        self.limit = name
        if scored:
            self.end()
        else:
            self.sweep_state.abort_reason = (
                f"{self.reason()}, and no trial has come to its first rung; raise it, or lower "
                "train.eval_every: what is done is kept"
            )
        return True

    def let_lead(self, leaders: list[int], others: set[int]) -> None:
        """End the trials that are not among the leaders."""
        first = not self.cut
        self.cut |= others
        self.closed = True
        if first:
            names = " and ".join(map(str, leaders))
            trials = "trials" if len(leaders) > 1 else "trial"
            self.sweep_state.screen.note(
                f"{self.reason()}: of those that train {trials} {names} alone to the next "
                "evaluation"
            )

    def end(self) -> None:
        """Training is over."""
        self.over = self.closed = True
        self.sweep_state.screen.note(f"{self.reason()}: the best so far is judged")

    def running(self) -> list[int]:
        """The trials that train now."""
        sweep_state = self.sweep_state
        return sorted(
            index
            for index in sweep_state.slots_taken
            if index in sweep_state.started
            and index not in sweep_state.ended
            and index not in self.cut
        )

    def scored(self) -> bool:
        """Whether some trial has a score."""
        sweep_state = self.sweep_state
        self.has_score = self.has_score or any(
            sweep_state.rank(record) is not None for record in sweep_state.asked_for()
        )
        return self.has_score

    def awaits_report(self, index: int) -> bool:
        """Whether a trial is at an evaluation of which its report is still to come."""
        step = self.pace(index).step
        record = self.sweep_state.records.get(index)
        is_reported = record is not None and step in record.reports
        return step > 0 and self.to_evaluation(step - 1) == 1 and not is_reported

    def to_evaluation(self, step: int) -> int:
        """Steps from one step to the next evaluation."""
        train = self.sweep_state.config.train
        return max(min((step // train.eval_every + 1) * train.eval_every, train.steps) - step, 0)

    def leaders(self, running: list[int], slack: float) -> list[int]:
        """The best of those that train: one in sweep.reduction, and fewer down to one where so many
        do not fit. Without scores the first ones, which begin where most is known.
        """
        sweep_state = self.sweep_state
        ranks = {index: sweep_state.rank(sweep_state.records[index]) for index in running}
        order = sorted(
            running, key=lambda index: (ranks[index] or (-math.inf,), -index), reverse=True
        )
        count = len(order)
        while count > 1 and not self.fits(self.needed(order[:count]), slack):
            count = math.ceil(count / sweep_state.config.sweep.reduction)
        return sorted(order[:count])

    def needed(self, running: list[int]) -> Needed:
        """What these trials need for their next evaluation."""
        steps = [self.to_evaluation(self.pace(index).step) for index in running]
        seconds, _ = self.for_steps(len(running), max(steps, default=0))
        return seconds, sum(steps)

    def for_steps(self, trials: int, steps: int) -> Needed:
        """What so many steps of trials that train at once take, and an evaluation after them."""
        timing: Timing | None = self.sweep_state.plan.timing
        if timing is None:
            return 0.0, trials * steps
        at_once = max(1, min(trials, self.sweep_state.plan.resources.concurrent))
        done = max((self.pace(index).step for index in self.running()), default=0)
        fresh = timing.fresh(done, done + steps)
        each = timing.step_seconds(at_once, fresh)
        evaluation = timing.evaluation_seconds(at_once, True)
        observed = self.observed_step()
        if observed is not None:
            each = observed * each / timing.step_seconds(max(1, len(self.running())), fresh)
        if self.evaluation_seconds is not None:
            evaluation = self.evaluation_seconds
        return steps * each + evaluation, trials * steps

    def observed_step(self) -> float | None:
        """Seconds for a step of those that train now."""
        paces = [
            seconds for index in self.running() if (seconds := self.pace(index).seconds) is not None
        ]
        if paces:
            self.step_seconds = statistics.median(paces)
        return self.step_seconds

    def fits(self, needed: Needed, slack: float = 0.0) -> bool:
        """Whether there is enough left for so much training and the judgement."""
        limits = self.limits
        if limits is None:
            return True
        seconds, steps = needed
        left, name = limits.left_seconds()
        if seconds + self.judging_seconds() > left + slack:
            self.limit = name
            return False
        timing: Timing | None = self.sweep_state.plan.timing
        if limits.budget.tokens is not None and timing is not None:
            tokens = training_tokens(timing, steps)
            if tokens > max(limits.tokens_left(), 0.0) or limits.tokens_left() <= 0:
                self.limit = "tokens"
                return False
        return True

    def slack(self, running: list[int]) -> float:
        """By how much a rung that has begun may be late: none where it has not."""
        every = self.sweep_state.config.train.eval_every
        if all(self.pace(index).step % every == 0 for index in running):
            return 0.0
        most = tolerance_seconds(self.whole_seconds()) / 2
        return min(FEW_SECONDS + SLACK * self.for_steps(len(running), every)[0], most)

    def judging_seconds(self) -> float:
        """What comes after the training: as the plan has it, and longer where this command was slow
        to start, too.
        """
        timing: Timing | None = self.sweep_state.plan.timing
        return 0.0 if timing is None else timing.judging_seconds() * self.slowness()

    def slowness(self) -> float:
        """How much longer starting has taken than was planned."""
        timing: Timing | None = self.sweep_state.plan.timing
        left = getattr(self.sweep_state.screen, "left", None)
        if timing is None or left is None or left.first is None:
            return 1.0
        ratio = (left.first[0] - left.began) / max(timing.start_seconds(1, 1), 1.0)
        return min(max(ratio, 1.0), MOST_CORRECTION)

    def start_left(self) -> float:
        """What is left of the start, before the first step."""
        timing: Timing | None = self.sweep_state.plan.timing
        assert self.spending is not None
        passed = self.spending.clock() - self.spending.began
        return 0.0 if timing is None else max(timing.start_seconds(1, 1) - passed, 0.0)

    def pays_for(self, remaining_steps: Iterable[int]) -> bool:
        """Whether runs that lack so many steps each can be trained to their end, on their own."""
        steps = list(remaining_steps)
        seconds, _ = self.for_steps(len(steps), max(steps, default=0))
        every = self.sweep_state.config.train.eval_every
        evaluations = max(steps, default=0) // every * (self.evaluation_seconds or 0.0)
        return self.fits((seconds + evaluations + FINAL_START_SECONDS, sum(steps)))

    def whole_seconds(self) -> float:
        """The command's time from its start to the limit."""
        assert self.spending is not None
        left, _ = self.spending.left_seconds()
        passed = self.spending.clock() - self.spending.began
        return passed if math.isinf(left) else left + passed

    def take_over(self, later: Allowance) -> None:
        """Bring in what the budget has ended of the finalists' training."""
        self.over |= later.over
        self.closed |= later.closed
        self.limit = later.limit or self.limit

    def reason(self) -> str:
        """The limit that ends something, in words."""
        assert self.spending is not None
        budget = self.spending.budget
        if self.limit is None:
            return "the budget is spent"
        limit = getattr(budget, self.limit)
        shown = limit if isinstance(limit, str) else f"{limit:g}"
        left = self.spending.tokens_left()
        if self.limit != "tokens":
            left, _ = self.spending.left_seconds()
        return f"budget.{self.limit}={shown} is {'spent' if left <= 0 else 'all but spent'}"
