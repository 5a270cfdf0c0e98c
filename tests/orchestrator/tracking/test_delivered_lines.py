"""A journal that someone has cut or edited between two commands: the store loses nothing by it, and
is told nothing twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.tracking.delivered_lines import Told
from orchestrator.tracking.outbox import OutboxWorker
from tests.support.memory_store import (
    SWEEP,
    TRIAL,
    Memory,
    append,
    carry,
    impatient,
    metric,
)
from tests.support.memory_store import T as MOMENT

quick = pytest.fixture(autouse=True)(impatient)


def steps(store: Memory, name: str = "trial-003") -> list[int]:
    """The steps that a run was told, in order."""
    return sorted(row[3] for row in store.metrics(name))


@pytest.fixture
def told(tmp_path: Path) -> Memory:
    """A store that was told twenty steps."""
    store = Memory()
    append(tmp_path, SWEEP, TRIAL, *(metric(3, step) for step in range(1, 21)))
    assert carry(tmp_path, store) == 0
    return store


def cut_in_a_line(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3 + 5]


def cut_at_a_line(content: bytes) -> bytes:
    return b"".join(content.splitlines(keepends=True)[:9])


def lose_the_first_line(content: bytes) -> bytes:
    return content.partition(b"\n")[2]


def cut_the_first_line(content: bytes) -> bytes:
    return content[7:]


def lose_a_line_in_the_middle(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join(lines[:10] + lines[11:])


def change_a_byte(content: bytes) -> bytes:
    return content[:700] + b'"' + content[701:]


def write_a_line_anew(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    lines[8] = json.dumps(json.loads(lines[8]), indent=None, separators=(",", ":")).encode() + b"\n"
    return b"".join(lines)


def put_a_line_in_between(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join([*lines[:4], b'{"a comment": 1}\n', *lines[4:]])


def turn_around(content: bytes) -> bytes:
    first, *others = content.splitlines(keepends=True)
    return b"".join([first, *reversed(others)])


EDITS = [
    cut_in_a_line, cut_at_a_line, lose_the_first_line, cut_the_first_line, lose_a_line_in_the_middle, change_a_byte, write_a_line_anew,
    put_a_line_in_between, turn_around,
]  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_what_comes_after_an_edit_arrives_and_nothing_arrives_twice(
    edit: Callable[[bytes], bytes], told: Memory, tmp_path: Path
) -> None:
    file, runs = tmp_path / "journal.jsonl", dict(told.runs)
    content = edit(file.read_bytes())
    file.write_bytes(
        content if content.endswith(b"\n") else content + b"\n"
    )  # as the next append does
    # The sweep computes again what its journal has lost, at another moment and another speed.
    again = [metric(3, step) | {"t": MOMENT + 5000 + step} for step in range(12, 31)]
    append(tmp_path, *again)
    assert carry(tmp_path, told) == 0
    assert steps(told) == list(range(1, 31))
    append(tmp_path, metric(3, 31))
    assert carry(tmp_path, told) == 0
    assert steps(told) == list(range(1, 32))
    assert told.runs == runs


def test_a_journal_that_is_cut_while_the_writer_runs_is_noticed(
    told: Memory, tmp_path: Path
) -> None:
    writer = OutboxWorker(lambda: told, tmp_path)
    writer.start()
    while writer.run_id(3) is None:
        pass
    file = tmp_path / "journal.jsonl"
    file.write_bytes(cut_at_a_line(file.read_bytes()))
    append(tmp_path, metric(3, 99))
    assert writer.close(120) == 0
    assert steps(told) == [*range(1, 21), 99]


@pytest.mark.parametrize("offset", [1, 333, 10**9])
def test_a_cursor_that_points_anywhere_is_not_believed(
    offset: int, told: Memory, tmp_path: Path
) -> None:
    file = tmp_path / "tracking.json"
    state = json.loads(file.read_text())
    del state["checksum"]  # as earlier versions have written it
    file.write_text(json.dumps(state | {"offset": offset}))
    append(tmp_path, metric(3, 21))
    assert carry(tmp_path, told) == 0
    assert steps(told) == list(range(1, 22))


@pytest.mark.parametrize("name", ["tracking.json", "tracking.told"])
def test_a_cursor_in_which_a_disk_has_changed_anything_costs_no_event(
    name: str, told: Memory, tmp_path: Path
) -> None:
    file = tmp_path / name
    wrong = [file.read_bytes()[:size] for size in range(0, file.stat().st_size, 17)]
    for bit in range(0, 8 * file.stat().st_size, 29):
        changed = bytearray(file.read_bytes())
        changed[bit // 8] ^= 1 << bit % 8
        wrong.append(bytes(changed))
    for turn, content in enumerate(wrong, start=21):
        file.write_bytes(content)
        append(tmp_path, metric(3, turn))
        assert carry(tmp_path, told) == 0
        assert steps(told) == list(range(1, turn + 1)), content
        assert len(told.runs) == 2 and not (tmp_path / "tracking-refused.jsonl").exists()


@pytest.mark.parametrize("field", ["offset", "runs", "refused", "journal", "target", "name"])
def test_a_field_of_the_cursor_that_is_something_else_costs_no_event(
    field: str, told: Memory, tmp_path: Path
) -> None:
    file = tmp_path / "tracking.json"
    for turn, wrong in enumerate((None, -1, "x", [], {}, {"sweep": 3}, 1.5), start=21):
        state = json.loads(file.read_text())
        file.write_text(json.dumps(state | {field: wrong}))
        append(tmp_path, metric(3, turn))
        assert carry(tmp_path, told) == 0
        assert steps(told) == list(range(1, turn + 1)), wrong


def test_without_the_digests_the_store_is_asked_what_it_holds(told: Memory, tmp_path: Path) -> None:
    (tmp_path / "tracking.told").unlink()
    append(tmp_path, metric(3, 21))
    assert carry(tmp_path, told) == 0
    assert steps(told) == list(range(1, 22))


def test_another_journal_in_the_same_folder_gets_runs_of_its_own(
    told: Memory, tmp_path: Path
) -> None:
    (tmp_path / "journal.jsonl").unlink()
    append(
        tmp_path,
        SWEEP | {"t": MOMENT + 7},
        TRIAL | {"t": MOMENT + 8},
        metric(3, 1) | {"t": MOMENT + 9},
    )
    assert carry(tmp_path, told) == 0
    assert len(told.runs) == 4


def test_another_value_of_a_judgement_is_told_and_the_same_one_is_not(
    told: Memory, tmp_path: Path
) -> None:
    def judged(value: float, moment: int) -> dict[str, Any]:
        return {
            "t": MOMENT + moment,
            "kind": "metrics",
            "trial": 3,
            "step": 20,
            "metrics": {"test/exact_match": value},
        }

    append(tmp_path, judged(0.5, 1))
    assert carry(tmp_path, told) == 0
    file = tmp_path / "journal.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    append(tmp_path, {}, judged(0.5, 2), judged(0.25, 3))
    assert carry(tmp_path, told) == 0
    values = [row[1] for row in told.metrics("trial-003") if row[0] == "test/exact_match"]
    assert values == [0.5, 0.25]


def test_digests_that_were_half_written_are_written_anew(tmp_path: Path) -> None:
    told = Told(tmp_path / "told")
    told.add(0, [b"1" * 8, b"2" * 8])
    with told.file.open("ab") as stream:
        stream.write(b"333")
    assert told.read() == [b"1" * 8, b"2" * 8]
    told.add(2, [b"4" * 8])
    assert told.read() == [b"1" * 8, b"2" * 8, b"4" * 8]
