"""Many trials in one pack end as each would alone: the same numbers as plain peft and torch,
whatever the neighbours do.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from jobs.config import BaseModel, Data, Source, Trial
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import load_corpus
from jobs.data.tokenization import encode_rows
from jobs.evaluation.evaluate import teacher_forced_scores
from jobs.model.loading import restore
from jobs.pack.attention import gather_scatter
from jobs.pack.batch.builder import pack_batch
from jobs.pack.batch.prefix_groups import group_by_prefix, micro_batches
from jobs.pack.engine import Pack
from jobs.pack.evaluation import validate
from jobs.pack.opening import enable_packing
from jobs.training.distributed import World
from tests.support.packs import (
    KINDS,
    assert_ends_alike,
    assert_two_workers_agree,
    open_pack,
    run,
    varied,
)
from tests.support.plain import CPU, ModelOf, architecture, make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["as on a CPU", "as on a GPU"])
def test_every_slot_ends_as_plain_peft_and_torch_end_it(
    kind: str, way: str, rows: Path, monkeypatch: pytest.MonkeyPatch, model_of: ModelOf
) -> None:
    like_gpu = way == "as on a GPU"
    monkeypatch.setattr(gather_scatter, "fuses", lambda query, cap: like_gpu and cap is None)
    model = model_of(kind)
    pack = open_pack(model, varied(rows), frames=like_gpu)
    assert pack.tail.handles or kind == "OPT", (
        "whose layers have no block of their own for the feed-forward part"
    )
    losses = run(pack, 20)
    for number in pack.slots:
        assert_ends_alike(pack, number, losses[number], model)


def dropping(rows: Path) -> dict[int, Trial]:
    """The varied trials, of which two drop values before their adapters and two stand in one
    stack.
    """
    trials = varied(rows)
    for number, dropout in ((1, 0.1), (5, 0.3)):
        trial = trials[number]
        optim = dataclasses.replace(
            trial.optim, max_norm=max(trial.optim.max_norm, 1.0)
        )  # see halved in test_trunk.py
        trials[number] = dataclasses.replace(
            trial, adapter=dataclasses.replace(trial.adapter, dropout=dropout), optim=optim
        )
    return trials


@pytest.mark.parametrize("kind", ["tiny", "Phi3", "GPT2", "Gemma3Text"])
@pytest.mark.parametrize("budget", [10**6, 200])
def test_slots_with_dropout_draw_the_masks_that_they_would_draw_alone(
    kind: str, budget: int, rows: Path, model_of: ModelOf
) -> None:
    model = model_of(kind)
    pack = open_pack(model, dropping(rows))
    pack.budget = budget
    losses = run(pack, 20)
    for number in pack.slots:
        assert_ends_alike(pack, number, losses[number], model)
    quiet = open_pack(model, varied(rows))
    assert abs(run(quiet, 20)[1][-1] - losses[1][-1]) > 1e-3, "something was dropped"


def test_a_block_whose_other_tokens_are_read_later_computes_them_all(
    base: BaseModel, rows: Path
) -> None:
    trial = make(rows)
    pack = Pack(base, trial)
    assert pack.tail.block is pack.model.model.layers[-1].mlp
    pack.tail.block = pack.model.model.layers[0].mlp
    assert enable_packing(pack, trial) is None
    assert not pack.tail.handles
    pack.join(1, trial)
    assert_ends_alike(pack, 1, run(pack, 20)[1], base)


def test_the_last_block_computes_supervised_tokens_only(base: BaseModel, rows: Path) -> None:
    pack = open_pack(base, varied(rows), frames=False)
    widths: list[int] = []
    pack.tail.block.down_proj.register_forward_pre_hook(
        lambda module, inputs: widths.append(inputs[0].shape[1])
    )
    batches = {number: slot.course.batch(0) for number, slot in pack.slots.items()}
    pack.gradients(batches)
    counts = [
        sum(len(example.ids) - example.prompt_length for example in batch)
        for batch in batches.values()
    ]
    assert len(widths) == 1 and sum(counts) <= widths[0] <= len(counts) * max(counts)


@pytest.mark.parametrize("kind", ["tiny", "Gemma3Text"])
def test_without_a_shared_beginning_it_is_the_same(
    kind: str, rows: Path, model_of: ModelOf
) -> None:
    model = model_of(kind)
    pack = open_pack(model, varied(rows), sharing=False)
    losses = run(pack, 20)
    for number in pack.slots:
        assert_ends_alike(pack, number, losses[number], model)


@pytest.mark.parametrize("kind", ["Gemma3Text", "Mistral"])
def test_a_sliding_window_shorter_than_the_examples_is_kept(
    kind: str, base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    model = architecture(kind, tmp_path / "base", base, sliding_window=20)
    pack = open_pack(model, {1: make(rows)})
    assert_ends_alike(pack, 1, run(pack, 20)[1], model)


def test_two_templates_in_one_batch_share_two_beginnings(base: BaseModel, tmp_path: Path) -> None:
    kinds = {"tables": "You answer from tables.", "letters": "Reply with one letter."}
    for name, system in kinds.items():
        lines = [
            [
                {"role": "system", "content": system},
                {"role": "user", "content": f"{i}?"},
                {"role": "assistant", "content": "AB"[i % 2]},
            ]
            for i in range(40)
        ]
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({"messages": line}) + "\n" for line in lines), encoding="utf-8"
        )
    data = Data(
        name="two", sources={name: Source(path=str(tmp_path / f"{name}.jsonl")) for name in kinds}
    )
    trial = dataclasses.replace(make(tmp_path / "tables.jsonl", batch_size=12), data=data)
    shared, apart = open_pack(base, {1: trial}), open_pack(base, {1: trial}, sharing=False)
    # The template's own beginning is common to both: one portion, or two where the beginnings part
    # early.
    assert sum(part.prefix for part in shared.share(1, shared.slots[1].course.batch(0))) >= 8
    first, second = run(shared, 10)[1], run(apart, 10)[1]
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) < 1e-5


def test_loss_on_every_token_is_counted_once_per_example(base: BaseModel, rows: Path) -> None:
    trial = make(rows, on="all")
    pack = open_pack(base, {1: trial})
    batch = pack.slots[1].course.batch(0)
    got = pack.gradients({1: batch})[1]
    plain = restore(base, None, torch.float32, CPU)
    losses, count = 0.0, 0
    for example in batch:
        ids = torch.tensor([example.ids])
        losses += float(
            torch.nn.functional.cross_entropy(
                plain(input_ids=ids, use_cache=False).logits[0, :-1], ids[0, 1:], reduction="sum"
            )
        )
        count += len(example.ids) - 1
    assert abs(got - losses / count) < 1e-5


def test_a_neighbour_that_is_not_a_number_leaves_a_gradient_bitwise_unchanged(
    base: BaseModel, rows: Path
) -> None:
    trials = varied(rows)
    gradients = []
    for poison in (0.01, float("nan"), float("inf")):
        pack = open_pack(base, trials)
        pack.slots[2].adapter.weights.data.fill_(poison)
        pack.gradients({number: slot.course.batch(0) for number, slot in pack.slots.items()})
        gradients.append({number: pack.slots[number].adapter.gradient.clone() for number in (1, 5)})
    assert all(
        torch.equal(gradients[0][number], other[number])
        for other in gradients[1:]
        for number in (1, 5)
    )
    assert all(torch.isfinite(gradient).all() for gradient in gradients[1].values())


def test_a_slot_that_diverges_fails_alone_and_by_name(base: BaseModel, rows: Path) -> None:
    trials = {
        1: make(rows),
        2: make(rows, lr=900.0, max_norm=1e30, warmup_steps=0, weight_decay=999.0, steps=60),
    }
    pack = open_pack(base, trials)
    for _ in range(60):
        pack.step([1, 2])
        if pack.failure(2):
            break
    assert "not finite at step" in (pack.failure(2) or "") and "optim.lr=900.0" in (
        pack.failure(2) or ""
    )
    assert pack.failure(1) is None
    assert torch.isfinite(pack.slots[1].adapter.weights).all()


def test_passes_of_any_size_give_the_same_step(base: BaseModel, rows: Path) -> None:
    losses = []
    for budget in (10**6, 150, 16):
        pack = open_pack(base, varied(rows))
        pack.budget = budget
        losses.append(run(pack, 5))
    for other in losses[1:]:
        assert (
            max(
                abs(a - b)
                for number in other
                for a, b in zip(losses[0][number], other[number], strict=True)
            )
            < 1e-5
        )


def test_a_pass_keeps_to_its_budget_and_loses_no_example(base: BaseModel, rows: Path) -> None:
    examples = encode_rows(
        load_corpus(make(rows).data).sources["train"][:40], ChatTokenizer(base.path), 128
    )
    parts = group_by_prefix(1, examples[:20], 0.5) + group_by_prefix(2, examples[20:], 0.25)
    for budget in (10**6, 300, 100, 1):
        passes = list(micro_batches(parts, budget))
        seen = sorted((part.slot, row) for group in passes for part in group for row in part.rows)
        assert seen == [(1, row) for row in range(20)] + [(2, row) for row in range(20)]
        assert all(
            sum(p.num_tokens for p in group) <= budget or sum(len(p.rows) for p in group) == 1
            for group in passes
        )
        for group in passes:
            layout = pack_batch(group)
            assert layout.ids.shape[1] - layout.num_padded == sum(part.num_tokens for part in group)
            assert (
                layout.groups[-1].stop == layout.ids.shape[1]
                and layout.num_padded <= layout.ids.shape[1] / 16
            )


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="kernels of a GPU add up in an order of their own each time"
)
@pytest.mark.parametrize("layers", [1.0, 0.5])
def test_a_pack_that_is_taken_up_again_ends_bitwise_as_an_undisturbed_one(
    layers: float, base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    trials = {
        n: dataclasses.replace(t, adapter=dataclasses.replace(t.adapter, layers=layers))
        for n, t in varied(rows).items()
    }
    whole = open_pack(base, trials)
    run(whole, 10)
    for number in trials:
        whole.save(number, tmp_path / str(number))
    run(whole, 10)
    again = Pack(base, trials[1])
    assert enable_packing(again, trials[1]) is None
    for number, trial in trials.items():
        again.join(number, trial, tmp_path / str(number))
    run(again, 10)
    for number in trials:
        assert torch.equal(whole.slots[number].adapter.weights, again.slots[number].adapter.weights)
        assert again.slots[number].step == 20


def test_joining_and_leaving_does_not_touch_the_others(base: BaseModel, rows: Path) -> None:
    trials = varied(rows)
    pack = open_pack(base, {1: trials[1]})
    losses = run(pack, 6)[1]
    pack.join(2, trials[2])
    losses += run(pack, 6)[1]
    pack.leave(2)
    losses += run(pack, 8)[1]
    assert_ends_alike(pack, 1, losses, base)


def test_the_adapter_of_a_slot_is_an_ordinary_peft_adapter_and_scores_alike(
    base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    pack = open_pack(base, varied(rows))
    run(pack, 20)
    own = validate(pack, [2])[2]
    pack.save(2, tmp_path / "kept")
    model = restore(base, tmp_path / "kept" / "model", torch.float32, CPU)
    _, _, valid = pack.corpus(pack.slots[2].trial)
    plain = teacher_forced_scores(model, valid, pack.template.eos_id, 2048)
    assert (own.tokens, own.exact, own.rows) == (plain.tokens, plain.exact, plain.rows)
    assert abs(own.loss - plain.loss) < 1e-3


def test_slots_are_scored_together_as_each_by_itself_also_beside_one_that_diverged(
    base: BaseModel, rows: Path
) -> None:
    pack = open_pack(base, varied(rows))
    run(pack, 4)
    pack.budget = 300  # passes that end within a slot's rows and hold two slots' rows
    pack.slots[1].adapter.weights.data[:] = math.nan
    together = validate(pack, list(pack.slots))
    for number in pack.slots:
        alone = validate(pack, [number])[number]
        assert (together[number].tokens, together[number].exact, together[number].rows) == (
            alone.tokens,
            alone.exact,
            alone.rows,
        )
        assert together[number].loss == pytest.approx(alone.loss, rel=1e-5, nan_ok=True)
        assert math.isnan(alone.loss) == (number == 1)


def test_a_slot_without_a_validation_row_on_this_worker_moves_no_other(
    base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    (tmp_path / "one.jsonl").write_text(rows.read_text().splitlines(True)[0])
    trials = {number: dataclasses.replace(make(rows), seed=number) for number in (1, 2, 3)}
    trials[2] = dataclasses.replace(
        trials[2], data=dataclasses.replace(trials[2].data, valid=str(tmp_path / "one.jsonl"))
    )
    pack = open_pack(base, trials)
    run(pack, 4)
    pack.world = SecondOfTwo(1, 2)
    together = validate(pack, [1, 2, 3])
    assert (together[2].rows, together[2].loss) == (0, 0.0)
    for number in (1, 3):
        assert together[number].loss == pytest.approx(
            validate(pack, [number])[number].loss, rel=1e-5
        )


class SecondOfTwo(World):
    """A worker that is given no other's sums."""

    def add(self, values: torch.Tensor) -> torch.Tensor:
        return values


def test_two_workers_agree_with_one(base: BaseModel, rows: Path, tmp_path: Path) -> None:
    assert_two_workers_agree(base, varied(rows), tmp_path)
