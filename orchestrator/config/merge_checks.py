"""When mix.method=merge, and what goes with it, changes nothing or cannot work. Pure."""

from __future__ import annotations

from orchestrator.config.merge_settings import FIRST_TRIALS
from orchestrator.config.settings import Config

MOST_RANK = 1024
"""Of an adapter; see jobs.config.Adapter."""
OTHER_PROMPTS = ("data.instruction", "data.neighbours.count")
"""Settings that give the trials other prompts than the experts."""


def without_simplex(config: Config, path: str) -> str | None:
    """Merging, where no mix is searched."""
    if config.mix.method == "search" or any(
        knob.type == "simplex" for knob in config.sweep.space.values()
    ):
        return None
    return (
        "the search space has no mix of sources; add +sweep=mix, or "
        "'sweep.space.mix={type: simplex}', to data with two sources or more"
    )


def without_merging(config: Config, path: str) -> str | None:
    """How mixes are merged, where each is trained."""
    if config.mix.method == "merge":
        return without_simplex(config, path)
    return "mix.method=search trains every mix that it scores; write mix.method=merge beside it"


def problems(config: Config) -> list[tuple[str, str]]:
    """What experts cannot be merged for."""
    simplexes = [knob for knob in config.sweep.space.values() if knob.type == "simplex"]
    if config.mix.method != "merge" or config.job.kind != "train" or not simplexes:
        return []
    faults = []
    if config.adapter.kind == "full":
        faults.append(
            (
                "mix.method",
                "merge adds up low-rank updates, and adapter.kind=full trains every weight; "
                "write adapter=lora, or mix.method=search",
            )
        )
    for name, knob in config.sweep.space.items():
        searched = [path for path in knob.paths if path.startswith("adapter.")]
        prompts = [path for path in knob.paths if path in OTHER_PROMPTS]
        if searched:
            text = (
                f"{searched[0]} is searched, and mix.method=merge needs experts of one adapter: "
                f"give it one value ({searched[0]}=VALUE, the best of a sweep before) and take "
                f"the knob out (~sweep.space.{name}), or write mix.method=search"
            )
            faults.append((f"sweep.space.{name}", text))
        elif prompts:
            text = (
                f"{prompts[0]} is searched, and under mix.method=merge the experts see one kind "
                f"of prompt: give it one value and take the knob out (~sweep.space.{name}), or "
                "write mix.method=search"
            )
            faults.append((f"sweep.space.{name}", text))
    if config.sweep.metric.startswith("train/"):
        faults.append(
            (
                "sweep.metric",
                f"{config.sweep.metric} is measured while training, and merged mixtures are not "
                "trained: mix.method=merge needs one of the validation rows, such as valid/loss",
            )
        )
    num_sources = len(simplexes[0].simplex or [])
    rank = num_sources * config.adapter.rank
    if not faults and rank > MOST_RANK:
        faults.append(
            (
                "adapter.rank",
                f"{config.adapter.rank} for each of {num_sources} experts makes a merged adapter "
                f"of rank {rank}, above {MOST_RANK}; mix.method=merge needs "
                f"adapter.rank={MOST_RANK // num_sources} or less",
            )
        )
    return faults + too_few(config)


def too_few(config: Config) -> list[tuple[str, str]]:
    """A sweep in which no merged mix would be trained."""
    num_trials = config.sweep.num_trials
    if num_trials is None or num_trials > FIRST_TRIALS:
        return []
    return [
        (
            "sweep.num_trials",
            f"{num_trials} leaves no trial for a merged mix, since the mixes by size and of equal "
            f"shares come first; mix.method=merge needs {FIRST_TRIALS + 1} or more",
        )
    ]
