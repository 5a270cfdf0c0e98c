"""What benchmarks.quality gives every contender, and how one is run: from its command until it ends
or its time is over, and then scored.

Imports neither torch nor the peers: the process that measures stays small.
"""

from __future__ import annotations

import json
import pickle
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import contenders, measure
from benchmarks.contenders import read
from jobs.config import BaseModel, Data, Scoring, Trial
from jobs.evaluation.baselines import LINEAR, NEAREST_PROMPT
from jobs.evaluation.scores import EvaluationSettings
from jobs.files.cache import cache_folder
from orchestrator.config.compose import compose
from orchestrator.config.settings import Config, Sweep
from orchestrator.config.validation import build, trial_of
from orchestrator.plan import planner as planning
from orchestrator.storage.journal import Journal

OWN, TUNE = "orchestrator", "tune_asha"
PEERS = (TUNE, "trainer", "trainer_fitted", "trl", "trl_fitted")
BASELINES = (NEAREST_PROMPT, LINEAR)
NAMES = (OWN, *PEERS, *BASELINES)
AT_HAND = ("models", "wheels", "loads")
"""What of the cache is there before this project's command starts: the base model alone."""
SIZES = {"sweep.num_trials", "train.steps"}
PROGRESS, STATE = "progress.json", "trainer_state.json"


class LeftOut(Exception):
    """A contender that this task is not for; says why."""


@dataclass(frozen=True)
class Task:
    """What every contender gets."""

    settings: list[str]
    """Base, rows and whatever else was asked for, as this project's command is told of them."""
    trial: Trial
    """The rows and lengths of a prompt without anything put before it."""
    base: BaseModel
    scoring: Scoring
    confidence: float
    max_new_tokens: int | None
    seconds: float
    cores: int
    gpus: int

    def rule(self) -> EvaluationSettings:
        """How every model is judged."""
        return EvaluationSettings(
            confidence=self.confidence,
            max_new_tokens=self.max_new_tokens,
            num_threads=self.cores,
            scoring=self.scoring,
        )

    def own_settings(self) -> list[str]:
        """The settings of this project's own command, but its storage."""
        return ["+sweep=lora", *self.minutes(), *self.settings]

    def minutes(self) -> list[str]:
        """The sweep's time as a setting; nothing where there is no such setting, or where trials
        and steps were both chosen, beside which a time has no effect.
        """
        names = {setting.lstrip("+").partition("=")[0] for setting in self.settings}
        if "minutes" not in Sweep.__dataclass_fields__ or names >= SIZES:
            return []
        return [f"sweep.minutes={self.seconds / 60:.6g}"]


@dataclass(frozen=True)
class Score:
    """What a contender is worth on the test rows."""

    metric: str
    value: float
    low: float
    high: float

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass(frozen=True)
class Measurement:
    """One contender's way to its score."""

    score: Score
    seconds: float
    """From its command to its end, or until its time was over."""
    stopped: bool
    """Whether it was stopped because its time was over."""
    examples: int
    """Training examples that went through the model, over all its trials."""
    peak_memory_mb: float
    settings: str
    """Of what was scored."""
    note: str = ""


@dataclass(frozen=True)
class SavedModel:
    """A checkpoint of transformers' Trainer that was evaluated and is complete."""

    folder: Path
    step: int
    loss: float


def without_neighbours(settings: list[str]) -> list[str]:
    """The settings by which peers get the rows themselves: what this project puts before a question
    is part of its own method.
    """
    if "neighbours" not in Data.__dataclass_fields__:
        return settings
    plain = [one for one in settings if not one.lstrip("+").startswith("data.neighbours")]
    return [*plain, "data.neighbours.count=0"]


def run(name: str, task: Task) -> Measurement:
    """Measure one contender. Raises RuntimeError with the end of its output when it has come to
    nothing, LeftOut when the task is not for it.
    """
    with tempfile.TemporaryDirectory(prefix="quality-") as temporary:
        folder = Path(temporary)
        (folder / "task.pkl").write_bytes(pickle.dumps(task))
        if name == OWN:
            return run_own(task, folder)
        if name in BASELINES:
            return run_baseline(name, folder)
        return run_peer(name, task, folder)


