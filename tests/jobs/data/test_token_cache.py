"""Tokens on disk are those that a row gives, for every length; another row, template or damage never
finds them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.config import Adapter, Data, Model, Optim, Train, Trial
from jobs.data import token_cache, trial_data
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import Corpus, load_corpus
from jobs.data.token_cache import SEAL, stored_tokens
from jobs.data.tokenization import encode_rows
from jobs.data.trial_data import TrialData
from orchestrator.plan.token_counts import Limits, count
from tests.support.chat_templates import CHATML, QWEN, make_model


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """300 training rows with answers that repeat and answers that do not, and 200 held-out ones."""
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    for name, number in {"train": 300, "valid": 200, "test": 5}.items():
        rows = [
            {
                "prompt": f"{name} {i}: was heißt das? {'lang ' * (i % 50)}",
                "completion": f"Antwort {i}" if i % 3 else "nichts",
            }
            for i in range(number)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def data_of(folder: Path) -> Data:
    return Data(name="d", folder=str(folder), instruction="Say:")


def counted(corpus: Corpus, template: ChatTokenizer) -> None:
    """What the plan does before anyone trains."""
    for name, rows, key in (
        ("train", corpus.sources["train"], "train/train"),
        ("valid", corpus.valid, "valid"),
    ):
        count(rows, corpus.digests[key], template, Limits(512), name)


@pytest.mark.parametrize("kind", ["bytes", "words"])
@pytest.mark.parametrize("length", [512, 60])
def test_stored_tokens_are_those_of_the_rows(folder: Path, kind: str, length: int) -> None:
    template = ChatTokenizer(make_model(folder / "m", CHATML, kind=kind))
    counted(load_corpus(data_of(folder)), template)
    corpus = load_corpus(data_of(folder))
    for name, rows in (("train", corpus.sources["train"]), ("valid", corpus.valid)):
        stored = stored_tokens(corpus, name, template)
        assert stored is not None
        order = [*range(len(rows) - 1, -1, -1)]
        examples = stored.examples(rows, order, template, length, name)
        assert examples[::-1] == encode_rows(rows, template, length, name)
        if length == 60:
            assert any(example.num_cut for example in examples)
    stored = stored_tokens(corpus, "train", template)
    assert stored is not None
    with pytest.raises(ValueError, match=r"train\.jsonl, line 2: the answer has"):
        stored.examples(corpus.sources["train"], [1], template, 8, "data.sources.train")


def test_other_rows_templates_and_instructions_find_nothing(folder: Path) -> None:
    template = ChatTokenizer(make_model(folder / "m", CHATML))
    counted(load_corpus(data_of(folder)), template)
    assert stored_tokens(load_corpus(data_of(folder)), "train", template) is not None
    other = ChatTokenizer(make_model(folder / "n", QWEN))
    assert stored_tokens(load_corpus(data_of(folder)), "train", other) is None
    bare = Data(name="d", folder=str(folder))
    assert stored_tokens(load_corpus(bare), "train", template) is None
    text = (folder / "train.jsonl").read_text()
    (folder / "train.jsonl").write_text(text.replace("train 17:", "train 17;"))
    assert stored_tokens(load_corpus(data_of(folder)), "train", template) is None
    assert stored_tokens(load_corpus(data_of(folder)), "test", template) is None  # few rows


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "no seal"])
def test_damaged_tokens_are_not_read_and_are_made_again(folder: Path, damage: str) -> None:
    template = ChatTokenizer(make_model(folder / "m", CHATML))
    counted(load_corpus(data_of(folder)), template)
    for tokens in (folder / "cache" / "tokens").iterdir():
        file = tokens / token_cache.IDS
        content = file.read_bytes()
        if damage == "cut":
            file.write_bytes(content[:-4])
        elif damage == "changed":
            file.write_bytes(content[:40] + b"\1" + content[41:])
        elif damage == "gone":
            file.unlink()
        else:
            (tokens / SEAL).unlink()
    assert stored_tokens(load_corpus(data_of(folder)), "train", template) is None
    counted(load_corpus(data_of(folder)), template)
    assert stored_tokens(load_corpus(data_of(folder)), "train", template) is not None


def test_a_cache_that_is_full_forgets_what_was_not_used_for_longest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "MOST_BYTES", 1)
    template = ChatTokenizer(make_model(folder / "m", CHATML))
    counted(load_corpus(data_of(folder)), template)
    assert len(list((folder / "cache" / "tokens").iterdir())) == 1
    assert stored_tokens(load_corpus(data_of(folder)), "valid", template) is not None


def test_training_reads_the_stored_tokens_and_tokenises_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = ChatTokenizer(make_model(folder / "m", CHATML))
    trial = Trial(
        index=1,
        seed=0,
        model=Model(name="tiny", source="tiny"),
        data=data_of(folder),
        adapter=Adapter(),
        optim=Optim(),
        train=Train(batch_size=7),
    )
    fresh = TrialData(trial, template, load_corpus(trial.data))
    wanted = [fresh.batch(step) for step in range(50)], fresh.valid()
    counted(load_corpus(trial.data), template)

    def refuse(*_: Any) -> Any:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(trial_data, "encode_rows", refuse)
    stored = TrialData(trial, template, load_corpus(trial.data))
    assert ([stored.batch(step) for step in range(50)], stored.valid()) == wanted
