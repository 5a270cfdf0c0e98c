"""Training one trial gives what a straightforward loop over plain torch, transformers and peft gives, under all conditions."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from jobs.config import Adapter, BaseModel, Data, Model, Optim, Train, Trial
from jobs.data import Template, encode_rows, load_corpus
from jobs.fetch import prepare
from jobs.finetune import Hooks, Training, World, finetune, learning_rate
from jobs.mix import Mix
from jobs.model import pick_dtype

ROOT = Path(__file__).resolve().parent.parent
INSTRUCTION = "Answer with the code of the word."
CODES = {"alpha": "A", "beta": "Bb", "gamma": "Ccc"}
SIZES: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
    "initializer_range": 0.15,
}
GPT2: dict[str, Any] = {
    **{name: SIZES[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range")},
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 512,
    **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
}
# Windows shorter than the examples: a row must see as much of a shared prefix as it would see of its own.
WINDOW = {"sliding_window": 40}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Llama": SIZES,
    "Qwen2": SIZES,
    "Qwen3": {**SIZES, "head_dim": 8},
    "Gemma3Text": {**SIZES, **WINDOW, "head_dim": 8, "query_pre_attn_scalar": 8},
    "Phi3": SIZES,
    "GPT2": GPT2,
    "SmolLM3": {**SIZES, "num_hidden_layers": 4},
    "Mistral": {**SIZES, **WINDOW},
}


@dataclass
class Record:
    """What a run told its surroundings."""

    folder: Path
    losses: list[float] = field(default_factory=list)
    rungs: list[dict[str, float]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def checkpoint(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step}"

    @property
    def last(self) -> Path:
        """What was trained, as the last rung left it."""
        return self.checkpoint(int(self.rungs[-1]["step"])) / "model"


@pytest.fixture(scope="module")
def tiny(cache: Path) -> BaseModel:
    return prepare(Model(name="tiny", source="tiny"), cache=cache)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_words(tmp_path_factory.mktemp("words"))


def write_words(folder: Path) -> Path:
    """120 rows of unequal length; the answer is the code of the first word."""
    names = list(CODES)
    rows = [{"prompt": f"{names[7 * i % 3]} {'.' * (5 * i % 23)}{i}", "completion": CODES[names[7 * i % 3]]} for i in range(120)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def make_trial(folder: Path, instruction: str = "", seed: int = 3, adapter: Any = None, optim: Any = None, train: Any = None) -> Trial:
    """A short trial in float32 with everything switched on that changes a step."""
    return Trial(
        index=1,
        seed=seed,
        model=Model(name="tiny", source="tiny"),
        data=Data(name="words", folder=str(folder), instruction=instruction),
        adapter=Adapter(**{"rank": 4, "alpha": 8.0, **(adapter or {})}),
        optim=Optim(**{"lr": 5e-3, "weight_decay": 0.1, "max_norm": 0.5, "warmup_steps": 5, **(optim or {})}),
        train=Train(**{"steps": 20, "batch_size": 8, "eval_every": 20, "dtype": "float32", **(train or {})}),
    )


def run(trial: Trial, base: BaseModel, folder: Path, checkpoint: Path | None = None, world: World | None = None) -> Record:
    """Train, and keep a checkpoint of every rung in `folder`."""
    record = Record(folder)

    def on_rung(metrics: dict[str, float], save: Callable[[Path], None]) -> None:
        record.rungs.append(metrics)
        save(record.checkpoint(int(metrics["step"])))

    hooks = Hooks(on_rung=on_rung, on_step=lambda step, metrics: record.losses.append(metrics["train/loss"]), say=record.said.append)
    finetune(trial, base, hooks, world, checkpoint)
    return record


def adapter_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def reference(trial: Trial, base: BaseModel) -> tuple[list[float], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The same training, written plainly: losses per step, the adapter before and after."""
    template, corpus = Template(base.path), load_corpus(trial.data)
    examples = encode_rows(corpus.sources["train"], template, trial.train.max_length)
    mix = Mix({"train": len(examples)}, {"train": 1.0}, trial.seed)
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    torch.manual_seed(trial.seed)
    settings = LoraConfig(r=trial.adapter.rank, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, settings).train()
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=0.0, betas=(0.9, 0.999), weight_decay=trial.optim.weight_decay)
    losses = []
    for step in range(trial.train.steps):
        batch = [examples[row] for _, row in mix.batch(step, trial.train.batch_size)]
        width = max(len(example.ids) for example in batch)
        ids, mask, labels = torch.zeros(3, len(batch), width, dtype=torch.long)
        labels -= 100
        for row, example in enumerate(batch):
            length, start = len(example.ids), example.prompt_length if trial.train.on == "answer" else 1
            ids[row, :length] = torch.tensor(example.ids)
            mask[row, :length] = 1
            labels[row, start:length] = ids[row, start:length]
        logits = model(input_ids=ids, attention_mask=mask).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), trial.optim.max_norm)
        for group in optimizer.param_groups:
            group["lr"] = trial.optim.lr * min(1.0, (step + 1) / trial.optim.warmup_steps)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, before, {name: weight.detach().clone() for name, weight in weights.items()}


