"""Bad settings: exit code 2, one clear message on stderr, nothing on stdout, nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cli import main

SETTINGS = [
    (["optim.lrr=1"], ["optim.lrr", "did you mean optim.lr?"]),
    (["train.steps=abc"], ["train.steps", "whole number", "'abc'"]),
    (["train.steps=true"], ["train.steps", "must be a number, got true"]),
    (["adapter.layers=half"], ["adapter.layers", "must be a number, got 'half'"]),
    (["optim.lr=-1"], ["optim.lr", "above 0", "-1"]),
    (["adapter.kind=lorra"], ["adapter.kind", '"lorra" is not one of lora, full']),
    (["model=smol"], ["model", '"smol" is not one of', "smollm2-135m"]),
    (["+sweep=lora", "sweep=mix"], ["sweep", "chosen more than once: lora and mix"]),
    (["~tracking", "optim.lrr=1"], ["tracking", "must be set", "optim.lrr"]),
    (["+sweep=nosuch"], ["sweep", '"nosuch" is not one of', "lora"]),
    (
        ["adapter.rank=0", "optim.lrr=1", "model=x", "train.batch_size=0"],
        ["4 problems", "adapter.rank", "optim.lrr", "model", "train.batch_size"],
    ),
    (
        ["+sweep=lora", "sweep.space.lr.path=optim.lrr"],
        ["sweep.space.lr.path", "optim.lrr", "did you mean optim.lr?"],
    ),
    (
        ["+sweep=lora", "sweep.space.rank.values=[8,0]"],
        ["sweep.space.rank", "adapter.rank must be between 1 and 1024, got 0"],
    ),
    (["+sweep=lora", "sweep.space.lr.low=0"], ["above 0 on a logarithmic scale"]),
    (
        ["+sweep=lora", "sweep.space.x={path: adapter.alpha, type: linked, to: optim.nosuch}"],
        ["sweep.space.x.to", "optim.nosuch"],
    ),
    (
        ["+sweep=lora", "sweep.space.x={path: cluster.kind, type: choice, values: [local]}"],
        ["cannot be searched"],
    ),
    (
        [
            "sweep.search=grid",
            "sweep.space={r: {path: adapter.rank, type: choice, values: [4]}}",
            "sweep.num_trials=5",
        ],
        ["sweep.num_trials"],
    ),
    (["sweep.num_trials=1000000000000000000000"], ["sweep.num_trials", "at most 100,000"]),
    (
        [
            "sweep.space={a: {path: seed, type: grid, values: [1, 2]}, b: {path: adapter.alpha, type: linked, to: seed, times: 1e308}}"
        ],
        ["adapter.alpha must be above 0, got inf"],
    ),
    (
        ["adapter.targets=q_proj,nosuch"],
        ["adapter.targets", '"nosuch" is no layer of the base model', "q_proj"],
    ),
    (
        ["adapter.targets=[q_proj, 'v_proj']"],
        ["adapter.targets", "without brackets", "write adapter.targets=q_proj,v_proj"],
    ),
    (["adapter.targets=' '"], ["adapter.targets", "write adapter.targets=q_proj,v_proj"]),
    (["adapter.targets=q_proj,,v_proj"], ["write adapter.targets=q_proj,v_proj"]),
    (["sweep.metric=valid/f1"], ["sweep.metric", "valid/f1", "valid/exact_match"]),
    (["train.gpus_per_worker=64"], ["train.gpus_per_worker", "64", "GPU"]),
    (["train.batch_size=60000", "train.num_workers=9999"], ["train.num_workers", "CPU cores"]),
    (
        ["storage=s3://key:verysecret@bucket/x"],
        ["storage", "holds a secret", "AWS_SECRET_ACCESS_KEY"],
    ),
    (["storage=s3://bucket/x"], ["storage", "s3://bucket/x"]),
    (
        ["tracking.uri=ftp://x"],
        [
            "tracking.uri",
            "ftp://x: ftp is not supported; use one of http, https, sqlite, postgresql",
        ],
    ),
    (
        ["tracking.uri=databricks://x", "adapter.rank=0", "optim.lrr=1"],
        ["3 problems", "databricks is not supported", "optim.lrr"],
    ),
    (
        ["tracking.uri=mlruns"],
        ["tracking.uri", "MLflow no longer keeps runs as plain files", "sqlite:///"],
    ),
    (["tracking.uri=localhost:5000"], ["did you mean tracking.uri=http://localhost:5000?"]),
    (["tracking.uri="], ["tracking.uri   is empty; leave it out"]),
    (["tracking.uri=http://[::1"], ["Invalid IPv6 URL", "http://HOST:5000"]),
    (["tracking.uri=http://h:99999"], ["http://h:99999: Port out of range"]),
    (["tracking.model=a/b"], ["tracking.model", "'a/b'"]),
    (
        ["tracking.experiment=" + "x" * 501],
        ["tracking.experiment   must have 1 to 500 characters, got 501"],
    ),
    (["tracking.patience_seconds=inf"], ["between 0 and 86400, got inf"]),
    (["model.name=../../x"], ["model.name", "'../../x'"]),
    (["data.name="], ["data.name", "letters, digits"]),
    (["model=hub", "model.id=../.."], ["1 problem", "OWNER/NAME, got '../..'"]),
    (["train.steps=99999999999999999999"], ["train.steps", "below 2**31"]),
    (
        ["cluster.workers=1000000000", "cluster.max_workers=-1"],
        ["2 problems", "at least 0 and at most 10,000, got 1000000000", "got -1"],
    ),
    (
        ["cluster=kuberay", "cluster.worker_memory=99999999999999999999Ti"],
        ["cluster.worker_memory", "must be like 16Gi"],
    ),
    (
        ["cluster=attached", "cluster.address=http://h:8265", "tracking.uri=mlruns"],
        ["must be a server that all can reach", "got mlruns"],
    ),
    (["train.steps=1e400"], ["train.steps", "finite number, got inf"]),
    (["job.resamples=2000"], ["job.resamples", "no such setting"]),
    (["optim..lr=3"], ["optim..lr", "single dots"]),
    (["+data.sources.größe.path=x.jsonl"], ["data.sources.größe.path", "ASCII"]),
    (["optim@other=adamw"], ["optim@other", "did you mean optim?"]),
    (["hydra/launcher=basic"], ["hydra/launcher   no such setting"]),
    (["data.sources={größe: {path: x}}"], ["put quotes around the texts in it"]),
    (["storage=/etc/passwd/x"], ["lies below /etc/passwd, which is a file"]),
    (["storage=/tmp/" + "a" * 400], ["storage", "File name too long"]),
    (["storage=file:/tmp/x"], ["storage", "neither a folder nor a URI"]),
    (["data=files", "data.folder=/tmp/" + "a" * 400], ["data.folder", "File name too long"]),
    (
        ["+data.sources.long={path: " + "a" * 400 + ".jsonl}"],
        ["data.sources.long", "File name too long"],
    ),
    (
        ["sweep.num_trials=12"],
        ["nothing to try 12 times without a search space; add one, such as +sweep=lora"],
    ),
    (
        ["data.valid=", "data.test= "],
        ["2 problems", "data.valid   is empty; leave it out", "data.test    is empty"],
    ),
    (
        ["data=icd10", "data.sources.terms.wight=1"],
        ["data.sources.terms.wight", "did you mean data.sources.terms.weight?"],
    ),
    (["+sweep=lora", "sweep.space.lr.hihg=1"], ["did you mean sweep.space.lr.high?"]),
    (
        [
            "sweep.space={a: {type: choice}, b: {path: optim.lr, type: choice, values: [0]}, c: 5}",
            "seed=x",
        ],
        [
            "4 problems",
            "sweep.space.a.path",
            "sweep.space.b",
            "optim.lr must be above 0",
            "sweep.space.c",
            "seed",
        ],
    ),
    (["job=predict"], ["model_uri", "prompt"]),
    (["dry_run"], ["dry_run", "name=value"]),
    (["--nosuch"], ["--nosuch", "--help"]),
    (["adapter.rank=4,8"], ["adapter.rank", "search space"]),
    (["model=path"], ["model.path"]),
    (["data=files"], ["data.folder"]),
    (["data=files", "data.folder="], ["data.folder", "is empty"]),
    (["storage=file://relative/x"], ["storage", "file:///relative/x"]),
    (
        ["tracking.uri=sqlite:////proc/x.db"],
        ["tracking.uri=sqlite:////proc/x.db", "choose another file"],
    ),
]
KNOBS = [
    (
        "{path: adapter.rank, type: choice, values: 4}",
        ["1 problem", "sweep.space.r.values   must be a list, got 4"],
    ),
    (
        "{path: adapter.rank, type: choice, values: [null]}",
        ["must be a number or a text, got null"],
    ),
    ("{path: adapter.rank, type: grid, values: [4, 4]}", ["4 stands twice"]),
    ("{path: adapter.rank, type: choice, values: [4, 4]}", ["4 stands twice"]),
    (
        "{path: optim.lr, type: uniform, low: nan, high: 1}",
        ["1 problem", "must be finite, got nan and 1.0"],
    ),
    (
        "{path: optim.lr, type: uniform, low: 0.1, high: 0.2, step: inf}",
        ["`step` must be a finite number above 0, got inf"],
    ),
    (
        "{path: adapter.alpha, type: linked, to: adapter.rank, times: nan}",
        ["`times` and `plus` must be finite, got nan"],
    ),
    (
        "{path: optim.lr, type: uniform, low: 0.0001, high: 0.1, step: 1e-320}",
        ["0.0001..0.1 is too wide for its `step`"],
    ),
    (
        "{path: adapter.alpha, type: uniform, low: -1.7e308, high: 1.7e308}",
        ["too wide for its `step`, or at all"],
    ),
    (
        "{path: data.sources.x.weight, type: choice, values: [4], optional: true}",
        ["sweep.num_trials", "do not exist: r"],
    ),
]


@pytest.mark.parametrize(("knob", "expected"), KNOBS, ids=[knob for knob, _ in KNOBS])
def test_a_bad_knob_is_named_with_its_remedy(
    refuse: Callable[..., str], knob: str, expected: list[str]
) -> None:
    message = refuse(f"sweep.space={{r: {knob}}}", "sweep.num_trials=5")
    for part in expected:
        assert part in message


def test_a_trial_that_would_draw_from_no_source_is_named_before_anything_starts(
    refuse: Callable[..., str],
) -> None:
    knobs = [
        f"{name}: {{path: data.sources.{name}.weight, type: choice, values: [0, 1]}}"
        for name in ("terms", "titles")
    ]
    assert "would train on nothing: data.sources.terms.weight" in refuse(
        "data=icd10", f"sweep.space={{{', '.join(knobs)}}}", "sweep.num_trials=20"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"), SETTINGS, ids=[" ".join(arguments)[:50] for arguments, _ in SETTINGS]
)
def test_a_bad_setting_is_named_with_its_remedy(
    refuse: Callable[..., str], arguments: list[str], expected: list[str]
) -> None:
    message = refuse(*arguments)
    for part in expected:
        assert part in message


def test_a_source_whose_name_mlflow_would_refuse_in_a_metric_is_named(
    refuse: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text(
        "name: mine\nsources:\n  a+b: {path: x.jsonl}\n", encoding="utf-8"
    )
    assert "data.sources   calls one 'a+b'; a name must be" in refuse(
        "--config-dir", str(tmp_path), "data=mine"
    )


def test_storage_that_is_a_file_is_named(refuse: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert "storage" in refuse(f"storage={tmp_path / 'file'}", "data.instruction=x")


def test_digits_are_text_where_text_is_due(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    assert (
        main(["model=tiny", "tracking.experiment=2024", "tracking.model=1234567", "dry_run=true"])
        == 0
    )
    assert "plan    run-" in capsys.readouterr().out
