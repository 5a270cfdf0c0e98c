"""What the manifests of k8s/ refer to exists, the network opens what it must and no more, and the
submitter may do its work and no more.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from typing import Any

import pytest

from tests.support.manifests import BUILDS, COMPONENTS, EVERYTHING, K8S, SECRETS, build, named, walk
from tests.support.policy import KINDS, Manifest, containers, pods

CLUSTER_WIDE = {
    "Namespace",
    "PriorityClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}
CLUSTER_WIDE |= {"ClusterQueue", "ResourceFlavor", "WorkloadPriorityClass"}
HEAD = {"ray.io/is-ray-node": "yes", "ray.io/node-type": "head", "ray.io/cluster": "x"}
WORKER = {**HEAD, "ray.io/node-type": "worker"}
CLEANUP = {**HEAD, "ray.io/node-type": "redis-cleanup"}
"""Labels that KubeRay gives its pods: those of a cluster, and of the job that empties Redis after
it.
"""
COMPLETE = ("overlays/dev", "overlays/prod", *(f"+{name}" for name in COMPONENTS), f"{EVERYTHING}")


def labels_of(manifest: Manifest) -> dict[str, str]:
    """The labels of the pods of a workload."""
    spec = manifest["spec"].get("jobTemplate", manifest)["spec"]
    return spec["template"]["metadata"]["labels"]


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector takes these labels. Knows the operator In only, and says so."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    wanted = [(key, [value]) for key, value in selector.get("matchLabels", {}).items()]
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        wanted.append((expression["key"], expression["values"]))
    return all(labels.get(key) in values for key, values in wanted)


@pytest.mark.parametrize("name", COMPLETE)
def test_what_a_pod_names_exists(name: str) -> None:
    objects = build(name)
    accounts, claims = named(objects, "ServiceAccount"), named(objects, "PersistentVolumeClaim")
    for manifest in objects:
        for where, spec, _ in pods(manifest):
            assert spec.get("serviceAccountName") in {*accounts, None}, where
            assert spec.get("priorityClassName") in {*named(objects, "PriorityClass"), None}, where
            templates = {
                template["metadata"]["name"]
                for template in manifest["spec"].get("volumeClaimTemplates", [])
            }
            volumes = {volume["name"] for volume in spec.get("volumes", [])} | templates
            mounted = {
                mount["name"]
                for container in containers(spec)
                for mount in container.get("volumeMounts", [])
            }
            assert mounted == volumes, where
        for key, value in walk(manifest):
            assert key not in ("configMapRef", "configMapKeyRef", "configMap"), manifest["metadata"]
            if key == "claimName":
                assert value in claims, manifest["metadata"]
            elif key == "secretKeyRef":
                assert value["key"] in SECRETS[value["name"]]
            elif key == "secretRef":
                assert value["name"] in SECRETS
            elif key == "secretName":
                assert value in SECRETS


@pytest.mark.parametrize("name", COMPLETE)
def test_every_claim_is_mounted(name: str) -> None:
    objects = build(name)
    used = {value for manifest in objects for key, value in walk(manifest) if key == "claimName"}
    assert used == set(named(objects, "PersistentVolumeClaim"))


@pytest.mark.parametrize("name", COMPLETE)
def test_services_reach_pods_and_selectors_their_own(name: str) -> None:
    objects = build(name)
    workloads = [
        manifest for manifest in objects if manifest["kind"] in ("Deployment", "StatefulSet")
    ]
    for workload in workloads:
        assert selects(workload["spec"]["selector"], labels_of(workload))
    for service in named(objects, "Service").values():
        behind = [
            w
            for w in workloads
            if selects({"matchLabels": service["spec"]["selector"]}, labels_of(w))
        ]
        assert len(behind) == 1, service["metadata"]["name"]
        ports = {
            port["name"]: port["containerPort"]
            for c in behind[0]["spec"]["template"]["spec"]["containers"]
            for port in c["ports"]
        }
        assert all(ports[port["targetPort"]] == port["port"] for port in service["spec"]["ports"])
    for stateful in named(objects, "StatefulSet").values():
        assert stateful["spec"]["serviceName"] in named(objects, "Service")


@pytest.mark.parametrize("name", COMPLETE)
def test_roles_policies_and_queues_refer_to_each_other(name: str) -> None:
    objects = build(name)
    for binding in named(objects, "RoleBinding").values():
        assert binding["roleRef"]["kind"] == "Role" and binding["roleRef"]["name"] in named(
            objects, "Role"
        )
        assert [(s["kind"], s["name"], s["namespace"]) for s in binding["subjects"]] == [
            ("ServiceAccount", "submitter", "sweeps")
        ]
    for binding in named(objects, "ValidatingAdmissionPolicyBinding").values():
        assert binding["spec"]["policyName"] in named(objects, "ValidatingAdmissionPolicy")
    for queue in named(objects, "LocalQueue").values():
        assert queue["spec"]["clusterQueue"] in named(objects, "ClusterQueue")
    for queue in named(objects, "ClusterQueue").values():
        for group in queue["spec"]["resourceGroups"]:
            for flavor in group["flavors"]:
                assert flavor["name"] in named(objects, "ResourceFlavor")
                assert [resource["name"] for resource in flavor["resources"]] == group[
                    "coveredResources"
                ]


@pytest.mark.parametrize("name", BUILDS)
def test_everything_stands_in_the_one_namespace(name: str) -> None:
    for manifest in build(name):
        expected = None if manifest["kind"] in CLUSTER_WIDE else "sweeps"
        assert manifest["metadata"].get("namespace") == expected, manifest["metadata"]


def test_the_namespace_is_walled() -> None:
    for overlay in ("overlays/dev", "overlays/prod"):
        objects = build(overlay)
        labels = named(objects, "Namespace")["sweeps"]["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
        assert named(objects, "NetworkPolicy")["deny-all"]["spec"] == {
            "podSelector": {},
            "policyTypes": ["Ingress", "Egress"],
        }
        images = {binding["spec"]["matchResources"]["namespaceSelector"]["matchLabels"]["pinned-images"]: binding["spec"]
                  for binding in named(objects, "ValidatingAdmissionPolicyBinding").values()}  # fmt: skip
        assert images[labels["pinned-images"]]["validationActions"] == (
            ["Warn"] if overlay.endswith("dev") else ["Deny"]
        )


def test_no_secret_and_no_name_that_changes_on_the_way_is_in_the_tree() -> None:
    assert not [
        m
        for name in BUILDS
        for m in build(name)
        if m["kind"] in ("Secret", "ClusterRole", "ClusterRoleBinding")
    ]
    for file in K8S.rglob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        # The operator's objects keep the names that they were given, so a prefix or a hash would
        # leave them pointing nowhere.
        assert not re.search(r"namePrefix|nameSuffix|commonLabels|Generator|stringData", text), file


def test_what_is_secret_comes_from_secrets() -> None:
    for manifest in build(EVERYTHING):
        for _, spec, _ in pods(manifest):
            for variable in (v for container in containers(spec) for v in container.get("env", [])):
                if re.search(
                    "PASSWORD|TOKEN|SECRET|KEY|STORE_URI", variable["name"]
                ) and not variable["name"].endswith("_FILE"):
                    assert set(variable["valueFrom"]) == {"secretKeyRef"}, variable


def rights(objects: list[Manifest]) -> set[str]:
    """Everything that the Roles grant, one right a string."""
    rules = [rule for role in named(objects, "Role").values() for rule in role["rules"]]
    assert all(set(rule) == {"apiGroups", "resources", "verbs"} for rule in rules)
    return {
        f"{verb} {resource}.{group}"
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_submitter_may_do_its_work_and_nothing_else() -> None:
    expected = {
        f"{verb} rayjobs.ray.io" for verb in ("create", "get", "list", "watch", "patch", "delete")
    }
    expected |= {f"{verb} rayclusters.ray.io" for verb in ("get", "list", "watch")} | {
        f"{verb} pods." for verb in ("get", "list", "watch")
    }
    expected |= {"get rayjobs/status.ray.io", "get pods/log.", "list events.", "watch events."}
    queue = {f"{verb} workloads.kueue.x-k8s.io" for verb in ("get", "list", "watch")}
    assert rights(build("overlays/dev")) == rights(build(EVERYTHING)) == expected
    assert rights(build("overlays/prod")) == rights(build("+kueue")) == expected | queue


def test_only_what_talks_to_the_api_server_gets_a_token() -> None:
    objects = build(EVERYTHING)
    assert not any(
        account["automountServiceAccountToken"]
        for account in named(objects, "ServiceAccount").values()
    )
    holders = {
        where for m in objects for where, spec, _ in pods(m) if spec["automountServiceAccountToken"]
    }
    assert holders == {"CronJob sweep", "RayCluster shared head"}
    workers = [
        spec
        for m in objects
        for where, spec, _ in pods(m)
        if where.startswith("RayCluster") and "head" not in where
    ]
    assert [spec["serviceAccountName"] for spec in workers] == ["ray"] * 3


# The network, read as a cluster reads it


def peer(rule_peers: list[Manifest] | None, other: Any) -> bool:
    """Whether `other` (labels of a pod here, an address, or (namespace, labels)) is among the peers
    of a rule.
    """
    if rule_peers is None:
        return True
    for item in rule_peers:
        if isinstance(other, str):
            block = item.get("ipBlock", {"cidr": "0.0.0.0/32"})
            inside = [
                ipaddress.ip_network(net)
                for net in (block["cidr"], *block.get("except", []))
                if "REPLACE" not in net
            ]
            if (
                inside
                and ipaddress.ip_address(other) in inside[0]
                and not any(ipaddress.ip_address(other) in net for net in inside[1:])
            ):
                return True
        elif "ipBlock" not in item:
            space, labels = other if isinstance(other, tuple) else (None, other)
            found = item.get("namespaceSelector")
            same = (
                space is None
                if found is None
                else selects(found, {"kubernetes.io/metadata.name": space or "sweeps"})
            )
            if same and selects(item.get("podSelector", {}), labels):
                return True
    return False


def opens(
    objects: list[Manifest], direction: str, pod: dict[str, str], other: Any, port: int
) -> bool:
    """Whether some policy lets `pod` have this traffic in one direction: ingress or egress."""
    for policy in named(objects, "NetworkPolicy").values():
        spec = policy["spec"]
        if selects(spec["podSelector"], pod):
            for rule in spec.get(direction, []):
                ports = [item["port"] for item in rule.get("ports", [])]
                if (not ports or port in ports) and peer(
                    rule.get("from" if direction == "ingress" else "to"), other
                ):
                    return True
    return False


def reaches(objects: list[Manifest], source: Any, target: Any, port: int) -> bool:
    """Whether traffic passes: the source's policies let it out and the target's let it in; those
    outside the namespace ask nothing.
    """
    out = not isinstance(source, dict) or opens(objects, "egress", source, target, port)
    return out and (not isinstance(target, dict) or opens(objects, "ingress", target, source, port))


def app(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": name}


OPERATOR = ("kuberay-system", app("kuberay-operator"))
STRANGER = ("elsewhere", app("kuberay-operator"))
DNS = ("kube-system", {"k8s-app": "kube-dns"})
PUBLIC, METADATA, PRIVATE = "52.216.0.1", "169.254.169.254", "10.0.0.7"
TRAFFIC = [
    # who, whom, port; in which builds it passes: always, never, or with a component
    (HEAD, WORKER, 10002, "always"), (WORKER, HEAD, 6379, "always"), (WORKER, WORKER, 30000, "always"),
    (OPERATOR, HEAD, 8265, "always"), (OPERATOR, HEAD, 6379, "never"), (OPERATOR, WORKER, 8265, "never"), (STRANGER, HEAD, 8265, "never"),
    (HEAD, app("mlflow"), 5000, "always"), (WORKER, app("mlflow"), 5000, "always"), (WORKER, app("postgres"), 5432, "never"),
    (app("mlflow"), app("postgres"), 5432, "always"), (app("mlflow-upkeep"), app("postgres"), 5432, "always"),
    (app("mlflow-upkeep"), app("mlflow"), 5000, "always"), (app("mlflow"), HEAD, 8265, "never"), (STRANGER, app("mlflow"), 5000, "never"),
    (app("submitter"), HEAD, 8265, "submitter"), (app("submitter"), HEAD, 6379, "never"), (app("submitter"), app("mlflow"), 5000, "submitter"),
    (app("submitter"), app("postgres"), 5432, "never"), (app("setup"), HEAD, 8265, "never"),
    (HEAD, app("redis"), 6379, "redis"), (CLEANUP, app("redis"), 6379, "redis"), (WORKER, app("redis"), 6379, "never"),
    (app("mlflow"), app("redis"), 6379, "never"),
    (HEAD, DNS, 53, "always"), (app("postgres"), DNS, 53, "always"),
    (WORKER, PUBLIC, 443, "s3"), (app("mlflow"), PUBLIC, 443, "s3"), (app("postgres"), PUBLIC, 443, "never"), (WORKER, PUBLIC, 80, "never"),
    (app("setup"), PUBLIC, 443, "always"), (app("setup"), METADATA, 443, "never"), (WORKER, METADATA, 443, "never"), (WORKER, PRIVATE, 443, "never"),
]  # fmt: skip


@pytest.mark.parametrize("name", COMPLETE)
def test_the_network_opens_what_it_must_and_no_more(name: str) -> None:
    objects = build(name)
    parts = name.split("+")
    for source, target, port, when in TRAFFIC:
        assert reaches(objects, source, target, port) == (when == "always" or when in parts), (
            source,
            target,
            port,
            when,
        )


def test_the_api_server_is_opened_by_the_components_that_need_it() -> None:
    for name in COMPLETE:
        text = "REPLACE_API_SERVER/32"
        open_to = [
            p
            for p, policy in named(build(name), "NetworkPolicy").items()
            if any(v == text for _, v in walk(policy))
        ]
        expected = {"autoscaling": "autoscaler-to-api-server", "submitter": "submitter"}
        assert sorted(open_to) == sorted(
            policy for part, policy in expected.items() if part in name.split("+")
        )


@pytest.mark.parametrize("name", COMPLETE)
def test_every_network_policy_selects_pods_that_there_are(name: str) -> None:
    objects = build(name)
    there = [labels_of(m) for m in objects if m["kind"] in KINDS and m["kind"] != "RayCluster"] + [
        HEAD,
        WORKER,
        CLEANUP,
    ]
    for policy in named(objects, "NetworkPolicy").values():
        for selector in [value for key, value in walk(policy) if key == "podSelector" and value]:
            outside = [OPERATOR[1], DNS[1]]
            assert any(selects(selector, labels) for labels in [*there, *outside]), policy[
                "metadata"
            ]["name"]


def test_mlflow_answers_to_the_name_that_sweeps_use() -> None:
    objects = build(EVERYTHING)
    server = named(objects, "Deployment")["mlflow"]["spec"]["template"]["spec"]["containers"][0]
    allowed = server["args"][0].removeprefix("--allowed-hosts=").split(",")
    arguments = named(objects, "CronJob")["sweep"]["spec"]["jobTemplate"]["spec"]["template"][
        "spec"
    ]["containers"][0]["args"]
    host = next(word for word in arguments if word.startswith("tracking.uri=")).removeprefix(
        "tracking.uri=http://"
    )
    assert host.split(".")[0] in named(objects, "Service")

    def answers(name: str) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for pattern in allowed)

    assert answers(host) and answers("mlflow:5000") and answers("localhost:5000")
    assert not answers("mlflow.example.com:5000") and not answers("10.0.0.1:5000")
