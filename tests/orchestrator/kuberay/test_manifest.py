"""The RayJob's manifest: compared whole, valid for the real schemas, within Pod Security, and its
two shell texts run by a real bash.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.kuberay import manifest
from orchestrator.kuberay.names import LONGEST_NAME, job_name, sweep_name, sweep_of
from tests.support.kuberay import ARGUMENTS, SETTINGS, settings, unknown_fields

GOLDEN = Path(__file__).parent / "golden"
NASTY = [
    "a b",
    "$HOME",
    "`id`",
    "$(id)",
    "'; rm -rf x #",
    '"quoted"',
    "x\\y",
    "*",
    "~",
    "!1",
    "{a,b}",
    "data.instruction=Täglich & Söhne | >f",
    "",
]


def made(kind: str) -> dict[str, Any]:
    """The manifest of one of the golden settings."""
    return manifest.make(settings(*SETTINGS[kind]), "lora-7f3a91", ARGUMENTS, "0123456789ab")


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The pod templates of a RayJob, head first."""
    cluster = job["spec"]["rayClusterSpec"]
    return [
        cluster["headGroupSpec"]["template"],
        *(group["template"] for group in cluster["workerGroupSpecs"]),
    ]


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_manifest_is_the_golden_file(kind: str) -> None:
    text = manifest.as_yaml(made(kind))
    file = GOLDEN / f"rayjob-{kind}.yaml"
    if os.environ.get("ORCHESTRATOR_WRITE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")
    assert yaml.safe_load(text) == made(kind)


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_pod_of_the_manifest_is_a_pod_to_kubernetes(kind: str) -> None:
    import kubernetes_validate

    for template in pods(made(kind)):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "x", **template["metadata"]},
            "spec": template["spec"],
        }
        kubernetes_validate.validate(pod, "1.33", strict=True)


def test_the_check_of_pods_sees_a_misspelt_field() -> None:
    import kubernetes_validate

    template = pods(made("cpu"))[0]
    template["spec"]["nodeSelectr"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "x"},
                "spec": template["spec"],
            },
            "1.33",
            strict=True,
        )


@functools.cache
def operators_schema() -> dict[str, Any]:
    """The schema of KubeRay's RayJob, where its CRDs are at hand."""
    folder = os.environ.get("ORCHESTRATOR_CRDS")
    if not folder:
        pytest.skip("ORCHESTRATOR_CRDS names no folder with KubeRay's CRDs")
    text = (Path(folder) / "ray.io_rayjobs.yaml").read_text(encoding="utf-8")
    definition = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return next(v for v in definition["spec"]["versions"] if v["name"] == "v1")["schema"][
        "openAPIV3Schema"
    ]


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_operators_own_schema_takes_the_manifest(kind: str) -> None:
    import jsonschema

    schema = operators_schema()
    job = made(kind)
    assert unknown_fields(job["spec"], schema["properties"]["spec"]) == []
    jsonschema.Draft202012Validator(schema["properties"]["spec"]).validate(job["spec"])
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imag"] = (
        "x"
    )
    assert unknown_fields(job["spec"], schema["properties"]["spec"]) == [
        ".rayClusterSpec.headGroupSpec.template.spec.containers[0].imag"
    ]


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_container_is_within_pod_security_restricted(kind: str) -> None:
    job = made(kind)
    options = job["spec"]["rayClusterSpec"].get("autoscalerOptions")
    assert (options is not None) == (kind == "gpu")
    contexts = [
        container["securityContext"] for pod in pods(job) for container in pod["spec"]["containers"]
    ]
    contexts += [options["securityContext"]] if options else []
    for context in contexts:
        assert context["allowPrivilegeEscalation"] is False
        assert context["runAsNonRoot"] is True
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for pod in pods(job):
        assert not any(pod["spec"].get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        assert all(
            set(volume) & {"emptyDir", "persistentVolumeClaim"} for volume in pod["spec"]["volumes"]
        )
        for container in pod["spec"]["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"]


def test_no_worker_holds_a_token_for_the_api_server() -> None:
    head, *rest = pods(made("gpu"))
    assert head["spec"]["automountServiceAccountToken"] is True
    assert "serviceAccountName" not in head["spec"]
    assert [pod["spec"]["automountServiceAccountToken"] for pod in rest] == [False]
    assert [pod["spec"]["automountServiceAccountToken"] for pod in pods(made("spot"))] == [
        False,
        False,
        False,
    ]


def test_the_same_settings_make_the_same_manifest() -> None:
    assert json.dumps(made("gpu")) == json.dumps(made("gpu"))


def test_bash_hands_every_argument_over_as_it_was_typed(tmp_path: Path) -> None:
    (tmp_path / "folder with space").mkdir()
    cluster = settings(f"cluster.folder={tmp_path}/folder with space").cluster
    entrypoint = manifest.entrypoint(cluster, NASTY)
    shown = "import os, sys, json; print(json.dumps([os.getcwd(), *sys.argv[1:]]))"
    (tmp_path / "folder with space" / "orchestrator.py").write_text(shown)
    (tmp_path / "python").symlink_to(sys.executable)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONUTF8": "1",
        "PYTHONPATH": "",
    }
    done = subprocess.run(
        ["bash", "-c", entrypoint],
        capture_output=True,
        text=True,
        env=environment,
        cwd="/",
        check=True,
    )
    assert json.loads(done.stdout) == [f"{tmp_path}/folder with space", *NASTY]
    assert not (tmp_path / "folder with space" / "f").exists()


