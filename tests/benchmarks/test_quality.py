"""The benchmark of scores for equal time: peers train for real and are scored like this project's
winners, what is measured is kept, and what was not saved in time does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import quality, quality_task
from benchmarks.quality_task import LeftOut, Measurement, Score, Task
from jobs.config import BaseModel, Scoring
from jobs.data.corpus import load_corpus
from orchestrator.config.compose import compose
from orchestrator.config.validation import build, trial_of
from orchestrator.errors import InputError
from tests.conftest import ROOT, environment

pytest.importorskip(
    "accelerate", reason="transformers' Trainer needs accelerate, which `make bench` installs"
)


def command(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The benchmark on the tiny model, as a user starts it."""
    line = [sys.executable, "-m", "benchmarks.quality", "--model", "tiny", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=environment(cache))


@pytest.mark.slow
def test_everyone_is_scored_on_the_same_rows_and_the_same_command_goes_on(
    cache: Path, toy: Path, tmp_path: Path
) -> None:
    names = ["trainer_fitted", "trl", "tune_asha", "orchestrator", "nearest_prompt"]
    line = ["--seconds", "90", "--data", str(toy), "--json", str(tmp_path / "result.json")]
    line += ["--results", str(tmp_path / "results"), "train.max_length=128"]
    line += ["sweep.num_trials=2", "train.steps=40", "train.eval_every=20"]  # the own command's
    before = {process.pid for process in psutil.process_iter()}
    done = command(cache, *line, "--contenders", ",".join(names))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert list(result["contenders"]) == names and not result["failed"]
    for name, row in result["contenders"].items():
        score = row["score"]
        assert score["metric"] == "test/accuracy"
        assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1
        assert 0 < row["seconds"] < 100 and row["examples"] > 0 and row["settings"], name
        assert row["stopped"] or row["seconds"] < 90
    learned = result["contenders"]["trainer_fitted"]
    assert "linear over" in learned["settings"] and learned["examples"] > 0
    assert "trials, of" in result["contenders"]["tune_asha"]["note"]
    left = [process for process in psutil.process_iter() if process.pid not in before]
    mine = [one for one in left if "quality-" in " ".join(one.cmdline()) and one.is_running()]
    assert not mine
    again = command(cache, *line, "--contenders", "nearest_prompt,trainer_fitted,linear_classifier")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("kept") == 2 and again.stderr.count("runs") == 1


def task_of(toy: Path, base: BaseModel | None = None) -> Task:
    """A task on the toy rows that no one trains for."""
    settings = ["model=tiny", "data=files", f"data.folder={toy}", "train.max_length=128"]
    config = build(compose(["+sweep=lora", *settings], None))
    base = base or BaseModel(name="tiny", source="tiny", id="tiny", revision="0", path=str(toy))
    trial = trial_of(config, 1, {})
    return Task(settings, trial, base, Scoring(metric="valid/accuracy"), 0.95, None, 90.0, 2, 0)


def contest(task: Task, folder: Path, *arguments: str) -> quality.Contest:
    """A contest whose results lie in `folder`."""
    line = ["--minutes", "1.5", "--results", str(folder), *arguments]
    options: argparse.Namespace = quality.parse(line)
    machine = {"cores": 2, "cpu": "one", "gpu": None, "dtype": "float32"}
    return quality.Contest(options, task, "identity", machine)


