"""What a user gets for the time: the held-out score of the best model after so many minutes, for
this project and for others.

    python -m benchmarks.quality --minutes M [--data FOLDER|icd10|home] [--contenders NAME,...]
        [--results FOLDER] [--json FILE] [--fresh] [SETTING=VALUE ...]

`orchestrator` is this project's own command, `tune_asha` Ray Tune with ASHA over transformers'
Trainer + PEFT, two trials at once, `trainer` and `trl` one run of Trainer + PEFT and of TRL's
SFTTrainer over three epochs, `trainer_fitted` and `trl_fitted` the same with as many steps as fit
the time, `nearest_prompt` and `linear_classifier` what a lookup gives.

All have the same rows, base model and metric, and start cold, one after another, each as a process
of its own that is stopped when its time is over. Peers save as they go: the model of their lowest
validation loss is scored afterwards, by the code that judges this project's winners, and that is
not counted in their time. In this project's it is: what it has not judged by then is scored like a
peer's. What contenders import was read once before. Results are kept per contender: the same
command again measures what is missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import answer, command_line, contenders, makespan, quality_task
from benchmarks.quality_task import BASELINES, NAMES, OWN, LeftOut, Measurement, Score, Task
from jobs.base_models import fetch
from orchestrator.config.compose import choices, compose
from orchestrator.config.validation import build, trial_of
from orchestrator.errors import InputError
from orchestrator.plan import planner as planning
from orchestrator.plan.metric import scoring_of
from orchestrator.plan.resources import count_cpus, count_gpus
from orchestrator.storage.json_files import read_object, write_json

FILES = ("jobs/**/*.py", "benchmarks/quality*.py", "benchmarks/measure.py", "benchmarks/peers*.py")
LAST_WORDS = 200
"""Characters of a failed contender's last line that the table tells."""
OWN_FILES = (*FILES, "orchestrator/**/*.py", "conf/**/*.yaml")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument(
        "--minutes", type=float, help="that each contender has, cold start included"
    )
    length.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument(
        "--data", metavar="FOLDER|NAME", help="a folder of rows, or as data=NAME of the command"
    )
    parser.add_argument("--model", help="as model=NAME of the command")
    command_line.add_contenders(parser, NAMES)
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="SETTING=VALUE",
        help="further settings of the command; peers follow those of rows, base, number format and "
        "train.max_length",
    )
    options = parser.parse_intermixed_args(arguments)
    if options.seconds is None:
        options.seconds = 60 * options.minutes
    if not 0 < options.seconds < float("inf"):
        parser.error(f"--minutes must be above 0, got {options.minutes:g}")
    options.contenders = command_line.chosen(parser, options.contenders, NAMES)
    for setting in options.settings:
        if setting.lstrip("+").startswith(("sweep.minutes=", "storage=", "output=")):
            parser.error(f"{setting}: the benchmark sets this itself")
    return options


def data_settings(data: str | None) -> list[str]:
    """`--data` as settings of the command. Raises InputError for a folder that is not there."""
    if data is None:
        return []
    named = [name for name in choices()["data"] if name != "files"]
    if data in named:
        return [f"data={data}"]
    folder = Path(data)
    if not folder.is_dir():
        raise InputError(
            f"--data {data} is neither a folder nor one of {', '.join(named)}; give a folder with "
            "train.jsonl, train.csv or train.parquet"
        )
    return ["data=files", f"data.folder={json.dumps(str(folder.absolute()))}"]


def prepare(options: argparse.Namespace) -> tuple[Task, str]:
    """The task, with the base model fetched, and a hash of what decides the scores."""
    asked = [*([f"model={options.model}"] if options.model else []), *options.settings]
    settings = [*data_settings(options.data), *asked]
    plain = ["+sweep=lora", *quality_task.without_neighbours(settings)]
    config = build(compose(plain, None))
    try:
        base = fetch.prepare(config.model)
    except (ValueError, RuntimeError) as error:
        raise InputError(str(error)) from error
    plan = planning.make(config)
    task = Task(
        settings=settings,
        trial=trial_of(plan.config, 1, {}),
        base=base,
        scoring=dataclasses.replace(scoring_of(plan.config), max_new_tokens=plan.max_new_tokens),
        confidence=config.job.confidence,
        max_new_tokens=plan.max_new_tokens,
        seconds=options.seconds,
        cores=count_cpus(config),
        gpus=count_gpus(config),
    )
    parts = {
        "settings": asked,
        "data": plan.digests,
        "base": base.revision,
        "metric": task.scoring.metric,
        "seconds": task.seconds,
    }
    return task, json.dumps(parts, sort_keys=True)


def modules(names: list[str]) -> list[str]:
    """What these contenders will import."""
    wanted = ["transformers.trainer", "peft", "sklearn.svm", "jobs.evaluation.evaluate"]
    wanted += ["accelerate"] if set(names) - {OWN, *BASELINES} else []
    wanted += ["trl", "datasets"] if any(name.startswith("trl") for name in names) else []
    wanted += ["ray.tune"] if {OWN, quality_task.TUNE} & set(names) else []
    return wanted + (["mlflow", "ray.train.torch"] if OWN in names else [])