def test_the_log_container_waits_for_the_drivers_log_and_goes_over_to_the_next(
    tmp_path: Path,
) -> None:
    if shutil.which("bash") is None or shutil.which("tail") is None:
        pytest.skip("needs bash and tail")
    logs = tmp_path / "session_latest" / "logs"
    reader = subprocess.Popen(
        ["bash", "-c", manifest.FOLLOW_LOG.replace(manifest.LOGS, str(tmp_path)).replace("sleep 1", "sleep 0.1")],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert reader.stdout is not None
    try:
        time.sleep(0.3)
        assert reader.poll() is None
        logs.mkdir(parents=True)
        first, second = logs / "job-driver-a.log", logs / "job-driver-b.log"
        first.write_text("one\n")
        assert reader.stdout.readline() == "one\n"
        with first.open("a") as stream:
            stream.write("two\n")
        assert reader.stdout.readline() == "two\n"
        second.write_text("again\n")
        os.utime(second, (time.time() + 5, time.time() + 5))
        assert reader.stdout.readline() == "again\n"
        reader.terminate()
        assert reader.wait(120) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(reader.pid, signal.SIGKILL)


def test_names_are_labels_short_enough_for_the_operator_and_lead_back_to_the_sweep() -> None:
    config = settings("sweep.name=" + "Long" * 15)
    sweep = sweep_name(config, ARGUMENTS, None)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", sweep)
    for number in (1, 2, 99):
        name = job_name(sweep, number)
        assert len(name) <= LONGEST_NAME
        assert sweep_of(name) == sweep
    assert sweep_name(settings("sweep.name=7b"), ARGUMENTS, None).startswith("s-7b-")
    assert sweep_name(config, ARGUMENTS, None) != sweep_name(config, [*ARGUMENTS, "seed=1"], None)
    assert sweep_of("lora-123456") == "lora-123456"


def test_every_attempt_is_told_of_one_submission_and_of_the_shared_cache() -> None:
    for pod in pods(made("cpu")):
        variables = {entry["name"]: entry["value"] for entry in pod["spec"]["containers"][0]["env"]}
        assert variables["ORCHESTRATOR_SUBMISSION"] == "0123456789ab"
        assert variables["ORCHESTRATOR_CACHE"] == "/mnt/shared/cache"
    job = manifest.make(settings("cluster.claim=null"), "x", ARGUMENTS, "0")
    assert not any("ORCHESTRATOR_CACHE" in json.dumps(pod) for pod in pods(job))
    assert "runtimeEnvYAML" not in job["spec"]
