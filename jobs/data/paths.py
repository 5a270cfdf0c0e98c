"""The files that settings of the data name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from jobs.config import Data
from jobs.source_rows import SourceRows


def data_paths(data: Data) -> dict[str, str]:
    """The files and folders that settings of the data name, by dotted path."""
    named = {"data.folder": data.folder, "data.valid": data.valid, "data.test": data.test}
    named |= {f"data.sources.{name}.path": source.path for name, source in data.sources.items()}
    return {setting: path for setting, path in named.items() if path is not None}


def rows_key(data: Data) -> str:
    """Names the rows that settings of the data give: the same for two trials that differ in their
    weights alone.
    """
    sources = {
        name: [source.path, *(getattr(source, one.name) for one in dataclasses.fields(SourceRows))]
        for name, source in data.sources.items()
    }
    files = [data.folder, data.valid, data.test]
    return repr((files, sources, data.instruction, data.columns, data.label_names, data.slices))


def with_paths(data: Data, change: Callable[[str], str]) -> Data:
    """`data` with every path changed."""

    def changed(path: str | None) -> str | None:
        return None if path is None else change(path)

    sources = {
        name: dataclasses.replace(source, path=changed(source.path))
        for name, source in data.sources.items()
    }
    return dataclasses.replace(
        data,
        folder=changed(data.folder),
        valid=changed(data.valid),
        test=changed(data.test),
        sources=sources,
    )


def with_embedding(data: Data, change: Callable[[str], str]) -> Data:
    """`data` with the place of its embedding model changed."""
    place = data.neighbours.embedding
    if place is None:
        return data
    neighbours = dataclasses.replace(data.neighbours, embedding=change(place))
    return dataclasses.replace(data, neighbours=neighbours)
