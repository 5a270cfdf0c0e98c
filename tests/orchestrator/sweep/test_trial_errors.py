"""Why a trial has failed, by what Tune has written of it: real errors of Ray, written by Tune's own
trial, and read without opening a pickle.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError
from ray.tune.experiment import Trial

from orchestrator.sweep.trial_errors import is_process_lost, reason_in, why_failed


class Written:
    """What Tune's trial writes of an error: its own code, in a folder of the test."""

    def __init__(self, folder: Path, *errors: Exception) -> None:
        self.local_path = str(folder)
        self.is_restoring = False
        self.stored: str | None = None
        self.run_metadata: Any = SimpleNamespace(
            num_failures=0,
            error_filename=None,
            pickled_error_filename=None,
            invalidate_cache=lambda: None,
        )
        for error in errors:
            Trial.handle_error(self, error)  # type: ignore[arg-type]

    _handle_ray_actor_error = Trial._handle_ray_actor_error
    _handle_ray_task_error = Trial._handle_ray_task_error
    error_file = Trial.error_file
    pickled_error_file = Trial.pickled_error_file

    def get_error(self) -> str | None:
        return self.stored


def raised(error: Exception) -> RayTaskError:
    """What Ray makes of an error that a trial's own code raises."""
    traceback = f"ray::run() (pid=1, ip=127.0.0.1)\n  File x\n{type(error).__name__}: {error}"
    return RayTaskError("run", traceback, error)


class Trap:
    """A pickle that does harm when it is opened."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('the pickle was opened')",)


def test_an_error_is_read_as_text_and_its_pickle_is_never_opened(tmp_path: Path) -> None:
    trial: Any = Written(tmp_path, raised(ValueError("the first")), raised(ValueError("bad lr")))
    Path(trial.pickled_error_file).write_bytes(pickle.dumps(Trap()))
    text = why_failed(trial)
    assert text is not None and "the first" not in text
    assert reason_in(text) == "bad lr" and not is_process_lost(trial, text)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe"])
def test_a_torn_error_is_none_and_no_loss(tmp_path: Path, content: bytes) -> None:
    trial: Any = Written(tmp_path, raised(ValueError("x")))
    Path(trial.error_file).write_bytes(content)
    text = why_failed(trial)
    assert text is None and not is_process_lost(trial, text)
    assert reason_in(text) == "it has not said why"


def test_without_a_file_here_the_storage_is_asked(tmp_path: Path) -> None:
    trial: Any = Written(tmp_path, raised(ValueError("x")))
    Path(trial.error_file).unlink()
    trial.stored = "Failure # 1 (occurred at 2026-11-29_10-00-00)\nray::run()\nValueError: there"
    assert reason_in(why_failed(trial)) == "there"


def test_what_is_no_error_of_the_trial_s_code_is_the_loss_of_its_process(tmp_path: Path) -> None:
    lost: Any = Written(tmp_path, RayActorError())
    assert is_process_lost(lost, why_failed(lost))
    assert "a worker process" in reason_in(why_failed(lost))
    nothing: Any = Written(tmp_path / "none")
    assert is_process_lost(nothing, why_failed(nothing)), "Ray has taken its memory back"


def test_the_loss_of_a_process_that_a_trial_asked_is_told_as_one(tmp_path: Path) -> None:
    error = ActorDiedError()
    text = f"ray::run() (pid=1)\nray.exceptions.ActorDiedError: {error}"
    trial: Any = Written(tmp_path, RayTaskError("run", text, error))
    assert reason_in(why_failed(trial)).startswith("a worker process")
