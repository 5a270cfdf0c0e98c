"""Every kind of bad input: exit code 2, one clear message on stderr, nothing on stdout, nothing
left behind.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.base_models import fetch
from jobs.base_models.tiny import RECIPE
from jobs.config import Model
from orchestrator.cli import main

ROW = {"prompt": "a question", "completion": "an answer"}


def lines(*rows: Any) -> str:
    """Rows as JSON lines; a string stands as it is."""
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


@pytest.fixture
def refuse(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """`refuse(*arguments)` runs the command line, expects exit code 2 and gives the message."""
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    fetch.prepare(Model(name="tiny", source="tiny"))

    def run(*arguments: str) -> str:
        storage = tmp_path / "outputs"
        given = [] if any(a.startswith("storage=") for a in arguments) else [f"storage={storage}"]
        code = main(["model=tiny", *given, *arguments])
        printed = capsys.readouterr()
        assert code == 2, printed
        assert printed.out == ""
        assert "Traceback" not in printed.err
        assert not list(storage.rglob("journal.jsonl"))
        return printed.err

    return run


SETTINGS = [
    (["optim.lrr=1"], ["optim.lrr", "did you mean optim.lr?"]),
    (["train.steps=abc"], ["train.steps", "whole number", "'abc'"]),
    (["train.steps=true"], ["train.steps", "must be a number, got true"]),
    (["optim.lr=-1"], ["optim.lr", "above 0", "-1"]),
    (["adapter.kind=lorra"], ["adapter.kind", '"lorra" is not one of lora, full']),
    (["model=smol"], ["model", '"smol" is not one of', "smollm2-135m"]),
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
    (["sweep.metric=valid/f1"], ["sweep.metric", "valid/f1", "valid/exact_match"]),
    (["train.gpus_per_worker=64"], ["train.gpus_per_worker", "64", "GPU"]),
    (["train.batch_size=99999", "train.num_workers=9999"], ["train.num_workers", "CPU cores"]),
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
        ["data.sources.terms.wight=1"],
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
        f"sweep.space={{{', '.join(knobs)}}}", "sweep.num_trials=20"
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


FILES: list[tuple[str, dict[str, str], list[str]]] = [
    (
        "other name",
        {"train.jsonl": lines(ROW), "my_validation.jsonl": lines(ROW)},
        ["my_validation.jsonl is not read; rename it to valid.jsonl, or name it: data.valid="],
    ),
    (
        "two names",
        {"train.jsonl": lines(ROW), "dev.jsonl": lines(ROW), "valid.json": "[]"},
        ["dev.jsonl", "valid.json both hold valid rows"],
    ),
    (
        "other ending",
        {"train.jsonl": lines(ROW), "test.xlsx": "x"},
        ["test.xlsx is not read; write it as test.jsonl"],
    ),
    (
        "packed otherwise",
        {"train.jsonl": lines(ROW), "valid.jsonl.zst": "x"},
        ["valid.jsonl.zst is not read; write it as valid.jsonl"],
    ),
    (
        "two files and a number",
        {"train.jsonl": lines(ROW), "test.csv": "", "test_2.csv": ""},
        ["both hold test rows", "test-1, test-2"],
    ),
    (
        "part missing",
        {"train-00000-of-00003.jsonl": "", "train-00002-of-00003.jsonl": ""},
        ["2 of 3 parts; fetch the others"],
    ),
    (
        "no training file",
        {"train_data.jsonl": lines(ROW)},
        ["train_data.jsonl is not read; rename it to train.jsonl"],
    ),
    (
        "twice",
        {"train.jsonl": '{"prompt": "a", "prompt": "b", "completion": "c"}'},
        ["line 1", '"prompt" stands in one object twice'],
    ),
    (
        "two in one",
        {"train.jsonl": lines({**ROW, "messages": [{"role": "user", "content": "x"}]})},
        ["line 1", "leave one out"],
    ),
    (
        "mistyped role",
        {
            "train.jsonl": lines(
                {
                    "messages": [
                        {"role": r, "content": "x"}
                        for r in ("user", "asistant", "user", "assistant")
                    ]
                }
            )
        },
        ["line 1", 'message 2 has the role "asistant"; did you mean "assistant"?'],
    ),
    ("missing", {"valid.jsonl": lines(ROW)}, ["train.jsonl"]),
    ("empty", {"train.jsonl": ""}, ["train.jsonl", "empty"]),
    ("no answer", {"train.jsonl": lines(ROW, {"prompt": "x"})}, ["line 2", "answer"]),
    ("blank answer", {"train.jsonl": lines(ROW, {"prompt": "x", "completion": " "})}, ["line 2"]),
    ("broken", {"train.jsonl": lines(*[ROW] * 16, '{"prompt": "x", ', ROW)}, ["line 17"]),
    (
        "two files",
        {"train.jsonl": lines(ROW), "train.csv": "prompt,completion\na,b\n"},
        ["train.jsonl", "train.csv"],
    ),
    (
        "old line ends",
        {"train.jsonl": lines(*[ROW] * 3).replace("\n", "\r")},
        ["line 1", "write one object per line"],
    ),
    ("deep", {"train.jsonl": "[" * 100_000}, ["nested too deeply", "one JSON array"]),
    (
        "digits",
        {"train.jsonl": lines('{"prompt": ' + "9" * 5000 + "}")},
        ["a number with too many digits"],
    ),
    (
        "system only",
        {
            "train.jsonl": lines(
                {"messages": [{"role": r, "content": "x"} for r in ("system", "assistant")]}
            )
        },
        ["line 1", "message from the user"],
    ),
    (
        "column twice",
        {"train.csv": "prompt,prompt,completion\na,b,c\n"},
        ['"prompt" as the name of 2 columns', "rename or remove"],
    ),
    (
        "semicolons",
        {"train.csv": "prompt;completion\na;b\n"},
        ['"prompt;completion"', "separate them with commas"],
    ),
    (
        "two shapes",
        {
            "train.jsonl": lines(
                ROW,
                {
                    "messages": [
                        {"role": "user", "content": "x"},
                        {"role": "assistant", "content": "y"},
                    ]
                },
            )
        },
        ["mix"],
    ),
    (
        "too long",
        {
            "train.jsonl": lines(
                *[
                    {"prompt": f"p{i}", "completion": "word " * (400 if i == 7 else 1)}
                    for i in range(30)
                ]
            )
        },
        ["train.max_length"],
    ),
]


@pytest.mark.parametrize(
    ("files", "expected"), [case[1:] for case in FILES], ids=[case[0] for case in FILES]
)
def test_bad_data_is_named_with_file_and_place(
    refuse: Callable[..., str], tmp_path: Path, files: dict[str, str], expected: list[str]
) -> None:
    folder = tmp_path / "data with ümlaut"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    message = refuse("data=files", f"data.folder={folder}")
    for part in expected:
        assert part in message


def test_a_bad_parquet_file_is_named(refuse: Callable[..., str], tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    text = pyarrow.array(["a", "b"])
    tables = {
        "twice": (
            pyarrow.Table.from_arrays([text, text, text], names=["prompt", "prompt", "completion"]),
            '"prompt" as the name of 2 columns',
        ),
        "latin1": (
            pyarrow.table(
                {
                    "prompt": pyarrow.array([b"a\xff", b"b"]).view(pyarrow.string()),
                    "completion": text,
                }
            ),
            "not UTF-8",
        ),
    }
    for name, (table, expected) in tables.items():
        pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet")
        message = refuse(f"+data.sources.mine={{path: {tmp_path / name}.parquet}}")
        assert expected in message and f"{name}.parquet" in message


def test_a_folder_or_a_dead_link_in_the_place_of_a_file_is_named(
    refuse: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").symlink_to(tmp_path / "train.jsonl")
    assert "train.jsonl is a link to no file; it must be a file" in refuse(
        "data=files", f"data.folder={tmp_path}"
    )
    assert f"is a link to {tmp_path / 'train.jsonl'}, where there is no file" in refuse(
        f"data.valid={tmp_path / 'train.jsonl'}"
    )
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "train.jsonl").mkdir()
    assert "train.jsonl is a folder; it must be a file" in refuse(
        "data=files", f"data.folder={tmp_path}"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_what_this_user_may_not_read_or_write_is_named(
    refuse: Callable[..., str], tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0)
    try:
        for setting in (
            f"data.folder={closed}",
            f"data.folder={closed}/x",
            f"data.valid={closed}/v.jsonl",
        ):
            assert "cannot be read: Permission denied" in refuse(
                "data=files", "data.folder=.", setting
            )
        assert "Permission denied; choose another one" in refuse(f"storage={closed}/x")
        closed.chmod(0o555)
        assert "is not open to this user" in refuse(f"storage={closed}/x")
    finally:
        closed.chmod(0o755)


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


def test_a_missing_source_file_is_named(refuse: Callable[..., str]) -> None:
    assert "nosuch.jsonl" in refuse("+data.sources.mine={path: nosuch.jsonl, weight: 0.5}")


def tiny_config(**changed: Any) -> str:
    """The tiny model's config.json with other values."""
    return json.dumps({"model_type": "llama", **RECIPE["config"], **changed})


