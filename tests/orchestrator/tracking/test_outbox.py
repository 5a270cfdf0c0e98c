"""The way from the journal to a store: a fake store at our own seam, so that every failure can be
had at once.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.tracking import outbox
from orchestrator.tracking.events import Refused, merge_events
from orchestrator.tracking.outbox import OutboxWorker
from tests.support.memory_store import SWEEP, TRIAL, Memory, T, append, carry, impatient, metric

quick = pytest.fixture(autouse=True)(impatient)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "waited two minutes in vain"
        time.sleep(0.005)


def test_events_become_a_parent_and_a_child(tmp_path: Path):
    append(tmp_path, SWEEP, TRIAL, metric(3, 40), metric(None, 40, 2.0))
    store = Memory()
    assert carry(tmp_path, store) == 0
    (parent, (_, sweep_tags)), (_, (child_name, child_tags)) = store.runs.items()
    assert (
        sweep_tags["orchestrator.sweep.runner"] == "lora-7f3a91"
        and sweep_tags["orchestrator.trial"] == ""
    )
    assert child_name == "trial-003" and child_tags["mlflow.parentRunId"] == parent
    assert store.metrics("trial-003") == [("valid/loss", 1.0, T + 40, 40)]
    assert store.metrics("lora-7f3a91") == [("valid/loss", 2.0, T + 40, 40)]


def test_a_chunk_is_one_update_per_run(tmp_path: Path):
    append(tmp_path, SWEEP, TRIAL, *(metric(3, step) for step in range(1000)))
    store = Memory()
    assert carry(tmp_path, store) == 0
    assert [len(updates) for updates in store.updates.values()] == [1, 1]


def test_a_later_start_goes_on_where_the_last_one_ended(tmp_path: Path):
    store = Memory()
    append(tmp_path, SWEEP, TRIAL, metric(3, 1))
    carry(tmp_path, store)
    append(tmp_path, metric(3, 2))
    carry(tmp_path, store)
    assert [row[3] for row in store.metrics("trial-003")] == [1, 2]
    assert len(store.runs) == 2


def test_what_is_judged_again_after_a_kill_is_told_once_and_another_score_is_news(tmp_path: Path):
    def judged(score: float, moment: int) -> dict[str, object]:
        return {
            "t": T + moment,
            "kind": "metrics",
            "trial": None,
            "metrics": {"test/accuracy": score, "base/accuracy": 0.25},
        }

    store = Memory()
    append(tmp_path, SWEEP, judged(0.5, 1))
    carry(tmp_path, store)
    append(tmp_path, judged(0.5, 2))
    carry(tmp_path, store)
    assert len(store.metrics("lora-7f3a91")) == 2
    append(tmp_path, judged(0.75, 3), judged(0.75, 3))
    carry(tmp_path, store)
    append(tmp_path, judged(0.75, 4))
    carry(tmp_path, store)
    scores = {row for row in store.metrics("lora-7f3a91") if row[0] == "test/accuracy"}
    assert scores == {("test/accuracy", 0.5, T + 1, 0), ("test/accuracy", 0.75, T + 3, 0)}


def test_a_dead_store_leaves_the_count_and_the_next_start_writes(tmp_path: Path):
    store = Memory()
    store.down = True
    append(tmp_path, SWEEP, TRIAL, metric(3, 1))
    writer = OutboxWorker(lambda: store, tmp_path)
    writer.start()
    until(lambda: writer.error)
    assert writer.close(0.05) == 3
    assert writer.error == "down"
    store.down = False
    assert carry(tmp_path, store) == 0
    assert len(store.metrics("trial-003")) == 1


def test_a_store_that_cannot_be_connected_is_tried_again(tmp_path: Path):
    store, attempts = Memory(), []

    def connect() -> Memory:
        attempts.append(1)
        if len(attempts) < 3:
            raise ConnectionError("nobody there")
        return store

    append(tmp_path, SWEEP)
    writer = OutboxWorker(connect, tmp_path)
    writer.start()
    until(lambda: writer.run_id(None))
    assert writer.close(120) == 0 and len(attempts) == 3 and writer.error is None


def test_a_store_that_hangs_blocks_neither_the_driver_nor_the_end(tmp_path: Path):
    store = Memory()
    store.gate.clear()
    append(tmp_path, SWEEP)
    writer = OutboxWorker(lambda: store, tmp_path)
    writer.start()
    for step in range(1000):
        append(tmp_path, metric(3, step))
        writer.wake()
    # The store hangs until the gate opens, below: coming here at all shows that nothing waits.
    began = time.monotonic()
    assert writer.close(0.1) == 1001
    assert time.monotonic() - began < 2, "it waits as long as it was told, not as long as a sweep"
    store.gate.set()


def test_what_a_hanging_call_does_after_the_end_does_not_move_the_cursor(tmp_path: Path):
    store = Memory()
    store.gate.clear()
    append(tmp_path, SWEEP)
    writer = OutboxWorker(lambda: store, tmp_path)
    writer.start()
    assert writer.close(0.05) == 1
    store.gate.set()
    writer._thread.join(120)
    assert not writer._thread.is_alive()
    assert carry(tmp_path, store) == 0 and len(store.runs) == 1


@pytest.mark.parametrize("content", ["", "{not json", '{"journal": 1, "unknown": 2}'])
def test_a_lost_or_torn_state_finds_the_runs_again(tmp_path: Path, content: str):
    store = Memory()
    append(tmp_path, SWEEP, TRIAL, metric(3, 1))
    carry(tmp_path, store)
    (tmp_path / "tracking.json").write_text(content)
    assert carry(tmp_path, store) == 0
    assert len(store.runs) == 2


def test_two_people_with_the_same_sweep_do_not_share_runs(tmp_path: Path):
    store = Memory()
    for index, folder in enumerate((tmp_path / "a", tmp_path / "b")):
        folder.mkdir()
        append(folder, SWEEP | {"t": T + index})
        carry(folder, store)
    assert len(store.runs) == 2


def test_another_store_or_a_wiped_one_is_told_everything(tmp_path: Path):
    append(tmp_path, SWEEP, TRIAL, metric(3, 1))
    for store in (Memory("first"), Memory("second"), Memory("second")):
        assert carry(tmp_path, store) == 0
        assert len(store.runs) == 2 and len(store.metrics("trial-003")) == 1


def test_a_refused_event_is_set_aside_and_the_rest_arrives(tmp_path: Path):
    store = Memory()
    store.poison = lambda update: (
        Refused("bad name") if any(row[3] == 13 for row in update.metrics) else None
    )
    append(tmp_path, SWEEP, TRIAL, *(metric(3, step) for step in range(40)))
    writer = OutboxWorker(lambda: store, tmp_path)
    writer.start()
    assert writer.close(120) == 0 and writer.num_refused == 1
    assert sorted(row[3] for row in store.metrics("trial-003")) == [
        step for step in range(40) if step != 13
    ]
    (line,) = (tmp_path / "tracking-refused.jsonl").read_text().splitlines()
    assert json.loads(line)["event"]["step"] == 13 and json.loads(line)["reason"] == "bad name"


def test_what_a_working_store_never_takes_is_set_aside_after_some_tries(tmp_path: Path):
    store = Memory()
    store.poison = lambda update: (
        ConnectionError("500") if any(row[3] == 2 for row in update.metrics) else None
    )
    append(tmp_path, SWEEP, TRIAL, *(metric(3, step) for step in range(4)))
    writer = OutboxWorker(lambda: store, tmp_path)
    writer.start()
    until(lambda: writer.num_refused)
    assert writer.close(120) == 0
    assert sorted(row[3] for row in store.metrics("trial-003")) == [0, 1, 3]


def test_a_store_that_is_down_for_long_refuses_nothing(tmp_path: Path):
    store = Memory()
    store.down = True
    append(tmp_path, SWEEP, metric(None, 1))
    writer = OutboxWorker(lambda: store, tmp_path)
    writer.start()
    until(lambda: writer._failures > 2 * outbox.PATIENCE)
    store.down = False
    assert writer.close(120) == 0 and writer.num_refused == 0


def test_a_store_that_is_only_read_for_a_while_refuses_nothing(tmp_path: Path):
    store = Memory()
    append(tmp_path, SWEEP, metric(None, 1))
    writer = OutboxWorker(lambda: store, tmp_path)
    writer.start()
    until(lambda: store.updates)
    store.read_only = True
    append(tmp_path, metric(None, 2))
    until(lambda: writer._failures > 2 * outbox.PATIENCE)
    store.read_only = False
    assert writer.close(120) == 0 and writer.num_refused == 0


@pytest.mark.parametrize(
    "reason",
    [
        "(sqlite3.OperationalError) database or disk is full",
        "tracking.uri=sqlite:////x/mlflow.db: the disk is full; free some space",
        "(sqlite3.OperationalError) attempt to write a readonly database",
        "[Errno 28] No space left on device",
    ],
)
def test_what_a_stores_machine_has_no_room_for_is_never_set_aside(
    tmp_path: Path, reason: str
) -> None:
    store = Memory()
    store.poison = lambda _: RuntimeError(reason)
    append(tmp_path, SWEEP, TRIAL, *(metric(3, step) for step in range(4)))
    writer = OutboxWorker(lambda: store, tmp_path)
    writer.start()
    until(lambda: writer._failures > outbox.PATIENCE)
    store.poison = lambda _: None
    assert writer.close(120) == 0 and writer.num_refused == 0
    assert sorted(row[3] for row in store.metrics("trial-003")) == [0, 1, 2, 3]


def test_malformed_events_are_set_aside_and_unknown_or_torn_ones_skipped(tmp_path: Path):
    append(
        tmp_path,
        SWEEP,
        {"t": T, "kind": "weather"},
        {"t": T, "kind": "metrics", "trial": 3, "step": 1, "metrics": {"a": "fast"}},
    )
    with (tmp_path / "journal.jsonl").open("a") as stream:
        stream.write(
            '{"t": 1, "ki\n[1]\n' + json.dumps(metric(None, 7)) + '\n{"t": 17, "kind": "met'
        )
    store = Memory()
    writer = OutboxWorker(lambda: store, tmp_path)
    writer.start()
    assert writer.close(120) == 0 and writer.num_refused == 1
    assert [row[3] for row in store.metrics("lora-7f3a91")] == [7]


def test_a_run_that_was_made_twice_is_removed_when_the_sweep_ends(tmp_path: Path):
    store = Memory()
    store.lose_answers = True
    append(tmp_path, SWEEP)
    writer = OutboxWorker(lambda: store, tmp_path)
    writer.start()
    until(lambda: writer.run_id(None))
    run_id, run = store.late
    store.runs[run_id] = run
    append(tmp_path, {"t": T, "kind": "sweep_end", "state": "finished", "metrics": {}})
    assert writer.close(120) == 0
    assert list(store.runs) == [writer.run_id(None)]


def test_a_metric_before_its_trial_opens_the_runs(tmp_path: Path):
    append(tmp_path, metric(12, 1))
    store = Memory()
    assert carry(tmp_path, store) == 0
    assert [name for name, _ in store.runs.values()] == [tmp_path.name, "trial-012"]


def test_a_missing_journal_is_an_empty_one(tmp_path: Path):
    assert carry(tmp_path, Memory()) == 0


def test_the_last_state_counts_when_a_trial_goes_on_after_its_end():
    failed = {"t": T + 1, "kind": "end", "trial": 3, "state": "failed", "error": "out of memory"}
    update = merge_events([TRIAL, failed])
    assert (update.status, update.ended, update.tags["failure"]) == (
        "FAILED",
        T + 1,
        "out of memory",
    )
    assert merge_events([TRIAL, failed, TRIAL]).status == "RUNNING"
    assert merge_events([TRIAL, failed, TRIAL]).ended is None


def test_a_long_failure_keeps_both_ends_as_a_tag_and_all_of_it_as_a_file():
    text = "start" + "x" * 2000 + "KeyError: the end"
    update = merge_events([{"t": T, "kind": "end", "trial": 3, "state": "failed", "error": text}])
    assert update.files["failure.txt"] == text
    assert (
        len(update.tags["failure"]) < 520
        and update.tags["failure"].startswith("start")
        and update.tags["failure"].endswith("the end")
    )


def test_null_and_nan_metrics_are_not_numbers():
    rows = merge_events(
        [
            metric(3, 1, math.nan),
            {"t": T, "kind": "metrics", "trial": 3, "step": 2, "metrics": {"a": None}},
        ]
    ).metrics
    assert all(math.isnan(row[1]) for row in rows)
