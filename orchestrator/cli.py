"""The command line: compose conf/ and the arguments, build the configuration, plan, print, launch.

The only file that imports Hydra. Nothing here loads torch, transformers, peft, ray or mlflow, so that --help, dry_run and a typing
mistake answer at once.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import sys
from pathlib import Path
from typing import Any

from orchestrator import credentials, report, sharing
from orchestrator.config import Config
from orchestrator.errors import ConfigError, InputError, OrchestratorError
from orchestrator.validation import SECTIONS, build, check, suggestion

ROOT = Path(__file__).resolve().parent.parent
FREE_TEXT = ("prompt", "data.instruction")
"""Settings that hold a text in natural language: quotes and ${...} in it are part of it."""


def main(arguments: list[str]) -> int:
    """Run one command and return its exit code: 0 done, 1 work failed, 2 bad input, 130 interrupted."""
    try:
        code = run(arguments)
        sys.stdout.flush()
        return code
    except OrchestratorError as error:
        report.error(str(error))
        return error.exit_code
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("orchestrator", "jobs"):
            raise
        report.error(f"{sys.executable} has no module {error.name}; install this project there: pip install -c constraints.txt -e .")
        return 2
    except KeyboardInterrupt:
        report.error("interrupted; the same command continues")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its exit
        return 1
    except OSError as error:  # a full disk, a store that is gone: the machine's, not a bug of ours
        space = "free some space where storage or the temporary folder is; " if error.errno == errno.ENOSPC else ""
        report.error(f"{error}; {space}what is done is kept, and the same command continues")
        return 1


def run(arguments: list[str]) -> int:
    """Compose, build, plan and do what the configuration's job says."""
    for argument in arguments:
        if not argument.isascii() and argument != argument.encode(errors="replace").decode():
            raise InputError(f"{argument.encode(errors='replace').decode()} is not UTF-8; type it in a terminal that is set to UTF-8")
    credentials.remember_environment()
    flags, overrides = split_flags(arguments)
    if "--help" in flags:
        print(report.usage(choices()))
        return 0
    raw = compose(overrides, flags.get("--config-dir"))
    if "--cfg" in flags:
        print(as_yaml(credentials.without_secrets(raw, FREE_TEXT)), end="")
        return 0
    config = build(raw)
    if not sharing.inside(config):
        from orchestrator import remote

        return remote.run(config, overrides, flags.get("--config-dir"))
    if config.cluster.kind == "attached":
        sharing.use_shared_cache(config)
    if config.job.kind == "predict":
        from orchestrator import predict

        return predict.run(config)
    if config.job.kind == "setup":
        from orchestrator import setup

        return setup.run(config)
    if config.dry_run and config.cluster.kind == "local":
        from orchestrator import plan as planning

        plan = planning.make(config)
        print(report.plan_json(plan) if config.output == "json" else report.plan_text(plan))
        return 0
    from orchestrator import pipeline

    typed = ["--config-dir", flags["--config-dir"], *overrides] if "--config-dir" in flags else overrides
    shown = as_yaml(credentials.without_secrets(raw, FREE_TEXT))
    return pipeline.run(config, shown, [credentials.printable(text) for text in typed])


