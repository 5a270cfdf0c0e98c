"""Registered models: versions, the champion's alias, and what a models:/ address means.

Works on a client that `tracking` opened and imports no mlflow itself. Whether a candidate may
become champion is decided in `registry`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from orchestrator.config import credentials
from orchestrator.errors import InputError, TrackingError
from orchestrator.tracking import store_errors
from orchestrator.tracking.events import Refused

LARGEST_VERSION = 2**31 - 1
"""No database takes a larger number."""
CHAMPION = "champion"
PREVIOUS = "previous"
"""The version that was champion before."""
# Codes by which MLflow says that a request makes no sense. Others (UNAUTHENTICATED,
# TEMPORARILY_UNAVAILABLE, a proxy's 404) can pass.
ABSENT = "RESOURCE_DOES_NOT_EXIST"
EXISTS = "RESOURCE_ALREADY_EXISTS"
INVALID = "INVALID_PARAMETER_VALUE"


@contextmanager
def explained(uri: str, refusal: type[Exception] = TrackingError) -> Iterator[None]:
    """Turn whatever MLflow raises into one line: `refusal` when it never will, TrackingError when
    that may pass.
    """
    try:
        yield
    except (TrackingError, InputError, Refused):
        raise
    except Exception as error:
        if code_of(error) in (ABSENT, EXISTS, INVALID):
            raise refusal(credentials.mask(str(error))) from error
        raise TrackingError(store_errors.explain(uri, str(error) or repr(error))) from error


def code_of(error: Exception) -> str:
    """The code that an MlflowException carries, "" for any other exception."""
    return getattr(error, "error_code", "")


@dataclass(frozen=True)
class Version:
    """A registered model's version."""

    name: str
    version: int
    uri: str
    """models:/NAME/VERSION"""
    run_id: str | None = None
    tags: dict[str, str] = field(default_factory=dict)


