"""The same trials, run to the end by this project and by others: seconds from the command to the
last result, memory, final losses.

python -m benchmarks.makespan --trials 8 --steps 16 [--contenders pack,plain,...] [--json FILE]
[SETTING=VALUE ...]

The rows are those of icd10, unless `data=NAME` says otherwise, as in docs/speed.md.
`pack` and `plain` are this project's own command, `tune_trainer` is Ray Tune with a process of
transformers' Trainer + PEFT per trial,
`warm_trainer` the same Trainer in one process that loads the base once, `trl` TRL's SFTTrainer in
such a process. Of a contender with
variants (trials at once, padding) the fastest counts. Every contender starts cold; what it
imports and reads was read once before, so that
nobody pays for the first reading of the disk. Results are kept per contender and repeat: the same
command again measures what is missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import answer, command_line, contenders
from benchmarks.contenders import Measurement, Work
from jobs.base_models import fetch
from jobs.config import BaseModel
from jobs.data.corpus import load_corpus
from orchestrator.config.compose import compose
from orchestrator.config.validation import build
from orchestrator.errors import InputError
from orchestrator.plan import planner as planning
from orchestrator.plan.resources import count_cpus, count_gpus

PROBE = """
import importlib, json, sys
from pathlib import Path
for name in sys.argv[3:]:
    importlib.import_module(name)
for file in Path(sys.argv[1]).glob("*.safetensors"):
    file.read_bytes()