def split_flags(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Separate --flags from Hydra overrides. Raises InputError for a flag that does not exist."""
    flags: dict[str, str] = {}
    overrides: list[str] = []
    waiting = None
    for argument in arguments:
        if waiting:
            flags[waiting], waiting = argument, None
        elif argument in ("-h", "--help"):
            flags["--help"] = ""
        elif argument in ("--cfg", "--config-dir"):
            waiting = argument
        elif argument.startswith("-"):
            raise InputError(f"no such flag: {argument}. Flags are --help, --cfg job, --config-dir DIR; settings are written name=value")
        else:
            overrides.append(argument)
    if flags.get("--cfg", "job") != "job":
        raise InputError(f"--cfg {flags['--cfg']}: there is only --cfg job")
    if waiting:
        raise InputError(f"{waiting} needs a value: {waiting} {'job' if waiting == '--cfg' else 'DIR'}")
    return flags, overrides


def compose(overrides: list[str], folder: str | None) -> dict[str, Any]:
    """conf/ with the overrides put over it, as a plain dictionary. Raises ConfigError with every override that cannot be used."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

    OmegaConf.register_new_resolver("secret", credentials.resolve, replace=True)
    OmegaConf.register_new_resolver("project", lambda path: str(ROOT / path), replace=True)
    if folder is not None and not (os.path.isdir(folder) and os.access(folder, os.R_OK | os.X_OK)):
        raise InputError(f"--config-dir {folder}: {'this user may not read it' if os.path.isdir(folder) else 'no such folder'}")
    search = [f"hydra.searchpath=[file://{Path(folder).resolve()}]"] if folder else []
    prepared, found = prepare(overrides, folder)
    try:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            composed = hydra_compose("config", overrides=search + prepared)
        found += [(path, "must be set") for path in sorted(OmegaConf.missing_keys(composed))]
        raw: Any = OmegaConf.to_container(composed, resolve=True)
        credentials.remember_address(str(raw["tracking"].get("uri") or ""))
    except UnicodeDecodeError as error:
        raise ConfigError([*found, ("conf", f"a file below {folder or ROOT / 'conf'} is not UTF-8 ({error}); save it as UTF-8")]) from error
    except InterpolationResolutionError as error:
        problem = first_line(error).removeprefix("Missing raised while resolving interpolation: ")
        raise ConfigError([*found, (error.full_key or "arguments", problem)]) from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError([*found, ("arguments", first_line(error))]) from error
    except Exception as error:
        if type(error).__module__.startswith("yaml"):
            raise ConfigError([*found, ("conf", f"not valid YAML: {' '.join(str(error).split())}")]) from error
        raise
    if found:
        raise ConfigError(found + check(raw))
    return raw


def first_line(error: Exception) -> str:
    """The line of a Hydra error that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def prepare(overrides: list[str], folder: str | None) -> tuple[list[str], list[tuple[str, str]]]:
    """The overrides in a form that Hydra always takes, so that validation.py can report all bad ones, and what is wrong with others.

    A setting becomes `++name=value`; the choice of a group is checked here.
    """
    known = choices(folder)
    found: list[tuple[str, str]] = []
    prepared: list[str] = []
    for text in overrides:
        match = re.match(r"^(\+\+|\+|~)?([A-Za-z_][\w.@/:-]*)(=(.*))?$", text, re.DOTALL)
        if match is None or (match[3] is None and match[1] != "~"):
            found.append((text[:40], "is not of the form name=value"))
            continue
        sign, name, value = match[1] or "", match[2], match[4]
        if re.split(r"[./@]", name)[0] == "hydra" or (re.search(r"[/@:]", name) and name not in known):
            found.append((name, "no such setting" + suggestion(name, [*known])))
        elif not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", name):
            found.append((name, "no such setting; on the command line a name has ASCII letters, digits and _, joined by single dots"))
        elif name in known and sign != "~":
            found += (wrong := choice_problems(name, value, known))
            prepared += [] if wrong else [f"{'+' if name in ADDED else ''}{name}={value}"]
        elif sign == "~":
            prepared.append(text)
        else:
            override = f"++{name}={quoted(name, value)}"
            wrong = grammar_problems(override, name, value)
            if wrong and value[:1] not in "[{'\"" and not several(override):
                # A bare text with a character that Hydra's grammar does not know, such as a path with an umlaut.
                override, wrong = f"++{name}={as_text(value)}", []
            found += wrong
            prepared += [] if wrong else [override]
    return prepared, found


ADDED = ("sweep", "experiment")
"""Groups outside the defaults list; both `sweep=lora` and `+sweep=lora` add them."""


def choice_problems(name: str, value: str, known: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Whether GROUP=CHOICE names a file under conf/."""
    if value in known[name]:
        return []
    return [(name, f'"{value}" is not one of {", ".join(known[name])}{suggestion(value, known[name])}')]


def grammar_problems(override: str, name: str, value: str) -> list[tuple[str, str]]:
    """Whether Hydra's grammar can read a setting, and reads one value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides([override])[0]
    except HydraException:
        nested = "put quotes around the texts in it; a name in it has ASCII letters, digits and _"
        remedy = nested if value[:1] in ("{", "[") else f"put quotes around it: '{name}=\"...\"'"
        return [(name, f"cannot read the value {value!r}; {remedy}")]
    if parsed.is_sweep_override():
        return [(name, f"{value!r} is several values; a search space tries several: see conf/sweep/, or quote the text")]
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
    """A value as Hydra's grammar takes it: a text is quoted, which keeps commas, braces and 1e5 in it as typed."""
    if value in ("null", ""):
        return value or "''"
    if name in FREE_TEXT:
        return as_text(re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + "\\${", value))
    return as_text(value) if is_text(name) and value[0] not in "'\"" else value


def is_text(name: str) -> bool:
    """Whether a setting is declared as text."""
    group, _, last = name.rpartition(".")
    kind = SECTIONS.get(group) if group else Config
    return kind is not None and any(entry.name == last and entry.type in ("str", "str | None") for entry in dataclasses.fields(kind))


def as_text(value: str) -> str:
    """A text between quotes, as Hydra's grammar reads it back."""
    inner = re.sub(r"(\\*)(\"|$)", lambda m: m[1] * 2 + ("\\" + m[2] if m[2] else ""), value)
    return f'"{inner}"'


def choices(folder: str | None = None) -> dict[str, list[str]]:
    """The configuration groups and the names in each."""
    found: dict[str, set[str]] = {}
    for root in [ROOT / "conf", *([Path(folder)] if folder else [])]:
        for file in root.glob("*/*.yaml"):
            found.setdefault(file.parent.name, set()).add(file.stem)
    return {group: sorted(found[group]) for group in sorted(found)}


def as_yaml(raw: dict[str, Any]) -> str:
    """A composed configuration as YAML text."""
    import yaml

    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)
