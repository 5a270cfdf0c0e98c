"""Which point comes next: the plan's own points, or what Optuna makes of the results so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.config.search_space import Knob, Point, first_values, link
from orchestrator.config.settings import Config
from orchestrator.plan.planner import as_grid
from orchestrator.plan.points import MOST_DRAWS, Key, Points, every_point, key
from orchestrator.storage.journal import Record

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

ENDED = ("finished", "stopped")
"""States of a trial that has its result: another one goes on, or fails again."""


class Sampler:
    """Hands out points by trial index, no two alike, and learns from ended trials. Random and grid
    points depend on (seed, index) only.
    """

    def __init__(self, config: Config, num_trials: int, earlier_records: dict[int, Record]) -> None:
        self._space = as_grid(config).sweep.space
        self._points = Points(self._space, config.seed)
        self._known = earlier_records
        self._handed: dict[int, Point] = {}
        """What Optuna has proposed."""
        self._optuna = None
        if config.sweep.search == "optuna" and self._space:
            # Another seed than last time: a sampler that began again would propose its first points
            # again.
            started = max(
                (index for index, record in earlier_records.items() if record.point), default=0
            )
            self._optuna = TPESampler(
                self._space, config.seed + 1000 * started, config.sweep.maximise, num_trials
            )
            for record in earlier_records.values():
                self._optuna.proposed |= {key(record.point)} if record.point else set()
                best = record.best(config.sweep.metric, config.sweep.maximise)
                if record.state in ENDED and best is not None:
                    self._optuna.learn(record.point, best[1])

    def next_point(self, index: int) -> Point:
        """The point of trial `index`; the one it had before, if it ran before."""
        earlier = self._known.get(index)
        if earlier is not None and earlier.point:
            if self._optuna is not None and earlier.state not in ENDED:
                self._optuna.resume(index, earlier.point)
            return earlier.point
        if self._optuna is None:
            return self._points[index]
        if index in self._handed:  # the packs have stepped aside, and the sweep begins again
            self._optuna.resume(index, self._handed[index])
        else:
            self._handed[index] = self._optuna.ask(index)
        return self._handed[index]

    def ended(self, index: int, score: float | None) -> None:
        """Trial `index` has ended, with its best score or without any."""
        if self._optuna is not None:
            self._optuna.tell(index, score)


class TPESampler:
    """Optuna's tree-structured Parzen estimator over the knobs of a space."""

    def __init__(self, space: dict[str, Knob], seed: int, maximise: bool, num_trials: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = space
        self._distributions = {
            knob.path: distribution(knob) for knob in space.values() if knob.type != "linked"
        }
        # The estimator needs some random points first; Optuna's default of 10 would be all of a
        # small sweep.
        sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=min(10, max(3, num_trials // 3)), constant_liar=True
        )
        self._study = optuna.create_study(
            direction="maximize" if maximise else "minimize", sampler=sampler
        )
        self._asked: dict[int, optuna.Trial] = {}
        self.proposed: set[Key] = set()
        """The points that were handed out, now or in an earlier run."""

    def ask(self, index: int) -> Point:
        """A new point for trial `index`. Raises ValueError where the space holds no more."""
        begun = first_values(self._space, index)
        if begun:
            self._study.enqueue_trial(begun)
        for _ in range(MOST_DRAWS):
            asked = self._study.ask(self._distributions)
            point = link(self._space, dict(asked.params))
            if key(point) not in self.proposed:
                break
            self._drop(asked)
        else:
            point = next(
                (left for left in every_point(self._space, {}) if key(left) not in self.proposed),
                None,
            )
            if point is None:
                raise ValueError(
                    f"the search space holds {len(self.proposed)} different points, and no other "
                    f"one for trial {index}"
                )
            self._study.enqueue_trial(self.params(point) or {})
            asked = self._study.ask(self._distributions)
        self._asked[index] = asked
        self.proposed.add(key(point))
        return point

    def _drop(self, asked: optuna.Trial) -> None:
        """Forget a proposal that repeats a point."""
        import optuna

        self._study.tell(asked, state=optuna.trial.TrialState.FAIL)

    def resume(self, index: int, point: Point) -> None:
        """Trial `index` goes on with the point that it had before."""
        params = self.params(point)
        if params is not None and index not in self._asked:
            self._study.enqueue_trial(params)
            self._asked[index] = self._study.ask(self._distributions)

    def tell(self, index: int, score: float | None) -> None:
        """The outcome of a point that was asked for."""
        import optuna

        if index in self._asked:
            state = optuna.trial.TrialState.FAIL if score is None else None
            self._study.tell(self._asked.pop(index), score, state=state)

    def learn(self, point: Point, score: float) -> None:
        """The outcome of a point of an earlier run."""
        import optuna

        params = self.params(point)
        if params is not None:
            self._study.add_trial(
                optuna.trial.create_trial(
                    params=params, distributions=self._distributions, value=score
                )
            )

    def params(self, point: Point) -> Point | None:
        """A point in Optuna's terms; None for one of another space."""
        params = {path: point[path] for path in self._distributions if path in point}
        return params if len(params) == len(self._distributions) else None


def distribution(knob: Knob) -> BaseDistribution:
    """A knob in Optuna's terms."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if knob.values is not None:
        return CategoricalDistribution(knob.values)
    low = knob.low or 0.0
    high = knob.high or 0.0
    if knob.type == "randint":
        return IntDistribution(int(low), int(high), step=int(knob.step or 1))
    return FloatDistribution(low, high, log=knob.type == "loguniform", step=knob.step)
