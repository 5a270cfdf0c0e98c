"""The slots' scores on their validation splits: what needs no generated answers in common passes,
as jobs/evaluation/evaluate.teacher_forced_scores counts it.
"""

from __future__ import annotations

from functools import partial

import torch

from jobs.data.corpus import Corpus
from jobs.data.mixture import CHUNK_ROWS
from jobs.data.tokenization import Example
from jobs.data.trial_data import Chunk
from jobs.evaluation.answer_losses import answer_bytes
from jobs.evaluation.by_source import numbered, sources_of
from jobs.evaluation.calibration import SUMS, add_tokens
from jobs.evaluation.evaluate import EvaluationSums
from jobs.pack.batch.prefix_groups import PrefixGroup, group_by_prefix, micro_batches
from jobs.pack.engine import Pack
from jobs.pack.layers.cross_entropy import CrossEntropy, is_argmax


@torch.no_grad()
def validate(pack: Pack, slot_ids: list[int]) -> dict[int, EvaluationSums]:
    """What one pass tells of each of these slots on its validation split.

    All slots are validated in common passes, shared between the workers.
    """
    slot_ids = sorted(slot_ids)
    order = sorted(slot_ids, key=lambda slot_id: (pack.family(slot_id), slot_id))
    corpora = {slot_id: pack.corpus(pack.slots[slot_id].trial) for slot_id in order}
    splits = {slot_id: valid for slot_id, (_, _, valid) in corpora.items()}
    tables = {slot_id: SumTable(corpus, valid) for slot_id, (corpus, _, valid) in corpora.items()}
    places = rows_of_sums(slot_ids, tables)
    num_rows = sum(len(tables[slot_id].names) for slot_id in slot_ids)
    sums = torch.zeros(num_rows, NUM_SUMS, dtype=torch.float64, device=pack.device)
    longest = max(map(len, splits.values()), default=0)
    at_once = rows_at_once(pack, list(splits.values()))
    for start in range(0, -(-longest // pack.world.size), at_once):
        sums += block(pack, splits, range(start, start + at_once), places, num_rows)
    totals = iter(pack.world.add(sums).tolist())
    return {
        slot_id: tables[slot_id].total([next(totals) for _ in tables[slot_id].names])
        for slot_id in slot_ids
    }


class SumTable:
    """The sums of one slot, a row for each source of its validation split."""

    def __init__(self, corpus: Corpus, valid: list[Example]) -> None:
        self.names, self.numbers = numbered(sources_of(corpus.valid), len(valid))
        self.num_bytes = [0.0] * len(self.names)
        for example, number in zip(valid, self.numbers, strict=True):
            self.num_bytes[number] += answer_bytes([example])

    def total(self, sums: list[list[float]]) -> EvaluationSums:
        """The sums of all rows and of each source, from what the passes have added up."""
        whole = [
            [*vector[:4], num_bytes, *vector[4:]]
            for vector, num_bytes in zip(sums, self.num_bytes, strict=True)
        ]
        return EvaluationSums.of_sources(self.names, whole)


def rows_of_sums(slot_ids: list[int], tables: dict[int, SumTable]) -> dict[int, list[int]]:
    """In which row of the sums each example of each slot's split counts."""
    counted = {}
    start = 0
    for slot_id in slot_ids:
        counted[slot_id] = [start + number for number in tables[slot_id].numbers]
        start += len(tables[slot_id].names)
    return counted


NUM_SUMS = 4 + SUMS
"""Of each row: loss, tokens, examples answered exactly, examples, and the bins of calibration."""


def rows_at_once(pack: Pack, splits: list[list[Example]]) -> int:
    """How many rows of each split all slots go through before the next ones: what the layers below
    make of them must be kept until then.
    """
    if not pack.hidden_cache.attached:
        return max([1, *map(len, splits)])
    different = {id(split): split for split in splits}.values()
    tokens = sum(
        sum(len(example.ids) for example in split) / max(len(split), 1) for split in different
    )
    most = int(pack.hidden_cache.most_bytes / 2 / max(tokens * pack.hidden_cache.token_bytes(), 1))
    return max(most // CHUNK_ROWS, 1) * CHUNK_ROWS


def block(
    pack: Pack,
    splits: dict[int, list[Example]],
    rows: range,
    counted: dict[int, list[int]],
    num_rows: int,
) -> torch.Tensor:
    """What some of this worker's rows of each split give: sums (`num_rows`, NUM_SUMS), see
    add_pass. `counted` says in which of them each row of a split counts.

    float64.
    """
    worker = slice(pack.world.rank, None, pack.world.size)
    counted = {slot: places[worker][rows.start :] for slot, places in counted.items()}
    prefix_groups: list[PrefixGroup] = []
    chunks_by_slot: dict[int, list[Chunk]] = {}
    for slot_id, split in splits.items():
        worker_rows = split[pack.world.rank :: pack.world.size]
        prefix_groups += group_by_prefix(
            slot_id, worker_rows[rows.start : rows.stop], share=pack.sharing
        )
        present_rows = range(rows.start, min(rows.stop, len(worker_rows)))
        chunks_by_slot[slot_id] = [
            Chunk(
                (id(split), row // CHUNK_ROWS),
                partial(rows_of_chunk, worker_rows, row // CHUNK_ROWS),
            )
            for row in present_rows
        ]
    examples = [example for prefix_group in prefix_groups for example in prefix_group.examples]
    pack.active.arrange(
        list(dict.fromkeys(prefix_group.slot for prefix_group in prefix_groups))
    )  # without those that have no row on this worker
    while True:
        try:
            sums = torch.zeros(num_rows, NUM_SUMS, dtype=torch.float64, device=pack.device)
            with pack.hidden_cache.expecting(chunks_by_slot, examples):
                for micro_batch in micro_batches(
                    prefix_groups, pack.budget if pack.device.type == "cpu" else 2 * pack.budget
                ):  # no gradients to keep
                    add_pass(pack, micro_batch, counted, sums)
            return sums
        except (MemoryError, RuntimeError) as error:
            pack.shrink(prefix_groups, error)


def rows_of_chunk(examples: list[Example], chunk_index: int) -> list[Example]:
    """Examples that go through the layers below the adapters together."""
    return examples[chunk_index * CHUNK_ROWS : (chunk_index + 1) * CHUNK_ROWS]


def add_pass(
    pack: Pack,
    micro_batch: list[PrefixGroup],
    counted: dict[int, list[int]],
    sums: torch.Tensor,
) -> None:
    """Add what one pass shows to the sums (rows, NUM_SUMS) of each slot and source.

    float64, changed in place.
    """
    layout, logits = pack.run(micro_batch)
    _, losses = CrossEntropy.apply(logits, layout.targets, layout.weights)  # type: ignore[misc]
    right = is_argmax(logits, layout.targets)
    missed = torch.zeros(len(layout.examples), device=pack.device).index_add_(
        0, layout.answers, (~right).float()
    )
    by_token = torch.stack([losses.double(), torch.ones_like(losses, dtype=torch.float64)], 1)
    by_example = torch.stack(
        [(missed == 0).double(), torch.ones_like(missed, dtype=torch.float64)], 1
    )
    example_rows = torch.tensor(
        [counted[slot][row] for slot, row in layout.examples], device=pack.device
    )
    owners = example_rows[layout.answers]
    sums[:, :2].index_add_(0, owners, by_token)
    sums[:, 2:4].index_add_(0, example_rows, by_example)
    bins = torch.zeros(len(sums), SUMS, dtype=torch.float64, device=sums.device)
    certainty = confidences(logits, layout.targets, losses)
    add_tokens(bins, owners, certainty, right)
    sums[:, 4:] += bins


def confidences(logits: torch.Tensor, targets: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    """The probability of the most likely token, float32 (S,), from logits (S, V) and the losses of
    the targets.
    """
    chosen = logits.gather(1, targets.unsqueeze(1)).squeeze(1).float()
    return (logits.amax(1).float() - chosen - losses.float()).exp()
