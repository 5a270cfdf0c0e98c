"""The commands that messages and documents suggest: each one is read by the program that it is for,
and leads where it says.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli import split_flags
from orchestrator.commands.new_experiment import read_request
from orchestrator.config.cluster import Cluster
from orchestrator.config.compose import compose
from orchestrator.config.fleet import build_fleet, is_fleet
from orchestrator.errors import OrchestratorError
from orchestrator.kuberay import outcome, submit
from orchestrator.kuberay.client import Client
from orchestrator.kuberay.follower import Follower
from orchestrator.kuberay.placement import PLACEMENT, placement_remedy
from orchestrator.kuberay.status import StatusReporter
from orchestrator.kuberay.watch import Change
from orchestrator.output import run_commands
from orchestrator.runs import cli
from tests.support.apiserver import ApiServer, recording
from tests.support.kuberay import (
    ARGUMENTS,
    DIGEST,
    QUICK,
    Serve,
    impatient,
    replaced,
    serving,
    settings,
)
from tests.support.settings import build

serve = pytest.fixture(serving)
ROOT = Path(__file__).resolve().parents[3]
SUGGESTED = r"python -m orchestrator\.runs (?:list|show|watch|stop|delete)[^\n]*"
AWKWARD = ["a b", "it's", "$(id)", "`id`", "*", 'say "hi"', "ä", "a;b"]


def suggested(text: str) -> list[list[str]]:
    """The arguments of each command for `runs` that a text suggests."""
    return [shlex.split(found)[3:] for found in re.findall(SUGGESTED, text)]


@pytest.mark.parametrize("word", AWKWARD)
def test_a_command_is_quoted_and_read_back_as_it_was_meant(
    word: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = os.pathsep.join([str(tmp_path / word), "relative"])
    monkeypatch.setenv("KUBECONFIG", files)
    kubernetes = Cluster(kind="kuberay", namespace="slm", context=word)
    attached = Cluster(kind="attached", address="http://head:8265/", token_file=word)
    there = cli.parse(shlex.split(run_commands.on_cluster("watch", "lora-1", kubernetes))[3:])
    assert (there.name, there.namespace, there.context) == ("lora-1", "slm", word)
    assert there.kubeconfig == os.pathsep.join(
        [str(tmp_path / word), str(Path("relative").absolute())]
    )
    head = cli.parse(shlex.split(run_commands.on_cluster("stop", "lora-1", attached))[3:])
    assert (head.address, head.token_file) == ("http://head:8265", str(Path(word).absolute()))
    assert (
        cli.parse(shlex.split(run_commands.in_storage("delete", "lora-1", word))[3:]).storage
        == word
    )
    line = shlex.split(run_commands.kubectl(kubernetes, "get", "pods"))
    assert line[:2] == ["env", f"KUBECONFIG={there.kubeconfig}"] and line[2:] == [
        "kubectl",
        "--namespace",
        "slm",
        "--context",
        word,
        "get",
        "pods",
    ]


def test_without_a_kubeconfig_of_its_own_a_command_names_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    kubernetes = Cluster(kind="kuberay", namespace="slm")
    listed = run_commands.on_cluster("list", None, kubernetes)
    assert listed.partition("python ")[2] == "-m orchestrator.runs list --namespace slm"
    assert run_commands.kubectl(kubernetes, "get", "pods") == "kubectl --namespace slm get pods"


def test_settings_in_a_message_become_the_flags_that_runs_has() -> None:
    told = "cluster.context=elsewhere: try cluster.context=NAME or cluster.token_file=FILE; cluster.wait_seconds=5 stays"
    assert (
        run_commands.as_flags(told)
        == "--context elsewhere: try --context NAME or --token-file FILE; cluster.wait_seconds=5 stays"
    )


def two_contexts(api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubeconfig whose present context leads nowhere: a command without --context does not
    work.
    """
    file = api.kubeconfig(tmp_path)
    config = yaml.safe_load(file.read_text())
    config["clusters"].append({"name": "gone", "cluster": {"server": "http://127.0.0.1:9"}})
    config["contexts"].append({"name": "gone", "context": {"cluster": "gone", "user": "me"}})
    file.write_text(yaml.safe_dump(config | {"current-context": "gone"}))
    monkeypatch.setenv("KUBECONFIG", str(file))


