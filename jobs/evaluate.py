"""Judging a model: loss and exact match on held-out rows, greedy answers, and how sure a score is."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import torch

from jobs.config import BaseModel, Trial
from jobs.data import Example, Template, encode_asked, load_corpus, shared_prefix
from jobs.frozen import freeze, thaw
from jobs.model import answer_logits, can_share_prefix, pick_device, prefix_cache, restore
from jobs.verdict import Judging, Verdict, greedy_settings

OUT_OF_MEMORY = re.compile("can't allocate memory|could not create a (memory|primitive)(?! descriptor)")
"""How torch and oneDNN say on a CPU that there is no memory, for numbers or kernels; descriptors are missing where there is no kernel."""


@dataclass(frozen=True)
class Tally:
    """Sums over rows, so that workers' shares can be added up."""

    loss: float = 0.0
    """Cross-entropy in nats, summed over answer tokens."""
    tokens: int = 0
    exact: int = 0
    rows: int = 0

    def metrics(self) -> dict[str, float]:
        """`valid/loss` in nats per answer token and `valid/exact_match` as a share of rows."""
        return {"valid/loss": self.loss / max(self.tokens, 1), "valid/exact_match": self.exact / max(self.rows, 1)}


def portions(examples: list[Example], tokens: int) -> Iterator[list[Example]]:
    """Cut examples into groups of like length of at most `tokens` tokens, padding included; a longer example goes alone."""
    group: list[Example] = []
    for example in sorted(examples, key=lambda e: len(e.ids)):
        if group and len(example.ids) * (len(group) + 1) > tokens:
            yield group
            group = []
        group.append(example)
    if group:
        yield group


@torch.no_grad()
def tally(model: Any, examples: list[Example], pad_id: int, tokens: int, sharing: bool = False) -> Tally:
    """Loss and exact match without generation.

    Greedy decoding gives a reference answer if and only if every answer token is the most likely one after the reference before it, so
    one forward pass decides. An answer that spells the same text with other tokens counts as a miss. `tokens` bounds one pass;
    `sharing` runs a common beginning of the prompts once.
    """
    total = Tally()
    for group in portions(examples, tokens):
        keep = max(len(example.ids) - example.prompt_length for example in group)
        logits, targets = answer_logits(model, group, keep, pad_id, shared_prefix(group) if sharing else 0)
        targets = answer_only(targets, group, keep)
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
        hit = ((logits.argmax(-1) == targets) | (targets == -100)).all(1)
        total = Tally(
            total.loss + float(losses), total.tokens + int((targets != -100).sum()), total.exact + int(hit.sum()), total.rows + len(group)
        )
    return total


def answer_only(targets: torch.Tensor, group: list[Example], keep: int) -> torch.Tensor:
    """`targets` (N, keep) with everything but the answers set to -100."""
    lengths = torch.tensor([len(example.ids) - example.prompt_length for example in group], device=targets.device)
    columns = torch.arange(keep, device=targets.device)
    return targets.masked_fill(columns[None, :] < keep - lengths[:, None], -100)


