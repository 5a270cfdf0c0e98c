"""Hydra: groups and overrides into one dictionary of settings."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from orchestrator.config import credentials
from orchestrator.config.chosen_files import chosen_files
from orchestrator.config.device_profiles import with_profiles
from orchestrator.config.fleet import is_fleet, without_tasks
from orchestrator.config.fleet_choices import choices_of_no_task
from orchestrator.config.idle_settings import KNOB
from orchestrator.config.nested_sections import NESTED
from orchestrator.config.settings import SECTIONS, Config
from orchestrator.config.validation import Check, check, suggestion
from orchestrator.errors import ConfigError, InputError
from orchestrator.project import ROOT

FREE_TEXT = (
    *("prompt", "messages", "data.instruction", "data.description", "job.reason", "job.author"),
    "synthesis.instruction",
)
"""Settings that hold a text in natural language: quotes and ${...} in it are part of it."""
COLUMNS = r"data\.(sources\.[\w-]+\.)?columns\.\w+"
"""Those that hold a column's name or a template, likewise."""


def typed_settings(overrides: list[str]) -> list[str]:
    """The names of the settings that were typed, without the choices of groups."""
    names = [text.lstrip("+").partition("=")[0] for text in overrides if not text.startswith("~")]
    return [name for name in names if "." in name or name not in (*SECTIONS, *ADDED)]


def compose(
    overrides: list[str], folder: str | None, checks: tuple[Check, ...] = ()
) -> dict[str, Any]:
    """conf/ with the overrides put over it, as a plain dictionary. Raises ConfigError with every
    override that cannot be used, and with what `checks` find beside them.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

    OmegaConf.register_new_resolver("secret", credentials.resolve, replace=True)
    OmegaConf.register_new_resolver("project", lambda path: str(ROOT / path), replace=True)
    if folder is not None and not (os.path.isdir(folder) and os.access(folder, os.R_OK | os.X_OK)):
        raise InputError(
            f"--config-dir {folder}: "
            f"{'this user may not read it' if os.path.isdir(folder) else 'no such folder'}"
        )
    search = [f"hydra.searchpath=[file://{Path(folder).resolve()}]"] if folder else []
    prepared, faults = prepare(overrides, folder)
    try:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            composed = hydra_compose("config", overrides=search + prepared)
        faults += [(path, "must be set") for path in sorted(OmegaConf.missing_keys(composed))]
        raw: Any = OmegaConf.to_container(composed, resolve=True)
        raw = with_profiles(raw, folder, faults)
        if is_fleet(raw):
            files = [file for file in chosen_files(overrides, folder) if file.has_tasks]
            faults += choices_of_no_task(raw, overrides, choices(folder)["model"], files)
        credentials.remember_address(str((raw.get("tracking") or {}).get("uri") or ""))
        credentials.remember_settings(raw)
    except UnicodeDecodeError as error:
        raise ConfigError(
            [
                *faults,
                (
                    "conf",
                    f"a file below {folder or ROOT / 'conf'} is not UTF-8 ({error}); save it as "
                    "UTF-8",
                ),
            ]
        ) from error
    except InterpolationResolutionError as error:
        problem = first_line(error).removeprefix("Missing raised while resolving interpolation: ")
        raise ConfigError([*faults, (error.full_key or "arguments", problem)]) from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError([*faults, ("arguments", first_line(error))]) from error
    except Exception as error:
        if type(error).__module__.startswith("yaml"):
            raise ConfigError(
                [*faults, ("conf", f"not valid YAML: {' '.join(str(error).split())}")]
            ) from error
        raise
    if faults:
        said = {path for path, _ in faults} if is_fleet(raw) else set()
        others = check(without_tasks(raw), checks)
        raise ConfigError(faults + [each for each in others if each[0] not in said])
    return raw


def first_line(error: Exception) -> str:
    """The line of a Hydra error that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def prepare(overrides: list[str], folder: str | None) -> tuple[list[str], list[tuple[str, str]]]:
    """The overrides in a form that Hydra always takes, so that validation.py can report all bad
    ones, and what is wrong with others.

    A setting becomes `++name=value`; the choice of a group is checked here.
    """
    choices_by_group = choices(folder)
    brings_sweep = brings_a_sweep(overrides, folder)
    faults = chosen_twice(overrides, choices_by_group)
    prepared: list[str] = []
    for text in overrides:
        match = re.match(r"^(\+\+|\+|~)?([A-Za-z_][\w.@/:-]*)(=(.*))?$", text, re.DOTALL)
        if match is None or (match[3] is None and match[1] != "~"):
            faults.append((text[:40], "is not of the form name=value"))
            continue
        sign = match[1] or ""
        name = match[2]
        value = match[4]
        if re.split(r"[./@]", name)[0] == "hydra" or (
            re.search(r"[/@:]", name) and name not in choices_by_group
        ):
            faults.append((name, "no such setting" + suggestion(name, [*choices_by_group])))
        elif not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", name):
            faults.append(
                (
                    name,
                    "no such setting; on the command line a name has ASCII letters, digits and _, "
                    "joined by single dots",
                )
            )
        elif name in choices_by_group and sign != "~":
            faults += (wrong := choice_problems(name, value, choices_by_group))
            prepared += [] if wrong else [chosen(name, value, brings_sweep)]
        elif sign == "~":
            prepared.append(text)
        else:
            override = f"++{name}={quoted(name, value)}"
            wrong = grammar_problems(override, name, value)
            if wrong and value[:1] not in "[{'\"" and not several(override):
                # A bare text with a character that Hydra's grammar does not know, such as a path
                # with an umlaut.
                override = f"++{name}={as_text(value)}"
                wrong = []
            faults += wrong
            prepared += [] if wrong else [*left_behind(name, override), override]
    return prepared, faults


