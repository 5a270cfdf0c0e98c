"""Examples per second of one optimizer step on the rows of icd10 (others: data=NAME), and the share
of the machine's own matrix-product rate.

python -m benchmarks.step [--repeats 3] [--batch 16] [--slots 1,2,4,8,16] [--threads N] [--json
FILE] [SETTING=VALUE ...]

Contenders, interleaved so that a noisy machine slows all alike: `trainer` (what
transformers.Trainer + PEFT computes in a step: rows padded to the longest, logits at every
position, clip, AdamW), `plain` (this project's executor of one trial), `pack_N` (a pack of the
first N trials of that sweep, differing in rank, rate and mix), `pack` (the one of 8) and
`pack_8_no_prefix` (the same with every example's beginning computed anew). A pack's figure is over
some steps: what it computes once for all trials, it computes for several steps.

The share of the peak is the time that the unavoidable products would take alone (forward and
backward of every frozen layer that carries adapters over the pack's tokens, the head over its
supervised ones, forward of the layers below over the rows that are new) over the time of the steps.
On a CPU they are measured in this run at these sizes and in this format; on a GPU they are counted,
at the rate of a product of 8,192 x 8,192 matrices.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import answer
from benchmarks.products import peak_rate, product_seconds, synchronize
from jobs.base_models import fetch
from jobs.config import BaseModel, Trial
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import load_corpus
from jobs.data.tokenization import Example
from jobs.data.trial_data import TrialData
from jobs.machine import speed
from jobs.model import matrix_rate
from jobs.model.loading import attach, load, pick_device
from jobs.pack.batch.prefix_groups import micro_batches
from jobs.pack.engine import Pack
from jobs.pack.opening import enable_packing
from jobs.training.distributed import World
from jobs.training.finetune import Hooks, Training
from jobs.training.optimizer import adamw
from orchestrator.config.compose import compose
from orchestrator.config.validation import build
from orchestrator.launch.ray_settings import COMMON
from orchestrator.plan.planner import known_trials

SWEEP = ("+sweep=lora", "data=icd10")
"""What is swept, unless the command line says otherwise: the rows that docs/speed.md was measured
with.
"""
TURN = 4
"""Steps of a pack in each turn."""
NO_PREFIX = "pack_8_no_prefix"
IMITATED = 0.25
"""A format of less than this share of float32's rate is left out."""
WARM_UP = {"cpu": 1, "cuda": 20}
"""Turns that are not counted: the first allocates, and on a GPU some more are recorded."""


def padded(model: Any, batch: list[Example], pad_id: int, device: torch.device) -> torch.Tensor:
    """The loss as a padded batch with labels gives it."""
    width = max(len(example.ids) for example in batch)
    ids = torch.tensor(
        [example.ids + [pad_id] * (width - len(example.ids)) for example in batch], device=device
    )
    mask = torch.tensor(
        [[1] * len(example.ids) + [0] * (width - len(example.ids)) for example in batch],
        device=device,
    )
    labels = [
        [-100] * e.prompt_length + e.ids[e.prompt_length :] + [-100] * (width - len(e.ids))
        for e in batch
    ]
    return model(
        input_ids=ids,
        attention_mask=mask,
        labels=torch.tensor(labels, device=device),
        use_cache=False,
    ).loss


