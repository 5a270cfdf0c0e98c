"""Versions with an adapter that acts, and GGUF files with one thing changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from jobs.config import Adapter, BaseModel, Data, Source, Train
from jobs.evaluation.evaluate import evaluate_on_test
from jobs.evaluation.scores import EvaluationSettings
from jobs.export.model_folder import export
from jobs.model.loading import attach, load, save
from tests.support.trials import tiny_trial

LICENCES = """# toy-tiny

A LoRA adapter for tiny (tiny, revision 7bf916432d40), trained on toy by the sweep lora-1.

## Licences

- Base model tiny: Apache-2.0
- Data, train: CC0 (README.md)
"""


def adapted_version(base: BaseModel, folder: Path, seed: int = 0, name: str = "version") -> Path:
    """A version whose adapter is random and changes most answers."""
    rows = folder / "rows.jsonl"
    lines = [
        {"prompt": f"Ticket {i} from {chr(97 + i % 26)}?", "completion": "ABC"[i % 3]}
        for i in range(40)
    ]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    data = Data(name="toy", sources={"train": Source(path=str(rows))}, instruction="Which letter?")
    trial = tiny_trial(data, Train(max_length=96))
    device = torch.device("cpu")
    model: Any = attach(load(base.path, torch.float32, device), Adapter(rank=4, alpha=16.0), seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    trained = folder / f"{name}-trained"
    save(model, trained)
    verdict = evaluate_on_test(trial, base, str(trained), EvaluationSettings(0.95, 8, 1))
    export(trial, base, trained, verdict, folder / name, LICENCES)
    return folder / name


def rewritten(
    source: Path,
    target: Path,
    settings: Mapping[str, Any] | None = None,
    tensors: Callable[[str, np.ndarray], np.ndarray] = lambda name, array: array,
) -> Path:
    """A GGUF file with other settings or weights. Tensors are in float32."""
    reader = gguf.GGUFReader(source)
    changed = dict(settings or {})
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for key, entry in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        inner = entry.types[-1] if len(entry.types) > 1 else None
        value = changed.get(key, entry.contents())
        writer.add_key_value(key, value, entry.types[0], sub_type=inner)
    for tensor in reader.tensors:
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(tensors(tensor.name, array)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
