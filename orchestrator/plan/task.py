"""What a model was made for: the fingerprint of a task, which every registered version carries.
Pure.

A task is what makes scores comparable: the test rows with their answers, the instruction before
every prompt, and the metric that trials are chosen by. Training and validation rows are no part of
it. Who cleans or adds training rows wants to know whether the model is better at the same task, and
the comparison of candidate and champion on the same test rows is as good as ever: neither has seen
them. Neighbours in the prompt (data.neighbours) are no part of it either: they are a way to answer
the same questions, and each version is asked as it was trained. Other test rows are another task,
though they may be meant as the same one: that only the user knows, and says with
tracking.same_task=true.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.config.settings import Config, changed

FINGERPRINT = "task"
TEST = "test.digest"
INSTRUCTION = "task.instruction"
METRIC = "task.metric"
"""Tags of a registered version. Versions of before there were tasks have TEST alone."""


@dataclass(frozen=True)
class Task:
    """One task, as far as it decides which scores can be compared."""

    test: str
    """Digest of the test rows, whose messages hold the instruction too."""
    instruction: str
    metric: str

    @property
    def tags(self) -> dict[str, str]:
        """What a version made for this task is marked with. The instruction may be long, so its
        digest stands for it.
        """
        task_tags = {TEST: self.test, INSTRUCTION: digest(self.instruction), METRIC: self.metric}
        return {FINGERPRINT: digest(json.dumps(task_tags, sort_keys=True))} | task_tags

    def differences(self, tags: Mapping[str, str]) -> list[str]:
        """What distinguishes the task of a version with these tags from this one; nothing where it
        is the same, as far as they tell.
        """
        words = {
            TEST: "other test rows",
            INSTRUCTION: "another data.instruction",
            METRIC: f"another sweep.metric ({tags.get(METRIC)})",
        }
        return [
            text for name, text in words.items() if name in tags and tags[name] != self.tags[name]
        ]

    def stranger(self, uri: str, tags: Mapping[str, str]) -> str | None:
        """That the champion `uri` is another task's, and what to do; None where it is this one's,
        or does not say.
        """
        differences = self.differences(tags)
        if not differences:
            return None
        chosen = " and by ".join(differences)
        return (
            f"another task than that of the champion {uri}: the champion was chosen by {chosen}; "
            f"it keeps its alias. {REMEDY}"
        )


REMEDY = (
    "tracking.model=NAME gives this task a name of its own; tracking.same_task=true compares them "
    "all the same, on these test rows"
)


def with_experiment(config: Config, test: str) -> Config:
    """The configuration with its task's experiment, unless one is named. Experiments of the same
    data stand together in a list. `test` is the digest of the test rows.
    """
    if config.tracking.experiment is not None:
        return config
    task = Task(test, config.data.instruction, config.sweep.metric)
    name = f"{config.data.name}-{task.tags[FINGERPRINT][:8]}"
    return changed(config, tracking=dataclasses.replace(config.tracking, experiment=name))


def run_tags(plan: Any) -> dict[str, str]:
    """What the runs of a planned sweep are found by in the tracking store."""
    revision = plan.base.revision[:12] if plan.base else "unknown"
    return {
        "sweep": plan.name,
        "executor": "pack" if plan.resources.packs else "plain",
        "base": f"{plan.config.model.name}@{revision}",
        "task": plan.task.tags[FINGERPRINT],
    }


def digest(text: str) -> str:
    """A short hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
