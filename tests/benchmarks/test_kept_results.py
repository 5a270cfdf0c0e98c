"""What a benchmark has measured counts for the same command, machine and code, and for no other."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from benchmarks import answers, contenders, estimates, faults, quality
from benchmarks.faults import Round
from jobs.base_models import fetch
from jobs.config import Model
from jobs.evaluation import generate
from tests.conftest import ROOT


@pytest.mark.parametrize(
    "patterns",
    [
        contenders.OWN_FILES,
        contenders.PEER_FILES,
        quality.OWN_FILES,
        quality.FILES,
        faults.FILES,
    ],
)
def test_every_pattern_of_code_that_decides_a_result_has_a_file(patterns: tuple[str, ...]) -> None:
    assert [pattern for pattern in patterns if not any(ROOT.glob(pattern))] == []


def test_a_change_of_the_plan_measures_a_peer_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contenders, "ROOT", tmp_path)
    file = tmp_path / "orchestrator" / "plan" / "points.py"
    file.parent.mkdir(parents=True)
    file.write_text("first = 1\n", encoding="utf-8")
    before = contenders.code_version("warm_trainer")
    assert contenders.code_version("warm_trainer") == before
    file.write_text("first = 2\n", encoding="utf-8")
    assert contenders.code_version("warm_trainer") != before


def test_an_estimate_is_measured_again_where_the_code_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def measure(name: str, results: Path) -> dict[str, Any]:
        measured.append(name)
        return {"name": name, "planned": 10.0, "taken": 11.0}

    code = ["a"]
    monkeypatch.setattr(estimates, "measure", measure)
    monkeypatch.setattr(contenders, "digest_of", lambda patterns: code[0])
    line = ["--only", "tiny; tiny, 8 trials", "--results", str(tmp_path)]
    assert estimates.main(line) == estimates.main(line) == 0
    assert measured == ["tiny", "tiny, 8 trials"]
    code[0] = "b"
    assert estimates.main(line) == 0
    assert measured == ["tiny", "tiny, 8 trials"] * 2


def test_names_of_sweeps_are_separated_by_semicolons(capsys: pytest.CaptureFixture[str]) -> None:
    assert estimates.parse([]).only == list(estimates.KINDS)
    with pytest.raises(SystemExit):
        estimates.parse(["--only", "tiny,one run"])
    assert "no such sweep: tiny,one run" in capsys.readouterr().err


def test_rounds_of_another_seed_are_played_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[tuple[int, int]] = []

    def play(number: int, options: argparse.Namespace, wanted: dict[str, Any], toy: Path) -> Round:
        played.append((options.seed, number))
        return Round(number, "driver-kill", "pack", "training", hit=True)

    monkeypatch.setattr(faults, "play", play)
    monkeypatch.setattr(faults, "undisturbed", lambda options, toy, code: {})
    for seed in ("0", "0", "11", "0"):
        assert faults.main(["--rounds", "2", "--seed", seed, "--results", str(tmp_path)]) == 0
    assert played == [(0, 1), (0, 2), (11, 1), (11, 2)]


def test_losses_are_measured_with_the_rows_together_after_transformers_loop(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    fetch.prepare(Model(name="tiny", source="tiny"))
    usual, limits = generate.FEWEST_TOGETHER, []
    continue_all = generate.continue_all

    def watched(*arguments: Any) -> Any:
        limits.append(generate.FEWEST_TOGETHER)
        return continue_all(*arguments)

    monkeypatch.setattr(generate, "continue_all", watched)
    assert answers.main(["--model", "tiny", "--rows", "20", "--scored"]) == 0
    assert limits == [usual, 21, usual, usual]
    assert "losses differ by at most" in capsys.readouterr().out
