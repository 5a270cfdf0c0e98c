"""Files of rows for tests, and the message for one that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.data.readers import read_rows

GOOD = '{"prompt": "Flu", "completion": "J11"}\n'
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
    ]
}


def write(folder: Path, content: str | bytes, name: str = "train.jsonl") -> Path:
    """A file of a folder with this content."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def complaint(path: Path) -> str:
    """The one line that says why a file cannot be read."""
    with pytest.raises(ValueError) as caught:
        read_rows(path)
    assert type(caught.value) is ValueError and "\n" not in str(caught.value)
    return str(caught.value)


def write_parquet(folder: Path, columns: dict[str, list[Any]]) -> Path:
    """A Parquet file of these columns."""
    import pyarrow
    import pyarrow.parquet

    path = folder / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path
