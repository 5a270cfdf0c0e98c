"""Whole sweeps of mix.method=merge on the tiny model: experts, mixtures, trials, report; again, with
a source more, and after an interruption.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.content import content
from orchestrator.report.sweep_data import read_sweep
from orchestrator.storage.journal import Journal

MERGE = (
    *("+sweep=mix", "mix.method=merge", "sweep.num_trials=4", "mix.trained=2", "mix.candidates=6"),
    *("train.steps=12", "train.eval_every=6", "mix.steps=6", "job.examples=0", "registry.beat=[]"),
    "tracking.system_metrics=false",
)


def source(folder: Path, name: str, answers: str) -> str:
    """A file of rows, and the setting that adds it."""
    rows = [{"prompt": f"{name} {i}", "completion": answers[i % len(answers)]} for i in range(40)]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"+data.sources.{name}.path={folder / name}.jsonl"


def held(folder: Path) -> list[str]:
    """Held-out rows of their own: cut from the training rows, others would be with a source more."""
    for split in ("valid", "test"):
        source(folder, split, "ABC")
    return [f"data.{split}={folder / split}.jsonl" for split in ("valid", "test")]


def experts(storage: Path) -> dict[str, str]:
    """The experts that are kept, by source."""
    files = storage.glob("experts/*/expert.json")
    return {json.loads(file.read_text())["source"]: file.parent.name for file in files}


def mixtures(storage: Path, name: str) -> dict[str, Any]:
    """What the journal of a sweep says of merging."""
    events = list(Journal(storage / "sweeps" / name).events())
    found = [event for event in events if event["kind"] == "mixtures"]
    assert len(found) == 1, "it is scored once"
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["pack", "plain"])
def test_a_merged_sweep_trains_the_best_mixtures_and_a_source_more_costs_one_expert(
    command: Any, tmp_path: Path, executor: str
) -> None:
    arguments = [*MERGE, *held(tmp_path), source(tmp_path, "more", "AB"), f"executor={executor}"]
    arguments.append(f"storage={tmp_path / 'store'}")
    done = command(*arguments)
    assert done.code == 0, done.err
    assert "training the experts of train, more" in done.err
    assert "scoring 6 mixtures of the experts" in done.err
    name = done.result["sweep"]
    folder = tmp_path / "store" / "sweeps" / name
    first = experts(tmp_path / "store")
    assert set(first) == {"train", "more"} and not (folder / "experts").exists()
    told = mixtures(tmp_path / "store", name)
    records = Journal(folder).records()
    assert set(records) == {1, 2, 3, 4}, "experts are no trials"
    for index, mix in zip((3, 4), told["chosen"], strict=True):
        point = records[index].point
        assert {n: point[f"data.sources.{n}.weight"] for n in mix} == mix
    merged = content(read_sweep(folder))["merged"]
    assert merged["trained"] == 4 and len(merged["rows"]) == 6
    assert merged["correlation"] is not None or merged["loss_correlation"] is not None
    assert "Rank correlation (Spearman)" in (folder / "report.html").read_text()
    again = command(*arguments)
    assert again.result == done.result and "is finished; this is its result" in again.err
    wider = command(*arguments, source(tmp_path, "third", "C"), "sweep.num_trials=3")
    assert wider.code == 0, wider.err
    assert "experts found again: train, more" in wider.err
    assert "training the experts of third" in wider.err
    second = experts(tmp_path / "store")
    assert second == first | {"third": second["third"]}
    found = mixtures(tmp_path / "store", wider.result["sweep"])["experts"]
    assert {n: e["found"] for n, e in found.items()} == {
        "train": True,
        "more": True,
        "third": False,
    }


@pytest.mark.slow
def test_experts_that_were_interrupted_go_on_and_the_sweep_ends_as_an_undisturbed_one(
    command: Any, tmp_path: Path
) -> None:
    arguments = [*MERGE, *held(tmp_path), source(tmp_path, "more", "AB"), "mix.steps=40"]
    expected = command(*arguments, f"storage={tmp_path / 'undisturbed'}")
    assert expected.code == 0, expected.err
    storage = tmp_path / "stopped"
    process = command(*arguments, f"storage={storage}", start=True)
    deadline = time.monotonic() + 400
    while (
        not any(storage.glob("sweeps/*/experts/*/journal.jsonl"))
        or "train/loss" not in next(storage.glob("sweeps/*/experts/*/journal.jsonl")).read_text()
    ):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 130, told
    assert not experts(storage)
    done = command(*arguments, f"storage={storage}")
    assert done.code == 0, done.err
    names = expected.result["sweep"], done.result["sweep"]
    assert names[0] == names[1]
    one, other = (mixtures(tmp_path / place, names[0]) for place in ("undisturbed", "stopped"))
    assert one["chosen"] == other["chosen"] and one["candidates"] == other["candidates"]


@pytest.mark.slow
def test_a_damaged_expert_is_told_and_trained_again(command: Any, tmp_path: Path) -> None:
    arguments = [
        *MERGE,
        *held(tmp_path),
        source(tmp_path, "more", "AB"),
        f"storage={tmp_path / 'store'}",
    ]
    done = command(*arguments)
    assert done.code == 0, done.err
    digest = experts(tmp_path / "store")["more"]
    weights = tmp_path / "store" / "experts" / digest / "adapter_model.safetensors"
    content_before = weights.read_bytes()
    weights.write_bytes(content_before[:-8] + b"damaged!")
    again = command(*arguments, "fresh=true")
    assert again.code == 0, again.err
    assert "the expert of more in" in again.err and "is damaged" in again.err
    assert "training the experts of more" in again.err
    assert weights.read_bytes() == content_before, "the same settings train the same expert"
