"""train.on=answers in a pack: the loss of every answer, as transformers computes it, and the same
weights as a trial that trains alone.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from jobs.config import BaseModel
from jobs.model.loading import restore
from tests.support.packs import assert_ends_alike, open_pack, run
from tests.support.plain import CPU, make

ANSWERS = ("refund", "wait", "a new one")


def talks(folder: Path) -> Path:
    """A file of conversations with one to three answers."""
    lines = []
    for i in range(80):
        turns = []
        for place, answer in enumerate(ANSWERS[: 1 + i % 3]):
            turns.append({"role": "user", "content": f"Ticket {i}.{place}"})
            turns.append({"role": "assistant", "content": f"{answer} {i % 5}"})
        lines.append(json.dumps({"messages": turns}))
    path = folder / "talks.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_every_answer_counts_as_transformers_counts_it(base: BaseModel, tmp_path: Path) -> None:
    trial = make(talks(tmp_path), "", on="answers")
    pack = open_pack(base, {1: trial})
    course = pack.slots[1].course
    batch = course.batch(0)
    assert any(example.earlier for example in batch) and not all(one.earlier for one in batch)
    got = pack.gradients({1: batch})[1]
    plain = restore(base, None, torch.float32, CPU)
    losses, count = 0.0, 0
    for example in batch:
        text = course.template.decode(example.ids, False)
        labels = torch.full((len(example.ids),), -100)
        for start, stop in example.targets():
            labels[start:stop] = torch.tensor(example.ids[start:stop])
            said = course.template.decode(example.ids[start:stop], False)
            assert said.startswith(ANSWERS) and said in text
        logits = plain(input_ids=torch.tensor([example.ids]), use_cache=False).logits[0, :-1]
        losses += float(torch.nn.functional.cross_entropy(logits, labels[1:], reduction="sum"))
        count += int((labels >= 0).sum())
    assert count == sum(course.supervised(example) for example in batch)
    assert abs(got - losses / count) < 1e-5


def test_a_slot_ends_as_the_trial_alone(base: BaseModel, tmp_path: Path) -> None:
    pack = open_pack(base, {1: make(talks(tmp_path), "", on="answers")})
    pack.budget = 300
    assert_ends_alike(pack, 1, run(pack, 20)[1], base)