def left_behind(name: str, override: str) -> list[str]:
    """Overrides that take away what a knob of a file has and one of another type has not: Hydra
    puts a typed group over the file's, field by field, and none over a list.
    """
    if name == "device.profiles":
        return ["++device.profiles=null"]
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not re.fullmatch(r"sweep\.space\.[^.]+", name):
        return []
    knob = OverridesParser.create().parse_overrides([override])[0].value()
    kind = knob.get("type") if isinstance(knob, dict) else None
    if not isinstance(knob, dict) or not isinstance(kind, str) or kind not in KNOB:
        return []
    foreign = {field for fields in KNOB.values() for field in fields} - {*KNOB[kind], *knob}
    return [f"++{name}.{field}=null" for field in sorted(foreign - {"times", "plus"})]


ADDED = ("sweep", "experiment", "device", "fleet")
"""Groups outside the defaults list; both `sweep=lora` and `+sweep=lora` add them."""


def brings_a_sweep(overrides: list[str], folder: str | None) -> bool:
    """Whether a chosen experiment or fleet brings a sweep, which a typed one replaces."""
    return any(file.choice_of("sweep") for file in chosen_files(overrides, folder))


def chosen_twice(
    overrides: list[str], choices_by_group: dict[str, list[str]]
) -> list[tuple[str, str]]:
    """Groups outside the defaults list that were chosen more than once."""
    faults = []
    for group in ADDED:
        names = [text.lstrip("+").partition("=") for text in overrides]
        found = [choice for name, _, choice in names if name == group]
        found = [choice for choice in found if choice in choices_by_group.get(group, [])]
        if len(found) > 1:
            several = " and ".join(dict.fromkeys(found))
            faults.append((group, f"is chosen more than once: {several}; leave one of them"))
    return faults


def chosen(group: str, choice: str, brings_sweep: bool) -> str:
    """A choice of a group as Hydra takes it. An experiment sets what stands anywhere: its file
    begins with its command, and so cannot say that itself.
    """
    if group == "experiment":
        return f"+experiment@_global_={choice}"
    is_new = group in ADDED and not (group == "sweep" and brings_sweep)
    return f"{'+' if is_new else ''}{group}={choice}"


def choice_problems(
    name: str, value: str, choices_by_group: dict[str, list[str]]
) -> list[tuple[str, str]]:
    """Whether GROUP=CHOICE names a file under conf/."""
    if value in choices_by_group[name]:
        return []
    return [
        (
            name,
            f'"{value}" is not one of {", ".join(choices_by_group[name])}'
            f"{suggestion(value, choices_by_group[name])}",
        )
    ]


def grammar_problems(override: str, name: str, value: str) -> list[tuple[str, str]]:
    """Whether Hydra's grammar can read a setting, and reads one value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides([override])[0]
    except HydraException:
        nested = "put quotes around the texts in it; a name in it has ASCII letters, digits and _"
        remedy = nested if value[:1] in ("{", "[") else f"put quotes around it: '{name}=\"...\"'"
        shown = credentials.shown_value(name, repr(value))
        return [(name, f"cannot read the value {shown}; {remedy}")]
    if parsed.is_sweep_override():
        return [
            (
                name,
                f"{credentials.shown_value(name, repr(value))} is several values; a search space "
                "tries several: see conf/sweep/, or quote the text",
            )
        ]
    return []


def several(override: str) -> bool:
    """Whether Hydra reads an override as several values to try."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_overrides([override])[0].is_sweep_override()
    except HydraException:
        return False


def quoted(name: str, value: str) -> str:
    """A value as Hydra's grammar takes it: a text is quoted, which keeps commas, braces and 1e5 in
    it as typed.
    """
    if value in ("null", ""):
        return value or "''"
    if name in FREE_TEXT or re.fullmatch(COLUMNS, name):
        return as_text(re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + "\\${", value))
    return as_text(value) if is_text(name) and value[0] not in "'\"" else value


def is_text(name: str) -> bool:
    """Whether a setting is declared as text."""
    group, _, last = name.rpartition(".")
    kind = (SECTIONS | NESTED).get(group) if group else Config
    return kind is not None and any(
        entry.name == last and entry.type in ("str", "str | None")
        for entry in dataclasses.fields(kind)
    )


def as_text(value: str) -> str:
    """A text between quotes, as Hydra's grammar reads it back."""
    inner = re.sub(r"(\\*)(\"|$)", lambda m: m[1] * 2 + ("\\" + m[2] if m[2] else ""), value)
    return f'"{inner}"'


def choices(folder: str | None = None) -> dict[str, list[str]]:
    """The configuration groups and the names in each."""
    names_by_group: dict[str, set[str]] = {}
    for root in [ROOT / "conf", *([Path(folder)] if folder else [])]:
        for file in root.glob("*/*.yaml"):
            names_by_group.setdefault(file.parent.name, set()).add(file.stem)
    return {group: sorted(names_by_group[group]) for group in sorted(names_by_group)}


def as_yaml(raw: dict[str, Any]) -> str:
    """A composed configuration as YAML text."""
    import yaml

    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)
