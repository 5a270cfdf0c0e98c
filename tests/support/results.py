"""The result of a sweep that never ran."""

from __future__ import annotations

from typing import Any

from orchestrator.output.sweep_result import SweepResult, from_json


def outcome(**changes: Any) -> SweepResult:
    """The result of a sweep of six trials."""
    scores = {
        "test/exact_match": 0.412,
        "test/exact_match_low": 0.379,
        "test/exact_match_high": 0.446,
        "valid/loss": 0.9,
    }
    base = {"test/exact_match": 0.0, "test/exact_match_low": 0.0, "test/exact_match_high": 0.0}
    record = {
        "sweep": "lora-8ab1e1",
        "state": "finished",
        "trials": {"total": 6, "finished": 2, "stopped": 3, "failed": 1},
        "best": {
            "trial": 3,
            "run_id": "r3",
            "step": 160,
            "params": {"optim.lr": 0.00214, "adapter.rank": 8},
            "metrics": scores,
        },
        "base": {"metrics": base},
        "model": {
            "name": "icd10-tiny",
            "version": 7,
            "alias": "champion",
            "uri": "models:/icd10-tiny/7",
        },
        "decision": "better than v6 (0.27)",
        "seconds": {"setup": 9.4, "train": 581.0, "total": 3725.0, "planned": 3500.0},
        "tracking_uri": "sqlite:////tmp/my outputs/mlflow.db",
        "error": None,
        "missing": None,
        "failures": ["trial 4: out of memory"],
        "searched": ["optim.lr", "adapter.rank"],
        "confidence": 0.95,
        "command": "python -m orchestrator +sweep=lora",
        "wider": "python -m orchestrator +sweep=lora sweep.num_trials=12",
        "settings": ["storage=/tmp/x"],
        "prompt": "What's it?",
        "baselines": {},
        "steps": 160,
        "target": ["sqlite:////tmp/my outputs/mlflow.db", "icd10", "icd10-tiny"],
    } | changes
    result = from_json(record)
    assert result is not None
    return result
