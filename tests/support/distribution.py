"""Which of several test processes runs which file: pytest-xdist's distribution by file, but for one
process that takes the files of TRAINING_FILES first, while the others take all the rest.

A command that trains keeps all cores busy with processes of its own, and two of them at once take
as long as one after the other, with every wait twice as long. Beside it run the tests that compute
on one core, or wait. As distributed by itself, by the number of tests, the heavy files come last
and together.
"""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadFileScheduling

TRAINING_FILES = (
    "tests/orchestrator/launch/test_nodes.py",
    "tests/orchestrator/remote/test_ray_jobs.py",
    "tests/test_smoke.py",
    "tests/jobs/workers/test_packed_trials.py",
    "tests/orchestrator/fleet/test_whole_fleet.py",
    "tests/orchestrator/output/test_printed.py",
    "tests/orchestrator/config/test_executor.py",
    "tests/orchestrator/sweep/test_finalists.py",
    "tests/orchestrator/sweep/test_merged_sweep.py",
    "tests/jobs/workers/test_faults.py",
    "tests/orchestrator/runs/test_runs.py",
    "tests/benchmarks/test_scale.py",
    "tests/orchestrator/launch/test_lost_hosts.py",
    "tests/orchestrator/launch/test_ray_session.py",
    "tests/orchestrator/sweep/test_budget_sweeps.py",
)
"""Files that start a Ray, those that take longest first."""


class HeavyApart(LoadFileScheduling):
    """Files go to processes whole; see above."""

    def _assign_work_unit(self, node: Any) -> None:
        training = [scope for scope in TRAINING_FILES if scope in self.workqueue]
        others = [scope for scope in self.workqueue if scope not in TRAINING_FILES]
        if node is self.nodes[0]:
            order = training + others
        else:
            order = others + training
        self.workqueue.move_to_end(order[0], last=False)
        super()._assign_work_unit(node)