@torch.no_grad()
def answer(model: Any, prompts: list[list[int]], template: Template, max_new_tokens: int, tick: Callable[[int], None]) -> list[str]:
    """Greedy answers as text, in the order of `prompts` (token ids).

    Rows of equal length go together, so nothing is padded and a row's answer does not depend on its neighbours beyond rounding. Out of
    memory: half as many rows at a time, with the same answers. Raises MemoryError when not even one row fits.
    """
    device = next(model.parameters()).device
    by_length: dict[int, list[int]] = {}
    for index, ids in enumerate(prompts):
        by_length.setdefault(len(ids), []).append(index)
    answers = [""] * len(prompts)
    prefix = common_prefix(model, prompts, template.eos_id)
    at_once = ROWS_AT_ONCE
    for length, rows in sorted(by_length.items()):
        at_once = min(at_once, max(1, TOKENS_AT_ONCE[device.type] // (length + max_new_tokens)))
        while rows:
            chunk = rows[:at_once]
            try:
                inputs = torch.tensor([prompts[row] for row in chunk], device=device)
                produced = greedy(model, inputs, template.eos_ids, max_new_tokens, prefix)
            except (MemoryError, RuntimeError) as error:
                at_once = len(chunk) if out_of_memory(error) and thaw(model) else fewer(len(chunk), length, error)
                continue
            for row, ids in zip(chunk, produced, strict=True):
                answers[row] = template.decode(ids).strip()
            tick(len(chunk))
            rows = rows[len(chunk) :]
    return answers


ROWS_AT_ONCE = 256
"""Rows that are answered together while memory lasts: with each token of their answers all weights are read once for all of them."""
TOKENS_AT_ONCE = {"cpu": 1 << 14, "cuda": 1 << 16}
"""Tokens of these rows, answers included."""


def fewer(rows: int, length: int, error: Exception) -> int:
    """Half of `rows`, which ran out of memory with prompts of `length` tokens; raises when one alone did, or on any other error."""
    if not out_of_memory(error):
        raise error
    if rows == 1:
        remedy = "a smaller train.max_length, job.max_new_tokens or model helps"
        raise MemoryError(f"out of memory on the answer to one prompt of {length} tokens; {remedy}") from None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return rows // 2


def out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out, on a GPU or on a CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or OUT_OF_MEMORY.search(str(error)) is not None


def common_prefix(model: Any, prompts: list[list[int]], pad_id: int) -> int:
    """How many tokens all prompts begin with, if this architecture gives the same answers when they are computed once; else 0."""
    examples = [Example(ids, len(ids) - 1, "", "") for ids in prompts if len(ids) > 1]
    return shared_prefix(examples) if len(examples) == len(prompts) and can_share_prefix(model, examples, pad_id) else 0


def greedy(model: Any, inputs: torch.Tensor, eos_ids: list[int], max_new_tokens: int, prefix: int = 0) -> list[list[int]]:
    """The most likely continuation of each row of `inputs` (N, L), cut before the end-of-turn token.

    The first `prefix` tokens, the same in all rows, are computed once.
    """
    cache = {"past_key_values": prefix_cache(model, inputs[0, :prefix].tolist(), len(inputs))} if prefix else {}
    settings = greedy_settings(eos_ids, max_new_tokens) | {"temperature": None, "top_p": None, "top_k": None}  # unused, and warned about
    mask = torch.ones_like(inputs)
    produced = model.generate(input_ids=inputs, attention_mask=mask, **cache, **settings)[:, inputs.shape[1] :].tolist()
    return [row[: next((i for i, token in enumerate(row) if token in eos_ids), len(row))] for row in produced]


def interval(hits: list[bool], confidence: float) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share: low and high.

    Exact arithmetic, no resampling: the bootstrap of a share has width 0 at no hit and at all hits, as if nothing else were possible.
    """
    rows, share = len(hits), sum(hits) / len(hits)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = share + z * z / (2 * rows)
    reach = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    low, high = ((middle + side * reach) / (1 + z * z / rows) for side in (-1, 1))
    # At the ends the formula gives 0 and 1 but for rounding; the share itself always lies within.
    return min(max(low, 0.0), share), max(min(high, 1.0), share)


def judge(
    trial: Trial, base: BaseModel, folder: str | None, rule: Judging, tick: Callable[[int, int], None] = lambda done, total: None
) -> Verdict:
    """Answer every test row with the base (folder None) or with what was trained on it, in float32, and score the answers.

    float32, which the version's task.json names: a reader who loads it with plain transformers must see the same answers on any machine.
    """
    torch.set_num_threads(rule.num_threads)
    template = Template(base.path)
    examples, limit = encode_asked(load_corpus(trial.data).test, template, trial.train.max_length, rule.max_new_tokens, "test")
    model = restore(base, None if folder is None else Path(folder), torch.float32, pick_device()).requires_grad_(False)
    freeze(model, [])
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        tick(done, len(examples))

    prompts = [example.ids[: example.prompt_length] for example in examples]
    answers = answer(model, prompts, template, limit, count)
    hits = [example.matches(given) for given, example in zip(answers, examples, strict=True)]
    low, high = interval(hits, rule.confidence)
    rows = [
        {"text": example.text, "reference": example.reference, "prediction": given}
        for example, given in zip(examples, answers, strict=True)
    ]
    return Verdict(sum(hits) / len(hits), low, high, rows, limit, sum(example.num_cut > 0 for example in examples))
