"""What a plan says of the files that people have: what they were read as, which tokens carry loss, and
that every option that decides the rows decides the sweep.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.compose import compose
from orchestrator.errors import ConfigError, InputError
from orchestrator.output.plan_text import plan_record, plan_text
from tests.support.settings import build

TURNS = ("Ticket {i}: it broke", "refund", "Sure?", "yes {i}")


def talks(folder: Path) -> Path:
    """A folder of ShareGPT conversations with two answers each."""
    lines = []
    for i in range(60):
        said = [text.format(i=i % 40) for text in TURNS]
        turns = [
            {"from": "gpt" if place % 2 else "human", "value": text}
            for place, text in enumerate(said)
        ]
        lines.append(json.dumps({"conversations": turns, "lang": "en" if i % 2 else "de"}))
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_the_plan_says_what_was_recognised_and_what_carries_loss(plan: Any, tmp_path: Path) -> None:
    folder = f"data.folder={talks(tmp_path / 'talks')}"
    text = plan_text(plan(folder))
    assert "read    train as ShareGPT: conversations\n" in text
    assert text.count("»") == 2  # one in words, one in the example
    made = plan(folder, "train.on=answers")
    text = plan_text(made)
    assert "| »refund<|im_end|>«" in text and text.count("| »") == 2
    assert f"the {made.example.num_targets()} between » and « carry loss" in text
    note = next(note for note in made.notes if "of answers before the last one" in note)
    assert " in 48 of 48 rows; validation and test rows" in note
    assert plan_record(made)["read_as"] == {"sources.train": "ShareGPT: conversations"}
    assert made.name != plan(folder).name


def test_loss_on_all_answers_where_there_is_one_is_named(plan: Any) -> None:
    notes = plan("train.on=answers").notes
    assert any("train.on=answers has no effect: no row has an answer before" in n for n in notes)


def test_every_option_of_the_rows_makes_another_sweep(plan: Any, tmp_path: Path) -> None:
    folder = f"data.folder={talks(tmp_path / 'talks')}"
    options = (
        (),
        ("data.sources.train.rows=20",),
        ("data.sources.train.rows=20", "data.sources.train.rows_seed=1"),
        ("data.sources.train.where={lang: en}",),
        ("data.sources.train.deduplicate=true",),
        (
            "data.columns.prompt={{ conversations[0].value }}",
            "data.columns.completion={{ conversations[-1].value }}",
        ),
    )
    names = [plan(folder, *one).name for one in options]
    assert len(set(names)) == len(options)
    assert plan(folder, *options[1]).name == names[1]


@pytest.mark.parametrize(
    ("arguments", "path", "message"),
    [
        (["data.columns.promt=a"], "data.columns.promt", "did you mean data.columns.prompt?"),
        (["data.columns.prompt=a"], "data.columns.completion", "must be set too: a row has"),
        (
            ["data.sources.train.columns.prmpt=a"],
            "data.sources.train.columns.prmpt",
            "did you mean data.sources.train.columns.prompt?",
        ),
        (["data.sources.train.rows=0"], "data.sources.train.rows", "must be at least 1"),
        (["data.sources.train.rwos=3"], "data.sources.train.rwos", "did you mean data.sources"),
        (["data.sources.train.rows_seed=3"], "data.sources.train.rows_seed", "all rows are taken"),
        (
            [
                "+sweep=lora",
                "sweep.space.n={path: data.sources.train.rows, type: grid, values: [3]}",
            ],
            "sweep.space.n.path",
            "data.sources.train.rows cannot be searched",
        ),
        (["train.on=answer_s"], "train.on", '"answer_s" is not one of answer, answers, all'),
    ],
)
def test_a_mistake_in_an_option_is_named_with_the_remedy(
    arguments: list[str], path: str, message: str
) -> None:
    given = ["model=tiny", "data=files", "data.folder=rows", *arguments]
    typed = [argument.partition("=")[0].lstrip("+") for argument in given]
    with pytest.raises(ConfigError) as caught:
        build(compose(given, None), typed)
    assert any(where == path and message in text for where, text in caught.value.problems), (
        caught.value.problems
    )


def test_a_template_is_taken_as_it_is_typed(tmp_path: Path) -> None:
    prompt = '{{ title }}: "{{ body }}", it\'s {a} ${x}'
    config = build(
        compose(
            [
                "model=tiny",
                "data=files",
                "data.folder=rows",
                f"data.columns.prompt={prompt}",
                "data.columns.completion={{ label }}",
                "data.sources.train.columns.prompt={{ a }}, {{ b }}",
                "data.sources.train.columns.completion=c",
            ],
            None,
        )
    )
    assert config.data.columns.prompt == prompt
    assert config.data.sources["train"].columns.prompt == "{{ a }}, {{ b }}"


def test_a_file_that_is_not_recognised_is_bad_input(plan: Any, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "train.csv").write_text("a,b\nx,y\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"train\.csv, line 2: needs .* or say which columns hold"):
        plan(f"data.folder={tmp_path / 'odd'}")
