"""Every committed experiment is a whole run: it begins with its command, composes, plans, and its
rows pass the checks.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.base_models import fetch
from jobs.config import Model
from orchestrator.cli import main
from orchestrator.config.compose import choices, compose
from orchestrator.errors import ConfigError
from orchestrator.project import ROOT
from tests.support.settings import build

FOLDER = ROOT / "conf" / "experiment"
NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml"))
APPLICATIONS = [name for name in NAMES if name != "tiny"]
ROWS_MADE_HERE = {"fraud": "data/spam/build.py", "translation-back": "synthesis.recipe"}
"""Experiments whose rows are no part of the project, with what makes them."""
COMMITTED = [name for name in APPLICATIONS if name not in ROWS_MADE_HERE]


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_begins_with_its_command(name: str) -> None:
    first = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# python -m orchestrator +experiment={name}"


@pytest.mark.parametrize("name", APPLICATIONS)
def test_an_experiment_says_what_it_is_scored_by_and_how_long_it_takes(name: str) -> None:
    config = build(compose([f"+experiment={name}"], None))
    assert config.sweep.name == name and config.sweep.space
    assert config.sweep.minutes is not None and config.sweep.minutes <= 20
    assert config.sweep.metric != "auto"
    assert config.data.slices or config.data.retained or config.data.name == "icd10"
    assert all(source.licence for source in config.data.sources.values())
    assert config.data.description or config.data.name == "icd10"
    assert config.registry.beat == ["base", "baselines", "champion"]


@pytest.fixture
def tiny(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch.prepare(Model(name="tiny", source="tiny"), cache)
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))


@pytest.mark.parametrize("name", COMMITTED)
def test_an_experiment_plans_and_its_rows_pass_the_checks(
    name: str, tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One chunk of rows to look neighbours up for is enough to see that a plan comes of it.
    few = (
        ["data.sources.terms.rows=400", "data.sources.titles.rows=400"] if "medical" in name else []
    )
    command = [f"+experiment={name}", "model=tiny", f"storage={tmp_path}", *few]
    code = main([*command, "dry_run=true"])
    told = capsys.readouterr()
    assert code == 0, told.err
    assert f"plan    {name}-" in told.out and "a run is refused" not in told.out
    assert "no such" not in told.out
    assert main([*command, "job=check", "data.checks.off=[language]"]) == 0
    assert not list(tmp_path.iterdir())


def test_rows_that_are_built_where_they_are_used_are_asked_for_by_name(
    tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "build.py").write_text("")
    where = [f"data.sources.train.path={tmp_path}/train.jsonl"]
    assert main(["+experiment=fraud", "model=tiny", "dry_run=true", *where]) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path}/train.jsonl is not here" in told and f"python {tmp_path}/build.py" in told


def test_the_default_groups_of_an_experiment_can_be_replaced() -> None:
    config = build(
        compose(["+experiment=support", "model=tiny", "train.steps=20", "optim.lr=0.1"], None)
    )
    assert (config.model.name, config.train.steps, config.data.name) == ("tiny", 20, "support")
    assert set(choices()["experiment"]) == set(NAMES)


@pytest.mark.parametrize(
    "words", [["+experiment=assistant", "+sweep=lora"], ["sweep=lora", "experiment=assistant"]]
)
def test_another_sweep_takes_the_place_of_the_experiments(words: list[str]) -> None:
    space = build(compose(words, None)).sweep.space
    assert "lr" in space and "mix" not in space
    assert "mix" in build(compose(["+experiment=assistant", "+sweep=mix"], None)).sweep.space
    assert "lr" in build(compose(["+experiment=tiny", "+sweep=lora"], None)).sweep.space


def test_a_choice_that_is_no_experiment_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="is not one of assistant, fraud, legal"):
        compose(["+experiment=suport", "+sweep=lora"], None)


def test_synthetic_rows_are_made_from_an_experiment_and_trained_on_by_the_next(
    tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "back"
    base = ["model=tiny", f"storage={tmp_path / 'outputs'}"]
    made = [
        "job=synthesize",
        "synthesis.recipe=corrupt",
        "synthesis.rows=12",
        f"synthesis.folder={rows}",
    ]
    assert main(["+experiment=translation", *base, *made]) == 0, capsys.readouterr().err
    asked = [
        "job=synthesize",
        "synthesis.recipe=back_translation",
        "synthesis.languages=[German]",
        "dry_run=true",
    ]
    assert (
        main(["+experiment=translation", *base, *asked, f"synthesis.folder={tmp_path / 'other'}"])
        == 0
    )
    capsys.readouterr()
    there = f"data.sources.synthetic.path={rows}/train.jsonl"
    assert main(["+experiment=translation-back", *base, there, "dry_run=true"]) == 0
    assert "synthetic: 12 rows" in capsys.readouterr().out
