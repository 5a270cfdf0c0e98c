"""The plan, the progress and the result, compared whole."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.base_models import fetch
from jobs.config import Model
from orchestrator import job_environment
from orchestrator.config.compose import compose
from orchestrator.errors import ConfigError
from orchestrator.output import log_summary, plan_text, result
from orchestrator.output.progress import ProgressDisplay
from orchestrator.plan import planner as planning
from orchestrator.storage.journal import Record
from orchestrator.tracking.shown_commands import programs_here
from tests.support.settings import build

PLAN = """\
plan    demo-{hash} · 4 trials in 1 pack of 4 slots on 1 CPU core · local
base    tiny (random weights, revision {revision}) · LoRA rank 16 in the last 20% of the layers on toy · seed 0
source  train: 30 rows, 60 supervised tokens, 100% of what is drawn
judged  best valid/exact_match on 5 validation rows; the winner, the untouched base (also with 4 examples in its prompt) and simple baselines on 4 test rows; registered as toy-tiny
shows   in exact match 5 validation rows 1.000 or more, 4 test rows no difference (error rate 0.05, power 0.8, two models that disagree on 25% of the rows)
search  adapter.rank 4, 8 · optim.lr 0.01, 0.001 · grid, halving at 10, 20 steps with 4, 2 trials
final   the 2 best trials by valid/exact_match; nothing is trained again, the best one is judged
time    about {time}, from an assumed 100 GFLOP/s; the first sweep measures it
example 33 tokens, the 2 between » and « carry loss
        | <|im_start|>user
        | Spell
        | word 9<|im_end|>
        | <|im_start|>assistant
        | »J<|im_end|>«
