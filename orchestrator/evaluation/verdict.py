"""What a winner is compared with, in the promotion rule's terms: the base, the baselines, and the
champion with what is written down of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.evaluation.baselines import Answers
from jobs.evaluation.intervals import mean_interval
from jobs.evaluation.scores import TestScores
from orchestrator.errors import InputError
from orchestrator.evaluation.promotion import Rival, Scores
from orchestrator.output.result import BASELINES
from orchestrator.tracking.model_versions import Version

FEW_SHOT = "base_with_examples"
SMALLEST_SLICE = 10
"""Test rows of a slice that is looked at: fewer show nothing."""
MOST_LABELS = 50
"""Different answers up to which each is a slice of its own."""


def scores_of(verdict: TestScores, digest: str) -> Scores:
    """A verdict in the rule's terms."""
    rows = len(verdict.predictions)
    return Scores(verdict.exact_match, verdict.low, verdict.high, rows, digest, verdict.per_row)


def baseline_scores(
    answers: Answers, references: Sequence[str], digest: str, confidence: float
) -> dict[str, Scores]:
    """The baselines' answers to the test rows, scored as the models' are. Answers that are not as
    many as the rows are of other data, and left out.
    """
    scored = {}
    for name, given in answers.splits.get("test", {}).items():
        if len(given) != len(references):
            continue
        hits = tuple(
            float(answer == reference) for answer, reference in zip(given, references, strict=True)
        )
        low, high = mean_interval(hits, confidence)
        scored[name] = Scores(sum(hits) / len(hits), low, high, len(hits), digest, hits)
    return scored


def metrics_of(scores: Scores, metric: str = "test/exact_match") -> dict[str, float]:
    """As MLflow metrics, as those of a model."""
    return {metric: scores.value, f"{metric}_low": scores.low, f"{metric}_high": scores.high}


def rivals_of(base: Scores, baselines: Mapping[str, Scores]) -> list[Rival]:
    """The base and the baselines as rivals, the strongest baseline first."""
    order = sorted(baselines.items(), key=lambda item: -item[1].value)
    return [
        Rival("base", "the untouched base model", base),
        *(Rival("baselines", BASELINES.get(name, name), scores) for name, scores in order),
    ]


def champion_scores(tags: Mapping[str, str], digest: str, predictions: str | None) -> Scores | None:
    """What a version's tags and predictions say of it on the test rows with this digest; None where
    they do not, or were edited to what is no score.
    """
    try:
        value, low, high = (float(tags[f"test/exact_match{end}"]) for end in ("", "_low", "_high"))
        rows = int(tags["test.rows"])
    except (KeyError, ValueError):
        return None
    if tags.get("test.digest") != digest:
        return None
    return Scores(value, low, high, rows, digest, row_scores(predictions, value, rows))


def row_scores(predictions: str | None, value: float, rows: int) -> tuple[float, ...]:
    """The score of each row, from the text of a predictions.jsonl; empty where it does not agree
    with what the version is tagged with.
    """
    try:
        told = [json.loads(line) for line in (predictions or "").splitlines() if line.strip()]
        scores = tuple(float(row["score"]) for row in told)
    except (ValueError, KeyError, TypeError):
        return ()
    if len(scores) != rows or not math.isclose(sum(scores) / rows, value, abs_tol=1e-9):
        return ()
    return scores


def slices_of(predictions: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Test rows by slice: those that a row names under `slices`, and its answer where there are few
    different ones. Slices of few rows are left out.
    """
    found: dict[str, list[int]] = {}
    labels = {str(row["reference"]) for row in predictions}
    for number, row in enumerate(predictions):
        named = {str(key): str(value) for key, value in (row.get("slices") or {}).items()}
        if len(labels) <= MOST_LABELS:
            named.setdefault("label", str(row["reference"]))
        for key, value in named.items():
            found.setdefault(f"{key}={value}", []).append(number)
    return {name: rows for name, rows in found.items() if len(rows) >= SMALLEST_SLICE}


def megabytes_loaded(trained: Path, base: Path) -> float:
    """Weights that serving a model loads, in 10**6 bytes: what was trained, and of an adapter the
    base below it.
    """
    folders = [trained, base] if (trained / "adapter_config.json").exists() else [trained]
    files = [file for folder in folders for file in folder.rglob("*.safetensors")]
    return sum(file.stat().st_size for file in files) / 1e6


def written_scores(store: Any, champion: Version, digest: str) -> Scores | None:
    """The champion's scores on these test rows, as far as it was registered with them, row by row
    where its files say so.
    """
    known = champion_scores(champion.tags, digest, None)
    if known is None:
        return None
    try:
        predictions = store.read_file(champion.uri, "predictions.jsonl")
    except (InputError, OSError, ValueError):
        predictions = None  # its files are gone: then its tags are all that is known
    return champion_scores(champion.tags, digest, predictions)