def test_what_was_measured_is_kept_and_what_failed_is_tried_again(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def run(name: str, task: Task) -> Measurement:
        asked.append(name)
        if name == "trl":
            raise RuntimeError("trl had saved no model after 90 s:\nout of memory")
        if name == "linear_classifier":
            raise LeftOut("answers are free text")
        score = Score("test/accuracy", 0.5, 0.4, 0.6)
        return Measurement(score, 90.2, True, 1600, 900.0, "lr 0.0002", "6 trials")

    monkeypatch.setattr(quality_task, "run", run)
    names = "trl,orchestrator,linear_classifier"
    bench = contest(task_of(toy), tmp_path, "--contenders", names)
    for _ in range(2):
        measured, failed, left_out = bench.measure_all()
        assert list(measured) == ["orchestrator"] and list(failed) == ["trl"]
        assert left_out == {"linear_classifier": "answers are free text"}
        assert measured["orchestrator"].score == Score("test/accuracy", 0.5, 0.4, 0.6)
    assert asked == ["trl", "orchestrator", "linear_classifier", "trl", "linear_classifier"]
    contest(task_of(toy), tmp_path, "--contenders", "orchestrator", "--fresh").measure_all()
    assert asked[-1] == "orchestrator"
    table = quality.as_text(quality.summarise(measured, failed, left_out, bench))
    assert "0.500 (0.400..0.600)" in table and "90*" in table and "1,600" in table
    assert "trl failed: trl had saved no model after 90 s: out of memory" in table
    assert "linear_classifier left out: answers are free text" in table


def save(folder: Path, step: int, losses: dict[int, float], global_step: int | None = None) -> Path:
    """What a Trainer leaves of an evaluated checkpoint."""
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    history: list[dict[str, Any]] = [{"step": at, "eval_loss": loss} for at, loss in losses.items()]
    state = {"global_step": step if global_step is None else global_step, "log_history": history}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    return checkpoint


def test_only_models_that_are_complete_evaluated_and_in_time_are_candidates(tmp_path: Path) -> None:
    good = save(tmp_path / "trial-1", 50, {50: 0.7})
    save(tmp_path / "trial-2", 50, {40: 0.1})
    save(tmp_path / "trial-2", 60, {60: float("nan")})
    late = save(tmp_path / "trial-1", 100, {50: 0.7, 100: 0.2})
    os.utime(late / "trainer_state.json", (2e9, 2e9))
    torn = tmp_path / "trial-1/checkpoint-75"
    torn.mkdir()
    (torn / "trainer_state.json").write_text('{"global_step": 75, "log_hi', encoding="utf-8")
    (tmp_path / "trial-1/checkpoint-90").mkdir()
    saved = quality_task.saved_models(tmp_path, 1.9e9)
    assert [(model.folder, model.step, model.loss) for model in saved] == [(good, 50, 0.7)]
    assert {model.step for model in quality_task.saved_models(tmp_path, 2.1e9)} == {50, 100}


def test_a_fitted_run_fills_its_time_and_has_a_step_at_least() -> None:
    from benchmarks.quality_peers import fitted

    length = fitted(seconds=900, step_seconds=2.5, evaluation_seconds=8, evaluations=6)
    assert length.steps % length.evaluate_every == 0
    taken = length.steps * 2.5 + 6 * 8
    assert 0.9 * 900 < taken <= 0.95 * 900
    assert fitted(1, 2.5, 8, 6).steps == 6 and fitted(1, 2.5, 8, 6).evaluate_every == 1


def test_the_nearest_row_answers_and_is_scored_by_the_metric_of_the_task(toy: Path) -> None:
    from benchmarks import quality_scoring

    task = task_of(toy)
    corpus = load_corpus(task.trial.data)
    scored = quality_scoring.score_baseline("nearest_prompt", task)
    rows = sum(len(source) for source in corpus.sources.values())
    assert scored["metric"] == "test/accuracy" and scored["rows"] == rows
    assert scored["value"] == 1.0, "the first word of the prompt decides, and it is in all rows"
    wrong = ["B" if row.answer.strip() == "A" else "A" for row in corpus.test]
    assert quality_scoring.score_answers(task, corpus, wrong).value == 0.0
    exact = Task(**{**vars(task), "scoring": Scoring(metric="valid/exact_match")})
    assert quality_scoring.score_baseline("linear_classifier", exact)["value"] == 1.0
    loss = Task(**{**vars(task), "scoring": Scoring(metric="valid/loss")})
    assert "left_out" in quality_scoring.score_baseline("nearest_prompt", loss)


def test_the_minutes_are_passed_on_where_there_is_such_a_setting(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(toy)
    monkeypatch.setattr(quality_task.Sweep, "__dataclass_fields__", {"minutes": None})
    assert task.own_settings()[:2] == ["+sweep=lora", "sweep.minutes=1.5"]
    sized = [*task.settings, "train.steps=40", "sweep.num_trials=2"]
    assert "sweep.minutes" not in " ".join(Task(**{**vars(task), "settings": sized}).own_settings())
    monkeypatch.setattr(quality_task.Sweep, "__dataclass_fields__", {})
    assert "sweep.minutes" not in " ".join(task.own_settings())


def test_peers_get_the_rows_without_what_the_sweep_puts_before_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    typed = ["data=home", "data.neighbours.count=6", "train.max_length=64"]
    monkeypatch.setattr(quality_task.Data, "__dataclass_fields__", {"neighbours": None})
    plain = ["data=home", "train.max_length=64", "data.neighbours.count=0"]
    assert quality_task.without_neighbours(typed) == plain


def test_settings_may_stand_anywhere_among_the_arguments() -> None:
    options = quality.parse(["train.steps=40", "--minutes", "2", "train.eval_every=20"])
    assert options.settings == ["train.steps=40", "train.eval_every=20"]
    assert options.seconds == 120


def test_a_mistake_in_the_arguments_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {
        "at least above": (["--minutes", "0"], "--minutes must be above 0, got 0"),
        "name": (["--minutes", "1", "--contenders", "trlx"], "no such contender: trlx"),
        "own": (["--minutes", "1", "sweep.minutes=3"], "the benchmark sets this itself"),
    }
    for line, message in cases.values():
        with pytest.raises(SystemExit) as ended:
            quality.parse(line)
        assert ended.value.code == 2 and message in capsys.readouterr().err
    with pytest.raises(InputError, match="neither a folder nor one of assistant, .*home, icd10"):
        quality.data_settings(str(tmp_path / "nowhere"))
    assert quality.data_settings("home") == ["data=home"]
    assert quality.data_settings(str(tmp_path))[0] == "data=files"


def test_the_result_is_the_last_line_of_json_among_others() -> None:
    log = 'plan\n{"best": {"metrics": {}}, "state": "finished"}\nbye\n{"torn": '
    result = quality_task.last_result(log)
    assert result is not None and result["state"] == "finished"
    assert quality_task.last_result("interrupted\n") is None
