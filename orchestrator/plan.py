"""What a command would do: name, trials, resources, data and cost, before anything starts.

A pure function of the configuration, the data files, the base model if it lies ready, and the machine. Downloads nothing, starts nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from jobs import fetch
from jobs.config import BaseModel, Trial
from jobs.data import Corpus, Example, Template, encode_rows, load_corpus
from orchestrator.config import Config
from orchestrator.cost import Estimate, estimate
from orchestrator.errors import ConfigError, InputError
from orchestrator.halving import rung_steps
from orchestrator.resources import Resources, count_cpus, count_gpus, divide
from orchestrator.space import grid_size, point
from orchestrator.validation import trial_of

SAMPLE_ROWS = 500
NEUTRAL = ("cpus_per_worker", "gpus_per_worker", "max_failures", "tokens_per_step")
"""Settings of `train` that change how fast a trial runs, not what it computes."""


@dataclass(frozen=True)
class Share:
    """What one source contributes."""

    rows: int
    share: float
    """Part of the examples drawn from it, 0..1, before any sweeping of weights."""
    answer_tokens: int | None
    """Tokens of all its rows that carry loss. None: the base model's tokenizer is not here yet."""


@dataclass(frozen=True)
class Plan:
    """One command, thought through."""

    name: str
    config: Config
    base: BaseModel | None
    """None: not on disk yet."""
    num_trials: int
    trials: list[Trial]
    """The trials in order. Under optuna only the first is known before results are in."""
    rungs: list[int]
    """Steps after which trials are compared; the last is train.steps."""
    resources: Resources
    sources: dict[str, Share]
    num_valid: int
    num_test: int
    digests: dict[str, str]
    notes: list[str]
    example: Example | None
    supervised_text: str
    """The part of the example that carries loss."""
    estimate: Estimate | None


def make(config: Config) -> Plan:
    """The plan of a checked configuration. Raises ConfigError or InputError for data, models and requests that cannot be used."""
    try:
        corpus = load_corpus(config.data)
        base = fetch.locate(config.model)
    except ValueError as error:
        raise InputError(str(error)) from error
    num_trials = count_trials(config)
    resources = divide(config, num_trials, count_cpus(config), count_gpus(config))
    trials = known_trials(config, num_trials)
    sources, example, tokens = measure(config, corpus, base, trials)
    return Plan(
        name=f"{config.sweep.name}-{identity(config, corpus.fingerprint, base)[:6]}",
        config=config,
        base=base,
        num_trials=num_trials,
        trials=trials,
        rungs=rung_steps(config),
        resources=resources,
        sources=sources,
        num_valid=len(corpus.valid),
        num_test=len(corpus.test),
        digests=corpus.digests,
        notes=[*corpus.notes, *advice(config)],
        example=example,
        supervised_text=supervised(config, example, base),
        estimate=estimate(config, base, resources, num_trials, tokens),
    )


def count_trials(config: Config) -> int:
    """How many trials the sweep has. Raises ConfigError when grid search is asked for more than there are."""
    combinations = grid_size(as_grid(config).sweep.space)
    wanted = config.sweep.num_trials
    only_grid = all(knob.type in ("grid", "linked") for knob in as_grid(config).sweep.space.values())
    if wanted is not None and only_grid and wanted > combinations:
        text = f"{wanted} is more than the {combinations} different combinations of the search space; leave it out to try them all"
        raise ConfigError([("sweep.num_trials", text)])
    return wanted or combinations


def as_grid(config: Config) -> Config:
    """Under sweep.search=grid every choice is a grid."""
    if config.sweep.search != "grid":
        return config
    space = {k: dataclasses.replace(v, type="grid") if v.type == "choice" else v for k, v in config.sweep.space.items()}
    return dataclasses.replace(config, sweep=dataclasses.replace(config.sweep, space=space))


def known_trials(config: Config, num_trials: int) -> list[Trial]:
    """The trials that can be told in advance."""
    if config.sweep.search == "optuna" and config.sweep.space:
        return [trial_of(config, 1, point(config.sweep.space, config.seed, 1))]
    space = as_grid(config).sweep.space
    return [trial_of(config, index, point(space, config.seed, index)) for index in range(1, num_trials + 1)]


