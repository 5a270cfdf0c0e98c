"""What the last screen and the errors tell to paste is pasted, on a real sweep; and what they say
of the store is true of it now.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import environment
from tests.support.servers import free_port
from tests.support.stores import until

SPACE = "sweep.space={lr: {path: optim.lr, type: loguniform, low: 0.002, high: 0.01}}"
NAME = "toy model"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name a shell would take apart."""
    folder = tmp_path_factory.mktemp("printed") / "it's $HOME & more"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def again(command: Any, home: Path) -> Any:
    """The sweep's command, from its folder; without `output=json` its last screen is text."""

    def run(*more: str, **options: Any) -> Any:
        asked = (
            "storage=my runs",
            f"tracking.model={NAME}",
            SPACE,
            "sweep.search=optuna",
            "sweep.num_trials=2",
            "train.steps=10",
            "registry.beat=[]",
        )
        return command(*asked, "train.eval_every=5", "output=text", *more, cwd=home, **options)

    return run


@pytest.fixture(scope="module")
def swept(again: Any) -> Any:
    done = again()
    assert done.code == 0, done.err
    return done


def lines(text: str) -> dict[str, str]:
    """A last screen by its labels."""
    return {line[:8].strip(): line[8:] for line in text.splitlines()}


def paste(line: str, cache: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a line as it was printed, where it was printed."""
    return subprocess.run(
        ["bash", "-c", line],
        env=environment(cache),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=570,
        check=False,
    )


def client(home: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{home / 'my runs' / 'mlflow.db'}")


def journal(home: Path, kind: str) -> list[dict[str, Any]]:
    events = [
        json.loads(line)
        for file in home.glob("my runs/sweeps/*/journal.jsonl")
        for line in file.read_text().splitlines()
    ]
    return [event for event in events if event["kind"] == kind]


def champion(home: Path) -> int | None:
    """The version that has the alias in the store now."""
    found = client(home).search_registered_models(f"name = '{NAME}'")
    return int(found[0].aliases["champion"]) if found and "champion" in found[0].aliases else None


def test_the_settings_that_are_told_were_trained(again: Any, swept: Any, home: Path) -> None:
    told = again("output=json").result["best"]
    trained = {event["trial"]: event["params"] for event in journal(home, "trial")}
    assert told["params"]["optim.lr"] == trained[told["trial"]]["optim.lr"], (
        "optuna, asked once more, proposes another one"
    )
    exported = json.loads(
        next(home.glob("my runs/sweeps/*/export/adapter/adapter_config.json")).read_text()
    )
    assert exported["r"] == trained[told["trial"]]["adapter.rank"]


def test_the_printed_question_is_answered(swept: Any, cache: Path, home: Path) -> None:
    line = lines(swept.out)["try"]
    assert "model_uri='models:/toy model@champion'" in line and "storage='my runs'" in line
    answered = paste(line, cache, home)
    assert answered.returncode == 0, answered.stderr
    assert re.fullmatch(r"[ABC]+\n", answered.stdout), answered


def test_the_printed_address_serves_the_store(swept: Any, cache: Path, home: Path) -> None:
    port = free_port()
    settings = environment(cache) | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    line = f"exec {lines(swept.out)['open']} --workers 1 --port {port}"
    with (home / "ui.log").open("w") as log:
        process = subprocess.Popen(
            ["bash", "-c", line],
            env=settings,
            cwd=home,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        import requests

        def served() -> bool:
            assert process.poll() is None, (home / "ui.log").read_text()
            try:
                answer = requests.get(
                    f"http://127.0.0.1:{port}/api/2.0/mlflow/registered-models/get",
                    {"name": NAME},
                    timeout=60,
                )
            except requests.exceptions.RequestException:
                return False
            return answer.json()["registered_model"]["name"] == NAME

        until(served, 300)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_an_alias_that_someone_moved_is_where_the_screen_says(
    again: Any, swept: Any, home: Path
) -> None:
    assert f"{NAME} v1 has the alias champion" in swept.out and champion(home) == 1
    client(home).delete_registered_model_alias(NAME, "champion")
    taken = again()
    assert (
        taken.code == 0
        and "why     the alias champion was taken away since" in taken.out
        and "has the alias" not in taken.out
    )
    assert "model_uri='models:/toy model/1'" in lines(taken.out)["try"]
    other = client(home).create_model_version(NAME, (home / "my runs").as_uri()).version
    client(home).set_registered_model_alias(NAME, "champion", other)
    moved = again()
    assert f"why     the alias champion is at v{other} now" in moved.out
    assert (
        "has the alias" not in moved.out and again("output=json").result["model"]["alias"] is None
    )
    client(home).set_registered_model_alias(NAME, "champion", "1")
    client(home).delete_model_version(NAME, other)
    back = again().out
    assert f"{NAME} v1 has the alias champion" in back
    assert lines(back)["why"] == "it was given the alias champion since"


def test_a_model_that_someone_deleted_is_registered_again_and_nothing_is_trained(
    again: Any, swept: Any, home: Path
) -> None:
    trained = len(journal(home, "metrics"))
    client(home).delete_registered_model(NAME)
    done = again()
    assert done.code == 0, done.err
    assert (
        f"but MLflow no longer has models:/{NAME}/1: its winner is judged and registered again"
        in done.err
    )
    assert f"{NAME} v1 has the alias champion" in done.out and champion(home) == 1
    assert len([event for event in journal(home, "metrics")[trained:] if event.get("trial")]) == 0


def test_a_deleted_experiment_is_brought_back_by_the_printed_command(
    again: Any, swept: Any, cache: Path, home: Path
) -> None:
    (named,) = [one for one in client(home).search_experiments() if one.name != "Default"]
    experiment = named.experiment_id
    client(home).delete_experiment(experiment)
    refused = again()
    assert (
        refused.code == 2
        and f"tracking.experiment={named.name} was deleted" in refused.err
        and refused.out == ""
    )
    restored = paste(refused.err.partition("or run: ")[2].strip(), cache, home)
    assert restored.returncode == 0, restored.stderr
    assert not (home / "mlflow.db").exists() and not (home / "mlruns").exists(), (
        "no other store was touched"
    )
    assert client(home).get_experiment(experiment).lifecycle_stage == "active"
    assert again().code == 0


def test_a_store_that_cannot_be_asked_leaves_nothing_said_of_it(
    again: Any, swept: Any, home: Path
) -> None:
    file = home / "my runs" / "mlflow.db"
    kept = file.read_bytes()
    file.write_bytes(b"no database")
    try:
        shown = again()
    finally:
        file.write_bytes(kept)
    assert shown.code == 0 and "has the alias" not in shown.out
    assert (
        "whether MLflow still has it so is not known: tracking.uri=sqlite:"
        in lines(shown.out)["note"]
    )
    assert f"{NAME} v1 has the alias champion" in again().out, "asked again, it is known again"


@pytest.mark.slow
def test_sweeps_are_looked_after_by_the_printed_commands(
    again: Any, swept: Any, cache: Path, home: Path
) -> None:
    running = again("seed=7", "train.steps=4000", "sweep.num_trials=1", start=True)
    program = f"{sys.executable} -m orchestrator.runs"
    name = ""

    def starts() -> bool:
        nonlocal name
        listed = json.loads(paste(f"{program} list --json --storage 'my runs'", cache, home).stdout)
        name = next((found["name"] for found in listed if found["state"] == "running"), "")
        return bool(name) and any(
            event["kind"] == "metrics"
            for event in map(
                json.loads,
                (home / "my runs" / "sweeps" / name / "journal.jsonl").read_text().splitlines(),
            )
        )

    until(starts, 300)
    refused = paste(f"{program} delete {name} --storage 'my runs'", cache, home)
    assert refused.returncode == 2 and "stop it first: " in refused.stderr
    stopped = paste(refused.stderr.partition("stop it first: ")[2].strip(), cache, home)
    assert stopped.returncode == 0 and "is stopped" in stopped.stdout, stopped.stderr
    out, err = running.communicate(timeout=300)
    assert running.returncode == 130, err
    assert "go on" in lines(out), out


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_and_a_finished_one_is_widened_by_the_printed_commands(
    again: Any, swept: Any, cache: Path, home: Path
) -> None:
    known = len(journal(home, "metrics"))
    running = again("seed=8", "train.steps=400", start=True)
    until(lambda: len(journal(home, "metrics")) > known, 300)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=300)
    assert running.returncode == 130, err
    done = paste(lines(out)["go on"], cache, home)
    assert done.returncode == 0 and "2 finished, 0 stopped early, 0 failed of 2" in done.stdout, (
        done.stderr
    )
    more = paste(lines(swept.out)["more"], cache, home)
    assert more.returncode == 0 and "4 finished, 0 stopped early, 0 failed of 4" in more.stdout, (
        more.stderr
    )


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["run", "files"])
def test_what_else_someone_deleted_is_made_again(
    again: Any, swept: Any, cache: Path, home: Path, gone: str
) -> None:
    told = again("output=json").result
    if gone == "run":
        client(home).delete_run(told["best"]["run_id"])
    else:
        shutil.rmtree(home / "my runs" / "artifacts")
    done = again()
    assert (
        done.code == 0
        and ("no longer has the run of trial" if gone == "run" else "the files of") in done.err
    ), done.err
    assert "missing" not in lines(done.out)
    assert paste(lines(done.out)["try"], cache, home).returncode == 0
    assert (
        champion(home) == again("output=json").result["model"]["version"]
        or "has the alias" not in done.out
    )


def with_schema(file: Path, revision: str) -> None:
    """Make the database say that it has another schema."""
    with sqlite3.connect(file) as database:
        database.execute("update alembic_version set version_num = ?", (revision,))


def schema(file: Path) -> str:
    """Which schema the database says that it has."""
    with sqlite3.connect(file) as database:
        return database.execute("select version_num from alembic_version").fetchone()[0]


def test_a_store_of_a_newer_mlflow_is_told_apart_from_one_that_can_be_upgraded(
    template: Path, cache: Path, tmp_path: Path
) -> None:
    from orchestrator.errors import TrackingError
    from orchestrator.tracking.mlflow_store import connect
    from orchestrator.tracking.store_errors import explain

    newer = tmp_path / "newer one.db"
    shutil.copy(template, newer)
    with_schema(newer, "fedcba987654")
    with pytest.raises(
        TrackingError,
        match="made by a newer MLflow than the one here; choose another one, tracking.uri=",
    ) as told:
        connect(f"sqlite:///{newer}", "x", tmp_path)
    assert "upgrade" not in str(told.value)
    older = tmp_path / "older one.db"
    made = "from mlflow.store.db.utils import _get_alembic_config as c; from alembic import command, script; import sys;"
    made += "from mlflow.store.tracking.dbmodels.initial_models import Base; from sqlalchemy import create_engine; u = sys.argv[1];"
    made += (
        "Base.metadata.create_all(create_engine(u)); s = script.ScriptDirectory.from_config(c(u));"
    )
    made += "command.upgrade(c(u), list(s.walk_revisions())[1].revision)"
    subprocess.run(
        [sys.executable, "-c", made, f"sqlite:///{older}"], check=True, capture_output=True
    )
    before, head = schema(older), schema(template)
    assert before != head
    # MLflow 3.17 upgrades such a store by itself; of one that it does not, it says so:
    told_by_mlflow = f"Detected out-of-date database schema (found version {before}, but expected {head}). Take a backup of your database"
    message = explain(f"sqlite:///{older}", told_by_mlflow)
    assert "made by an older MLflow version; run: " in message
    upgraded = paste(message.partition("run: ")[2], cache, Path.cwd())
    assert upgraded.returncode == 0, upgraded.stderr
    assert schema(older) == head
