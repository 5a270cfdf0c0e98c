"""Bits per byte of an exported file: those of the trained model, whatever is asked how."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from jobs.config import BaseModel
from jobs.data.chat_template import ChatTokenizer
from jobs.export.formats import FORMATS
from jobs.export.merged_model import merged_model
from jobs.export.shipment import Shipment, ShipmentSettings
from tests.support.shipping import adapted_version


def test_a_16_bit_file_has_the_trained_models_bits_per_byte(
    base: BaseModel, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    version = adapted_version(base, tmp_path)
    settings = ShipmentSettings("models:/toy/3", "toy", rows=4, threads=(1,))
    form = FORMATS["gguf-f16"]
    report = Shipment(version, base, form, settings, lambda line: None).run(tmp_path / "x")
    rows = [
        json.loads(line) for line in (tmp_path / "x" / "predictions.jsonl").read_text().splitlines()
    ]
    model = merged_model(base, version / "adapter").model
    template = ChatTokenizer(base.path)
    end = template.eos_ids[template.eos_tokens.index(template.end_of_turn)]
    nats, count = 0.0, 0
    for row in rows:
        prompt = template.encode(row["text"])
        answer = [*template.encode(row["reference"]), end]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer]])).logits[0]
        logs = torch.log_softmax(logits.double(), -1)
        for at, token in enumerate(answer):
            nats -= float(logs[len(prompt) - 1 + at, token])
        count += len(row["reference"].encode())
    assert report["scores"]["bits_per_byte"] == pytest.approx(nats / math.log(2) / count, rel=0.01)
    assert all("shipped_score" in row for row in rows)