def identity(config: Config, fingerprint: str, base: BaseModel | None) -> str:
    """Hash of everything that decides the sweep's result but how far it goes, so that a wider or longer one continues it."""
    raw = dataclasses.asdict(config)
    train = {key: value for key, value in raw["train"].items() if key not in NEUTRAL}
    if config.optim.schedule == "constant":
        del train["steps"]
    sweep = {key: value for key, value in raw["sweep"].items() if key not in ("name", "num_trials", "max_concurrent", "give_up_after")}
    if config.sweep.scheduler == "none":
        del sweep["reduction"]
    weights = {name: source["weight"] for name, source in raw["data"]["sources"].items()}
    model = base.revision if base else (config.model.revision or config.model.sha256 or config.model.id or config.model.path)
    decisive = [model, fingerprint, weights, raw["data"]["instruction"], raw["adapter"], raw["optim"], train, sweep, config.seed]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def measure(config: Config, corpus: Corpus, base: BaseModel | None, trials: list[Trial]) -> tuple[dict[str, Share], Example | None, float]:
    """Rows, share and supervised tokens per source, one example, and the mean tokens of an example.

    Answers are counted whole, because they repeat; prompts only where all tokens carry loss.
    """
    weights = {name: config.data.sources[name].weight if name in config.data.sources else 1.0 for name in corpus.sources}
    total = sum(weights.values()) or 1.0
    counts: dict[str, int | None] = dict.fromkeys(corpus.sources)
    example, mean = None, 0.0
    if base is not None:
        try:
            template = Template(base.path)
            counts, example, mean = count_tokens(config, corpus, template)
        except ValueError as error:
            raise InputError(str(error)) from error
    shares = {name: Share(len(rows), weights[name] / total, counts[name]) for name, rows in corpus.sources.items()}
    return shares, example, mean


def count_tokens(config: Config, corpus: Corpus, template: Template) -> tuple[dict[str, int | None], Example, float]:
    """Supervised tokens per source, the first example, and the mean length of an example in tokens."""
    counts: dict[str, int | None] = {}
    sampled: list[Example] = []
    for split in ("valid", "test"):
        encode_rows(getattr(corpus, split)[:SAMPLE_ROWS], template, config.train.max_length, f"data.{split}")
    for name, rows in corpus.sources.items():
        longest = sorted(rows, key=lambda row: -len(row.answer))[:SAMPLE_ROWS]
        encode_rows(longest, template, config.train.max_length, f"data.sources.{name}")
        few = encode_rows(rows[:SAMPLE_ROWS], template, config.train.max_length, f"data.sources.{name}")
        sampled += few
        if config.train.on == "all":
            counts[name] = round(sum(len(e.ids) - 1 for e in few) / len(few) * len(rows))
        else:
            known = {row.answer: len(e.ids) - e.prompt_length for row, e in zip(rows, few, strict=False)}
            mean = sum(known.values()) / len(known)
            counts[name] = round(sum(known.get(row.answer, mean) for row in rows))
    return counts, sampled[0], sum(len(e.ids) for e in sampled) / len(sampled)


def supervised(config: Config, example: Example | None, base: BaseModel | None) -> str:
    """The text of the example's tokens that carry loss."""
    if example is None or base is None:
        return ""
    start = 1 if config.train.on == "all" else example.prompt_length
    return Template(base.path).decode(example.ids[start:], skip_special=False)


def advice(config: Config) -> list[str]:
    """What a user should know about a legal but unwise configuration."""
    notes = []
    if config.sweep.scheduler != "none" and config.optim.schedule != "constant":
        notes.append(
            f"optim.schedule={config.optim.schedule} with sweep.scheduler={config.sweep.scheduler}: a rung compares unfinished schedules"
        )
    if config.train.eval_every > config.train.steps:
        notes.append(f"train.eval_every={config.train.eval_every} is beyond train.steps={config.train.steps}: one evaluation, at the end")
    return notes


def flat_params(config: Config, trial: Trial) -> dict[str, Any]:
    """A trial's settings by dotted name, the same names for every trial of a sweep."""
    from orchestrator.validation import leaves

    raw = dataclasses.asdict(trial)
    kept = {key: raw[key] for key in ("adapter", "optim", "train")} | {"seed": trial.seed, "model": {"name": trial.model.name}}
    weights = {f"data.sources.{name}.weight": source["weight"] for name, source in raw["data"]["sources"].items()}
    return {key: value for key, value in (leaves(kept) | weights).items() if value is not None}


def used(plan: Plan, trial: Trial) -> list[dict[str, Any]]:
    """The data of one trial as the tracking store records it."""
    sources = trial.data.sources
    total = sum(source.weight for source in sources.values()) or 1.0
    training = [
        {
            "name": f"{trial.data.name}/{name}",
            "digest": plan.digests[f"train/{name}"],
            "source": sources[name].path if name in sources else str(trial.data.folder),
            "context": "training",
            "rows": share.rows,
            "weight": sources[name].weight / total if name in sources else 1.0,
        }
        for name, share in plan.sources.items()
    ]
    held_out = [("valid", "validation", plan.num_valid, trial.data.valid), ("test", "test", plan.num_test, trial.data.test)]
    return training + [
        {
            "name": f"{trial.data.name}/{split}",
            "digest": plan.digests[split],
            "source": path or str(trial.data.folder or next(iter(sources.values())).path),
            "context": context,
            "rows": rows,
        }
        for split, context, rows, path in held_out
    ]
