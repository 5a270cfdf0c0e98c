"""What the chosen experiment or fleet says by itself, whatever it stands over. What cannot be read
is left to Hydra, which names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config.dotted_paths import leaves
from orchestrator.config.yaml_text import parse
from orchestrator.project import ROOT

GROUPS = ("experiment", "fleet")
"""Groups whose files say what is tuned."""


@dataclass(frozen=True)
class ChosenFile:
    """The file of a chosen experiment or fleet."""

    group: str
    choice: str
    content: dict[str, Any]

    def settings(self) -> dict[str, Any]:
        """What it sets, by dotted path."""
        return leaves({name: value for name, value in self.content.items() if name != "defaults"})

    @property
    def has_tasks(self) -> bool:
        """Whether it brings a fleet's tasks."""
        data = self.content.get("data")
        return isinstance(data, dict) and data.get("tasks") is not None

    def choice_of(self, group: str) -> str | None:
        """Which file of another group it takes; None where it says nothing of that."""
        listed = self.content.get("defaults")
        for entry in listed if isinstance(listed, list) else []:
            for name, choice in entry.items() if isinstance(entry, dict) else []:
                if str(name).split()[-1].lstrip("/") == group and isinstance(choice, str):
                    return choice
        return None


def chosen_files(overrides: Sequence[str], folder: str | None) -> Iterator[ChosenFile]:
    """The files that a command line chooses; `folder` is --config-dir."""
    import yaml  # not before something is chosen: it takes its time

    for text in overrides:
        group, _, choice = text.lstrip("+").partition("=")
        if group not in GROUPS:
            continue
        for root in [ROOT / "conf", *([Path(folder)] if folder else [])]:
            try:
                content = parse((root / group / f"{choice}.yaml").read_text(encoding="utf-8"))
            except (OSError, ValueError, yaml.YAMLError):
                continue
            if isinstance(content, dict):
                yield ChosenFile(group, choice, content)
            break


def written_settings(
    overrides: Sequence[str], folder: str | None, with_tasks: bool = False
) -> list[str]:
    """The names of the settings that such files give a value: whoever wrote them there has chosen
    them, also where they are the defaults. `with_tasks` looks at files that bring tasks alone.
    """
    return [
        path
        for file in chosen_files(overrides, folder)
        if file.has_tasks or not with_tasks
        for path, value in file.settings().items()
        if value is not None
    ]
