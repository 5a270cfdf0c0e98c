"""Greedy continuations of many prompts at once, of whatever lengths.

The prompts' common beginning goes through the model once. Rows are padded in front to one length,
which changes no answer beyond rounding; a row that has ended leaves the others, so that nothing is
computed for it any more. What an architecture makes of it is tried first, against the plain model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from jobs.foreign_code import FOREIGN_CODE_ERRORS
from jobs.model.frozen_linear import available_bytes
from jobs.model.row_attention import PrefixCache, RowCache, attention_of_rows
from jobs.model.shared_prefix import accepted, attention_window, without_adapter

if TYPE_CHECKING:
    from jobs.model.language_model import LanguageModel

PASS_TOKENS = 1_024
"""Tokens of prompts that go through the model together, padding included: enough for the products
to be quick, and so few that rows of like length are together.
"""
LEAVE_SHARE = 0.85
"""The rows that have ended leave once no more than this share of them is under way."""
MOST_OF_MEMORY = 0.25
"""Share of what memory is available that the keys and values of rows may take."""
PROBED = 4
"""Prompts on which an architecture is tried."""
PROBED_TOKENS = 2
"""Tokens of an answer to each that are compared."""


class RowDecoder:
    """A model that answers many prompts at once."""

    def __init__(
        self, model: LanguageModel, prefix: Sequence[int], eos_ids: Sequence[int], most: int
    ) -> None:
        """`prefix` are the tokens that all prompts begin with, `most` is the number of tokens of an
        answer.
        """
        self.model = model
        self.eos_ids = set(eos_ids)
        self.most = most
        self.length = len(prefix)
        self.device = next(model.parameters()).device
        self.last = {"logits_to_keep": 1} if "logits_to_keep" in accepted(model) else {}
        self.prefix = self.read_prefix(prefix) if prefix else None
        self.token_bytes = 0.0
        """What is kept of a token, by what was kept of the first ones."""

    def read_prefix(self, prefix: Sequence[int]) -> PrefixCache:
        """Keys and values of the common beginning."""
        from transformers import DynamicCache

        inner = without_adapter(self.model)
        cache = DynamicCache(config=inner.config)
        ids = torch.tensor([list(prefix)], device=self.device)
        inner.get_decoder()(input_ids=ids, past_key_values=cache, use_cache=True)
        return PrefixCache(cache)

    def room(self, tokens: int) -> int:
        """At most so many tokens, as far as memory is there to keep what they leave."""
        available = available_bytes()
        if not available or not self.token_bytes:
            return tokens
        return min(tokens, int(MOST_OF_MEMORY * available / self.token_bytes))

    def answers(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, list[int]]]:
        """The index and the answer of each prompt, without the end-of-turn token, as they end."""
        with attention_of_rows(without_adapter(self.model)):
            yield from self.continued([ids[self.length :] for ids in prompts])

    def continued(self, rows: list[Sequence[int]]) -> Iterator[tuple[int, list[int]]]:
        """See `answers`; `rows` are what prompts have after their common beginning."""
        cache, positions, logits = self.read(rows)
        under_way = list(range(len(rows)))
        answers: list[list[int]] = [[] for _ in rows]
        ended: set[int] = set()
        while True:
            tokens = logits.argmax(-1)
            for row, token in zip(under_way, tokens.tolist(), strict=True):
                if row in ended:
                    continue
                if token not in self.eos_ids:
                    answers[row].append(token)
                if token in self.eos_ids or len(answers[row]) >= self.most:
                    ended.add(row)
                    yield row, answers[row]
            left = [place for place, row in enumerate(under_way) if row not in ended]
            if not left:
                return
            if len(left) <= LEAVE_SHARE * len(under_way):
                kept = torch.tensor(left, device=self.device)
                cache.keep(kept)
                tokens, positions = tokens[kept], positions[kept]
                under_way = [under_way[place] for place in left]
            positions = positions + 1
            logits = self.run(tokens[:, None], positions[:, None], cache)
            cache.filled += 1

    def read(self, rows: list[Sequence[int]]) -> tuple[RowCache, torch.Tensor, torch.Tensor]:
        """Let all rows through the model, some at a time: what it keeps of them, the position (N,)
        of each row's last token, and the logits (N, vocabulary) after it.
        """
        width = max(map(len, rows))
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        for place, row in enumerate(rows):
            ids[place, width - len(row) :] = torch.tensor(list(row))
        ids = ids.to(self.device)
        starts = width - lengths
        columns = torch.arange(width, device=self.device)
        positions = (columns[None, :] - starts[:, None]).clamp(min=0) + self.length
        cache = RowCache(starts, width + self.most, self.prefix)
        told = []
        for chosen, widest in portions([len(row) for row in rows]):
            cache.rows = chosen
            cache.filled = width - widest
            read = ids[chosen, cache.filled :], positions[chosen, cache.filled :]
            told.append(self.run(*read, cache))
        cache.rows = slice(0, len(rows))
        cache.filled = width
        return cache, positions[:, -1], torch.cat(told)

    def run(self, ids: torch.Tensor, positions: torch.Tensor, cache: RowCache) -> torch.Tensor:
        """Logits (N, vocabulary) after the last of the tokens (N, L)."""
        output = self.model(
            input_ids=ids,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            rows=cache,
            **self.last,
        )
        return output.logits[:, -1]


def portions(lengths: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Stretches of rows that go through the model together, and the longest row of each."""
    start, widest = 0, 0
    for end, length in enumerate(lengths):
        if end > start and max(widest, length) * (end + 1 - start) > PASS_TOKENS:
            yield slice(start, end), widest
            start, widest = end, 0
        widest = max(widest, length)
    yield slice(start, len(lengths)), widest


@torch.no_grad()
def decoder_of(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    prefix: Sequence[int],
    eos_ids: Sequence[int],
    most: int,
) -> RowDecoder | None:
    """A decoder for these prompts, which all begin with `prefix`; None for an architecture that
    answers otherwise so than by itself, tried on a few of them.
    """
    longest = max(map(len, prompts)) + most
    try:
        if longest > attention_window(model):
            return None
        decoder = RowDecoder(model, prefix, eos_ids, most)
        order = sorted(prompts, key=len)
        few = [order[place * (len(order) - 1) // (PROBED - 1)] for place in range(PROBED)]
        return decoder if answers_alike(decoder, few) else None
    except FOREIGN_CODE_ERRORS:
        return None


def answers_alike(decoder: RowDecoder, prompts: Sequence[Sequence[int]]) -> bool:
    """Whether a decoder's logits for some tokens are those of the plain model, but for rounding."""
    with attention_of_rows(without_adapter(decoder.model)):
        cache, positions, logits = decoder.read([ids[decoder.length :] for ids in prompts])
        told, tokens = [logits], [logits.argmax(-1)]
        for _ in range(PROBED_TOKENS):
            positions = positions + 1
            told.append(decoder.run(tokens[-1][:, None], positions[:, None], cache))
            cache.filled += 1
            tokens.append(told[-1].argmax(-1))
    decoder.token_bytes = cache.nbytes / (len(prompts) * cache.width)
    answers = torch.stack(tokens, 1)
    tolerance = 1e-3 if logits.dtype == torch.float32 else 5e-2
    for row, ids in enumerate(prompts):
        whole = torch.tensor([[*ids, *answers[row, :-1].tolist()]], device=decoder.device)
        plain = decoder.model(input_ids=whole, use_cache=False).logits[0, -len(told) :]
        ours = torch.stack([one[row] for one in told])
        most = tolerance * (1 + float(plain.abs().max()))
        if not bool((plain - ours).abs().max() <= most):
            return False
    return True
