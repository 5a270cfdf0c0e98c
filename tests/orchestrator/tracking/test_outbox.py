"""The way from the journal to a store: a fake store at our own seam, so that every failure can be
had at once.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.tracking import outbox
from orchestrator.tracking.events import Event, Refused, RunUpdate, merge_events
from orchestrator.tracking.outbox import OutboxWorker

T = 1_700_000_000_000


class Memory:
    """A store in memory that can be told to fail."""

    def __init__(self, target: str = "memory") -> None:
        self.target = target
        self.runs: dict[str, tuple[str, dict[str, str]]] = {}
        self.updates: dict[str, list[RunUpdate]] = {}
        self.down = False
        self.lose_answers = False
        self.gate = threading.Event()
        self.gate.set()
        self.poison: Callable[[RunUpdate], Exception | None] = lambda _: None

    def _arrive(self) -> None:
        self.gate.wait()
        if self.down:
            raise ConnectionError("down")

    def answers(self) -> bool:
        return not self.down

    def has_run(self, run_id: str) -> bool:
        self._arrive()
        return run_id in self.runs

    def open_run(self, name: str, tags: dict[str, str], started: int) -> str:
        self._arrive()
        own = {key: value for key, value in tags.items() if key.startswith("orchestrator.")}
        for run_id, (_, known) in self.runs.items():
            if own.items() <= known.items():
                return run_id
        run_id = f"run{len(self.runs)}"
        if self.lose_answers:
            self.lose_answers = False
            # Carried out late: after the search of the next attempt.
            self.late = (run_id, (name, tags))
            raise ConnectionError("no answer")
        self.runs[f"{run_id}@{started}"] = (name, tags)
        return f"{run_id}@{started}"

    def write(self, run_id: str, update: RunUpdate) -> None:
        self._arrive()
        problem = self.poison(update)
        if problem is not None:
            raise problem
        self.updates.setdefault(run_id, []).append(update)

    def told(self, run_id: str, keys: set[str]) -> dict[str, dict[int, list[str]]]:
        self._arrive()
        found: dict[str, dict[int, list[str]]] = {}
        for key, value, _, step in [
            row
            for update in self.updates.get(run_id, [])
            for row in update.metrics
            if row[0] in keys
        ]:
            found.setdefault(key, {}).setdefault(step, []).append(repr(value))
        return found

    def drop_strays(self, tags: dict[str, str], keep: set[str]) -> None:
        for run_id in [
            key
            for key, (_, known) in self.runs.items()
            if tags.items() <= known.items() and key not in keep
        ]:
            del self.runs[run_id]

    def metrics(self, name: str) -> list[tuple[str, float, int, int]]:
        return [
            row
            for run_id, updates in self.updates.items()
            if self.runs[run_id][0] == name
            for update in updates
            for row in update.metrics
        ]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(outbox, "LONGEST_PAUSE_SECONDS", 0.01)


def append(folder: Path, *events: Event) -> None:
    with (folder / "journal.jsonl").open("a") as stream:
        stream.writelines(json.dumps(event) + "\n" for event in events)


def metric(trial: int | None, step: int, value: float = 1.0) -> Event:
    return {
        "t": T + step,
        "kind": "metrics",
        "trial": trial,
        "step": step,
        "metrics": {"valid/loss": value},
    }


SWEEP = {
    "t": T,
    "kind": "sweep",
    "name": "lora-7f3a91",
    "params": {"optim.lr": 0.1},
    "tags": {},
    "config": "a: 1",
    "datasets": [],
}
TRIAL = {
    "t": T,
    "kind": "trial",
    "trial": 3,
    "params": {"adapter.rank": 16},
    "datasets": [],
    "tags": {},
    "config": "b: 2",
}


def carry(folder: Path, store: Memory, timeout_seconds: float = 5.0) -> int:
    writer = OutboxWorker(lambda: store, folder)
    writer.start()
    return writer.close(timeout_seconds)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "waited five seconds in vain"
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


def test_a_dead_store_leaves_the_count_and_the_next_start_writes(tmp_path: Path):
    store = Memory()
    store.down = True
    append(tmp_path, SWEEP, TRIAL, metric(3, 1))
    writer = OutboxWorker(lambda: store, tmp_path)
    writer.start()
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
    assert writer.close(5) == 0 and len(attempts) == 3 and writer.error is None


def test_a_store_that_hangs_blocks_neither_the_driver_nor_the_end(tmp_path: Path):
    store = Memory()
    store.gate.clear()
    append(tmp_path, SWEEP)
    writer = OutboxWorker(lambda: store, tmp_path)
    writer.start()
    started = time.monotonic()
    for step in range(1000):
        append(tmp_path, metric(3, step))
        writer.wake()
    assert writer.close(0.1) == 1001
    assert time.monotonic() - started < 2
    store.gate.set()


def test_what_a_hanging_call_does_after_the_end_does_not_move_the_cursor(tmp_path: Path):
    store = Memory()
    store.gate.clear()
    append(tmp_path, SWEEP)
    writer = OutboxWorker(lambda: store, tmp_path)
    writer.start()
    assert writer.close(0.05) == 1
    store.gate.set()
    writer._thread.join(5)
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
    assert writer.close(5) == 0 and writer.num_refused == 1
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
    assert writer.close(5) == 0
    assert sorted(row[3] for row in store.metrics("trial-003")) == [0, 1, 3]


def test_a_store_that_is_down_for_long_refuses_nothing(tmp_path: Path):
    store = Memory()
    store.down = True
    append(tmp_path, SWEEP, metric(None, 1))
    writer = OutboxWorker(lambda: store, tmp_path)
    writer.start()
    until(lambda: writer._failures > 2 * outbox.PATIENCE)
    store.down = False
    assert writer.close(5) == 0 and writer.num_refused == 0


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
    assert writer.close(5) == 0 and writer.num_refused == 1
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
    assert writer.close(5) == 0
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
