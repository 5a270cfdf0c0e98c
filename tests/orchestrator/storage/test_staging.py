"""What of the data is copied for a cluster: files, folders and what fits a pattern; the copy gives the
same rows.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from jobs.config import Data, Source
from jobs.data.corpus import load_corpus
from orchestrator.config.compose import compose
from orchestrator.config.settings import Config
from orchestrator.storage.staging import notes, stage_data, unsent_folders
from tests.support.settings import build


def config_of(tmp_path: Path, *settings: str) -> Config:
    overrides = ["model=tiny", "data=files", f"storage={tmp_path / 'storage'}", *settings]
    return build(compose(overrides, None))


def test_what_fits_a_pattern_is_copied_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    (folder / "deep").mkdir(parents=True)
    for name in ("part-1", "part-2", "deep/part-3", "other"):
        rows = [{"question": f"{name} {i}", "answer": str(i % 3)} for i in range(20)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    config = config_of(tmp_path, f"data.folder={folder}/**/part-*.jsonl")
    staged = stage_data(config)
    assert staged.data.folder is not None
    assert staged.data.folder.startswith(str(tmp_path / "storage" / "data"))
    before, after = load_corpus(config.data), load_corpus(staged.data)
    assert before.fingerprint == after.fingerprint and len(before.sources["train"]) == 48
    copied = {path.name for path in (tmp_path / "storage").rglob("*.jsonl")}
    assert copied == {"part-1.jsonl", "part-2.jsonl", "part-3.jsonl"}
    assert stage_data(staged).data == staged.data, "what is in the storage stays there"


def test_rows_in_an_object_store_stay_there_and_the_plan_says_so(tmp_path: Path) -> None:
    config = config_of(tmp_path, "data.folder=s3://bucket/rows")
    sources = {"a": Source(path="s3://bucket/more/*.jsonl")}
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, sources=sources))
    assert stage_data(config).data == config.data
    far = dataclasses.replace(config, cluster=dataclasses.replace(config.cluster, kind="attached"))
    said = notes(far, None)[-1]
    assert said.startswith("data: s3://bucket/rows, s3://bucket/more/*.jsonl stays there")


def test_the_settings_of_a_source_survive_the_way_to_a_worker() -> None:
    from jobs.evaluation.baselines import data_of

    source = Source(path="a", where={"lang": ["de", None]}, rows=3, deduplicate=True)
    data = Data(name="d", sources={"a": source}, label_names=["no", "yes"])
    plain = json.loads(json.dumps(dataclasses.asdict(data)))
    assert data_of(plain) == data


def test_an_embedding_model_is_copied_too_and_one_of_the_hub_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "letters"
    model.mkdir()
    (model / "modules.json").write_text("[]", encoding="utf-8")
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--letters"
    shutil.copytree(model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    for place in (str(model), "hf://someone/letters"):
        shown = ["data.neighbours.count=2", f"data.neighbours.embedding={place}"]
        config = build(compose(["model=tiny", f"storage={tmp_path / 'out'}", *shown], None))
        staged = Path(str(stage_data(config).data.neighbours.embedding))
        assert staged.is_relative_to(tmp_path / "out" / "data")
        assert (staged / "modules.json").read_text(encoding="utf-8") == "[]"


def test_a_node_has_to_see_the_models_that_are_neither_sent_nor_copied(tmp_path: Path) -> None:
    shown = ["data.neighbours.count=2", f"data.neighbours.embedding={tmp_path}"]
    for storage, expected in (
        (str(tmp_path / "out"), {}),
        ("s3://bucket/x", {"data.neighbours.embedding": str(tmp_path)}),
    ):
        server = ["tracking.uri=http://h"]
        config = build(compose(["model=tiny", f"storage={storage}", *server, *shown], None))
        assert unsent_folders(config) == expected
