"""An experiment as the file that job=new writes: YAML with a reason above each setting."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.plan.experiment_choices import Choice

COLUMNS = 120
"""Width of a comment."""


def experiment_text(
    name: str, command: str, origin: str, groups: Mapping[str, str], choices: Sequence[Choice]
) -> str:
    """The whole file: its command first. `groups` are the choices of groups, "sweep" among them."""
    lines = [
        f"# {command}",
        *comment(
            f"Written by job=new from {origin}. Change what you like; without dry_run=true the "
            "command trains.",
            "",
        ),
        "defaults:",
        f"  - /sweep: {groups.get('sweep', 'lora')}",
        *(
            f"  - override /{group}: {choice}"
            for group, choice in groups.items()
            if group != "sweep"
        ),
        "  - _self_",
    ]
    for section, entries in by_section([Choice("sweep.name", name, ""), *choices]).items():
        if not isinstance(entries, dict):
            lines += ["", *comments_of(section, choices), f"{section}: {flow(entries)}"]
            continue
        lines += ["", f"{section}:"]
        for key, value in entries.items():
            lines += comments_of(f"{section}.{key}", choices)
            lines.append(f"  {key}: {flow(value)}")
    return "\n".join(lines) + "\n"


def by_section(choices: Sequence[Choice]) -> dict[str, Any]:
    """Settings by their first names: data, sweep, train and so on, data first."""
    tree: dict[str, Any] = {"data": {}}
    for choice in choices:
        *groups, last = choice.path.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[last] = choice.value
    return {section: entries for section, entries in tree.items() if entries != {}}


def comments_of(path: str, choices: Sequence[Choice]) -> list[str]:
    """The reasons of a setting, or of all settings of a group."""
    indent = "  " * path.count(".")
    reasons = [
        choice.reason
        for choice in choices
        if choice.reason and (choice.path == path or choice.path.startswith(f"{path}."))
    ]
    return [line for reason in reasons for line in comment(reason, indent)]


def comment(text: str, indent: str) -> list[str]:
    """A sentence as lines of comment."""
    sentence = " ".join(text.split())
    return textwrap.wrap(
        sentence,
        COLUMNS,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def flow(value: Any) -> str:
    """A value on one line. What OmegaConf would fill in stays as it is."""
    import yaml

    text = yaml.safe_dump(
        escaped(value), default_flow_style=True, width=float("inf"), allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")


def escaped(value: Any) -> Any:
    """A value in which ${...} means itself."""
    if isinstance(value, str):
        return value.replace("${", "\\${")
    if isinstance(value, dict):
        return {key: escaped(inner) for key, inner in value.items()}
    return [escaped(inner) for inner in value] if isinstance(value, list) else value
