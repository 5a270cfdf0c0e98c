"""Writing an experiment from a file of rows: job=new NAME --from FILE.

The file is planned before it is written, so that what is there runs as it stands.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.data.corpus import Corpus, load_corpus
from jobs.data.paths import data_paths
from orchestrator.commands.experiment_request import Request, groups_of, read_request
from orchestrator.config.chosen_files import written_settings
from orchestrator.config.compose import compose, typed_settings
from orchestrator.config.dotted_paths import leaves
from orchestrator.config.settings import Config
from orchestrator.config.validation import Check, build
from orchestrator.errors import ConfigError, InputError
from orchestrator.job_environment import mark_answer
from orchestrator.output import console
from orchestrator.output.experiment_text import experiment_text
from orchestrator.plan import planner, question_parts, sizing
from orchestrator.plan.experiment_choices import Choice, choices_for, few_judges
from orchestrator.plan.planner import Plan

SECTIONS = (
    *("data", "model", "adapter", "optim", "train", "sweep", "mix", "final", "registry", "job"),
)
"""Settings that belong into an experiment; where it runs and is kept is the command's."""
ALONE = ("seed", "executor")
OF_THIS_COMMAND = ("output", "dry_run", "data.name", "data.folder", "job.kind")
LENGTHS = (512, 1024, 2048, 4096)
"""Values of train.max_length that are tried one after the other."""
MOST_CUT = 0.01
"""With a larger share of truncated rows the next length is tried."""
MINUTES = 15
SECONDS = 60


def run(
    arguments: Sequence[str], rows: str | None, folder: str | None, checks: tuple[Check, ...]
) -> int:
    """Look at the rows, write the experiment, print why it is as it is; returns the exit code.
    Raises InputError, and then nothing is written.
    """
    request = read_request(arguments, rows, folder)
    config, raw = first_look(request, checks)
    try:
        corpus = load_corpus(config.data)
        left_out = question_parts.left_out(config.data, corpus)
    except ValueError as error:
        raise InputError(str(error)) from error
    if left_out is not None:
        raise InputError(f"job=new: {left_out}")
    groups = groups_of(request)
    typed = frozenset(typed_settings(request.settings))
    for path in sorted(typed):
        if not belongs(path) and path not in OF_THIS_COMMAND:
            console.note(f"{path} is no part of an experiment; add it to the command that runs it")
    proposed = [
        Choice("data.name", request.name, ""),
        Choice("data.folder", config.data.folder, read_as(corpus)),
        *typed_choices(config, raw, typed),
        *choices_for(config.data, corpus, typed),
    ]
    with tempfile.TemporaryDirectory() as draft:
        plan, final = proven(request, groups, proposed, typed, Path(draft), checks)
    text = text_of(request, groups, final)
    if not config.dry_run:
        write_new(request.target, text)
    mark_answer()
    tell(request, config, corpus, plan, final, text)
    return 0


def first_look(request: Request, checks: tuple[Check, ...]) -> tuple[Config, dict[str, Any]]:
    """The settings as a training run on these rows would have them."""
    rows = ["data=files", f"data.folder={request.rows}", f"data.name={request.name}"]
    overrides = [*rows, *request.settings]
    if not any(text.lstrip("+").startswith("sweep=") for text in overrides):
        overrides.append("+sweep=lora")
    raw = compose(overrides, request.choices, checks)
    config = build(raw, typed_settings(overrides), checks)
    if config.pareto.bases:
        raise InputError(
            "job=new: an experiment has one base, and pareto.bases names "
            f"{', '.join(config.pareto.bases)}; add +sweep=pareto to the command that runs it"
        )
    return config, raw


def belongs(path: str) -> bool:
    """Whether a setting is part of an experiment."""
    return path.split(".")[0] in SECTIONS or path in ALONE


