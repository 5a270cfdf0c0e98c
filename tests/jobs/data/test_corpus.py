"""No prompt stands on both sides of a split, and the answer's tokens are exactly the answer."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobs.config import Data, Source
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import load_corpus
from jobs.data.readers import Row
from jobs.data.tokenization import Example, encode_row, encode_rows
from tests.support.chat_templates import ASK, CHATML, GEMMA, LLAMA, QWEN, SAY, make_model

Pairs = Sequence[tuple[str, str]]


def pairs(start: int, stop: int) -> list[tuple[str, str]]:
    return [(f"Case {number}", f"A{number % 10}") for number in range(start, stop)]


def write(path: Path, rows: Pairs) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(
            json.dumps({"prompt": prompt, "completion": answer}) + "\n" for prompt, answer in rows
        )
    )
    return str(path)


def from_folder(folder: Path, **files: Pairs) -> Data:
    for name, rows in files.items():
        write(folder / f"{name}.jsonl", rows)
    return Data(name="cases", folder=str(folder))


def complaint(data: Data) -> str:
    with pytest.raises(ValueError) as caught:
        load_corpus(data)
    return str(caught.value)


def keys(rows: Sequence[Row]) -> set[str]:
    return {row.key for row in rows}


def test_a_folder_gives_its_three_splits(tmp_path: Path) -> None:
    corpus = load_corpus(
        from_folder(tmp_path, train=pairs(0, 50), valid=pairs(50, 60), test=pairs(60, 80))
    )
    assert (len(corpus.sources["train"]), len(corpus.valid), len(corpus.test), corpus.notes) == (
        50,
        10,
        20,
        [],
    )


def test_named_files_win_over_the_folder_and_join_its_training_rows(tmp_path: Path) -> None:
    from_folder(tmp_path, train=pairs(0, 50), valid=pairs(50, 60), test=pairs(60, 80))
    more = Source(path=write(tmp_path / "more.jsonl", pairs(100, 130)))
    valid = write(tmp_path / "other.jsonl", pairs(200, 203))
    corpus = load_corpus(
        Data(name="cases", folder=str(tmp_path), sources={"more": more}, valid=valid)
    )
    assert {name: len(rows) for name, rows in corpus.sources.items()} == {"more": 30, "train": 50}
    assert (len(corpus.valid), len(corpus.test)) == (3, 20)


def test_missing_splits_are_cut_from_the_training_rows(tmp_path: Path) -> None:
    corpus = load_corpus(from_folder(tmp_path, train=pairs(0, 100)))
    sides = [keys(corpus.sources["train"]), keys(corpus.valid), keys(corpus.test)]
    assert [len(side) for side in sides] == [80, 10, 10] and len(set.union(*sides)) == 100
    assert corpus.notes == [
        "valid: 10 rows cut from the training rows by a hash of the prompt (train 10)",
        "test: 10 rows cut from the training rows by a hash of the prompt (train 10)",
    ]


def test_the_cut_depends_neither_on_order_nor_on_weights(tmp_path: Path) -> None:
    def held_out(rows: Pairs, weights: tuple[float, float]) -> tuple[set[str], set[str]]:
        names = {"a": rows[::2], "b": rows[1::2]}
        sources = {
            name: Source(path=write(tmp_path / f"{name}.jsonl", part), weight=weights[name == "b"])
            for name, part in names.items()
        }
        corpus = load_corpus(Data(name="cases", sources=sources))
        return keys(corpus.valid), keys(corpus.test)

    assert held_out(pairs(0, 100), (1, 1)) == held_out(pairs(0, 100)[::-1], (0, 3))


def test_the_cut_is_small_for_large_data_and_one_row_for_tiny_data(tmp_path: Path) -> None:
    large = load_corpus(from_folder(tmp_path / "large", train=pairs(0, 15_000)))
    assert (len(large.valid), len(large.test)) == (400, 1000)
    tiny = load_corpus(from_folder(tmp_path / "tiny", train=pairs(0, 3)))
    assert (len(tiny.valid), len(tiny.test), len(tiny.sources["train"])) == (1, 1, 1)
    assert "2 different prompts are too few to cut valid and test from" in complaint(
        from_folder(tmp_path / "two", train=pairs(0, 2) * 9)
    )


def test_all_rows_of_one_prompt_stay_on_one_side(tmp_path: Path) -> None:
    rows = [
        (f"{'CASE' if copy else 'case'}  {number % 20}", "A")
        for copy in range(3)
        for number in range(20)
    ] + [("often", "B")] * 40
    corpus = load_corpus(from_folder(tmp_path, train=rows))
    sides = [keys(corpus.sources["train"]), keys(corpus.valid), keys(corpus.test)]
    assert sum(len(side) for side in sides) == len(set.union(*sides)) == 21
    assert len(corpus.valid) % 3 == len(corpus.test) % 3 == 0 < len(corpus.valid) <= 10


def test_held_out_prompts_are_dropped_from_training_with_a_note(tmp_path: Path) -> None:
    train = [*pairs(0, 50), ("  CASE 51", "Z9"), ("case 61", "Z9")]
    corpus = load_corpus(
        from_folder(tmp_path, train=train, valid=pairs(50, 62), test=pairs(60, 80))
    )
    assert (len(corpus.sources["train"]), len(corpus.valid), len(corpus.test)) == (50, 10, 20)
    assert corpus.notes == [
        "valid: 2 of 12 rows dropped, their prompt stands in test",
        "train: 2 of 52 rows dropped, their prompt stands in valid or test",
    ]


def test_a_source_or_split_that_loses_every_row_is_an_error(tmp_path: Path) -> None:
    message = complaint(
        from_folder(tmp_path, train=pairs(0, 5), valid=pairs(10, 13), test=pairs(0, 20))
    )
    assert (
        "data.sources.train has no rows left: " in message
        and "data.valid has no rows left: " in message
    )
    assert "train: 5 of 5 rows dropped" in message
    sources = {
        "big": Source(path=write(tmp_path / "big.jsonl", pairs(0, 3))),
        "copy": Source(path=write(tmp_path / "c.jsonl", pairs(0, 1))),
    }
    assert "data.sources.copy has no rows left" in complaint(
        Data(name="cases", sources=sources, test=write(tmp_path / "t.jsonl", pairs(0, 1)))
    )


def test_every_problem_is_told_in_one_go(tmp_path: Path) -> None:
    from_folder(tmp_path, test=[("Case", "")], valid=pairs(0, 3))
    write(tmp_path / "valid.csv", pairs(0, 3))
    sources = {
        "a": Source(path=str(tmp_path / "none.jsonl"), weight=0),
        "b": Source(path=str(tmp_path / "b.txt"), weight=0),
    }
    lines = complaint(Data(name="cases", folder=str(tmp_path), sources=sources)).split("\n")
    assert [line.split(": ")[0] for line in lines] == [
        "data.sources",
        "data.folder",
        "data.sources.a",
        "data.sources.b",
        "data.test",
    ]
    assert "both hold valid rows; remove one" in lines[1]


def test_a_folder_without_training_rows_is_an_error(tmp_path: Path) -> None:
    assert "is not a folder" in complaint(Data(name="cases", folder=str(tmp_path / "none")))
    message = complaint(from_folder(tmp_path, trian=pairs(0, 3), more=pairs(0, 3)))
    assert "has no train.jsonl, train.csv or train.parquet; it holds more.jsonl, trian" in message
    from_folder(tmp_path, train=pairs(0, 9))
    twice = Data(
        name="cases",
        folder=str(tmp_path),
        sources={"train": Source(path=str(tmp_path / "train.jsonl"))},
    )
    assert 'already is the source "train"' in complaint(twice)


def test_the_fingerprint_follows_the_rows_and_not_the_paths(tmp_path: Path) -> None:
    first = load_corpus(
        from_folder(tmp_path / "one", train=pairs(0, 50), valid=pairs(50, 60), test=pairs(60, 80))
    )
    moved = load_corpus(
        from_folder(tmp_path / "two", train=pairs(0, 50), valid=pairs(50, 60), test=pairs(60, 80))
    )
    changed = load_corpus(
        from_folder(tmp_path / "three", train=pairs(0, 50), valid=pairs(50, 60), test=pairs(60, 79))
    )
    assert first.fingerprint == moved.fingerprint != changed.fingerprint
    assert set(first.digests) == {"train/train", "valid", "test"}
    assert [name for name in first.digests if first.digests[name] != changed.digests[name]] == [
        "test"
    ]
    assert pickle.loads(pickle.dumps(first)).fingerprint == first.fingerprint


def make_row(*messages: dict[str, str]) -> Row:
    return Row(messages=messages, key="", place="cases.jsonl, line 17")


def decoded(example: Example, template: ChatTokenizer) -> tuple[str, str]:
    ids = example.ids
    return template.decode(ids[: example.prompt_length], False), template.decode(
        ids[example.prompt_length :], False
    )


@pytest.mark.parametrize(
    ("chat_template", "answer"),
    [
        (CHATML, "J11<|im_end|>"),
        (LLAMA, "J11<|eot|>"),
        (GEMMA, "J11<|/turn|>"),
        (QWEN, "J11<|im_end|>"),
        (None, "J11<|im_end|>"),
        (CHATML.replace("<|im_end|>", "\\n"), "J11<|im_end|>"),
        (QWEN.replace("enable_thinking is false", "false"), "<think>\n\n</think>\n\nJ11<|im_end|>"),
    ],
    ids=["chatml", "llama", "gemma", "qwen", "none", "endless", "thinking"],
)
def test_prompt_and_answer_meet_where_generation_begins(
    tmp_path: Path, chat_template: str | None, answer: str
) -> None:
    template = ChatTokenizer(make_model(tmp_path, chat_template))
    example = encode_row(make_row(ASK, SAY), template, 512)
    prompt = template.render([ASK], add_generation_prompt=True)
    assert example.text == prompt and example.reference == "J11" and example.num_cut == 0
    assert example.ids[: example.prompt_length] == template.encode(prompt)
    assert decoded(example, template) == (prompt, answer)


def test_a_template_that_rewrites_the_prompt_gets_the_answer_as_it_stands(tmp_path: Path) -> None:
    rewriting = "{% if add_generation_prompt %}Q: {% else %}QA: {% endif %}{% for m in messages %}{{ m.content }}<|eot|>{% endfor %}"
    template = ChatTokenizer(make_model(tmp_path, rewriting))
    assert decoded(encode_row(make_row(ASK, SAY), template, 512), template)[1] == "J11<|eot|>"


def test_an_end_of_turn_inside_the_answer_does_not_cut_it(tmp_path: Path) -> None:
    template = ChatTokenizer(make_model(tmp_path, CHATML))
    row = make_row(ASK, {"role": "assistant", "content": "J11<|im_end|> J12"})
    assert decoded(encode_row(row, template, 512), template)[1] == "J11<|im_end|> J12<|im_end|>"


def test_only_the_last_answer_of_a_conversation_is_the_answer(tmp_path: Path) -> None:
    template = ChatTokenizer(make_model(tmp_path, CHATML))
    example = encode_row(
        make_row(ASK, SAY, ASK, {"role": "assistant", "content": " J12\n"}), template, 512
    )
    assert (
        decoded(example, template)[1] == " J12\n<|im_end|>"
        and example.reference == "J12"
        and "J11<|im_end|>" in example.text
    )


def test_prompts_that_differ_in_nothing_that_is_seen_are_one(tmp_path: Path) -> None:
    held = [("caf\u00e9", "J11"), ("zerowidth", "J11"), ("ﬁne 2", "J11")]
    train = [("cafe\u0301", "J11"), ("zero\u200bwidth", "J11"), ("Fine ２", "J11"), ("cafe", "J11")]
    corpus = load_corpus(from_folder(tmp_path, train=train, valid=[("other", "J11")], test=held))
    assert [row.answer for row in corpus.sources["train"]] == ["J11"] and corpus.sources["train"][
        0
    ].context[0]["content"] == "cafe"


def test_an_answer_that_does_not_fit_is_named(tmp_path: Path) -> None:
    template = ChatTokenizer(make_model(tmp_path, CHATML))
    row = make_row(ASK, {"role": "assistant", "content": "7" * 11})
    marks = encode_row(make_row({"role": "user", "content": ""}, SAY), template, 512).prompt_length
    assert marks == 8
    assert len(encode_row(row, template, 12 + marks).ids) == 12 + marks
    with pytest.raises(
        ValueError,
        match=r"data\.sources\.a: cases\.jsonl, line 17: the answer has 12 tokens, too many for train\.max_length=19",
    ):
        encode_rows([row], template, 19, where="data.sources.a")


def test_rows_together_give_what_each_gives_alone(tmp_path: Path) -> None:
    template = ChatTokenizer(make_model(tmp_path / "model", CHATML))
    data = from_folder(
        tmp_path, train=[(f"{prompt} has what code?", answer) for prompt, answer in pairs(0, 60)]
    )
    corpus = load_corpus(
        Data(
            name="cases",
            folder=data.folder,
            instruction="Name the code of the following case, and nothing else.",
        )
    )
    rows = [
        *corpus.sources["train"],
        *corpus.valid,
        make_row(ASK, SAY, ASK, SAY),
        make_row({"role": "system", "content": "Brief."}, ASK, SAY),
    ]
    assert encode_rows(rows, template, 200) == [encode_row(row, template, 200) for row in rows]
    assert encode_rows([], template, 200) == []
