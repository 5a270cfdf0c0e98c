"""Why a trial has failed, by what Tune has written of it."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError, RayTaskError

from orchestrator.sweep.callback import is_process_lost, why_failed


def trial_with(local: Path | None, stored: Any) -> Any:
    """What Tune knows of a trial: a file of this machine, and what the storage holds."""
    return SimpleNamespace(
        pickled_error_file=None if local is None else str(local),
        get_pickled_error=lambda: stored,
    )


def test_an_error_while_a_trial_is_created_is_known_before_it_reaches_the_storage(
    tmp_path: Path,
) -> None:
    file = tmp_path / "error.pkl"
    file.write_bytes(pickle.dumps(RayActorError()))
    assert isinstance(why_failed(trial_with(file, None)), RayActorError)


@pytest.mark.parametrize("content", [b"", b"cut", pickle.dumps(ValueError("x"))[:9]])
def test_a_torn_error_is_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "error.pkl"
    file.write_bytes(content)
    assert why_failed(trial_with(file, None)) is None


def test_without_a_file_here_the_storage_is_asked(tmp_path: Path) -> None:
    error = ValueError("x")
    assert why_failed(trial_with(tmp_path / "error.pkl", error)) is error
    assert why_failed(trial_with(None, None)) is None


def test_what_is_no_error_of_the_trial_s_code_is_the_loss_of_its_process(tmp_path: Path) -> None:
    file = tmp_path / "error.pkl"
    assert is_process_lost(trial_with(file, None), RayActorError())
    assert is_process_lost(trial_with(None, None), None), "Ray has taken its memory back"
    assert not is_process_lost(trial_with(file, None), None), "an error that nobody can read"
    raised = RayTaskError("train", "Traceback", ValueError("x"))
    assert not is_process_lost(trial_with(file, None), raised)
