"""Trials of different mixes see the same rows in a pack as by themselves, on one worker or two, and
tell what they have drawn and how each source's validation rows fared.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as processes

from jobs.config import BaseModel, Data, Source, Trial
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import load_corpus
from jobs.data.trial_data import TrialData
from jobs.pack.evaluation import validate
from jobs.training.distributed import World
from jobs.training.finetune import Hooks, Training
from tests.support.packs import open_pack, run
from tests.support.plain import joined, make

STEPS = 9
NOTHING = Hooks(lambda metrics, save: None)


def rows_of(folder: Path, name: str, count: int, source: str | None = None) -> str:
    """A file of rows whose prompts and answers have the length of their number."""
    file = folder / f"{name}.jsonl"
    rows = [
        {"prompt": f"{name} {'x' * (i % 7)} {i}", "completion": "ABC"[i % 3]}
        | ({} if source is None else {"source": source})
        for i in range(count)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


@pytest.fixture
def trials(tmp_path: Path) -> dict[int, Trial]:
    """Trials by weight, by epochs, and with sources that are used up."""
    paths = {"long": rows_of(tmp_path, "long", 60), "short": rows_of(tmp_path, "short", 20)}
    valid = tmp_path / "valid.jsonl"
    parts = [rows_of(tmp_path, f"held-{name}", 9, name) for name in paths]
    valid.write_text("".join(Path(part).read_text() for part in parts))

    def data(**settings: object) -> Data:
        sources = {
            name: Source(path=path, **(settings.pop(name, {})))  # type: ignore[arg-type]
            for name, path in paths.items()
        }
        return Data(name="a", sources=sources, valid=str(valid), **settings)  # type: ignore[arg-type]

    first = make(Path(paths["long"]), batch_size=9, max_length=256)
    return {
        1: dataclasses.replace(first, data=data(long={"weight": 0.3}, short={"weight": 0.7})),
        2: dataclasses.replace(first, data=data(short={"epochs": 2.0})),
        3: dataclasses.replace(first, data=data(exhausted="renormalise"), seed=5),
        4: dataclasses.replace(first, data=data(max_epochs=2)),
    }


def training_of(trial: Trial, base: BaseModel, world: World | None = None) -> Training:
    """A trial by itself, after some steps."""
    training = Training(trial, base, world or World(), NOTHING, None)
    for _ in range(min(STEPS, last_step(trial))):
        training.train_step()
    return training


def last_step(trial: Trial) -> int:
    """The steps for which the rows of these tests last."""
    return 8 if trial.data.exhausted == "renormalise" else STEPS


def test_a_pack_of_different_mixes_draws_trains_and_scores_each_as_alone(
    base: BaseModel, trials: dict[int, Trial]
) -> None:
    del trials[3]  # ends a step before the others
    pack = open_pack(base, trials)
    losses = run(pack, STEPS)
    tallies = validate(pack, list(trials))
    for number, trial in trials.items():
        alone = training_of(trial, base)
        told = alone.told()
        assert told == pack.slots[number].course.drawn(STEPS)
        assert told["data/drawn_long"] + told["data/drawn_short"] == STEPS * 9
        rows = len(alone.course.corpus.sources["short"])
        assert told["data/epochs_short"] == told["data/drawn_short"] / rows
        expected, found = alone.evaluate(), tallies[number].metrics()
        assert expected.keys() == found.keys()
        assert {"valid/source/long/loss", "valid/source/short/exact_match"} <= found.keys()
        assert found == pytest.approx(expected, abs=1e-4)
        by_source = [found[f"valid/source/{name}/loss"] for name in ("long", "short")]
        assert min(by_source) < found["valid/loss"] < max(by_source)
    assert len({tuple(each) for each in losses.values()}) == len(trials)


def test_tokens_are_those_of_the_examples_whatever_was_interrupted(
    base: BaseModel, trials: dict[int, Trial]
) -> None:
    template = ChatTokenizer(base.path)
    for trial in trials.values():
        steps = last_step(trial)
        course = TrialData(trial, template, load_corpus(trial.data))
        tokens: dict[str, int] = dict.fromkeys(("long", "short"), 0)
        for step in range(steps):
            drawn = course.mix.batch(step, 9)
            for (name, _), example in zip(drawn, course.batch(step), strict=True):
                tokens[name] += len(example.ids)
        told = course.drawn(steps)
        assert {name: told[f"data/tokens_{name}"] for name in tokens} == tokens
        continued = TrialData(trial, template, load_corpus(trial.data))
        continued.batch(4)
        continued.batch(4)  # once more, for want of memory
        assert continued.drawn(steps) == told
        assert continued.drawn(3) == TrialData(trial, template, continued.corpus).drawn(3)


def worker(rank: int, trials: dict[int, Trial], base: BaseModel, folder: Path) -> None:
    """One of two data-parallel processes: plain trials one after the other, then all in a pack."""
    with joined(rank, 2, folder) as world:
        plain = {}
        for number, trial in trials.items():
            training = training_of(trial, base, world)
            plain[number] = training.told() | training.evaluate()
        pack = open_pack(base, {number: trials[number] for number in (1, 2)}, world=world)
        run(pack, STEPS)
        tallies = validate(pack, [1, 2])
        packed = {
            number: pack.slots[number].course.drawn(STEPS) | tallies[number].metrics()
            for number in (1, 2)
        }
    if rank == 0:
        torch.save((plain, packed), folder / "told.pt")


def test_two_workers_draw_and_tell_what_one_does(
    base: BaseModel, trials: dict[int, Trial], tmp_path: Path
) -> None:
    processes.spawn(worker, (trials, base, tmp_path), nprocs=2)  # type: ignore[attr-defined]
    plain, packed = torch.load(tmp_path / "told.pt", weights_only=True)
    for number, trial in trials.items():
        training = training_of(trial, base)
        expected = training.told() | training.evaluate()
        assert plain[number] == pytest.approx(expected, abs=1e-4)
        if number in packed:
            assert packed[number] == pytest.approx(expected, abs=1e-4)