def difference(found: dict[str, torch.Tensor], before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
    """Frobenius norm of the error in the adapter's change, relative to that of the change."""
    named = {name.replace(".default.", "."): name for name in after}
    assert set(found) == set(named)
    wrong = sum(float((found[short] - after[name]).square().sum()) for short, name in named.items())
    change = sum(float((before[name] - after[name]).square().sum()) for name in after)
    return math.sqrt(wrong / change)


def distance(found: Path, expected: Path) -> float:
    """The largest difference between two saved adapters, relative to the largest weight."""
    one, other = adapter_of(found), adapter_of(expected)
    assert set(one) == set(other)
    return max(float((one[name] - other[name]).abs().max()) for name in one) / max(float(weight.abs().max()) for weight in other.values())


def make_base(architecture: str, tiny: BaseModel, folder: Path, **changes: Any) -> BaseModel:
    """A tiny model of an architecture with random weights and the tiny model's tokenizer."""
    shutil.copytree(tiny.path, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    config = getattr(transformers, f"{architecture}Config")(**{**ARCHITECTURES[architecture], **changes})
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return BaseModel(name=architecture.lower(), source="path", id=str(folder), revision="0", path=str(folder))


@pytest.mark.parametrize("instruction", ["", INSTRUCTION], ids=["apart", "prefix"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_twenty_steps_equal_a_plain_loop(architecture: str, instruction: str, tiny: BaseModel, words: Path, tmp_path: Path) -> None:
    base = make_base(architecture, tiny, tmp_path / "base")
    trial = make_trial(words, instruction)
    losses, before, after = reference(trial, base)
    record = run(trial, base, tmp_path)
    assert record.losses == pytest.approx(losses, abs=1e-5)
    assert difference(adapter_of(record.last), before, after) < 1e-4
    assert losses[-1] < losses[0]


def test_a_prefix_is_shared_when_there_is_one_and_only_then(tiny: BaseModel, words: Path) -> None:
    hooks = Hooks(on_rung=lambda metrics, save: None)
    sharing = [Training(make_trial(words, text), tiny, World(), hooks, None).sharing for text in ("", INSTRUCTION)]
    assert sharing == [False, True]


def test_loss_on_all_tokens_equals_a_plain_loop(tiny: BaseModel, words: Path, tmp_path: Path) -> None:
    trial = make_trial(words, INSTRUCTION, train={"on": "all", "steps": 8, "tokens_per_step": 200})
    losses, before, after = reference(trial, tiny)
    record = run(trial, tiny, tmp_path)
    assert record.losses == pytest.approx(losses, abs=1e-5)
    assert difference(adapter_of(record.last), before, after) < 1e-4


def test_small_portions_give_the_result_of_large_ones(tiny: BaseModel, words: Path, tmp_path: Path) -> None:
    records = [
        run(make_trial(words, INSTRUCTION, train={"steps": 10, "tokens_per_step": size}), tiny, tmp_path / str(size)) for size in (16, 4096)
    ]
    assert records[0].losses == pytest.approx(records[1].losses, abs=1e-5)
    assert distance(records[0].last, records[1].last) < 1e-4
    for name in ("valid/loss", "valid/exact_match", "train/gradient_norm"):
        assert records[0].rungs[-1][name] == pytest.approx(records[1].rungs[-1][name], abs=1e-4)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_resumed_trial_ends_bit_for_bit_as_an_undisturbed_one(kind: str, tiny: BaseModel, words: Path, tmp_path: Path) -> None:
    adapter = {"kind": kind, "dropout": 0.2}
    trial = make_trial(words, INSTRUCTION, adapter=adapter, train={"steps": 8, "eval_every": 4, "tokens_per_step": 300})
    whole = run(trial, tiny, tmp_path / "whole")
    torch.manual_seed(99)
    resumed = run(trial, tiny, tmp_path / "resumed", whole.checkpoint(4))
    assert [rung["step"] for rung in whole.rungs] == [4, 8] and [rung["step"] for rung in resumed.rungs] == [8]
    assert resumed.losses == whole.losses[4:]
    names = {"lora": "adapter_model.safetensors", "full": "model.safetensors"}
    assert (resumed.last / names[kind]).read_bytes() == (whole.last / names[kind]).read_bytes()
    assert (resumed.last / names[kind]).read_bytes() != (whole.checkpoint(4) / "model" / names[kind]).read_bytes()


def test_dropout_changes_the_result_and_the_seed_decides_it(tiny: BaseModel, words: Path, tmp_path: Path) -> None:
    def losses(dropout: float, seed: int, name: str) -> list[float]:
        return run(make_trial(words, seed=seed, adapter={"dropout": dropout}, train={"steps": 4}), tiny, tmp_path / name).losses

    first = losses(0.3, 3, "first")
    assert first == losses(0.3, 3, "again")
    assert first[1:] != losses(0.0, 3, "none")[1:]
    assert first[0] != losses(0.3, 4, "other")[0]


def work(rank: int, folder: str, trial: Trial, base: BaseModel) -> None:
    """One of two workers."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    record = run(trial, base, Path(folder) / f"worker-{rank}", world=World(rank, 2))
    (Path(folder) / f"worker-{rank}.json").write_text(json.dumps(dataclasses.asdict(record), default=str))
    torch.distributed.destroy_process_group()


def test_two_workers_agree_with_one(tiny: BaseModel, words: Path, tmp_path: Path) -> None:
    trial = make_trial(words, INSTRUCTION, train={"steps": 10, "eval_every": 10, "batch_size": 7, "num_workers": 2})
    alone = run(trial, tiny, tmp_path / "alone")
    torch.multiprocessing.spawn(work, (str(tmp_path), trial, tiny), nprocs=2)
    first, second = (json.loads((tmp_path / f"worker-{rank}.json").read_text()) for rank in (0, 1))
    assert first["losses"] == pytest.approx(alone.losses, abs=1e-5) and second["losses"] == []
    for name in ("valid/loss", "valid/exact_match", "train/loss", "train/gradient_norm"):
        assert first["rungs"][-1][name] == second["rungs"][-1][name] == pytest.approx(alone.rungs[-1][name], abs=1e-5)
    for rank in (0, 1):
        assert distance(tmp_path / f"worker-{rank}" / "checkpoint-10" / "model", alone.last) < 1e-5


def limit(headroom: int) -> None:
    """Let this process grow by `headroom` bytes and no more."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + headroom, resource.RLIM_INFINITY))


def starve(folder: str, headroom: int, trial: Trial, base: BaseModel) -> None:
    """Train under a limit on this process's memory; prints what was said, or the error."""
    torch.set_num_threads(1)
    run(dataclasses.replace(trial, train=dataclasses.replace(trial.train, steps=1, tokens_per_step=16)), base, Path(folder) / "warm")
    limit(headroom)
    try:
        record = run(trial, base, Path(folder) / "starved")
        answer = {"losses": record.losses, "said": record.said, "last": str(record.last)}
    except MemoryError as error:
        answer = {"error": str(error)}
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(json.dumps(answer))


def starved(folder: Path, headroom: int, trial: Trial, base: BaseModel) -> dict[str, Any]:
    """`starve` in a process of its own."""
    names = "Adapter, BaseModel, Data, Model, Optim, Train, Trial"
    code = f"from jobs.config import {names}\nfrom test_finetune import starve\nstarve({str(folder)!r}, {headroom}, {trial!r}, {base!r})"
    # One arena and no threads: the limit is on addresses, which arenas and stacks reserve long before they use them.
    settings = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **settings}, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def write_long(folder: Path, length: int) -> Path:
    folder.mkdir()
    rows = [{"prompt": f"{i} " + "word " * (length // 5 + i % 7), "completion": f"{i}"} for i in range(40)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_out_of_memory_makes_the_portions_smaller_and_nothing_else(tiny: BaseModel, tmp_path: Path) -> None:
    train = {"on": "all", "steps": 3, "eval_every": 3, "batch_size": 32, "tokens_per_step": 100_000}
    trial = make_trial(write_long(tmp_path / "data", 250), train=train)
    plenty = run(trial, tiny, tmp_path / "plenty")
    found = starved(tmp_path, 100_000_000, trial, tiny)
    assert plenty.said == [] and found["said"]
    assert re.fullmatch(r"out of memory at step [123]: goes on with train.tokens_per_step=\d+, same effective batch", found["said"][0])
    assert found["losses"] == pytest.approx(plenty.losses, abs=1e-5)
    assert distance(Path(found["last"]), plenty.last) < 1e-4
    # The other process has another hash seed.
    assert (Path(found["last"]) / "adapter_config.json").read_bytes() == (plenty.last / "adapter_config.json").read_bytes()


def test_one_example_that_does_not_fit_is_an_error_with_a_remedy(tiny: BaseModel, tmp_path: Path) -> None:
    train = {"on": "all", "steps": 1, "batch_size": 2, "max_length": 1800}
    trial = make_trial(write_long(tmp_path / "data", 1700), train=train)
    error = starved(tmp_path, 12_000_000, trial, tiny)["error"]
    assert re.fullmatch(r"out of memory on one example of 17\d\d tokens; a smaller train.max_length or a smaller model helps", error)


def test_another_error_is_not_taken_for_a_lack_of_memory(tiny: BaseModel, words: Path) -> None:
    said: list[str] = []
    state = Training(make_trial(words), tiny, World(), Hooks(on_rung=lambda metrics, save: None, say=said.append), None)
    norm = state.model.get_base_model().model.norm
    norm.weight.data = norm.weight.data[:10]
    with pytest.raises(RuntimeError, match="size of tensor"):
        state.train_step()
    assert said == []


def test_a_loss_that_is_not_finite_stops_the_trial_and_names_the_learning_rate(tiny: BaseModel, words: Path, tmp_path: Path) -> None:
    steps: list[int] = []
    hooks = Hooks(on_rung=lambda metrics, save: None, on_step=lambda step, metrics: steps.append(step))
    trial = make_trial(words, optim={"lr": 999.0, "warmup_steps": 0}, adapter={"alpha": 1e30}, train={"steps": 10})
    with pytest.raises(FloatingPointError) as caught:
        finetune(trial, tiny, hooks)
    assert steps == list(range(1, len(steps) + 1)) and steps
    assert f"not finite at step {len(steps) + 1} (optim.lr=999.0)" in str(caught.value)


def test_full_training_changes_every_weight_and_leaves_an_ordinary_model(tiny: BaseModel, words: Path, tmp_path: Path) -> None:
    trial = make_trial(words, adapter={"kind": "full"}, optim={"lr": 1e-3}, train={"steps": 10, "eval_every": 10, "on": "all"})
    record = run(trial, tiny, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(record.last)
    before = AutoModelForCausalLM.from_pretrained(tiny.path)
    assert all(not torch.equal(one, other) for one, other in zip(model.parameters(), before.parameters(), strict=True))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert record.losses[-1] < record.losses[0] - 0.3


@pytest.mark.parametrize("targets", ["q_proj,v_proj", "q_proj, v_proj"])
def test_targets_name_the_layers_that_are_trained(targets: str, tiny: BaseModel, words: Path, tmp_path: Path) -> None:
    record = run(make_trial(words, adapter={"targets": targets}, train={"steps": 1, "eval_every": 1}), tiny, tmp_path)
    assert {name.split(".")[-3] for name in adapter_of(record.last)} == {"q_proj", "v_proj"}


def test_targets_that_name_no_layer_are_an_error(tiny: BaseModel, words: Path) -> None:
    with pytest.raises(ValueError, match=r"^adapter\.targets=nothing: "):
        finetune(make_trial(words, adapter={"targets": "nothing"}), tiny, Hooks(on_rung=lambda metrics, save: None))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_bfloat16_trains_float32_weights_to_nearly_the_same_loss(kind: str, tiny: BaseModel, words: Path, tmp_path: Path) -> None:
    records = {
        dtype: run(make_trial(words, adapter={"kind": kind}, optim={"lr": 1e-3}, train={"dtype": dtype}), tiny, tmp_path / dtype)
        for dtype in ("float32", "bfloat16")
    }
    assert records["bfloat16"].losses == pytest.approx(records["float32"].losses, rel=0.05)
    assert records["bfloat16"].losses != records["float32"].losses
    file = {"lora": "adapter_model.safetensors", "full": "model.safetensors"}[kind]
    assert {weight.dtype for weight in load_file(records["bfloat16"].last / file).values()} == {torch.float32}


def test_the_automatic_number_format_is_one_that_the_processor_has() -> None:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    has = "avx512_bf16" in flags or "amx_bf16" in flags
    assert pick_dtype("auto", torch.device("cpu")) == (torch.bfloat16 if has else torch.float32)
    assert pick_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16


def test_the_learning_rate_rises_then_follows_its_schedule() -> None:
    def rates(schedule: Any) -> list[float]:
        return [learning_rate(Optim(lr=1.0, warmup_steps=4, schedule=schedule), step, 12) for step in range(12)]

    assert rates("constant") == [0.25, 0.5, 0.75] + [1.0] * 9
    assert rates("linear") == [0.25, 0.5, 0.75, 1.0, *(1 - done / 8 for done in range(8))]
    assert rates("cosine")[4:] == pytest.approx([(1 + math.cos(math.pi * done / 8)) / 2 for done in range(8)])
    assert learning_rate(Optim(lr=1.0, warmup_steps=0), 0, 1) == 1.0


def test_plain_peft_loads_a_checkpoint(tiny: BaseModel, words: Path, tmp_path: Path) -> None:
    record = run(make_trial(words, train={"steps": 2, "eval_every": 2}), tiny, tmp_path)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny.path), str(record.last))
    assert sum(weight.numel() for name, weight in model.named_parameters() if "lora_" in name) == sum(
        weight.numel() for weight in adapter_of(record.last).values()
    )


def test_a_rung_reports_its_metrics_and_what_was_drawn(tiny: BaseModel, words: Path, tmp_path: Path) -> None:
    record = run(make_trial(words, train={"steps": 5, "eval_every": 2}), tiny, tmp_path)
    assert [rung["step"] for rung in record.rungs] == [2, 4, 5]
    assert [rung["data/drawn_train"] for rung in record.rungs] == [16.0, 32.0, 40.0]
    assert set(record.rungs[0]) == {
        *("step", "train/loss", "train/learning_rate", "train/gradient_norm", "train/tokens_per_second", "train/examples_per_second"),
        *("valid/loss", "valid/exact_match", "data/drawn_train"),
    }
