"""Memory and speed of the files that a sweep would ship, measured of the untouched base before
anything is trained: what cannot keep any device's limits costs no training.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

from jobs.config import BaseModel
from jobs.export.formats import FORMATS
from jobs.files.cache import cache_folder
from jobs.files.json_types import JsonObject
from jobs.machine.identity import identity, key
from orchestrator.config.device_settings import Profile
from orchestrator.config.settings import Config
from orchestrator.errors import ConfigError, InputError
from orchestrator.evaluation import device_limits
from orchestrator.plan.shipping import ShippingPlan
from orchestrator.project import ROOT
from orchestrator.storage.json_files import read_object, write_json

CLEARLY = 0.5
"""Share of a limit of speed that is clearly missed: on a busy machine any file is slow."""
MEASURING = threading.Lock()
"""Two measurements at once would slow each other down."""
MEASURED = ("max_memory_mb", "min_tokens_per_second")


def checked(
    config: Config, base: BaseModel, plan: ShippingPlan | None, say: Callable[[str], None]
) -> ShippingPlan | None:
    """The plan without the formats that are beyond every device's limits. Raises ConfigError where
    none is left, InputError for a base that cannot be written in a format.
    """
    if plan is None or not any(
        name in each.limits.asked for each in plan.profiles for name in MEASURED
    ):
        return plan
    left_out = dict(plan.left_out)
    problems: list[tuple[str, str]] = []
    for form in plan.formats:
        if FORMATS[form].kind == "safetensors":
            continue
        report = {"costs": costs_of(config, base, form, plan.profiles, say)}
        missed = {profile.label: beyond(report, profile) for profile in plan.profiles}
        if all(missed.values()):
            reasons = "; ".join(
                dict.fromkeys(reason for told in missed.values() for reason in told)
            )
            left_out[form] = f"measured of the untouched base, {reasons}"
            paths = [path for profile in plan.profiles for path in paths_of(report, profile)]
            problems.append(
                (
                    paths[0],
                    f"cannot be kept by {config.model.name} as {form}: measured of the untouched "
                    f"base, {reasons}; nothing is trained for it",
                )
            )
    formats = tuple(form for form in plan.formats if form not in left_out)
    if not formats:
        raise ConfigError(problems)
    for form, why in left_out.items():
        if form not in plan.left_out:
            say(f"device  {form} is not made: {why}")
    return dataclasses.replace(plan, formats=formats, left_out=left_out)


def relaxed(profile: Profile) -> Profile:
    """A profile with the limits that can be looked at before training."""
    limits = profile.limits
    least = limits.min_tokens_per_second
    return dataclasses.replace(
        profile,
        limits=dataclasses.replace(
            limits,
            max_drop=None,
            min_tokens_per_second=None if least is None else CLEARLY * least,
        ),
    )


def beyond(report: JsonObject, profile: Profile) -> list[str]:
    """The limits that an untouched base clearly does not keep."""
    if not device_limits.broken(report, relaxed(profile)):
        return []
    without_drop = dataclasses.replace(profile.limits, max_drop=None)
    return device_limits.broken(report, dataclasses.replace(profile, limits=without_drop))


def paths_of(report: JsonObject, profile: Profile) -> list[str]:
    """The settings of the limits that are not kept."""
    kept = relaxed(profile)
    names = kept.limits.asked
    paths = []
    for name in names:
        alone = type(kept.limits)(**{name: names[name], "threads": kept.limits.threads})
        if device_limits.broken(report, dataclasses.replace(kept, limits=alone)):
            paths.append(f"{profile.path}.{name}")
    return paths


def costs_of(
    config: Config,
    base: BaseModel,
    form: str,
    profiles: Sequence[Profile],
    say: Callable[[str], None],
) -> JsonObject:
    """What the untouched base costs in a format on this machine; measured once, whichever of the
    command's threads asks. Raises InputError for a base that cannot be written in it.
    """
    named = {profile.limits.threads for profile in profiles}
    threads = sorted({*config.export.threads, *(count for count in named if count is not None)})
    context = config.train.max_length
    counts = "-".join(map(str, threads))
    machine = key(identity(max(threads, default=1)))
    name = f"{base.revision[:12]}-{form}-{context}-{counts}-{machine}.json"
    file = cache_folder() / "device" / name
    with MEASURING:
        kept = read_object(file)
        if "size_mb" not in kept:
            kept = measured(config, base, form, threads, say)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, kept)
    return kept


def measured(
    config: Config, base: BaseModel, form: str, threads: list[int], say: Callable[[str], None]
) -> JsonObject:
    """Those costs, by a process of its own. Raises InputError."""
    from jobs.export.model_folder import describe  # numpy and scikit-learn: a second

    say(f"device  measuring the untouched {base.name} as {form}")
    asked = {
        "base": dataclasses.asdict(base),
        "described": describe(base, config.model),
        "format": form,
        "context": config.train.max_length,
        "threads": threads,
    }
    done = subprocess.run(
        [sys.executable, "-m", "jobs.export.untouched"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    try:
        answer = dict(json.loads(done.stdout.strip().splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        last = (done.stderr.strip().splitlines() or ["it was ended"])[-1]
        answer = {"error": last[:300]}
    if "error" in answer:
        raise InputError(f"export.format={form}: {answer['error']}")
    return answer
