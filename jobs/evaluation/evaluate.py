"""Judging a model: loss and exact match on held-out rows, greedy answers, and how sure a score
is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jobs.config import BaseModel, Trial
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import load_corpus
from jobs.data.tokenization import Example, encode_asked, shared_prefix
from jobs.evaluation.few_shot import with_examples
from jobs.evaluation.generate import answer
from jobs.evaluation.metrics import interval
from jobs.evaluation.scores import EvaluationSettings, TestScores
from jobs.model.frozen_linear import prepack_weights
from jobs.model.loading import pick_device, restore
from jobs.model.shared_prefix import answer_logits


@dataclass(frozen=True)
class EvaluationSums:
    """Sums over rows, so that workers' shares can be added up."""

    loss: float = 0.0
    """Cross-entropy in nats, summed over answer tokens."""
    tokens: int = 0
    exact: int = 0
    rows: int = 0

    def metrics(self) -> dict[str, float]:
        """`valid/loss` in nats per answer token and `valid/exact_match` as a share of rows."""
        return {
            "valid/loss": self.loss / max(self.tokens, 1),
            "valid/exact_match": self.exact / max(self.rows, 1),
        }


def length_batches(examples: list[Example], tokens: int) -> Iterator[list[Example]]:
    """Cut examples into groups of like length of at most `tokens` tokens, padding included; a
    longer example goes alone.
    """
    group: list[Example] = []
    for example in sorted(examples, key=lambda e: len(e.ids)):
        if group and len(example.ids) * (len(group) + 1) > tokens:
            yield group
            group = []
        group.append(example)
    if group:
        yield group


@torch.no_grad()
def teacher_forced_scores(
    model: Any, examples: list[Example], pad_id: int, tokens: int, sharing: bool = False
) -> EvaluationSums:
    """Loss and exact match without generation.

    Greedy decoding gives a reference answer if and only if every answer token is the most likely
    one after the reference before it, so one forward pass decides. An answer that spells the same
    text with other tokens counts as a miss. `tokens` bounds one pass; `sharing` runs a common
    beginning of the prompts once.
    """
    total = EvaluationSums()
    for group in length_batches(examples, tokens):
        keep = max(len(example.ids) - example.prompt_length for example in group)
        logits, targets = answer_logits(
            model, group, keep, pad_id, shared_prefix(group) if sharing else 0
        )
        targets = answer_only(targets, group, keep)
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
        )
        hit = ((logits.argmax(-1) == targets) | (targets == -100)).all(1)
        total = EvaluationSums(
            total.loss + float(losses),
            total.tokens + int((targets != -100).sum()),
            total.exact + int(hit.sum()),
            total.rows + len(group),
        )
    return total


def answer_only(targets: torch.Tensor, group: list[Example], keep: int) -> torch.Tensor:
    """`targets` (N, keep) with everything but the answers set to -100."""
    lengths = torch.tensor(
        [len(example.ids) - example.prompt_length for example in group], device=targets.device
    )
    columns = torch.arange(keep, device=targets.device)
    return targets.masked_fill(columns[None, :] < keep - lengths[:, None], -100)


def evaluate_on_test(
    trial: Trial,
    base: BaseModel,
    folder: str | None,
    rule: EvaluationSettings,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> TestScores:
    """Answer every test row with the base (folder None) or with what was trained on it, in float32,
    and score the answers.

    float32, which the version's task.json names: a reader who loads it with plain transformers must
    see the same answers on any machine.
    """
    torch.set_num_threads(rule.num_threads)
    template = ChatTokenizer(base.path)
    corpus = load_corpus(trial.data)
    asked, taken = corpus.test, 0
    if rule.num_examples:
        asked, taken = with_examples(
            corpus.test, corpus, template, Path(base.path), rule.num_examples
        )
    examples, limit = encode_asked(
        asked, template, trial.train.max_length + taken, rule.max_new_tokens, "test"
    )
    model = restore(
        base, None if folder is None else Path(folder), torch.float32, pick_device()
    ).requires_grad_(False)
    prepack_weights(model, [])
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        tick(done, len(examples))

    prompts = [example.ids[: example.prompt_length] for example in examples]
    began = time.monotonic()
    answers = answer(model, prompts, template, limit, count)
    seconds = (time.monotonic() - began) / len(examples)
    hits = [example.matches(given) for given, example in zip(answers, examples, strict=True)]
    low, high = interval(hits, rule.confidence)
    rows = [
        {
            "text": example.text,
            "reference": example.reference,
            "prediction": given,
            "score": float(hit),
        }
        for example, given, hit in zip(examples, answers, hits, strict=True)
    ]
    return TestScores(
        sum(hits) / len(hits),
        low,
        high,
        rows,
        limit,
        sum(example.num_cut > 0 for example in examples),
        seconds,
        taken,
    )
