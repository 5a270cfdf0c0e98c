"""The result of a sweep as far as the sweep alone decides it, with the commands that go on from
it.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import time

from jobs.evaluation import registry
from jobs.files.json_types import JsonObject
from orchestrator.config import credentials
from orchestrator.config.run_numbers import trial_number
from orchestrator.config.settings import MOST_MINUTES, Config
from orchestrator.config.shipping import formats_of
from orchestrator.config.validation import trial_of
from orchestrator.job_environment import SUBMISSION, TYPED
from orchestrator.output import result
from orchestrator.output.sweep_result import BestTrial, Seconds, SweepResult
from orchestrator.plan import planner as planning
from orchestrator.plan import run_inputs
from orchestrator.plan.planner import Plan
from orchestrator.plan.run_inputs import flat_params
from orchestrator.plan.task import run_tags
from orchestrator.storage.journal import Record
from orchestrator.sweep import finalists
from orchestrator.sweep.budget_outcome import budget_record
from orchestrator.sweep.state import SweepState
from orchestrator.tracking import provenance, shown_commands

ONCE = ("fresh=", "output=", "retry=", "dry_run=")
"""Settings of one run of a sweep, which the next one need not repeat."""


class Outcome:
    """What is told of one command's sweep, whatever comes of it."""

    def __init__(self, config: Config, overrides: list[str], uri: str, began: float) -> None:
        self.config = config
        self.overrides = overrides
        self.uri = uri
        self.began = began
        self.planned: float | None = None
        """Seconds that the plan promised; None where the sweep goes on from an earlier command."""

    def target(self) -> list[str | None]:
        """Where the winner is registered, as the result keeps it."""
        return [
            shown_commands.bare(self.uri),
            self.config.tracking.experiment,
            self.config.registered_name,
        ]

    def judging(self) -> JsonObject:
        """The settings that decide what the test split says of a model, and what of its
        champion.
        """
        job = self.config.job
        same = self.config.tracking.same_task
        final = dataclasses.asdict(self.config.final) if self.config.sweep.space else None
        formats = formats_of(self.config)
        shipping: JsonObject = {}
        if formats:  # results of before have no such keys
            device = dataclasses.asdict(self.config.device)
            export = {"rows": self.config.export.rows, "threads": self.config.export.threads}
            shipping = {"export": export | {"formats": formats}, "device": device}
        return {
            "confidence": job.confidence,
            "max_new_tokens": job.max_new_tokens,
            "same_task": same,
            "examples": job.examples,
            "registry": dataclasses.asdict(self.config.registry),
            "final": final,
            **shipping,
        }

    def start(self, plan: Plan, composed: str) -> JsonObject:
        """What the journal tells of the command's start. `composed` is its configuration as
        YAML.
        """
        return {
            "name": plan.name,
            "params": {
                "sweep.num_trials": plan.num_trials,
                "sweep.metric": self.config.sweep.metric,
                "registry.beat": self.config.registry.beat,
            },
            "tags": provenance.tags(self.config) | run_tags(plan),
            "config": composed,
            "datasets": run_inputs.datasets(plan, trial_of(self.config, 1, {})),
            "maximise": self.config.sweep.maximise,
            "notes": list(plan.notes),
            "concurrent": plan.resources.concurrent,
            "command": shown_commands.orchestrator(self.typed(), ""),
            "submission": os.environ.get(SUBMISSION),
        }

    def of(self, plan: Plan, sweep_state: SweepState, setup: float, train: float) -> SweepResult:
        """The result as far as the sweep alone decides it."""
        records = sorted(sweep_state.asked_for(), key=lambda record: record.index)
        best = sweep_state.standings[0].best if sweep_state.standings else sweep_state.best()
        stopped = sweep_state.interrupted or sweep_state.fault is not None
        done = sweep_state.damaged is not None or (
            best is not None and sweep_state.abort_reason is None
        )
        if stopped:
            state = "interrupted"
        else:
            state = "finished" if done else "failed"
        error = (
            sweep_state.fault
            or sweep_state.abort_reason
            or ("no trial has a score" if best is None and state == "failed" else None)
        )
        typed = self.typed()
        budget = budget_record(sweep_state)
        wider = self.wider(plan, typed, None if budget is None else budget.get("wider"))
        return SweepResult(
            sweep=plan.name,
            state=state,
            trials=result.counted([record.state for record in records], sweep_state.total()),
            copies=len(sweep_state.extra_copies()),
            metric=registry.key(registry.name_of(sweep_state.metric), registry.TEST),
            maximise=sweep_state.maximise,
            best=None if best is None else self.describe(sweep_state, best),
            finalists=finalists.told(sweep_state, sweep_state.standings),
            base=None,
            baselines={},
            model=None,
            seconds=Seconds(
                setup=round(setup, 1),
                train=round(train, 1),
                total=round(time.monotonic() - self.began, 1),
                planned=self.planned,
            ),
            tracking_uri=shown_commands.bare(self.uri),
            steps=self.config.train.steps,
            target=self.target(),
            error=None if error is None else credentials.mask(error),
            failures=[credentials.mask(failure) for failure in result.failures(records)],
            searched=[path for knob in self.config.sweep.space.values() for path in knob.paths],
            confidence=self.config.job.confidence,
            judging=self.judging(),
            command=shown_commands.orchestrator(typed, ""),
            wider=None if wider is None else shown_commands.orchestrator(wider, ""),
            settings=self.store_settings(),
            needs=shown_commands.needs(self.uri),
            budget=budget,
        )

    def wider(self, plan: Plan, typed: list[str], paid: str | None = None) -> list[str] | None:
        """The settings of a sweep twice as large, which goes on from this one where the learning
        rates stay constant; None where the search space holds no more. `paid` is the budget that
        would pay this one to its end, where one has ended it.
        """
        if paid is not None:
            name = paid.partition("=")[0]
            return [*(o for o in typed if not o.lstrip("+").startswith(f"{name}=")), paid]
        minutes = self.config.sweep.minutes
        if plan.sizes is not None and minutes is not None:
            setting, value = "sweep.minutes", f"{min(2 * minutes, MOST_MINUTES):g}"
        else:
            setting, value = "sweep.num_trials", str(2 * plan.num_trials)
        if not planning.has(self.config, 2 * plan.num_trials):
            return None
        rest = [o for o in typed if not o.lstrip("+").startswith(f"{setting}=")]
        return [*rest, f"{setting}={value}"]

    def typed(self) -> list[str]:
        """The settings as they were typed, here or where the command was sent from, but those that
        are for one run only, and no secret.
        """
        sent = os.environ.get(TYPED)
        typed = self.overrides if sent is None else shlex.split(sent)
        return shown_commands.without_secrets(
            [o for o in typed if not o.lstrip("+").startswith(ONCE)]
        )

    def store_settings(self) -> list[str]:
        """What tells another command where the model is registered, and on a cluster, whose disk is
        not here, what its base model is.
        """
        if self.config.tracking.uri is None:
            return [shown_commands.setting("storage", self.config.storage)]
        uri_from_here, forward = shown_commands.reachable(self.uri)
        base = (
            [o for o in self.typed() if o.lstrip("+").startswith(("model=", "model."))]
            if shown_commands.away()
            else []
        )
        address = [shown_commands.setting("tracking.uri", uri_from_here)]
        if forward is None and self.uri.startswith("http"):
            # As it was typed, but for the secret, which our own commands read from a variable.
            typed_address = shown_commands.setting("tracking.uri", self.config.tracking.uri)
            address = shown_commands.without_secrets([typed_address])
        return [*base, *address]

    def describe(self, sweep_state: SweepState, best: Record) -> BestTrial:
        """The best trial, with its metrics at its best step."""
        best_point = best.best(sweep_state.metric, sweep_state.maximise)
        assert best_point is not None
        step, _ = best_point
        return BestTrial(
            trial=trial_number(best.index),
            run=best.index,
            step=step,
            params=dict(flat_params(sweep_state.trained(best.index))),
            metrics=dict(best.reports[step]),
        )