import torch
from jobs.model.loading import pick_device, pick_dtype
device = pick_device()
gpu = torch.cuda.get_device_name() if device.type == "cuda" else None
print(json.dumps({"gpu": gpu, "torch": torch.__version__, "dtype": str(pick_dtype(sys.argv[2], device)).removeprefix("torch.")}))
"""


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dtype", choices=["auto", "bfloat16", "float32"], default="auto")
    command_line.add_contenders(parser, contenders.NAMES)
    parser.add_argument(
        "--valid-rows",
        type=int,
        default=100,
        help="validation rows that each trial is scored on at its end",
    )
    parser.add_argument("--model", help="as model=NAME of the command")
    parser.add_argument(
        "--tune-concurrency",
        metavar="N,...",
        help="trials at once under Ray Tune (1,2; on a GPU 1, 2, 4, ... while it fits)",
    )
    parser.add_argument(
        "settings", nargs="*", help="further settings of the command, for all contenders alike"
    )
    options = parser.parse_args(arguments)
    options.contenders = command_line.chosen(parser, options.contenders, contenders.NAMES)
    return options


def prepare(options: argparse.Namespace, folder: Path) -> tuple[Work, str]:
    """The trials of the orchestrator's own plan, with a short validation split in `folder`, and a
    hash of what decides their losses.
    """
    overrides = [
        "+sweep=lora",
        "data=icd10",
        *([f"model={options.model}"] if options.model else []),
        *options.settings,
    ]
    overrides += [
        "sweep.scheduler=none",
        f"sweep.num_trials={options.trials}",
        f"train.steps={options.steps}",
    ]
    overrides += [
        f"train.eval_every={options.steps}",
        f"train.batch_size={options.batch}",
        f"train.dtype={options.dtype}",
    ]
    config = build(compose(overrides, None))
    rows = load_corpus(config.data).valid[: options.valid_rows]
    file = folder / "valid.jsonl"
    file.write_text(
        "".join(json.dumps({"messages": row.messages}) + "\n" for row in rows), encoding="utf-8"
    )
    identity = {"overrides": overrides, "valid": len(rows)}
    overrides = [*overrides, f"data.valid={file}"]
    base = fetch.prepare(config.model)
    config = build(compose(overrides, None))
    plan = planning.make(config)
    identity |= {"data": plan.digests, "base": base.revision}
    return Work(plan.trials, base, overrides, count_cpus(config), count_gpus(config)), json.dumps(
        identity, sort_keys=True
    )


def look_at_machine(options: argparse.Namespace, work: Work) -> dict[str, Any]:
    """Cores, processor, GPU, versions and number format; imports in passing what the contenders
    will import.
    """
    wanted = ["transformers.trainer", "peft", "ray.tune"]
    wanted += ["trl", "datasets"] if "trl" in options.contenders else []
    wanted += ["mlflow", "ray.train.torch"] if set(options.contenders) & set(contenders.OWN) else []
    return machine(wanted, options.dtype, work.base, work.cores, work.gpus)


def machine(
    wanted: list[str], dtype: str, base: BaseModel, cores: int, gpus: int
) -> dict[str, Any]:
    """The same for a list of modules. Raises InputError for those that are not installed."""
    if missing := [name for name in wanted if find_spec(name.split(".")[0]) is None]:
        raise InputError(
            f"not installed: {', '.join(missing)}; pip install --constraint constraints.txt "
            "'.[bench]' brings what is compared with"
        )
    line = [sys.executable, "-c", PROBE, base.path, dtype, *wanted]
    done = subprocess.run(
        line, stdout=subprocess.PIPE, text=True, check=True, env=contenders.environment("")
    )
    found = json.loads(done.stdout.splitlines()[-1])
    names = [
        line.split(":", 1)[1].strip()
        for line in contenders.read(Path("/proc/cpuinfo")).splitlines()
        if line.startswith("model name")
    ]
    versions = {name: contenders.installed(name) for name in ("transformers", "peft", "trl", "ray")}
    return {
        "cores": cores,
        "cpu": (names or ["unknown"])[0],
        "gpus": gpus,
        **found,
        **versions,
    }


@dataclasses.dataclass(frozen=True)
class Bench:
    """What is measured, where, and what is kept of it."""

    options: argparse.Namespace
    work: Work
    identity: str
    machine: dict[str, Any]

    def measure_all(self) -> tuple[dict[str, dict[str, list[Measurement]]], dict[str, str]]:
        """Measurements by contender and variant, one per repeat, and why others failed. Repeats are
        interleaved: a slow hour hits all.
        """
        found: dict[str, dict[str, list[Measurement]]] = {}
        failed: dict[str, str] = {}
        for repeat in range(1, self.options.repeats + 1):
            for name, variant in self.entries():
                label = f"{name} {variant}".strip()
                if label in failed:
                    continue
                try:
                    found.setdefault(name, {}).setdefault(variant, []).append(
                        self.measure(name, variant, repeat)
                    )
                except RuntimeError as error:
                    failed[label] = str(error)
                    print(f"failed  {error}", file=sys.stderr, flush=True)
        return {
            name: {v: runs for v, runs in each.items() if runs}
            for name, each in found.items()
            if any(each.values())
        }, failed

    def entries(self) -> Iterator[tuple[str, str]]:
        """Contenders and their variants, in the order in which they are measured."""
        for name in self.options.contenders:
            for variant in contenders.variants(name, self.work, self.options.tune_concurrency):
                yield name, variant

    def measure(self, name: str, variant: str, repeat: int) -> Measurement:
        """One measurement, from the results folder if it is there."""
        parts = [
            self.identity,
            json.dumps(self.machine, sort_keys=True),
            contenders.code_version(name),
        ]
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
        file = (
            self.options.results
            / f"{'-'.join(filter(None, [name, variant, key, str(repeat)]))}.json"
        )
        label = f"{name} {variant}".strip()
        if file.exists() and not self.options.fresh:
            print(f"kept    {label}, repeat {repeat}", file=sys.stderr, flush=True)
            return Measurement(**json.loads(file.read_text(encoding="utf-8")))
        print(
            f"runs    {label}, repeat {repeat} of {self.options.repeats}",
            file=sys.stderr,
            flush=True,
        )
        measured = contenders.run(name, variant, self.work)
        print(
            f"        {measured.makespan_seconds:.1f} s, {measured.peak_memory_mb:,.0f} MB",
            file=sys.stderr,
            flush=True,
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / ".gitignore").write_text("*\n", encoding="utf-8")
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(dataclasses.asdict(measured)), encoding="utf-8")
        os.replace(draft, file)
        return measured


def median(runs: list[Measurement]) -> float:
    """Median makespan."""
    return statistics.median(run.makespan_seconds for run in runs)


def summarise(
    found: dict[str, dict[str, list[Measurement]]], failed: dict[str, str], bench: Bench
) -> dict[str, Any]:
    """Everything measured, as the JSON file has it."""
    table = {}
    for name, tried in found.items():
        best = min(tried, key=lambda variant: median(tried[variant]))
        runs = tried[best]
        table[name] = {
            "makespan_seconds": [run.makespan_seconds for run in runs],
            "peak_memory_mb": max(run.peak_memory_mb for run in runs),
            "final_losses": runs[0].final_losses,
            "note": runs[0].note,
            "variant": best,
            "variants": {
                variant: [run.makespan_seconds for run in runs] for variant, runs in tried.items()
            },
        }
    medians = {name: statistics.median(row["makespan_seconds"]) for name, row in table.items()}
    differences = {
        name: largest_difference(row["final_losses"], table["plain"]["final_losses"])
        for name, row in table.items()
        if "plain" in table
    }
    return {
        "contenders": table,
        "ratios": {
            name: value / medians["pack"] for name, value in medians.items() if "pack" in medians
        },
        "loss_differences": differences,
        "failed": failed,
        **{
            name: getattr(bench.options, name)
            for name in ("trials", "steps", "batch", "valid_rows")
        },
        "model": bench.work.base.name,
        "machine": bench.machine,
    }


def largest_difference(losses: list[float], others: list[float]) -> float:
    """Largest relative difference between two contenders' losses of the same trial."""
    return max(abs(one - other) / abs(other) for one, other in zip(losses, others, strict=True))