def run_all(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Run every command that a text suggests, from a shell that has no KUBECONFIG; returns their
    verbs.
    """
    found = suggested(text)
    for arguments in found:
        with monkeypatch.context() as elsewhere:
            elsewhere.delenv("KUBECONFIG")
            code = cli.main(arguments)
        err = capsys.readouterr().err
        allowed = (
            (0, 1) if arguments[0] == "watch" else (0,)
        )  # a job that is lost is told as that again
        assert code in allowed and "error:" not in err, (arguments, err)
    return [arguments[0] for arguments in found]


ENDED = {
    "01": ["delete"], "02": ["delete"], "03": ["delete"], "04": ["delete"], "05": ["delete"], "06a": ["delete"], "06b": ["delete"],
    "06c": ["delete"], "06d": ["watch", "stop"], "07": ["delete"], "08": [], "09": ["delete"], "10": ["delete"], "12": ["delete"],
}  # fmt: skip
"""Scenario -> the commands that its ending suggests."""


@pytest.mark.parametrize("scenario", ENDED)
def test_every_command_that_an_ending_suggests_works(
    scenario: str,
    serve: Serve,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    api = serve(scenario)
    if scenario == "06d":  # in which nothing more comes
        impatient(monkeypatch, unsubmitted_seconds=1.0)
    two_contexts(api, tmp_path, monkeypatch)
    submit.run(settings("cluster.context=here"), ARGUMENTS, None)
    assert run_all(capsys.readouterr().err, capsys, monkeypatch) == ENDED[scenario]


LIVE: dict[str, Callable[[StatusReporter], outcome.Outcome]] = {
    "unsubmitted": lambda story: outcome.unsubmitted(story, 300),
    "unseen": lambda story: outcome.unseen(story, 120),
    "operator_gone": lambda story: outcome.operator_gone(story, "cluster.wait_seconds=1800", 2000),
    "queued_too_long": outcome.queued_too_long,
}


@pytest.mark.parametrize("kind", LIVE)
def test_a_job_that_may_go_on_is_stopped_and_not_deleted(
    kind: str,
    serve: Serve,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    api = serve(None)
    two_contexts(api, tmp_path, monkeypatch)
    queue = ["cluster.queue=team"] if kind == "queued_too_long" else []
    config = settings("cluster.context=here", "cluster.detach=true", *queue)
    submit.run(config, ARGUMENTS, None)
    ((_, name),) = [key for key in api.things if key[0] == "rayjobs"]
    verbs = [
        arguments[0]
        for arguments in suggested(LIVE[kind](StatusReporter(name, config.cluster)).text)
    ]
    assert verbs == ["watch", "stop"]
    text = LIVE[kind](StatusReporter(name, config.cluster)).text.replace(
        "runs watch", "runs show"
    )  # nobody works on it here
    assert run_all(text, capsys, monkeypatch) == ["show", "stop"]


def test_the_commands_of_a_detached_job_and_of_refusals_work(
    serve: Serve,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    api = serve("01", speed=5.0, waits_seconds=0)
    two_contexts(api, tmp_path, monkeypatch)
    config = settings("cluster.context=here", "cluster.detach=true")
    assert submit.run(config, ARGUMENTS, None) == 0
    told = capsys.readouterr().err
    assert told.count("accepted") == 1
    ((_, name),) = [key for key in api.things if key[0] == "rayjobs"]
    assert cli.main(["delete", name, "--namespace", "slm", "--context", "here"]) == 2
    refused = capsys.readouterr().err
    assert [arguments[0] for arguments in suggested(refused)] == ["stop"]
    assert cli.main(["show", "nothing", "--namespace", "slm", "--context", "here"]) == 2
    assert run_all(capsys.readouterr().err, capsys, monkeypatch) == ["list"]
    with pytest.raises(OrchestratorError) as caught:
        submit.run(settings("cluster.context=here", "fresh=true"), ARGUMENTS, None)
    assert run_all(str(caught.value), capsys, monkeypatch) == ["watch", "stop"]
    assert run_all(told.replace("runs watch", "runs show"), capsys, monkeypatch) == ["show", "stop"]


def test_who_watches_is_told_of_flags_and_not_of_settings(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """What ends the following is said, not raised, so that the translation of errors did not see
    it.
    """
    from tests.support.apiserver import Fault

    api = serve("01", speed=0.01)
    submit.run(settings("cluster.detach=true"), ARGUMENTS, None)
    ((_, name),) = [key for key in api.things if key[0] == "rayjobs"]
    capsys.readouterr()
    api.faults = [Fault("rayjobs.*(watch=1|limit)", "answer", "bad-token", 10**6)]
    assert cli.main(["watch", name, "--namespace", "slm"]) == 1
    err = capsys.readouterr().err
    assert "or choose another one: --context NAME" in err and "cluster.context" not in err


@pytest.mark.parametrize(
    ("pattern", "who"),
    itertools.product(
        [pattern for pattern, _ in PLACEMENT] + ["else"], [(), ("head",), ("workers",), ("spot",)]
    ),
)
def test_every_remedy_is_whole(pattern: str, who: tuple[str, ...]) -> None:
    why = next(
        iter(re.sub(r"\(\?i\)|[()]", "", pattern).replace(r"\S+", "x").lstrip("^").split("|"))
    )
    text = placement_remedy(
        f"queue {why}" if why == "queue" else why,
        who,
        Cluster(namespace="slm", context="a b", claim="shared"),
    )
    assert not set("{}") & set(text) and "NAMESPACE" not in text
    for line in re.findall(r"kubectl --[^;,]*", text):
        assert shlex.split(line)[:5] == ["kubectl", "--namespace", "slm", "--context", "a b"]


WITHOUT_COMMANDS = {
    "docs/defaults.md",
    "CONTRIBUTING.md",
    "docs/how-packing-works.md",
    "docs/speed.md",
    "docs/security.md",
}
DOCUMENTS = [
    *("README.md", "k8s/README.md", "k8s/OPERATIONS.md", "CONTRIBUTING.md"),
    *sorted(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_of_a_document_is_read(name: str) -> None:
    """Shell variables, ... and words in capitals stand for what a user puts there."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / name).read_text(encoding="utf-8"))
    text = re.sub(
        r"\"?\$\{?(image|REGISTRY|BUCKET)\}?\"?",
        lambda found: DIGEST if found[1] == "image" else "x",
        text,
    )
    text = text.replace("NAME@sha256:...", DIGEST)
    found = re.findall(r"python -m orchestrator(\.runs)? ([^`\n|#]*)", text)
    written: list[str] = []  # experiments that the document has had made
    for module, line in found:
        arguments = [
            word
            for word in shlex.split(
                line.replace("HEAD:8265", "head:8265").replace("MLFLOW:5000", "mlflow:5000")
            )
            if word != "..."
        ]
        if module:
            cli.parse(arguments)
        elif arguments and "optim.lrr=1" not in arguments:
            flags, overrides = split_flags(arguments)
            if "job=new" in overrides:
                written.append(read_request(overrides, flags.get("--from"), None).name)
            elif "--help" not in flags:
                there = [text for text in overrides if text.partition("=")[2] not in written]
                raw = compose(there, None)
                assert build_fleet(raw) if is_fleet(raw) else build(raw)
    assert found or name in WITHOUT_COMMANDS


def follower(cluster: Cluster, lines: list[str]) -> Follower:
    """One who follows a job of no server's."""
    return Follower(Client(cluster), "train", cluster, False, QUICK, lines.append)


def test_bad_input_is_not_tried_again_on_a_second_cluster(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """The operator knows no exit codes. Whoever follows suspends the job before its second attempt
    has begun.
    """
    api = serve("02")
    create = api.put
    api.put = lambda change, kind, thing: create(
        change, kind, replaced(thing, "exit code 3", "exit code 2")
    )  # type: ignore[method-assign]
    assert submit.run(settings(), ARGUMENTS, None) == 2
    err = capsys.readouterr().err
    ((_, name),) = [key for key in api.things if key[0] == "rayjobs"]
    assert api.job(name)["spec"]["suspend"] is True
    assert "refused: the command on the cluster ended with exit code 2:\n    epoch 1\n" in err
    assert "the job was suspended" in err and "attempt 2 of 2" not in err


def test_bad_input_under_kueue_is_deleted_since_kueue_would_start_it_again(serve: Serve) -> None:
    api, lines = serve(None), []
    config = settings("cluster.queue=team", "cluster.detach=true")
    submit.run(config, ARGUMENTS, None)
    ((_, name),) = [key for key in api.things if key[0] == "rayjobs"]
    mine = Follower(Client(config.cluster), name, config.cluster, False, QUICK, lines.append)
    (retrying,) = [
        entry["object"]
        for entry in recording("02")
        if entry["object"].get("status", {}).get("jobDeploymentStatus") == "Retrying"
    ]
    end = mine.take_job(
        Change("rayjob", "changed", replaced(retrying, "exit code 3", "exit code 2"))
    )
    assert (
        end is not None
        and (end.code, end.state) == (2, "refused")
        and "the job was deleted" in end.text
    )
    assert not [key for key in api.things if key[0] == "rayjobs"]


def test_other_exit_codes_are_tried_again(serve: Serve) -> None:
    serve(None)
    lines: list[str] = []
    mine = follower(settings().cluster, lines)
    for entry in recording("02"):
        if entry["kind"] == "rayjobs" and entry["t"] < 20:
            changed = replaced(entry["object"], "exit code 3", "exit code 22")
            assert mine.take_job(Change("rayjob", "changed", changed)) is None
    assert any("attempt 2 of 2" in line for line in lines)


def stopped(name: str) -> dict[str, Any]:
    """A RayJob whose command has stopped its own Ray job."""
    status = {
        "jobDeploymentStatus": "Complete",
        "jobStatus": "STOPPED",
        "message": "Job was intentionally stopped.",
    }
    return {
        "metadata": {
            "name": name,
            "namespace": "slm",
            "uid": "1",
            "labels": {"app.kubernetes.io/managed-by": "slm-orchestrator"},
        },
        "status": status,
    }


@pytest.mark.parametrize(
    ("log", "code", "state"),
    [(["error: bad", "==== refused ===="], 2, "refused"), (["working"], 1, "stopped")],
)
def test_a_job_that_has_stopped_itself_over_bad_input_is_refused_and_another_is_stopped(
    log: list[str], code: int, state: str, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    api = serve(None, logs=[log])
    api.put("ADDED", "rayjobs", stopped("lora"))
    head = {"metadata": {"name": "lora-abcde-head-xyzab", "namespace": "slm", "uid": "p", "labels": {"ray.io/node-type": "head", "slm-orchestrator/job": "lora"}}}  # fmt: skip
    head["status"] = {
        "phase": "Running",
        "containerStatuses": [{"name": "log", "state": {"running": {}}}],
    }
    api.heads.append("lora-abcde-head-xyzab")
    api.put("ADDED", "pods", head)
    assert submit.watch(settings().cluster, "lora") == code
    err = capsys.readouterr().err
    assert f"\n{state}: " in err and "==== refused ====" not in err
    from orchestrator.runs.kubernetes import KubeRayRuns

    (record,) = KubeRayRuns(settings().cluster).listed()
    assert record["state"] == state
