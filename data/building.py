"""What the build scripts of this folder have in common: hashes that decide who is held out, rows as
JSON lines, and a package that has to be there in one version.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def normalise(text: str) -> str:
    """Two texts that differ in case, spacing or punctuation only are the same."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def hashed(text: str) -> str:
    """SHA-256 of the normalised text, as hexadecimal digits."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()


def share(text: str) -> float:
    """A number from 0 to 1 that depends on the text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as JSON lines, in alphabetical order."""
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
    return "".join(f"{line}\n" for line in sorted(lines))


def require(versions: Mapping[str, str]) -> None:
    """End with a message where a package is missing or has another version: other versions hold
    other texts.
    """
    for package, version in versions.items():
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise SystemExit(
                f"{package} is not installed; run: pip install {package}=={version}"
            ) from None
        if installed != version:
            raise SystemExit(
                f"{package} {installed} is installed, and its texts differ; run: pip install "
                f"{package}=={version}"
            )


def table(splits: Mapping[str, list[Any]], use: Mapping[str, str]) -> str:
    """The README's table of files."""
    lines = ["| file | rows | use |", "|---|---|---|"]
    lines += [f"| {name}.jsonl | {len(rows):,} | {use[name]} |" for name, rows in splits.items()]
    return "\n".join(lines)


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write every file of a data set and say how large it is."""
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8", newline="\n")
        size = f"{len(content.encode()):,} bytes, {content.count(chr(10)):,} lines"
        print(f"data/{folder.name}/{name}  {size}")
