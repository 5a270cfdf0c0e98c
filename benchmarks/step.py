"""Examples per second of one optimizer step of a LoRA on the default data: this project's plain executor and its parts.

    python -m benchmarks.step [--repeats 3] [--batch 16] [--threads N] [--json FILE]

Contenders, interleaved so that a noisy machine slows all alike: `padded` (transformers + PEFT as usual: rows padded, logits at every
position), `answers` (logits only where there is a loss), `plain` (that, and a common beginning of the prompts computed once: what the
plain executor does).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from jobs import fetch
from jobs.config import Adapter, Model
from jobs.data import Example, Template, encode_rows, read_rows
from jobs.model import answer_logits, attach, load, shared_prefix
from orchestrator.cli import ROOT, compose
from orchestrator.validation import build


def padded(model: Any, batch: list[Example], pad_id: int) -> torch.Tensor:
    """The loss as a padded batch with labels gives it."""
    width = max(len(example.ids) for example in batch)
    ids = torch.tensor([example.ids + [pad_id] * (width - len(example.ids)) for example in batch])
    mask = torch.tensor([[1] * len(example.ids) + [0] * (width - len(example.ids)) for example in batch])
    labels = torch.tensor(
        [[-100] * e.prompt_length + e.ids[e.prompt_length :] + [-100] * (width - len(e.ids)) for e in batch],
    )
    return model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss


def answers(model: Any, batch: list[Example], pad_id: int, prefix: int = 0) -> torch.Tensor:
    """The loss with logits at the answers only."""
    keep = max(len(example.ids) - example.prompt_length for example in batch)
    logits, targets = answer_logits(model, batch, keep, pad_id, prefix)
    return cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


def plain(model: Any, batch: list[Example], pad_id: int) -> torch.Tensor:
    """The loss as the plain executor computes it."""
    return answers(model, batch, pad_id, shared_prefix(batch))


def rate(loss: Callable[..., torch.Tensor], model: Any, batch: list[Example], pad_id: int, optimizer: Any) -> float:
    """Examples per second of one step."""
    began = time.perf_counter()
    loss(model, batch, pad_id).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return len(batch) / (time.perf_counter() - began)


def measure(options: argparse.Namespace, base: Any, instruction: str) -> dict[str, dict[str, list[float]]]:
    """Rates by contender and number format, one per repeat."""
    template = Template(base.path)
    rows = read_rows(ROOT / "data/icd10/terms.jsonl", instruction)[: options.batch * (options.repeats + 1)]
    examples = encode_rows(rows, template, 512)
    found: dict[str, dict[str, list[float]]] = {contender.__name__: {} for contender in (padded, answers, plain)}
    for dtype in (torch.float32, torch.bfloat16):
        model = attach(load(base.path, dtype, torch.device("cpu")), Adapter(rank=16), seed=0)
        optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4)
        for repeat in range(options.repeats + 1):
            batch = examples[repeat * options.batch : (repeat + 1) * options.batch]
            for contender in (padded, answers, plain):
                measured = rate(contender, model, batch, template.eos_id, optimizer)
                if repeat > 0:  # the first step also allocates
                    found[contender.__name__].setdefault(str(dtype).removeprefix("torch."), []).append(measured)
    return found


def main() -> None:
    """Measure, print a table, and write the JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = build(compose([], None))
    model: Model = config.model
    found = measure(options, fetch.prepare(model), config.data.instruction)
    print(f"{model.name}, batch {options.batch}, {options.threads} threads, median (lowest..highest) examples/s of {options.repeats}")
    for name, rates in found.items():
        cells = [f"{dtype} {statistics.median(v):6.2f} ({min(v):.2f}..{max(v):.2f})" for dtype, v in rates.items()]
        print(f"  {name:<8}  " + "   ".join(cells))
    if options.json:
        medians = {name: {dtype: statistics.median(values) for dtype, values in rates.items()} for name, rates in found.items()}
        options.json.write_text(json.dumps({"rates": medians, "repeats": found, "threads": options.threads}), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