trial     1  rank=4 lr=0.01
trial     2  rank=4 lr=0.001
trial     3  rank=8 lr=0.01
trial     4  rank=8 lr=0.001"""


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """A small grid on small data."""
    for split, numbers in (
        ("train", range(9, 39)),
        ("valid", range(40, 45)),
        ("test", range(50, 54)),
    ):
        rows = [{"prompt": f"word {i}", "completion": chr(65 + i % 26)} for i in numbers]
        (tmp_path / f"{split}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
    space = "{r: {path: adapter.rank, type: choice, values: [4, 8]}, l: {path: optim.lr, type: choice, values: [0.01, 0.001]}}"
    sweep = [
        "sweep.name=demo",
        "sweep.search=grid",
        "sweep.scheduler=halving",
        "sweep.reduction=2",
        f"sweep.space={space}",
    ]
    train = [
        "train.steps=20",
        "train.eval_every=10",
        "cluster.num_cpus=1",
        "cluster.num_gpus=0",
        f"storage={tmp_path / 'outputs'}",
    ]
    data = ["data=files", "data.name=toy", f"data.folder={tmp_path}", "data.instruction=Spell"]
    return ["model=tiny", "dry_run=true", *data, *sweep, *train]


def test_the_whole_plan_reads_so(
    arguments: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    base = fetch.prepare(Model(name="tiny", source="tiny"))
    plan = planning.make(build(compose(arguments, None)))
    assert plan.estimate is not None
    known = {
        "hash": plan.name.split("-")[1],
        "revision": base.revision[:12],
        "time": plan_text.duration(plan.estimate.seconds),
    }
    assert plan_text.plan_text(plan) == PLAN.format(**known)


def test_the_plan_without_its_base_model_says_which_numbers_are_missing(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "empty"))
    text = plan_text.plan_text(planning.make(build(compose(arguments, None))))
    assert "tiny (random weights, not on this machine yet)" in text
    run = f"run {programs_here()}python -m orchestrator job=setup model=tiny first"
    assert f"source  train: 30 rows, supervised tokens: {run}, 100% of what is drawn" in text
    assert f"time    unknown before the base model is here: {run}" in text
    assert text.endswith(f"missing supervised tokens, the example and the time need tiny: {run}")
    assert "»" not in text


def test_long_sweeps_show_twenty_trials_and_how_many_more(
    cache: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    more = [a for a in arguments if not a.startswith("sweep.")] + [
        "+sweep=lora",
        "sweep.num_trials=25",
    ]
    lines = plan_text.plan_text(planning.make(build(compose(more, None)))).splitlines()
    assert lines[-2].startswith("trial    20  lr=")
    assert lines[-1] == "trial   ... 5 more"


def outcome(**changes: Any) -> result.Result:
    """The result of a sweep of six trials."""
    scores = {
        "test/exact_match": 0.412,
        "test/exact_match_low": 0.379,
        "test/exact_match_high": 0.446,
        "valid/loss": 0.9,
    }
    base = {"test/exact_match": 0.0, "test/exact_match_low": 0.0, "test/exact_match_high": 0.0}
    return {
        "sweep": "lora-8ab1e1",
        "state": "finished",
        "trials": {"total": 6, "finished": 2, "stopped": 3, "failed": 1},
        "best": {
            "trial": 3,
            "run_id": "r3",
            "step": 160,
            "params": {"optim.lr": 0.00214, "adapter.rank": 8},
            "metrics": scores,
        },
        "base": {"metrics": base},
        "model": {
            "name": "icd10-tiny",
            "version": 7,
            "alias": "champion",
            "uri": "models:/icd10-tiny/7",
        },
        "decision": "better than v6 (0.27)",
        "seconds": {"setup": 9.4, "train": 581.0, "total": 3725.0},
        "tracking_uri": "sqlite:////tmp/my outputs/mlflow.db",
        "error": None,
        "missing": None,
        "failures": ["trial 4: out of memory"],
        "searched": ["optim.lr", "adapter.rank"],
        "confidence": 0.95,
        "command": "python -m orchestrator +sweep=lora",
        "wider": "python -m orchestrator +sweep=lora sweep.num_trials=12",
        "settings": ["storage=/tmp/x"],
        "prompt": "What's it?",
    } | changes


FINISHED = """\
best    trial 3  lr=0.00214 rank=8
test    test/exact_match 0.412 (95% interval 0.379..0.446)
base    the untouched base 0.000 (95% interval 0.000..0.000)
model   icd10-tiny v7 -> alias champion: better than v6 (0.27)
trials  2 finished, 3 stopped early, 1 failed of 6
failed  trial 4: out of memory
time    1h02m (9s to start, 9m41s of training)
open    mlflow ui --backend-store-uri 'sqlite:////tmp/my outputs/mlflow.db'
more    python -m orchestrator +sweep=lora sweep.num_trials=12
try     python -m orchestrator job=predict model_uri=models:/icd10-tiny@champion prompt='What'"'"'s it?' storage=/tmp/x"""

INTERRUPTED = """\
best    trial 3  lr=0.00214 rank=8
trials  1 finished, 0 stopped early, 0 failed of 6
time    42s (9s to start, 33s of training)
go on   python -m orchestrator +sweep=lora
open    https://mlflow.example"""

FAILED = """\
trials  0 finished, 0 stopped early, 3 failed of 6
failed  trial 1: loss is not finite
error   the first 3 trials failed for the same reason: loss is not finite
missing 12 events not yet in MLflow (it is slow to answer); the same command again writes them
time    42s (9s to start, 33s of training)
open    https://mlflow.example"""

SHORT = {
    "seconds": {"setup": 9.0, "train": 33.0, "total": 42.0},
    "tracking_uri": "https://mlflow.example",
    "base": None,
    "model": None,
}


def test_a_finished_sweep_shows_winner_base_model_and_the_next_commands() -> None:
    assert result.text(outcome()) == FINISHED


def test_an_interrupted_sweep_shows_how_to_go_on() -> None:
    best = {
        "trial": 3,
        "params": {"optim.lr": 0.00214, "adapter.rank": 8},
        "metrics": {"valid/loss": 0.9},
    }
    trials = {"total": 6, "finished": 1, "stopped": 0, "failed": 0}
    assert (
        result.text(outcome(state="interrupted", best=best, trials=trials, failures=[], **SHORT))
        == INTERRUPTED
    )


