"""The description that MLflow shows of a version: the card with the decision, at most as long as it
takes.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.export import shipped_card
from orchestrator.evaluation import model_card
from orchestrator.evaluation.promotion import Scores

REASONS = ("it does not beat the champion: 0.2 against 0.3", "its 0.2 does not reach the floor")


@pytest.mark.parametrize("length", [10, 1_000_000])
def test_each_reason_is_an_entry_of_a_list_also_where_the_card_is_cut(length: int) -> None:
    text = model_card.description("x" * length, False, REASONS)
    assert len(text) <= max(model_card.LONGEST_DESCRIPTION, 200)
    ending = "It did not take the alias champion:\n\n" + "".join(f"- {r}\n" for r in REASONS)
    assert text.endswith(f"## Decision\n\n{ending}")
    assert ("cut; the whole card" in text) == (length > 1000)


@pytest.mark.parametrize(
    ("metric", "maximise", "shown", "first"),
    [
        ("test/exact_match", True, True, "a linear classifier"),
        ("test/chrf", True, False, "a linear classifier"),
        ("test/cost", False, False, "the most frequent answer"),
    ],
)
def test_the_best_baseline_is_first_and_a_smallest_difference_is_of_shares(
    metric: str, maximise: bool, shown: bool, first: str
) -> None:
    config = SimpleNamespace(
        job=SimpleNamespace(confidence=0.95),
        registry=SimpleNamespace(error_rate=0.05),
        sweep=SimpleNamespace(maximise=maximise),
    )
    plan: Any = SimpleNamespace(config=config, num_trials=3, num_valid=50)
    low, high = (Scores(value, value, value, 100, "digest", ()) for value in (0.2, 0.7))
    baselines = {"most_frequent": low, "linear_classifier": high}
    text = model_card.score_table(plan, high, low, baselines, (), metric)
    assert ("Smallest difference" in text) == shown
    rows = [line for line in text.splitlines() if "answer" in line or "linear" in line]
    assert first in rows[0] and len(rows) == 2


@pytest.mark.parametrize(
    ("of_sources", "expected"),
    [
        ({"a": "CC0 (README.md)"}, "CC0 (README.md)"),
        ({"a": "CC0", "b": "CC0"}, "CC0"),
        ({"a": "CC0", "b": None}, "CC0 (a); not stated (b)"),
    ],
)
def test_an_exported_files_card_tells_the_terms_that_the_versions_card_tells(
    tmp_path: Path, of_sources: dict[str, str | None], expected: str
) -> None:
    base: Any = SimpleNamespace(name="tiny", path=str(tmp_path), id="made here")
    sources = {name: SimpleNamespace(licence=licence) for name, licence in of_sources.items()}
    data: Any = SimpleNamespace(sources=sources)
    (tmp_path / "README.md").write_text(model_card.licence_section(base, data), encoding="utf-8")
    _, of_data = shipped_card.licences(tmp_path)
    assert of_data is not None and of_data.startswith(expected.partition(";")[0])
    assert all(name in of_data for name in of_sources if len(set(of_sources.values())) > 1)
    assert f"- Data: {of_data}" in shipped_card.licence_section(tmp_path)


def test_a_card_asks_its_own_version_whether_or_not_it_is_the_champion() -> None:
    text = model_card.load_section("home-tiny")
    commands = [line for line in text.splitlines() if "models:/" in line]
    assert len(commands) == 2 and all("models:/home-tiny/VERSION" in line for line in commands)
    assert "VERSION is the number that MLflow shows" in text
    assert "whichever version is the champion" in text


@pytest.mark.parametrize("file", ["m.gguf", "model.safetensors", "model.onnx"])
def test_a_card_names_programs_that_can_read_the_file(file: str) -> None:
    kind = {"m.gguf": "gguf-q8_0", "model.onnx": "onnx-int8"}.get(file, "safetensors")
    report = {"file": file, "format": kind, "name": "m", "base_file": ""}
    task = {"max_new_tokens": 4, "neighbours": {"count": 3}}
    text = shipped_card.prompt_section(report, task) + shipped_card.use_section(report, task)
    assert ("orchestrator.chat" in text) == file.endswith(".gguf")
    assert ("job=serve" in text) == file.endswith(".gguf")
    assert "neighbours.jsonl" in text and "QUESTION -> ANSWER" in text
