"""Writing rows of other formats anew: python -m jobs.convert FILE NEW.jsonl

Owns what the columns of other projects mean. What the project itself reads is in rows.py, which
refuses the rest and names this command.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from jobs.data.file_forms import form_of
from jobs.data.foreign_formats import as_row
from jobs.data.records import read_records
from jobs.files.json_types import JsonObject


def main(arguments: list[str]) -> int:
    """Write FILE anew as NEW.jsonl; returns the exit code: 0 done, 2 bad input."""
    if len(arguments) != 2:
        print("usage: python -m jobs.convert FILE NEW.jsonl", file=sys.stderr)
        return 2
    source, target = (Path(argument).expanduser() for argument in arguments)
    try:
        rows = list(converted(source))
        if not rows:
            raise ValueError(f"{source} has no rows")
        write(target, rows)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"wrote {len(rows):,} rows to {target}; use them with: data=files "
        f"data.folder={shlex.quote(str(target.parent))}"
    )
    return 0


def write(target: Path, rows: list[JsonObject]) -> None:
    """Write a new file of JSON lines, whole or not at all."""
    if target.suffix != ".jsonl" or target.exists():
        problem = (
            "is there already; remove it, or choose another name"
            if target.exists()
            else "must end in .jsonl"
        )
        raise ValueError(f"{target} {problem}")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    draft.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    os.replace(draft, target)


def converted(path: Path) -> Iterator[JsonObject]:
    """Each row of a file as one that the project reads. Raises ValueError with the place of a row
    that is not understood.
    """
    if form_of(path) is None or not path.is_file():
        raise ValueError(f"{path} is no file of rows that is read")
    for location, record in read_records(path, Counter(), every=True):
        row = as_row(record) if isinstance(record, dict) else None
        if row is None:
            problem = (
                ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
            )
            raise ValueError(
                f"{path}, {location}: no prompt and answer are found in it; found {problem}"
            )
        yield row


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
