"""The control plane's settings: frozen, documented dataclasses. validation.py reads them from a
composed dictionary.
"""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Any, Literal

from jobs.config import LARGEST, Adapter, Data, Model, Optim, Train, config, is_name, require
from jobs.evaluation import registry
from jobs.synthesis_settings import Synthesis
from orchestrator.config.budget import Budget
from orchestrator.config.cluster import DAY_SECONDS, Cluster
from orchestrator.config.device_settings import Device
from orchestrator.config.merge_settings import Mix
from orchestrator.config.registry_settings import Registry
from orchestrator.config.search_space import Knob
from orchestrator.config.shipping import Export, Pareto, Serve

MOST_TRIALS = 100_000
"""Trials of a sweep: the plan holds all of them, and Ray Tune a process's worth for each."""
MOST_MINUTES = 7 * 24 * 60
AUTO_PRIOR = "auto"
MOST_FINALISTS, MOST_SEEDS = 100, 100


@config
class Sweep:
    """How trials are chosen, compared and stopped. Without a search space there is one trial."""

    name: str = "run"
    """First part of the sweep's name."""
    space: dict[str, Knob] = field(default_factory=dict)
    num_trials: int | None = None
    """Trials to run. None: every combination of the grid knobs, which is 1 without any."""
    minutes: float | None = None
    """How long the whole command takes, from its start to the registered model: what is left open
    of sweep.num_trials, train.steps and train.eval_every follows from it and from how fast this
    machine is. None: they are what the configuration says. It sizes the sweep and ends nothing:
    budget.minutes does.
    """
    search: Literal["random", "grid", "optuna"] = "random"
    """random: independent draws. grid: all combinations, so every knob is a choice or a grid.
    optuna: tree-structured Parzen estimator (Bergstra et al., 2011).
    """
    scheduler: Literal["none", "halving", "asha"] = "none"
    """halving: all trials reach a rung before the better ones go on (Jamieson and Talwalkar, 2016).
    asha: no waiting (Li et al., 2020).
    """
    reduction: int = 2
    """One in this many trials survives a rung; rungs lie at train.eval_every times its powers."""
    metric: str = registry.DEFAULT
    """What the best trial is best at: a name of jobs/evaluation/registry.py, a function of your own
    as module:function, or auto, with which the data decides.
    """
    metric_rows: int | None = 200
    """On how many validation rows answers are generated at a rung, for a metric that needs any; at
    a trial's end on all. None: always on all.
    """
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    """Right label -> answered label -> cost, for the metric valid/cost. "*" is every other answer.
    """
    mode: Literal["max", "min"] | None = None
    """None: as the metric says."""
    max_concurrent: int | None = None
    """Trials that train at once. None: as many as the resources hold, at most 12 on a machine
    without a GPU, in a pack 16 per GPU.
    """
    prior: str | None = None
    """An earlier sweep that the search starts from; auto: all on the same rows and base."""
    loss_curves: bool = True
    """Stop a trial inside a rung whose training loss diverges or is left far behind. In packs."""
    give_up_after: int = 3
    """The sweep stops when its first so many trials have all failed for the same reason."""

    def __post_init__(self) -> None:
        named = bool(self.name) and all(word.isalnum() for word in self.name.split("-"))
        require(
            (
                named,
                f"sweep.name must be words of letters and digits joined by '-', got {self.name!r}",
            ),
            (
                self.num_trials is None or 1 <= self.num_trials <= MOST_TRIALS,
                f"sweep.num_trials must be at least 1 and at most {MOST_TRIALS:,}, got "
                f"{self.num_trials}",
            ),
            (
                self.prior is None or bool(self.prior.strip()),
                "sweep.prior must name a sweep, or auto",
            ),
            (
                self.minutes is None or 0 < self.minutes <= MOST_MINUTES,
                f"sweep.minutes must be above 0 and at most {MOST_MINUTES:,}, got {self.minutes}",
            ),
            (
                self.metric_rows is None or self.metric_rows >= 1,
                f"sweep.metric_rows must be at least 1, got {self.metric_rows}",
            ),
            *(
                (
                    0 <= value < float("inf"),
                    f"sweep.costs.{right}.{said} must be a number of at least 0, got {value}",
                )
                for right, row in self.costs.items()
                for said, value in row.items()
            ),
            (self.reduction >= 2, f"sweep.reduction must be at least 2, got {self.reduction}"),
            (
                self.max_concurrent is None or self.max_concurrent >= 1,
                f"sweep.max_concurrent must be at least 1, got {self.max_concurrent}",
            ),
            (
                self.give_up_after >= 1,
                f"sweep.give_up_after must be at least 1, got {self.give_up_after}",
            ),
        )

    @property
    def maximise(self) -> bool:
        """Whether a higher value of the metric is better."""
        if self.mode is not None:
            return self.mode == "max"
        if self.metric == registry.AUTO or registry.problem(self.metric) is not None:
            return True
        return registry.metric_of(self.metric).maximise


