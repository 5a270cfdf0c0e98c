"""A virtual environment that holds what a requirements.txt names and what that needs, and nothing
else: linked from the libraries of these tests, so that nothing is fetched.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement


def needed(requirements: str) -> dict[str, metadata.Distribution]:
    """The installed packages that fulfil `requirements`, with all that they depend on, by name.
    Fails where another version than the required one is installed.
    """
    found: dict[str, metadata.Distribution] = {}
    todo = [(Requirement(line), "") for line in requirements.splitlines() if line]
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement, extra = todo.pop()
        if (str(requirement), extra) in seen:
            continue
        seen.add((str(requirement), extra))
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        distribution = metadata.distribution(name)
        assert requirement.specifier.contains(distribution.version, prereleases=True), requirement
        found[name] = distribution
        for line in distribution.requires or []:
            todo += [(Requirement(line), wanted) for wanted in ["", *requirement.extras]]
    return found


def environment(folder: Path, requirements: str) -> Path:
    """Make the environment; returns its python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    owners = metadata.packages_distributions()
    for distribution in needed(requirements).values():
        for file in distribution.files or []:
            source = Path(str(distribution.locate_file(file)))
            top = file.parts[0]
            if top == ".." or not source.exists():
                link_program(folder, source)
            elif len(file.parts) == 1 or len(set(owners.get(top, []))) == 1:
                link(site / top, Path(str(distribution.locate_file(top))))
            else:
                link(site.joinpath(*file.parts), source)
    return folder / "bin" / "python"


def link(place: Path, source: Path) -> None:
    """A link, unless there is one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.symlink_to(source)


def link_program(folder: Path, source: Path) -> None:
    """A program of a package, run by the environment's own python."""
    if source.parent.name != "bin" or not source.is_file():
        return
    text = source.read_text(encoding="utf-8", errors="replace")
    if text.startswith("#!") and "python" in text.partition("\n")[0]:
        copy = folder / "bin" / source.name
        copy.write_text(f"#!{folder}/bin/python\n" + text.partition("\n")[2], encoding="utf-8")
        copy.chmod(0o755)
