"""What job=synthesize knows before anyone is asked: rows, recipe, and what the folder of the rows
is called after.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.config import Model
from jobs.data.corpus import Corpus, load_corpus
from jobs.files.json_types import JsonObject
from jobs.synthesis.chat_server import without_login
from jobs.synthesis.documents import passages_of
from jobs.synthesis.drafts import Ask, Passage
from jobs.synthesis.recipes import FORM, Recipe, recipe_of
from jobs.synthesis.seed_rows import Seeds, seeds_of
from jobs.synthesis_settings import Synthesis, Teacher
from orchestrator.config.settings import Config
from orchestrator.config.yaml_text import parse
from orchestrator.errors import InputError
from orchestrator.project import ROOT
from orchestrator.storage.paths import storage_folder


@dataclass(frozen=True)
class Job:
    """Everything that is known before anyone is asked."""

    config: Config
    corpus: Corpus
    seeds: Seeds
    passages: list[Passage]
    recipe: Recipe
    notes: list[str]
    teacher: str
    """What the teacher is known by; "none" for a recipe without one."""

    @property
    def settings(self) -> Synthesis:
        """Those of the rows."""
        return self.config.synthesis

    @property
    def decisive(self) -> JsonObject:
        """What decides which requests are made: the number of rows, the filters, the judge and the
        pace do not.
        """
        decisive = dataclasses.asdict(self.settings)
        for name in ("rows", "folder", "preview", "tries", "give_up_after", "filters", "judge"):
            del decisive[name]
        del decisive["teacher"]
        rows = [(seed.question, seed.answer) for seed in self.seeds.rows]
        return decisive | {
            "form": FORM,
            "teacher": self.teacher,
            "seed": self.config.seed,
            "task": task_of(self.config),
            "seeds": digest([rows, self.corpus.digests["valid"], self.corpus.digests["test"]]),
            "documents": digest([passage.text for passage in self.passages]),
        }

    @property
    def folder(self) -> Path:
        """Where the rows go."""
        if self.settings.folder is not None:
            return Path(self.settings.folder).expanduser().absolute()
        name = f"{self.config.data.name}-{self.settings.recipe}-{digest(self.decisive)[:8]}"
        return storage_folder(self.config.storage) / "synthetic" / name.replace(" ", "-")

    @property
    def wanted(self) -> JsonObject:
        """What decides which rows there are at the end."""
        s = self.settings
        judge = None if s.judge is None else dataclasses.asdict(s.judge)
        return {
            "rows": s.rows,
            "tries": s.tries,
            "give_up_after": s.give_up_after,
            "filters": dataclasses.asdict(s.filters),
            "judge": judge,
        }


def prepare(config: Config) -> Job:
    """Read rows and documents, and check all that can be without asking. Raises InputError."""
    settings = config.synthesis
    try:
        corpus = load_corpus(config.data)
        sources = [name for name, source in config.data.sources.items() if source.weight > 0]
        seeds = seeds_of(corpus, sources or list(corpus.sources), settings.label)
        passages, unread = [], []
        if settings.recipe == "questions":
            passages, unread = passages_of(settings.documents or "", settings.passage_words)
        recipe = recipe_of(settings, seeds, passages, task_of(config), config.seed)
    except ValueError as error:
        raise InputError(str(error)) from error
    notes = [*corpus.notes, *seeds.notes]
    if unread:
        listed = ", ".join(unread[:6]) + (f" and {len(unread) - 6} more" if unread[6:] else "")
        notes.append(f"not read in {settings.documents}: {listed}")
    teacher = "none" if recipe.steps == 0 else teacher_identity(config, settings.teacher)
    return Job(config, corpus, seeds, passages, recipe, notes, teacher)


def task_of(config: Config) -> str:
    """What the teacher is told of the task."""
    instruction = config.synthesis.instruction
    return (config.data.instruction if instruction is None else instruction).strip()


def teacher_identity(config: Config, teacher: Teacher) -> str:
    """What decides a teacher's replies, before it is fetched or asked."""
    if teacher.url is not None:
        fields = [teacher.temperature, teacher.max_new_tokens, teacher.body]
        return f"{teacher.model} at {without_login(teacher.url)} {json.dumps(fields)}"
    model = local_model(config, teacher.model, "synthesis.teacher.model")
    fields = dataclasses.asdict(model) | {"max_new_tokens": teacher.max_new_tokens}
    return json.dumps(fields, sort_keys=True)


def local_model(config: Config, name: str | None, setting: str) -> Model:
    """The base model of a name: None is that of the configuration. Raises InputError."""
    if name is None:
        return config.model
    choice = ROOT / "conf" / "model" / f"{name}.yaml"
    if "/" not in name and choice.is_file() and name not in ("path", "hub"):
        return Model(**parse(choice.read_text(encoding="utf-8")))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Model(name=folder.name or "local", source="path", path=str(folder.absolute()))
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return Model(name=name.rpartition("/")[2], source="hub", id=name)
    choices = sorted(file.stem for file in choice.parent.glob("*.yaml"))
    listed = ", ".join(choice for choice in choices if choice not in ("path", "hub"))
    raise InputError(
        f"{setting}={name} is neither one of {listed}, nor a folder, nor OWNER/NAME of the hub; "
        f"with {setting.rpartition('.')[0]}.url it is the model's name at a server"
    )


def first_ask(job: Job) -> Ask | None:
    """The first request, None for a recipe without any."""
    step = job.recipe.advance(next(job.recipe.drafts()), [])
    return step if isinstance(step, Ask) else None


def digest(value: Any) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
