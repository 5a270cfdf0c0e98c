"""The plan's estimate beside the truth, for sweeps of ten kinds.

    python -m benchmarks.estimates [--only "NAME;NAME"] [--results FOLDER] [--fresh]

Each sweep is a command of its own in a storage of its own, so that no rate of an earlier one is
remembered: what is promised comes from the measured speed of this machine alone. Names hold commas,
so --only separates them by semicolons. What was measured is kept by command, machine and code, and
the same command goes on with the sweeps that are missing. On a busy machine the truth is longer:
run nothing beside it. Exit code 1 where a sweep did not end well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import answer, contenders
from jobs.machine.identity import identity, usable_cores
from orchestrator.output.console import duration
from orchestrator.project import ROOT

FACTOR = 1.3
"""An estimate is good within this factor."""
KINDS: dict[str, tuple[str, ...]] = {
    "tiny": ("+experiment=tiny", "train.steps=20"),
    "tiny, 8 trials": (
        "+experiment=tiny", "+sweep=lora", "sweep.minutes=null", "sweep.num_trials=8",
        "train.steps=60", "train.eval_every=20",
    ),
    "tiny, a process for each trial": (
        "+experiment=tiny", "+sweep=lora", "sweep.minutes=null", "sweep.num_trials=4",
        "train.steps=40", "train.eval_every=20", "executor=plain",
    ),
    "tiny, every weight": (
        "+experiment=tiny", "adapter=full", "train.steps=60", "train.eval_every=20",
    ),
    "one run": ("train.steps=30", "train.eval_every=30"),
    "one run, half of the layers": (
        "train.steps=20", "train.eval_every=20", "adapter.layers=0.5",
    ),
    "two trials, all layers": (
        "+sweep=lora", "sweep.minutes=null", "sweep.num_trials=2", "sweep.scheduler=none",
        "train.steps=10", "train.eval_every=10", "adapter.layers=1",
    ),
    "five minutes": ("+sweep=lora", "sweep.minutes=5"),
    "five minutes, icd10": ("+sweep=lora", "sweep.minutes=5", "data=icd10"),
    "one run, six neighbours": (
        "data=icd10", "data.neighbours.count=6", "train.steps=20", "train.eval_every=20",
    ),
}  # fmt: skip
"""What is added to `python -m orchestrator`."""


def measure(name: str, results: Path) -> dict[str, Any]:
    """One sweep from its command to its end."""
    folder = results / name.replace(",", "").replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    line = [sys.executable, "-m", "orchestrator", *KINDS[name]]
    line += ["output=json", f"storage={folder}"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:]
        return {"name": name, "code": done.returncode, "said": " ".join(last)}
    seconds = json.loads(done.stdout.strip().splitlines()[-1])["seconds"]
    shutil.rmtree(folder, ignore_errors=True)
    return {"name": name, "planned": seconds["planned"], "taken": seconds["total"]}


def key_of(name: str) -> str:
    """What a measurement holds for: the command, this machine and the code."""
    machine = identity(usable_cores())
    parts = [KINDS[name], machine, contenders.digest_of(contenders.COMMAND_FILES)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def tell(record: dict[str, Any]) -> None:
    """A line of the table."""
    if "taken" not in record:
        print(f"{record['name']:<32} ended with code {record['code']}: {record['said']}")
        return
    ratio = record["taken"] / record["planned"]
    good = "" if 1 / FACTOR <= ratio <= FACTOR else f"  beyond a factor of {FACTOR:g}"
    planned, taken = duration(record["planned"]), duration(record["taken"])
    print(f"{record['name']:<32} {planned:>8} {taken:>8} {ratio:>6.2f}{good}", flush=True)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, with the names of --only as a list."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        default=";".join(KINDS),
        metavar="NAME;...",
        help="sweeps to measure, separated by semicolons",
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/.results/estimates")
    parser.add_argument("--fresh", action="store_true", help="measure anew what is kept")
    options = parser.parse_args(arguments)
    options.only = [name.strip() for name in options.only.split(";")]
    if unknown := [name for name in options.only if name not in KINDS]:
        parser.error(f"no such sweep: {unknown[0]}; there are {'; '.join(KINDS)}")
    return options


def main(arguments: list[str]) -> int:
    """Measure what is missing, and print the table."""
    options = parse(arguments)
    file = options.results / "estimates.json"
    kept: dict[str, Any] = {}
    if file.exists() and not options.fresh:
        kept = json.loads(file.read_text(encoding="utf-8"))
    print(f"{'sweep':<32} {'planned':>8} {'taken':>8} {'ratio':>6}")
    for name in options.only:
        key = key_of(name)
        if kept.get(name, {}).get("key") != key:
            kept[name] = measure(name, options.results.absolute()) | {"key": key}
        tell(kept[name])
        options.results.mkdir(parents=True, exist_ok=True)
        good = {name: record for name, record in kept.items() if "taken" in record}
        file.write_text(json.dumps(good, indent=1), encoding="utf-8")
    return int(any("taken" not in kept[name] for name in options.only))


if __name__ == "__main__":
    sys.exit(answer(lambda: main(sys.argv[1:])))
