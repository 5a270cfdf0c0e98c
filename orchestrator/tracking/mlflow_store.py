"""The MLflow store: runs, metrics, data sets, artifacts, model versions and the champion's alias.

The only file that imports mlflow, and only when `connect` is called: the import takes two seconds.
What is sent and when is left to `outbox`, what an address may be to `address`, what needs only a
client to `models`, whether a candidate wins to `registry`.
"""

from __future__ import annotations

import getpass
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.files.json_types import JsonObject
from orchestrator.config import credentials
from orchestrator.errors import ExperimentDeleted, InputError, TrackingError
from orchestrator.tracking import database_setup, shown_commands, store_errors
from orchestrator.tracking.events import Refused, RunUpdate
from orchestrator.tracking.model_versions import ABSENT, EXISTS, INVALID, Models, code_of, explained
from orchestrator.tracking.uri import resolve

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
from orchestrator.tracking.datasets import inputs, plain

UPLOAD_SECONDS = 600
SHORTEST_CUT = 250  # characters that old servers keep of a param; today's keep 6,000
ENVIRONMENT = {
    # One try: MLflow's own seven block for minutes, and repeat a create_run that may have been
    # carried out. `outbox` repeats.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def connect(uri: str, experiment: str | None, artifact_root: Path | None) -> MlflowStore:
    """Open the store at `uri`, creating a database's tables and the experiment where they are
    missing.

    Raises TrackingError after at most about five seconds when nothing usable is there. Without an
    experiment no run can be written: for those who only want models.
    `artifact_root` is where a database's experiment keeps its files (a server decides for itself).
    """
    resolved = resolve(uri)
    _prepare_process()
    from mlflow import MlflowClient

    with database_setup.reserved(resolved), explained(resolved):
        if resolved.startswith("http"):
            _probe(resolved)
        database_setup.create(
            resolved, lambda fresh: MlflowClient(fresh, fresh).search_experiments(max_results=1)
        )
        client = MlflowClient(resolved, resolved)
        experiment_id = ""
        if experiment is not None:
            experiment_id = _experiment_id(client, resolved, experiment, artifact_root)
        if resolved.startswith("sqlite:") and "%" in resolved:
            client.search_registered_models(
                max_results=1
            )  # the registry's side, which makes folders of its own when it is first used
            database_setup.tidy(resolved)
        return MlflowStore(client, resolved, experiment or "", experiment_id)


def _prepare_process() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401  # its import sets the levels of its loggers, so it comes first

    # Errors reach the user through exceptions; mlflow and alembic would print them, and their
    # chatter, between the lines of the plan.
    for name in (
        "mlflow",
        "mlflow.store",
        "mlflow.store.db",
        "mlflow.store.db.utils",
        "alembic",
        "urllib3.connectionpool",
    ):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _probe(uri: str) -> None:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    answer: Any = http_request(
        get_default_host_creds(uri),
        "/api/2.0/mlflow/experiments/search",
        "GET",
        params={"max_results": 1},
        max_retries=0,
        timeout=database_setup.ANSWER_SECONDS,
        raise_on_status=False,
    )
    problem = store_errors.judge_answer(uri, answer.status_code, answer.text)
    if problem is not None:
        raise TrackingError(problem)


def _experiment_id(client: MlflowClient, uri: str, name: str, artifact_root: Path | None) -> str:
    existing = client.get_experiment_by_name(name)
    if existing is None:
        # A database's default is a folder under the current directory, which is elsewhere at the
        # next start.
        local = (
            None
            if uri.startswith("http") or artifact_root is None
            else artifact_root.absolute().as_uri()
        )
        try:
            return client.create_experiment(name, artifact_location=local)
        except Exception as error:
            existing = client.get_experiment_by_name(name)
            if code_of(error) != EXISTS or existing is None:
                raise
    if existing.lifecycle_stage != "active":
        remedy = shown_commands.mlflow(uri, "experiments", "restore", "-x", existing.experiment_id)
        raise ExperimentDeleted(
            f"tracking.experiment={name} was deleted; choose another name, or run: {remedy}"
        )
    return existing.experiment_id


@contextmanager
def _slow_answers() -> Iterator[None]:
    """Give a server time to pass a large file on to its object store: it answers only then. MLflow
    reads the limit at each request.
    """
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    usual = os.environ[name]
    os.environ[name] = str(max(int(usual), UPLOAD_SECONDS))
    try:
        yield
    finally:
        os.environ[name] = usual


class MlflowStore(Models):
    """One experiment in one MLflow store, and its registered models. Safe to use from several
    threads.

    `write` and `open_run` raise Refused for what MLflow will never take; all methods raise
    TrackingError for what may pass.
    """

    def __init__(self, client: MlflowClient, uri: str, experiment: str, experiment_id: str) -> None:
        super().__init__(client, uri)
        self._experiment_id = experiment_id
        self.uri = credentials.mask(uri)
        """For printing: without its password."""
        self.target = f"{shown_commands.bare(uri)} {experiment}"
        self._opened: dict[str, dict[str, str]] = {}
        """Of each journal: run ids by trial. Found in one search, because MLflow's search takes
        longer the more runs there are.
        """
        self._empty: set[str] = set()
        """Runs that were created here and hold nothing yet: there is nothing to compare with, and
        they are running already.
        """

    def run_url(self, run_id: str) -> str:
        """Where a person looks at a run: its page on a server, the command that serves a
        database.
        """
        if self._address.startswith("http"):
            return f"{self.uri}/#/experiments/{self._experiment_id}/runs/{run_id}"
        return shown_commands.ui(self._address)

    def answers(self, written: str | None = None) -> bool:
        """Whether the store works and the experiment takes runs, and a run takes a tag."""
        try:
            if written is not None:
                self._client.set_tag(written, "orchestrator.storage.writable", "yes")
            return self._client.get_experiment(self._experiment_id).lifecycle_stage == "active"
        except Exception:  # noqa: BLE001  # the answer to the question, whatever the reason
            return False

    def has_run(self, run_id: str) -> bool:
        """Whether this run exists here and is not deleted."""
        with explained(self._address):
            try:
                active = self._client.get_run(run_id).info.lifecycle_stage == "active"
            except Exception as error:
                if code_of(error) not in (ABSENT, INVALID):
                    raise
                active = False
            if not active:
                self._opened.clear()  # others may be gone too
            return active

    def open_run(self, name: str, tags: dict[str, str], started: int) -> str:
        """Id of the oldest run with these orchestrator.* tags, created where there is none."""
        journal = tags["orchestrator.storage.journal"]
        trial = tags["orchestrator.trial"]
        with explained(self._address, Refused):
            if journal not in self._opened:
                shared = {
                    key: tags[key]
                    for key in ("orchestrator.sweep.runner", "orchestrator.storage.journal")
                }
                newest_first = reversed(self._runs(shared))
                self._opened[journal] = {
                    run.data.tags.get("orchestrator.trial", ""): run.info.run_id
                    for run in newest_first
                }
            opened = self._opened[journal]
            if trial not in opened:
                del self._opened[
                    journal
                ]  # where creating fails the run may be there all the same: then look again
                opened[trial] = self._client.create_run(
                    self._experiment_id, started, tags | {"mlflow.user": _user()}, name
                ).info.run_id
                self._opened[journal] = opened
                self._empty.add(opened[trial])
            return opened[trial]

    def drop_strays(self, tags: dict[str, str], keep: set[str]) -> None:
        """Delete the runs with `tags` that are not in `keep`."""
        with explained(self._address):
            for run in self._runs(tags):
                if run.info.run_id not in keep:
                    self._client.delete_run(run.info.run_id)

    def _runs(self, tags: dict[str, str]) -> list[Run]:
        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        runs = []
        page = None
        while page is None or page:
            batch = self._client.search_runs(
                [self._experiment_id],
                condition,
                order_by=["attributes.start_time ASC"],
                page_token=page,
            )
            runs = runs + list(batch)
            page = batch.token or ""
        return runs

    def write(self, run_id: str, update: RunUpdate) -> None:
        """Tell a run everything in `update`. Repeating it changes nothing."""
        from mlflow.entities import Metric, Param, RunTag

        with explained(self._address, Refused):
            params = dict(update.params)
            tags = dict(update.tags)
            empty = run_id in self._empty
            self._empty.discard(run_id)
            if update.params and not empty:
                params, tags = self._compared(run_id, params, tags)
            self._client.log_batch(
                run_id,
                metrics=[
                    Metric(key, value, moment, step) for key, value, moment, step in update.metrics
                ],
                params=[Param(key, plain(value)) for key, value in params.items()],
                tags=[RunTag(key, value) for key, value in tags.items()],
            )
            if update.datasets:
                self._client.log_inputs(run_id, datasets=inputs(update.datasets))
            if update.ended is not None:
                self._client.set_terminated(run_id, update.status, update.ended)
            elif update.status is not None and not (empty and update.status == "RUNNING"):
                self._client.update_run(run_id, update.status)
            for name, text in update.files.items():
                self._client.log_text(run_id, text, name)

    def told(self, run_id: str, keys: set[str]) -> dict[str, dict[int, list[str]]]:
        """What a run holds of these metrics: step -> its values, as Python writes them."""
        values_by_step: dict[str, dict[int, list[str]]] = {}
        with explained(self._address):
            held = self._client.get_run(run_id).data.metrics if keys else {}
            for key in keys & held.keys():
                steps = values_by_step.setdefault(key, {})
                for point in self._client.get_metric_history(run_id, key):
                    steps.setdefault(point.step, []).append(repr(point.value))
        return values_by_step

    def _compared(
        self, run_id: str, params: JsonObject, tags: dict[str, str]
    ) -> tuple[JsonObject, dict[str, str]]:
        """The params and tags that the run still lacks.

        A param cannot be changed, but a resumed sweep may be wider (more steps): the new value
        becomes the tag "changed.NAME". A failure that the run has left behind is blanked.
        """
        data = self._client.get_run(run_id).data
        new = {key: value for key, value in params.items() if key not in data.params}
        changed = {
            key: value
            for key, value in params.items()
            if key not in new and not same(plain(value), data.params[key])
        }
        blank = {"failure": ""} if data.tags.get("failure") else {}
        return new, blank | tags | {
            f"changed.{key}": plain(value) for key, value in changed.items()
        }

    def log_artifacts(self, run_id: str, folder: Path, path: str) -> None:
        """Upload a folder's content under `path` of a run's artifacts. Three attempts: a model took
        hours to make.
        """
        for pause in (1, 5, None):
            try:
                with explained(self._address), _slow_answers():
                    return self._client.log_artifacts(run_id, str(folder), path)
            except TrackingError:
                if pause is None:
                    raise
                time.sleep(pause)

    def download(self, model_uri: str, folder: Path) -> Path:
        """Fetch models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID/PATH into `folder`; the path
        of what was fetched.

        Raises InputError, with what there is, when there is no such thing.
        """
        from mlflow.artifacts import download_artifacts

        with explained(self._address):
            source = self._source(model_uri)
            if not self._exists(source):
                remedy = (
                    "a storage that was moved answers by the version's folder: "
                    "model_uri=STORAGE/sweeps/NAME/export"
                )
                raise InputError(
                    f"{model_uri}: there are no files at {credentials.mask(source)}; {remedy}"
                )
            return Path(
                download_artifacts(
                    source,
                    dst_path=str(folder),
                    tracking_uri=self._address,
                    registry_uri=self._address,
                )
            )

    def read_file(self, model_uri: str, name: str) -> str | None:
        """The text of one file of models:/NAME/VERSION, None where it has no such file."""
        from mlflow.artifacts import download_artifacts

        with explained(self._address), tempfile.TemporaryDirectory(prefix="file-") as scratch:
            source = self._source(model_uri)
            if not any(Path(info.path).name == name for info in self._files(source)):
                return None
            path = download_artifacts(
                f"{source.rstrip('/')}/{name}",
                dst_path=scratch,
                tracking_uri=self._address,
                registry_uri=self._address,
            )
            return Path(path).read_text(encoding="utf-8")

    def holds(self, model_uri: str) -> bool:
        """Whether the files of models:/NAME/VERSION are there."""
        with explained(self._address):
            return self._exists(self._source(model_uri))

    def _exists(self, source: str) -> bool:
        return bool(self._files(source))

    def _files(self, source: str) -> list[Any]:
        """What lies directly in a folder of artifacts; nothing where it is gone."""
        from mlflow.artifacts import list_artifacts

        try:
            return list(list_artifacts(artifact_uri=source, tracking_uri=self._address))
        except Exception as error:
            if code_of(error) in (ABSENT, INVALID):
                return []
            raise


def same(value: str, stored: str) -> bool:
    """Whether a param holds `value`. MLflow cuts long ones, so of those only the part that it kept
    can be compared.
    """
    return value == stored or (len(stored) >= SHORTEST_CUT and value.startswith(stored))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # containers often run as a number that has no name
        return "unknown"
