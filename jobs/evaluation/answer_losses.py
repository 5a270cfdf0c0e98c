"""How likely reference answers are: sums over their tokens of loss, matches and calibration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from jobs.data.tokenization import Example, shared_prefix
from jobs.evaluation.calibration import SUMS, add_tokens
from jobs.model.shared_prefix import answer_logits

if TYPE_CHECKING:
    from jobs.model.language_model import LanguageModel

NUM_SUMS = 5 + SUMS
"""Of an answer: loss in nats, tokens, whether every token is the most likely one, 1 for the answer
itself, its bytes, and the bins of calibration.py.
"""


def answer_bytes(examples: Iterable[Example]) -> int:
    """Bytes of reference answers in UTF-8."""
    return sum(len(example.reference.encode("utf-8", "surrogatepass")) for example in examples)


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
def teacher_forced_rows(
    model: LanguageModel, examples: list[Example], pad_id: int, tokens: int, sharing: bool = False
) -> torch.Tensor:
    """Of each example its sums: float64 (N, NUM_SUMS), on the CPU.

    Greedy decoding gives a reference answer if and only if every answer token is the most likely
    one after the reference before it, so one forward pass decides. An answer that spells the same
    text with other tokens counts as a miss. `tokens` bounds one pass; `sharing` runs a common
    beginning of the prompts once.
    """
    vectors = torch.zeros(len(examples), NUM_SUMS, dtype=torch.float64)
    row_by_example = {id(example): row for row, example in enumerate(examples)}
    for group in length_batches(examples, tokens):
        keep = max(len(example.ids) - example.prompt_length for example in group)
        logits, targets = answer_logits(
            model, group, keep, pad_id, shared_prefix(group) if sharing else 0
        )
        targets = answer_only(targets, group, keep)
        rows = [row_by_example[id(example)] for example in group]
        vectors[rows] = sums_of(logits, targets, group).cpu()
    return vectors


def sums_of(
    logits: torch.Tensor, targets: torch.Tensor, examples: Sequence[Example]
) -> torch.Tensor:
    """Logits (N, L, vocabulary) and the answers' tokens (N, L), -100 where there is none -> the
    sums of each answer, float64 (N, NUM_SUMS).
    """
    answered = targets != -100
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none"
    ).view(targets.shape)
    right = logits.argmax(-1) == targets
    chosen = logits.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    confidence = (logits.amax(-1) - chosen - losses).exp()
    sums = torch.zeros(len(examples), NUM_SUMS, dtype=torch.float64, device=logits.device)
    sums[:, 0] = losses.double().sum(1)
    sums[:, 1] = answered.sum(1)
    sums[:, 2] = (right | ~answered).all(1)
    sums[:, 3] = 1
    sums[:, 4] = torch.tensor([answer_bytes([example]) for example in examples])
    owners = torch.arange(len(examples), device=logits.device)[:, None].expand_as(targets)
    bins = torch.zeros(len(examples), SUMS, dtype=torch.float64, device=logits.device)
    add_tokens(bins, owners[answered], confidence[answered], right[answered])
    sums[:, 5:] = bins
    return sums


def answer_only(targets: torch.Tensor, group: list[Example], keep: int) -> torch.Tensor:
    """`targets` (N, keep) with everything but the answers set to -100."""
    lengths = torch.tensor(
        [len(example.ids) - example.prompt_length for example in group], device=targets.device
    )
    columns = torch.arange(keep, device=targets.device)
    return targets.masked_fill(columns[None, :] < keep - lengths[:, None], -100)


class AnswerLosses:
    """What reference answers cost a model, gathered while their prompts are answered: a prompt goes
    through the model once for both.
    """

    def __init__(self) -> None:
        self.known: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}
        self.seconds = 0.0
        """What gathering them has taken beside the answers."""

    def tell(
        self, examples: Sequence[Example], logits: torch.Tensor, targets: torch.Tensor
    ) -> None:
        """Keep the sums of some examples; see `sums_of`."""
        if examples:
            self.keep(examples, sums_of(logits.float(), targets, examples).cpu())

    def keep(self, examples: Sequence[Example], sums: torch.Tensor) -> None:
        """Keep the sums of some examples, float64 (N, NUM_SUMS)."""
        for example, vector in zip(examples, sums, strict=True):
            self.known[key_of(example)] = vector

    def missing(self, examples: Sequence[Example]) -> list[Example]:
        """Those that nothing is known of."""
        return [example for example in examples if key_of(example) not in self.known]

    def rows(self, examples: Sequence[Example]) -> torch.Tensor:
        """The sums of each example, float64 (N, NUM_SUMS)."""
        return torch.stack([self.known[key_of(example)] for example in examples])


def key_of(example: Example) -> tuple[int, tuple[int, ...]]:
    """What decides an example's sums."""
    return example.prompt_length, tuple(example.ids)