class Models:
    """The registered models of one store. Methods raise TrackingError when the store does not
    answer or will not.
    """

    def __init__(self, client: Any, uri: str) -> None:
        """`client` is an mlflow.MlflowClient for `uri`."""
        self._client = client
        self._address = uri

    def register(
        self, name: str, run_id: str, artifact_path: str, tags: dict[str, str], description: str
    ) -> Version:
        """The version of model `name` that is made of a run's artifacts. Made before, it takes the
        new tags.
        """
        with explained(self._address):
            source = f"{self._client.get_run(run_id).info.artifact_uri}/{artifact_path}"
            try:
                self._client.create_registered_model(name)
            except Exception as error:
                if code_of(error) != EXISTS:
                    raise
            for existing in self._versions(name):
                if existing.run_id == run_id and (existing.source or "").rstrip("/") == source:
                    for key, value in tags.items():
                        self._client.set_model_version_tag(name, existing.version, key, value)
                    return _version(existing)
            return _version(
                self._client.create_model_version(
                    name, source, run_id, tags=tags, description=description
                )
            )

    def version(self, name: str, version_number: int) -> Version | None:
        """A version of model `name`, None when there is none."""
        if version_number > LARGEST_VERSION:
            return None
        with explained(self._address):
            try:
                return _version(self._client.get_model_version(name, str(version_number)))
            except Exception as error:
                if code_of(error) in (ABSENT, INVALID):
                    return None
                raise

    def champion(self, name: str) -> Version | None:
        """The version that carries the champion's alias, None when there is none."""
        with explained(self._address):
            aliased = self._aliased(name, CHAMPION)
            return None if aliased is None else _version(aliased)

    def aliased(self, name: str, alias: str) -> Version | None:
        """The version that carries an alias, None when there is none."""
        with explained(self._address):
            found = self._aliased(name, alias)
            return None if found is None else _version(found)

    def set_champion(self, name: str, version: int) -> None:
        """Move the alias to this version. The one that had it carries the alias `previous` from
        then on.
        """
        with explained(self._address):
            before = self._aliased(name, CHAMPION)
            if before is not None and int(before.version) != version:
                self._client.set_registered_model_alias(name, PREVIOUS, before.version)
            self._client.set_registered_model_alias(name, CHAMPION, str(version))

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Move another alias than the champion's to this version."""
        with explained(self._address):
            self._client.set_registered_model_alias(name, alias, str(version))

    def drop_alias(self, name: str, alias: str) -> None:
        """Take an alias away from whoever has it."""
        with explained(self._address):
            self._client.delete_registered_model_alias(name, alias)

    def describe(self, name: str, version: int, text: str, tags: dict[str, str]) -> None:
        """Give a version its description, in Markdown, and further tags."""
        with explained(self._address):
            self._client.update_model_version(name, str(version), text)
            self.mark(name, version, tags)

    def description(self, name: str, version: int) -> str:
        """A version's description, empty where it has none."""
        with explained(self._address):
            return self._client.get_model_version(name, str(version)).description or ""

    def add_metrics(self, run_id: str, metrics: dict[str, float]) -> None:
        """Add metrics to a run, ended or not."""
        with explained(self._address):
            for key, value in metrics.items():
                self._client.log_metric(run_id, key, value)

    def mark(self, name: str, version: int, tags: dict[str, str]) -> None:
        """Give a version further tags."""
        with explained(self._address):
            for key, value in tags.items():
                self._client.set_model_version_tag(name, str(version), key, value)

    def inventory(self, name: str) -> str:
        """Which versions and aliases there are of a model, in words."""
        with explained(self._address):
            return self._inventory(name)

    def find_version(self, name: str, tag_key: str, tag_value: str) -> Version | None:
        """The newest version of model `name` with this tag, None when there is none."""
        with explained(self._address):
            return next(
                (
                    _version(candidate)
                    for candidate in self._versions(name)
                    if candidate.tags.get(tag_key) == tag_value
                ),
                None,
            )

    def _versions(self, name: str) -> list[Any]:
        """All versions, newest first."""
        versions = []
        page = None
        while page is None or page:
            batch = self._client.search_model_versions(f"name = '{name}'", page_token=page)
            versions = versions + list(batch)
            page = batch.token or ""
        return sorted(versions, key=lambda entry: -int(entry.version))

    def _aliased(self, name: str, alias: str) -> Any:
        try:
            return self._client.get_model_version_by_alias(name, alias)
        except Exception as error:
            # An unknown model is ABSENT, an unknown alias of a known model INVALID.
            if code_of(error) in (ABSENT, INVALID):
                return None
            raise

    def _source(self, model_uri: str) -> str:
        """Where the files of a models:/ address lie; any other address is its own source. Raises
        InputError naming what there is.
        """
        if not model_uri.startswith("models:"):
            return model_uri
        match = re.fullmatch(r"models:/([^/@]+)(?:@([^/]+)|/(\d+))", model_uri)
        if match is None:
            raise InputError(
                f"{model_uri} is no model; write models:/NAME@{CHAMPION} or models:/NAME/3"
            )
        name, alias, version_number = match.groups()
        if alias is not None:
            registered = self._aliased(name, alias)
        else:
            registered = next(
                (
                    entry
                    for entry in self._versions(name)
                    if int(entry.version) == int(version_number)
                ),
                None,
            )
        if registered is None:
            raise InputError(f"{model_uri}: {self._inventory(name)}")
        return self._client.get_model_version_download_uri(name, registered.version)

    def _inventory(self, name: str) -> str:
        versions = sorted(int(entry.version) for entry in self._versions(name))
        if not versions:
            names = sorted(
                model.name for model in self._client.search_registered_models(max_results=100)
            )
            return f"there is no model {name}; registered are: {', '.join(names) or 'none'}"
        aliases = sorted(self._client.get_registered_model(name).aliases)
        return (
            f"no such version; {name} has versions {', '.join(map(str, versions))} and aliases "
            f"{', '.join(aliases) or 'none'}"
        )


def _version(entry: Any) -> Version:
    version_number = int(entry.version)
    return Version(
        entry.name,
        version_number,
        f"models:/{entry.name}/{version_number}",
        entry.run_id,
        dict(entry.tags),
    )
