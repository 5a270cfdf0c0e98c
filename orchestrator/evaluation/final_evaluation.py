"""Judging the winner on the test split beside the base and the champion, and registering it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from jobs.config import BaseModel
from jobs.data.corpus import load_corpus
from jobs.data.task_prompt import command_text, common_task
from jobs.data.tokenization import RENDERING
from jobs.evaluation.scores import EvaluationSettings, TestScores
from jobs.export.model_folder import export
from jobs.files import filesystem as places
from jobs.files.manifest import Damaged
from jobs.workers.evaluation_task import checked, evaluate_on_test
from jobs.workers.reporting import reason
from orchestrator.config.run_numbers import label
from orchestrator.errors import InputError, OrchestratorError, TrackingError
from orchestrator.evaluation.promotion import Decision, Scores, decide
from orchestrator.evaluation.version_folder import check_version
from orchestrator.output.result import Result
from orchestrator.plan.task import REMEDY
from orchestrator.storage.json_files import read_object, write_json
from orchestrator.storage.paths import storage_folder
from orchestrator.tracking.model_versions import Version
from orchestrator.tracking.serving_files import add_serving_files

POLL_SECONDS = 0.5


class FinalEvaluation:
    """The end of a sweep: from its best trial to a registered version."""

    def __init__(
        self,
        command: Any,
        board: Any,
        store: Any,
        writer: Any,
        screen: Any,
        drain: Callable[[], None],
    ) -> None:
        self.drain = drain
        self.command, self.board, self.store, self.writer, self.screen = (
            command,
            board,
            store,
            writer,
            screen,
        )
        self.config, self.plan = command.config, command.plan
        self.base: BaseModel = command.base
        self.digest = self.plan.digests["test"]

    def complete(self, outcome: Result) -> None:
        """Fill in what the test split says and what was registered."""
        best = outcome["best"]
        name = label(best["run"])
        trial = self.board.trained(best["run"])
        trained = self.checkpoint(best["run"], best["step"])
        verdicts = self.judge({"base": None, name: trained}, trial)
        base, candidate = verdicts["base"], verdicts[name]
        outcome["base"] = {"metrics": base.metrics()}
        best["metrics"] |= candidate.metrics()
        outcome["asked"], outcome["prompt"] = self.first_prompt(trial)
        folder = self.command.folder / "export"
        export(trial, self.base, checked(trained), candidate, folder)
        add_serving_files(folder)
        checked(trained)  # what was copied is what was judged
        self.command.journal.append(
            "report", trial=best["run"], step=best["step"], metrics=candidate.metrics()
        )
        renamed = {key.replace("test/", "base/"): value for key, value in base.metrics().items()}
        self.command.journal.append("metrics", trial=None, metrics=renamed | candidate.metrics())
        try:
            self.register(outcome, candidate, base, folder, trial)
        except OrchestratorError as error:
            outcome["state"], outcome["error"] = (
                "failed",
                f"not registered: {error}; the same command again registers it",
            )

    def checkpoint(self, index: int, step: int) -> str:
        """The folder or URI of what a trial had learned at a step. Raises OrchestratorError when
        none was ever kept.
        """
        found = self.board.records[index].checkpoints.get(step)
        if found is None:
            raise OrchestratorError(
                f"the checkpoint of {label(index)} at step {step} is gone; fresh=true trains it "
                "again"
            )
        return places.join(found, "model")

    def first_prompt(self, trial: Any) -> tuple[str, str]:
        """What asks the model for the answer to the first test row: a setting of job=predict and
        its value.
        """
        corpus = load_corpus(trial.data)
        return command_text(corpus.test[0], common_task(corpus))

    def judge(
        self, folders: dict[str, str | None], trial: Any, base: BaseModel | None = None
    ) -> dict[str, TestScores]:
        """Score models on the test split, at the same time; the base's scores are remembered for
        other sweeps.
        """
        sealed = (
            base is None
        )  # a checkpoint of this sweep; a champion's files were looked at when they were fetched
        base = base if base is not None else self.base
        memo = storage_folder(self.config.storage) / "base-scores.json"
        known = read_object(memo)
        key = (
            f"{base.revision} {self.digest} {asdict(self.rule(1)) | {'num_threads': 0}} "
            f"{trial.train.max_length} {RENDERING}"
        )
        remembered = recall(known.get(key))
        found = {
            name: remembered
            for name, folder in folders.items()
            if folder is None and remembered is not None
        }
        todo = {name: folder for name, folder in folders.items() if name not in found}
        self.screen.note(f"judging {' and '.join(todo)} on {self.plan.num_test:,} test rows")
        share, gpus = self.plan.resources.share(max(len(todo), 1))
        task = ray.remote(evaluate_on_test).options(num_cpus=share, num_gpus=gpus, max_retries=2)
        waiting = {
            task.remote(
                *[self.plan.name, f"judging {name}", trial, base, folder, self.rule(share), sealed]
            ): name
            for name, folder in todo.items()
        }
        while waiting:
            ready, _ = ray.wait(list(waiting), timeout=POLL_SECONDS)
            self.drain()
            for reference in ready:
                found[waiting.pop(reference)] = self.collect(reference)
        for name, folder in folders.items():
            if folder is None:
                write_json(memo, known | {key: asdict(found[name])})
        return found

    def collect(self, reference: Any) -> TestScores:
        """The answer of a judging task. Raises Damaged for a checkpoint that cannot be used, else
        OrchestratorError with its cause.
        """
        try:
            return ray.get(reference)
        except RayError as error:
            if isinstance(getattr(error, "cause", None), Damaged):
                raise error.cause from error  # type: ignore[attr-defined]
            raise OrchestratorError(
                f"judging failed: {reason(error)}; what is trained is kept, and the same command "
                "continues"
            ) from error

    def rule(self, threads: int) -> EvaluationSettings:
        """How every model is judged."""
        job = self.config.job
        return EvaluationSettings(job.confidence, job.max_new_tokens, threads)

    def register(
        self, outcome: Result, candidate: TestScores, base: TestScores, folder: Path, trial: Any
    ) -> None:
        """Upload the version's folder, register it, and move the champion's alias if it is
        deserved.
        """
        best, name = outcome["best"], self.command.model_name
        self.writer.wake()
        best["run_id"] = self.run_of(best["run"])
        path = f"model/step-{best['step']:06d}"
        self.store.log_artifacts(best["run_id"], folder, path)
        champion = self.store.champion(name)
        tags = self.tags(outcome, candidate)
        version = self.store.register(
            name, best["run_id"], path, tags, f"{outcome['sweep']}, {label(best['run'])}"
        )
        decision = self.decide(version, champion, candidate, base, trial)
        if decision.promote:
            self.store.set_champion(name, version.version)
        holds = decision.promote or (champion is not None and champion.version == version.version)
        outcome["decision"] = decision.reason
        outcome["model"] = {
            "name": name,
            "version": version.version,
            "alias": "champion" if holds else None,
            "uri": version.uri,
        }
        self.command.journal.append(
            "tags",
            trial=None,
            tags={"model.version": version.uri, "model.decision": decision.reason},
        )

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

    def tags(self, outcome: Result, candidate: TestScores) -> dict[str, str]:
        """What a later sweep needs to compare with this version without running it."""
        scores = {key: repr(value) for key, value in candidate.metrics().items()}
        return (
            scores
            | self.plan.task.tags
            | {"test.rows": str(len(candidate.predictions)), "sweep": outcome["sweep"]}
        )

    def decide(
        self,
        version: Version,
        champion: Version | None,
        candidate: TestScores,
        base: TestScores,
        trial: Any,
    ) -> Decision:
        """Compare with the champion, or with the base when there is none. A champion of another
        task keeps its alias, unless the user says that it is the same one: then it is judged anew
        on these rows.
        """
        if champion is not None and champion.version == version.version:
            return Decision(False, "it is the champion already")
        scores = self.scores(candidate)
        if champion is None:
            return decide(scores, None, floor=base.exact_match)
        tags, same = champion.tags, self.config.tracking.same_task
        stranger = self.plan.task.stranger(champion.uri, tags)
        if stranger is not None and not same:
            return Decision(False, stranger)
        if (known := told_scores(tags, self.digest)) is not None:
            return decide(scores, known)
        self.screen.note(
            f"the champion {champion.uri} was not chosen by these test rows: it is judged on them"
        )
        try:
            folder, made_on = self.fetch_champion(champion)
        except TrackingError:
            raise
        except (InputError, ValueError) as error:
            remedy = f"it keeps its alias, which MLflow's page of {version.uri} can move"
            return Decision(
                False,
                f"the champion {champion.uri} cannot be judged on these rows ({error}); {remedy}",
            )
        trained = folder / "adapter" if (folder / "adapter").exists() else folder / "model"
        judged = self.judge({"champion": str(trained)}, trial, made_on)["champion"]
        decision = decide(scores, self.scores(judged), own_rows=False)
        if (
            decision.promote and not same
        ):  # its tags were taken away, or it is of before they were written
            return Decision(
                False,
                f"{decision.reason}; but nothing tells for what task that was made, so it keeps "
                f"its alias. {REMEDY}",
            )
        return decision

    def fetch_champion(self, champion: Version) -> tuple[Path, BaseModel]:
        """The present champion's folder, and its base model. Raises InputError or ValueError for
        one that is not ours, or whose files or base model are gone: another program may have
        registered it under the same name.
        """
        place = self.command.folder / "champion"
        shutil.rmtree(
            place, ignore_errors=True
        )  # what an earlier champion has left would be judged in this one's place
        folder = self.store.download(champion.uri, place)
        check_version(champion.uri, folder)
        described = json.loads((folder / "base.json").read_text(encoding="utf-8"))
        base = BaseModel(
            **{key: described[key] for key in ("name", "source", "id", "revision", "path")}
        )
        if Path(base.path).is_dir():
            return folder, base
        if base.revision != self.base.revision:
            raise ValueError(f"its base model {base.name} is no longer in {base.path}")
        return folder, self.base

    def scores(self, verdict: TestScores) -> Scores:
        """A verdict in the registry's terms."""
        return Scores(
            verdict.exact_match, verdict.low, verdict.high, len(verdict.predictions), self.digest
        )


def told_scores(tags: dict[str, str], digest: str) -> Scores | None:
    """What a version's tags say of it on the test rows with this digest; None where they do not, or
    were edited to what is no score.
    """
    try:
        value, low, high = (float(tags[f"test/exact_match{end}"]) for end in ("", "_low", "_high"))
        return (
            Scores(value, low, high, int(tags["test.rows"]), digest)
            if tags.get("test.digest") == digest
            else None
        )
    except (KeyError, ValueError):
        return None


def recall(kept: Any) -> TestScores | None:
    """A verdict from the file that remembers them; None when it is not there, or is not one."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(TestScores).validate_python(kept)
    except ValidationError:
        return None
