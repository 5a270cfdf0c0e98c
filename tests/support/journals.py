"""Journals of sweeps that never ran: any number of trials, with the faults that real ones have."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

SPACE = {
    "lr": {"path": "optim.lr", "type": "loguniform", "low": 5e-5, "high": 5e-3},
    "rank": {"path": "adapter.rank", "type": "choice", "values": [4, 8, 16, 32]},
    "titles": {"path": "data.sources.titles.weight", "type": "uniform", "low": 0.0, "high": 0.9},
    "terms": {
        "path": "data.sources.terms.weight",
        "type": "linked",
        "to": "data.sources.titles.weight",
        "times": -1,
        "plus": 1,
    },
}
START = 1_795_934_672_000
COMMAND = "python -m orchestrator +sweep=lora sweep.num_trials={count}"
Write = Callable[..., None]
"""`write(kind, seconds, **fields)`: one event of a journal."""


def write_sweep(
    folder: Path,
    count: int,
    *,
    steps: int = 480,
    rungs: tuple[int, ...] = (80, 240, 480),
    metric: str = "valid/exact_match",
    faulty: bool = False,
    judged: bool = True,
    best_lr: float = 1e-3,
    valid_rows: int = 400,
    seed: int = 0,
    **extra: Any,
) -> Path:
    """Write a sweep of `count` trials into a folder: journal.jsonl, result.json, predictions.jsonl.
    Scores peak at `best_lr` and at a rank of 16. `faulty` mixes in NaN, failures, trials without
    any metric and torn lines; `extra` goes into the result.
    """
    stream = random.Random(seed)
    folder.mkdir(parents=True)
    config = {
        "sweep": {"name": "lora", "space": SPACE, "metric": metric},
        "train": {"steps": steps, "eval_every": rungs[0], "batch_size": 32},
    }
    lines: list[str] = []

    def write(kind: str, t: float, **fields: Any) -> None:
        lines.append(json.dumps({"t": int(START + 1000 * t), "kind": kind, **fields}))

    command = COMMAND.format(count=count)
    write(
        "sweep",
        0,
        name=folder.name,
        params={"sweep.num_trials": count, "sweep.metric": metric},
        config=yaml.safe_dump(config),
        command=command,
        concurrent=min(count, 12),
    )
    datasets = [
        {"name": "a/valid", "context": "validation", "rows": valid_rows},
        {"name": "a/test", "context": "test", "rows": 850},
    ]
    best: tuple[float, int, dict[str, Any], dict[str, float]] | None = None
    for index in range(1, count + 1):
        point, quality = draw_point(stream, best_lr)
        write(
            "trial",
            index,
            trial=index,
            point=point,
            params=point | {"train.batch_size": 32},
            datasets=datasets,
        )
        fault = stream.random() if faulty else 1.0
        if fault < 0.1:
            write_early_end(write, index, fault, stream)
            continue
        for metrics in write_training(write, index, quality, fault, stream, rungs, valid_rows):
            score = metrics.get(metric, math.nan)
            if not math.isnan(score) and (best is None or score > best[0]):
                best = score, index, point, metrics
    if faulty:
        lines.insert(len(lines) // 2, '{"t": 1, "kind": "repo')
        lines.append('{"kind": "report"}')
    write("sweep_end", count + steps / 10, state="finished", error=None, metrics={})
    (folder / "journal.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if judged and best is not None:
        write_result(folder, count, best, command, stream, extra)
    return folder


def draw_point(stream: random.Random, best_lr: float) -> tuple[dict[str, Any], float]:
    """A point of the search space, and the score that it would reach in the end."""
    lr = math.exp(stream.uniform(math.log(5e-5), math.log(5e-3)))
    rank, titles = stream.choice([4, 8, 16, 32]), round(stream.uniform(0, 0.9), 3)
    point = {
        "optim.lr": float(f"{lr:.4g}"),
        "adapter.rank": rank,
        "data.sources.titles.weight": titles,
        "data.sources.terms.weight": round(1 - titles, 3),
    }
    quality = (
        0.45
        * math.exp(-(math.log(lr / best_lr) ** 2) / 1.5)
        * (0.8 + 0.05 * math.log2(rank))
        * (1 - 0.5 * titles)
    )
    return point, quality


def write_early_end(write: Write, index: int, fault: float, stream: random.Random) -> None:
    """The end of a trial without any metric: a failure, or a stop."""
    if fault < 0.05:
        error = f"out of memory: {stream.randint(1, 9)} GiB <b>wanted</b>"
        write("end", index + 1, trial=index, state="failed", error=error)
    else:
        write("end", index + 1, trial=index, state="stopped", error=None)


def write_training(
    write: Write,
    index: int,
    quality: float,
    fault: float,
    stream: random.Random,
    rungs: tuple[int, ...],
    valid_rows: int,
) -> list[dict[str, float]]:
    """A trial's steps up to one of the rungs, and its end; returns the metrics at each rung."""
    reports: list[dict[str, float]] = []
    reach = rungs[stream.randint(0, len(rungs) - 1)] if index > 1 else rungs[-1]
    for step in range(8, reach + 1, 8):
        moment = index + step / 10
        loss = 4 * math.exp(-step / 200) + 1 - quality
        if fault < 0.15 and step > 100:
            loss = math.nan
        write("metrics", moment, trial=index, step=step, metrics={"train/loss": loss})
        if step in rungs:
            share = quality * (1 - math.exp(-step / 160)) + stream.gauss(0, 0.004)
            score = round(max(share, 0) * valid_rows) / valid_rows
            metrics = {
                "valid/loss": loss,
                "valid/exact_match": math.nan if fault < 0.15 else score,
            }
            write("report", moment, trial=index, step=step, metrics=metrics, checkpoint=None)
            reports.append(metrics)
    state = "finished" if reach == rungs[-1] else "stopped"
    write("end", index + reach / 10, trial=index, state=state, error=None)
    return reports