@config
class Final:
    """The finalists: the best trials, trained again or to their end before one is judged."""

    count: int = 2
    """Best trials that are finalists. 0: the best trial is judged as it is."""
    seeds: int = 1
    """Seeds that each finalist is trained under, its own among them: the mean of their scores on
    the validation split decides. 1 trains nothing again.
    """
    judged: int = 1
    """Finalists that meet the test rows. Of those that the rows cannot tell from the best the
    smallest asks for the champion's alias.
    """
    schedule: Literal["linear", "cosine", "warmup_stable_decay"] | None = None
    """Train the finalists again with this optim.schedule, whose learning rate falls to 0. None:
    each has its trial's own.
    """

    def __post_init__(self) -> None:
        require(
            (
                0 <= self.count <= MOST_FINALISTS,
                f"final.count must be between 0 and {MOST_FINALISTS}, got {self.count}",
            ),
            (
                1 <= self.seeds <= MOST_SEEDS,
                f"final.seeds must be between 1 and {MOST_SEEDS}, got {self.seeds}",
            ),
            (
                1 <= self.judged <= max(self.count, 1),
                f"final.judged must be between 1 and final.count={max(self.count, 1)}, got "
                f"{self.judged}",
            ),
        )


@config
class Tracking:
    """Where MLflow keeps runs and models."""

    uri: str | None = None
    """sqlite:///FILE, http(s)://SERVER or postgresql://... None: SQLite under the storage folder.
    ${secret:NAME} in a password's place is the environment variable NAME, or the content of a file
    where NAME has a slash.
    """
    experiment: str | None = None
    """MLflow's experiment. None: one for each task, called after its data and its fingerprint."""
    system_metrics: bool = True
    """Keep what the driver's machine does (processors, memory, disk, network, GPUs) with the
    sweep's run.
    """
    model: str | None = None
    """Name of the registered model. None: DATA-MODEL."""
    same_task: bool = False
    """Judge the champion anew on these test rows where it was chosen by others, and let the better
    one have the alias. Without it a champion of another task keeps its alias.
    """
    patience_seconds: float = 30.0
    """How long the end of a run waits for a server that does not answer."""

    def __post_init__(self) -> None:
        require(
            (
                self.experiment is None or 0 < len(self.experiment.strip()) <= 500,
                "tracking.experiment must have 1 to 500 characters, got "
                f"{len((self.experiment or '').strip())}",
            ),
            (
                self.model is None or is_name(self.model),
                f"tracking.model must be letters, digits, spaces and . + - _, got {self.model!r}",
            ),
            (
                0 <= self.patience_seconds <= DAY_SECONDS,
                f"tracking.patience_seconds must be between 0 and {DAY_SECONDS}, got "
                f"{self.patience_seconds}",
            ),
        )


@config
class Job:
    """What the command does, and how a model is judged at its end."""

    kind: Literal[
        "train",
        "check",
        "new",
        "predict",
        "setup",
        "promote",
        "rollback",
        "export",
        "serve",
        "synthesize",
    ] = "train"
    """train: sweep, evaluate, register. check: look at the rows and say what may be wrong with
    them. new: write an experiment from them. predict: answer one prompt. setup: fetch the base
    model. promote: give a version the champion's alias. rollback: give it back to the one before.
    export: a version as the file that ships. serve: an OpenAI-compatible endpoint over it.
    synthesize: write new training rows.
    """
    reason: str | None = None
    """promote and rollback: why, kept with the version."""
    author: str | None = None
    """promote and rollback: who says so. None: the user that runs the command."""
    examples: int = 4
    """Training rows in the prompt of the untouched base that is judged beside the winner, as a
    baseline that learns nothing. 0: none.
    """
    confidence: float = 0.95
    """Coverage of the interval around a test score (Wilson, 1927)."""
    max_new_tokens: int | None = None
    """Tokens at which an answer ends. None: those of the longest answer in the rows of all splits,
    less a few that are far longer than all others; the plan names the number.
    """

    def __post_init__(self) -> None:
        require(
            (
                0 < self.confidence < 1,
                f"job.confidence must be between 0 and 1, got {self.confidence}",
            ),
            (
                self.max_new_tokens is None or 1 <= self.max_new_tokens < LARGEST,
                f"job.max_new_tokens must be at least 1 and below 2**31, got {self.max_new_tokens}",
            ),
            (
                0 <= self.examples <= 64,
                f"job.examples must be between 0 and 64, got {self.examples}",
            ),
        )


