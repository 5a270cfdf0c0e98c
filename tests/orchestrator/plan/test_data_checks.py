"""The plan makes the checks of the rows: a run refuses what is fatal, each check can be turned off by
its name, and what was found is kept for these very rows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.check_settings import CHECKS
from orchestrator.config.compose import compose
from orchestrator.errors import ConfigError, InputError
from orchestrator.output.plan_text import plan_record, plan_text
from orchestrator.plan import data_checks
from orchestrator.plan.data_checks import tokens
from orchestrator.plan.token_counts import Count
from tests.support.settings import build

THINGS = ["lamp", "chair", "phone", "bike", "sofa", "kettle", "shelf", "radio", "clock", "oven"]


def question(number: int) -> str:
    thing, other = THINGS[number % 10], THINGS[number // 10 % 10]
    return f"When the {thing} number {number} breaks, please send me a new {other} by Monday."


def write(folder: Path, train: list[str], valid: list[str], test: list[str]) -> Path:
    for name, prompts in {"train": train, "valid": valid, "test": test}.items():
        lines = [json.dumps({"prompt": one, "completion": "send"}) for one in prompts]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """120 rows of which none stands in two splits."""
    rows = [question(number) for number in range(120)]
    return write(tmp_path, rows[:80], rows[80:100], rows[100:])


@pytest.fixture
def leaking(clean: Path) -> Any:
    """`leaking(change)` adds four test rows, changed, to the training file."""

    def add(change: Any) -> Path:
        test = [json.loads(line)["prompt"] for line in (clean / "test.jsonl").open()]
        planted = [json.dumps({"prompt": change(one), "completion": "send"}) for one in test[:4]]
        with (clean / "train.jsonl").open("a", encoding="utf-8") as file:
            file.write("\n" + "\n".join(planted))
        return clean

    return add


def clauses_turned(prompt: str) -> str:
    first, _, second = prompt.removesuffix(".").partition(", ")
    return f"{second[0].upper()}{second[1:]} {first[0].lower()}{first[1:]}!"


@pytest.mark.parametrize(
    "change",
    [
        lambda prompt: prompt,
        str.upper,
        lambda prompt: prompt.replace(",", " -").replace(".", "!!"),
        clauses_turned,
    ],
    ids=["copied", "case", "punctuation", "clauses"],
)
def test_planted_leakage_is_refused_with_the_remedy(plan: Any, leaking: Any, change: Any) -> None:
    folder = leaking(change)
    with pytest.raises(InputError) as caught:
        plan(f"data.folder={folder}")
    message = str(caught.value)
    assert message.startswith("data check leakage: held-out rows stand in the training files too")
    assert "test: 4 of 20 rows (20.0%)" in message and "\n" not in message
    assert "(test.jsonl, line 1)" in message and "(train.jsonl, line 81)" in message
    assert "data.checks.off=[leakage] trains all the same" in message


def test_leakage_may_be_allowed_as_a_share_or_turned_off(plan: Any, leaking: Any) -> None:
    folder = leaking(str.title)
    (folder / "train.jsonl").write_text(
        (folder / "train.jsonl").read_text().replace("When The", "When, The")
    )
    allowed = plan(f"data.folder={folder}", "data.checks.leakage_share=0.2")
    assert any("test: 4 of 20 rows have a near-twin" in note for note in allowed.notes)
    off = plan(f"data.folder={folder}", "data.checks.off=[leakage]")
    assert not any("near-twin" in note for note in off.notes)
    dry = plan(f"data.folder={folder}", "dry_run=true")
    assert "! a run is refused: data check leakage: " in plan_text(dry)
    assert plan_record(dry)["checks"]["results"]["leakage"]["numbers"]["test"]["leaked"] == 4
    assert plan_record(dry)["checks"]["refused"] is True


def test_clean_rows_pass_every_check(plan: Any, clean: Path) -> None:
    made = plan(f"data.folder={clean}", "dry_run=true")
    states = {result.name: result.state for result in made.checks.results}
    assert states.pop("labels") == "warning"  # all answers are the same
    assert set(states.values()) == {"ok"} and {*states, "labels"} == set(CHECKS)
    lines = [line for line in plan_text(made).splitlines() if line.startswith("check ")]
    assert len(lines) == len(CHECKS)
    assert "check   ok      tokens: " in plan_text(made)
    assert not any(line.startswith("check ") for line in plan_text(plan()).splitlines())


@pytest.mark.parametrize("data", ["home", "icd10"])
def test_the_committed_data_is_not_refused(plan: Any, data: str) -> None:
    made = plan(f"data={data}", "data.folder=null")
    warned = [result.name for result in made.checks.results if result.state != "ok"]
    assert warned == ["leakage"] and not made.checks.refusal


@pytest.mark.parametrize("name", CHECKS)
def test_each_check_is_turned_off_by_its_name(plan: Any, clean: Path, name: str) -> None:
    made = plan(f"data.folder={clean}", f"data.checks.off=[{name}]")
    assert made.checks.off == (name,)
    assert {result.name for result in made.checks.results} == set(CHECKS) - {name}


@pytest.mark.parametrize(
    ("setting", "path", "words"),
    [
        ("data.checks.off=[leekage]", "data.checks.off:", "did you mean leakage?"),
        ("data.checks.off=[text,text]", "data.checks.off", "must name each check once"),
        ("data.checks.leakage_share=1.5", "data.checks.leakage_share", "must be at least 0"),
        ("data.checks.leekage=false", "data.checks.leekage", "no such setting"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    clean: Path, setting: str, path: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(compose(["data=files", f"data.folder={clean}", setting], None))
    ((found, text),) = caught.value.problems
    assert found.rstrip(":") == path.rstrip(":") and words in text


def test_a_share_without_its_check_is_refused(clean: Path) -> None:
    both = ["data.checks.off=[leakage]", "data.checks.leakage_share=0.1"]
    with pytest.raises(ConfigError, match=r"leakage_share\s+has no effect"):
        build(
            compose(["data=files", f"data.folder={clean}", *both], None),
            typed=["data.checks.off", "data.checks.leakage_share"],
        )


def test_rows_without_supervised_tokens_are_refused(plan: Any, clean: Path) -> None:
    made = plan(f"data.folder={clean}", "dry_run=true")
    from jobs.data.corpus import load_corpus

    corpus = load_corpus(made.config.data)
    counts = {name: Count(1, tokens=5) for name in ("train", "valid", "test")}
    result = tokens(made.config, corpus, counts)
    assert result.fatal.startswith("no token of data.sources.train carries loss")


def test_what_was_found_is_kept_and_belongs_to_these_rows(
    plan: Any, clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(f"data.folder={clean}")

    def refuse(*_: Any) -> Any:
        raise AssertionError("checked again")

    monkeypatch.setattr(data_checks.personal, "check", refuse)
    monkeypatch.setattr(data_checks, "LanguageProcess", refuse)
    plan(f"data.folder={clean}")
    with (clean / "train.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"prompt": "Who?", "completion": "send"}))
    with pytest.raises(AssertionError, match="checked again"):
        plan(f"data.folder={clean}")
