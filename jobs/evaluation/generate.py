"""Greedy answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch

from jobs.data.answer_text import answer_text
from jobs.data.chat_template import ChatTokenizer
from jobs.data.tokenization import Example, shared_prefix
from jobs.evaluation.scores import greedy_settings
from jobs.model.frozen_linear import drop_prepacked
from jobs.model.memory import out_of_memory
from jobs.model.shared_prefix import can_share_prefix, prefix_cache

if TYPE_CHECKING:
    from jobs.model.language_model import LanguageModel


@torch.no_grad()
def answer(
    model: LanguageModel,
    prompts: list[list[int]],
    template: ChatTokenizer,
    max_new_tokens: int,
    tick: Callable[[int], None],
) -> list[str]:
    """Greedy answers as text, in the order of `prompts` (token ids).

    Rows of equal length go together, so nothing is padded and a row's answer does not depend on its
    neighbours beyond rounding. Out of memory: half as many rows at a time, with the same answers.
    Raises MemoryError when not even one row fits.
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
                at_once = (
                    len(chunk)
                    if out_of_memory(error) and drop_prepacked(model)
                    else fewer(len(chunk), length, error)
                )
                continue
            for row, ids in zip(chunk, produced, strict=True):
                answers[row] = answer_text(template, ids)
            tick(len(chunk))
            rows = rows[len(chunk) :]
    return answers


ROWS_AT_ONCE = 256
"""Rows that are answered together while memory lasts: with each token of their answers all weights
are read once for all of them.
"""
TOKENS_AT_ONCE = {"cpu": 1 << 14, "cuda": 1 << 16}
"""Tokens of these rows, answers included."""


def fewer(rows: int, length: int, error: Exception) -> int:
    """Half of `rows`, which ran out of memory with prompts of `length` tokens; raises when one
    alone did, or on any other error.
    """
    if not out_of_memory(error):
        raise error
    if rows == 1:
        remedy = "a smaller train.max_length, job.max_new_tokens or model helps"
        raise MemoryError(
            f"out of memory on the answer to one prompt of {length} tokens; {remedy}"
        ) from None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return rows // 2


def common_prefix(model: LanguageModel, prompts: list[list[int]], pad_id: int) -> int:
    """How many tokens all prompts begin with, if this architecture gives the same answers when they
    are computed once; else 0.
    """
    examples = [Example(ids, len(ids) - 1, "", "") for ids in prompts if len(ids) > 1]
    return (
        shared_prefix(examples)
        if len(examples) == len(prompts) and can_share_prefix(model, examples, pad_id)
        else 0
    )


def greedy(
    model: LanguageModel,
    inputs: torch.Tensor,
    eos_ids: list[int],
    max_new_tokens: int,
    prefix: int = 0,
) -> list[list[int]]:
    """The most likely continuation of each row of `inputs` (N, L), cut before the end-of-turn
    token.

    The first `prefix` tokens, the same in all rows, are computed once.
    """
    cache = (
        {"past_key_values": prefix_cache(model, inputs[0, :prefix].tolist(), len(inputs))}
        if prefix
        else {}
    )
    settings = greedy_settings(eos_ids, max_new_tokens) | {
        "temperature": None,
        "top_p": None,
        "top_k": None,
    }  # unused, and warned about
    mask = torch.ones_like(inputs)
    generate = cast("Callable[..., torch.Tensor]", model.generate)
    sequences = generate(input_ids=inputs, attention_mask=mask, **cache, **settings)
    produced = sequences[:, inputs.shape[1] :].tolist()
    return [
        row[: next((i for i, token in enumerate(row) if token in eos_ids), len(row))]
        for row in produced
    ]