@config
class Config:
    """One command's settings, checked."""

    model: Model
    data: Data
    adapter: Adapter
    optim: Optim
    train: Train
    cluster: Cluster
    tracking: Tracking
    job: Job
    sweep: Sweep = field(default_factory=Sweep)
    mix: Mix = field(default_factory=Mix)
    registry: Registry = field(default_factory=Registry)
    final: Final = field(default_factory=Final)
    budget: Budget = field(default_factory=Budget)
    export: Export = field(default_factory=Export)
    device: Device = field(default_factory=Device)
    pareto: Pareto = field(default_factory=Pareto)
    serve: Serve = field(default_factory=Serve)
    synthesis: Synthesis = field(default_factory=Synthesis)
    storage: str = "outputs"
    """Folder, or file:// URI, that keeps sweeps, checkpoints and the default MLflow store."""
    executor: Literal["auto", "pack", "plain"] = "auto"
    """pack: trials train together over one frozen base. plain: each is a job of its own. auto: a
    pack where it fits, and the plan says why where it does not. The result is the same within
    rounding.
    """
    seed: int = 0
    dry_run: bool = False
    """Print the plan and stop."""
    fresh: bool = False
    """Forget what an earlier run of the same sweep has done."""
    retry: bool = False
    """true, or failed: run the trials that failed again; everything else is kept."""
    output: Literal["text", "json"] = "text"
    model_uri: str | None = None
    """predict, export, serve: models:/NAME@ALIAS, models:/NAME/VERSION or a folder. promote: the
    version; rollback: models:/NAME.
    """
    prompt: str | None = None
    """predict: what to answer. What all rows of the task have in common, such as a system message,
    is added.
    """
    messages: str | None = None
    """predict: a conversation to answer instead, as JSON: a list of messages, or a row without its
    answer.
    """
    skipped: dict[str, str] = field(default_factory=dict, init=False)
    """Optional knobs that are left out of the search, by name, with the reason. No setting: found
    while the configuration is checked.
    """
    unused: dict[str, str] = field(default_factory=dict, init=False)
    """Settings that were given and change nothing, as NAME=VALUE, with the reason. Found
    likewise.
    """
    left_open: tuple[str, ...] = field(default=(), init=False)
    """Settings that nobody has chosen and that the plan chooses by measurement. Found likewise."""

    @property
    def registered_name(self) -> str:
        """Under which the winner is registered."""
        return self.tracking.model or f"{self.data.name}-{self.model.name}"

    @property
    def runs_here(self) -> bool:
        """Whether this process is on the machines where the work runs, rather than sending it
        there.
        """
        return self.cluster.kind == "local" or (
            self.cluster.kind == "attached" and self.cluster.address == "auto"
        )

    def __post_init__(self) -> None:
        require(
            (0 <= self.seed < 2**31, f"seed must be at least 0 and below 2**31, got {self.seed}"),
            (bool(self.storage.strip()), "storage must be a folder or a file:// URI"),
        )


def changed(config: Config, **changes: Any) -> Config:
    """`config` with other values, and with what was found while it was checked."""
    new = dataclasses.replace(config, **changes)
    for name in ("skipped", "unused", "left_open"):
        object.__setattr__(
            new, name, getattr(config, name)
        )  # no argument, so that nobody can give it on the command line
    return new


SECTIONS: dict[str, type] = {
    "model": Model,
    "data": Data,
    "adapter": Adapter,
    "optim": Optim,
    "train": Train,
    "cluster": Cluster,
    "tracking": Tracking,
    "job": Job,
    "sweep": Sweep,
    "mix": Mix,
    "registry": Registry,
    "final": Final,
    "budget": Budget,
    "export": Export,
    "device": Device,
    "pareto": Pareto,
    "serve": Serve,
    "synthesis": Synthesis,
}
