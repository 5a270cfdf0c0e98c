"""A fleet against the same tasks tuned one after another: wall time, and the scores of every trial.

    python -m benchmarks.fleet [--tasks 8] [--model tiny] [--trials 3] [--steps 60] [--folder DIR]

Both ways have a storage of their own. Prints one JSON object: seconds of the fleet, of each sweep
and of all, their ratio, and the largest difference of a validation loss and of a test score.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from orchestrator.project import ROOT
from orchestrator.storage.journal import Journal

LANGUAGES = ("en", "de", "fr", "es", "it", "nl", "pt", "sv")


def settings(arguments: argparse.Namespace) -> list[str]:
    """What both ways have in common."""
    return [
        f"model={arguments.model}",
        "train.dtype=float32",
        "sweep.minutes=null",
        f"sweep.num_trials={arguments.trials}",
        f"train.steps={arguments.steps}",
        f"train.eval_every={max(arguments.steps // 3, 1)}",
        "train.batch_size=16",
        "output=json",
    ]


def timed(line: list[str]) -> tuple[float, dict[str, Any]]:
    """Seconds and result of one command."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *line], stdout=subprocess.PIPE, text=True, check=True
    )
    return time.monotonic() - began, json.loads(done.stdout.strip().splitlines()[-1])


def valid_losses(storage: Path, sweep: str) -> dict[tuple[int, int], float]:
    """The validation loss of each trial at each of its rungs."""
    records = Journal(storage / "sweeps" / sweep).records()
    return {
        (index, step): metrics["valid/loss"]
        for index, record in records.items()
        for step, metrics in record.reports.items()
        if "valid/loss" in metrics
    }


def together(arguments: argparse.Namespace, folder: Path) -> tuple[float, dict[str, Any]]:
    """The fleet."""
    tasks = {name: {"folder": str(ROOT / "data" / "languages" / name)} for name in arguments.names}
    typed = ["+fleet=languages", f"storage={folder}", *settings(arguments)]
    others = [name for name in LANGUAGES if name not in tasks]
    typed += [f"~data.tasks.{name}" for name in others]
    seconds, result = timed(typed)
    return seconds, {row["task"]: row for row in result["tasks"]}


def alone(arguments: argparse.Namespace, folder: Path, name: str) -> tuple[float, dict[str, Any]]:
    """One task's sweep by itself."""
    return timed(
        [
            *("+sweep=lora", "data=files", f"data.folder={ROOT / 'data' / 'languages' / name}"),
            f"data.name={name}",
            "data.instruction=Give the intent of this request to a smart home, with its slots, as "
            "JSON:",
            *(f"sweep.name=lora-{name}", f"storage={folder}"),
            *settings(arguments),
        ]
    )


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both ways, and how far their scores are apart."""
    fleet_seconds, rows = together(arguments, folder / "fleet")
    seconds: dict[str, float] = {}
    apart = {"valid/loss": 0.0, "test": 0.0}
    for name in arguments.names:
        seconds[name], result = alone(arguments, folder / "alone", name)
        ours = valid_losses(folder / "fleet", rows[name]["sweep"])
        theirs = valid_losses(folder / "alone", result["sweep"])
        assert ours.keys() == theirs.keys(), f"{name}: other trials have come to other rungs"
        differences = [abs(ours[key] - theirs[key]) for key in ours]
        apart["valid/loss"] = max([apart["valid/loss"], *differences])
        score = result["best"]["metrics"][result["metric"]]
        apart["test"] = max(apart["test"], abs(rows[name]["score"] - score))
    total = sum(seconds.values())
    return {
        "tasks": len(arguments.names),
        "fleet_seconds": round(fleet_seconds, 1),
        "alone_seconds": {name: round(value, 1) for name, value in seconds.items()},
        "alone_total": round(total, 1),
        "ratio": round(fleet_seconds / total, 3),
        "largest_difference": apart,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=len(LANGUAGES))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    arguments.names = LANGUAGES[: arguments.tasks]
    if arguments.folder is not None:
        print(json.dumps(compare(arguments, arguments.folder)), flush=True)
        return
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        print(json.dumps(compare(arguments, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
