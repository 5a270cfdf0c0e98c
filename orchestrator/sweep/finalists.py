"""The finalists of a sweep: which trials they are, what is still to be trained of them, and whose
checkpoint is judged.

They are chosen by the validation split alone. A finalist's runs are its trial, and that trial's
settings under other seeds or with another schedule (config/run_numbers.py); the mean of their best
scores tells how good the settings are, and the best checkpoint of any of them is what is judged.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from jobs.config import Trial
from orchestrator.config.run_numbers import finalist_number, label
from orchestrator.config.search_space import Point
from orchestrator.config.settings import changed
from orchestrator.output.sweep_result import FinalistScores
from orchestrator.plan.planner import Plan
from orchestrator.plan.resources import divide
from orchestrator.storage.journal import Record
from orchestrator.sweep.standing import Finalist, Standing
from orchestrator.sweep.state import SweepState

MOST_SEED = 2**31


def choose_finalists(sweep_state: SweepState) -> list[Finalist]:
    """The best trials of a sweep that has ended, best first."""
    config = sweep_state.config
    if not config.sweep.space or sweep_state.total() == 1 or config.final.count == 0:
        return []
    ranked = [
        (rank, record)
        for record in sweep_state.asked_for()
        if (rank := sweep_state.rank(record)) is not None
    ]
    ranked.sort(key=lambda item: item[0], reverse=True)
    return [
        Finalist(record.index, runs_of(sweep_state, record))
        for _, record in ranked[: config.final.count]
    ]


def runs_of(sweep_state: SweepState, record: Record) -> dict[int, Point]:
    """The runs of a finalist. With a schedule of its own all are new; else the trial itself is the
    one under its own seed.
    """
    final, trial = sweep_state.config.final, sweep_state.trained(record.index)
    again = final.schedule is not None and final.schedule != trial.optim.schedule
    runs = {} if again else {record.index: record.point}
    for seed_index in range(0 if again else 1, final.seeds):
        changes: Point = {"seed": (trial.seed + seed_index) % MOST_SEED}
        if again:
            changes["optim.schedule"] = str(final.schedule)
        runs[finalist_number(record.index, seed_index)] = record.point | changes
    return runs


def unfinished(sweep_state: SweepState, finalists: list[Finalist]) -> dict[int, Point]:
    """The runs that are still to be trained, by number. A trial that was stopped goes on to the end
    where its learning rate falls there, or where others of its finalist are as long.
    """
    wanted: dict[int, Point] = {}
    for finalist in finalists:
        for run, point in finalist.runs.items():
            record = sweep_state.records.get(run)
            reached = max(record.reports, default=0) if record is not None else 0
            failed = (
                record is not None and record.state == "failed" and not sweep_state.config.retry
            )
            trial = sweep_state.plan.trial_of(run, point)
            to_the_end = len(finalist.runs) > 1 or trial.optim.schedule != "constant"
            dropped = run in sweep_state.steering.dropped
            if dropped or (run == finalist.trial and not to_the_end):
                continue
            if reached < trial.train.steps and not failed:
                wanted[run] = point
    return wanted


def lacking_steps(sweep_state: SweepState, run: int) -> int:
    """Steps that a run of a finalist still has to take."""
    record = sweep_state.records.get(run)
    reached = max(record.reports, default=0) if record is not None else 0
    return max(sweep_state.config.train.steps - reached, 0)


def standings(sweep_state: SweepState, finalists: list[Finalist]) -> list[Standing]:
    """The finalists by the mean score of their runs, best first. One with a run that has failed
    comes after those whose runs have all scored.
    """
    found = []
    for finalist in finalists:
        scores, ranked = {}, []
        for run in finalist.candidates:
            record = sweep_state.records.get(run)
            rank = None if record is None else sweep_state.rank(record)
            if record is None or rank is None:
                continue
            ranked.append((rank, record))
            if run in finalist.runs:
                scores[run] = best_score(sweep_state, record)
        if not ranked:
            continue
        best = max(ranked, key=lambda item: item[0])[1]
        if not scores:
            scores = {best.index: best_score(sweep_state, best)}
        found.append(Standing(finalist, scores, best))
    return sorted(found, key=lambda standing: order(sweep_state, standing))


def order(sweep_state: SweepState, standing: Standing) -> tuple[bool, float, float, int]:
    """Sorts better finalists first; of equals the one with the better checkpoint, then the earlier
    trial.
    """
    sign = -1.0 if sweep_state.maximise else 1.0
    rank = sweep_state.rank(standing.best)
    assert rank is not None
    loss = -rank[2] if math.isfinite(rank[2]) else math.inf
    lacks = len(standing.scores) < len(standing.finalist.runs)
    return (lacks, sign * standing.mean, loss, standing.finalist.trial)


def best_score(sweep_state: SweepState, record: Record) -> float:
    """A record's best score on the validation split."""
    best = record.best(sweep_state.metric, sweep_state.maximise)
    assert best is not None
    return best[1]


