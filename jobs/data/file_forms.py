"""The forms of data files, by their endings."""

from __future__ import annotations

from pathlib import Path

EXTENSIONS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
PACKED = (".gz", ".bz2", ".xz")
"""Endings that may follow those of text files. Whether a file is compressed is seen from its
content: many are called otherwise.
"""


def form_of(path: Path) -> str | None:
    """The ending that says how a file is read, in lower case and without that of a compression;
    None for a file that is not read.
    """
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    form = Path(name).suffix
    if form not in EXTENSIONS or (form == ".parquet" and not path.name.lower().endswith(form)):
        return None
    return form