def test_a_failed_sweep_shows_why() -> None:
    told = {
        "state": "failed",
        "best": None,
        "trials": {"total": 6, "finished": 0, "stopped": 0, "failed": 3},
        "failures": ["trial 1: loss is not finite"],
        "error": "the first 3 trials failed for the same reason: loss is not finite",
        "missing": result.unfinished(12, None),
    }
    assert result.text(outcome(**told, **SHORT)) == FAILED


def test_a_model_that_did_not_become_champion_is_tried_by_its_version() -> None:
    model = {"name": "icd10-tiny", "version": 7, "alias": None, "uri": "models:/icd10-tiny/7"}
    text = result.text(outcome(model=model, decision="v6 stays"))
    assert "model   icd10-tiny v7: v6 stays\n" in text
    assert "model_uri=models:/icd10-tiny/7 " in text


def test_a_single_run_offers_no_wider_sweep() -> None:
    assert "more " not in result.text(
        outcome(trials={"total": 1, "finished": 1, "stopped": 0, "failed": 0})
    )


def test_json_holds_the_public_part_and_the_error_if_there_is_one() -> None:
    assert tuple(result.public(outcome())) == result.PUBLIC
    assert set(result.public(outcome())["best"]) == {"trial", "run_id", "params", "metrics"}
    assert result.public(outcome(best=None))["best"] is None
    assert result.public(outcome(error="no disk"))["error"] == "no disk"
    json.dumps(result.public(outcome()))


def test_trials_are_counted_and_failures_named() -> None:
    records = [
        Record(1, state="finished"),
        Record(2, state="failed", error="boom"),
        Record(3, state="stopped"),
    ]
    assert result.counted([r.state for r in records], 4) == {
        "total": 4,
        "finished": 1,
        "stopped": 1,
        "failed": 1,
    }
    assert result.failures(records) == ["trial 2: boom"]
    assert result.unfinished(0, "x") is None
    assert (
        result.unfinished(0, None, 2, Path("a/refused.jsonl"))
        == "2 events refused by MLflow, kept with the reasons in a/refused.jsonl"
    )
    assert (result.unfinished(3, None, 2, Path("r")) or "").count("; ") == 2
    assert (
        result.unfinished(1, "no answer")
        == "1 event not yet in MLflow (no answer); the same command again writes them"
    )


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (190, "3m10s"),
        (3599.7, "1h00m"),
        (3725, "1h02m"),
        (90000, "25h00m"),
    ],
)
def test_durations_read_so(seconds: float, expected: str) -> None:
    assert plan_text.duration(seconds) == expected


def test_a_point_is_shown_by_last_names_and_a_weight_by_its_source() -> None:
    point = {
        "optim.lr": 0.000214,
        "adapter.rank": 8,
        "data.sources.terms.weight": 0.30000001,
        "optim.schedule": "cosine",
    }
    assert plan_text.short(point) == "lr=0.000214 rank=8 terms=0.3 schedule=cosine"


def test_an_error_tells_every_problem_in_columns(capsys: pytest.CaptureFixture[str]) -> None:
    plan_text.error(str(ConfigError([("optim.lr", "is odd"), ("a", "is\tb")])))
    plan_text.error("one line")
    printed = capsys.readouterr()
    assert (
        printed.err
        == "conf: 2 problems\n  optim.lr   is odd\n  a          is\tb\nerror: one line\n"
    )
    assert printed.out == ""


