"""Judging the winner on the test split beside the base and the champion, and registering it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.config import Trial
from jobs.data.corpus import load_corpus
from jobs.data.task_prompt import command_text, common_task
from jobs.evaluation import registry
from jobs.evaluation.scores import TestScores
from jobs.export.model_folder import export
from jobs.files import filesystem as places
from jobs.workers.evaluation_task import checked
from orchestrator.config.run_numbers import label
from orchestrator.errors import InputError, OrchestratorError, TrackingError
from orchestrator.evaluation import hints, model_card, verdict
from orchestrator.evaluation.champion_files import fetch_champion
from orchestrator.evaluation.held_out_judge import BASE, WITH_EXAMPLES, HeldOutJudge
from orchestrator.evaluation.interfaces import JudgedCommand
from orchestrator.evaluation.judged_finalists import JudgedFinalist, choose, judge_finalists
from orchestrator.evaluation.promotion import Decision, Rival, Scores, decide
from orchestrator.evaluation.retention import forgetting_of, metrics_of
from orchestrator.evaluation.shipped_files import record
from orchestrator.evaluation.shipped_finalists import (
    place_files,
    ship_others,
    ship_version,
    within_limits,
)
from orchestrator.output import sweep_result
from orchestrator.output.progress import ProgressDisplay
from orchestrator.output.sweep_result import SweepResult
from orchestrator.plan.data_provenance import data_licence, provenance
from orchestrator.plan.planner import Plan
from orchestrator.plan.task import REMEDY
from orchestrator.tracking.mlflow_store import MlflowStore
from orchestrator.tracking.model_versions import Version
from orchestrator.tracking.outbox import OutboxWorker
from orchestrator.tracking.serving_files import add_serving_files

if TYPE_CHECKING:
    from orchestrator.sweep.state import SweepState

POLL_SECONDS = 0.5
OTHER_ROWS = "the champion was chosen by other test rows"
MOST_TAG = 4_000
"""Characters of a decision that a version's tag keeps; MLflow takes 5,000."""


