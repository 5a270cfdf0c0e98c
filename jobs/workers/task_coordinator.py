"""A coordinator as the trials of one task of a fleet see it: each has the number that it has in its
task, and the coordinator that all tasks share knows it under its key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

from jobs.config import WorkerSpec
from jobs.pack.task_numbers import key_of
from jobs.workers.coordinator import CoordinatorHandle, find_coordinator

OF_A_TRIAL = (
    *("fail", "stop", "why_stopped", "failure", "join_pack", "train", "leave_pack", "ended"),
    *("sit", "shrink", "leave", "begin"),
)
"""Methods whose first argument is a trial."""
OF_TRIALS = ("expect",)
"""Methods whose first argument is a list of them."""
OF_A_TASK = ("drain", "left")
"""Methods that answer for one task where it is named."""


class TaskCoordinator:
    """A handle of the shared coordinator; `handle.METHOD.remote(...)` as ever."""

    def __init__(self, shared: CoordinatorHandle, task: int) -> None:
        self.shared = shared
        self.task = task

    def __getattr__(self, name: str) -> TaskMethod:
        if name.startswith("__"):
            raise AttributeError(name)
        return TaskMethod(getattr(self.shared, name), lambda args: self.translated(name, args))

    def translated(self, method: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a method as the shared coordinator takes them."""
        if method in OF_A_TRIAL:
            return key_of(self.task, args[0]), *args[1:]
        if method in OF_TRIALS:
            return [key_of(self.task, index) for index in args[0]], *args[1:]
        if method in OF_A_TASK:
            return (self.task, *args)
        return args


class TaskMethod:
    """One method of the shared coordinator."""

    def __init__(
        self, method: Any, translated: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    ) -> None:
        self.method = method
        self.translated = translated

    def remote(self, *args: Any) -> ray.ObjectRef[Any]:
        """Call it."""
        return self.method.remote(*self.translated(args))


def coordinator_of(assignment: WorkerSpec) -> CoordinatorHandle:
    """The coordinator of a trial, from any process of the cluster."""
    shared = find_coordinator(assignment.sweep)
    if not assignment.task:
        return shared
    return TaskCoordinator(shared, assignment.task)
