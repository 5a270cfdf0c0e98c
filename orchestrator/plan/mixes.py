"""What the plan knows of mixes: how many rows the sources have, how far they last, and how many
trials a search over their shares needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jobs.config import Data, Trial
from jobs.data.corpus import Corpus
from jobs.data.shares import by_epochs, examples_of, most_examples, shares_of, weights_of
from orchestrator.config import simplex
from orchestrator.config.search_space import SOURCES
from orchestrator.config.settings import Config, changed
from orchestrator.errors import ConfigError


def with_natural(config: Config, corpus: Corpus) -> Config:
    """The configuration with the share of the rows that each source of a simplex has."""
    space = dict(config.sweep.space)
    for name, knob in space.items():
        if knob.type != "simplex":
            continue
        sizes = {source: len(corpus.sources.get(source, ())) for source in knob.simplex or []}
        total = sum(sizes.values())
        filled = dataclasses.replace(knob)
        shares = {source: size / total for source, size in sizes.items()}
        object.__setattr__(filled, "natural", shares)  # no argument: nobody can give it
        space[name] = filled
    return changed(config, sweep=dataclasses.replace(config.sweep, space=space))


def decisive_mix(config: Config) -> list[object]:
    """What of the mix decides a sweep's result beside weights; nothing where all is as in sweeps of
    before.
    """
    data = config.data
    epochs = {name: source.epochs for name, source in data.sources.items()}
    decisive: list[object] = [epochs] if by_epochs(data.sources) else []
    if (data.exhausted, data.max_epochs) != ("cycle", None):
        decisive.append([data.exhausted, data.max_epochs])
    return decisive


def drawn_shares(data: Data, rows: Mapping[str, int]) -> dict[str, float]:
    """Which part of the examples is drawn from each source of so many rows, while all have some."""
    weights = weights_of(data.sources, rows)
    largest = max(weights.values(), default=0.0) or 1.0
    scaled = {name: weight / largest for name, weight in weights.items()}
    total = sum(scaled.values()) or 1.0
    return {name: weight / total for name, weight in scaled.items()}


def batches_apart(config: Config) -> float:
    """About how many different batches the trials of a step read together, where they mix the
    sources differently: those that draw more of a source than others are ahead of them in it. Of
    each source the most that is drawn lies between its equal part and its upper bound.
    """
    highest: dict[str, float] = {}
    for knob in config.sweep.space.values():
        if knob.type == "simplex":
            highest |= dict(zip(knob.mixes.names, knob.mixes.high, strict=True))
        parts = knob.path.split(".")
        if knob.path.startswith(f"{SOURCES}.") and parts[-1] in ("weight", "epochs"):
            is_bounded = parts[-1] == "weight" and knob.high is not None
            highest[".".join(parts[2:-1])] = min(knob.high or 0.0, 1.0) if is_bounded else 1.0
    if not highest:
        return 1.0
    equal = 1 / max(len(config.data.sources), 1)
    highs = [highest.get(name, 1.0) for name in config.data.sources]
    return max(1.0, sum((equal + high) / 2 for high in highs))


def seen(trial: Trial, rows: Mapping[str, int]) -> dict[str, float]:
    """How many examples a trial that is never stopped sees of each source of so many rows."""
    count = trial.train.steps * trial.train.batch_size
    return examples_of(shares_of(trial.data, rows), rows, count)


def lasting_examples(data: Data, rows: Mapping[str, int]) -> float:
    """Examples before sources of so many rows are used up, by the weights of the configuration;
    infinite where they begin anew.
    """
    return most_examples(shares_of(data, rows), rows)


def limited(trial: Trial, rows: Mapping[str, int]) -> Trial:
    """A trial that ends where its sources of so many rows are used up."""
    examples = lasting_examples(trial.data, rows)
    if examples >= trial.train.steps * trial.train.batch_size:
        return trial
    steps = max(1, int(examples) // trial.train.batch_size)
    return dataclasses.replace(trial, train=dataclasses.replace(trial.train, steps=steps))


def check_lasting(trials: list[Trial], rows: Mapping[str, int]) -> None:
    """Raise ConfigError for a trial whose sources do not last for one step."""
    for trial in trials:
        examples = lasting_examples(trial.data, rows)
        if examples < trial.train.batch_size:
            text = (
                f"trial {trial.index} has {int(examples):,} examples before its sources are used "
                f"up, and a step takes train.batch_size={trial.train.batch_size}; lower that, or "
                "let sources begin anew: data.exhausted=cycle"
            )
            raise ConfigError([("data.exhausted", text)])


def lasting_notes(config: Config, trials: list[Trial]) -> list[str]:
    """Which trials end early, their sources being used up."""
    steps = config.train.steps
    short = [trial for trial in trials if trial.train.steps < steps]
    if not short:
        return []
    cap = config.data.max_epochs
    setting = f"data.exhausted={config.data.exhausted}"
    if config.data.exhausted == "cycle":
        setting = f"data.max_epochs={cap}"
    least = min(trial.train.steps for trial in short)
    most = max(trial.train.steps for trial in short)
    after = str(least) if least == most else f"{least} to {most}"
    which = "the trial ends"
    if len(trials) > 1:
        which = f"{len(short)} of {len(trials)} trials end"
    return [f"{setting}: {which} after {after} of {steps} steps, when the rows are used up"]


def mix_notes(config: Config, num_trials: int) -> list[str]:
    """What a search over shares tries first and how many trials it needs."""
    notes = []
    for name, knob in config.sweep.space.items():
        if knob.type != "simplex":
            continue
        mixes = knob.mixes
        equal = dict.fromkeys(mixes.names, 1 / len(mixes.names))
        for kind, mix in (("natural", knob.natural), ("uniform", equal)):
            tried = None if mix is None else simplex.nearest(mixes, mix)
            if mix is None or tried is None or distance(mix, tried) < 1e-3:
                continue
            notes.append(
                f"the {kind} mix ({shown(mix)}) lies outside sweep.space.{name}.bounds: "
                f"{shown(tried)} is tried in its place"
            )
        aside = [source for source in config.data.sources if source not in mixes.names]
        weights = [f"data.sources.{n}.weight={config.data.sources[n].weight:g}" for n in aside]
        if aside:
            notes.append(
                f"sweep.space.{name} leaves out {', '.join(aside)}: beside shares that add up to 1 "
                f"stays {', '.join(weights)}"
            )
        needed = simplex.trials_needed(len(mixes.names))
        if num_trials < needed and config.mix.method == "search":
            notes.append(
                f"{len(mixes.names)} sources need about {needed} trials to show how the score "
                f"follows their shares, and these are {num_trials}: sweep.num_trials={needed}, or "
                "more sweep.minutes"
            )
    return notes


def mix_lines(config: Config) -> list[str]:
    """The mixes that are tried first, and how the others are chosen."""
    lines = []
    for knob in config.sweep.space.values():
        if knob.type != "simplex":
            continue
        mixes = simplex.first_mixes(knob.mixes, knob.natural)
        kinds = ["by size", "uniform"] if len(mixes) > 1 else ["uniform"]
        first = "; ".join(f"{kind}: {shown(mix)}" for kind, mix in zip(kinds, mixes, strict=True))
        if config.mix.method == "merge":
            first += "; then the best by merging experts"
        if config.sweep.search == "optuna":
            others = "by Optuna, in stick-breaking coordinates"
        else:
            others = "uniformly drawn within the bounds"
        lines.append(f"first {first}; then {others}")
    return lines


def distance(mix: Mapping[str, float], other: Mapping[str, float]) -> float:
    """The largest difference between two mixes in any source."""
    return max(abs(share - other[name]) for name, share in mix.items())


def shown(mix: Mapping[str, float]) -> str:
    """A mix in words."""
    return ", ".join(f"{name} {share:.3g}" for name, share in mix.items())
