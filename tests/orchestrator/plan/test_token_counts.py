"""The plan counts all rows, says which file and line cannot be used, and does not count the same
rows twice.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.base_models import fetch
from jobs.config import Model
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import digest
from jobs.data.tokenization import encode_rows
from orchestrator.errors import InputError
from orchestrator.plan import token_counts
from orchestrator.plan.planner import Plan
from orchestrator.plan.token_counts import Limits, count
from tests.support.chat_templates import CHATML, GEMMA, make_model, make_row

SAY = {"role": "assistant", "content": "n"}


@pytest.fixture
def model(cache: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be changed."""
    base = fetch.prepare(Model(name="tiny", source="tiny"), cache)
    return Path(shutil.copytree(base.path, tmp_path / "model"))


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    (folder / f"{name}.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )


def pairs(prefix: str, number: int, more: dict[int, str] | None = None) -> list[dict[str, Any]]:
    return [
        {"prompt": f"{prefix} {i}", "completion": (more or {}).get(i, "n")} for i in range(number)
    ]


def plan(folder: Path, *more: str) -> Plan:
    from orchestrator.config.compose import compose
    from orchestrator.plan.planner import make
    from tests.support.settings import build

    line = ["data=files", f"data.folder={folder}", f"storage={folder}/outputs", *more]
    return make(build(compose(line, None)))


def own(folder: Path) -> tuple[str, str]:
    return "model=path", f"model.path={folder}"


def test_the_counts_are_exact_whatever_stands_in_the_first_rows(
    model: Path, tmp_path: Path
) -> None:
    train = pairs("train", 700)
    for i in range(500, 700):
        train[i]["prompt"] += " " + "x" * 900
    valid, test = pairs("valid", 300), pairs("test", 300)
    valid[299]["prompt"] += " " + "x" * 900
    test[290]["prompt"] += " " + "x" * 900
    for name, rows in {"train": train, "valid": valid, "test": test}.items():
        write(tmp_path, name, rows)
    made = plan(tmp_path, *own(model))
    cut = [note for note in made.notes if "lose some" in note]
    assert [note.split(" prompts")[0] for note in cut] == [
        "train: 200 of 700",
        "valid: 1 of 300",
        "test: 1 of 300",
    ]
    assert (
        f"(first: {tmp_path}/train.jsonl, line 501)" in cut[0] and "test.jsonl, line 291)" in cut[2]
    )
    assert made.sources["train"].answer_tokens == 700 * 2


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_token_that_the_weights_lack_is_named_with_file_and_line(
    model: Path, tmp_path: Path, split: str
) -> None:
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken("<late>")])
    tokenizer.save(str(model / "tokenizer.json"))
    for name in ("train", "valid", "test"):
        write(tmp_path, name, pairs(name, 400, {333: "<late>"} if name == split else None))
    with pytest.raises(
        InputError,
        match=rf'{split}\.jsonl, line 334: the tokenizer gives token 259, "<late>".* knows 259 tokens',
    ):
        plan(tmp_path, *own(model))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 512}))
    with pytest.raises(
        InputError, match="knows 259 tokens"
    ):  # a configuration that was changed adds no weights
        plan(tmp_path, *own(model))
    write(tmp_path, split, pairs(split, 400))
    assert plan(tmp_path, *own(model)).sources["train"].answer_tokens == 800


def test_a_row_that_the_template_refuses_is_named_wherever_it_stands(
    model: Path, tmp_path: Path
) -> None:
    (model / "chat_template.jinja").write_text(
        GEMMA.replace("<|turn|>", "<|im_start|>")
        .replace("<|/turn|>", "<|im_end|>")
        .replace("bos_token", "''"),
        encoding="utf-8",
    )
    rows = [{"messages": [{"role": "user", "content": f"Case {i}"}, SAY]} for i in range(600)]
    rows[444]["messages"].insert(0, {"role": "system", "content": "Be brief."})
    write(tmp_path, "train", rows)
    with pytest.raises(InputError, match=r"train\.jsonl, line 445: .*System role not supported"):
        plan(tmp_path, *own(model))


def test_fields_that_the_template_does_not_use_are_named(model: Path, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"Case {i}"}, SAY]} for i in range(400)]
    rows[300]["messages"][0]["name"] = "Ann"
    write(tmp_path, "train", rows)
    notes = plan(tmp_path, *own(model)).notes
    assert any(
        'the template does not use "name" of messages, in 1 of' in note and "line 301)" in note
        for note in notes
    ), notes


@pytest.mark.parametrize("on", ["answer", "all"])
def test_counts_are_those_of_the_examples_that_are_trained_on(tmp_path: Path, on: str) -> None:
    template = ChatTokenizer(make_model(tmp_path, CHATML))
    asked = [{"role": "user", "content": f"Case {i} " + "x" * (i % 90)} for i in range(300)]
    rows = [
        make_row(said, {"role": "assistant", "content": "ab " * (1 + i % 5)})
        for i, said in enumerate(asked)
    ]
    found = count(rows, digest(rows), template, Limits(64, everything=on == "all"), "data")
    examples = encode_rows(rows, template, 64)
    assert found.cut == sum(example.num_cut > 0 for example in examples) > 0
    assert rows[found.first_cut] is next(
        row for row, example in zip(rows, examples, strict=True) if example.num_cut
    )
    assert found.supervised == sum(
        len(e.ids) - (1 if on == "all" else e.prompt_length) for e in examples
    )


def test_what_was_counted_is_kept_and_never_taken_for_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    rows = [make_row({"role": "user", "content": f"Case {i}"}, SAY) for i in range(1200)]
    template = ChatTokenizer(make_model(tmp_path / "model", CHATML))
    times = 0
    original = token_counts.count_anew

    def counted(*arguments: Any) -> Any:
        nonlocal times
        times += 1
        return original(*arguments)

    monkeypatch.setattr(token_counts, "count_anew", counted)
    first = count(rows, digest(rows), template, Limits(64), "data")
    assert count(rows, digest(rows), template, Limits(64), "data") == first and times == 1
    assert (
        count(rows, digest(rows), ChatTokenizer(tmp_path / "model"), Limits(64), "data") == first
        and times == 1
    )
    count(rows, digest(rows), template, Limits(65), "data")
    other = [*rows[:-1], make_row({"role": "user", "content": "Another"}, SAY)]
    count(other, digest(other), template, Limits(64), "data")
    (tmp_path / "model" / "chat_template.jinja").write_text(CHATML + " ", encoding="utf-8")
    count(rows, digest(rows), ChatTokenizer(tmp_path / "model"), Limits(64), "data")
    make_model(tmp_path / "other", CHATML, kind="words")
    count(rows, digest(rows), ChatTokenizer(tmp_path / "other"), Limits(64), "data")
    assert times == 5
    for file in (tmp_path / "cache" / "counts").glob("*.json"):
        file.write_text('{"rows": 12', encoding="utf-8")
    assert count(rows, digest(rows), template, Limits(64), "data") == first and times == 6


def test_a_cache_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    rows = [make_row({"role": "user", "content": f"Case {i}"}, SAY) for i in range(1200)]
    template = ChatTokenizer(make_model(tmp_path / "model", CHATML))
    assert count(rows, digest(rows), template, Limits(64), "data").supervised == 2400