def as_text(result: dict[str, Any]) -> str:
    """The table."""
    machine = result["machine"]
    place = machine["gpu"] or f"{machine['cores']} cores ({machine['cpu']})"
    work = (
        f"{result['trials']} trials of {result['steps']} steps, batch {result['batch']}, "
        f"{result['valid_rows']} validation rows"
    )
    lines = [
        f"{result['model']}, {machine['dtype']}: {work}; {place}",
        f"{'':<14}{'makespan (s)':>26}{'over pack':>11}{'memory (MB)':>13}{'loss apart':>12}  how",
    ]
    for name, row in result["contenders"].items():
        seconds = row["makespan_seconds"]
        spread = f" ({min(seconds):.1f}..{max(seconds):.1f})" if len(seconds) > 1 else ""
        ratio = f"{result['ratios'][name]:.2f}x" if name in result["ratios"] else "-"
        apart = (
            f"{result['loss_differences'][name]:.2%}" if name in result["loss_differences"] else "-"
        )
        others = [
            f"{variant}: {statistics.median(each):.1f} s"
            for variant, each in row["variants"].items()
            if variant != row["variant"]
        ]
        how = "; ".join(filter(None, [row["note"], *others]))
        lines.append(
            f"{name:<14}{f'{statistics.median(seconds):.1f}{spread}':>26}{ratio:>11}{row['peak_memory_mb']:>13,.0f}{apart:>12} "
            f" {how}"
        )
    lines += [
        f"{label} failed: {error.strip().splitlines()[-1]}"
        for label, error in result["failed"].items()
    ]
    return "\n".join(
        lines
        + [
            "loss apart: largest relative difference of a trial's final validation loss from "
            "plain's"
        ]
    )


def main(arguments: list[str]) -> int:
    """Measure, print the table, write the JSON if asked. 1 when a contender has no result at
    all.
    """
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="makespan-") as folder:
        work, identity = prepare(options, Path(folder))
        bench = Bench(options, work, identity, look_at_machine(options, work))
        result = summarise(*bench.measure_all(), bench)
    print(as_text(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0 if set(result["contenders"]) == set(options.contenders) else 1


if __name__ == "__main__":
    sys.exit(answer(lambda: main(sys.argv[1:])))
