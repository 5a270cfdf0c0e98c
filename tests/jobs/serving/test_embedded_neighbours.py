"""Neighbours by an embedding model: the nearest in its vectors, and a version that carries all that
it needs to be asked as it was judged.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.config import BaseModel, Trial
from jobs.data import embeddings, hub_data
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import load_corpus
from jobs.data.embeddings import open_model
from jobs.data.nearest_rows import answer_of
from jobs.data.neighbour_prompt import question_of
from jobs.data.neighbours import nearest_rows
from jobs.data.task_prompt import encode_asked_row, from_prompt
from jobs.data.version_rows import copy_rows, rows_of_version
from jobs.evaluation.evaluate import evaluate_on_test
from jobs.evaluation.scores import EvaluationSettings
from jobs.export.model_folder import export
from jobs.serving.predict import predict
from orchestrator.tracking.serving_files import add_serving_files
from tests.support.embedding import save_embedding
from tests.support.neighbours import many_answers, with_neighbours
from tests.support.plain import make

RULE = EvaluationSettings(0.95, 3, 1)
COUNT = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embedded")


@pytest.fixture(scope="module", autouse=True)
def own_cache(folder: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCHESTRATOR_CACHE", str(folder / "cache"))
        yield


@pytest.fixture(scope="module")
def model(base: BaseModel, folder: Path) -> Path:
    return save_embedding(base, folder / "letters")


@pytest.fixture(scope="module")
def trial(folder: Path, model: Path) -> Trial:
    plain = make(many_answers(folder / "rows") / "train.jsonl", max_length=256)
    return with_neighbours(plain, COUNT, embedding=str(model))


@pytest.fixture(scope="module")
def version(trial: Trial, base: BaseModel, folder: Path) -> Path:
    scores = evaluate_on_test(trial, base, None, RULE)
    export(trial, base, Path(base.path), scores, folder / "version")
    add_serving_files(folder / "version")
    return folder / "version"


def task_of(version: Path) -> dict[str, Any]:
    return json.loads((version / "task.json").read_text(encoding="utf-8"))


def copied(version: Path, target: Path) -> Path:
    return Path(shutil.copytree(version, target))


def question(row: Any) -> str:
    return question_of(row.context, row.instruction)


def test_shown_are_the_nearest_of_other_answers_by_the_models_own_cosines(
    trial: Trial, model: Path
) -> None:
    corpus = load_corpus(trial.data)
    nearest = nearest_rows(corpus, str(model))
    encode = open_model(str(model)).encode
    vectors = encode([question(row) for row in nearest.shown])
    for place, row in enumerate(corpus.test):
        cosines = np.round(vectors @ encode([question(row)])[0], 5)
        order = sorted(range(len(cosines)), key=lambda n: (-cosines[n], n))
        expected = list(dict.fromkeys(answer_of(nearest.shown[n]) for n in order))[:COUNT]
        assert [one.answer for one in nearest.neighbours("test", place, COUNT)] == expected


def test_a_version_carries_vectors_and_model_and_is_asked_as_it_was_judged(
    trial: Trial, base: BaseModel, version: Path, model: Path, tmp_path: Path
) -> None:
    elsewhere = copied(version, tmp_path / "elsewhere")
    hidden = model.rename(model.with_name("away"))
    try:
        task, template = task_of(elsewhere), ChatTokenizer(base.path)
        carried = rows_of_version(elsewhere, task)
        lines = (elsewhere / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        told = [json.loads(line) for line in lines]
        assert carried is not None
        for row, line in zip(load_corpus(trial.data).test, told, strict=True):
            shown = carried.shown(from_prompt(question(row), task))
            assert encode_asked_row(shown, task, template).ids == template.encode(line["text"])
        first = load_corpus(trial.data).test[0]
        assert predict(base, elsewhere, question(first)) == told[0]["prediction"]
    finally:
        hidden.rename(model)


def test_an_export_carries_them_too_and_the_version_names_the_library(
    version: Path, tmp_path: Path
) -> None:
    copy_rows(version, tmp_path)
    assert rows_of_version(tmp_path, task_of(version)) is not None
    requirements = (version / "requirements.txt").read_text(encoding="utf-8")
    assert "sentence-transformers==" in requirements
    assert not [f for f in version.rglob("*") if f.suffix in (".pkl", ".bin", ".npz", ".npy")]


@pytest.mark.parametrize(
    "damage",
    [
        "neighbours.safetensors",
        "embedding/model.safetensors",
        "embedding/modules.json",
        "neighbours.jsonl",
    ],
)
def test_damage_is_told_with_the_file_and_the_remedy(
    version: Path, tmp_path: Path, damage: str
) -> None:
    broken = copied(version, tmp_path / "broken")
    file = broken / damage
    assert file.exists(), sorted(str(f) for f in (broken / "embedding").rglob("*"))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="fetch the version again") as told:
        rows_of_version(broken, task_of(broken))
    assert damage.partition("/")[0] in str(told.value)


def test_hidden_files_and_other_forms_of_the_weights_make_no_other_model(
    model: Path, tmp_path: Path
) -> None:
    cloned = Path(shutil.copytree(model, tmp_path / "cloned"))
    (cloned / ".gitattributes").write_text("*", encoding="utf-8")
    (cloned / "onnx").mkdir()
    (cloned / "onnx" / "model.onnx").write_text("", encoding="utf-8")
    assert open_model(str(cloned)).digest == open_model(str(model)).digest
    (cloned / "modules.json").write_text("[]", encoding="utf-8")
    assert open_model(str(cloned)).digest != open_model(str(model)).digest


def test_a_version_says_at_once_that_its_library_is_missing(
    version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "LIBRARY", "no_such_library")
    with pytest.raises(ValueError, match="needs the package sentence-transformers.*pip install"):
        rows_of_version(version, task_of(version))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "is no folder"),
        ({}, "neither modules.json nor config.json"),
        ({"config.json": "{}"}, "no weights as safetensors"),
        ({"config.json": "{}", "model.safetensors": "x"}, "cannot be loaded"),
    ],
)
def test_a_folder_that_is_no_embedding_model_is_refused_by_name(
    tmp_path: Path, content: dict[str, str] | None, reason: str
) -> None:
    folder = tmp_path / "given"
    if content is not None:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=reason) as told:
        open_model(str(folder)).encode(["a"])
    assert str(folder) in str(told.value) and "data.neighbours.embedding" in str(told.value)


def test_a_model_of_the_hub_is_taken_at_the_commit_that_was_first_asked_for(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--letters"
    shutil.copytree(model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    opened = open_model("hf://someone/letters")
    assert opened.folder == repository / "snapshots" / commit
    assert opened.digest == open_model(str(model)).digest
    assert opened.encode(["a"]).shape == open_model(str(model)).encode(["a"]).shape
    (repository / "refs" / "main").write_text("f" * 40, encoding="utf-8")
    assert open_model("hf://someone/letters").folder == opened.folder
    with pytest.raises(ValueError, match="could not be fetched.*--repo-type model"):
        open_model("hf://someone/other")
    with pytest.raises(ValueError, match="names a part of a model"):
        open_model("hf://someone/letters/onnx")
    assert hub_data.SCHEME == "hf://" and os.environ["HF_HUB_OFFLINE"] == "1"
