"""The file that job=new writes says what was chosen, whatever stands in it."""

from __future__ import annotations

from pathlib import Path

from orchestrator.config.compose import compose
from orchestrator.output.experiment_text import experiment_text
from orchestrator.plan.experiment_choices import Choice
from tests.support.settings import build

ODD = "Say 'yes', \"no\" or ${secret:X}: # 1 of {a} \\ %s é\nand then stop"


def test_texts_come_back_as_they_were(tmp_path: Path) -> None:
    choices = [
        Choice("data.name", "odd", ""),
        Choice("data.folder", "/rows/a b: c#d.jsonl", "read as pairs"),
        Choice("data.instruction", ODD, "a reason " * 40),
        Choice("data.slices", ["a: b", "no", "1"], ""),
        Choice("data.sources.train.deduplicate", True, "rows repeat"),
        Choice("seed", 3, "as it was typed"),
        Choice("train.max_length", 1024, "rows are long"),
    ]
    text = experiment_text(
        "odd",
        "python -m orchestrator +experiment=odd",
        "a.jsonl",
        {"data": "files", "model": "tiny"},
        choices,
    )
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "odd.yaml").write_text(text, encoding="utf-8")
    assert (
        max(map(len, (line for line in text.splitlines() if line.lstrip().startswith("#")))) <= 120
    )
    config = build(compose(["+experiment=odd"], str(tmp_path)))
    assert config.data.instruction == ODD
    assert (config.data.folder, config.data.slices) == ("/rows/a b: c#d.jsonl", ["a: b", "no", "1"])
    assert config.data.sources["train"].deduplicate
    assert (config.model.name, config.seed, config.train.max_length) == ("tiny", 3, 1024)
    assert config.sweep.name == "odd" and set(config.sweep.space) >= {"lr", "rank"}