MODELS: list[tuple[str, str | bytes, str]] = [
    (
        "config.json",
        '{"model_type": "bert", "architectures": ["BertModel"]}',
        "it is a bert (BertModel), which does not continue a text",
    ),
    ("config.json", '{"model_type": "t5", "is_encoder_decoder": true}', "does not continue a text"),
    ("config.json", '{"model_type": 5}', "config.json has no model_type"),
    ("config.json", '{"model_type": "llama", "vocab_size": 100}', "a model knows 100 tokens"),
    ("config.json", tiny_config(model_type="nosuch"), "model type `nosuch`"),
    (
        "config.json",
        tiny_config(num_hidden_layers=4),
        "18 weights of it are not there, such as model.layers.2.input_layernorm.weight",
    ),
    (
        "config.json",
        tiny_config(hidden_size=128, architectures=5),
        "has the shape [259, 64] instead of [259, 128]",
    ),
    (
        "config.json",
        tiny_config(
            model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}
        ),
        "code of its own",
    ),
    ("config.json", tiny_config(hidden_act="nosuch"), "cannot load the model in"),
    ("config.json", tiny_config(num_attention_heads="four"), "cannot load the model in"),
    ("config.json", tiny_config(num_attention_heads=0), "cannot load the model in"),
    (
        "config.json",
        tiny_config(quantization_config={"quant_method": "gptq", "bits": 4}),
        "its weights are quantized (gptq)",
    ),
    ("model.safetensors", b"\x02" + b"\0" * 7 + b"{}", "model.safetensors holds no weights"),
    ("model.safetensors", b"\x08", "model.safetensors is broken"),
    ("model.safetensors.index.json", '{"weight_map": {"a": 3}}', "no 3 in it"),
    ("tokenizer.json", '{"a": 1}', "tokenizer.json is no tokenizer"),
    ("tokenizer_config.json", "[1]", "tokenizer_config.json must hold a JSON object"),
    (
        "tokenizer_config.json",
        '{"eos_token": 5}',
        "tokenizer_config.json: eos_token must be a text",
    ),
    (
        "tokenizer_config.json",
        '{"eos_token": {"x": 1}}',
        "tokenizer_config.json: eos_token must be a text",
    ),
    ("chat_template.jinja", "{{ 1 / 0 }}", "division by zero"),
    ("chat_template.jinja", "hello", "leaves out what the messages say"),
    ("chat_template.jinja", b"\xff\xfe", "chat_template.jinja is not UTF-8"),
    ("generation_config.json", '{"eos_token_id": "x"}', "eos_token_id 'x', which is no number"),
]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    MODELS,
    ids=[f"{name} {expected[:30]}" for name, _, expected in MODELS],
)
def test_a_broken_model_folder_is_named_with_what_is_wrong(
    refuse: Callable[..., str],
    cache: Path,
    tmp_path: Path,
    name: str,
    content: str | bytes,
    expected: str,
) -> None:
    folder = tmp_path / "a model"
    shutil.copytree(fetch.prepare(Model(name="tiny", source="tiny"), cache).path, folder)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refuse("model=path", f"model.path={folder}", "model.name=mine")
    assert expected in message and "a model" in message


def test_a_model_folder_that_is_no_model_says_what_it_lacks(
    refuse: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "not-a-model").mkdir()
    assert "config.json" in refuse(
        "model=path", f"model.path={tmp_path / 'not-a-model'}", "model.name=mine"
    )


def test_a_model_folder_that_does_not_exist_is_named(
    refuse: Callable[..., str], tmp_path: Path
) -> None:
    assert "nowhere" in refuse(
        "model=path", f"model.path={tmp_path / 'nowhere'}", "model.name=mine"
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
