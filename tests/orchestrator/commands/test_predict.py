"""job=predict: what it answers and refuses, and that a dry run only says what would be asked."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.config import BaseModel, Trial
from jobs.evaluation.scores import TestScores
from jobs.export.model_folder import export
from jobs.model.loading import attach, load, save
from orchestrator.cli import main
from orchestrator.output.result import next_lines
from tests.support.in_process import run
from tests.support.results import outcome
from tests.support.versions import long_prompts, untouched_version


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return long_prompts(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def version(trial: Trial, base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untouched_version(trial, base, tmp_path_factory.mktemp("versions") / "version")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("hello", "messages is no JSON"),
        ("[]", "messages is empty; it must end with what is asked"),
        ('[{"role": "user"}]', 'message 1 has no "content"'),
        (
            '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]',
            "ends with an answer",
        ),
        ('{"messages": [{"role": "user", "content": "a"}], "image": 1}', "has image beside"),
    ],
)
def test_a_conversation_that_cannot_be_asked_is_one_message(
    messages: str,
    words: str,
    version: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        run(
            tmp_path / "none",
            monkeypatch,
            "job=predict",
            f"model_uri={version}",
            f"messages={messages}",
            "dry_run=true",
        )
        == 2
    )
    assert words in capsys.readouterr().err


def test_a_conversation_is_asked_from_the_command_line(
    version: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = [
        {"role": "system", "content": "It's $5 {a}"},
        {"role": "user", "content": ' "b", \\ c\n'},
    ]
    asked = ("job=predict", f"model_uri={version}", f"messages={json.dumps(talk)}")
    assert run(cache, monkeypatch, *asked, "output=json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["messages"] == talk and isinstance(printed["answer"], str)
    assert run(cache, monkeypatch, *asked, "prompt=x") == 2
    assert "leave one of them out" in capsys.readouterr().err


def test_a_prompt_that_is_cut_is_told_beside_the_answer(
    version: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("job=predict", f"model_uri={version}", "output=json")
    assert run(cache, monkeypatch, *asked, f"prompt={'alpha ' * 200}") == 0
    printed = capsys.readouterr()
    cut = json.loads(printed.out)["prompt_cut"]
    assert cut["tokens"] > cut["read"] > 0
    (note,) = [line for line in printed.err.splitlines() if line.startswith("note ")]
    assert f"{cut['tokens']:,} tokens" in note and f" {cut['read']} are read" in note
    assert run(cache, monkeypatch, *asked, "prompt=alpha 1") == 0
    printed = capsys.readouterr()
    assert "prompt_cut" not in json.loads(printed.out) and "are read" not in printed.err


def test_a_dry_run_of_predict_says_what_would_be_asked_and_loads_nothing(
    version: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ("job=predict", f"model_uri={version}", "prompt=alpha 1", "dry_run=true")
    assert run(tmp_path / "none", monkeypatch, *asked) == 0
    assert capsys.readouterr().out == f'plan    would ask {version} in {version}: "alpha 1"\n'
    assert run(tmp_path / "none", monkeypatch, *asked, "output=json") == 0
    told = {"job": "predict", "model_uri": str(version), "prompt": "alpha 1", "from": str(version)}
    assert json.loads(capsys.readouterr().out) == {"plan": told}
    assert not (tmp_path / "none").exists()


def test_a_dry_run_of_predict_asks_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = "tracking.uri=http://me:secret@no-such-host.invalid:5000"
    asked = (
        "job=predict",
        "model_uri=models:/x@champion",
        "prompt=x",
        "dry_run=true",
        f"storage={tmp_path / 'outputs'}",
    )
    assert run(tmp_path / "none", monkeypatch, *asked, server) == 0
    assert (
        "would ask models:/x@champion of http://me:***@no-such-host.invalid:5000"
        in capsys.readouterr().out
    )
    assert run(tmp_path / "none", monkeypatch, *asked) == 2
    assert "nothing was trained yet" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("task.json", None, "has no task.json that can be read (No such file or directory)"),
        ("task.json", '{"instruction": ""}', "has no usable max_new_tokens, max_length"),
        (
            "task.json",
            '{"instruction": "", "max_new_tokens": "5", "max_length": null}',
            "has no usable max_new_tokens, max_length",
        ),
        (
            "base.json",
            '{"name": "a", "source": "b", "id": "c", "revision": "d", "path": 5}',
            "has no usable path",
        ),
        ("base.json", "null", "is not a JSON object"),
        ("base.json", '{"name": ', "is not a JSON object"),
    ],
)
def test_a_folder_that_is_no_version_is_one_message(
    name: str,
    text: str | None,
    expected: str,
    version: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for file in ("base.json", "task.json"):
        (tmp_path / file).write_text((version / file).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / name).unlink() if text is None else (tmp_path / name).write_text(
        text, encoding="utf-8"
    )
    for more in ([], ["dry_run=true"]):
        assert (
            run(
                tmp_path / "none",
                monkeypatch,
                "job=predict",
                f"model_uri={tmp_path}",
                "prompt=x",
                *more,
            )
            == 2
        )
        printed = capsys.readouterr()
        assert (
            expected in printed.err
            and "it is not a version that this project registered" in printed.err
        )
        assert printed.out == ""


BROKEN = [
    ("adapter_model.safetensors", b"half of a"),
    ("adapter_config.json", b"[]"),
    ("adapter_config.json", b'{"peft_type": "FOO"}'),
    (
        "adapter_config.json",
        b'{"peft_type": "LORA", "task_type": "CAUSAL_LM", "target_modules": ["nosuch"]}',
    ),
]


@pytest.mark.parametrize(
    ("name", "content"), BROKEN, ids=[content.decode()[:20] for _, content in BROKEN]
)
def test_a_version_whose_adapter_cannot_be_loaded_is_one_message(
    name: str,
    content: bytes,
    trial: Trial,
    base: BaseModel,
    tmp_path: Path,
    cache: Path,
    monkeypatch: Any,
    capsys: Any,
) -> None:
    save(
        attach(load(base.path, torch.float32, torch.device("cpu")), trial.adapter, 0),
        tmp_path / "trained",
    )
    export(
        trial, base, tmp_path / "trained", TestScores(0.0, 0.0, 0.0, [], 2), tmp_path / "version"
    )
    (tmp_path / "version" / "adapter" / name).write_bytes(content)
    assert (
        run(cache, monkeypatch, "job=predict", f"model_uri={tmp_path / 'version'}", "prompt=x") == 2
    )
    printed = capsys.readouterr()
    assert (
        f"cannot load {tmp_path / 'version' / 'adapter'}" in printed.err
        and "fetch the version again" in printed.err
    )
    assert printed.out == ""


@pytest.mark.parametrize(
    "uri",
    [
        "s3://x/y",
        "http://x/y",
        "models:",
        "models:/a",
        "models:/a'b@champion",
        "file:///tmp",
        "runs:/a",
    ],
)
def test_an_address_that_names_no_version_is_refused_with_the_forms_there_are(
    uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["job=predict", f"model_uri={uri}", "prompt=x"]) == 2
    assert f"model_uri   {uri} is neither models:/NAME@champion" in capsys.readouterr().err


def test_an_argument_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["job=predict", "model_uri=models:/a@b", "prompt=caf\udce9"]) == 2
    assert "prompt=caf? is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["prompt", "messages"])
def test_the_printed_command_asks_what_was_asked(
    name: str,
    version: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = 'It\'s $5, "{a}" \\ b\n=c '
    value = (
        text
        if name == "prompt"
        else json.dumps([{"role": "system", "content": text}, {"role": "user", "content": text}])
    )
    model = {"name": "m", "version": 1, "alias": None, "uri": str(version)}
    lines = dict(next_lines(outcome(asked=name, prompt=value, model=model, settings=[]), ""))
    assert run(cache, monkeypatch, *shlex.split(lines["try"])[3:], "output=json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed[name] == (value if name == "prompt" else json.loads(value))
