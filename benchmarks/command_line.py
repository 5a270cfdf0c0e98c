"""Arguments of the benchmarks that compare contenders and keep what each of them has done."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from orchestrator.project import ROOT


def add_contenders(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Who is measured, and where the results go."""
    parser.add_argument("--contenders", default=",".join(names), metavar="NAME,...")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--results",
        type=Path,
        default=ROOT / "benchmarks/.results",
        help="folder that keeps what was measured",
    )
    parser.add_argument("--fresh", action="store_true", help="measure anew what is kept")


def chosen(parser: argparse.ArgumentParser, typed: str, names: Sequence[str]) -> list[str]:
    """The contenders of `--contenders`. Ends the command over one that there is not."""
    asked = typed.split(",")
    if unknown := set(asked) - set(names):
        parser.error(
            f"no such contender: {', '.join(sorted(unknown))}; there are {', '.join(names)}"
        )
    return asked
