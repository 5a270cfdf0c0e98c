"""Writing an experiment from a file of rows: job=new NAME --from FILE.

The file is planned before it is written, so that what is there runs as it stands.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import re
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.data.corpus import Corpus, load_corpus
from orchestrator.config.compose import choices as choices_of_groups
from orchestrator.config.compose import compose, typed_settings
from orchestrator.config.dotted_paths import leaves
from orchestrator.config.fleet import is_fleet
from orchestrator.config.settings import Config
from orchestrator.config.validation import Check, build
from orchestrator.errors import ConfigError, InputError
from orchestrator.job_environment import mark_answer
from orchestrator.output import console
from orchestrator.output.experiment_text import experiment_text
from orchestrator.plan import planner
from orchestrator.plan.experiment_choices import Choice, choices_for
from orchestrator.plan.planner import Plan
from orchestrator.project import ROOT

JOB = "job=new"
USAGE = "python -m orchestrator job=new NAME --from data.jsonl"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9]+)*")
SECTIONS = (
    *("data", "model", "adapter", "optim", "train", "sweep", "mix", "final", "registry", "job"),
)
"""Settings that belong into an experiment; where it runs and is kept is the command's."""
OF_THE_RUN = ("experiment", "job", "cluster", "tracking", "device", "fleet")
"""Groups of which an experiment has no choice."""
ALONE = ("seed", "executor")
OF_THIS_COMMAND = ("output", "dry_run", "data.name", "data.folder", "job.kind")
LONGEST_NAME = 100
LENGTHS = (512, 1024, 2048, 4096)
"""Values of train.max_length that are tried one after the other."""
MOST_CUT = 0.01
"""With a larger share of truncated rows the next length is tried."""
MINUTES = 15
SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Request:
    """What was asked for."""

    name: str
    rows: str
    """The file, folder, pattern or address of the rows."""
    settings: list[str]
    """Further settings and choices of groups, as typed."""
    folder: str | None
    """As --config-dir has it."""

    @property
    def choices(self) -> str | None:
        """The same as far as it is there: job=new makes the folder."""
        return self.folder if self.folder and os.path.lexists(self.folder) else None

    @property
    def target(self) -> Path:
        """The file that is written."""
        return (
            (Path(self.folder) if self.folder else ROOT / "conf")
            / "experiment"
            / f"{self.name}.yaml"
        )

    @property
    def command(self) -> str:
        """What runs the experiment."""
        where = ["--config-dir", self.folder] if self.folder else []
        return shlex.join(["python", "-m", "orchestrator", f"+experiment={self.name}", *where])


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
    except ValueError as error:
        raise InputError(str(error)) from error
    groups = groups_of(request)
    typed = frozenset(typed_settings(request.settings))
    for path in sorted(typed):
        if not belongs(path) and path not in OF_THIS_COMMAND:
            console.note(f"{path} is no part of an experiment; add it to the command that runs it")
    proposed = [
        Choice("data.name", request.name, ""),
        Choice("data.folder", config.data.folder, read_as(corpus)),
        *typed_choices(raw, typed),
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


def read_request(arguments: Sequence[str], rows: str | None, folder: str | None) -> Request:
    """The name, the rows and what else was typed. Raises InputError for a request that cannot be
    followed.
    """
    words = [text for text in arguments if "=" not in text and not text.startswith("~")]
    settings = [text for text in arguments if text not in words and text != JOB]
    named = dict(text.lstrip("+").split("=", 1) for text in settings if "=" in text)
    if rows and "data.folder" in named:
        raise InputError(
            f"job=new: --from {rows} and data.folder={named['data.folder']} both name the rows; "
            "leave one out"
        )
    rows = rows or named.get("data.folder")
    if len(words) != 1 or not rows:
        missing = "the rows are not named" if len(words) == 1 else "it takes one NAME"
        raise InputError(f"job=new: {missing}; write {USAGE}")
    (name,) = words
    if len(name) > LONGEST_NAME:
        raise InputError(
            f"job=new: an experiment's name has at most {LONGEST_NAME} letters, and this one has "
            f"{len(name)}"
        )
    if not NAME.fullmatch(name):
        raise InputError(
            f"job=new: {name!r} cannot be an experiment's name; it must begin with a letter, and "
            "be letters and digits, in words joined by '-'"
        )
    if "data.name" in named:
        raise InputError(
            f"job=new: the rows are called after the experiment, {name}; leave data.name="
            f"{named['data.name']} out, or change it in the file"
        )
    request = Request(name, rows, [text for text in settings if not is_rows(text)], folder)
    for group in OF_THE_RUN:
        if group in named:
            raise InputError(
                f"job=new: {group}={named[group]} does not belong into an experiment; add it to "
                "the command that runs it"
            )
    if "data" in named and named["data"] != "files":
        raise InputError(
            f"job=new: data={named['data']} comes with the project; --from names rows of your own"
        )
    if request.target.exists() or name in choices_of_groups(request.choices).get("experiment", []):
        raise InputError(
            f"job=new: there is an experiment {name} already ({request.target}); take another "
            "name, or delete that file"
        )
    return request


def is_rows(setting: str) -> bool:
    """Whether a setting says what --from says."""
    return setting.lstrip("+").split("=", 1)[0] in ("data", "data.folder", "data.name")


def first_look(request: Request, checks: tuple[Check, ...]) -> tuple[Config, dict[str, Any]]:
    """The settings as a training run on these rows would have them."""
    rows = ["data=files", f"data.folder={request.rows}", f"data.name={request.name}"]
    overrides = [*rows, *request.settings]
    if not any(text.lstrip("+").startswith("sweep=") for text in overrides):
        overrides.append("+sweep=lora")
    raw = compose(overrides, request.choices, checks)
    if is_fleet(raw):
        raise InputError(
            "job=new: an experiment is about one set of rows; leave data.tasks out, and write a "
            "fleet by hand (conf/fleet/languages.yaml)"
        )
    config = build(raw, typed_settings(overrides), checks)
    if config.pareto.bases:
        raise InputError(
            "job=new: an experiment has one base, and pareto.bases names "
            f"{', '.join(config.pareto.bases)}; add +sweep=pareto to the command that runs it"
        )
    return config, raw


def groups_of(request: Request) -> dict[str, str]:
    """The choices of groups that were typed, and that of the data."""
    groups = {"data": "files"}
    groups_there = choices_of_groups(request.choices)
    for text in request.settings:
        group, _, choice = text.lstrip("+").partition("=")
        if group in groups_there:
            groups[group] = choice
    return groups


def belongs(path: str) -> bool:
    """Whether a setting is part of an experiment."""
    return path.split(".")[0] in SECTIONS or path in ALONE


def typed_choices(raw: dict[str, Any], typed: frozenset[str]) -> list[Choice]:
    """Settings that were typed and belong into an experiment."""
    flat = leaves(raw)
    chosen = []
    for path, value in flat.items():
        was_typed = any(path == name or path.startswith(f"{name}.") for name in typed)
        if was_typed and belongs(path) and path not in OF_THIS_COMMAND:
            chosen.append(Choice(path, value, "as it was typed"))
    return chosen


def read_as(corpus: Corpus) -> str:
    """How the rows were read, and how they came to their splits."""
    shapes = dict.fromkeys(corpus.shapes.values())
    cut = [note for note in corpus.notes if " cut from " in note or "dropped" in note]
    return "; ".join([f"read as {', '.join(shapes)}", *cut])


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
    raw = compose(overrides, str(file.parent.parent), checks)
    return planner.make(build(raw, typed_settings(overrides), checks))


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
    if config.output == "json":
        record = {
            "experiment": request.name,
            "file": None if config.dry_run else str(request.target),
            "settings": values,
            "reasons": reasons,
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
    lines += [f"look    {note}" for note in plan.checks.notes]
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
