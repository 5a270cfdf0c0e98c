"""Lines of a journal that a disk has changed: what they told is not believed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from orchestrator.storage.journal import Journal
from orchestrator.storage.journal_lines import event_of, line_of
from orchestrator.storage.journal_reader import History
from orchestrator.tracking.journal_reader import JournalReader

METRICS = {"valid/loss": 0.1703756805341426, "valid/exact_match": 0.9333333333333333}


def filled(folder: Path) -> Journal:
    """Two trials that have reported."""
    journal = Journal(folder)
    journal.append("sweep", name="a-1", params={"sweep.num_trials": 2})
    for trial in (1, 2):
        journal.append("trial", trial=trial, point={"optim.lr": 0.1 * trial, "adapter.rank": 8})
        for step in (10, 20):
            journal.append("metrics", trial=trial, step=step, metrics={"train/loss": 1.5 / step})
            journal.append("report", trial=trial, step=step, metrics=METRICS, checkpoint="/a")
        journal.append("end", trial=trial, state="finished", error=None)
    return journal


def readings(journal: Journal) -> dict[str, list[Any]]:
    """What each reader of a journal makes of it."""
    delivered, _, _ = JournalReader(journal.file).read(0)
    return {
        "the sweep": list(journal.events()),
        "who looks on": History(journal.folder).update(),
        "the tracking store": [event for _, event in delivered],
    }


def test_a_flipped_bit_anywhere_is_a_line_that_is_missing_and_never_another_value(
    tmp_path: Path,
) -> None:
    journal = filled(tmp_path)
    whole = journal.file.read_bytes()
    written = readings(journal)["the sweep"]
    source = random.Random(11)
    places = [(source.randrange(len(whole) - 1), source.randrange(8)) for _ in range(1500)]
    digits = [at for at in range(len(whole)) if whole[at : at + 1].isdigit()]
    places += [(at, 0) for at in digits]
    lost = 0
    for at, bit in places:
        content = bytearray(whole)
        content[at] ^= 1 << bit
        journal.file.write_bytes(content)
        for reader, events in readings(journal).items():
            unknown = [event for event in events if event not in written]
            # Of a line whose checksum is not one any more, the event itself is what it was.
            assert all(without_seal(event) in written for event in unknown), (reader, at, unknown)
        lost += journal.num_damaged > 0
    assert lost > len(digits), "a digit is a value in most places"


def without_seal(event: dict[str, Any]) -> dict[str, Any]:
    """An event without a checksum whose name was changed."""
    last = list(event)[-1]
    return {key: value for key, value in event.items() if key != last}


def test_lines_of_an_earlier_version_and_lines_written_anew_are_taken(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    written = list(journal.events())
    old = [json.dumps(event) for event in written]
    journal.file.write_text("\n".join(old) + "\n")
    assert list(journal.events()) == written and journal.num_damaged == 0
    sealed = [json.loads(line_of(event)) for event in written]
    anew = [json.dumps(event, separators=(",", ":")) for event in sealed]
    journal.file.write_text("\n".join(anew) + "\n")
    assert list(journal.events()) == written and journal.num_damaged == 0
    assert [len(events) for events in readings(journal).values()] == [len(written)] * 3


@pytest.mark.parametrize(
    "value",
    [0.1, 1e-320, float("inf"), 10**30, "\u2028 \ud800 \x00", {1: [(), None, True]}, {"crc": 1}],
)
def test_every_value_is_read_as_it_was_written(value: Any) -> None:
    event = {"t": 1, "kind": "x", "value": value}
    assert event_of(line_of(event)) == json.loads(json.dumps(event))
    assert event_of(line_of(event).replace(b'"t": 1', b'"t": 2')) is None
