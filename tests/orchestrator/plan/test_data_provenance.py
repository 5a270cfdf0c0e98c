"""What a version was made of: rows, tokens, synthetic share, digests and licences of each source, in
the card, the tags and the result.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.data.readers import read_rows
from jobs.data.synthetic_rows import UNNAMED
from orchestrator.config.validation import trial_of
from orchestrator.errors import InputError
from orchestrator.evaluation import model_card
from orchestrator.plan.data_provenance import NOT_STATED, data_licence, provenance

MADE = {"provenance": {"teacher": "a-teacher", "recipe": "paraphrase", "seed": 3}}


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


def rows_of(words: str, number: int, more: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return [
        {"prompt": f"{words} number {i}", "completion": "yes"} | (more or {}) for i in range(number)
    ]


@pytest.mark.parametrize(
    ("column", "teacher"),
    [
        (MADE, "a-teacher"),
        ({"provenance": json.dumps(MADE["provenance"])}, "a-teacher"),
        ({"synthetic": True}, UNNAMED),
        ({"synthetic": "yes"}, UNNAMED),
        ({"synthetic": False}, ""),
        ({"synthetic": "0"}, ""),
        ({"provenance": "collected by hand"}, ""),
        ({"teacher": "Mrs Miller"}, ""),
        ({}, ""),
    ],
)
def test_rows_say_whether_a_model_has_written_them(
    tmp_path: Path, column: dict[str, Any], teacher: str
) -> None:
    (row,) = read_rows(write(tmp_path / "rows.jsonl", rows_of("q", 1, column)))
    assert row.teacher == teacher


def test_a_version_says_what_it_was_made_of(plan: Any, tmp_path: Path) -> None:
    real = write(tmp_path / "real" / "rows.jsonl", rows_of("real question", 30))
    mixed = [*rows_of("written question", 15, MADE), *rows_of("other question", 5)]
    made = write(tmp_path / "made" / "rows.jsonl", mixed)
    (tmp_path / "made" / "README.md").write_text("---\nlicense: mit\n---\n# Rows\n")
    valid = write(tmp_path / "valid.jsonl", rows_of("valid question", 10))
    test = write(tmp_path / "test.jsonl", rows_of("test question", 10))
    planned = plan(
        *(f"data.sources.real.path={real}", "data.sources.real.weight=3"),
        *(f"data.sources.made.path={made}", "data.sources.made.weight=1"),
        *("data.folder=null", f"data.valid={valid}", f"data.test={test}"),
        *("data.sources.real.licence='CC0, see its page'", "data.name=mine"),
    )
    trial = trial_of(planned.config, 1, {})
    found = provenance(planned, trial)
    # 50 rows are drawn in one walk, and a quarter of those is 12.
    assert found.synthetic == pytest.approx(12 / 50 * 0.75)
    tags = found.tags
    assert tags["data.sources"] == "made, real" and tags["data.rows"] == "50"
    assert tags["data.made.rows"] == "20" and tags["data.made.synthetic_share"] == "0.7500"
    assert tags["data.real.share"] == "0.7600" and tags["data.synthetic_share"] == "0.1800"
    assert tags["data.made.licence"] == "mit (README.md)"
    assert tags["data.real.licence"] == "CC0, see its page"
    assert tags["data.made.digest"] == planned.digests["train/made"]
    assert int(tags["data.made.tokens"]) > int(tags["data.made.supervised_tokens"]) > 20
    assert found.metrics["data/synthetic_share"] == pytest.approx(0.18)
    assert found.metrics["data/tokens_made"] == float(tags["data.made.tokens"])
    record = json.loads(json.dumps(found.record()))
    assert record["sources"]["made"]["teachers"] == {"a-teacher": 15}
    assert record["sources"]["made"]["path"] == str(made)
    assert record["held_out"]["test"]["rows"] == 10
    assert data_licence(trial.data) == "CC0, see its page; mit (README.md)"
    card = model_card.data_section(found) + model_card.licence_section(planned.base, found)
    assert "| made | 20 |" in card and "| 24% | 75.0% |" in card
    assert "18.0% of what it saw was written by a model" in card
    assert "15 rows of made by a-teacher" in card
    assert "- Data, real: CC0, see its page" in card and "- Data, made: mit (README.md)" in card


def test_nothing_is_claimed_where_nothing_is_stated(plan: Any) -> None:
    planned = plan()
    found = provenance(planned, trial_of(planned.config, 1, {}))
    assert found.synthetic == 0.0
    assert found.tags["data.train.licence"] == NOT_STATED
    assert "written by a model" not in model_card.data_section(found)
    assert f"- Data, train: {NOT_STATED}" in model_card.licence_section(planned.base, found)


def test_held_out_rows_of_a_model_are_refused(plan: Any, tmp_path: Path) -> None:
    for split, more in (("train", None), ("valid", None), ("test", MADE)):
        write(tmp_path / f"{split}.jsonl", rows_of(f"{split} question", 20, more))
    with pytest.raises(InputError, match=r"data\.test: .* a synthetic row.*20 of 20 rows do"):
        plan(f"data.folder={tmp_path}")
