"""Scores of merged mixtures, from a task on Ray; which of them are trained; and what the journal
keeps of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from jobs.config import BaseModel, Scoring
from jobs.evaluation import registry
from jobs.files.json_types import JsonObject
from jobs.workers.coordinator import CoordinatorHandle
from jobs.workers.messages import JudgingProgress, Note
from jobs.workers.mixture_task import MixtureTask, score
from jobs.workers.reporting import reason
from orchestrator.config.merge_settings import FIRST_TRIALS
from orchestrator.config.simplex import Mix
from orchestrator.errors import OrchestratorError
from orchestrator.output.progress import ProgressDisplay
from orchestrator.plan.merge import EVENT, expert_config
from orchestrator.plan.metric import scoring_of
from orchestrator.plan.mixes import distance, shown
from orchestrator.plan.planner import Plan
from orchestrator.process.stall import StallWatch
from orchestrator.storage.journal import Journal

POLL_SECONDS = 0.5
SLOTS = 12
"""So many experts' worth of weights lie in memory at once."""
APART = 0.05
"""Mixes that are trained differ by so much in some share, as long as there are such."""


@dataclass(frozen=True)
class Scored:
    """A mixture and what its merged experts score on the validation rows."""

    mix: Mix
    predicted: float
    """In the metric that trials are chosen by."""
    loss: float

    def record(self) -> JsonObject:
        """As the journal keeps it; what is not finite is none."""
        values = {"predicted": self.predicted, "loss": self.loss}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        return {"shares": dict(self.mix), **finite}


def score_candidates(
    plan: Plan,
    base: BaseModel,
    coordinator: CoordinatorHandle,
    screen: ProgressDisplay,
    is_stopped: Callable[[], bool],
    overdrawn: Callable[[], str | None] = lambda: None,
) -> list[Scored] | None:
    """The candidates with their scores; None where the user stops it. Raises OrchestratorError
    where the experts cannot be merged or scored, and where a limit is `overdrawn`, in words.
    """
    merge = plan.merge
    assert merge is not None
    share, gpus = plan.resources.share(1)
    task = task_of(plan, base, share)
    remote = ray.remote(score).options(num_cpus=share, num_gpus=gpus, max_retries=2)
    waiting = remote.remote(task)
    watch = StallWatch(task.at_once * plan.num_scored)
    done = 0
    while True:
        ready, _ = ray.wait([waiting], timeout=POLL_SECONDS)
        for post in ray.get(coordinator.drain.remote()):
            if isinstance(post.message, JudgingProgress):
                done = post.message.done
                show(screen, post.message)
            elif isinstance(post.message, Note):
                screen.note(post.message.text)
        if ready:
            break
        if is_stopped():
            ray.cancel(waiting, force=True)
            return None
        stalled, spent = watch.why_over(done), overdrawn()
        if stalled is not None or spent is not None:
            ray.cancel(waiting, force=True)
            raise OrchestratorError(
                spent
                or f"scoring the merged mixtures has made {stalled}. The experts are kept, and the "
                "same command goes on"
            )
    try:
        found: list[dict[str, float]] = ray.get(waiting)
    except RayError as error:
        raise OrchestratorError(
            f"the merged mixtures cannot be scored: {reason(error)}; the experts are kept, and the "
            "same command goes on"
        ) from error
    return [scored(plan, mix, each) for mix, each in zip(merge.candidates, found, strict=True)]


def show(screen: ProgressDisplay, message: JudgingProgress) -> None:
    """How many mixtures are scored, with a line in each quarter of them."""
    screen.task = f"{message.label}  {message.done}/{message.total}"
    quarter = 4 * message.done // max(message.total, 1)
    if screen.quarters.get(message.label, 0) < quarter:
        screen.quarters[message.label] = quarter
        screen.line(screen.task)
    screen.refresh()


