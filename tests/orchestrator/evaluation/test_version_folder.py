"""What counts as a version of ours, and as a damaged one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.files import manifest
from orchestrator.errors import InputError
from orchestrator.evaluation.version_folder import check_version

URI = "models:/icd10-tiny/1"


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A sealed version."""
    named = dict.fromkeys(("name", "source", "id", "revision", "path"), "x")
    task = {"instruction": "", "max_new_tokens": 3, "max_length": 9}
    (tmp_path / "base.json").write_text(json.dumps(named))
    (tmp_path / "task.json").write_text(json.dumps(task))
    manifest.seal(tmp_path)
    return tmp_path


def test_what_mlflow_adds_to_a_folder_that_it_hands_out_is_no_damage(version: Path) -> None:
    (version / "registered_model_meta").write_text("model_name: icd10-tiny")
    check_version(URI, version)


def test_any_other_file_and_any_changed_one_is_damage(version: Path) -> None:
    (version / "more").write_text("x")
    with pytest.raises(InputError, match="more is not in its SHA256SUMS"):
        check_version(URI, version)
    (version / "more").unlink()
    (version / "base.json").write_text((version / "base.json").read_text() + " ")
    with pytest.raises(InputError, match=r"base.json does not match its checksum"):
        check_version(URI, version)


def test_a_version_that_has_lost_its_checksums_is_damaged_and_one_of_before_has_none(
    version: Path,
) -> None:
    (version / manifest.NAME).unlink()
    check_version(URI, version)
    task = json.loads((version / "task.json").read_text())
    (version / "task.json").write_text(json.dumps(task | {"sealed": True}))
    with pytest.raises(
        InputError, match=r"is damaged \(its SHA256SUMS cannot be read: no such file"
    ):
        check_version(URI, version)


def test_a_folder_of_something_else_is_told_as_that(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no base.json .* not a version that this project"):
        check_version(URI, tmp_path)