def watched_until(
    limit: float, command: list[str], environment: dict[str, str], log: Path
) -> tuple[measure.Watched, float, bool]:
    """Run a command for at most `limit` seconds: also how long it took, and whether it was
    stopped.
    """
    ends: list[float] = []
    deadline = time.time() + limit

    def over() -> bool:
        if time.time() >= deadline:
            ends.append(time.time())
        return bool(ends)

    watched = measure.run([sys.executable, *command], environment, log, over)
    ended = ends[0] if ends else time.time()
    return watched, ended - watched.began, bool(ends)


def run_peer(name: str, task: Task, folder: Path) -> Measurement:
    """A peer's process, and after it another one that scores the best model that it has saved."""
    runs = folder / "runs"
    runs.mkdir()
    module = ["benchmarks.quality_tune"] if name == TUNE else ["benchmarks.quality_peers", name]
    command = ["-m", *module, str(folder / "task.pkl"), str(runs)]
    single = contenders.environment("tune_trainer" if name == TUNE else "warm_trainer")
    log = folder / "log.txt"
    watched, seconds, stopped = watched_until(task.seconds, command, single, log)
    if watched.code and not stopped:
        raise RuntimeError(f"{name} ended with code {watched.code}:\n{read(log)[-3000:]}")
    saved = saved_models(runs, watched.began + seconds)
    if not saved:
        raise RuntimeError(f"{name} had saved no model after {seconds:.0f} s:\n{read(log)[-3000:]}")
    best = min(saved, key=lambda model: (model.loss, model.step))
    return Measurement(
        score_of_model(best.folder, folder),
        seconds,
        stopped,
        examples_of(runs),
        watched.peak_memory_mb,
        told_settings(best),
        told_trials(runs) if name == TUNE else "",
    )


def saved_models(folder: Path, before: float) -> list[SavedModel]:
    """What Trainers have saved below a folder until a time: the state is written last, so what has
    one is complete. Models that were not evaluated are no candidates.
    """
    models = []
    for state in sorted(folder.rglob(f"checkpoint-*/{STATE}")):
        if state.stat().st_mtime > before:
            continue
        try:
            content = json.loads(state.read_text(encoding="utf-8"))
        except ValueError:
            continue
        losses = [
            entry["eval_loss"]
            for entry in content["log_history"]
            if entry.get("step") == content["global_step"] and "eval_loss" in entry
        ]
        if losses and losses[-1] == losses[-1]:
            models.append(SavedModel(state.parent, content["global_step"], losses[-1]))
    return models


def progress_of(folder: Path) -> list[dict[str, Any]]:
    """What each Trainer below a folder has written down of its settings and steps."""
    return [json.loads(read(file)) for file in sorted(folder.rglob(PROGRESS))]


def examples_of(folder: Path) -> int:
    """Training examples of all Trainers below a folder."""
    return sum(one["steps"] * one["batch_size"] for one in progress_of(folder))


def told_settings(best: SavedModel) -> str:
    """The settings of the Trainer that has saved a model, in words."""
    (one,) = progress_of(best.folder.parent)
    return (
        f"lr {one['lr']:.2g}, rank {one['rank']}, {one['schedule']} over {one['planned']:,} steps "
        f"of {one['batch_size']}; model of step {best.step:,}"
    )


def told_trials(folder: Path) -> str:
    """How many trials there were, and how far they came."""
    steps = [one["steps"] for one in progress_of(folder)]
    return f"{len(steps)} trials, of {', '.join(map(str, sorted(steps, reverse=True)))} steps"


def score_of_model(model: Path, folder: Path, task_file: str = "task.pkl") -> Score:
    """The score of a saved model, by a process of its own, whose time does not count."""
    content, _, _ = scored(["model", str(folder / task_file), str(model)], folder)
    return Score(**content)


def scored(arguments: list[str], folder: Path) -> tuple[dict[str, Any], float, float]:
    """What benchmarks.quality_scoring answers, its seconds and its memory."""
    outcome, log = folder / "score.json", folder / "scoring.txt"
    command = ["-m", "benchmarks.quality_scoring", *arguments, str(outcome)]
    watched = measure.run([sys.executable, *command], contenders.environment("warm_trainer"), log)
    seconds = time.time() - watched.began
    if watched.code:
        raise RuntimeError(f"scoring ended with code {watched.code}:\n{read(log)[-3000:]}")
    return json.loads(read(outcome)), seconds, watched.peak_memory_mb


def run_baseline(name: str, folder: Path) -> Measurement:
    """A baseline without a language model; it takes seconds, its scoring among them."""
    content, seconds, memory = scored([name, str(folder / "task.pkl")], folder)
    if reason := content.get("left_out"):
        raise LeftOut(reason)
    rows, settings = content.pop("rows"), content.pop("settings")
    return Measurement(Score(**content), seconds, False, rows, memory, settings)


