"""What a user should know about a configuration that is legal but unwise. Pure."""

from __future__ import annotations

from orchestrator.config import idle_settings
from orchestrator.config.settings import Config
from orchestrator.plan.rungs import rung_steps


def shaped_by_steps(config: Config) -> bool:
    """Whether some trial's learning rates depend on train.steps, so that a longer sweep is another
    one.
    """
    return config.optim.schedule != "constant" or any(
        knob.path == "optim.schedule" for knob in config.sweep.space.values()
    )


def unfinished(config: Config) -> str | None:
    """Why trials are compared while their learning rates fall, if so."""
    if config.sweep.scheduler == "none" or not shaped_by_steps(config):
        return None
    optim = config.optim
    searched = any(knob.path == "optim.schedule" for knob in config.sweep.space.values())
    if searched or optim.schedule != "warmup_stable_decay":
        return "optim.schedule is not always constant"
    start = config.train.steps * (1 - optim.decay_share)
    late = [rung for rung in rung_steps(config)[:-1] if rung > start]
    falls = f"optim.decay_share={optim.decay_share:g} lets the rate fall from step {start:.0f} on"
    return f"{falls}, before the rung at {late[0]}" if late else None


def highest(config: Config, path: str, configured: float) -> float:
    """The highest value that a setting has in some trial."""
    knob = next((knob for knob in config.sweep.space.values() if knob.path == path), None)
    if knob is None:
        return configured
    tried = [*(knob.values or ()), knob.low, knob.high]
    return max((float(value) for value in tried if isinstance(value, int | float)), default=0.0)


def too_long_warmup(config: Config) -> str | None:
    """What a warm-up that takes all of the steps, or that ends where the rate has begun to fall,
    makes of the learning rate.
    """
    steps = config.train.steps
    warmup = highest(config, "optim.warmup_steps", config.optim.warmup_steps)
    told = f"optim.warmup_steps={warmup:g}"
    if warmup > steps:
        share = f"{steps / warmup:.0%}"
        return (
            f"{told} is beyond train.steps={steps}: the learning rate never passes {share} of "
            "optim.lr"
        )
    schedules = {
        config.optim.schedule,
        *(
            value
            for knob in config.sweep.space.values()
            if knob.path == "optim.schedule"
            for value in knob.values or ()
        ),
    }
    start = steps * (1 - config.optim.decay_share)
    if "warmup_stable_decay" in schedules and warmup > start:
        return (
            f"{told} ends after step {start:.0f}, from which on optim.decay_share lets the rate "
            "fall"
        )
    if warmup == steps and schedules != {"constant"}:
        return f"{told} is all of train.steps: the learning rate rises to the end and never falls"
    return None


def advice(config: Config, why_plain: str | None) -> list[str]:
    """What a user should know about a legal but unwise configuration, and why its trials are not
    packed.
    """
    notes = [f"each trial trains by itself: {why_plain}"] if why_plain else []
    notes += [
        f"sweep.space.{name} is not searched: {reason}" for name, reason in config.skipped.items()
    ]
    notes += unsearched_mix(config)
    notes += idle_settings.notes(config)
    if (unfair := unfinished(config)) is not None:
        notes.append(
            f"{unfair} under sweep.scheduler={config.sweep.scheduler}: a rung compares unfinished "
            "schedules"
        )
    if (warmup := too_long_warmup(config)) is not None:
        notes.append(warmup)
    if config.train.eval_every > config.train.steps:
        notes.append(
            f"train.eval_every={config.train.eval_every} is beyond "
            f"train.steps={config.train.steps}: one evaluation, at the end"
        )
    return notes


def unsearched_mix(config: Config) -> list[str]:
    """A note where a sweep has several sources and draws them in one mix, with what searches it."""
    weights = {name: source.weight for name, source in config.data.sources.items()}
    paths = {path for knob in config.sweep.space.values() for path in knob.paths}
    if len(weights) < 2 or not paths or any(path.startswith("data.sources.") for path in paths):
        return []
    total = sum(weights.values()) or 1.0
    shares = ", ".join(f"{name} {weight / total:.0%}" for name, weight in weights.items())
    first = next(iter(weights))
    knob = f"{{path: data.sources.{first}.weight, type: uniform, low: 0, high: {2 * total:g}}}"
    return [
        f"all trials draw the same mix of sources ({shares}); '+sweep.space.mix={knob}' searches it"
    ]


def exhausted(config: Config, num_trials: int) -> list[str]:
    """A note where fewer trials are run than asked for, because others would repeat them."""
    wanted = config.sweep.num_trials
    if wanted is None or wanted <= num_trials:
        return []
    runs = "1 is" if num_trials == 1 else f"{num_trials:,} are"
    return [
        f"sweep.num_trials={wanted}, but the search space holds no more than {num_trials:,} "
        f"different trials: {runs} run"
    ]
