"""A scan of the project's files for secrets: `python -m tests.support.secret_scan [FOLDER]`.

Runs kingfisher without a look at the network: no update is asked for, and no service whether a
secret works. Looked at is what git tracks, or would track.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OFFLINE = ("--no-update-check", "--no-validate", "--git-history", "none")
KEPT_BY_TOOLS = ("--exclude", ".pytest_cache", "--exclude", ".hypothesis")
"""Which hold the names of tests, and so what those are tried on."""
FOUND = (200, 205)
"""Exit codes of kingfisher that mean secrets: with 205 some that work."""


def scan(folder: Path) -> list[str]:
    """What looks like a secret below a folder, a line each, without the secret itself. Raises
    RuntimeError where the scan itself fails.
    """
    program = Path(sysconfig.get_path("scripts")) / "kingfisher"
    line = [str(program), "scan", *OFFLINE, *KEPT_BY_TOOLS, "--redact", "--format", "json"]
    line.append(str(folder))
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    if done.returncode not in (0, *FOUND):
        raise RuntimeError(f"{program.name} has ended with {done.returncode}: {done.stderr[-500:]}")
    report, _ = json.JSONDecoder().raw_decode(done.stdout.lstrip())
    return [line_of(entry) for entry in report.get("findings") or []]


def line_of(entry: dict[str, Any]) -> str:
    """One finding."""
    finding = entry.get("finding") or {}
    rule = entry.get("rule") or {}
    return f"{finding.get('path')}, line {finding.get('line')}: {rule.get('name')}"


def main(arguments: list[str]) -> int:
    """Print what was found; returns the exit code."""
    folder = Path(arguments[0]) if arguments else ROOT
    lines = scan(folder)
    for line in lines:
        print(line)
    print(f"secrets: {len(lines)} in {folder}")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
