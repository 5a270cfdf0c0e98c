"""Greedy answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    from jobs.evaluation.answer_losses import AnswerLosses
    from jobs.model.language_model import LanguageModel
    from jobs.model.row_decoding import RowDecoder


@torch.no_grad()
def answer(
    model: LanguageModel,
    prompts: list[list[int]],
    template: ChatTokenizer,
    max_new_tokens: int,
    tick: Callable[[int], None],
) -> list[str]:
    """Greedy answers as text, in the order of `prompts` (token ids).

    A row's answer does not depend on its neighbours beyond rounding. Out of memory: half as many
    rows at a time, with the same answers. Raises MemoryError when not even one row fits.
    """
    return [
        answer_text(template, ids)
        for ids in continue_all(model, prompts, template, max_new_tokens, tick)
    ]


@torch.no_grad()
def continue_all(
    model: LanguageModel,
    prompts: list[list[int]],
    template: ChatTokenizer,
    max_new_tokens: int,
    tick: Callable[[int], None],
    references: Sequence[Sequence[Example]] = (),
    losses: AnswerLosses | None = None,
) -> list[list[int]]:
    """The tokens of the answers, without the one that ends a turn; see `answer`.

    What `references`, as many answers to each prompt, cost the model comes into `losses`, where the
    prompts are answered together and memory is enough, but for answers that are far longer than
    those that are made; nothing does where transformers' own loop answers.
    """
    device = next(model.parameters()).device
    answers: list[list[int]] = [[] for _ in prompts]
    waiting = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    most = max(max_new_tokens, SCORED_AT_LEAST)
    wanted: list[list[list[int]]] = []
    if losses is not None:
        wanted = [[answer_ids(example)[:most] for example in row] for row in references]
    longest = max((len(ids) for row in wanted for ids in row), default=0)
    decoder = row_decoder(model, prompts, template.eos_ids, max_new_tokens, longest)
    scores = decoder is not None and losses is not None
    shared = 0 if decoder is None else decoder.length
    prefix = 0 if decoder is not None else common_prefix(model, prompts, template.eos_id)
    at_once = ROWS_AT_ONCE
    while waiting:
        lengths = [len(prompts[row]) for row in waiting]
        room = TOKENS_AT_ONCE[device.type]
        room = room if decoder is None else decoder.room(room)
        more = max_new_tokens if decoder is None else decoder.longest
        count = rows_that_fit(lengths, room, more - shared)
        if decoder is None:
            count = min(count, lengths.count(lengths[0]))
        chunk = waiting[: min(count, at_once)]
        ended: set[int] = set()
        asked = [prompts[row] for row in chunk]

        def tell(option: int, rows: range, *told: torch.Tensor, chunk: list[int] = chunk) -> None:
            assert losses is not None
            examples = [references[chunk[row]][option] for row in rows]
            whole = [at for at, each in enumerate(examples) if len(answer_ids(each)) <= most]
            losses.tell([examples[at] for at in whole], *(each[whole] for each in told))

        try:
            if decoder is not None and scores:
                answered = decoder.answers(asked, [wanted[row] for row in chunk], tell)
            elif decoder is not None:
                answered = decoder.answers(asked)
            else:
                inputs = torch.tensor(asked, device=device)
                answered = enumerate(
                    greedy(model, inputs, template.eos_ids, max_new_tokens, prefix)
                )
            for index, ids in answered:
                answers[chunk[index]] = ids
                ended.add(chunk[index])
                tick(1)
        except (MemoryError, RuntimeError) as error:
            if scores and not ended and out_of_memory(error):
                scores = False  # nobody is judged by the losses alone
                continue
            at_once = (
                len(chunk)
                if out_of_memory(error) and drop_prepacked(model)
                else fewer(len(chunk), len(asked[-1]), error)
            )
        waiting = [row for row in waiting if row not in ended]
    if losses is not None and decoder is not None:
        losses.seconds += decoder.scoring_seconds
    return answers


def answer_ids(example: Example) -> list[int]:
    """The tokens of an example's answer."""
    return example.ids[example.prompt_length :]


def rows_that_fit(lengths: list[int], room: int, more: int) -> int:
    """How many rows of these prompts, the shortest first, have room together, each as wide as the
    longest among them and `more` tokens; one at least.
    """
    for count, length in enumerate(lengths):
        if (count + 1) * (length + more) > room:
            return max(count, 1)
    return len(lengths)


SCORED_AT_LEAST = 64
"""Reference answers of at most so many tokens are scored beside the answers, or of at most as many
as those may have.
"""
FEWEST_TOGETHER = 16
"""Fewer prompts than these are answered by transformers' own loop: to try an architecture first
would take longer than it saves.
"""


def row_decoder(
    model: LanguageModel,
    prompts: list[list[int]],
    eos_ids: list[int],
    max_new_tokens: int,
    longest: int = 0,
) -> RowDecoder | None:
    """What answers many prompts at once on a processor, and scores reference answers of at most
    `longest` tokens; None where transformers' own loop answers.
    """
    on_processor = next(model.parameters()).device.type == "cpu"
    if not on_processor or len(prompts) < FEWEST_TOGETHER or min(map(len, prompts)) < 2:
        return None
    from jobs.model.row_decoding import decoder_of

    examples = [Example(ids, len(ids) - 1, "", "") for ids in prompts]
    prefix = prompts[0][: shared_prefix(examples)]
    try:
        return decoder_of(model, prompts, prefix, eos_ids, max_new_tokens, longest)
    except MemoryError:
        return None


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
