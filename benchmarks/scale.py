"""How far one driver goes: whole sweeps on simulated GPUs, in virtual time.

    python -m benchmarks.scale [--trials 10000] [--gpus 1000] [--json FILE] [--chart FILE.svg]

Sweeps of a hundredth, a tenth and all of that many trials and GPUs, each in a process of its own:
synchronous halving over three rungs, eight trials to a GPU, so that trials queue too. Real are
Tune's controller, the searcher, the scheduler, the callback, the coordinator's logic, the journal
and the tracking writer with MLflow on SQLite; afterwards the same journal is written to PostgreSQL
where its programs are here. Trials and packs are held in the process. Left out: their own
processes, the network, and how long Ray takes to wait for so many actors. Driver times are CPU
times, from which the simulation's own are taken away; store times are wall times.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import answer

PATIENCE_SECONDS = 60.0
COLUMNS = {
    "trials": "trials",
    "GPUs": "gpus",
    "virtual s": "virtual_seconds",
    "peak MB": "peak_mb",
    "trials/s": "trials_per_second",
    "ms/event": "event_ms",
    "suggest us": "suggest_us",
    "decide us": "decide_us",
    "choose us": "choose_us",
    "record us": "record_us",
    "coordinator calls": "roster_calls",
    "journal MB": "journal_mb",
}
STORES = {"calls/s": "calls_per_second", "calls": "calls", "left events": "left_events"}


def measure(
    num_trials: int, gpus: int, folder: Path, patience_seconds: float, sqlite_only: bool
) -> dict[str, Any]:
    """One sweep in this process, and its journal once more on PostgreSQL."""
    from benchmarks.simulation import Simulation
    from benchmarks.stores import carry, postgres

    found = Simulation(num_trials, gpus, folder, patience_seconds).run()
    with contextlib.nullcontext() if sqlite_only else postgres(folder / "postgres") as uri:
        if uri is not None:
            found["postgresql"] = carry(
                folder / "sweep" / "journal.jsonl", uri, folder / "again", patience_seconds
            )
    return found


def apart(num_trials: int, gpus: int, options: argparse.Namespace) -> dict[str, Any]:
    """One sweep in a process of its own, so that its memory is its own."""
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        file = Path(folder) / "result.json"
        line = [
            sys.executable,
            "-m",
            "benchmarks.scale",
            "--only",
            str(num_trials),
            "--gpus",
            str(gpus),
            "--json",
            str(file),
        ]
        line += [
            "--folder",
            f"{folder}/run",
            "--patience",
            str(options.patience),
            *["--sqlite-only"] * options.sqlite_only,
        ]
        done = subprocess.run(line, check=False)
        if done.returncode:
            sys.exit(f"the sweep of {num_trials} trials ended with exit code {done.returncode}")
        return json.loads(file.read_text(encoding="utf-8"))


def as_text(found: list[dict[str, Any]]) -> str:
    """The table, and what one more trial costs: the slope between the two largest sweeps."""
    rows = [list(COLUMNS)] + [[shown(one[key]) for key in COLUMNS.values()] for one in found]
    stores = [name for name in ("sqlite", "postgresql") if name in found[-1]]
    for name in stores:
        rows[0] += [f"{name} {title}" for title in STORES]
        for row, one in zip(rows[1:], found, strict=True):
            row += [shown(one[name][key]) for key in STORES.values()]
    turned = [list(column) for column in zip(*rows, strict=True)]
    lines = ["  ".join([f"{row[0]:<24}", *(f"{cell:>12}" for cell in row[1:])]) for row in turned]
    if len(found) > 1:
        lines.append(
            f"one more trial: {slope(found, 'peak_mb') * 1000:.0f} kB, "
            f"{slope(found, 'driver_cpu_seconds') * 1000:.1f} ms of the driver"
        )
    return "\n".join(lines)


def slope(found: list[dict[str, Any]], key: str) -> float:
    """Growth of a figure per trial between the two largest sweeps."""
    small, large = found[-2:]
    return (large[key] - small[key]) / (large["trials"] - small["trials"])


def shown(value: float) -> str:
    """A figure with as many digits as it deserves."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def draw(found: list[dict[str, Any]], file: Path) -> None:
    """Memory, trials per second, loop time and store calls per second against the number of
    trials.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = [one["trials"] for one in found]
    panels = {
        "peak memory of the driver (MB)": "peak_mb",
        "trials per second of the driver": "trials_per_second",
    }
    panels |= {"controller loop (ms per event)": "event_ms"}
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6.5), layout="constrained")
    for axis, (title, key) in zip(axes.flat, panels.items(), strict=False):
        axis.plot(counts, [one[key] for one in found], marker="o")
        axis.set_title(title)
    for name in ("sqlite", "postgresql"):
        if name in found[-1]:
            axes[1, 1].plot(
                counts, [one[name]["calls_per_second"] for one in found], marker="o", label=name
            )
    axes[1, 1].set_title("MLflow calls per second")
    axes[1, 1].legend()
    for axis in axes.flat:
        axis.set(xscale="log", xlabel="trials", ylim=(0, None))
        axis.grid(alpha=0.3)
    figure.savefig(file)


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10000)
    parser.add_argument("--gpus", type=int, default=1000)
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE_SECONDS,
        help="seconds that a store may take after the sweep",
    )
    parser.add_argument("--sqlite-only", action="store_true", help="leave PostgreSQL out")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--chart", type=Path)
    parser.add_argument("--only", type=int, help="one sweep of so many trials, in this process")
    parser.add_argument("--folder", type=Path, help="where --only leaves its sweep")
    options = parser.parse_args()
    if min(options.trials, options.gpus) < 1 or (options.only is None) != (options.folder is None):
        parser.error("--trials and --gpus must be at least 1, and --only needs --folder")
    return options


def main() -> None:
    """Measure, print, and write the files that are asked for."""
    options = parse()
    if options.only is not None:
        found: Any = measure(
            options.only, options.gpus, options.folder, options.patience, options.sqlite_only
        )
    else:
        parts = [part for part in (100, 10, 1) if options.trials >= part]
        found = [
            apart(options.trials // part, max(1, options.gpus // part), options) for part in parts
        ]
        print(as_text(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if options.chart:
        draw(found, options.chart)


if __name__ == "__main__":
    sys.exit(answer(main))
