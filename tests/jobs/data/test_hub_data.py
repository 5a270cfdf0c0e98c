"""Data sets of the Hugging Face hub, against a server in a thread that speaks its protocol.

huggingface_hub reads its environment when it is imported, so every fetch runs in a process of its
own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.data.hub_data import parse
from tests.conftest import ROOT
from tests.support.dataset_hub import ID, DatasetHub, dataset_hub

LOAD = """
import json, sys
from jobs.config import Data
from jobs.data.corpus import load_corpus
try:
    corpus = load_corpus(Data(name="d", folder=sys.argv[1]))
    print(json.dumps([len(corpus.sources["train"]), len(corpus.valid), len(corpus.test), corpus.fingerprint, corpus.notes]))
except ValueError as error:
    print(json.dumps(str(error)))
"""


def lines(first: int, last: int) -> str:
    rows = [{"question": f"Case {i}", "answer": f"A{i % 3}"} for i in range(first, last)]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[DatasetHub]:
    """A data set with its splits in a folder, and what repositories hold besides."""
    files = tmp_path / "repository"
    for name, bounds in (("train", (0, 40)), ("validation", (40, 50)), ("test", (50, 60))):
        path = files / "data" / f"{name}-00000-of-00001.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines(*bounds))
    (files / "README.md").write_text("---\nlicense: mit\n---\n")
    (files / "image.bin").write_bytes(b"x" * 1000)
    with dataset_hub(files) as server:
        yield server


def load(hub: DatasetHub | None, folder: Path, location: str, **variables: str) -> object:
    """What a process of its own reads, or why it cannot."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": hub.address if hub is not None else "http://127.0.0.1:9",
        "HF_HOME": str(folder / "hub"),
        "ORCHESTRATOR_CACHE": str(folder / "cache"),
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-c", LOAD, location],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_data_set_is_fetched_once_and_stays_as_it_was(hub: DatasetHub, tmp_path: Path) -> None:
    first = load(hub, tmp_path, f"hf://{ID}")
    assert isinstance(first, list) and first[:3] == [40, 10, 10]
    assert not any("image.bin" in path for path in hub.asked)
    num_asked = len(hub.asked)
    hub.head = "2" * 40
    (hub.files / "data" / "train-00000-of-00001.jsonl").write_text(lines(0, 30))
    assert load(hub, tmp_path, f"hf://{ID}") == first and len(hub.asked) == num_asked
    named = load(None, tmp_path, f"hf://{ID}@main", HF_HUB_OFFLINE="1")
    assert isinstance(named, list) and named[:4] == first[:4]
    assert named[4] == [note.replace(f"{ID} ", f"{ID}@main ") for note in first[4]]
    newer = load(hub, tmp_path, f"hf://{ID}@{hub.head}")
    assert isinstance(newer, list) and newer[:3] == [30, 10, 10]
    part = load(hub, tmp_path / "other", f"hf://datasets/{ID}@main/data/t*.jsonl")
    assert isinstance(part, list) and part[:3] == [27, 3, 10]


def test_what_cannot_be_fetched_says_so_with_the_remedy(hub: DatasetHub, tmp_path: Path) -> None:
    cases = {
        f"hf://{ID}@nowhere": "the data set has no revision nowhere; correct it, or leave it out",
        "hf://org/other": "there is no public data set org/other; correct the name, or set HF_TOKEN",
        "hf://": "must be hf://ORG/NAME, hf://ORG/NAME@REVISION or",
        f"hf://{ID}@main/none": "the data set holds no none; see https://huggingface.co/datasets",
    }
    for location, message in cases.items():
        said = load(hub, tmp_path, location)
        assert isinstance(said, str) and message in said and location in said, said
    away = load(None, tmp_path / "new", f"hf://{ID}", HF_HUB_OFFLINE="1")
    assert isinstance(away, str) and "\n" not in away
    assert "Where there is a network, run: hf download org/tickets --repo-type dataset" in away


def test_a_location_names_data_set_revision_and_path() -> None:
    for location, named in {
        "hf://org/name": ("org/name", "main", ""),
        "hf://datasets/org/name/": ("org/name", "main", ""),
        "hf://org/name@v1.0/data/*.parquet": ("org/name", "v1.0", "data/*.parquet"),
        "hf://org/name@refs/convert/parquet/default": (
            "org/name",
            "refs/convert/parquet",
            "default",
        ),
    }.items():
        wanted = parse(location)
        assert (wanted.id, wanted.revision, wanted.path) == named
    with pytest.raises(ValueError, match="must be hf://ORG/NAME"):
        parse("hf://a b")
