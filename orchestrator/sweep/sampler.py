"""Which point comes next: the plan's own points, or what Optuna makes of the results so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.config import simplex
from orchestrator.config.search_space import (
    Knob,
    Point,
    first_values,
    link,
    mix_of,
    stepped,
    weights,
)
from orchestrator.config.settings import Config
from orchestrator.config.simplex import Mix
from orchestrator.plan.planner import as_grid
from orchestrator.plan.points import MOST_DRAWS, Key, Points, every_point, first_mixes, key
from orchestrator.plan.shipping import SizeConstraint
from orchestrator.storage.journal import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    import optuna
    from optuna.distributions import BaseDistribution

SIZE = "megabytes beyond the limit"
"""What Optuna calls the constraint."""
ENDED = ("finished", "stopped")
"""States of a trial that has its result: another one goes on, or fails again."""


class Sampler:
    """Hands out points by trial index, no two alike, and learns from ended trials. Random and grid
    points depend on (seed, index) only.
    """

    def __init__(
        self,
        config: Config,
        num_trials: int,
        earlier_records: dict[int, Record],
        constraint: SizeConstraint | None = None,
    ) -> None:
        """`constraint` says which points make a file that is too large for the device."""
        self._space = as_grid(config).sweep.space
        self._points = Points(self._space, config.seed, constraint and constraint.allows)
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
                self._space,
                config.seed + 1000 * started,
                config.sweep.maximise,
                num_trials,
                constraint,
            )
            self._optuna.first = earlier_records[1].point if 1 in earlier_records else None
            for record in earlier_records.values():
                self._optuna.proposed |= {key(record.point)} if record.point else set()
                best = record.best(config.sweep.metric, config.sweep.maximise)
                if record.state in ENDED and best is not None:
                    self._optuna.learn(record.point, best[1])
            for record in earlier_records.values():
                ruined = record.inside is not None or is_not_finite(record.error)
                worst = self._optuna.worst()
                if ruined and record.point and not record.reports and worst is not None:
                    self._optuna.learn(record.point, worst)

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

    def ended(self, index: int, score: float | None, is_bad: bool = False) -> None:
        """Trial `index` has ended, with its best score or without any. One that its settings have
        ruined (`is_bad`) is a point with the worst score so far, from which the search keeps away.
        """
        if self._optuna is None:
            return
        if score is None and is_bad:
            score = self._optuna.worst()
        self._optuna.tell(index, score)


def is_not_finite(error: str | None) -> bool:
    """Whether a trial has failed since its loss was no number any more."""
    return error is not None and "not finite" in error


class TPESampler:
    """Optuna's tree-structured Parzen estimator over the knobs of a space."""

    def __init__(
        self,
        space: dict[str, Knob],
        seed: int,
        maximise: bool,
        num_trials: int,
        constraint: SizeConstraint | None = None,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = space
        self._constraint = constraint
        self._distributions = {
            name: distribution(knob)
            for knob in space.values()
            if knob.type != "linked"
            for name in coordinate_names(knob)
        }
        self._first_mixes = first_mixes(space)
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
        self.first: Point | None = None
        """The first of them."""

    def ask(self, index: int) -> Point:
        """A new point for trial `index`. Raises ValueError where the space holds no more."""
        begun = first_values(self._space, index)
        for draw_number in range(MOST_DRAWS):
            if not self._enqueue_first_mix(begun) and begun and draw_number == 0:
                self._study.enqueue_trial(begun)
            asked = self._study.ask(self._distributions)
            point = self.point(dict(asked.params))
            if not self._fits(asked, point):
                continue
            if key(point) not in self.proposed:
                break
            self._drop(asked)
        else:
            point = next(self._left(), None)
            if point is None:
                raise ValueError(
                    f"the search space holds {len(self.proposed)} different points, and no other "
                    f"one for trial {index}"
                )
            self._study.enqueue_trial(self.params(point) or {})
            asked = self._study.ask(self._distributions)
            self._fits(asked, point)
        self._asked[index] = asked
        self.proposed.add(key(point))
        self.first = self.first or point
        return point

    def _enqueue_first_mix(self, begun: Point) -> bool:
        """Have a mix that is always tried proposed next, with all else as the first trial had it,
        or as the first trial begins; False once all of them were.
        """
        paths = sorted(path for knob in self._space.values() for path in knob.paths)
        proposed = [dict(zip(paths, values, strict=False)) for values in self.proposed]
        for mix in self._first_mixes:
            if not any(mix.items() <= point.items() for point in proposed):
                point = (self.first or begun) | mix
                present = [knob for knob in self._space.values() if set(knob.paths) <= set(point)]
                self._study.enqueue_trial(coordinates(present, point))
                return True
        return False

    def point(self, params: Point) -> Point:
        """What Optuna has proposed, as settings."""
        chosen: Point = {}
        for knob in self._space.values():
            names = coordinate_names(knob)
            if knob.type == "simplex":
                at = [float(params[name]) for name in names]
                chosen |= self._settled(knob, simplex.from_coordinates(knob.mixes, at))
            elif knob.type != "linked":
                chosen[knob.path] = params[knob.path]
        return link(self._space, chosen)

    def _settled(self, knob: Knob, mix: Mix) -> Point:
        """The mix that is tried for one that Optuna proposes: in thousandths, unless it is one of
        those that are always tried, which are as they are.
        """
        for first in self._first_mixes:
            shares = mix_of(knob, first)
            if all(abs(shares[name] - share) < 1e-4 for name, share in mix.items()):
                return first
        return weights(simplex.rounded(knob.mixes, mix))

    def _fits(self, asked: optuna.Trial, point: Point) -> bool:
        """Tell Optuna's constraint of a proposal; one that is beyond it ends before it has cost
        anything, and what is proposed next learns from it.
        """
        import optuna

        if self._constraint is None:
            return True
        over = self._constraint.over(point)
        asked.set_constraint(SIZE, over)
        if over > 0:
            self._study.tell(asked, state=optuna.trial.TrialState.PRUNED)
        return over <= 0

    def _left(self) -> Iterator[Point]:
        """The points that nobody has tried yet, but those that are beyond the constraint."""
        for left in every_point(self._space, {}):
            allowed = self._constraint is None or self._constraint.allows(left)
            if allowed and key(left) not in self.proposed:
                yield left

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

    def worst(self) -> float | None:
        """The worst score so far; None before there is any."""
        import optuna

        complete = optuna.trial.TrialState.COMPLETE
        scores = [
            trial.value
            for trial in self._study.get_trials(deepcopy=False, states=(complete,))
            if trial.value is not None
        ]
        if not scores:
            return None
        maximise = self._study.direction == optuna.study.StudyDirection.MAXIMIZE
        return min(scores) if maximise else max(scores)

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
        free = [knob for knob in self._space.values() if knob.type != "linked"]
        present = all(set(knob.paths) <= set(point) for knob in free)
        return coordinates(free, point) if present else None


def coordinate_names(knob: Knob) -> list[str]:
    """What Optuna calls a knob: its path, or for each source of a simplex but the last the weight,
    of which the coordinate decides.
    """
    return knob.paths[:-1] if knob.type == "simplex" else [knob.path]


def coordinates(knobs: list[Knob], point: Point) -> Point:
    """A point of these knobs in Optuna's terms."""
    params: Point = {}
    for knob in knobs:
        if knob.type == "simplex":
            at = simplex.coordinates_of(knob.mixes, mix_of(knob, point))
            params |= dict(zip(coordinate_names(knob), at, strict=True))
        elif knob.type != "linked":
            params[knob.path] = point[knob.path]
    return params


def distribution(knob: Knob) -> BaseDistribution:
    """A knob in Optuna's terms."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if knob.values is not None:
        return CategoricalDistribution(knob.values)
    if knob.type == "simplex":
        return FloatDistribution(0.0, 1.0)
    low = knob.low or 0.0
    high = knob.high or 0.0
    if knob.step is not None:  # Optuna warns of an end that no step reaches
        high = float(stepped(knob, int((high - low) / knob.step + 1e-9)))
    if knob.type == "randint":
        return IntDistribution(int(low), int(high), step=int(knob.step or 1))
    return FloatDistribution(low, high, log=knob.type == "loguniform", step=knob.step)
