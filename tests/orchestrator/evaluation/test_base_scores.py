"""Kept scores of untouched bases: what they are kept under, and what a disk may make of them."""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.config import BaseModel, Data, Scoring, Train, Trial
from jobs.data.corpus import load_corpus
from jobs.evaluation import scores as judged
from jobs.evaluation.scores import EvaluationSettings
from jobs.neighbour_settings import Neighbours
from orchestrator.evaluation import base_scores
from orchestrator.evaluation.base_scores import BaseScores, key_of
from tests.support.trials import tiny_trial

BASE = BaseModel(name="m", source="path", id="m", revision="r1", path="/m")
RULE = EvaluationSettings(confidence=0.95, max_new_tokens=None, num_threads=2)
COLUMNS = "prompt,completion,kind,source\n"


def folder_of(folder: Path, test: str = "what,A,easy,x\nwhy,B,hard,y\n") -> Path:
    folder.mkdir()
    rows = "".join(f"row {i},{'AB'[i % 2]},easy,x\n" for i in range(20))
    (folder / "train.csv").write_text(COLUMNS + rows)
    (folder / "test.csv").write_text(COLUMNS + test)
    return folder


def trial_of(folder: Path, **data: Any) -> Trial:
    return tiny_trial(Data(name="d", folder=str(folder), **data), Train())


def key(trial: Trial, base: BaseModel = BASE, rule: EvaluationSettings = RULE) -> str:
    return key_of(base, trial, rule, load_corpus(trial.data), on_gpu=False)


def test_whatever_the_scoring_reads_is_part_of_what_scores_are_kept_under(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a")
    trial = trial_of(folder, slices=["kind"])
    scored = RULE.scoring
    others: dict[str, Callable[[], str]] = {
        "another model, or a template or end mark of its own": lambda: key(
            trial, dataclasses.replace(BASE, revision="r2")
        ),
        "another metric": lambda: key(
            trial, rule=dataclasses.replace(RULE, scoring=dataclasses.replace(scored, metric="a/b"))
        ),
        "another function of the user's": lambda: key(
            trial, rule=dataclasses.replace(RULE, scoring=Scoring(metric="m.py:f", code="2"))
        ),
        "another limit of answers": lambda: key(
            trial, rule=dataclasses.replace(RULE, max_new_tokens=3)
        ),
        "another confidence": lambda: key(trial, rule=dataclasses.replace(RULE, confidence=0.9)),
        "examples in the prompt": lambda: key(
            trial, rule=dataclasses.replace(RULE, num_examples=4)
        ),
        "a shorter prompt": lambda: key(dataclasses.replace(trial, train=Train(max_length=64))),
        "an instruction that is searched": lambda: key(
            trial_of(folder, slices=["kind"], instruction="Answer.")
        ),
        "neighbours": lambda: key(
            trial_of(folder, slices=["kind"], neighbours=Neighbours(count=2))
        ),
        "no slices": lambda: key(trial_of(folder)),
        "another answer": lambda: key(
            trial_of(folder_of(tmp_path / "b", "what,A,easy,x\nwhy,C,hard,y\n"), slices=["kind"])
        ),
        "another value of a slice": lambda: key(
            trial_of(folder_of(tmp_path / "c", "what,A,easy,x\nwhy,B,easy,y\n"), slices=["kind"])
        ),
        "another source": lambda: key(
            trial_of(folder_of(tmp_path / "d", "what,A,easy,x\nwhy,B,hard,z\n"), slices=["kind"])
        ),
        "a GPU": lambda: key_of(BASE, trial, RULE, load_corpus(trial.data), on_gpu=True),
    }
    keys = {name: make() for name, make in others.items()} | {"as it was": key(trial)}
    assert len(set(keys.values())) == len(keys), keys
    more_threads = key(trial, rule=dataclasses.replace(RULE, num_threads=8))
    assert more_threads == keys["as it was"], "how many threads compute decides nothing"


def test_another_version_of_the_code_or_of_a_library_remembers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = base_scores.program()
    copied = tmp_path / "jobs"
    shutil.copytree(base_scores.ROOT / "jobs", copied)
    monkeypatch.setattr(base_scores, "ROOT", tmp_path)
    assert base_scores.program.__wrapped__() == before, "where the code lies decides nothing"
    with (copied / "data" / "answer_text.py").open("a") as stream:
        stream.write("\n")
    changed = base_scores.program.__wrapped__()
    monkeypatch.setattr(base_scores, "version", lambda name: "0.1")
    assert len({before, changed, base_scores.program.__wrapped__()}) == 3


def test_scores_that_a_disk_has_changed_are_not_remembered(tmp_path: Path) -> None:
    scores = judged.TestScores(
        0.25, 0.125, 0.5, [{"text": "a", "scores": {"m": 1.0}}], 8, scores={"m": 1}
    )
    memo = BaseScores(tmp_path, "sweep-1")
    memo.keep({"k1": scores})
    memo.keep({"k2": dataclasses.replace(scores, value=0.75)})
    assert memo.recall({"base": "k1", "other": "none"}) == {"base": scores}
    assert memo.recall({"x": "k2"})["x"].value == 0.75
    assert [file.name for file in tmp_path.iterdir()] == [base_scores.FILE]
    whole = memo.file.read_bytes()
    source = random.Random(3)
    for _ in range(150):
        content = bytearray(whole)
        content[source.randrange(len(content))] ^= 1 << source.randrange(8)
        memo.file.write_bytes(content)
        assert memo.recall({"base": "k1"}) in ({}, {"base": scores})
