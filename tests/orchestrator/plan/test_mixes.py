"""What the plan says of mixes, which trials it ends early, and what makes another sweep."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.output.plan_text import plan_text
from orchestrator.plan.planner import Plan

Make = Callable[..., Plan]


@pytest.fixture
def mixed(plan: Make, tmp_path: Path) -> Make:
    """`mixed(*arguments)` plans on the toy rows and two sources more, of 60 and 30 rows."""
    for name, count in (("more", 60), ("few", 30)):
        rows = [{"prompt": f"{name} {i}", "completion": "A"} for i in range(count)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    sources = [f"+data.sources.{name}.path={tmp_path / name}.jsonl" for name in ("more", "few")]

    def make(*arguments: str) -> Plan:
        return plan(*sources, *arguments)

    return make


def shares(made: Plan, index: int) -> dict[str, float]:
    """A trial's weights."""
    sources = made.trials[index - 1].data.sources
    return {name: sources[name].weight for name in ("train", "more", "few")}


SIZED = ("sweep.minutes=null", "train.steps=8", "train.eval_every=4", "train.batch_size=5")


def test_a_mix_sweep_begins_by_size_and_uniform_and_says_what_it_needs(mixed: Make) -> None:
    made = mixed("+sweep=mix", *SIZED, "sweep.num_trials=6", "dry_run=true")
    rows = {name: made.sources[name].rows for name in ("train", "more", "few")}
    total = sum(rows.values())
    assert shares(made, 1) == pytest.approx({n: r / total for n, r in rows.items()}, abs=1e-5)
    assert shares(made, 2) == pytest.approx(dict.fromkeys(rows, 1 / 3), abs=1e-5)
    for index in range(3, 7):
        assert sum(shares(made, index).values()) == pytest.approx(1)
    text = plan_text(made)
    assert "mix of train 0..1, more 0..1, few 0..1" in text
    assert "mixes   first by size: train 0." in text and "; then uniformly drawn" in text
    assert "its share is searched" in text
    assert "3 sources need about 8 trials to show" in text
    assert "these are 6: sweep.num_trials=8" in text
    assert "trial     2  train=0.3333 more=0.3333 few=0.3333" in text


def test_a_longer_mix_sweep_is_the_same_one_and_begins_with_the_shorter_one(mixed: Make) -> None:
    short = mixed("+sweep=mix", *SIZED, "sweep.num_trials=4")
    longer = mixed("+sweep=mix", *SIZED, "sweep.num_trials=9")
    assert short.name == longer.name
    assert longer.trials[:4] == short.trials
    assert not any("sources need about" in note for note in longer.notes)


def test_bounds_move_the_first_mixes_and_the_plan_says_so(mixed: Make) -> None:
    bounds = "sweep.space.mix.bounds={train: {high: 0.3}}"
    made = mixed("+sweep=mix", *SIZED, "sweep.num_trials=8", bounds)
    assert all(shares(made, index)["train"] <= 0.3 for index in range(1, 9))
    notes = "\n".join(made.notes)
    assert "the natural mix (train 0." in notes and "lies outside sweep.space.mix.bounds" in notes
    assert made.name != mixed("+sweep=mix", *SIZED, "sweep.num_trials=8").name


def test_a_source_that_is_left_out_keeps_its_weight_and_the_plan_says_so(mixed: Make) -> None:
    made = mixed("+sweep=mix", *SIZED, "sweep.space.mix.simplex=[train, more]")
    assert {shares(made, index)["few"] for index in range(1, made.num_trials + 1)} == {1.0}
    assert any("leaves out few" in note and "few.weight=1" in note for note in made.notes)


def test_under_optuna_the_plan_still_tells_the_first_mixes(mixed: Make) -> None:
    made = mixed("+sweep=mix", *SIZED, "sweep.search=optuna", "dry_run=true")
    assert made.trials == []
    assert "mixes   first by size: train" in plan_text(made)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (["data.exhausted=stop"], None),
        (["data.exhausted=renormalise"], None),
        (["data.max_epochs=2"], None),
        (["data.exhausted=cycle"], 1000),
    ],
)
def test_a_trial_ends_where_its_rows_are_used_up(
    mixed: Make, settings: list[str], steps: int | None
) -> None:
    made = mixed(*settings, "train.steps=1000", "train.batch_size=5")
    total = sum(share.rows for share in made.sources.values())
    if "data.exhausted=stop" in settings:
        total = 3 * min(share.rows for share in made.sources.values())
    walks = 2 if "data.max_epochs=2" in settings else 1
    expected = walks * total // 5 if steps is None else steps
    assert made.trial_of(1, {}).train.steps == made.trials[0].train.steps == expected
    told = [note for note in made.notes if f"after {expected} of 1000 steps" in note]
    assert len(told) == (expected < 1000)
    assert made.name != mixed("train.steps=1000", "train.batch_size=5", "data.max_epochs=7").name


def test_sources_that_do_not_last_for_a_step_are_refused(mixed: Make) -> None:
    with pytest.raises(ConfigError) as caught:
        mixed("data.exhausted=stop", "train.batch_size=4000")
    (path, text), *_ = caught.value.problems
    assert path == "data.exhausted" and "before its sources are used up" in text


def test_epochs_decide_the_shares_the_name_and_what_is_logged(mixed: Make) -> None:
    made = mixed("data.sources.few.epochs=4")
    rows = {name: share.rows for name, share in made.sources.items()}
    counted = {name: size * (4 if name == "few" else 1) for name, size in rows.items()}
    total = sum(counted.values())
    assert {name: share.share for name, share in made.sources.items()} == pytest.approx(
        {name: count / total for name, count in counted.items()}
    )
    assert made.name != mixed().name
    assert mixed("data.sources.few.epochs=2").name != made.name