def typed_choices(config: Config, raw: dict[str, Any], typed: frozenset[str]) -> list[Choice]:
    """Settings that were typed and belong into an experiment. Files stand there with their whole
    paths: the experiment may run in another folder.
    """
    flat = leaves(raw) | data_paths(config.data)
    if flat.get("model.path") is not None:
        flat["model.path"] = config.model.path
    if flat.get("data.neighbours.embedding") is not None:
        flat["data.neighbours.embedding"] = config.data.neighbours.embedding
    if isinstance(flat.get("sweep.costs"), str):
        flat["sweep.costs"] = os.path.abspath(os.path.expanduser(flat["sweep.costs"]))
    chosen = []
    for path, value in flat.items():
        was_typed = any(path == name or path.startswith(f"{name}.") for name in typed)
        if was_typed and belongs(path) and path not in OF_THIS_COMMAND:
            chosen.append(Choice(path, value, "as it was typed"))
    return chosen


def read_as(corpus: Corpus) -> str:
    """How the rows were read, and how they came to their splits."""
    shapes = dict.fromkeys(corpus.shapes.values())
    return "; ".join([f"read as {', '.join(shapes)}", *splitting_notes(corpus)])


def splitting_notes(corpus: Corpus) -> list[str]:
    """What was cut and what was dropped."""
    return [note for note in corpus.notes if " cut from " in note or "dropped" in note]


def proven(
    request: Request,
    groups: dict[str, str],
    proposed: list[Choice],
    typed: frozenset[str],
    draft: Path,
    checks: tuple[Check, ...],
) -> tuple[Plan, list[Choice]]:
    """The plan of the experiment, and its settings with the length and the time that the rows need
    here. Raises InputError for rows that no run takes.
    """
    mirror(request.choices, draft)
    file = draft / "experiment" / f"{request.name}.yaml"
    lengths = [0] if "train.max_length" in typed else [*LENGTHS]
    plan, final, refusal = None, proposed, None
    for length in lengths:
        final = [*proposed, *length_choice(length)]
        try:
            plan = planned(request, groups, final, file, checks)
        except ConfigError:
            raise
        except InputError as error:
            if "train.max_length" not in str(error) or length == lengths[-1]:
                raise
            refusal = error
            continue
        if share_cut(plan) <= MOST_CUT or length >= context_of(plan):
            break
    if plan is None:
        raise refusal or InputError("job=new: no length fits these rows")
    plan.checks.refuse()
    if plan.estimate is not None and "sweep.minutes" not in typed:
        if not sizing.is_sized(plan.config):
            reason = "how much is done follows from the settings that were typed"
            return plan, [*final, Choice("sweep.minutes", None, reason)]
        minutes = math.ceil(plan.estimate.seconds / SECONDS)
        if minutes > MINUTES:
            reason = f"the smallest sweep takes so long on this machine; {MINUTES} are usual"
            final.append(Choice("sweep.minutes", minutes, reason))
            plan = planned(request, groups, final, file, checks)
        else:
            final.append(Choice("sweep.minutes", MINUTES, sizes_reason(plan)))
    return plan, final


def context_of(plan: Plan) -> float:
    """The most tokens that the base model takes; no limit where it does not say."""
    if plan.base is None:
        return math.inf
    text = (Path(plan.base.path) / "config.json").read_text(encoding="utf-8")
    return float(json.loads(text).get("max_position_embeddings") or math.inf)


def length_choice(length: int) -> list[Choice]:
    """A longer train.max_length than the default."""
    if length <= LENGTHS[0]:
        return []
    return [Choice("train.max_length", length, f"rows are longer than {length // 2} tokens")]


def share_cut(plan: Plan) -> float:
    """The share of the training rows that lose some of their prompt."""
    result = next((one for one in plan.checks.results if one.name == "tokens"), None)
    if result is None:
        return 0.0
    counts = [result.numbers[name] for name in plan.sources if name in result.numbers]
    return sum(count["truncated"] for count in counts) / max(sum(c["rows"] for c in counts), 1)


