"""What the page tells of a sweep over mixes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.report.content import content
from orchestrator.report.importance import importances
from orchestrator.report.merged_mixes import ranks, spearman
from orchestrator.report.page import page
from orchestrator.report.sweep_data import read_sweep
from tests.support.journals import write_sweep

MIX = {"type": "simplex", "bounds": {"titles": {"high": 0.9}}}


def write_mix(folder: Path, count: int, data: dict[str, Any] | None = None) -> Path:
    """A sweep over the mix of two sources, whose trials tell what they have drawn."""
    write_sweep(folder, count)
    file = folder / "journal.jsonl"
    events = [json.loads(line) for line in file.read_text().splitlines()]
    titles = {}
    for event in events:
        if event["kind"] == "sweep":
            config = yaml.safe_load(event["config"])
            space = config["sweep"]["space"]
            config["sweep"]["space"] = {"lr": space["lr"], "mix": MIX}
            event["config"] = yaml.safe_dump(config | {"data": data or {}})
        if event["kind"] == "trial":
            titles[event["trial"]] = event["point"]["data.sources.titles.weight"]
        if event["kind"] == "report":
            drawn = round(titles[event["trial"]] * 32 * event["step"])
            event["metrics"] |= {
                "data/drawn_titles": drawn,
                "data/drawn_terms": 32 * event["step"] - drawn,
                "data/epochs_titles": drawn / 500,
                "data/tokens_titles": 20 * drawn,
                "valid/source/titles/exact_match": 0.125,
                "valid/source/terms/loss": 1.5,
            }
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def test_a_simplex_is_shown_as_its_sources(tmp_path: Path) -> None:
    data = read_sweep(write_mix(tmp_path / "a", 40))
    told = content(data)
    assert {knob["path"] for knob in told["knobs"]} == {
        "optim.lr",
        "data.sources.titles.weight",
        "data.sources.terms.weight",
    }
    assert set(importances(data)) == {"optim.lr", "data.sources.terms.weight"}
    assert {entry["source"] for entry in told["mix"]} == {"titles", "terms"}


def test_the_page_says_how_many_trials_so_many_sources_need(tmp_path: Path) -> None:
    few = content(read_sweep(write_mix(tmp_path / "a", 4)))["mix_need"]
    assert "2 sources takes about 5 trials to see; 4 have a score" in few
    assert few.endswith("go on with sweep.num_trials=5.")
    many = content(read_sweep(write_mix(tmp_path / "b", 9)))["mix_need"]
    assert many.endswith("9 have a score.")
    assert few in page(content(read_sweep(tmp_path / "a")))


def test_the_table_has_what_each_trial_drew_and_scored_by_source(tmp_path: Path) -> None:
    data = read_sweep(write_mix(tmp_path / "a", 6))
    table = content(data)["mix_table"]
    assert table["head"][:4] == ["trial", "exact_match", "share of terms", "share of titles"]
    assert {"examples of titles", "tokens of titles", "epochs of titles"} <= set(table["head"])
    assert {"exact_match on titles", "loss on terms"} <= set(table["head"])
    assert len(table["rows"]) == 6
    for row in table["rows"]:
        cells = dict(zip(table["head"], row, strict=True))
        assert cells["exact_match on titles"] == 0.125 and cells["loss on terms"] == 1.5
        assert cells["share of terms"] + cells["share of titles"] == pytest.approx(1, abs=1e-3)
    assert "What each trial was trained on" in page(content(data))


def test_where_sources_end_the_shares_are_those_that_were_drawn(tmp_path: Path) -> None:
    data = read_sweep(write_mix(tmp_path / "a", 6, {"exhausted": "renormalise"}))
    for trial in data.trials:
        trial.params["data.sources.titles.weight"] = 0.99  # what was asked for, and not drawn
        trial.point = {}
    mix = {entry["source"]: entry for entry in content(data)["mix"]}
    assert max(point[0] for point in mix["titles"]["effect"]["points"]) < 0.95


def test_an_edge_of_the_bounds_is_named_with_the_setting_that_widens_it(tmp_path: Path) -> None:
    folder = write_mix(tmp_path / "a", 12)
    data = read_sweep(folder)
    knob = data.space["mix.titles"]
    assert (knob["low"], knob["high"]) == (0.0, 0.9)
    assert knob["setting"] == "sweep.space.mix.bounds.titles"


def test_a_sweep_without_a_mix_says_nothing_of_one(tmp_path: Path) -> None:
    data = read_sweep(write_sweep(tmp_path / "a", 3))
    for trial in data.trials:
        for settings in (trial.params, trial.point):
            for name in ("titles", "terms"):
                settings[f"data.sources.{name}.weight"] = 0.5
    told = content(data)
    assert told["mix"] == [] and told["mix_need"] is None and told["mix_table"] is None


def add_mixtures(folder: Path, agree: bool, first: int) -> Path:
    """What merging has said of the mixes of the trials up to `first`, and of one that nobody has
    trained. `agree`: in the order of the trials' scores at the last step that all have come to.
    """
    data = read_sweep(folder)
    titles = "data.sources.titles.weight"
    step = max(set.intersection(*(set(trial.reports) for trial in data.trials)))
    ranked = sorted(data.trials[:first], key=lambda trial: trial.reports[step][data.metric] or 0.0)
    candidates = [
        {
            "shares": {"titles": trial.point[titles], "terms": 1 - trial.point[titles]},
            "predicted": 0.1 + 0.01 * (rank if agree else -rank),
            "loss": 2 * (trial.reports[step]["valid/loss"] or 0.0),
        }
        for rank, trial in enumerate(ranked)
    ]
    candidates.append({"shares": {"titles": 0.123, "terms": 0.877}, "predicted": 0.5})
    candidates.append({"shares": {"titles": 0.3, "terms": 0.7}})  # without a score
    event = {"t": 1, "kind": "mixtures", "trial": None, "candidates": candidates}
    with (folder / "journal.jsonl").open("a") as journal:
        journal.write(json.dumps(event) + "\n")
    return folder


@pytest.mark.parametrize("agree", [True, False])
def test_the_score_of_merged_experts_stands_beside_that_of_the_trial(
    tmp_path: Path, agree: bool
) -> None:
    folder = add_mixtures(write_mix(tmp_path / "a", 6), agree, 6)
    told = content(read_sweep(folder))["merged"]
    steps = [set(trial.reports) for trial in read_sweep(folder).trials]
    step = max(set.intersection(*steps))
    when = f"trained at step {step}"
    assert told["head"][:3] == ["trial", "exact_match merged", f"exact_match {when}"]
    assert told["head"][3:5] == ["loss merged", f"loss {when}"]
    assert len(told["rows"]) == 7 and told["trained"] == 6
    assert told["rows"][0][:3] == ["", 0.5, None], "the best by merging, which nobody has trained"
    assert told["correlation"] == (1.0 if agree else -1.0)
    assert told["loss_correlation"] == 1.0
    assert "6 of them were trained" in told["text"]
    assert f"by exact_match {1 if agree else -1}, by loss 1." in told["text"]
    assert "Score of the merged experts" in page(content(read_sweep(folder)))


def test_two_trained_mixtures_are_too_few_for_a_rank_correlation(tmp_path: Path) -> None:
    told = content(read_sweep(add_mixtures(write_mix(tmp_path / "a", 6), True, 2)))["merged"]
    assert told["correlation"] is None and told["trained"] == 2
    assert "2 of them have a trained score" in told["text"] and "too few" in told["text"]


def test_equal_scores_share_their_ranks() -> None:
    assert ranks([3.0, 1.0, 3.0, 2.0]) == [2.5, 0.0, 2.5, 1.0]
    assert spearman([(1, 10), (2, 20), (3, 15)]) == pytest.approx(0.5)
    assert spearman([(1, 10), (1, 20), (1, 15)]) is None


def test_a_sweep_that_has_merged_nothing_says_nothing_of_it(tmp_path: Path) -> None:
    told = content(read_sweep(write_mix(tmp_path / "a", 6)))
    assert told["merged"] is None
    assert "merged experts" not in page(told)
