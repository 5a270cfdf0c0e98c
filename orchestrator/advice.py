"""What a user should know about a configuration that is legal but unwise. Pure."""

from __future__ import annotations

from orchestrator.config import Config


def shaped_by_steps(config: Config) -> bool:
    """Whether some trial's learning rates depend on train.steps, so that a longer sweep is another one."""
    return config.optim.schedule != "constant" or any(knob.path == "optim.schedule" for knob in config.sweep.space.values())


def advice(config: Config, why_plain: str | None) -> list[str]:
    """What a user should know about a legal but unwise configuration, and why its trials are not packed."""
    notes = [f"each trial trains by itself: {why_plain}"] if why_plain else []
    notes += [f"sweep.space.{name} is not searched: {reason}" for name, reason in config.skipped.items()]
    if config.sweep.scheduler != "none" and shaped_by_steps(config):
        notes.append(
            f"optim.schedule is not always constant under sweep.scheduler={config.sweep.scheduler}: a rung compares unfinished schedules"
        )
    if config.train.eval_every > config.train.steps:
        notes.append(f"train.eval_every={config.train.eval_every} is beyond train.steps={config.train.steps}: one evaluation, at the end")
    return notes
