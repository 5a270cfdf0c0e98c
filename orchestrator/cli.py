"""The command line: compose conf/ and the arguments, build the configuration, plan, print, launch.

The only file that imports Hydra. Nothing here loads torch, transformers, peft, ray or mlflow, so
that --help, dry_run and a typing mistake answer at once.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys

from orchestrator.config import credentials, idle_settings
from orchestrator.config.all_settings import defaults_as_comments
from orchestrator.config.chosen_files import written_settings
from orchestrator.config.compose import (
    FREE_TEXT,
    as_yaml,
    choices,
    compose,
    typed_settings,
)
from orchestrator.config.fleet import build_fleet, is_fleet
from orchestrator.config.settings import Config
from orchestrator.config.validation import build
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.kuberay import driver
from orchestrator.launch import preflight
from orchestrator.output import console
from orchestrator.project import ROOT
from orchestrator.storage import staging

VERBS_OF_RUNS = (
    *("list", "show", "watch", "stop", "delete"),
    *("drop", "clone", "report", "compare", "debug", "clean"),
)
CHECKS = (preflight.problems,)
"""Rules on settings beyond their types and ranges."""


def main(arguments: list[str]) -> int:
    """Run one command and return its exit code: 0 done, 1 work failed, 2 bad input, 130
    interrupted.
    """
    try:
        code = driver.patient(lambda: run(arguments))
        sys.stdout.flush()
        return code
    except OrchestratorError as error:
        console.error(str(error))
        return error.exit_code
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("orchestrator", "jobs"):
            raise
        install = shlex.join(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "-c",
                str(ROOT / "constraints.txt"),
                "-e",
                str(ROOT),
            ]
        )
        console.error(
            f"{sys.executable} has no module {error.name}; install this project there: {install}"
        )
        return 2
    except KeyboardInterrupt:
        console.error("interrupted; the same command continues")
        return 130
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # Python flushes once more at its exit
        return 1
    except OSError as error:  # a full disk, a store that is gone: the machine's, not a bug of ours
        space = (
            "free some space where storage or the temporary folder is; "
            if error.errno == errno.ENOSPC
            else ""
        )
        console.error(f"{error}; {space}what is done is kept, and the same command continues")
        return 1


def run(arguments: list[str]) -> int:
    """Compose, build, plan and do what the configuration's job says."""
    for argument in arguments:
        if not argument.isascii() and argument != argument.encode(errors="replace").decode():
            raise InputError(
                f"{argument.encode(errors='replace').decode()} is not UTF-8; type it in a terminal "
                "that is set to UTF-8"
            )
    credentials.remember_environment()
    check_is_sweep(arguments)
    flags, overrides = split_flags(arguments)
    if "--help" in flags:
        print(console.usage(choices()))
        return 0
    if "job=new" in overrides and "--cfg" not in flags:
        from orchestrator.commands import new_experiment

        rows, folder = flags.get("--from"), flags.get("--config-dir")
        return new_experiment.run(overrides, rows, folder, CHECKS)
    if "--from" in flags:
        raise InputError(
            f"--from {flags['--from']} belongs to job=new: python -m orchestrator job=new NAME "
            f"--from {shlex.quote(flags['--from'])}"
        )
    raw = compose(overrides, flags.get("--config-dir"), CHECKS)
    if "--cfg" in flags:
        composed = as_yaml(credentials.without_secrets(raw, FREE_TEXT))
        print(composed + defaults_as_comments(raw), end="")
        return 0
    typed = (
        ["--config-dir", flags["--config-dir"], *overrides]
        if "--config-dir" in flags
        else overrides
    )
    written = written_settings(overrides, flags.get("--config-dir"))
    if is_fleet(raw):
        from orchestrator.fleet import command

        of_file = written_settings(overrides, flags.get("--config-dir"), with_tasks=True)
        tasks = build_fleet(raw, typed_settings(overrides), CHECKS, written, of_file)
        return command.run(tasks, [credentials.printable(text) for text in typed])
    config = build(raw, typed_settings(overrides), CHECKS, written)
    if config.job.kind == "new":
        raise InputError(
            "job.kind=new is not the whole command: python -m orchestrator job=new NAME --from "
            "data.jsonl"
        )
    config_dir = flags.get("--config-dir")
    code = run_other_than_sweep(config, overrides, config_dir)
    if code is not None:
        return code
    from orchestrator import pipeline

    shown = as_yaml(credentials.without_secrets(raw, FREE_TEXT))
    return pipeline.run(config, shown, [credentials.printable(text) for text in typed])


