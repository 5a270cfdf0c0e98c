"""Under what terms files stand, as far as they say so themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path


def folders_of(files: Sequence[Path]) -> list[Path]:
    """The folders that files lie in, each once."""
    return list(dict.fromkeys(file if file.is_dir() else file.parent for file in files))


def licence_of(folders: Sequence[Path]) -> str | None:
    """What files beside the weights or rows say of their terms: a README's front matter or its
    section on the licence, or the first line of a LICENSE.
    """
    for folder in folders:
        for file in sorted(folder.glob("README*")) + sorted(folder.glob("LICEN[CS]E*")):
            try:
                text = file.read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            if file.name.startswith("README"):
                front = re.search(r"\A---\n.*?^licen[cs]e: *(\S.*?)$", text, re.M | re.S)
                section = re.search(
                    r"^#+ [^\n]*licen[cs]e[^\n]*\n+(.+?)(\n\n|\Z)", text, re.M | re.S | re.I
                )
                licence_match = front or section
                if licence_match is not None:
                    return f"{' '.join(licence_match[1].split())[:500]} ({file.name})"
            elif text.strip():
                return f"{' '.join(text.strip().splitlines()[0].split())[:200]} ({file.name})"
    return None
