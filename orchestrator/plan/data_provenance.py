"""What a model was made of: sources with their rows, tokens, synthetic share, digest and licence.
The model card, the version's tags and the result say it from here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.config import Data, Trial
from jobs.data import hub_data
from jobs.files.json_types import JsonObject
from orchestrator.plan.licences import folders_of, licence_of
from orchestrator.plan.mixes import seen

if TYPE_CHECKING:
    from orchestrator.plan.planner import Plan

NOT_STATED = "not stated beside its files"
MOST_LICENCE = 200
"""Characters of a licence that a tag keeps."""


@dataclass(frozen=True)
class RowsProvenance:
    """What is known of the rows of a source or a held-out split."""

    rows: int
    tokens: int | None
    """Of all its rows, each once; None where they were not counted."""
    supervised_tokens: int | None
    digest: str
    """SHA-256 of its rows, wherever their file lies."""
    synthetic_rows: int
    teachers: dict[str, int]
    """Rows by the model that has written them."""
    share: float = 0.0
    """Of the examples that were drawn."""
    licence: str | None = None
    path: str | None = None

    @property
    def synthetic(self) -> float:
        """Share of its rows that a model has written."""
        return self.synthetic_rows / max(self.rows, 1)


@dataclass(frozen=True)
class DataProvenance:
    """The data of one trial."""

    sources: dict[str, RowsProvenance]
    held_out: dict[str, RowsProvenance]

    @property
    def synthetic(self) -> float:
        """Share of the examples that the trial saw that a model has written."""
        return sum(source.share * source.synthetic for source in self.sources.values())

    def record(self) -> JsonObject:
        """All of it as plain values, for the result."""
        return {
            "synthetic_share": self.synthetic,
            "sources": {name: dataclasses.asdict(one) for name, one in self.sources.items()},
            "held_out": {name: dataclasses.asdict(one) for name, one in self.held_out.items()},
        }

    @property
    def tags(self) -> dict[str, str]:
        """The same as tags of a registered version."""
        tags = {
            "data.sources": ", ".join(self.sources),
            "data.rows": str(sum(source.rows for source in self.sources.values())),
            "data.synthetic_share": f"{self.synthetic:.4f}",
        }
        for name, source in self.sources.items():
            tags |= {
                f"data.{name}.rows": str(source.rows),
                f"data.{name}.share": f"{source.share:.4f}",
                f"data.{name}.synthetic_share": f"{source.synthetic:.4f}",
                f"data.{name}.digest": source.digest,
                f"data.{name}.licence": (source.licence or NOT_STATED)[:MOST_LICENCE],
            }
            if source.tokens is not None:
                tags[f"data.{name}.tokens"] = str(source.tokens)
                tags[f"data.{name}.supervised_tokens"] = str(source.supervised_tokens)
        return tags

    @property
    def metrics(self) -> dict[str, float]:
        """The same as metrics of a run, as far as they are numbers."""
        numbers = {"data/synthetic_share": self.synthetic}
        for name, source in self.sources.items():
            numbers[f"data/rows_{name}"] = float(source.rows)
            if source.tokens is not None:
                numbers[f"data/tokens_{name}"] = float(source.tokens)
        return numbers


def provenance(plan: Plan, trial: Trial) -> DataProvenance:
    """What a trial of a planned sweep is made of."""
    drawn = seen(trial, {name: share.rows for name, share in plan.sources.items()})
    total = sum(drawn.values()) or 1.0
    sources = {
        name: RowsProvenance(
            rows=share.rows,
            tokens=share.tokens,
            supervised_tokens=share.answer_tokens,
            digest=plan.digests[f"train/{name}"],
            synthetic_rows=sum(share.teachers.values()),
            teachers=dict(share.teachers),
            share=drawn[name] / total,
            licence=source_licence(trial.data, name),
            path=trial.data.sources[name].path or trial.data.folder,
        )
        for name, share in plan.sources.items()
    }
    held_out = {
        split: RowsProvenance(
            rows=share.rows,
            tokens=share.tokens,
            supervised_tokens=share.answer_tokens,
            digest=plan.digests[split],
            synthetic_rows=sum(share.teachers.values()),
            teachers=dict(share.teachers),
            path=getattr(trial.data, split) or trial.data.folder,
        )
        for split, share in plan.held_out.items()
    }
    return DataProvenance(sources, held_out)


def source_licence(data: Data, name: str) -> str | None:
    """Under what terms a source stands: what its setting says, else what files beside it say."""
    source = data.sources.get(name)
    if source is not None and source.licence:
        return source.licence
    path = data.folder if source is None or source.path is None else source.path
    if path is None:
        return None
    snapshot = hub_data.snapshot_of(path)
    if snapshot is None and "://" in path:
        return None
    return licence_of(folders_of([snapshot or Path(path).expanduser()]))


def data_licence(data: Data) -> str | None:
    """The licences of all sources in one text; None where none is stated."""
    licences = {name: source_licence(data, name) for name in list(data.sources) or ["train"]}
    stated = list(dict.fromkeys(licence for licence in licences.values() if licence is not None))
    unstated = [name for name, licence in licences.items() if licence is None]
    if not stated:
        return None
    return "; ".join([*stated, *([f"{', '.join(unstated)} not stated"] if unstated else [])])