def sizes_reason(plan: Plan) -> str:
    """What a time comes to on this machine."""
    sizes = re.findall(r"(?:sweep\.num_trials|train\.steps|train\.dtype)=\S+", plan.sizes or "")
    return f"of the whole command; on this machine {' '.join(sizes)}" if sizes else ""


def planned(
    request: Request,
    groups: dict[str, str],
    settings: list[Choice],
    file: Path,
    checks: tuple[Check, ...],
) -> Plan:
    """The plan of the experiment as its file says it."""
    file.write_text(text_of(request, groups, settings), encoding="utf-8")
    overrides = [f"+experiment={request.name}", "dry_run=true"]
    folder = str(file.parent.parent)
    raw = compose(overrides, folder, checks)
    written = written_settings(overrides, folder)
    return planner.make(build(raw, typed_settings(overrides), checks, written))


def mirror(folder: str | None, draft: Path) -> None:
    """The groups of --config-dir in a folder of our own, in which the experiment is tried."""
    (draft / "experiment").mkdir()
    for file in Path(folder).resolve().glob("*/*.yaml") if folder else []:
        (draft / file.parent.name).mkdir(exist_ok=True)
        os.symlink(file, draft / file.parent.name / file.name)


def text_of(request: Request, groups: dict[str, str], settings: list[Choice]) -> str:
    """The file's content."""
    return experiment_text(request.name, request.command, request.rows, groups, settings)


def write_new(target: Path, text: str) -> None:
    """Write a file that is not there yet, whole or not at all. Raises InputError."""
    try:
        if os.path.lexists(target.parent) and not target.parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{target.parent} is a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=target.parent, prefix=f".{target.stem}", encoding="utf-8", delete=False
        ) as stream:
            stream.write(text)
        try:
            os.chmod(stream.name, 0o644)
            os.link(stream.name, target)  # refuses where there is one, unlike a rename
        finally:
            os.unlink(stream.name)
    except FileExistsError:
        raise InputError(f"job=new: {target} was written meanwhile; take another name") from None
    except OSError as error:
        raise InputError(
            f"job=new: {target} cannot be written ({error.strerror}); --config-dir DIR names "
            "another folder"
        ) from None


def tell(
    request: Request,
    config: Config,
    corpus: Corpus,
    plan: Plan,
    settings: list[Choice],
    text: str,
) -> None:
    """Print what was written and why, on stdout."""
    reasons = {choice.path: choice.reason for choice in settings if choice.reason}
    values = {choice.path: choice.value for choice in settings}
    said = splitting_notes(corpus)  # beside data.folder
    notes = few_judges(corpus)
    notes += [note for note in dict.fromkeys(plan.notes) if note not in said]
    if config.output == "json":
        record = {
            "experiment": request.name,
            "file": None if config.dry_run else str(request.target),
            "settings": values,
            "reasons": reasons,
            "notes": notes,
            "command": request.command,
        }
        print(json.dumps(record, ensure_ascii=False), flush=True)
        return
    rows = sum(map(len, corpus.sources.values()))
    lines = [
        f"rows    {console.plural(rows, 'training row')}, {len(corpus.valid):,} validation, "
        f"{len(corpus.test):,} test",
        *(f"{'why' if path else '':<8}{path}: {reason}" for path, reason in reasons.items()),
    ]
    lines += [f"look    {note}" for note in notes]
    if plan.base is None:
        lines.append(f"needs   python -m orchestrator job=setup model={plan.config.model.name}")
    if plan.estimate is not None:
        lines.append(f"time    about {console.duration(plan.estimate.seconds)} on this machine")
    wrote = "would write" if config.dry_run else "wrote"
    lines += [
        f"{'new':<8}{wrote} {request.target}",
        "",
        text.rstrip(),
        "",
        f"run     {request.command}",
    ]
    print("\n".join(lines), flush=True)
