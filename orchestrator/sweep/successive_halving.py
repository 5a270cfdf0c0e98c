"""Synchronous successive halving: all trials reach a rung before the better ones go on (Jamieson
and Talwalkar, 2016). Pure.

Implementation notes
--------------------
- *Bracket*: all trials of the sweep. *Rung*: a number of steps at which they are compared; the
  last rung is the end of training and compares nobody. *Reduction* (eta): at each rung the best
  ceil(n / reduction) of n trials are promoted, the others stop:

      steps      1/9        1/3         1
      trials  1..9 ---> 3 best ---> 1 best      reduction 3, rungs at 1/9, 1/3 and the end

- *Synchronous*: a rung closes when every trial that is still in the bracket has reported there, or
  has left (failed, or ended by itself). Until then those who have reported wait. So decisions
  depend on scores at equal steps alone, never on which trial happened to be faster; ASHA, the
  asynchronous kind, would decide otherwise on another machine.
- *Stopped inside a rung* (by its losses, jobs/pack/loss_curves): a trial that others were far ahead
  of has lost that rung, and counts among its n. Else whoever is left would be thinned out twice.
- *Ties*: where a score is a share of rows, scores within two standard errors of a group's best
  count as equal and the validation loss decides, then the trial's number. A score or loss that is
  not a number ranks last.
- *Invariants*: `_alive` and `_stopped` are disjoint; `level` only grows; a trial's first score at a
  rung counts, so that a report that is told again after a restart changes nothing.
- *Cost*: n log n comparisons a rung.
"""

from __future__ import annotations

import math
from typing import Literal

Decision = Literal["go on", "wait", "stop"]


class SuccessiveHalving:
    """The state of one bracket of `num_trials` trials (by index, from 1) that are compared at
    `rungs` (steps; the last one is the end).

    `rows` is given when scores are shares of so many rows: then scores within two standard errors
    of the best one count as equal, and the loss decides. At the first rungs most shares are near 0,
    and one lucky row must not outweigh everything else.
    """

    def __init__(
        self,
        num_trials: int,
        rungs: list[int],
        reduction: int,
        maximise: bool,
        rows: int | None = None,
    ) -> None:
        self._rungs = rungs[:-1]
        self._reduction = reduction
        self._maximise = maximise
        self._rows = rows
        self._alive = set(range(1, num_trials + 1))
        self._scores: list[dict[int, tuple[float, float]]] = [{} for _ in self._rungs]
        self.level = 0
        """How many rungs have closed."""
        self._stopped: set[int] = set()
        self._outrun = 0
        """Trials that have ended inside the present rung since others were far ahead."""

    def report(self, trial: int, step: int, score: float, loss: float = 0.0) -> Decision:
        """What `trial` does after reporting `score` at `step`. Of two equal scores the lower `loss`
        is better.
        """
        for level, rung in enumerate(self._rungs):
            if step >= rung and level >= self.level and trial in self._alive:
                self._scores[level].setdefault(
                    trial, (self._rank(score), math.inf if math.isnan(loss) else loss)
                )
        self._advance()
        return self.decide(trial)

    def leave(self, trial: int, outrun: bool = False) -> None:
        """`trial` has ended by itself: nobody waits for it. One that was `outrun` inside the rung
        has lost it, and so counts among those that were compared there.
        """
        self._outrun += int(outrun and trial in self._alive)
        self._alive.discard(trial)
        self._advance()

    def decide(self, trial: int) -> Decision:
        """What `trial` may do now."""
        if trial in self._stopped:
            return "stop"
        waiting = self.level < len(self._rungs) and trial in self._scores[self.level]
        return "wait" if waiting and trial in self._alive else "go on"

    def _advance(self) -> None:
        """Close every rung that all remaining trials have reached."""
        while (
            self.level < len(self._rungs)
            and self._alive
            and self._alive <= self._scores[self.level].keys()
        ):
            scores = {trial: self._scores[self.level][trial] for trial in self._alive}
            num_promoted = math.ceil((len(scores) + self._outrun) / self._reduction)
            self._outrun = 0
            ranked = [trial for group in self._equals(scores) for trial in group]
            self._stopped |= set(ranked[num_promoted:])
            self._alive = set(ranked[:num_promoted])
            self.level += 1

    def _equals(self, scores: dict[int, tuple[float, float]]) -> list[list[int]]:
        """The trials in groups of equal scores, the best group first; within a group by loss.

        Each group holds whoever lies within two standard errors of its best. So the groups follow
        one another by score, no fixed edge runs between two neighbours, and the order is one in
        which who is before another stays before it.
        """
        groups: list[list[int]] = []
        nearest = math.nan
        reach = 0.0
        for trial in sorted(scores, key=lambda trial: scores[trial][0]):
            score = scores[trial][0]
            if not groups or not (score == nearest or score - nearest <= reach):
                groups.append([])
                nearest = score
                reach = self._two_errors(score)
            groups[-1].append(trial)
        return [sorted(group, key=lambda trial: (scores[trial][1], trial)) for group in groups]

    def _two_errors(self, score: float) -> float:
        """Two standard errors of a score that is a share of the rows; 0 for one that is no
        share.
        """
        if self._rows is None or not 0 <= abs(score) <= 1:
            return 0.0
        return two_standard_errors(abs(score), self._rows)

    def _rank(self, score: float) -> float:
        """Sorts better scores first and what is not a number last."""
        if math.isnan(score):
            return math.inf
        return -score if self._maximise else score


def two_standard_errors(share: float, rows: int) -> float:
    """Half the width of Wilson's interval (1927) at two standard errors around a share of so many
    rows.

    Unlike the textbook's sqrt(p (1 - p) / n) it is right at no hit and at all hits, where it is not
    0.
    """
    return 2 * math.sqrt(share * (1 - share) / rows + 1 / rows**2) / (1 + 4 / rows)
