"""What a run was trained on, as MLflow's data sets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from jobs.files.json_types import JsonObject

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput


DIGEST_LENGTH = 36


def inputs(datasets: list[JsonObject]) -> list[DatasetInput]:
    """The journal's data sets in MLflow's form.

    MLflow keeps one input per name and digest: rows that serve two purposes carry both, as
    "training, test".
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    merged: dict[tuple[str, str], JsonObject] = {}
    for item in datasets:
        key = (str(item["name"]), str(item["digest"])[:DIGEST_LENGTH])
        contexts = merged.get(key, {}).get("contexts", [])
        merged[key] = item | {
            "contexts": contexts + [item["context"]] * (item["context"] not in contexts)
        }
    dataset_inputs = []
    for (name, digest), item in merged.items():
        source = json.dumps({"uri": str(item["source"])})
        profile = json.dumps({"num_rows": item.get("rows")})
        tags = {
            "mlflow.data.context": ", ".join(item["contexts"]),
            "rows": item.get("rows"),
            "weight": item.get("weight"),
        }
        marks = [InputTag(key, plain(value)) for key, value in tags.items() if value is not None]
        dataset_inputs.append(
            DatasetInput(Dataset(name, digest, "local", source, profile=profile), marks)
        )
    return dataset_inputs


def plain(value: Any) -> str:
    """A value as MLflow shows and compares it: numbers bare, so that its charts take them for
    numbers.
    """
    return value if isinstance(value, str) else json.dumps(value)
