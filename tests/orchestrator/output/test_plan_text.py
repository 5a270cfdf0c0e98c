"""The plan, compared whole; how durations, points and errors are written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.base_models import fetch
from jobs.config import BaseModel, Model
from jobs.machine import speed
from orchestrator.config.compose import compose
from orchestrator.errors import ConfigError
from orchestrator.output import console, plan_text
from orchestrator.plan import planner as planning
from orchestrator.tracking.shown_commands import programs_here
from tests.support.settings import build

PLAN = """\
plan    demo-{hash} · 4 trials in 1 pack of 4 slots on 1 CPU core · local
base    tiny (random weights, revision {revision}) · LoRA rank 16 in the last 1 of 2 layers on toy · seed 0
source  train: 30 rows, 60 supervised tokens, 100% of what is drawn
read    train, valid, test as prompt -> completion
judged  best valid/exact_match on 5 validation rows; the winner, the untouched base (also with 4 examples in its prompt) and simple baselines on 4 test rows, in answers of at most 2 tokens; registered as toy-tiny
shows   in exact match 5 validation rows 1.000 or more, 4 test rows no difference (error rate 0.05, power 0.8, two models that disagree on 25% of the rows)
search  adapter.rank 4, 8 · optim.lr 0.01, 0.001 · grid, halving at 10, 20 steps with 4, 2 trials
final   the 2 best trials by valid/exact_match; nothing is trained again, the best one is judged
machine 330 GFLOP/s in float32, 165 in bfloat16, on 1 thread; train.dtype=auto is float32, 2.0 times as fast here as bfloat16
time    about {time}, from 330 GFLOP/s measured here
check   ok      splits: rows: train 30, valid 5, test 4
check   ok      tokens: 1,019 training tokens, 60 of them supervised; 0 of 30 rows (0.0%) truncated
check   ok      empty: each of 39 rows says something
check   ok      duplicates: no row repeats another
check   ok      contradictions: no prompt has two answers
check   ok      text: nothing looks damaged
check   ok      labels: answers are no labels: 26 different answers in 30 training rows
check   ok      leakage: standing in the training files too, or nearly: valid 0 of 5 rows (0.0%), test 0 of 4 rows (0.0%)
check   ok      language: af in train, valid, test
check   ok      personal: none in 39 rows, as far as forms and checksums tell
check   ok      template: an answer ends with '<|im_end|>', which carries loss; marks stand once
note    train.batch_size=32 is more than the 30 training rows: each step repeats rows that it has seen
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
    arguments: list[str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path_factory.mktemp("cache")))
    base = fetch.prepare(Model(name="tiny", source="tiny"))
    speed.keep(speed.MachineSpeed({"float32": 330e9, "bfloat16": 165e9}, 1.1, 1))
    plan = planning.make(build(compose(arguments, None)))
    assert plan.estimate is not None
    known = {
        "hash": plan.name.split("-")[1],
        "revision": base.revision[:12],
        "time": console.duration(plan.estimate.seconds),
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
    cache: Path, base: BaseModel, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    more = [a for a in arguments if not a.startswith("sweep.")] + [
        "+sweep=lora",
        "sweep.num_trials=25",
    ]
    lines = plan_text.plan_text(planning.make(build(compose(more, None)))).splitlines()
    assert lines[-2].startswith("trial    20  lr=")
    assert lines[-1] == "trial   ... 5 more"


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
    assert console.duration(seconds) == expected


def test_a_point_is_shown_by_last_names_and_a_weight_by_its_source() -> None:
    point = {
        "optim.lr": 0.000214,
        "adapter.rank": 8,
        "data.sources.terms.weight": 0.30000001,
        "optim.schedule": "cosine",
    }
    assert console.short(point) == "lr=0.000214 rank=8 terms=0.3 schedule=cosine"


def test_an_error_tells_every_problem_in_columns(capsys: pytest.CaptureFixture[str]) -> None:
    console.error(str(ConfigError([("optim.lr", "is odd"), ("a", "is\tb")])))
    console.error("one line")
    printed = capsys.readouterr()
    assert (
        printed.err
        == "conf: 2 problems\n  optim.lr   is odd\n  a          is\tb\nerror: one line\n"
    )
    assert printed.out == ""
