"""What is asked in use is what was judged: cut prompts, conversations, reasoning, functions, the
day, the number format.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from jobs.config import Adapter, BaseModel, Data, Model, Optim, Train, Trial
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import load_corpus
from jobs.data.task_prompt import command_text, encode_asked_row, from_messages, from_prompt
from jobs.data.tokenization import encode_rows
from jobs.evaluation.evaluate import evaluate_on_test
from jobs.evaluation.scores import EvaluationSettings
from jobs.export.model_folder import export
from jobs.serving.predict import encode_prompt, predict
from tests.support.chat_templates import CALLING, TOOL
from tests.support.trials import tiny_trial
from tests.support.versions import long_prompts, untouched_version


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return long_prompts(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def version(trial: Trial, base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untouched_version(trial, base, tmp_path_factory.mktemp("versions") / "version")


def test_a_prompt_that_was_cut_while_judging_is_cut_and_answered_alike_in_use(
    trial: Trial, base: BaseModel, version: Path, caplog: pytest.LogCaptureFixture
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
        caplog.clear()
        assert predict(base, version, prompt) == line["prediction"]
        warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(warned) == (example.num_cut > 0)
        if example.num_cut:
            whole, read = example.prompt_length + example.num_cut, example.prompt_length
            assert (
                f"the prompt has {whole} tokens" in warned[0] and f" {read} are read" in warned[0]
            )


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
    trial = tiny_trial(data, train)
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
            template.decode(encode_asked_row(asked_row, task, template).ids, skip_special=False)
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


def test_the_predictions_of_a_base_in_bfloat16_are_reproduced_in_the_format_that_the_task_names(
    trial: Trial, base: BaseModel, tmp_path: Path
) -> None:
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
