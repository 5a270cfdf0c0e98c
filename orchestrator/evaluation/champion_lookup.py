"""A glance at a tracking store before anything starts: who holds the champion's alias of a name.
Reads only, creates nothing.

For a dry run, which answers at once: MLflow itself takes seconds to import and makes the tables
where there are none. What cannot be read is not known, and no error: the sweep itself asks MLflow.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Any

from orchestrator.config.settings import Config
from orchestrator.errors import TrackingError
from orchestrator.plan.planner import Plan
from orchestrator.storage.paths import storage_folder
from orchestrator.tracking import store_errors
from orchestrator.tracking.uri import database_file, resolve, sqlite_uri

CHAMPION = "champion"
SECONDS = 3.0
VERSION = "select version from registered_model_aliases where name = {mark} and alias = {mark}"
TAGS = "select key, value from model_version_tags where name = {mark} and version = {mark}"

Found = tuple[str, dict[str, str]]
"""models:/NAME/VERSION and its tags."""


def champion(uri: str, name: str) -> Found | None:
    """The version of model `name` that holds the champion's alias, None where there is none. Raises
    TrackingError when it is not known.
    """
    try:
        resolved = resolve(uri)
        if resolved.startswith("http"):
            return from_server(resolved, name)
        if resolved.startswith("sqlite:"):
            return from_file(resolved, name)
        return from_postgres(resolved, name)
    except TrackingError:
        raise
    except Exception as error:
        raise TrackingError(store_errors.explain(uri, str(error) or repr(error))) from error


def from_file(uri: str, name: str) -> Found | None:
    """See champion: in a SQLite file, which need not be there."""
    file = database_file(uri)
    if not file.exists() or not file.stat().st_size:
        return None
    database = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=SECONDS)
    try:
        return from_tables(database.execute, name, "?")
    finally:
        database.close()


def from_postgres(uri: str, name: str) -> Found | None:
    """See champion: in a PostgreSQL database."""
    import psycopg

    with psycopg.connect(uri.replace("+psycopg", "", 1), connect_timeout=int(SECONDS)) as database:
        return from_tables(database.execute, name, "%s")


def from_tables(execute: Any, name: str, mark: str) -> Found | None:
    """See champion: in MLflow's tables."""
    alias_row = execute(VERSION.format(mark=mark), (name, CHAMPION)).fetchone()
    if alias_row is None:
        return None
    tags = dict(execute(TAGS.format(mark=mark), (name, alias_row[0])).fetchall())
    return f"models:/{name}/{alias_row[0]}", tags


def from_server(uri: str, name: str) -> Found | None:
    """See champion: at an MLflow server, by its REST API."""
    import requests

    user, token = (
        os.environ.get("MLFLOW_TRACKING_USERNAME"),
        os.environ.get("MLFLOW_TRACKING_TOKEN"),
    )
    answer = requests.get(
        f"{uri}/api/2.0/mlflow/registered-models/alias",
        params={"name": name, "alias": CHAMPION},
        headers={"Authorization": f"Bearer {token}"} if token and not user else {},
        auth=(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None,
        timeout=SECONDS,
    )
    if answer.status_code in (400, 404) and "error_code" in answer.text:
        return None
    if problem := store_errors.judge_answer(uri, answer.status_code, answer.text):
        raise TrackingError(problem)
    version = answer.json()["model_version"]
    return f"models:/{name}/{version['version']}", {
        tag["key"]: tag["value"] for tag in version.get("tags", [])
    }


def noted(plan: Plan) -> Plan:
    """The plan, with a note where its model's name is another task's, or where that is not
    known.
    """
    name = plan.config.registered_name
    if plan.config.tracking.same_task:
        return plan
    try:
        alias_holder = champion(store_address(plan.config), name)
    except TrackingError as error:
        return plan.with_notes(
            f"whether {name} is the name of another task is told when the sweep starts: {error}"
        )
    return plan if alias_holder is None else with_stranger(plan, *alias_holder)


def with_stranger(plan: Plan, uri: str, tags: dict[str, str]) -> Plan:
    """The plan, with a note where the champion `uri` with these tags is another task's."""
    stranger = plan.task.stranger(uri, tags)
    return (
        plan if stranger is None else plan.with_notes(f"{plan.config.registered_name}: {stranger}")
    )


def store_address(config: Config) -> str:
    """The tracking store's address: the one that is set, or SQLite under the storage."""
    return config.tracking.uri or sqlite_uri(storage_folder(config.storage) / "mlflow.db")
