"""The benchmark of data measures both sides on the same rows, each with an empty cache and a full
one.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.data import main
from jobs.base_models import fetch
from jobs.config import Model


def test_both_sides_are_measured_on_the_same_rows(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    fetch.prepare(Model(name="tiny", source="tiny"), cache)
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    for name in ("HF_DATASETS_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "")  # what the benchmark sets there is taken back
    file = tmp_path / "data.json"
    line = ["--rows", "1000", "--draws", "100", "--model", "tiny", "--json", str(file)]
    assert main(line) == 0
    record = json.loads(file.read_text(encoding="utf-8"))
    rows = {part["part"]: part["rows"] for part in record["parts"]}
    assert rows["tokenise, first"] == rows["datasets: load and map, first"] == 1000
    assert rows["tokens of all training rows, cached"] == 900
    assert rows["sample batches by weight"] >= 100
    assert all(part["seconds"] > 0 for part in record["parts"]) and record["peak_memory_mb"] > 0