def told(sweep_state: SweepState, ranked: list[Standing]) -> list[FinalistScores]:
    """The finalists as the result tells them, best first."""
    return [
        FinalistScores(
            trial=standing.finalist.trial,
            metric=sweep_state.metric,
            mean=standing.mean,
            spread=standing.spread,
            scores={
                str(sweep_state.trained(run).seed): score
                for run, score in sorted(standing.scores.items())
            },
            runs=len(standing.finalist.runs),
            failed=len(standing.finalist.runs.keys() - standing.scores.keys()),
            again=standing.finalist.trial not in standing.finalist.runs,
        )
        for standing in ranked
    ]


def announced(chosen: list[Finalist], runs: dict[int, Point]) -> str:
    """What is said before the finalists are trained."""
    names = ", ".join(str(finalist.trial) for finalist in chosen)
    which = ", ".join(label(run) for run in sorted(runs))
    many = "finalists are trials" if len(chosen) > 1 else "finalist is trial"
    return f"the {many} {names}; to train: {which}"


def first_tags(chosen: list[Finalist]) -> Iterator[tuple[int, dict[str, str]]]:
    """What the tracking store is told of the finalists' runs before they are trained."""
    for finalist in chosen:
        for run in finalist.candidates:
            yield run, {"finalist": "true", "finalist.trial": str(finalist.trial)}


def last_tags(ranked: list[Standing]) -> Iterator[tuple[int, dict[str, str]]]:
    """What the tracking store is told of the runs of each finalist."""
    for rank, standing in enumerate(ranked, start=1):
        for run in standing.finalist.candidates:
            judged = rank == 1 and run == standing.best.index
            yield (
                run,
                {
                    "finalist.rank": str(rank),
                    "finalist.mean": repr(standing.mean),
                    "finalist.judged": str(judged).lower(),
                },
            )


def take_over(sweep_state: SweepState, final: FinalState) -> None:
    """Bring what the finalists' training has found into the sweep's state. Where all their runs
    have failed, the sweep's own results stand; what else ends that training ends the sweep.
    """
    for index in final.numbers():
        if index in final.records:
            sweep_state.records[index] = final.records[index]
    for name in ("interrupted", "fault", "damaged", "lost", "crowded"):
        setattr(sweep_state, name, getattr(sweep_state, name) or getattr(final, name))
    sweep_state.allowance.take_over(final.allowance)
    trained = [final.records.get(index) for index in final.numbers()]
    all_failed = all(record is not None and record.state == "failed" for record in trained)
    if final.abort_reason is not None and not all_failed:
        sweep_state.abort_reason = final.abort_reason
    elif final.pack_rejection is not None:
        sweep_state.abort_reason = (
            f"the finalists cannot be packed: {final.pack_rejection}; executor=plain trains them"
        )
    for index in final.numbers():
        record = final.records.get(index)
        if record is not None and record.state == "failed":
            sweep_state.screen.note(f"{label(index)} failed: {record.error}")


class FinalState(SweepState):
    """The state of the finalists' training: as a sweep whose trials are known, and none is
    stopped.
    """

    def __init__(
        self, sweep_state: SweepState, plan: Plan, runs: dict[int, Point], back: dict[int, int]
    ) -> None:
        self.runs = runs
        phase = final_phase(plan, len(runs))
        super().__init__(
            phase,
            sweep_state.base,
            sweep_state.journal,
            sweep_state.screen,
            sweep_state.common,
            back,
        )
        self.steering.closed = True
        self.steering.dropped = {}
        self.allowance.has_score = True  # that of the trials: what is best so far can be judged

    @property
    def most_kept(self) -> int:
        """All: who is best is known when the last one has ended."""
        return len(self.runs)

    def trial(self, index: int) -> Trial:
        """A run's settings, for it to start with."""
        self.records.setdefault(index, Record(index)).point = self.runs[index]
        return self.plan.trial_of(index, self.runs[index])

    def stopped_inside(self, index: int) -> str | None:
        """None: a finalist goes on to its end, wherever the search has stopped it."""
        return None

    def belongs(self, index: int) -> bool:
        """Whether a run is one of a finalist that is still to be trained."""
        return index in self.runs

    def extra_copies(self) -> list[int]:
        """None: nobody changes a finalist."""
        return []

    def numbers(self) -> list[int]:
        """The runs by number, in the order in which they start."""
        return sorted(self.runs)


def final_phase(plan: Plan, num_runs: int) -> Plan:
    """The plan of the finalists' training: as the sweep's, with nobody stopped."""
    executor = "pack" if plan.resources.packs else "plain"
    sweep = dataclasses.replace(plan.config.sweep, scheduler="none", search="random")
    config = changed(plan.config, sweep=sweep)
    return dataclasses.replace(
        plan,
        config=config,
        num_trials=num_runs,
        resources=divide(config, num_runs, plan.resources.nodes, executor),
    )
