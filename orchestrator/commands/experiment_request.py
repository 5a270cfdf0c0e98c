"""What job=new was asked for: the name, the rows and the settings that were typed.

Owns what such a request may say; what is made of it is new_experiment.py's.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from orchestrator.config.compose import choices as choices_of_groups
from orchestrator.errors import InputError
from orchestrator.project import ROOT

JOB = "job=new"
USAGE = "python -m orchestrator job=new NAME --from data.jsonl"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9]+)*")
OF_THE_RUN = ("experiment", "job", "cluster", "tracking", "device", "fleet")
"""Groups of which an experiment has no choice."""
LONGEST_NAME = 100


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


def read_request(arguments: Sequence[str], rows: str | None, folder: str | None) -> Request:
    """The name, the rows and what else was typed. Raises InputError for a request that cannot be
    followed.
    """
    words = [text for text in arguments if "=" not in text and not text.startswith("~")]
    settings = [text for text in arguments if text not in words and text != JOB]
    taken_out = next((text for text in settings if text.startswith("~")), None)
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
    if taken_out is not None:
        command = Request(name, rows, [], folder).command
        raise InputError(
            f"job=new: {taken_out} takes a setting out, which an experiment cannot say; leave it "
            f"out here, and add it to the command that runs it: {command} {shlex.quote(taken_out)}"
        )
    if any(f"{setting}.".startswith("data.tasks.") for setting in named):
        raise InputError(
            "job=new: an experiment is about one set of rows; leave data.tasks out, and write a "
            "fleet by hand (conf/fleet/languages.yaml)"
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


def groups_of(request: Request) -> dict[str, str]:
    """The choices of groups that were typed, and that of the data."""
    groups = {"data": "files"}
    groups_there = choices_of_groups(request.choices)
    for text in request.settings:
        group, _, choice = text.lstrip("+").partition("=")
        if group in groups_there:
            groups[group] = choice
    return groups
