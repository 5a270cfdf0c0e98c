"""When settings of the sweep and of its finalists change nothing. Pure."""

from __future__ import annotations

from orchestrator.config.settings import Config
from orchestrator.config.synthesis_checks import has_price


def alone(config: Config, path: str) -> str | None:
    """What decides between trials, where there is one."""
    if not config.sweep.space:
        return "there is one trial; a search space gives more, such as +sweep=lora"
    return "there is one trial" if config.sweep.num_trials == 1 else None


def without_rungs(config: Config, path: str) -> str | None:
    """How many trials survive a rung, where none is stopped."""
    return alone(config, path) or (
        "sweep.scheduler=none stops no trial" if config.sweep.scheduler == "none" else None
    )


def without_curves(config: Config, path: str) -> str | None:
    """Whether trials end inside a rung, where none is compared or all train apart."""
    apart = "executor=plain trains each trial by itself"
    return without_rungs(config, path) or (apart if config.executor == "plain" else None)


def without_draws(config: Config, path: str) -> str | None:
    """What earlier sweeps have found, where there is no first trial to choose."""
    if not config.sweep.space:
        return alone(config, path)
    drawn = any(knob.type not in ("grid", "linked") for knob in config.sweep.space.values())
    return None if drawn else "every point of a grid is tried"


def without_finalists(config: Config, path: str) -> str | None:
    """How finalists are trained, where there are none."""
    if (reason := alone(config, path)) is not None:
        return reason
    return "final.count=0 has no finalists" if config.final.count == 0 else None


def unpriced(config: Config, path: str) -> str | None:
    """A limit on money, where nothing costs any."""
    prices = config.cluster.prices
    if config.job.kind == "synthesize":
        priced = "nothing has a price; give one, such as synthesis.teacher.price.output=0.6"
        return None if has_price(config) else priced
    if prices.cpu_hour or prices.gpu_hour or prices.hour:
        return None
    return "nothing has a price; give one, such as cluster.prices.cpu_hour=0.04"
