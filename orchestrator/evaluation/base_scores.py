"""Scores of untouched base models, kept in a storage for other sweeps: each under all that its
scoring reads, so that none is taken for what another program, or the same one with other rows or
rules, would find.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from jobs.config import BaseModel, Trial
from jobs.data.corpus import Corpus
from jobs.evaluation.scores import EvaluationSettings, TestScores
from orchestrator.plan.neighbours import decisive_settings
from orchestrator.project import ROOT
from orchestrator.storage.json_files import read_sealed, write_sealed
from orchestrator.tracking.provenance import version

FILE = "base-scores.json"
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn", "sacrebleu")
"""What answers and metrics are computed with, beside the project's own code."""


class BaseScores:
    """The file of a storage that remembers them."""

    def __init__(self, storage: Path, sweep: str) -> None:
        self.file = storage / FILE
        self.sweep = sweep

    def recall(self, keys: dict[str, str]) -> dict[str, TestScores]:
        """What is remembered under the keys of these names."""
        entries = read_sealed(self.file)
        read = {name: as_scores(entries.get(key)) for name, key in keys.items()}
        return {name: scores for name, scores in read.items() if scores is not None}

    def keep(self, scores_by_key: dict[str, TestScores]) -> None:
        """Remember these too."""
        added = {key: dataclasses.asdict(scores) for key, scores in scores_by_key.items()}
        write_sealed(self.file, read_sealed(self.file) | added, self.sweep)


def key_of(
    base: BaseModel, trial: Trial, rule: EvaluationSettings, corpus: Corpus, on_gpu: bool
) -> str:
    """What scores of a base are remembered under: a digest of the model with its template and end
    marks, the rows as they are asked, the settings, the code and the libraries. `rule` says
    whether examples stand in the prompt: then no neighbours do.
    """
    neighbours = trial.data.neighbours
    shown = bool(neighbours.count) and not rule.num_examples
    read = {
        "model": base.revision,
        "rows": rows_digest(corpus),
        "rule": dataclasses.asdict(dataclasses.replace(rule, num_threads=0)),
        "max_length": trial.train.max_length,
        "slices": trial.data.slices,
        "neighbours": decisive_settings(neighbours) if shown else None,
        "gpu": on_gpu,
        "program": program(),
    }
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def rows_digest(corpus: Corpus) -> str:
    """Of all rows by their use, and of the test rows all that they are asked and told apart by."""
    test_rows = [
        (row.messages, row.tools, row.thinking, row.instruction, row.source, row.columns)
        for row in corpus.test
    ]
    text = json.dumps([corpus.digests, test_rows], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def program() -> str:
    """A digest of the code that renders, answers and scores, and of the libraries below it."""
    total = hashlib.sha256()
    for file in sorted((ROOT / "jobs").rglob("*.py")):
        total.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes() + b"\0")
    for name in LIBRARIES:
        total.update(f"{name} {version(name)}\n".encode())
    return total.hexdigest()


def as_scores(entry: Any) -> TestScores | None:
    """Scores as they were kept; None when there are none, or they are of another shape."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(TestScores).validate_python(entry)
    except ValidationError:
        return None