class FinalEvaluation(HeldOutJudge):
    """The end of a sweep: from its best trial to a registered version."""

    def __init__(
        self,
        command: JudgedCommand,
        sweep_state: SweepState,
        store: MlflowStore,
        writer: OutboxWorker,
        screen: ProgressDisplay,
        drain: Callable[[], None],
    ) -> None:
        super().__init__(command, sweep_state, screen, drain)
        self.store, self.writer = store, writer

    def complete(self, outcome: SweepResult) -> None:
        """Fill in what the test split says and what was registered."""
        check_rows(self.plan)
        best = outcome.best
        assert best is not None and best.run is not None
        name = label(best.run)
        trial = self.sweep_state.trained(best.run)
        trained = self.checkpoint(best.run, best.step)
        subjects = {BASE: None, name: trained}
        subjects |= {WITH_EXAMPLES: None} if self.config.job.examples else {}
        verdicts = self.judge(subjects, trial)
        base = verdicts[BASE]
        judged = judge_finalists(self, verdicts[name])
        winner, outcome.tied = choose(judged, self)
        if winner.record.index != best.run:
            best = outcome.best = self.command.describe(self.sweep_state, winner.record)
            first, trial = trial, self.sweep_state.trained(winner.record.index)
            if verdict.asked_as(first) != verdict.asked_as(trial):  # the base as the winner is
                verdicts |= self.judge(dict.fromkeys(subjects.keys() - {name}), trial)
                base = verdicts[BASE]
        candidate = winner.scores
        self.base_scores = base
        self.candidate = winner.candidate
        self.compared = [finalist.candidate for finalist in judged]
        outcome.base = sweep_result.BaseScores(base.metrics(), base.slices)
        best.metrics |= candidate.metrics()
        best.slices, best.fields = candidate.slices, candidate.fields
        outcome.threshold = candidate.threshold or None
        forgetting = forgetting_of(self.config.data.retained, base.slices, candidate.slices)
        outcome.forgetting = forgetting or None
        best.metrics |= metrics_of(forgetting)
        check_rows(self.plan)
        outcome.metric = candidate.key
        outcome.asked, outcome.prompt = self.first_prompt(trial)
        self.weigh(trial, base, candidate, verdicts.get(WITH_EXAMPLES))
        outcome.baselines = {
            name: sweep_result.BaselineScores(verdict.metrics_of(scores, candidate.key))
            for name, scores in self.baselines.items()
        }
        outcome.notes = self.notes
        folder = self.command.folder / "export"
        self.card = self.write_version(folder, winner, base)
        made_of = provenance(self.plan, trial)
        outcome.data = made_of.record()
        self.command.journal.append(
            "report", trial=best.run, step=best.step, metrics=candidate.metrics()
        )
        renamed = {
            key.replace(f"{registry.TEST}/", "base/"): value
            for key, value in base.metrics().items()
        }
        metrics = renamed | self.baseline_metrics() | candidate.metrics()
        metrics |= candidate.slice_metrics() | made_of.metrics | metrics_of(forgetting)
        self.command.journal.append("metrics", trial=None, metrics=metrics)
        try:
            self.register(outcome, candidate, base, folder, trial)
            ship_others(self, outcome, judged)
        except OrchestratorError as error:
            outcome.state, outcome.error = (
                "failed",
                f"not registered: {error}; the same command again registers it",
            )

    def write_version(self, folder: Path, finalist: JudgedFinalist, base: TestScores) -> str:
        """Write the folder of a finalist's version; returns its card."""
        trial = self.sweep_state.trained(finalist.record.index)
        card = model_card.card(
            self.plan,
            trial,
            self.base,
            finalist.candidate,
            verdict.scores_of(base, self.digest),
            self.baselines,
            self.command.describe(self.sweep_state, finalist.record).params,
            self.command.model_name,
            self.notes,
            finalist.scores.key,
            forgetting_of(self.config.data.retained, base.slices, finalist.scores.slices),
        )
        terms = data_licence(trial.data)
        trained = checked(finalist.checkpoint)
        scoring = self.sweep_state.scoring
        export(trial, self.base, trained, finalist.scores, folder, card, terms, scoring)
        add_serving_files(folder)
        checked(finalist.checkpoint)  # what was copied is what was judged
        return card

    def weigh(
        self, trial: Trial, base: TestScores, candidate: TestScores, shown: TestScores | None
    ) -> None:
        """Gather what the candidate is compared with: the base, and the baselines as far as they
        are known; `notes` says why others are not.
        """
        if self.command.baselines.busy():
            self.screen.note("waiting for the baselines")
        self.answers, self.unknown = self.command.baselines.collect(self.drain)
        self.notes: list[str] = []
        self.baselines: dict[str, Scores] = {}
        if self.answers is None:
            self.notes.append(f"the baselines are not known: {self.unknown}")
        else:
            self.notes += self.answers.notes
            context, confidence = self.context(trial), self.config.job.confidence
            self.baselines = verdict.baseline_scores(
                self.answers, candidate, context, self.digest, confidence
            )
        if shown is not None and shown.example_tokens:
            self.baselines[verdict.FEW_SHOT] = verdict.scores_of(shown, self.digest)
        elif shown is not None:
            self.notes.append("no training row can stand as an example in the base's prompt")
        self.rivals = verdict.rivals_of(
            verdict.scores_of(base, self.digest), self.baselines, self.config.sweep.maximise
        )
        self.metric_key = candidate.key

    def baseline_metrics(self) -> dict[str, float]:
        """The baselines' scores as metrics of the sweep's run."""
        return {
            f"baseline/{name}/{key.removeprefix(f'{registry.TEST}/')}": value
            for name, scores in self.baselines.items()
            for key, value in verdict.metrics_of(scores, self.metric_key).items()
        }

    def checkpoint(self, index: int, step: int) -> str:
        """The folder or URI of what a trial had learned at a step. Raises OrchestratorError when
        none was ever kept.
        """
        checkpoint = self.sweep_state.records[index].checkpoints.get(step)
        if checkpoint is None:
            raise OrchestratorError(
                f"the checkpoint of {label(index)} at step {step} is gone; fresh=true trains it "
                "again"
            )
        return places.join(checkpoint, "model")

    def first_prompt(self, trial: Trial) -> tuple[str, str]:
        """What asks the model for the answer to the first test row: a setting of job=predict and
        its value.
        """
        corpus = load_corpus(trial.data)
        return command_text(corpus.test[0], common_task(corpus))

    def register(
        self,
        outcome: SweepResult,
        candidate: TestScores,
        base: TestScores,
        folder: Path,
        trial: Trial,
    ) -> None:
        """Upload the version's folder, register it, export it where that is asked for, and move the
        aliases that are deserved.
        """
        best, name = outcome.best, self.command.model_name
        assert best is not None and best.run is not None
        self.writer.wake()
        best.run_id = self.run_of(best.run)
        path = f"model/step-{best.step:06d}"
        self.store.log_artifacts(best.run_id, folder, path)
        champion = self.store.champion(name)
        tags = self.tags(outcome, candidate) | provenance(self.plan, trial).tags
        version = self.store.register(
            name, best.run_id, path, tags, f"{outcome.sweep}, {label(best.run)}"
        )
        files = ship_version(self, outcome, folder, version)
        decision = self.decide(version, champion, candidate, base, trial)
        decision = within_limits(self, decision, files)
        self.store.describe(
            name,
            version.version,
            model_card.description(
                self.card, decision.promote, decision.reasons or (decision.reason,)
            ),
            {"decision": decision.reason[:MOST_TAG]},
        )
        record(self.store, version, files)
        if decision.promote:
            self.store.set_champion(name, version.version)
        elif decision.lost_to:
            outcome.help = hints.hints(
                hints.findings_of(
                    self.plan,
                    self.sweep_state,
                    best,
                    trial,
                    self.candidate.scores.value,
                    self.answers,
                )
            )
        holds = decision.promote or (champion is not None and champion.version == version.version)
        outcome.decision = decision.reason
        outcome.reasons = list(decision.reasons)
        outcome.model = sweep_result.RegisteredModel(
            name, version.version, "champion" if holds else None, version.uri
        )
        self.command.journal.append(
            "tags",
            trial=None,
            tags={"model.version": version.uri, "model.decision": decision.reason},
        )
        place_files(self, outcome, files, version)

    def register_finalist(
        self, outcome: SweepResult, finalist: JudgedFinalist, folder: Path
    ) -> Version:
        """Register a further finalist, without the alias champion."""
        index = finalist.record.index
        best = self.command.describe(self.sweep_state, finalist.record)
        run_id, path = self.run_of(index), f"model/step-{best.step:06d}"
        self.store.log_artifacts(run_id, folder, path)
        tags = self.tags(outcome, finalist.scores)
        tags |= provenance(self.plan, self.sweep_state.trained(index)).tags
        name = self.command.model_name
        return self.store.register(name, run_id, path, tags, f"{outcome.sweep}, {label(index)}")

    def run_of(self, index: int) -> str:
        """The MLflow run of a trial, waiting for a slow server. Raises OrchestratorError when it
        does not come.
        """
        deadline = time.monotonic() + max(self.config.tracking.patience_seconds, 1)
        while (run_id := self.writer.run_id(index)) is None or not self.store.answers():
            if time.monotonic() > deadline:
                raise OrchestratorError(
                    f"MLflow does not answer ({self.writer.error or 'it is slow'})"
                )
            time.sleep(POLL_SECONDS)
        return run_id

    def tags(self, outcome: SweepResult, candidate: TestScores) -> dict[str, str]:
        """What a later sweep needs to compare with this version without running it."""
        scores = {key: repr(value) for key, value in candidate.metrics().items() if value == value}
        return (
            scores
            | self.plan.task.tags
            | {"test.rows": str(len(candidate.predictions)), "sweep": outcome.sweep}
        )

    def decide(
        self,
        version: Version,
        champion: Version | None,
        candidate: TestScores,
        base: TestScores,
        trial: Trial,
    ) -> Decision:
        """Compare with the champion, or with the base when there is none. A champion of another
        task keeps its alias, unless the user says that it is the same one: then it is judged anew
        on these rows.
        """
        if champion is not None and champion.version == version.version:
            return Decision(False, "it is the champion already")
        if champion is None:
            return self.against([])
        tags, same = champion.tags, self.config.tracking.same_task
        stranger = self.plan.task.stranger(champion.uri, tags)
        if stranger is not None and not same:
            return Decision(False, stranger)
        written = verdict.written_scores(
            self.store, champion, self.digest, candidate, lambda: self.context(trial)
        )
        if written is not None:
            return self.against([Rival("champion", "the champion", written)])
        self.screen.note(
            f"the champion {champion.uri} was not chosen by these test rows: it is judged on them"
        )
        try:
            folder, made_on = fetch_champion(
                self.store, champion, self.base, self.command.folder / "champion"
            )
        except TrackingError:
            raise
        except (InputError, ValueError) as error:
            remedy = f"it keeps its alias, which MLflow's page of {version.uri} can move"
            return Decision(
                False,
                f"the champion {champion.uri} cannot be judged on these rows ({error}); {remedy}",
            )
        trained = folder / "adapter" if (folder / "adapter").exists() else folder / "model"
        judged = self.judge({"champion": str(trained)}, trial, made_on, folder)["champion"]
        anew = verdict.scores_of(judged, self.digest)
        decision = self.against([Rival("champion", "the champion", anew, OTHER_ROWS)])
        if decision.promote and not same:  # its tags were taken away, or never written
            unknown = "but nothing tells for what task that was made, so it keeps its alias"
            return Decision(
                False,
                f"{decision.reason}; {unknown}. {REMEDY}",
                reasons=(*decision.reasons, unknown, REMEDY),
            )
        return decision

    def against(self, champion: list[Rival]) -> Decision:
        """The promotion rule on the candidate, the base, the baselines and the champion."""
        rule = self.config.registry
        decision = decide(
            self.candidate,
            [*self.rivals, *champion],
            rule,
            higher_is_better=self.config.sweep.maximise,
            compared=self.compared,
        )
        if decision.promote and self.answers is None and "baselines" in rule.beat:
            remedy = (
                "the same command with registry.beat=[base,champion] does not ask for them, and "
                "job=promote gives it the alias by hand"
            )
            missing = f"but the baselines, which it has to beat, are not known ({self.unknown})"
            return Decision(
                False,
                f"{decision.reason}; {missing}. {remedy}",
                reasons=(*decision.reasons, missing, remedy),
            )
        return decision


def check_rows(plan: Plan) -> None:
    """Raise OrchestratorError where the files hold other rows than the plan has read: the sweep's
    name, its card and the champion's comparison would tell of rows that no longer are there.
    """
    try:
        digests = load_corpus(plan.config.data).digests
    except ValueError as error:
        raise OrchestratorError(f"the rows cannot be read again: {error}") from error
    changed = [name for name, digest in plan.digests.items() if digests.get(name) != digest]
    changed += [name for name in digests if name not in plan.digests]
    if changed:
        raise OrchestratorError(
            f"data: {', '.join(changed)} has changed since the sweep was planned, so nothing is "
            "judged or registered; the same command makes a sweep of the rows as they are now, and "
            "goes on with this one where the files are put back as they were"
        )