def trainer(base: BaseModel, trial: Trial, dtype: torch.dtype) -> Callable[[], int]:
    """A step as transformers.Trainer takes it, without its bookkeeping; returns how many examples
    it had.
    """
    device = pick_device()
    template = ChatTokenizer(base.path)
    course = TrialData(trial, template, load_corpus(trial.data))
    model = attach(load(base.path, dtype, device), trial.adapter, trial.seed).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer, done = adamw(weights, trial.optim, fused=True), [0]

    def step() -> int:
        batch = course.batch(done[0])
        done[0] += 1
        padded(model, batch, template.eos_id, device).backward()
        torch.nn.utils.clip_grad_norm_(weights, trial.optim.max_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return len(batch)

    return step


def plain(base: BaseModel, trial: Trial) -> Callable[[], int]:
    """A step of the plain executor."""
    training = Training(trial, base, World(), Hooks(lambda metrics, save: None), None)

    def step() -> int:
        training.train_step()
        return trial.train.batch_size

    return step


def packed(pack: Pack, numbers: list[int], sharing: bool = True) -> Callable[[], int]:
    """A turn of some slots of a pack."""

    def step() -> int:
        pack.sharing = sharing
        for _ in range(TURN):
            pack.step(numbers)
        return TURN * sum(pack.slots[number].trial.train.batch_size for number in numbers)

    return step


def open_pack(
    base: BaseModel, trials: list[Trial], counts: list[int]
) -> tuple[Pack, dict[str, list[int]]]:
    """One pack with a contender's own slots for each count, and for the one without common
    beginnings.

    Contenders differ in their seed: none finds rows at hand that another one has met.
    """
    pack = Pack(base, trials[0])
    problem = enable_packing(pack, trials[0])
    assert problem is None, problem
    sizes = {f"pack_{count}": count for count in counts} | {NO_PREFIX: min(8, max(counts))}
    found: dict[str, list[int]] = {}
    for seed, (contender, count) in enumerate(sizes.items()):
        found[contender] = list(range(len(pack.slots), len(pack.slots) + count))
        for number, trial in zip(found[contender], trials, strict=False):
            pack.join(number, replace(trial, seed=seed))
    return pack, found


def ideal_below(pack: Pack, rows: int, peak: float | None) -> float:
    """How long the products of the frozen layers below the adapters would take for so many tokens,
    forward only.
    """
    found: dict[tuple[int, int], int] = {}
    for layer in (
        module
        for below in pack.hidden_cache.below
        for module in below.modules()
        if isinstance(module, torch.nn.Linear)
    ):
        found[layer.in_features, layer.out_features] = (
            found.get((layer.in_features, layer.out_features), 0) + 1
        )
    if peak is not None:
        return sum(2 * rows * math.prod(shape) * count for shape, count in found.items()) / peak
    some = min(rows, 1024)
    return (
        sum(
            product_seconds(some, *shape, pack.dtype, pack.device)[0] * count
            for shape, count in found.items()
        )
        * rows
        / max(some, 1)
    )


def ideal_seconds(pack: Pack, numbers: list[int], peak: float | None) -> float:
    """How long the unavoidable products of the next step would take by themselves: at `peak`, or as
    measured one by one.
    """
    pack.sharing = True
    parts = [
        part
        for number in numbers
        for part in pack.share(number, pack.slots[number].course.batch(pack.slots[number].step))
    ]
    head = pack.model.get_output_embeddings()
    assert head is not None, "a causal language model has an output layer"
    vocabulary, width = head.weight.shape
    shapes = [(shape.width_in, shape.width_out) for shape in pack.shapes]
    total = 0.0
    for group in micro_batches(parts, pack.budget):
        rows, supervised = (
            sum(part.num_tokens for part in group),
            sum(part.num_supervised for part in group),
        )
        products = {(rows, *shape): shapes.count(shape) for shape in shapes} | {
            (supervised, width, vocabulary): 1
        }
        for size, count in products.items():
            total += count * (
                sum(product_seconds(*size, pack.dtype, pack.device))
                if peak is None
                else 4 * math.prod(size) / peak
            )
    return total


def known_rows(pack: Pack) -> int:
    """How many tokens the layers below the adapters have seen."""
    return sum(len(hidden.states) for hidden in pack.hidden_cache.cache.values())


def formats(threads: int) -> list[str]:
    """The number formats that this machine computes in: one that it only imitates, many times
    slower than float32, would take hours.
    """
    if torch.cuda.is_available():
        return list(speed.FORMATS)
    found = matrix_rate.measured_here().flops
    skipped = [name for name in speed.FORMATS if found[name] < IMITATED * found["float32"]]
    for name in skipped:
        print(
            f"{name} is left out: this processor does not compute in it "
            f"({found[name] / 1e9:.0f} GFLOP/s, float32 {found['float32'] / 1e9:.0f}, "
            f"{threads} threads)",
            file=sys.stderr,
            flush=True,
        )
    return [name for name in speed.FORMATS if name not in skipped]


def measure(
    options: argparse.Namespace, base: BaseModel, trials: list[Trial]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rates by contender and format, and shares of the peak by pack and format, one figure per
    repeat.
    """
    rates: dict[str, dict[str, list[float]]] = {}
    shares: dict[str, dict[str, list[float]]] = {}
    for name in formats(options.threads):
        own = [replace(trial, train=replace(trial.train, dtype=name)) for trial in trials]
        pack, slots = open_pack(base, own, options.slots)
        steps = {
            "trainer": trainer(base, own[0], getattr(torch, name)),
            "plain": plain(base, own[0]),
        }
        steps |= {
            contender: packed(pack, numbers, contender != NO_PREFIX)
            for contender, numbers in slots.items()
        }
        peak = peak_rate(pack.dtype, pack.device)
        for repeat in range(options.repeats + WARM_UP[pack.device.type]):
            for contender, step in steps.items():
                ideal = (
                    TURN * ideal_seconds(pack, slots[contender], peak)
                    if contender[5:].isdigit()
                    else None
                )
                known = known_rows(pack)
                synchronize(pack.device)
                began = time.perf_counter()
                examples = step()
                synchronize(pack.device)
                seconds = time.perf_counter() - began
                print(
                    f"{name} {repeat} {contender:<17} {examples / seconds:7.2f} examples/s",
                    file=sys.stderr,
                    flush=True,
                )
                if repeat < WARM_UP[pack.device.type]:
                    continue
                rates.setdefault(contender, {}).setdefault(name, []).append(examples / seconds)
                if ideal is not None:
                    ideal += ideal_below(pack, known_rows(pack) - known, peak)
                    shares.setdefault(contender, {}).setdefault(name, []).append(ideal / seconds)
    return rates, shares


def as_text(rates: dict[str, Any], shares: dict[str, Any]) -> str:
    """A table: median, lowest and highest rate, and the median share of the peak."""
    lines = []
    for contender, formats in rates.items():
        cells = [
            f"{name} {statistics.median(v):7.2f} ({min(v):.2f}..{max(v):.2f})"
            for name, v in formats.items()
        ]
        peak = [
            f"{name} {statistics.median(v):.0%}" for name, v in shares.get(contender, {}).items()
        ]
        lines.append(
            f"  {contender:<17}"
            + "   ".join(cells)
            + (f"   of the peak: {', '.join(peak)}" if peak else "")
        )
    return "\n".join(lines)


def medians(figures: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """The median of each list."""
    return {
        contender: {name: statistics.median(values) for name, values in formats.items()}
        for contender, formats in figures.items()
    }


def as_in_a_worker() -> None:
    """Start this command again with what the workers' environment says about threads and memory,
    for all contenders alike.
    """
    wanted = {
        name: value for name, value in COMMON.items() if name.startswith(("GOMP_", "MALLOC_"))
    }
    if not wanted.keys() <= os.environ.keys():
        os.execve(
            sys.executable,
            [sys.executable, "-m", "benchmarks.step", *sys.argv[1:]],
            {**wanted, **os.environ},
        )


def main() -> None:
    """Measure, print a table, and write the JSON if asked."""
    as_in_a_worker()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--slots",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[1, 2, 4, 8, 16],
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("settings", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = build(compose([*SWEEP, *options.settings, f"train.batch_size={options.batch}"], None))
    rates, shares = measure(
        options, fetch.prepare(config.model), known_trials(config, max(*options.slots, 8))
    )
    count = max(count for count in options.slots if count <= 8)
    rates["pack"], shares["pack"] = rates[f"pack_{count}"], shares[f"pack_{count}"]
    device = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{options.threads} threads"
    )
    print(
        f"{config.model.name}, batch {options.batch}, {device}; examples/s: median "
        f"(lowest..highest) of {options.repeats}"
    )
    print(as_text(rates, shares))
    if options.json:
        found = {
            "rates": medians(rates),
            "share_of_peak": medians(shares),
            "repeats": rates,
            "device": device,
            "threads": options.threads,
        }
        options.json.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(answer(main))
