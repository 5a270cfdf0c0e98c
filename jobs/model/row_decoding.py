"""Greedy continuations of many prompts at once, of whatever lengths.

The prompts' common beginning goes through the model once. Rows are padded in front to one length,
which changes no answer beyond rounding; a row that has ended leaves the others, so that nothing is
computed for it any more. What an architecture makes of it is tried first, against the plain model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from jobs.foreign_code import FOREIGN_CODE_ERRORS
from jobs.machine.memory import available_bytes
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
SCORED_TOKENS = 256
"""Tokens of reference answers whose logits stand in memory together."""
PROBED = 4
"""Prompts on which an architecture is tried."""
PROBED_TOKENS = 2
"""Tokens of an answer to each that are compared."""
Tell = Callable[[int, range, torch.Tensor, torch.Tensor], None]
"""Takes which of its reference answers is meant, rows, and of these the logits (N, L, vocabulary)
and the tokens (N, L) of that answer, -100 behind its end.
"""


class RowDecoder:
    """A model that answers many prompts at once."""

    def __init__(
        self,
        model: LanguageModel,
        prefix: Sequence[int],
        eos_ids: Sequence[int],
        most: int,
        longest: int = 0,
    ) -> None:
        """`prefix` are the tokens that all prompts begin with, `most` is the number of tokens of an
        answer, `longest` that of a reference answer.
        """
        self.model = model
        self.eos_ids = set(eos_ids)
        self.most = most
        self.longest = max(most, longest, PROBED_TOKENS)
        self.length = len(prefix)
        self.device = next(model.parameters()).device
        self.last = {"logits_to_keep": 1} if "logits_to_keep" in accepted(model) else {}
        self.prefix = self.read_prefix(prefix) if prefix else None
        self.scoring_seconds = 0.0
        """What reference answers have taken so far."""
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

    def answers(
        self,
        prompts: Sequence[Sequence[int]],
        references: Sequence[Sequence[Sequence[int]]] = (),
        tell: Tell | None = None,
    ) -> Iterator[tuple[int, list[int]]]:
        """The index and the answer of each prompt, without the end-of-turn token, as they end.

        `references` are token ids of as many answers to each prompt, whose logits are told before,
        from the same pass over the prompts.
        """
        with attention_of_rows(without_adapter(self.model)):
            yield from self.continued([ids[self.length :] for ids in prompts], references, tell)

    def continued(
        self,
        rows: list[Sequence[int]],
        references: Sequence[Sequence[Sequence[int]]],
        tell: Tell | None,
    ) -> Iterator[tuple[int, list[int]]]:
        """See `answers`; `rows` are what prompts have after their common beginning."""
        cache, positions, logits = self.read(rows)
        if tell is not None:
            began = time.monotonic()
            self.score(cache, positions, logits, references, tell)
            self.scoring_seconds += time.monotonic() - began
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
        cache = RowCache(starts, width + self.longest, self.prefix)
        told = []
        for chosen, widest in portions([len(row) for row in rows]):
            cache.rows = chosen
            cache.filled = width - widest
            read = ids[chosen, cache.filled :], positions[chosen, cache.filled :]
            told.append(self.run(*read, cache))
        cache.rows = slice(0, len(rows))
        cache.filled = width
        return cache, positions[:, -1], torch.cat(told)

    def score(
        self,
        cache: RowCache,
        positions: torch.Tensor,
        logits: torch.Tensor,
        references: Sequence[Sequence[Sequence[int]]],
        tell: Tell,
    ) -> None:
        """Let each row's reference answers through the model after its prompt, and tell their
        logits; the cache is left as it was after the prompts.
        """
        width = cache.filled
        for option in range(len(references[0])):
            answers = [each[option] for each in references]
            for chosen, longest in portions(list(map(len, answers)), SCORED_TOKENS):
                rows = range(chosen.start, chosen.stop)
                lengths = torch.tensor([len(answers[row]) for row in rows])
                targets = torch.full((len(rows), longest), -100)
                for place, row in enumerate(rows):
                    targets[place, : lengths[place]] = torch.tensor(list(answers[row]))
                steps = torch.minimum(torch.arange(1, longest)[None, :], lengths[:, None] - 1)
                targets = targets.to(self.device)
                told = logits[chosen, None]
                if longest > 1:
                    cache.rows = chosen
                    places = positions[chosen, None] + steps.to(self.device)
                    more = self.run_all(targets[:, :-1].clamp(min=0), places, cache)
                    told = torch.cat([told, more], 1)
                tell(option, rows, told, targets)
        cache.rows = slice(0, len(positions))
        cache.filled = width

    def run(self, ids: torch.Tensor, positions: torch.Tensor, cache: RowCache) -> torch.Tensor:
        """Logits (N, vocabulary) after the last of the tokens (N, L)."""
        return self.run_all(ids, positions, cache, **self.last)[:, -1]

    def run_all(
        self, ids: torch.Tensor, positions: torch.Tensor, cache: RowCache, **last: int
    ) -> torch.Tensor:
        """Logits (N, L, vocabulary) after each of the tokens (N, L), or after the last ones."""
        output = self.model(
            input_ids=ids,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            rows=cache,
            **last,
        )
        return output.logits


def portions(lengths: Sequence[int], most_tokens: int | None = None) -> Iterator[tuple[slice, int]]:
    """Stretches of rows that go through the model together, and the longest row of each."""
    most = PASS_TOKENS if most_tokens is None else most_tokens
    start, widest = 0, 0
    for end, length in enumerate(lengths):
        if end > start and max(widest, length) * (end + 1 - start) > most:
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
    longest: int = 0,
) -> RowDecoder | None:
    """A decoder for these prompts, which all begin with `prefix`; None for an architecture that
    answers otherwise so than by itself, tried on a few of them. A reference answer has at most
    `longest` tokens.
    """
    try:
        if max(map(len, prompts)) + max(most, longest) > attention_window(model):
            return None
        decoder = RowDecoder(model, prefix, eos_ids, most, longest)
        order = sorted(prompts, key=len)
        few = [order[place * (len(order) - 1) // (PROBED - 1)] for place in range(PROBED)]
        return decoder if answers_alike(decoder, few) else None
    except FOREIGN_CODE_ERRORS:
        return None


def answers_alike(decoder: RowDecoder, prompts: Sequence[Sequence[int]]) -> bool:
    """Whether a decoder's logits for some tokens are those of the plain model, but for rounding."""
    scored: dict[int, torch.Tensor] = {}

    def tell(_: int, rows: range, logits: torch.Tensor, __: torch.Tensor) -> None:
        scored.update(zip(rows, logits, strict=True))

    with attention_of_rows(without_adapter(decoder.model)):
        cache, positions, logits = decoder.read([ids[decoder.length :] for ids in prompts])
        first = positions
        told, tokens = [logits], [logits.argmax(-1)]
        for _ in range(PROBED_TOKENS):
            positions = positions + 1
            told.append(decoder.run(tokens[-1][:, None], positions[:, None], cache))
            cache.filled += 1
            tokens.append(told[-1].argmax(-1))
        answers = torch.stack(tokens, 1)
        cache.filled -= PROBED_TOKENS
        decoder.score(cache, first, logits, [[ids] for ids in answers.tolist()], tell)
    decoder.token_bytes = cache.nbytes / (len(prompts) * cache.width)
    tolerance = 1e-3 if logits.dtype == torch.float32 else 5e-2
    for row, ids in enumerate(prompts):
        whole = torch.tensor([[*ids, *answers[row, :-1].tolist()]], device=decoder.device)
        plain = decoder.model(input_ids=whole, use_cache=False).logits[0, -len(told) :]
        most = tolerance * (1 + float(plain.abs().max()))
        step_by_step = torch.stack([one[row] for one in told])
        for ours in (step_by_step, scored[row]):
            if not bool((plain - ours).abs().max() <= most):
                return False
    return True