@dataclasses.dataclass(frozen=True)
class Contest:
    """What is measured, where, and what is kept of it."""

    options: argparse.Namespace
    task: Task
    identity: str
    machine: dict[str, Any]

    def measure_all(self) -> tuple[dict[str, Measurement], dict[str, str], dict[str, str]]:
        """Measurements by contender, why others failed, and why others are left out."""
        measured: dict[str, Measurement] = {}
        failed: dict[str, str] = {}
        left_out: dict[str, str] = {}
        for name in self.options.contenders:
            try:
                measured[name] = self.measure(name)
            except LeftOut as reason:
                left_out[name] = str(reason)
                say(f"        left out: {reason}")
            except RuntimeError as error:
                failed[name] = str(error)
                say(f"failed  {error}")
        return measured, failed, left_out

    def file(self, name: str) -> Path:
        """Where the result of a contender is kept."""
        code = contenders.digest_of(OWN_FILES if name == OWN else FILES)
        parts = [self.identity, json.dumps(self.machine, sort_keys=True), code]
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
        return self.options.results / f"quality-{name}-{key}.json"

    def measure(self, name: str) -> Measurement:
        """One contender, from the results folder if it is there."""
        file = self.file(name)
        if file.exists() and not self.options.fresh:
            say(f"kept    {name}")
            content = read_object(file)
            return Measurement(**{**content, "score": Score(**content["score"])})
        say(f"runs    {name}")
        measured = quality_task.run(name, self.task)
        say(f"        {score_text(measured.score)}, {measured.seconds:.0f} s")
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / ".gitignore").write_text("*\n", encoding="utf-8")
        write_json(file, dataclasses.asdict(measured))
        return measured


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


def score_text(score: Score) -> str:
    """A score with its interval."""
    return f"{score.value:.3f} ({score.low:.3f}..{score.high:.3f})"


def summarise(
    measured: dict[str, Measurement],
    failed: dict[str, str],
    left_out: dict[str, str],
    contest: Contest,
) -> dict[str, Any]:
    """Everything measured, as the JSON file has it."""
    task = contest.task
    return {
        "contenders": {name: dataclasses.asdict(one) for name, one in measured.items()},
        "failed": failed,
        "left_out": left_out,
        "seconds": task.seconds,
        "data": task.trial.data.name,
        "model": task.base.name,
        "metric": task.scoring.metric,
        "confidence": task.confidence,
        "own_settings": task.own_settings(),
        "machine": contest.machine,
    }


def as_text(result: dict[str, Any]) -> str:
    """The table."""
    machine = result["machine"]
    where = machine["gpu"] or f"{machine['cores']} cores ({machine['cpu']})"
    lines = [
        f"{result['data']}, {result['model']}: after {result['seconds'] / 60:.3g} minutes; "
        f"{where}; this project's command: {' '.join(result['own_settings'])}",
        f"{'':<18}{'score':>22}{'seconds':>9}{'examples':>10}{'memory (MB)':>13}  settings",
    ]
    for name, row in result["contenders"].items():
        score = Score(**row["score"])
        seconds = f"{row['seconds']:.0f}{'*' if row['stopped'] else ''}"
        how = "; ".join(filter(None, [row["settings"], row["note"]]))
        lines.append(
            f"{name:<18}{score_text(score):>22}{seconds:>9}{row['examples']:>10,}"
            f"{row['peak_memory_mb']:>13,.0f}  {how}"
        )
    lines += [f"{name} left out: {reason}" for name, reason in result["left_out"].items()]
    for name, error in result["failed"].items():
        first, *others = error.strip().splitlines()
        last = f" {others[-1][:LAST_WORDS]}" if others else ""
        lines.append(f"{name} failed: {first}{last}")
    metrics = {row["score"]["metric"] for row in result["contenders"].values()}
    legend = (
        f"score: {', '.join(sorted(metrics)) or result['metric']}, with its interval of "
        f"{result['confidence']:.0%}; *: stopped when its time was over; examples: through the "
        "model in all trials, of a lookup the rows it has seen"
    )
    scoring = (
        "peers are scored after their time, by the lowest validation loss of what they had saved; "
        f"{OWN} within it"
    )
    return "\n".join([*lines, legend, scoring])


def main(arguments: list[str]) -> int:
    """Measure, print the table, write the JSON if asked. 1 when a contender has failed."""
    options = parse(arguments)
    task, identity = prepare(options)
    wanted = modules(options.contenders)
    machine = makespan.machine(wanted, task.trial.train.dtype, task.base, task.cores, task.gpus)
    contest = Contest(options, task, identity, machine)
    result = summarise(*contest.measure_all(), contest)
    print(as_text(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(answer(lambda: main(sys.argv[1:])))
