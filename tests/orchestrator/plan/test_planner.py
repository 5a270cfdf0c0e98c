"""The plan's figures: how many trials, what they cost and where that figure comes from, what a
source contributes.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from jobs.base_models.hf_folder import num_weights
from orchestrator.config.compose import compose
from orchestrator.errors import ConfigError, InputError
from orchestrator.output.plan_text import plan_text
from orchestrator.plan import run_inputs
from orchestrator.plan.cost import disk_bytes
from orchestrator.plan.resources import Node, Resources, divide
from tests.support.row_files import write
from tests.support.settings import build


def test_a_folder_gives_its_name_to_the_model_that_is_made_of_it(
    plan: Any, toy: Path, tmp_path: Path
) -> None:
    import shutil

    folder = shutil.copytree(plan().base.path, tmp_path / "a base, tuned")
    own = ("model=path", f"model.path={folder}")
    assert f"registered as {toy.name}-a-base-tuned" in plan_text(plan(*own))
    assert "registered as mine-b" in plan_text(plan(*own, "data.name=mine", "model.name=b"))


def test_another_model_is_another_sweep(plan: Any, ready: Path, tmp_path: Path) -> None:
    import shutil

    copied = tmp_path / "model"
    shutil.copytree(plan().base.path, copied)
    own = ("model=path", f"model.path={copied}")
    first = plan(*own).name
    moved = copied.rename(tmp_path / "elsewhere")
    assert plan("model=path", f"model.path={moved}").name == first, (
        "the same files in another place"
    )
    settings = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(settings | {"rms_norm_eps": 0.1}))
    assert plan("model=path", f"model.path={moved}").name not in (first, plan().name)


@pytest.mark.parametrize(
    "arguments",
    [
        ["cluster.num_cpus=1"],
        ["train.tokens_per_step=64"],
        ["sweep.max_concurrent=1"],
        ["job.confidence=0.5"],
        ["output=json"],
    ],
)
def test_what_changes_only_speed_or_words_leaves_the_name(plan: Any, arguments: list[str]) -> None:
    assert plan(*arguments).name == plan().name


@pytest.mark.parametrize(
    "arguments",
    [
        ["optim.lr=0.002"],
        ["train.max_length=64"],
        ["train.on=all"],
        ["adapter.rank=8"],
        ["sweep.metric=valid/loss"],
    ],
)
def test_what_changes_the_result_changes_the_name(plan: Any, arguments: list[str]) -> None:
    assert plan(*arguments).name != plan().name


def test_planning_downloads_nothing_and_writes_nothing(
    plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "empty"))
    made = plan("+sweep=lora", "dry_run=true")
    assert (made.base, made.estimate, made.example) == (None, None, None)
    assert made.sources["train"].answer_tokens is None
    assert len(made.trials) == 6
    assert list(tmp_path.iterdir()) == []


def test_the_tokens_of_a_source_are_those_that_carry_loss(plan: Any) -> None:
    made = plan()
    assert made.sources["train"].rows == 240
    assert made.sources["train"].answer_tokens == 2 * 240, "a letter and the end of the turn"
    assert len(made.example.ids) - made.example.prompt_length == 2
    everything = plan("train.on=all")
    assert everything.sources["train"].answer_tokens > 10 * 240
    assert everything.supervised_text.startswith("user\n")


def test_shares_are_the_weights_as_parts_of_one(plan: Any, toy: Path, tmp_path: Path) -> None:
    rows = (toy / "train.jsonl").read_text().splitlines(keepends=True)
    path = tmp_path / "more.jsonl"
    path.write_text("".join(rows), encoding="utf-8")
    more = [
        f"data.sources.{name}={{path: {path}, weight: {weight}}}"
        for name, weight in (("a", 1), ("b", 3))
    ]
    shares = {name: share.share for name, share in plan("~data.folder", *more).sources.items()}
    assert shares == {"a": 0.25, "b": 0.75}


@pytest.mark.parametrize(("train", "mine"), [(None, 0), (None, 0.5), (0.25, 1), (0, 1)])
def test_the_folders_own_rows_are_a_source_whose_weight_is_set_searched_and_recorded(
    plan: Any, toy: Path, tmp_path: Path, train: float | None, mine: float
) -> None:
    for name in ("more", "test"):
        (tmp_path / f"{name}.jsonl").write_text(
            json.dumps({"prompt": name, "completion": "A"}) + "\n", encoding="utf-8"
        )
    own = [
        f"data.sources.mine={{path: {tmp_path / 'more.jsonl'}, weight: {mine}}}",
        f"data.test={tmp_path / 'test.jsonl'}",
    ]
    made = plan(*own, *([] if train is None else [f"data.sources.train.weight={train}"]))
    weight = 1 if train is None else train
    expected = {"train": weight / (weight + mine), "mine": mine / (weight + mine)}
    assert {name: share.share for name, share in made.sources.items()} == expected
    used = run_inputs.datasets(made, made.trials[0])
    assert {item["name"]: item["weight"] for item in used if "weight" in item} == {
        f"{toy.name}/{name}": expected[name] for name in expected
    }
    knob = "sweep.space={w: {path: data.sources.train.weight, type: grid, values: [1, 2]}}"
    assert [trial.data.sources["train"].weight for trial in plan(*own, knob).trials] == [1, 2]


def test_an_answer_that_does_not_fit_is_said_before_anything_starts(
    plan: Any, tmp_path: Path
) -> None:
    def rows(long: str) -> str:
        lines = [
            {"prompt": f"p {i}", "completion": long if i == 1500 else "x" * 300}
            for i in range(2000)
        ]
        return "".join(json.dumps(line) + "\n" for line in lines)

    # The second is the shortest of 2,000 by its characters, and the longest by its tokens.
    for long, limit, expected in (
        ("x" * 900, 512, r"train\.max_length"),
        ("🧬" * 150, 512, "600|601"),
        ("x" * 2100, 5000, "made for 2,048"),
    ):
        (tmp_path / "train.jsonl").write_text(rows(long), encoding="utf-8")
        with pytest.raises(InputError, match=rf"line 1501(.|\n)*({expected})"):
            plan(f"data.folder={tmp_path}", f"train.max_length={limit}")


def test_answers_that_can_never_match_are_told(plan: Any, tmp_path: Path) -> None:
    lines = [
        {"prompt": f"p {i}", "completion": "a<|im_end|>b" if i % 2 else "a"} for i in range(100)
    ]
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )
    notes = [note for note in plan(f"data.folder={tmp_path}").notes if "never match" in note]
    assert len(notes) == 1 and "'a<|im_end|>b'" in notes[0]
    assert not any("never match" in note for note in plan().notes)


def test_a_base_that_is_kept_in_sixteen_bits_costs_as_much_as_in_thirty_two(
    plan: Any, tmp_path: Path
) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    folders = [
        Path(shutil.copytree(plan().base.path, tmp_path / kept / "model"))
        for kept in ("whole", "half")
    ]
    weights = load_file(folders[1] / "model.safetensors")
    save_file(
        {name: weight.to(torch.bfloat16) for name, weight in weights.items()},
        folders[1] / "model.safetensors",
        {"format": "pt"},
    )
    assert (
        num_weights(folders[0])
        == num_weights(folders[1])
        == sum(weight.numel() for weight in weights.values())
    )
    whole, half = (plan("model=path", f"model.path={folder}") for folder in folders)
    assert whole.estimate == half.estimate
    assert disk_bytes(whole.config, whole.base, 3) == disk_bytes(half.config, half.base, 3) > 0


def test_optuna_knows_no_point_in_advance(plan: Any) -> None:
    made = plan("+sweep=lora", "sweep.search=optuna", "sweep.num_trials=5", "dry_run=true")
    assert (made.num_trials, made.trials) == (5, [])
    assert "trial   each is chosen by the results of those before it" in plan_text(made)


def test_more_trials_than_combinations_are_refused_with_both_numbers(plan: Any) -> None:
    knob = "sweep.space={rank: {path: adapter.rank, type: grid, values: [4, 8, 16]}}"
    assert plan(knob).num_trials == plan(knob, "sweep.num_trials=3").num_trials == 3
    assert plan(knob, "sweep.num_trials=2").num_trials == 2
    with pytest.raises(ConfigError, match="4 is more than the 3 different combinations"):
        plan(knob, "sweep.num_trials=4")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ("optim.warmup_steps=50",),
            "=50 is beyond train.steps=20: the learning rate never passes 40%",
        ),
        (
            ("sweep.space={w: {path: optim.warmup_steps, type: grid, values: [0, 40]}}",),
            "optim.warmup_steps=40 is beyond train.steps=20: the learning rate never passes 50%",
        ),
        (
            ("optim.schedule=linear", "optim.warmup_steps=20"),
            "optim.warmup_steps=20 is all of train.steps",
        ),
        (
            ("optim.schedule=warmup_stable_decay", "optim.warmup_steps=18"),
            "optim.warmup_steps=18 ends after step 15",
        ),
    ],
)
def test_a_warm_up_that_leaves_no_steps_is_named(
    settings: tuple[str, ...], words: str, plan: Any
) -> None:
    assert any(words in note for note in plan("train.steps=20", *settings).notes)
    longer = plan("train.steps=100", *settings).notes
    assert not any("optim.warmup_steps=" in note for note in longer)


def test_advice_is_given_on_what_is_legal_but_unwise(plan: Any) -> None:
    notes = "\n".join(plan("+sweep=lora", "optim.schedule=cosine").notes)
    assert "a rung compares unfinished schedules" in notes
    late = ("optim.schedule=warmup_stable_decay", "train.eval_every=30")
    notes = "\n".join(plan("+sweep=lora", "train.steps=100", *late).notes)
    assert (
        "optim.decay_share=0.25 lets the rate fall from step 75 on, before the rung at 90 under sweep.scheduler=halving"
        in notes
    )
    notes = "\n".join(plan("train.steps=5", "train.eval_every=10").notes)
    assert "one evaluation, at the end" in notes
    for fair in (
        (),
        ("train.steps=120", *late),
        ("train.steps=100", *late, "sweep.scheduler=none"),
    ):
        assert not any(
            "rung" in note or "evaluation" in note for note in plan("+sweep=lora", *fair).notes
        ), fair


def test_a_knob_that_is_left_out_is_named_with_the_reason(plan: Any) -> None:
    typed = "sweep.space.titles={path: data.sources.titles.weight, type: uniform, low: 0, high: 0.5, optional: true}"
    notes = [note for note in plan("+sweep=lora", typed).notes if "sweep.space" in note]
    assert notes == [
        "sweep.space.titles is not searched: the configuration has no setting data.sources.titles.weight",
    ]
    typed = "sweep.space={r: {path: adapter.rnk, type: choice, values: [4, 8], optional: true}, l: {path: optim.lr, type: choice, values: [1e-3]}}"
    assert (
        "sweep.space.r is not searched: the configuration has no setting adapter.rnk"
        in plan(typed).notes
    )


def test_the_mix_of_other_data_is_no_word_and_a_mix_of_ones_own_is(
    plan: Any, tmp_path: Path
) -> None:
    assert not [note for note in plan("+sweep=lora").notes if "sweep.space" in note]
    rows = [{"prompt": f"delta {i}", "completion": "D"} for i in range(20)]
    more = write(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "more.jsonl")
    two = f"+data.sources.more={{path: {more}, weight: 0.25}}"
    said = [note for note in plan("+sweep=lora", two).notes if "sweep.space" in note]
    assert len(said) == 1 and said[0].startswith(
        "all trials draw the same mix of sources (train 80%, more 20%); '+sweep.space.mix="
    )
    knob = said[0].split("'")[1]
    made = plan("+sweep=lora", two, knob)
    assert made.config.sweep.space["mix"].high == 2.5
    assert not [note for note in made.notes if "sweep.space" in note]


def test_a_knob_that_follows_one_that_is_left_out_names_the_one_it_follows(plan: Any) -> None:
    knobs = "{a: {path: data.sources.x.weight, type: uniform, low: 0, high: 1, optional: true}, b: {path: adapter.alpha, type: linked, to: data.sources.x.weight, optional: true}}"
    made = plan(f"sweep.space={knobs}")
    assert (
        "sweep.space.b is not searched: the configuration has no setting data.sources.x.weight"
        in made.notes
    )
    assert made.config.sweep.space == {}


def test_examples_longer_than_the_base_was_made_for_are_noted(plan: Any, tmp_path: Path) -> None:
    lines = [{"prompt": f"p {i} " + "x" * 3000, "completion": "y"} for i in range(40)]
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )
    notes = plan(f"data.folder={tmp_path}", "train.max_length=5000").notes
    assert any("the base was made for 2,048: try train.max_length=2048" in note for note in notes)
    assert not any(
        "was made for" in note
        for note in plan(f"data.folder={tmp_path}", "train.max_length=2048").notes
    )


def test_what_was_left_out_cannot_be_given(plan: Any) -> None:
    with pytest.raises(ConfigError, match="skipped   no such setting"):
        plan("skipped={a: b}")


TABLE = [
    # trials, cores, GPUs, settings of train -> at a time, cores per worker, GPUs per worker
    (1, 1, 0, {}, (1, 1, 0)),
    (3, 8, 0, {}, (3, 2, 0)),
    (100, 4, 0, {}, (4, 1, 0)),
    (6, 2, 1, {}, (1, 2, 1)),
    (2, 16, 8, {}, (2, 8, 1)),
    (6, 16, 8, {"num_workers": 4}, (2, 2, 1)),
    (6, 16, 2, {"num_workers": 4}, (4, 1, 0)),
    (6, 16, 8, {"gpus_per_worker": 0}, (6, 2, 0)),
    (6, 16, 0, {"cpus_per_worker": 4}, (4, 4, 0)),
    (6, 16, 1, {"gpus_per_worker": 0.25}, (4, 4, 0.25)),
]


@pytest.mark.parametrize(("trials", "cpus", "gpus", "train", "expected"), TABLE)
def test_the_machine_is_divided(
    trials: int, cpus: int, gpus: int, train: dict[str, Any], expected: tuple[float, ...]
) -> None:
    config = build(compose(["model=tiny"], None))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **train))
    found = divide(config, trials, (Node(cpus, gpus),))
    assert (found.concurrent, found.cpus, found.gpus) == expected
    assert_fits(found)


def assert_fits(found: Resources) -> None:
    """All that runs at once fits the machine."""
    assert found.concurrent * found.workers * found.cpus <= found.num_cpus
    assert found.concurrent * found.workers * found.gpus <= found.num_gpus


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({"gpus_per_worker": 1}, ["train.gpus_per_worker"]),
        ({"num_workers": 3}, ["train.num_workers"]),
        ({"cpus_per_worker": 3}, ["train.cpus_per_worker"]),
        (
            {"num_workers": 3, "gpus_per_worker": 0.5},
            ["train.gpus_per_worker", "train.num_workers"],
        ),
    ],
)
def test_a_request_that_does_not_fit_is_refused_by_name(
    train: dict[str, Any], expected: list[str]
) -> None:
    config = build(compose(["model=tiny"], None))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **train))
    with pytest.raises(ConfigError) as error:
        divide(config, 1, (Node(2, 0),))
    assert [path for path, _ in error.value.problems] == expected
