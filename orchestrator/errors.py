"""The error tree of the control plane, and the exit code of each kind.

`jobs/` raises standard-library errors only, because those cross processes; the control plane
turns them into these.
"""

from __future__ import annotations


class OrchestratorError(Exception):
    """Work that was started failed. The message says what, with the value, and what to do."""

    exit_code = 1


class InputError(OrchestratorError):
    """Something the user gave cannot be used; nothing was started."""

    exit_code = 2


class ConfigError(InputError):
    """Problems of a configuration, all of them at once.

    `problems` holds (dotted path, message) pairs.
    """

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        self.problems = problems
        width = max(len(path) for path, _ in problems)
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        super().__init__(
            "\n".join(
                [f"conf: {count}", *(f"  {path:<{width}}   {text}" for path, text in problems)]
            )
        )


class TrackingError(InputError):
    """The MLflow server or store does not answer, or answers that it will not."""


class ExperimentDeleted(TrackingError):
    """Someone has deleted the experiment: it can be brought back, and until then nothing in it is
    as it was told.
    """


class Interrupted(OrchestratorError):
    """The user pressed Ctrl-C; what was done is kept."""

    exit_code = 130