def write_result(
    folder: Path, count: int, best: Any, command: str, stream: random.Random, extra: dict[str, Any]
) -> None:
    """What the end of a sweep leaves: the result, and an answer to each test row."""
    value, index, point, metrics = best
    score = round(value, 3)
    labels = [f"A{number:02d}" for number in range(40)]
    rows = []
    for number in range(850):
        reference = stream.choice(labels)
        wrong = stream.choice(
            [
                stream.choice(labels),
                "",
                "A1",
                f"{reference} and more",
                "<script>alert(1)</script>",
                "Z99",
            ]
        )
        text = f"<|im_start|>user\nWhat is <b>diagnosis</b> {number}? </script><script>document.title='owned'</script><|im_end|>"
        rows.append(
            {
                "text": text,
                "reference": reference,
                "prediction": reference if stream.random() < score else wrong,
            }
        )
    hits = sum(row["prediction"] == row["reference"] for row in rows) / len(rows)
    tested = {
        "test/exact_match": hits,
        "test/exact_match_low": max(hits - 0.03, 0),
        "test/exact_match_high": hits + 0.03,
    }
    result = {
        "sweep": folder.name,
        "state": "finished",
        "trials": {"total": count, "finished": count, "stopped": 0, "failed": 0},
        "best": {
            "trial": index,
            "run_id": None,
            "step": 480,
            "params": point,
            "metrics": metrics | tested,
        },
        "base": {
            "metrics": {
                "test/exact_match": 0.01,
                "test/exact_match_low": 0.0,
                "test/exact_match_high": 0.02,
            }
        },
        "model": {
            "name": "icd10-smollm2",
            "version": 1,
            "alias": None,
            "uri": "models:/icd10-smollm2/1",
        },
        "decision": "it does not beat the nearest row's 0.63",
        "seconds": {"setup": 1, "train": 2, "total": 3},
        "tracking_uri": "sqlite:///x",
        "steps": 480,
        "command": command,
        **extra,
    }
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    (folder / "export").mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "export" / "predictions.jsonl").write_text(text, encoding="utf-8")
