"""What the API server does not check: every bad setting is named with its remedy before anything is
sent.
"""

from __future__ import annotations

import pytest

from orchestrator.kuberay import preflight
from tests.conftest import ROOT
from tests.support.kuberay import ARGUMENTS, DIGEST, SETTINGS, settings

CASES = [
    ("no image", ["cluster.image=null"], "cluster.image", "must be set"),
    ("latest", ["cluster.image=a.example.com/slm:latest"], "cluster.image", "latest, which moves"),
    ("latest with a digest", [f"cluster.image={DIGEST.replace('@', ':latest@')}"], "cluster.image", "leave the tag out"),
    ("a tag", ["cluster.image=a.example.com:5000/slm:1.2"], "cluster.image", "has the tag 1.2, which can move"),
    ("no tag", ["cluster.image=a.example.com:5000/slm"], "cluster.image", "has neither tag nor digest"),
    ("half a digest", ["cluster.image=a.example.com/slm@sha256:0123"], "cluster.image", "64 hexadecimal digits"),
    ("a long name", ["sweep.name=" + "a" * 36], "sweep.name", "at most 35 characters, got 36"),
    ("a name with accents", ["sweep.name=fußball"], "sweep.name", "ASCII letters"),
    ("autoscaling under Kueue", ["cluster.queue=team", "cluster.max_workers=4"], "cluster.max_workers", "cluster.workers=4"),
    ("a priority without a queue", ["cluster.priority=high"], "cluster.priority", "cluster.queue"),
    ("fewer workers at most than at the start", ["cluster.workers=4", "cluster.max_workers=2"], "cluster.max_workers", "at least cluster.workers (4), got 2"),
    ("no workers", ["cluster.workers=0"], "cluster.workers", "the head does no work"),
    ("spot without a label", ["cluster.spot_workers=1"], "cluster.spot_selector", "label of spot nodes"),
    ("little memory for workers", ["cluster.worker_memory=512Mi", "cluster.shm_memory=256Mi"], "cluster.worker_memory", "at least 2Gi"),
    ("little memory for the head", ["cluster.head_memory=3G"], "cluster.head_memory", "at least 4Gi"),
    ("more shared memory than memory", ["cluster.shm_memory=8Gi"], "cluster.shm_memory", "below cluster.head_memory (8Gi)"),
    ("hardly any shared memory", ["cluster.shm_memory=64Mi"], "cluster.shm_memory", "at least 128Mi"),
    ("waiting longer than an attempt", ["cluster.wait_seconds=86400"], "cluster.wait_seconds", "below cluster.active_deadline_seconds"),
    ("a relative folder", ["storage=outputs"], "storage", "storage=/mnt/shared/outputs"),
    ("a folder beside the mount", ["storage=/mnt/shared2"], "storage", "not below cluster.mount"),
    ("a folder that climbs out of the mount", ["storage=/mnt/shared/../x"], "storage", "not below cluster.mount"),
    ("a folder without a claim", ["cluster.claim=null"], "storage", "cluster.claim=CLAIM"),
    ("SQLite by default", ["tracking.uri=null"], "tracking.uri", "http://mlflow"),
    ("SQLite by name", ["tracking.uri=sqlite:////mnt/shared/mlflow.db"], "tracking.uri", "http://mlflow"),
    ("a word for a service elsewhere", ["tracking.uri=databricks"], "tracking.uri", "pods write to a server"),
    ("a mount that climbs", ["cluster.mount=/mnt/../etc"], "cluster.mount", "plain path"),
    ("a mount over Ray's files", ["cluster.mount=/tmp", "storage=/tmp/outputs"], "cluster.mount", "used by the image or by Ray"),
    ("a mount over the code", ["cluster.mount=/app", "storage=/app/outputs"], "cluster.mount", "used by the image or by Ray"),
    ("a folder with a variable in it", ["cluster.folder='/a$(HOME)'"], "cluster.folder", "plain path"),
    ("a secret's name", ["cluster.environment_secrets=[Object_Store]"], "cluster.environment_secrets", "no name of a Secret"),
    ("a label's value", ["cluster.worker_selector={pool: 'a b'}"], "cluster.worker_selector", "no label of a node"),
    ("data in the checkout that the image may not have", [f"data.valid={ROOT}/README.md"], "data.valid", "not in the pods"),
    ("data in the checkout that git does not track", [f"data.valid={ROOT}/data/new.jsonl"], "data.valid", "not in the pods"),
    ("a base model on this machine", ["model.path=/home/me/m", "model.source=path"], "model.path", "copy it onto the claim"),
    ("a queue for a cluster that exists", ["cluster.ray_cluster=big", "cluster.queue=team"], "cluster.queue", "cluster.ray_cluster=big exists"),
    ("retries for a cluster that exists", ["cluster.ray_cluster=big", "cluster.retries=3"], "cluster.retries", "leave one out"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "path", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_setting_that_cannot_work_is_named_with_its_remedy(
    arguments: list[str], path: str, words: str
) -> None:
    found = preflight.problems(settings(*arguments))
    assert [text for name, text in found if name == path and words in text], found


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_settings_of_the_golden_files_have_no_problem(kind: str) -> None:
    assert preflight.problems(settings(*SETTINGS[kind])) == []


def test_an_existing_cluster_needs_no_image() -> None:
    arguments = ["cluster.ray_cluster=big", "cluster.image=null", "cluster.claim=null"]
    assert preflight.problems(settings(*arguments)) == []


def test_every_problem_comes_at_once() -> None:
    found = preflight.problems(
        settings("cluster.image=null", "storage=outputs", "tracking.uri=null", "cluster.workers=0")
    )
    assert [path for path, _ in found] == [
        "tracking.uri",
        "cluster.image",
        "cluster.workers",
        "storage",
    ]


def test_arguments_that_no_shell_takes_are_refused() -> None:
    found = preflight.argument_problems(
        settings().cluster, [*ARGUMENTS, "prompt=a\x00b", "data.instruction=" + "x" * 140_000]
    )
    assert [path for path, _ in found] == ["prompt", "arguments"]
    assert "'\\x00'" in found[0][1]
    assert (
        preflight.argument_problems(
            settings().cluster, [*ARGUMENTS, "prompt=$HOME `id` 'quoted' ü"]
        )
        == []
    )
