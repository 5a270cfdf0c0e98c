"""What has happened is read from below what Ray and Ray Train wrap around it."""

from __future__ import annotations

import pytest
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from jobs.workers.reporting import is_ended_for_memory, is_loss, lacks_memory, reason

EXITED = "The actor is dead because its worker process has died. Worker exit type: {}"


def died(told: str) -> WorkerGroupError:
    """A worker's death as a job is told of it."""
    context = ActorDiedErrorContext(
        error_message=told, pid=4711, node_ip_address="10.0.0.7", actor_id=b"\x01" * 16
    )
    return group(ActorDiedError(context))


def group(inner: Exception) -> WorkerGroupError:
    """The failure of a job whose first worker has failed."""
    unhealthy = WorkerHealthCheckFailedError("Worker health check failed", inner)
    return WorkerGroupError("1 worker failed", {0: unhealthy})


@pytest.mark.parametrize(
    ("error", "sentence", "crowded", "memory"),
    [
        (
            died(EXITED.format("SYSTEM_ERROR Worker exit detail: connection error code 2.")),
            "a worker process (pid 4711, on 10.0.0.7) was killed: by someone, by the system",
            True,
            False,
        ),
        (
            died(EXITED.format("NODE_OUT_OF_MEMORY detail: the node was running low on memory")),
            "a worker process (pid 4711, on 10.0.0.7) was ended by Ray for lack of memory",
            True,
            True,
        ),
        (
            died("The actor died because its node has died."),
            "a worker process (pid 4711, on 10.0.0.7) was lost with its machine",
            False,
            False,
        ),
        (
            group(ActorUnavailableError("The actor is unavailable: RpcError", b"\x01" * 16)),
            "a worker process was killed",
            True,
            False,
        ),
    ],
)
def test_a_worker_that_has_died_is_a_loss_below_what_is_wrapped_around_it(
    error: Exception, sentence: str, crowded: bool, memory: bool
) -> None:
    assert is_loss(error)
    assert reason(error).startswith(sentence)
    assert lacks_memory(reason(error)) == crowded
    assert is_ended_for_memory(error) == memory


def test_what_a_workers_code_raises_is_no_loss() -> None:
    error = WorkerGroupError("1 worker failed", {0: ValueError("no such column")})
    assert not is_loss(error) and not is_ended_for_memory(error)
    assert reason(error) == "no such column"


def test_memory_that_rays_watch_takes_back_is_told_as_such() -> None:
    error = group(OutOfMemoryError("Task was killed due to the node running low on memory."))
    assert is_ended_for_memory(error)
