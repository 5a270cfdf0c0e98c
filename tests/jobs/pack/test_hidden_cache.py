"""Layers below the lowest adapter run once for all trials, and every trial ends as it would
alone.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from jobs.config import BaseModel, Data, Source, Trial
from jobs.evaluation.evaluate import teacher_forced_scores
from jobs.model.loading import restore
from jobs.pack import evaluation
from jobs.pack.engine import Pack
from jobs.pack.evaluation import validate
from jobs.pack.layers import hidden_cache
from jobs.pack.opening import enable_packing
from tests.support.packs import (
    KINDS,
    assert_ends_alike,
    assert_two_workers_agree,
    open_pack,
    run,
    varied,
)
from tests.support.plain import CPU, ModelOf, architecture, make


def halved(trials: dict[int, Trial]) -> dict[int, Trial]:
    """The trials with adapters on the upper half of the layers only, and clipped less.

    Gradients clipped to 0.01 come near AdamW's epsilon: then rounding decides, in plain PEFT as
    here.
    """
    found = {}
    for number, trial in trials.items():
        optim = dataclasses.replace(trial.optim, max_norm=max(trial.optim.max_norm, 1.0))
        found[number] = dataclasses.replace(
            trial, adapter=dataclasses.replace(trial.adapter, layers=0.5), optim=optim
        )
    return found


def counted(pack: Pack) -> list[int]:
    """The tokens of each pass through the layers below that will be made."""
    seen: list[int] = []
    run = pack.hidden_cache.run
    pack.hidden_cache.run = lambda layout: seen.append(layout.ids.shape[1]) or run(layout)  # type: ignore[method-assign,func-returns-value]
    return seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["as on a CPU", "as on a GPU"])
def test_every_slot_ends_as_plain_peft_and_torch_end_it(
    kind: str, way: str, rows: Path, model_of: ModelOf
) -> None:
    model = model_of(kind)
    pack = open_pack(model, halved(varied(rows)), frames=way == "as on a GPU")
    assert pack.hidden_cache.attached and len(pack.hidden_cache.below) == 1
    losses = run(pack, 20)
    for number in pack.slots:
        assert_ends_alike(pack, number, losses[number], model)


def test_a_sliding_window_shorter_than_the_examples_is_kept(
    base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    model = architecture("Gemma3Text", tmp_path / "base", base, sliding_window=20)
    pack = open_pack(model, halved({1: make(rows)}))
    assert pack.hidden_cache.attached
    assert_ends_alike(pack, 1, run(pack, 20)[1], model)


def test_a_row_goes_through_the_layers_below_once_whoever_trains_on_it(
    base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(rows.read_text().replace("alpha", "delta"), encoding="utf-8")
    sources = {
        "one": Source(path=str(rows), weight=0.8),
        "two": Source(path=str(other), weight=0.2),
    }
    trials = halved({number: make(rows, rank=number) for number in (1, 2, 3)})
    for number, trial in trials.items():
        shares = {
            name: dataclasses.replace(source, weight=weight)
            for (name, source), weight in zip(sources.items(), (number, 4 - number), strict=True)
        }
        trials[number] = dataclasses.replace(
            trial, data=Data(name="two", sources=shares, instruction="Which letter?")
        )
    pack = open_pack(base, trials)
    seen = counted(pack)
    run(pack, 10)  # 60 examples of each trial: none has left the first stretch of a source
    assert len(seen) == 2, "a stretch of each source"
    validate(pack, list(trials))
    first = len(seen)
    validate(pack, list(trials))
    run(pack, 1)
    assert len(seen) == first


@pytest.mark.parametrize("room", [hidden_cache.MOST_BYTES, 40_000])
def test_a_source_that_is_gone_through_again_is_known_where_it_fits(
    room: int, base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text(
        "".join(rows.read_text(encoding="utf-8").splitlines(keepends=True)[:90]), encoding="utf-8"
    )
    trials = halved(
        {
            number: make(few, rank=number, batch_size=6 + number, steps=40, eval_every=40)
            for number in (1, 2)
        }
    )
    pack = open_pack(base, trials)
    pack.hidden_cache.most_bytes = room
    seen = counted(pack)
    losses = run(pack, 40)
    if room == hidden_cache.MOST_BYTES:
        assert len(seen) == 2, "the stretches of the first walk, and in the next two nothing new"
    else:
        assert not any(pack.hidden_cache.sources.values()) and len(seen) > 4, (
            "too large to be kept whole: each walk by itself"
        )
    for number in trials:
        assert_ends_alike(pack, number, losses[number], base)


def test_a_slot_that_leaves_makes_room_for_what_others_go_through_again(
    base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text(
        "".join(rows.read_text(encoding="utf-8").splitlines(keepends=True)[:90]), encoding="utf-8"
    )
    trials = {
        number: dataclasses.replace(trial, seed=number)
        for number, trial in halved({1: make(few), 2: make(few)}).items()
    }
    pack = open_pack(base, trials)
    run(pack, 16)  # 96 of 90 rows: the second walk has begun
    first = next(size for size in pack.hidden_cache.sources.values() if size)
    pack.hidden_cache.sources.clear()
    pack.hidden_cache.most_bytes = int(3 * first)  # half of it holds one source
    run(pack, 1)
    assert sorted(map(bool, pack.hidden_cache.sources.values())) == [False, True]
    pack.leave(1)
    assert not pack.hidden_cache.sources
    run(pack, 1)
    assert [source[0][1] for source, size in pack.hidden_cache.sources.items() if size] == [2]


def test_trials_of_other_seeds_walk_apart(base: BaseModel, rows: Path) -> None:
    pack = open_pack(base, halved(varied(rows)))
    seen = counted(pack)
    run(pack, 1)
    assert {name[0][1] for name in pack.hidden_cache.cache} == {3, 7} and len(seen) == len(
        pack.hidden_cache.cache
    )


@pytest.mark.parametrize("budget", [10**6, 150, 16])
def test_small_passes_and_little_room_give_the_same_step(
    budget: int, base: BaseModel, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = halved(varied(rows))
    expected = run(open_pack(base, trials), 5)
    monkeypatch.setattr(hidden_cache, "MOST_BYTES", 1)
    pack = open_pack(base, trials)
    pack.budget = budget
    seen = counted(pack)
    losses = run(pack, 5)
    assert not pack.hidden_cache.cache and len(seen) >= 5, (
        "each pass computes its own rows, not whole stretches that nobody could keep"
    )
    validate(pack, list(trials))
    assert not pack.hidden_cache.cache
    assert (
        max(
            abs(a - b)
            for number in losses
            for a, b in zip(expected[number], losses[number], strict=True)
        )
        < 1e-5
    )


def test_validation_that_is_larger_than_what_is_kept_goes_through_the_layers_below_once(
    base: BaseModel, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = halved(varied(rows))
    pack = open_pack(base, trials)
    calm = validate(pack, list(trials))
    monkeypatch.setattr(hidden_cache, "CHUNK_ROWS", 2)
    monkeypatch.setattr(evaluation, "CHUNK_ROWS", 2)
    pack = open_pack(base, trials)
    pack.budget = 100  # several passes for each slot
    _, _, valid = pack.corpus(trials[1])
    pack.hidden_cache.most_bytes = (
        4 * max(len(example.ids) for example in valid) * pack.hidden_cache.token_bytes()
    )
    stretches: list[int] = []
    make_one = pack.hidden_cache.make
    pack.hidden_cache.make = lambda examples, budget: (
        stretches.append(len(examples)) or make_one(examples, budget)
    )  # type: ignore[method-assign,func-returns-value]
    assert validate(pack, []) == {}, (
        "a slot that fails between two rungs makes a boundary at which nobody is due"
    )
    found = validate(pack, list(trials))
    assert sum(stretches) == len(valid) and max(stretches) == 2
    assert (
        sum(hidden.states.nbytes for hidden in pack.hidden_cache.cache.values())
        <= pack.hidden_cache.most_bytes
    )
    for number, own in found.items():
        assert (own.tokens, own.exact, own.rows) == (
            calm[number].tokens,
            calm[number].exact,
            calm[number].rows,
        )
        assert abs(own.loss - calm[number].loss) < 1e-3


def test_the_saved_adapter_is_an_ordinary_peft_adapter_and_scores_alike(
    base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    pack = open_pack(base, halved(varied(rows)))
    run(pack, 20)
    own = validate(pack, [1, 2])[2]
    pack.save(2, tmp_path / "kept")
    settings = json.loads((tmp_path / "kept" / "model" / "adapter_config.json").read_text())
    assert len(settings["target_modules"]) == 7 and all(
        name.startswith("model.layers.1.") for name in settings["target_modules"]
    )
    model = restore(base, tmp_path / "kept" / "model", torch.float32, CPU)
    _, _, valid = pack.corpus(pack.slots[2].trial)
    plain = teacher_forced_scores(model, valid, pack.template.eos_id, 2048)
    assert (own.tokens, own.exact, own.rows) == (plain.tokens, plain.exact, plain.rows)
    assert abs(own.loss - plain.loss) < 1e-3


def test_two_workers_agree_with_one(base: BaseModel, rows: Path, tmp_path: Path) -> None:
    assert_two_workers_agree(base, halved(varied(rows)), tmp_path)


def test_layers_that_pass_on_more_than_hidden_states_all_run_every_time(
    base: BaseModel, rows: Path
) -> None:
    trial = halved({1: make(rows)})[1]
    pack = Pack(base, trial)
    first, second = pack.model.model.layers
    kept: list[torch.Tensor] = []
    first.register_forward_hook(lambda module, inputs, output: kept.append(first.mlp(output)))

    second.mlp.register_forward_pre_hook(
        lambda module, inputs: (inputs[0] + kept.pop(), *inputs[1:])
    )
    assert enable_packing(pack, trial) is None
    assert validate(pack, []) == {}
    assert not pack.hidden_cache.attached
    pack.join(1, trial)
    assert all(loss > 0 for loss in run(pack, 3)[1])


def test_a_row_that_cannot_be_used_fails_nobody_before_its_turn(
    base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    lines = rows.read_text().splitlines()
    trial = halved({1: make(rows)})[1]
    later = open_pack(base, {1: trial}).slots[1].course.batch(5)[0].text
    known = [json.loads(line) for line in lines]
    lines = [
        json.dumps(row | {"completion": "x" * 400} if f"{row['prompt']}<" in later else row)
        for row in known
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    trial = dataclasses.replace(
        trial,
        data=dataclasses.replace(
            trial.data, sources={"train": Source(path=str(tmp_path / "rows.jsonl"))}
        ),
    )
    pack = open_pack(base, {1: trial})
    for _ in range(5):
        assert pack.unreadable(1) is None
        pack.step([1])
    assert "the answer has" in (pack.unreadable(1) or "")


def test_experts_are_not_taken_for_the_layers_of_a_decoder() -> None:
    layers = torch.nn.ModuleList(
        torch.nn.ModuleDict({"experts": torch.nn.ModuleList([torch.nn.Identity()] * 9)})
        for _ in range(3)
    )
    model = torch.nn.ModuleDict(
        {"extra": torch.nn.ModuleList([torch.nn.Identity()]), "layers": layers}
    )
    assert (
        hidden_cache.layers_of(model) == list(layers)
        and hidden_cache.layers_of(torch.nn.Identity()) == []
    )


def test_what_is_kept_halves_when_memory_runs_out(base: BaseModel, rows: Path) -> None:
    pack = open_pack(base, halved(varied(rows)))
    run(pack, 1)
    assert pack.hidden_cache.cache
    pack.hidden_cache.shrink(2)
    assert (
        not pack.hidden_cache.cache and pack.hidden_cache.most_bytes == hidden_cache.MOST_BYTES / 4
    )
    pack.shrink(pack.share(1, pack.slots[1].course.batch(0)), MemoryError())
    assert pack.hidden_cache.most_bytes == hidden_cache.MOST_BYTES / 8 and not any(
        layer.frozen.fast for layer in pack.active.layers
    )