def test_progress_without_a_terminal_is_one_plain_line_per_event(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ProgressDisplay(12, 40, "valid/loss") as screen:
        screen.start(3, {"optim.lr": 0.01})
        screen.step(3, 1, {"train/loss": 2.0})
        screen.rung(3, 20, {"valid/loss": 0.51234, "train/tokens_per_second": 1234.0})
        screen.start(3, {"optim.lr": 0.01})
        screen.rung(3, 40, {})
        screen.end(3, "finished", None)
        screen.end(4, "failed", "out of memory")
        screen.note("stopping")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [re.sub(r"\d+s$", "0s", line) for line in printed.err.splitlines()] == [
        "trial  3/12  lr=0.01  starts",
        "trial  3/12  lr=0.01  step 20/40  valid/loss 0.5123  1,234 tok/s  0s",
        "trial  3/12  lr=0.01  step 40/40  valid/loss missing  1,234 tok/s  0s",
        "trial  3/12  lr=0.01  finished at step 40",
        "trial  4/12  failed: out of memory",
        "stopping",
    ]


def test_a_sweeps_log_tells_how_far_it_is_and_what_was_found(
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen = ProgressDisplay(12, 40, "valid/exact_match")
    for index, (state, error) in enumerate(
        [("finished", None), ("stopped", None), ("failed", "out of memory"), ("finished", None)], 1
    ):
        screen.start(index, {"optim.lr": 2e-4})
        screen.rung(index, 10, {"valid/exact_match": 0.5})
        if index < 4:
            screen.end(index, state, error)
    log = capsys.readouterr().err
    assert log_summary.told("") == {"trials": None, "best": None}
    assert log_summary.told(log) == {"trials": "3/12", "best": None}
    found = outcome()
    total, score = found["trials"]["total"], found["best"]["metrics"]["test/exact_match"]
    expected = {"trials": f"{total}/{total}", "best": f"test/exact_match {score:.3f}"}
    assert log_summary.told(f"{log}{job_environment.MARK}\n{result.text(found)}\n") == expected
    assert (
        log_summary.told(f"{log}{job_environment.MARK}\n{json.dumps(result.public(found))}\n")
        == expected
    )


def test_the_live_table_marks_the_best_row_and_counts_what_is_to_come() -> None:
    from rich.console import Console

    screen = ProgressDisplay(4, 40, "valid/exact_match")
    for index, score in ((1, 0.25), (2, 0.5)):
        screen.start(index, {"adapter.rank": index})
        screen.rung(index, 20, {"valid/exact_match": score})
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(screen.table())
    shown = console.export_text()
    assert "20/40" in shown and "rank=2" in shown and "2 trials to come" in shown
    styles = [row.style for row in screen.table().rows]
    assert styles == ["", "bold green"]


def test_the_table_says_how_a_trial_ended_although_its_last_steps_are_told_later() -> None:
    screen = ProgressDisplay(2, 40, "valid/exact_match")
    for index, state in ((1, "stopped"), (2, "finished")):
        screen.start(index, {})
        screen.step(index, 19, {"train/loss": 1.0})
        assert screen.rows[index].state == "training"
        screen.rung(index, 20, {"valid/exact_match": 0.5})
        screen.end(index, state, None)
        screen.step(index, 20, {"train/loss": 1.0})
    assert [row.state for row in screen.rows.values()] == ["stopped", "finished"]
    screen.start(2, {})
    screen.step(2, 21, {"train/loss": 1.0})
    assert (screen.rows[2].step, screen.rows[2].state) == (21, "training")


def test_commands_to_paste_start_this_environments_programs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ORCHESTRATOR_TYPED", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.chdir(tmp_path)
    assert programs_here() == ".venv/bin/"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert programs_here() == f"{tmp_path}/.venv/bin/"
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(shutil.which("sh") or "/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path / ".venv" / "bin"))
    assert programs_here() == "", "the environment is active"
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv("ORCHESTRATOR_TYPED", "+sweep=lora")
    assert programs_here() == "", "read on the machine that sent the command"
    lines = dict(result.next_lines(outcome(), ".venv/bin/"))
    assert lines["more"].startswith(".venv/bin/python -m ") and lines["open"].startswith(
        ".venv/bin/mlflow ui "
    )