def run_other_than_sweep(
    config: Config, overrides: list[str], config_dir: str | None
) -> int | None:
    """Do what is no sweep on this machine; None where it is one."""
    if config.job.kind != "train":
        for note in idle_settings.notes(config):
            console.note(note)
    if not config.runs_here:
        from orchestrator.commands import send

        return send.run(config, overrides, config_dir)
    if config.cluster.kind == "attached":
        staging.use_shared_cache(config)
    if config.job.kind == "predict":
        from orchestrator.commands import predict

        return predict.run(config)
    if config.job.kind == "export":
        from orchestrator.commands import export

        return export.run(config)
    if config.job.kind == "serve":
        from orchestrator.commands import serve

        return serve.run(config)
    if config.job.kind in ("promote", "rollback"):
        from orchestrator.commands import move_alias

        return move_alias.run(config)
    if config.job.kind == "check":
        from orchestrator.commands import check

        return check.run(config)
    if config.job.kind == "setup":
        from orchestrator.commands import fetch_model

        return fetch_model.run(config)
    if config.job.kind == "synthesize":
        from orchestrator.commands import synthesize

        return synthesize.run(config, overrides, config_dir)
    if config.pareto.bases:
        from orchestrator.commands import pareto

        return pareto.run(config, overrides, config_dir, CHECKS)
    if config.dry_run and config.cluster.kind == "local":
        from orchestrator.evaluation import champion_lookup
        from orchestrator.output.plan_text import print_plan
        from orchestrator.plan import planner as planning
        from orchestrator.plan.cost import check_disk
        from orchestrator.storage.paths import sweep_folder

        plan = champion_lookup.noted(planning.make(config))
        if plan.base is not None:
            folder = sweep_folder(config.storage, plan.name)
            check_disk(plan.config, plan.base, plan.num_runs, folder)
        print_plan(plan)
        return 0
    return None


def check_is_sweep(arguments: list[str]) -> None:
    """Raise InputError for what belongs to `python -m orchestrator.runs`, which takes no
    settings.
    """
    if arguments[:1] == ["runs"]:
        asked = arguments[1:]
    elif arguments[:1] and arguments[0] in VERBS_OF_RUNS:
        asked = arguments
    else:
        return
    line = shlex.join(["python", "-m", "orchestrator.runs", *(asked or ["list"])])
    raise InputError(
        f'"{arguments[0]}" is no setting; sweeps are listed and stopped by a command of its own: '
        f"{line}"
    )


def split_flags(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Separate --flags from Hydra overrides. Raises InputError for a flag that does not exist."""
    flags: dict[str, str] = {}
    overrides: list[str] = []
    waiting = None
    for argument in arguments:
        if waiting:
            flags[waiting] = argument
            waiting = None
        elif argument in ("-h", "--help"):
            flags["--help"] = ""
        elif argument in ("--cfg", "--config-dir", "--from"):
            waiting = argument
        elif argument.startswith("--from="):
            flags["--from"] = argument.removeprefix("--from=")
        elif argument.startswith("-"):
            raise InputError(
                f"no such flag: {argument}. Flags are --help, --cfg job, --config-dir DIR; "
                "--from FILE (of job=new); settings are written name=value"
            )
        else:
            overrides.append(argument)
    if flags.get("--cfg", "job") != "job":
        raise InputError(f"--cfg {flags['--cfg']}: there is only --cfg job")
    if waiting:
        value = {"--cfg": "job", "--from": "FILE"}.get(waiting, "DIR")
        raise InputError(f"{waiting} needs a value: {waiting} {value}")
    return flags, overrides
