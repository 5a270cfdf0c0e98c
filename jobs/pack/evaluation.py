"""The slots' scores on their validation splits: what needs no generated answers in common passes,
as jobs/evaluation/evaluate.teacher_forced_scores counts it.
"""

from __future__ import annotations

from functools import partial

import torch

from jobs.data.mixture import CHUNK_ROWS
from jobs.data.tokenization import Example
from jobs.data.trial_data import Chunk
from jobs.evaluation.calibration import SUMS, add_tokens
from jobs.evaluation.evaluate import EvaluationSums, answer_bytes
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
    splits = {slot_id: pack.corpus(pack.slots[slot_id].trial)[2] for slot_id in order}
    sums = torch.zeros(len(slot_ids), NUM_SUMS, dtype=torch.float64, device=pack.device)
    longest = max(map(len, splits.values()), default=0)
    at_once = rows_at_once(pack, list(splits.values()))
    for start in range(0, -(-longest // pack.world.size), at_once):
        sums += block(pack, splits, range(start, start + at_once), slot_ids)
    totals = zip(slot_ids, pack.world.add(sums).tolist(), strict=True)
    return {
        slot_id: EvaluationSums.from_vector(
            [*vector[:4], float(answer_bytes(splits[slot_id])), *vector[4:]]
        )
        for slot_id, vector in totals
    }


NUM_SUMS = 4 + SUMS
"""Of each slot: loss, tokens, examples answered exactly, examples, and the bins of calibration."""


def rows_at_once(pack: Pack, splits: list[list[Example]]) -> int:
    """How many rows of each split all slots go through before the next ones: what the layers below
    make of them must be kept until then.
    """
    if not pack.trunk.attached:
        return max([1, *map(len, splits)])
    different = {id(split): split for split in splits}.values()
    tokens = sum(
        sum(len(example.ids) for example in split) / max(len(split), 1) for split in different
    )
    most = int(pack.trunk.most_bytes / 2 / max(tokens * pack.trunk.token_bytes(), 1))
    return max(most // CHUNK_ROWS, 1) * CHUNK_ROWS


def block(
    pack: Pack, splits: dict[int, list[Example]], rows: range, slot_ids: list[int]
) -> torch.Tensor:
    """What some of this worker's rows of each split give: sums (slots, NUM_SUMS) in the order of
    `numbers`, see add_pass.

    float64.
    """
    row_of_slot = {slot_id: index for index, slot_id in enumerate(slot_ids)}
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
            sums = torch.zeros(len(slot_ids), NUM_SUMS, dtype=torch.float64, device=pack.device)
            with pack.trunk.expecting(chunks_by_slot, examples):
                for micro_batch in micro_batches(
                    prefix_groups, pack.budget if pack.device.type == "cpu" else 2 * pack.budget
                ):  # no gradients to keep
                    add_pass(pack, micro_batch, row_of_slot, sums)
            return sums
        except (MemoryError, RuntimeError) as error:
            pack.shrink(prefix_groups, error)


def rows_of_chunk(examples: list[Example], chunk_index: int) -> list[Example]:
    """Examples that go through the layers below the adapters together."""
    return examples[chunk_index * CHUNK_ROWS : (chunk_index + 1) * CHUNK_ROWS]


def add_pass(
    pack: Pack, micro_batch: list[PrefixGroup], row_of_slot: dict[int, int], sums: torch.Tensor
) -> None:
    """Add what one pass shows to each slot's sums (slots, NUM_SUMS).

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
    slot_rows = torch.tensor([row_of_slot[slot] for slot in layout.slots], device=pack.device)
    examples = torch.tensor([row_of_slot[slot] for slot, _ in layout.examples], device=pack.device)
    sums[:, :2].index_add_(0, slot_rows[layout.owners], by_token)
    sums[:, 2:4].index_add_(0, examples, by_example)
    bins = torch.zeros(len(sums), SUMS, dtype=torch.float64, device=sums.device)
    certainty = confidences(logits, layout.targets, losses)
    add_tokens(bins, slot_rows[layout.owners], certainty, right)
    sums[:, 4:] += bins


def confidences(logits: torch.Tensor, targets: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    """The probability of the most likely token, float32 (S,), from logits (S, V) and the losses of
    the targets.
    """
    chosen = logits.gather(1, targets.unsqueeze(1)).squeeze(1).float()
    return (logits.amax(1).float() - chosen - losses.float()).exp()