def run_own(task: Task, folder: Path) -> Measurement:
    """This project's command, with an empty storage and a cache that holds the base model alone.

    It judges its winner within its time. Where that is over before, its best checkpoint is scored
    as a peer's is.
    """
    storage, log = folder / "storage", folder / "log.txt"
    settings = [*task.own_settings(), f"storage={storage}", "output=json"]
    own = {**contenders.environment("pack"), "ORCHESTRATOR_CACHE": str(cold_cache(folder))}
    command = ["-m", "orchestrator", *settings]
    watched, seconds, stopped = watched_until(task.seconds, command, own, log)
    result = last_result(read(log))
    config = build(compose(settings, None))
    told = {
        "seconds": seconds,
        "stopped": stopped,
        "examples": own_examples(storage, config),
        "peak_memory_mb": watched.peak_memory_mb,
    }
    if not stopped and result is not None and result["state"] == "finished":
        best, metric = result["best"], result["metric"]
        low, high = (best["metrics"][f"{metric}_{end}"] for end in ("low", "high"))
        score = Score(metric, best["metrics"][metric], low, high)
        trials = result["trials"]["total"]
        return Measurement(score, **told, settings=own_words(best["params"], trials))
    if not stopped:
        raise RuntimeError(f"{OWN} ended with code {watched.code}:\n{read(log)[-3000:]}")
    return score_unfinished(task, config, folder, told)


def cold_cache(folder: Path) -> Path:
    """A cache without anything that an earlier sweep has kept, but with the base model."""
    cache = folder / "cache"
    cache.mkdir()
    for name in AT_HAND:
        if (cache_folder() / name).exists():
            (cache / name).symlink_to(cache_folder() / name)
    return cache


def last_result(log: str) -> dict[str, Any] | None:
    """The result among the lines of output=json."""
    for line in reversed(log.splitlines()):
        if line.startswith('{"'):
            try:
                content = json.loads(line)
            except ValueError:
                continue
            if content.get("best"):
                return content
    return None


def own_examples(storage: Path, config: Config) -> int:
    """Training examples of all trials, as the journal has them."""
    total = 0
    for journal in journals(storage):
        for record in journal.records().values():
            batch = record.point.get("train.batch_size", config.train.batch_size)
            total += max(record.reports, default=0) * int(batch)
    return total


def journals(storage: Path) -> list[Journal]:
    """The journals of the sweeps of a storage."""
    return [Journal(file.parent) for file in storage.glob("sweeps/*/journal.jsonl")]


def own_words(params: dict[str, Any], trials: int) -> str:
    """The best trial's settings, in words."""
    names = {"optim.lr": "lr", "adapter.rank": "rank", "adapter.layers": "layers"}
    names |= {"train.batch_size": "batch", "train.steps": "steps"}
    words = [f"{short} {params[path]:.3g}" for path, short in names.items() if path in params]
    return ", ".join([f"{trials} trials", *words])


def score_unfinished(task: Task, config: Config, folder: Path, told: dict[str, Any]) -> Measurement:
    """The score of the best checkpoint of a sweep that was stopped. Raises RuntimeError when it has
    none.
    """
    plan = planning.make(config)
    metric, maximise = plan.config.sweep.metric, plan.config.sweep.maximise
    records = [
        record for journal in journals(folder / "storage") for record in journal.records().values()
    ]
    candidates = []
    for record in records:
        best = None if record.state == "failed" else record.best(metric, maximise)
        if best is not None and best[0] in record.checkpoints:
            candidates.append((best[1] if maximise else -best[1], record, best[0]))
    if not candidates:
        log = read(folder / "log.txt")[-3000:]
        raise RuntimeError(f"{OWN} had no checkpoint after {told['seconds']:.0f} s:\n{log}")
    _, record, step = max(candidates, key=lambda candidate: candidate[0])
    trial = trial_of(plan.config, record.index, record.point)
    (folder / "own.pkl").write_bytes(pickle.dumps(Task(**{**vars(task), "trial": trial})))
    score = score_of_model(Path(record.checkpoints[step]) / "model", folder, "own.pkl")
    words = own_words({**record.point, "train.steps": step}, len(records))
    note = "stopped before it was judged: its best checkpoint"
    return Measurement(score, **told, settings=words, note=note)
