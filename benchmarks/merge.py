"""Mixes found by merging experts (mix.method=merge) against mixes that are each trained, at the
same cost, on the same rows and base.

    python -m benchmarks.merge [--seeds N] [--json FILE] [SETTING=VALUE ...]

`merge` trains an expert for each source, scores mix.candidates mixtures by merging them, and trains
the mixes by size, of equal shares and the best mix.trained ones. `search` trains the mixes by size,
of equal shares and as many drawn ones as the same cost pays for. Cost is counted in passes, so that
it does not depend on what else this machine does: one for an example that is read, three for one
that is trained on. All trials have the same steps; the one of the lowest validation loss is the
winner, and meets the test rows. Merged scores are compared with those of the trials too, also on
the mixes that `search` has drawn.

Without settings of its data it has a toy task: one source has two of three words, another the third
one, and a third source has all of them with random answers. SETTING=VALUE are those of the command,
such as data=icd10 model=smollm2-135m train.steps=160.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import answer
from jobs.base_models import fetch
from jobs.config import BaseModel, Scoring, Trial
from orchestrator.config.compose import compose
from orchestrator.config.search_space import mix_of, weights
from orchestrator.config.simplex import Mix
from orchestrator.config.validation import build
from orchestrator.errors import InputError
from orchestrator.plan import planner as planning
from orchestrator.plan.merge import expert_config, expert_steps, merged_knob
from orchestrator.plan.planner import Plan
from orchestrator.plan.points import first_points
from orchestrator.report.merged_mixes import spearman
from orchestrator.storage.json_files import write_json

if TYPE_CHECKING:
    from jobs.pack.engine import Pack

TRAINED_PASSES = 3
LOSS, MATCH = "valid/loss", "valid/exact_match"
TOY = (
    *("model=tiny", "train.steps=90", "train.batch_size=16", "train.max_length=64"),
    *("adapter.layers=1.0", "optim.lr=0.02", "optim.schedule=constant", "mix.steps=30"),
)
WORDS = {"alpha": "A", "beta": "B", "gamma": "C"}
SLOTS = 12


@dataclass
class Found:
    """What one way has come to."""

    passes: int = 0
    trials: list[dict[str, float]] = field(default_factory=list)
    """Scores of each trial, on the validation and the test rows."""
    mixes: list[Mix] = field(default_factory=list)

    @property
    def winner(self) -> int:
        """The trial of the lowest validation loss."""
        return min(range(len(self.trials)), key=lambda at: self.trials[at][LOSS])

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "passes": self.passes,
            "trials": len(self.trials),
            "mix": self.mixes[self.winner],
            **self.trials[self.winner],
        }


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="repetitions, under seeds from 0 on")
    parser.add_argument("--json", type=Path, help="file that the figures are written to")
    parser.add_argument("settings", nargs="*", metavar="SETTING=VALUE")
    options = parser.parse_intermixed_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {options.seeds}")
    for setting in options.settings:
        if setting.lstrip("+").startswith(("seed=", "mix.method=", "storage=")):
            parser.error(f"{setting}: the benchmark sets this itself")
    return options


def write_toy(folder: Path) -> list[str]:
    """The toy task, as settings of its data."""
    stream = random.Random(0)
    numbers = itertools.count()

    def rows(words: Sequence[str], count: int) -> list[dict[str, str]]:
        drawn = [stream.choice(words) for _ in range(count)]
        return [
            {
                "prompt": f"{word} {'x' * stream.randrange(9)}{next(numbers)}",
                "completion": WORDS[word],
            }
            for word in drawn
        ]

    noise = [row | {"completion": stream.choice("ABC")} for row in rows(list(WORDS), 240)]
    files = {
        "pair": rows(["alpha", "beta"], 120),
        "third": rows(["gamma"], 60),
        "noise": noise,
        "valid": rows(list(WORDS), 150),
        "test": rows(list(WORDS), 150),
    }
    for name, listed in files.items():
        text = "".join(json.dumps(row) + "\n" for row in listed)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    sources = [f"+data.sources.{name}.path={folder / name}.jsonl" for name in list(files)[:3]]
    held = [f"data.{split}={folder / split}.jsonl" for split in ("valid", "test")]
    return ["data=files", *sources, *held]


def plan_of(settings: list[str], seed: int, storage: str) -> tuple[Plan, BaseModel]:
    """The plan of the command with merging, and its base model."""
    typed = ["+sweep=mix", "mix.method=merge", f"seed={seed}", f"storage={storage}"]
    sized = ["sweep.minutes=null", "sweep.num_trials=5"]
    config = build(compose([*typed, *sized, *settings], None))
    try:
        base = fetch.prepare(config.model)
    except (ValueError, RuntimeError) as error:
        raise InputError(str(error)) from error
    plan = planning.make(config)
    data = plan.config.data
    if data.valid is None or data.test is None:
        raise InputError("the benchmark needs files of its own for data.valid and data.test")
    return plan, base


def trained(plan: Plan, pack: Pack, mixes: list[Mix]) -> list[dict[str, float]]:
    """Train a trial on each mix; their scores on the validation and the test rows."""
    knob = merged_knob(plan.config)
    assert knob is not None
    point = first_points(plan.config.sweep.space, plan.config.seed, 1)[0]
    trials = [plan.trial_of(at, point | weights(mix)) for at, mix in enumerate(mixes, start=1)]
    scores = []
    for start in range(0, len(trials), SLOTS):
        group = {trial.index: trial for trial in trials[start : start + SLOTS]}
        run(pack, group)
        scores += tested(pack, list(group))
        for index in group:
            pack.leave(index)
    return scores


def run(pack: Pack, trials: dict[int, Trial]) -> None:
    """Train some trials together to their end."""
    for index, trial in trials.items():
        pack.join(index, trial)
    while going := [i for i in trials if pack.slots[i].step < trials[i].train.steps]:
        pack.step(going)


def tested(pack: Pack, indices: list[int]) -> list[dict[str, float]]:
    """What trials score on the validation and on the test rows."""
    from jobs.pack.evaluation import validate

    valid = validate(pack, indices)
    for index in indices:
        slot = pack.slots[index]
        data = slot.trial.data
        swapped = dataclasses.replace(data, valid=data.test, test=data.valid)
        slot.trial = dataclasses.replace(slot.trial, data=swapped)
    test = validate(pack, indices)
    return [
        {
            LOSS: valid[index].metrics()[LOSS],
            MATCH: valid[index].metrics()[MATCH],
            "test/loss": test[index].metrics()[LOSS],
            "test/exact_match": test[index].metrics()[MATCH],
        }
        for index in indices
    ]


def save_experts(plan: Plan, pack: Pack, folder: Path) -> dict[str, str]:
    """Train the experts; their folders by source."""
    assert plan.merge is not None
    phase = dataclasses.replace(plan, config=expert_config(plan.config))
    experts = dict(enumerate(plan.merge.experts, start=1))
    run(pack, {at: phase.trial_of(at, expert.point) for at, expert in experts.items()})
    folders = {}
    for at, expert in experts.items():
        pack.slots[at].save(folder / expert.source)
        folders[expert.source] = str(folder / expert.source / "model")
        pack.leave(at)
    return folders


def compare(plan: Plan, base: BaseModel, folder: Path) -> dict[str, Any]:
    """Both ways under one seed."""
    from jobs.pack.engine import Pack
    from jobs.pack.mixtures import Mixtures, score_mixtures
    from jobs.pack.opening import enable_packing

    merge, config = plan.merge, plan.config
    knob = merged_knob(config)
    assert merge is not None and knob is not None
    first = plan.trial_of(1, merge.experts[0].point)
    pack = Pack(base, first)
    problem = enable_packing(pack, first)
    if problem is not None:
        raise InputError(f"{base.name} cannot be packed, which the benchmark needs: {problem}")
    folders = save_experts(plan, pack, folder)
    per_trial = TRAINED_PASSES * config.train.steps * config.train.batch_size + plan.num_valid
    num_experts, num_candidates = len(merge.experts), len(merge.candidates)
    merging = TRAINED_PASSES * num_experts * expert_steps(config) * config.train.batch_size
    merging += num_candidates * plan.num_valid
    num_searched = (2 + merge.num_trained) + merging // per_trial
    points = first_points(config.sweep.space, config.seed, num_searched)
    searched = [mix_of(knob, point) for point in points]
    asked = [*merge.candidates, *searched]
    at_once = max(1, SLOTS // num_experts)
    scores = score_mixtures(base, first, Mixtures(folders, asked, at_once), Scoring(), True)
    predicted = [each[LOSS] for each in scores]
    best = sorted(range(2, num_candidates), key=lambda at: predicted[at])[: merge.num_trained]
    chosen = [0, 1, *best]
    merged = Found(merging + len(chosen) * per_trial, mixes=[asked[at] for at in chosen])
    merged.trials = trained(plan, pack, merged.mixes)
    plain = Found(num_searched * per_trial, mixes=searched)
    plain.trials = trained(plan, pack, searched)
    pairs = list(zip(predicted[num_candidates:], [t[LOSS] for t in plain.trials], strict=True))
    return {
        "merge": merged.record(),
        "search": plain.record(),
        "natural": plain.trials[0],
        "correlation": spearman(pairs),
        "compared": len(pairs),
    }


def table(runs: list[dict[str, Any]]) -> str:
    """All runs, and their means."""
    lines = ["seed  way     passes  trials  valid loss  test loss  test match  mix of the winner"]
    for seed, run_ in enumerate(runs):
        for way in ("merge", "search"):
            each = run_[way]
            mix = " ".join(f"{name}={share:.2f}" for name, share in each["mix"].items())
            lines.append(
                f"{seed:>4}  {way:<6}  {each['passes']:>6}  {each['trials']:>6}  "
                f"{each[LOSS]:>10.4f}  {each['test/loss']:>9.4f}  "
                f"{each['test/exact_match']:>10.3f}  {mix}"
            )
    means = {
        way: statistics.mean(run_[way]["test/loss"] for run_ in runs)
        for way in ("merge", "search", "natural")
    }
    lines.append("mean test loss: " + ", ".join(f"{way} {mean:.4f}" for way, mean in means.items()))
    told = [
        "none" if run_["correlation"] is None else f"{run_['correlation']:.2f}" for run_ in runs
    ]
    lines.append(
        f"rank correlation of merged and trained loss, {runs[0]['compared']} mixes each: "
        + ", ".join(told)
    )
    return "\n".join(lines)


def main() -> None:
    """Compare under each seed, print and keep the figures."""
    options = parse(sys.argv[1:])
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="merge-")))
        settings = options.settings
        if not any(s.lstrip("+").startswith(("data=", "data.")) for s in settings):
            settings = [*write_toy(folder), *TOY, *settings]
        runs = []
        for seed in range(options.seeds):
            plan, base = plan_of(settings, seed, str(folder / "outputs"))
            runs.append(compare(plan, base, folder / f"experts-{seed}"))
            print(f"seed {seed} is done", file=sys.stderr, flush=True)
    print(table(runs))
    if options.json is not None:
        write_json(options.json, {"settings": options.settings, "runs": runs})


if __name__ == "__main__":
    sys.exit(answer(main))
