"""Every kind of file and place gives the same rows: Arrow folders, packed files, folders, patterns,
splits in folders, an object store.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from jobs.config import Data, Source
from jobs.data.corpus import load_corpus
from jobs.data.locations import name_of
from jobs.data.readers import read_rows
from jobs.files import filesystem
from orchestrator.config.compose import compose
from orchestrator.config.defaults import with_absolute_paths
from tests.support.object_store import empty_bucket
from tests.support.settings import build


def records(first: int, last: int) -> list[dict[str, Any]]:
    return [{"text": f"Case {i}", "label": i % 2} for i in range(first, last)]


LABELS = {"info": {"features": {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}}}


def lines(first: int, last: int) -> bytes:
    return "".join(json.dumps(one) + "\n" for one in records(first, last)).encode()


def save_to_disk(folder: Path, first: int, last: int, shards: int = 1) -> Path:
    """A folder as Dataset.save_to_disk of the library datasets writes it."""
    folder.mkdir(parents=True)
    table = pyarrow.Table.from_pylist(records(first, last))
    table = table.replace_schema_metadata({"huggingface": json.dumps(LABELS)})
    step = -(-table.num_rows // shards)
    names = [f"data-{shard:05d}-of-{shards:05d}.arrow" for shard in range(shards)]
    for shard, name in enumerate(names):
        with pyarrow.ipc.new_stream(str(folder / name), table.schema) as stream:
            stream.write_table(table.slice(shard * step, step))
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": n} for n in names]})
    )
    (folder / "dataset_info.json").write_text(json.dumps(LABELS["info"]))
    return folder


def answers(path: Path | str) -> list[str]:
    return [row.answer for row in read_rows(path)]


def sizes(data: Data) -> list[int]:
    corpus = load_corpus(data)
    return [*(len(rows) for rows in corpus.sources.values()), len(corpus.valid), len(corpus.test)]


def folder_data(folder: Path | str, **settings: Any) -> Data:
    return Data(name="d", folder=str(folder), **settings)


def test_an_arrow_folder_is_read_with_the_names_of_its_labels(tmp_path: Path) -> None:
    folder = save_to_disk(tmp_path / "set", 0, 10, shards=3)
    assert answers(folder) == ["no", "yes"] * 5
    assert read_rows(folder)[9].place == f"{folder}, row 10"
    table = pyarrow.Table.from_pylist(records(0, 4))
    with pyarrow.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as file:
        file.write_table(table)
    assert answers(tmp_path / "a.arrow") == ["0", "1"] * 2
    assert sizes(folder_data(save_to_disk(tmp_path / "more", 0, 50))) == [40, 5, 5]
    (folder / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(ValueError, match=r'lacks "data-00001-of-00003\.arrow", which its state'):
        read_rows(folder)


def test_what_the_library_saves_is_what_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    parts = {
        "train": (0, 40),
        "validation": (40, 50),
        "test": (50, 60),
    }
    made = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_list(records(*bounds), features=features)
            for name, bounds in parts.items()
        }
    )
    made.save_to_disk(str(tmp_path / "saved"))
    corpus = load_corpus(folder_data(tmp_path / "saved"))
    assert [len(corpus.sources["train"]), len(corpus.valid), len(corpus.test)] == [40, 10, 10]
    assert corpus.shapes["sources.train"].endswith("labels by the names in the file")
    assert {row.answer for row in corpus.test} == {"no", "yes"} and corpus.notes == []
    made["train"].to_parquet(str(tmp_path / "a.parquet"))
    assert answers(tmp_path / "a.parquet") == ["no", "yes"] * 20


def test_packed_files_are_read_whatever_packed_them(tmp_path: Path) -> None:
    packed = {
        "a.jsonl.gz": gzip.compress(lines(0, 6)),
        "a.jsonl.zst": pyarrow.Codec("zstd").compress(lines(0, 6), asbytes=True),
        "a.jsonl": pyarrow.Codec("zstd").compress(gzip.compress(lines(0, 6)), asbytes=True),
        "a.csv.zst": pyarrow.Codec("zstd").compress(
            b"text,label\n" + b"".join(b"Case %d,%d\n" % (i, i % 2) for i in range(6)), asbytes=True
        ),
    }
    for name, content in packed.items():
        (tmp_path / name).write_bytes(content)
        assert answers(tmp_path / name) == ["0", "1"] * 3, name
        (tmp_path / name).write_bytes(content[:-5])
        with pytest.raises(ValueError, match="cannot be unpacked"):
            read_rows(tmp_path / name)


def test_one_file_a_folder_and_a_pattern_are_sources(tmp_path: Path) -> None:
    for part, bounds in ((1, (0, 20)), (2, (20, 30)), (10, (30, 60))):
        (tmp_path / f"part-{part}.jsonl").write_bytes(lines(*bounds))
    (tmp_path / "README.md").write_text("x")
    pattern = str(tmp_path / "part-*.jsonl")
    for path in (str(tmp_path), pattern):
        corpus = load_corpus(Data(name="d", sources={"a": Source(path=path)}))
        keys = [row.key for row in corpus.sources["a"]]
        assert keys == sorted(keys, key=lambda key: int(key.split()[1])) and len(keys) == 48
    assert sizes(folder_data(pattern)) == [48, 6, 6]
    assert sizes(folder_data(tmp_path / "part-10.jsonl")) == [24, 3, 3]
    data = folder_data(tmp_path / "part-10.jsonl", test=str(tmp_path / "part-[12].jsonl"))
    assert sizes(data) == [27, 3, 30]
    with pytest.raises(
        ValueError, match=r"data\.folder: .*/x-\*\.jsonl fits no file .* holds README"
    ):
        load_corpus(folder_data(tmp_path / "x-*.jsonl"))
    with pytest.raises(ValueError, match=r"fits no file of rows, only README\.md"):
        load_corpus(folder_data(tmp_path / "READ*"))


def test_splits_may_lie_in_folders_and_the_only_file_trains(tmp_path: Path) -> None:
    for split, bounds in (("train", (0, 40)), ("validation", (40, 50)), ("test", (50, 60))):
        (tmp_path / "in" / "data" / split).mkdir(parents=True)
        (tmp_path / "in" / "data" / split / "00000.jsonl").write_bytes(lines(*bounds))
    assert sizes(folder_data(tmp_path / "in" / "data")) == [40, 10, 10]
    corpus = load_corpus(folder_data(tmp_path / "in"))
    assert corpus.notes[0] == f"data.folder: read from {tmp_path}/in/data"
    source = Data(name="d", sources={"a": Source(path=str(tmp_path / "in" / "data"))})
    assert sizes(source) == [32, 4, 4], "of a folder with splits a source takes the training rows"
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "tickets.jsonl").write_bytes(lines(0, 40))
    corpus = load_corpus(folder_data(alone))
    assert (
        corpus.notes[0] == f"data.folder: trained on {alone}/tickets.jsonl, the only file of rows"
    )
    grouped = tmp_path / "in" / "data" / "*" / "*.jsonl"
    assert sizes(folder_data(grouped)) == [48, 6, 6], "folders' names are no part of a file's name"


def test_places_are_named_after_what_they_hold_and_stay_where_they_are(tmp_path: Path) -> None:
    names = {
        "rows/tickets.jsonl.gz": "tickets",
        "rows/part-*.jsonl": "rows",
        "hf://org/tickets@main": "tickets",
        "hf://datasets/org/tickets/data": "tickets",
        "s3://bucket/tickets/": "tickets",
    }
    for place, name in names.items():
        assert name_of(place) == name
        config = build(compose(["data=files", f"data.folder={place}"], None))
        assert config.data.name == name
        if "://" in place:
            assert with_absolute_paths(config).data.folder == place


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 server with rows in it."""
    for uri in empty_bucket(tmp_path_factory):
        folder = tmp_path_factory.mktemp("rows")
        for split, bounds in (("train", (0, 40)), ("test", (50, 60))):
            (folder / f"{split}.jsonl").write_bytes(lines(*bounds))
        (folder / "other.txt").write_text("x")
        filesystem.put(folder, f"{uri}/rows")
        yield uri


def test_rows_of_an_object_store_are_read_as_folder_file_and_pattern(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path))
    assert sizes(folder_data(f"{bucket}/rows")) == [36, 4, 10]
    one = Data(name="d", sources={"a": Source(path=f"{bucket}/rows/train.jsonl")})
    assert sizes(one) == [32, 4, 4]
    assert sizes(folder_data(f"{bucket}/rows/t*.jsonl")) == [36, 4, 10]
    assert not list(tmp_path.rglob("t*.jsonl/../other.txt"))
    with pytest.raises(
        ValueError, match=r"data cannot be fetched: s3://sweeps/rows/x\* is not there"
    ):
        load_corpus(folder_data(f"{bucket}/rows/x*"))
    with pytest.raises(ValueError, match=r"data cannot be fetched: s3://sweeps/none is not there"):
        load_corpus(folder_data(f"{bucket}/none"))
