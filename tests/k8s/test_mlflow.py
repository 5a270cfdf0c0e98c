"""The scripts and commands of k8s/mlflow, run on a real PostgreSQL as the manifests write them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from tests.support.manifests import build, named
from tests.support.policy import Manifest, containers, pods

FOUND = [
    *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin"))),
    os.path.dirname(shutil.which("initdb") or ""),
]
PROGRAMS = next(filter(None, FOUND), "")
needs_postgres = pytest.mark.skipif(
    not PROGRAMS, reason="PostgreSQL is not installed (apt-get install postgresql)"
)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment in which PostgreSQL's programs find an empty database `mlflow`."""
    folder, user = tmp_path_factory.mktemp("database"), "postgres" if os.geteuid() == 0 else None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    if user is not None:  # PostgreSQL refuses to run as root
        for parent in (folder, *folder.parents[:-2]):
            parent.chmod(0o755)
        shutil.chown(folder, user)
    (folder / "password").write_text("secret")
    (folder / "password").chmod(0o644)
    variables = {
        "PGHOST": "127.0.0.1",
        "PGPORT": port,
        "PGUSER": "mlflow",
        "PGDATABASE": "mlflow",
        "PGPASSWORD": "secret",
    }
    environment = {**os.environ, **variables, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"}

    def run(*command: str, user: str | None = user) -> None:
        subprocess.run(
            [f"{PROGRAMS}/{command[0]}", *command[1:]],
            user=user,
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            env=environment,
        )

    arguments = setting(server_of("postgres"), "POSTGRES_INITDB_ARGS").split()
    run("initdb", "-D", f"{folder}/data", "-U", "mlflow", *arguments, f"--pwfile={folder}/password")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    run("pg_ctl", "-D", f"{folder}/data", "-w", "-l", f"{folder}/log", "-o", options, "start")
    run("createdb", "mlflow", user=None)
    yield environment
    run("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")


def server_of(name: str) -> Manifest:
    """The container of a Deployment or StatefulSet."""
    objects = build("mlflow")
    return (named(objects, "Deployment") | named(objects, "StatefulSet"))[name]["spec"]["template"][
        "spec"
    ]["containers"][0]


def job_of(name: str) -> Manifest:
    """The container of a CronJob."""
    return named(build("mlflow"), "CronJob")[name]["spec"]["jobTemplate"]["spec"]["template"][
        "spec"
    ]["containers"][0]


def setting(container: Manifest, name: str) -> str:
    return next(item["value"] for item in container["env"] if item["name"] == name)


def script(
    name: str, database: dict[str, str], **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the script of a CronJob; what its manifest sets and `variables` does not change stays as
    it is there.
    """
    container = job_of(name)
    given = {
        item["name"]: item["value"]
        for item in container["env"]
        if "value" in item and not item["name"].startswith("PG")
    }
    environment = {**database, **given, **variables}
    return subprocess.run(
        [*container["command"], *container["args"]], env=environment, capture_output=True, text=True
    )


def sql(database: dict[str, str], statement: str) -> str:
    return subprocess.run(
        ["psql", "-Atqc", statement], env=database, capture_output=True, text=True, check=True
    ).stdout.strip()


@needs_postgres
def test_backups_are_kept_in_number_and_restored_whole(
    database: dict[str, str], tmp_path: Path
) -> None:
    sql(database, "create table runs (name text primary key); insert into runs values ('a'), ('b')")
    names: list[str] = []
    for _ in range(4):
        done = script("mlflow-backup", database, FOLDER=str(tmp_path), KEEP="2")
        assert done.returncode == 0, done.stderr
        names += [file.name for file in tmp_path.iterdir() if file.name not in names]
        time.sleep(1.1)  # names carry seconds
    assert len(names) == 4 and sorted(file.name for file in tmp_path.iterdir()) == sorted(names)[2:]

    sql(database, "delete from runs; alter table runs add column spoiled int")
    done = script("mlflow-restore", database, FOLDER=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (
        f"restoring {max(names)}" in done.stdout
        and sql(database, "select * from runs order by name") == "a\nb"
    )


@needs_postgres
def test_a_failed_backup_or_restore_changes_nothing(
    database: dict[str, str], tmp_path: Path
) -> None:
    assert (
        script(
            "mlflow-backup", {**database, "PGPASSWORD": "wrong"}, FOLDER=str(tmp_path)
        ).returncode
        != 0
    )
    assert not list(tmp_path.glob("*.dump"))
    sql(
        database,
        "create table if not exists kept (name text); truncate kept; insert into kept values ('x')",
    )
    assert script("mlflow-restore", database, FOLDER=str(tmp_path)).returncode != 0
    assert script("mlflow-backup", database, FOLDER=str(tmp_path)).returncode == 0
    dump = next(tmp_path.glob("*.dump"))
    dump.write_bytes(dump.read_bytes()[:-200])
    assert script("mlflow-restore", database, FOLDER=str(tmp_path), FILE=dump.name).returncode != 0
    assert sql(database, "select name from kept") == "x"


DATABASE = "postgresql+psycopg://mlflow:canary4711@postgres:5432/mlflow"


def words_of(container: Any, folder: Path) -> list[str]:
    """What a container gives to MLflow's command line in its own process."""
    line = [*container["command"], *container.get("args", [])]
    if line[0] == "mlflow":
        return line[1:]
    assert line[:2] == ["python", "-c"] and "$(" not in " ".join(line)
    (folder / "mlflow").mkdir(exist_ok=True)
    (folder / "mlflow" / "__init__.py").touch()
    (folder / "mlflow" / "cli.py").write_text("import json\ndef cli(w): print(json.dumps(w))\n")
    surroundings = {"PYTHONPATH": str(folder), "MLFLOW_BACKEND_STORE_URI": DATABASE}
    done = subprocess.run(
        [sys.executable, *line[1:]], env=surroundings, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_mlflow_reads_every_option_that_the_manifests_give(tmp_path: Path) -> None:
    from mlflow.cli import cli

    server, gc = server_of("mlflow"), job_of("mlflow-gc")
    migrate = named(build("mlflow"), "Deployment")["mlflow"]["spec"]["template"]["spec"][
        "initContainers"
    ][0]
    for container in (server, gc, migrate):
        found, rest = cli, words_of(container, tmp_path)
        while isinstance(found, click.Group):
            found, rest = found.commands[rest[0]], rest[1:]
        found.make_context("mlflow", list(rest))
        with pytest.raises(click.UsageError):
            found.make_context("mlflow", [*rest, "--no-such-option"])
    # gc takes the database from no variable, and deletes files through the server.
    assert f"--backend-store-uri={DATABASE}" in words_of(gc, tmp_path)
    assert words_of(migrate, tmp_path)[-1] == DATABASE
    assert setting(gc, "MLFLOW_TRACKING_URI") == "http://mlflow:5000"


def test_no_process_shows_a_secret_in_its_arguments() -> None:
    looked_at = 0
    for manifest in build("mlflow"):
        for container in (each for _, spec, _ in pods(manifest) for each in containers(spec)):
            line = json.dumps([container.get("command"), container.get("args")])
            for entry in container.get("env", []):
                if "secretKeyRef" in entry.get("valueFrom", {}):
                    assert f"$({entry['name']})" not in line
                    looked_at += 1
    assert looked_at > 3
