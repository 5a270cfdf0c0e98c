"""The manifests under k8s/: everything builds, fits its schema and keeps the policy; and the policy
finds what breaks it.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.support.kuberay import unknown_fields
from tests.support.manifests import (
    BUILDS,
    COMPONENTS,
    EVERYTHING,
    K8S,
    TOGETHER,
    build,
    named,
    walk,
)
from tests.support.policy import KINDS, PINNED, Manifest, containers, pods, problems, ray_cluster

GOLDEN = Path(__file__).resolve().parents[1] / "orchestrator" / "kuberay" / "golden"


def test_every_folder_is_among_the_builds() -> None:
    folders = {str(file.parent.relative_to(K8S)) for file in K8S.rglob("kustomization.yaml")}
    assert folders == {
        "base",
        "mlflow",
        "overlays/dev",
        "overlays/prod",
        *(f"components/{name}" for name in COMPONENTS),
    }
    assert set(COMPONENTS) == {*TOGETHER, "kueue"}


@pytest.mark.parametrize("name", BUILDS)
def test_every_object_fits_its_schema(name: str) -> None:
    crds = os.environ.get("ORCHESTRATOR_CRDS")
    for manifest in build(name):
        if manifest["apiVersion"].split("/")[0] not in ("ray.io", "kueue.x-k8s.io"):
            check_core(json.dumps(manifest))
        elif crds:
            check_custom(manifest, crds)


@functools.cache
def check_core(text: str) -> None:
    """Takes text so that an object that many builds share is read once: a check takes a tenth of a
    second.
    """
    kubernetes_validate.validate(
        json.loads(text), kubernetes_validate.latest_version(), strict=True
    )


@functools.cache
def crd_schemas(folder: str) -> dict[tuple[str, str], Manifest]:
    found = {}
    for file in Path(folder).rglob("*.yaml"):
        crd = yaml.load(
            file.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        )["spec"]
        for version in crd["versions"]:
            found[f"{crd['group']}/{version['name']}", crd["names"]["kind"]] = version["schema"][
                "openAPIV3Schema"
            ]
    return found


def check_custom(manifest: Manifest, crds: str) -> None:
    schema = crd_schemas(crds)[manifest["apiVersion"], manifest["kind"]]
    jsonschema.Draft202012Validator(schema).validate(
        manifest
    )  # jsonschema.validate would check the schema too, for seconds
    # A CRD says of metadata only that it is an object.
    assert (
        unknown_fields({key: item for key, item in manifest.items() if key != "metadata"}, schema)
        == []
    )


@pytest.mark.skipif(
    "ORCHESTRATOR_CRDS" not in os.environ,
    reason="ORCHESTRATOR_CRDS names no folder with the CRDs of KubeRay and Kueue",
)
def test_a_wrong_field_of_a_custom_resource_is_found() -> None:
    cluster = named(build("+cluster"), "RayCluster")["shared"]
    check_custom(cluster, os.environ["ORCHESTRATOR_CRDS"])
    for doctored in ({"enableInTreeAutoscalin": True}, {"rayVersion": 2}):
        with pytest.raises((AssertionError, jsonschema.ValidationError)):
            check_custom(
                {**cluster, "spec": {**cluster["spec"], **doctored}},
                os.environ["ORCHESTRATOR_CRDS"],
            )


def test_a_wrong_field_of_a_core_object_is_found() -> None:
    service = named(build("mlflow"), "Service")["mlflow"]
    service["spec"]["selecter"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", BUILDS)
def test_every_workload_keeps_the_policy(name: str) -> None:
    assert [text for manifest in build(name) for text in problems(manifest)] == []


def test_the_policy_sees_every_kind_that_runs_something() -> None:
    for manifest in build(EVERYTHING):
        assert (manifest["kind"] in KINDS) == any(
            key == "containers" for key, _ in walk(manifest)
        ), manifest["kind"]


DOCTORED: list[tuple[str, Callable[[Manifest, Manifest], Any], str]] = [
    ("root", lambda pod, c: pod["securityContext"].update(runAsUser=0), "may run as root"),
    ("no user", lambda pod, c: pod["securityContext"].pop("runAsNonRoot"), "may run as root"),
    ("own user", lambda pod, c: c["securityContext"].update(runAsNonRoot=False), "may run as root"),
    ("seccomp", lambda pod, c: pod["securityContext"].pop("seccompProfile"), "no seccomp profile"),
    ("privileged", lambda pod, c: c["securityContext"].update(privileged=True), "is privileged"),
    (
        "escalation",
        lambda pod, c: c["securityContext"].pop("allowPrivilegeEscalation"),
        "may gain privileges",
    ),
    (
        "capability",
        lambda pod, c: c["securityContext"]["capabilities"].update(add=["NET_ADMIN"]),
        "keeps capabilities",
    ),
    (
        "some dropped",
        lambda pod, c: c["securityContext"]["capabilities"].update(drop=["CHOWN"]),
        "keeps capabilities",
    ),
    (
        "root file system",
        lambda pod, c: c["securityContext"].pop("readOnlyRootFilesystem"),
        "may write to its root",
    ),
    ("request", lambda pod, c: c["resources"]["requests"].pop("memory"), "requests no memory"),
    ("limit", lambda pod, c: c["resources"]["limits"].pop("cpu"), "no limit of cpu"),
    (
        "overcommitted",
        lambda pod, c: c["resources"]["limits"].update(memory="64Gi"),
        "but may take 64Gi",
    ),
    ("readiness", lambda pod, c: c.pop("readinessProbe"), "no readinessProbe"),
    ("liveness", lambda pod, c: c.pop("livenessProbe"), "no livenessProbe"),
    ("host network", lambda pod, c: pod.update(hostNetwork=True), "hostNetwork is on"),
    (
        "folder of the node",
        lambda pod, c: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
        "a folder of the node",
    ),
    (
        "memory",
        lambda pod, c: pod["volumes"].append({"name": "x", "emptyDir": {"medium": "Memory"}}),
        "all memory",
    ),
    ("account", lambda pod, c: pod.pop("serviceAccountName"), "no service account"),
    ("token", lambda pod, c: pod.pop("automountServiceAccountToken"), "token of the API server"),
    ("service links", lambda pod, c: pod.pop("enableServiceLinks"), "enableServiceLinks"),
    ("latest", lambda pod, c: c.update(image="a/b:latest"), "latest is whatever"),
    (
        "latest with digest",
        lambda pod, c: c.update(image="a/b:latest@sha256:" + "0" * 64),
        "latest is whatever",
    ),
    ("no tag", lambda pod, c: c.update(image="a/b"), "not named by digest"),
    ("tag only", lambda pod, c: c.update(image="r:5000/a/b:1.2"), "not named by digest"),
    (
        "short digest",
        lambda pod, c: c.update(image="a/b@sha256:" + "0" * 63),
        "not named by digest",
    ),
    ("no image", lambda pod, c: c.pop("image"), "not named by digest"),
]


@pytest.mark.parametrize(
    ("change", "expected"), [case[1:] for case in DOCTORED], ids=[case[0] for case in DOCTORED]
)
def test_the_policy_finds_what_was_doctored(change: Callable, expected: str) -> None:
    server = named(build("mlflow"), "Deployment")["mlflow"]
    assert problems(server) == []
    pod = server["spec"]["template"]["spec"]
    change(pod, pod["containers"][0])
    assert [text for text in problems(server) if expected in text], problems(server)


def test_the_policy_looks_into_every_place_where_containers_stand() -> None:
    for manifest in build(EVERYTHING):
        for index, (where, _, _) in enumerate(pods(manifest)):
            for number in range(len(containers(list(pods(manifest))[index][1]))):
                doctored = copy.deepcopy(manifest)
                containers(list(pods(doctored))[index][1])[number]["image"] = "a/b:1"
                assert len(problems(doctored)) == 1 and problems(doctored)[0].startswith(where)


@pytest.mark.parametrize(
    "image", ["a/b@sha256:" + "0" * 64, "r.example.com:5000/a/b:1.2-x@sha256:" + "a" * 64]
)
def test_images_by_digest_are_pinned(image: str) -> None:
    assert PINNED.fullmatch(image)


def test_the_policy_knows_what_kuberay_does_not_refuse() -> None:
    cluster = named(build("+cluster+autoscaling"), "RayCluster")["shared"]
    doctored = copy.deepcopy(cluster)
    doctored["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "sweeps"}
    del doctored["spec"]["authOptions"], doctored["spec"]["autoscalerOptions"]
    doctored["spec"]["headGroupSpec"]["rayStartParams"] = {}
    found = "\n".join(problems(doctored))
    assert all(
        text in found
        for text in (
            "authOptions",
            "queue of Kueue",
            "autoscaler: may gain privileges",
            "land on the head",
        )
    )


def test_the_admission_policy_takes_the_same_images_as_this_one() -> None:
    rule = named(build("base"), "ValidatingAdmissionPolicy")["pinned-images"]["spec"][
        "validations"
    ][0]["expression"]
    patterns = set(re.findall(r"c\.image\.matches\('([^']*)'\)", rule))
    assert len(patterns) == 1 and rule.count("matches") == 2
    for image in (
        "a/b:1",
        "a/b:latest",
        "a/b@sha256:REPLACE",
        "a/b@sha256:" + "0" * 63,
        "a/b:1@sha256:" + "0" * 64,
    ):
        assert bool(re.search(next(iter(patterns)), image)) == bool(PINNED.fullmatch(image))


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("rayjob-*.yaml")), ids=lambda file: file.stem)
def test_the_rayjobs_of_sweeps_keep_the_policy_and_name_what_is_here(file: Path) -> None:
    job, base = yaml.safe_load(file.read_text(encoding="utf-8")), build("base")
    assert problems(job) == [] and list(pods(job))
    for where, spec, _ in pods(job):
        # An autoscaling head gets its account from the operator.
        assert spec.get("serviceAccountName") in named(base, "ServiceAccount") or (
            where.endswith("head") and spec["automountServiceAccountToken"]
        )
        claims = {
            volume["persistentVolumeClaim"]["claimName"]
            for volume in spec["volumes"]
            if "persistentVolumeClaim" in volume
        }
        assert claims <= set(named(base, "PersistentVolumeClaim"))
    assert ray_cluster(job)["authOptions"]["secretName"] == "ray-token"
