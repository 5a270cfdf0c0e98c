"""What one trial computes, without Ray: the same numbers as plain peft and torch, whatever the
batches are cut into.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as processes

from jobs.config import BaseModel, Data, Optim, Trial
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import load_corpus
from jobs.data.tokenization import encode_rows, shared_prefix
from jobs.evaluation.evaluate import evaluate_on_test, teacher_forced_scores
from jobs.evaluation.generate import answer
from jobs.evaluation.metrics import interval
from jobs.evaluation.scores import EvaluationSettings
from jobs.export.model_folder import export
from jobs.model.loading import attach, load, restore
from jobs.model.seeded_dropout import DropoutSpec
from jobs.model.shared_prefix import can_share_prefix
from jobs.serving.predict import predict
from jobs.training.distributed import World
from jobs.training.finetune import Hooks, finetune
from jobs.training.optimizer import learning_rate
from tests.support.plain import CPU, ModelOf, architecture, joined, make, reference


def train(
    trial: Trial,
    base: BaseModel,
    folder: Path,
    checkpoint: Path | None = None,
    world: World | None = None,
) -> tuple[list[float], list[str]]:
    """Train and keep the last checkpoint in `folder`; returns the losses of the steps and what was
    said.
    """
    losses: list[float] = []
    said: list[str] = []

    def rung(metrics: dict[str, float], save: Callable[[Path], None]) -> None:
        if world is None or world.rank == 0:
            shutil.rmtree(folder / str(int(metrics["step"])), ignore_errors=True)
            save(folder / str(int(metrics["step"])))

    finetune(
        trial,
        base,
        Hooks(rung, lambda step, metrics: losses.append(metrics["train/loss"]), said.append),
        world,
        checkpoint,
    )
    return losses, said


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """What a checkpoint holds."""
    from safetensors.torch import load_file

    return load_file(next((folder / "model").glob("*.safetensors")))


@pytest.mark.parametrize(
    "kind", ["tiny", "Qwen2", "Qwen3", "Gemma3Text", "Phi3", "Mistral", "GPT2", "SmolLM3"]
)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_trial_ends_as_plain_peft_and_torch_end_it(
    kind: str, dropout: float, rows: Path, tmp_path: Path, model_of: ModelOf
) -> None:
    model = model_of(kind)
    trial = make(rows, dropout=dropout)
    expected, plain = reference(trial, model)
    losses, _ = train(trial, model, tmp_path)
    assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) < 1e-4
    start = dict(
        attach(load(model.path, torch.float32, CPU), trial.adapter, trial.seed).named_parameters()
    )
    ended = {
        name.replace(".weight", ".default.weight"): weight
        for name, weight in weights(tmp_path / "20").items()
    }
    for name, weight in plain.named_parameters():
        if weight.requires_grad:
            update = weight.detach() - start[name].detach()
            assert (
                torch.linalg.norm(ended[name] - weight.detach())
                <= 1e-3 * torch.linalg.norm(update) + 1e-7
            ), name


def test_common_beginnings_are_computed_once_where_the_architecture_allows_it(
    base: BaseModel, rows: Path
) -> None:
    template = ChatTokenizer(base.path)
    examples = encode_rows(load_corpus(make(rows).data).valid, template, 128)
    assert shared_prefix(examples) > 8
    assert can_share_prefix(load(base.path, torch.float32, CPU), examples, template.eos_id)


@pytest.mark.parametrize("kind", ["Gemma3Text", "Mistral"])
def test_a_shared_beginning_stays_in_sight_of_short_rows_under_a_sliding_window(
    kind: str, base: BaseModel, tmp_path: Path
) -> None:
    # The validation rows fit into the window, so sharing is allowed; the padding of short training
    # rows beside long ones would reach past it.
    splits = {
        "train": [f"alpha {'.' * (37 * i % 61)}{i}" for i in range(60)],
        "valid": ["beta 1", "beta 22"],
        "test": ["gamma 1"],
    }
    for name, prompts in splits.items():
        lines = [json.dumps({"prompt": prompt, "completion": "Bb"}) + "\n" for prompt in prompts]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    model = architecture(kind, tmp_path / "base", base, sliding_window=60)
    data = Data(name="toy", folder=str(tmp_path), instruction="Which letter?")
    trial = dataclasses.replace(make(tmp_path / "train.jsonl", steps=4, eval_every=4), data=data)
    template = ChatTokenizer(model.path)
    loaded = load(model.path, torch.float32, CPU)
    assert can_share_prefix(
        loaded, encode_rows(load_corpus(data).valid, template, 128), template.eos_id
    )
    expected, _ = reference(trial, model)
    losses, _ = train(trial, model, tmp_path / "trained")
    assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) < 1e-4


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_smaller_portions_give_the_same_trial(
    dropout: float, base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    large, _ = train(make(rows, steps=8, dropout=dropout), base, tmp_path / "a")
    small, _ = train(make(rows, steps=8, dropout=dropout, tokens_per_step=64), base, tmp_path / "b")
    assert max(abs(a - b) for a, b in zip(large, small, strict=True)) < 1e-5


def test_a_resumed_trial_ends_bitwise_as_an_undisturbed_one(
    base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    trial = make(rows, dropout=0.1)
    train(trial, base, tmp_path / "whole")
    train(trial, base, tmp_path / "resumed", checkpoint=tmp_path / "whole" / "10")
    first, second = weights(tmp_path / "whole" / "20"), weights(tmp_path / "resumed" / "20")
    assert all(torch.equal(first[name], second[name]) for name in first)


def work(rank: int, size: int, trial: Trial, base: BaseModel, folder: Path) -> None:
    """One of two data-parallel processes."""
    with joined(rank, size, folder) as world:
        train(trial, base, folder, world=world)


def test_two_workers_agree_with_one(base: BaseModel, rows: Path, tmp_path: Path) -> None:
    trial = make(rows, steps=10, dropout=0.1)
    train(trial, base, tmp_path / "one")
    (tmp_path / "two").mkdir()
    processes.spawn(work, (2, trial, base, tmp_path / "two"), nprocs=2)  # type: ignore[attr-defined]
    one, two = weights(tmp_path / "one" / "10"), weights(tmp_path / "two" / "10")
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


def starve(trial: Trial, base: BaseModel, folder: Path, report: Any) -> None:
    """Train with little more memory than the model needs."""
    torch.set_num_threads(1)
    # A small step: what a large one gives back, the allocator may keep, and then there is no lack
    # of it.
    train(
        dataclasses.replace(
            trial, train=dataclasses.replace(trial.train, steps=1, tokens_per_step=2048)
        ),
        base,
        folder / "warm",
    )
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20, resource.RLIM_INFINITY))
    report.put(train(trial, base, folder / "starved"))


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="needs /proc to measure its own memory"
)
def test_out_of_memory_is_answered_by_smaller_portions_of_the_same_batch(
    base: BaseModel, tmp_path: Path
) -> None:
    file = tmp_path / "long.jsonl"
    file.write_text(
        "".join(
            json.dumps({"prompt": f"{i} " + "y" * 900, "completion": "A"}) + "\n" for i in range(80)
        ),
        encoding="utf-8",
    )
    trial = make(
        file,
        "",
        steps=2,
        eval_every=2,
        batch_size=48,
        max_length=1100,
        tokens_per_step=10**6,
        on="all",
    )
    context = processes.get_context("spawn")
    report = context.Queue()
    process = context.Process(target=starve, args=(trial, base, tmp_path, report))
    process.start()
    losses, said = report.get(timeout=240)
    process.join()
    assert said and "out of memory" in said[0] and "same effective batch" in said[0]
    expected, quiet = train(
        dataclasses.replace(trial, train=dataclasses.replace(trial.train, tokens_per_step=4096)),
        base,
        tmp_path / "calm",
    )
    assert not quiet
    assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) < 1e-4


def test_masks_drop_the_share_that_is_asked_for_and_differ_by_seed_step_layer_and_context() -> None:
    drop = DropoutSpec(seed=3, step=5, share=0.1)
    table = drop.table(2, 256, torch.float32, CPU)
    assert abs(float((table == 0).float().mean()) - 0.1) < 2e-3
    assert abs(float(table.mean()) - 1) < 3e-3, "what is kept makes up for what is dropped"
    others = [
        DropoutSpec(4, 5, 0.1).table(2, 256, torch.float32, CPU),
        DropoutSpec(3, 6, 0.1).table(2, 256, torch.float32, CPU),
    ]
    for other in [*others, drop.table(3, 256, torch.float32, CPU)]:
        assert abs(float(((table == 0) & (other == 0)).float().mean()) - 0.01) < 1e-3, (
            "independent of each other"
        )
    ids = [7, 8, 9] * 300
    chosen, _ = drop.choose(ids, drop.start)
    assert len(set(chosen)) > 500, "the same token elsewhere takes another mask"
    start, state = drop.choose(ids[:10], drop.start)
    assert start + drop.choose(ids[10:], state)[0] == chosen


def test_a_loss_that_is_not_finite_names_step_and_rate(
    base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        FloatingPointError, match=r"not finite at step \d+ and 2 before it \(optim\.lr="
    ):
        train(
            make(rows, lr=900.0, max_norm=1e30, warmup_steps=0, weight_decay=999.0, steps=40),
            base,
            tmp_path,
        )


def test_targets_that_name_no_layer_are_refused(
    base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"adapter\.targets=nosuch"):
        train(make(rows, targets="nosuch"), base, tmp_path)


def test_experts_that_take_no_dropout_are_refused_with_the_setting(
    base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    model = architecture("Mixtral", tmp_path / "base", base, num_local_experts=4)
    with pytest.raises(
        ValueError, match=r"adapter\.dropout=0\.1: .*adapter\.dropout=0, or adapter\.targets"
    ):
        train(make(rows, dropout=0.1), model, tmp_path)


def test_exact_match_by_one_pass_equals_generation(
    base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    trial = make(rows, steps=30, eval_every=30)
    train(trial, base, tmp_path)
    template = ChatTokenizer(base.path)
    examples = encode_rows(load_corpus(trial.data).sources["train"], template, 128)
    model = restore(base, tmp_path / "30" / "model", torch.float32, CPU)
    counted = teacher_forced_scores(model, examples, template.eos_id, 2048, sharing=True)
    prompts = [example.ids[: example.prompt_length] for example in examples]
    given = answer(model, prompts, template, 4, lambda rows: None)
    hits = sum(text == example.reference for text, example in zip(given, examples, strict=True))
    assert counted.exact == hits
    assert 0 < hits < len(examples), "a score that can be wrong"
    assert answer(model, prompts[::-1], template, 4, lambda rows: None) == given[::-1]


def test_learning_rates_rise_stay_and_fall_as_their_schedule_says() -> None:
    def rates(schedule: Any, **given: Any) -> list[float]:
        return [
            learning_rate(Optim(lr=2.0, warmup_steps=10, schedule=schedule, **given), step, 100)
            for step in range(100)
        ]

    assert all(
        rates(name)[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
        for name in ("constant", "cosine", "linear")
    )
    assert rates("constant")[10:] == [2.0] * 90
    stable = rates("warmup_stable_decay", decay_share=0.25)
    assert stable[:76] == rates("constant")[:76], (
        "what is compared before it falls is what a constant rate gives"
    )
    assert stable[75:] == pytest.approx([0.08 * step for step in range(25, 0, -1)])
    assert rates("warmup_stable_decay", decay_share=1.0)[10:] == pytest.approx(
        [0.02 * step for step in range(90, 0, -1)]
    )
    assert rates("linear")[55] == rates("cosine")[55] == pytest.approx(1.0)
    assert rates("cosine")[20] > rates("linear")[20]


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("rows", [1, 7, 40, 850])
def test_the_interval_is_wilsons_and_never_without_width(rows: int, confidence: float) -> None:
    from scipy.stats import binomtest

    for count in {0, 1, rows // 3, rows - 1, rows}:
        low, high = interval([True] * count + [False] * (rows - count), confidence)
        known = binomtest(count, rows).proportion_ci(confidence, method="wilson")
        assert (low, high) == pytest.approx((known.low, known.high), abs=1e-12)
        assert 0 <= low <= count / rows <= high <= 1 and low < high


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_an_exported_version_answers_the_same_without_this_project(
    kind: str, base: BaseModel, rows: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trial = make(rows, kind=kind, steps=15, eval_every=15, dtype="auto")
    train(trial, base, tmp_path)
    verdict = evaluate_on_test(
        trial, base, str(tmp_path / "15" / "model"), EvaluationSettings(0.95, None, 1)
    )
    folder = tmp_path / "version"
    export(trial, base, tmp_path / "15" / "model", verdict, folder)
    plain = AutoModelForCausalLM.from_pretrained(base.path if kind == "lora" else folder / "model")
    model: Any = (
        PeftModel.from_pretrained(plain, str(folder / "adapter")).eval()
        if kind == "lora"
        else plain.eval()
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    task = json.loads((folder / "task.json").read_text())
    told = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(told) == len(load_corpus(trial.data).test)
    for row in told:
        inputs = tokenizer(row["text"], return_tensors="pt", add_special_tokens=False)
        output = model.generate(**inputs, **task["generate"])
        assert (
            tokenizer.decode(
                output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            ).strip()
            == row["prediction"]
        )
    prompt = str(load_corpus(trial.data).test[0].context[-1]["content"]).removeprefix(
        "Which letter?\n"
    )
    assert predict(base, folder, prompt) == told[0]["prediction"]