def task_of(plan: Plan, base: BaseModel, num_threads: int) -> MixtureTask:
    """What the scoring task is told."""
    merge = plan.merge
    assert merge is not None
    config = expert_config(plan.config)
    trial = dataclasses.replace(plan, config=config).trial_of(1, merge.experts[0].point)
    scoring: Scoring = dataclasses.replace(
        scoring_of(plan.config), max_new_tokens=plan.max_new_tokens
    )
    return MixtureTask(
        sweep=plan.name,
        trial=trial,
        base=base,
        scoring=scoring,
        experts={expert.source: expert.place for expert in merge.experts},
        shares=[dict(mix) for mix in merge.candidates],
        at_once=max(1, SLOTS // len(merge.experts)),
        packed=plan.resources.packs > 0,
        num_threads=num_threads,
    )


def scored(plan: Plan, mix: Mix, metrics: dict[str, float]) -> Scored:
    """A mixture with its score."""
    metric = plan.config.sweep.metric
    missing = math.nan
    return Scored(mix, metrics.get(metric, missing), metrics.get(registry.VALID_LOSS, missing))


def ranked(candidates: list[Scored], maximise: bool) -> list[Scored]:
    """The best first: by score, of equals the one with the lower loss. What has no score is left
    out.
    """
    sign = -1.0 if maximise else 1.0

    def order(each: Scored) -> tuple[float, float]:
        return sign * each.predicted, math.inf if math.isnan(each.loss) else each.loss

    return sorted((each for each in candidates if math.isfinite(each.predicted)), key=order)


def choose(plan: Plan, candidates: list[Scored]) -> list[Mix]:
    """The best mixes that are not trained anyway, unlike one another as far as there are such.
    Raises OrchestratorError where none has a score.
    """
    merge = plan.merge
    assert merge is not None
    anyway = list(merge.candidates[:FIRST_TRIALS])
    best = [
        each.mix
        for each in ranked(candidates, plan.config.sweep.maximise)
        if each.mix not in anyway
    ]
    if not best:
        raise OrchestratorError(
            f"no merged mixture has a value of {plan.config.sweep.metric}: the experts' updates "
            "may have diverged; a lower optim.lr or fewer mix.steps help, or mix.method=search"
        )
    chosen: list[Mix] = []
    for mix in best:
        if all(distance(mix, other) >= APART for other in [*anyway, *chosen]):
            chosen.append(mix)
    others = [mix for mix in best if mix not in chosen]
    return [*chosen, *others][: merge.num_trained]


def write_down(
    journal: Journal, plan: Plan, candidates: list[Scored], chosen: list[Mix], trained: list[str]
) -> None:
    """Keep in the journal what was found: from then on it holds for the sweep. `trained` are the
    sources whose experts were not found but trained.
    """
    assert plan.merge is not None
    experts = {
        expert.source: {
            "digest": expert.digest,
            "steps": expert.steps,
            "found": expert.source not in trained,
        }
        for expert in plan.merge.experts
    }
    journal.append(
        EVENT,
        trial=None,
        metric=plan.config.sweep.metric,
        experts=experts,
        candidates=[each.record() for each in candidates],
        chosen=[dict(mix) for mix in chosen],
    )
    tags = {"mix.method": "merge", "mix.best": "; ".join(map(shown, chosen))}
    tags |= {f"mix.expert.{name}": str(each["digest"]) for name, each in experts.items()}
    journal.append("tags", trial=None, tags=tags)


def chosen_before(journal: Journal, names: list[str]) -> list[Mix] | None:
    """The mixes that an earlier run of the sweep has chosen; None where there was none."""
    found: list[Mix] | None = None
    for event in journal.events():
        if event["kind"] == EVENT:
            found = read_chosen(event, names) or found
    return found


def read_chosen(event: Any, names: list[str]) -> list[Mix] | None:
    """The chosen mixes of an event; None where someone has edited it beyond use."""
    listed = event.get("chosen")
    if not isinstance(listed, list) or not listed:
        return None
    mixes = []
    for shares in listed:
        if not isinstance(shares, dict) or set(shares) != set(names):
            return None
        if not all(isinstance(share, int | float) for share in shares.values()):
            return None
        mixes.append({name: float(shares[name]) for name in names})
    return mixes
