"""The forms of data files, by their endings."""

from __future__ import annotations

from pathlib import Path

EXTENSIONS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
BINARY = (".parquet", ".arrow")
"""Those that are no text, and are not packed as a whole."""
PACKED = (".gz", ".bz2", ".xz", ".zst")
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
    if form not in EXTENSIONS or (form in BINARY and not path.name.lower().endswith(form)):
        return None
    return form


def stem_of(path: Path) -> str:
    """A file's name without its endings, in lower case."""
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return name.removesuffix(form) if (form := Path(name).suffix) in EXTENSIONS else name


STATE = "state.json"
"""Lists the Arrow files of a folder that the library datasets has saved."""
SPLITS = "dataset_dict.json"
"""Lists the splits of several such folders in one."""


def is_arrow_folder(path: Path) -> bool:
    """Whether a folder is a table that the library datasets has saved (save_to_disk)."""
    return (path / STATE).is_file()


def holds_rows(path: Path) -> bool:
    """Whether something is a file of rows by its name, or a table in a folder."""
    return (form_of(path) is not None and not path.is_dir()) or is_arrow_folder(path)
