"""What the plan says of merging experts, what names an expert, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.config import BaseModel
from orchestrator.config.budget import Budget, Prices
from orchestrator.config.compose import compose
from orchestrator.config.search_space import mix_of
from orchestrator.config.simplex import Mix
from orchestrator.errors import ConfigError
from orchestrator.output.plan_text import plan_record, plan_text
from orchestrator.output.progress import ProgressDisplay
from orchestrator.plan.budget import account_of, tolerance_seconds
from orchestrator.plan.merge import candidate_mixes, merged_knob, with_merged
from orchestrator.plan.planner import Plan
from orchestrator.plan.points import first_points
from orchestrator.storage.journal import Journal
from orchestrator.storage.paths import sweep_folder
from orchestrator.storage.spending import Spending
from orchestrator.sweep.experts import ExpertState, keep
from orchestrator.sweep.mixture_scores import Scored, choose
from tests.support.settings import build

Make = Callable[..., Plan]
MERGE = ("+sweep=mix", "mix.method=merge", "sweep.num_trials=6")
SIZED = ("sweep.minutes=null", "train.steps=40", "train.eval_every=10", "train.batch_size=5")


def add_source(folder: Path, name: str, count: int) -> str:
    """A file of rows, and the setting that adds it."""
    rows = [{"prompt": f"{name} {i}", "completion": "A"} for i in range(count)]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"+data.sources.{name}.path={folder / name}.jsonl"


@pytest.fixture
def mixed(plan: Make, tmp_path: Path) -> Make:
    """`mixed(*arguments)` plans on the toy rows and a source of 60 more."""
    source = add_source(tmp_path, "more", 60)
    held = []
    for split in ("valid", "test"):
        add_source(tmp_path, split, 20)
        held.append(f"data.{split}={tmp_path / split}.jsonl")
    return lambda *arguments: plan(source, *held, *SIZED, *arguments)


def knob_of(made: Plan) -> Any:
    """The simplex of a plan."""
    knob = merged_knob(made.config)
    assert knob is not None
    return knob


def digests(made: Plan) -> dict[str, str]:
    """What names the experts, by source."""
    assert made.merge is not None
    return {expert.source: expert.digest for expert in made.merge.experts}


def test_the_plan_says_how_many_experts_mixtures_and_trials_there_are(mixed: Make) -> None:
    made = mixed(*MERGE, "dry_run=true")
    text = plan_text(made)
    assert "merge   2 experts of one source each, 40 steps at a constant rate" in text
    assert "24 mixtures scored by merging the experts, on" in text
    assert "trained: by size, uniform and the best 3 of the others; about" in text
    assert "trial   ... the best 3 merged mixtures, then 1 drawn one" in text
    assert [trial.index for trial in made.trials] == [1, 2]
    assert not any("draw the same mix" in note for note in made.notes)
    merge = plan_record(made)["merge"]
    assert merge["experts"]["more"] == {"steps": 40, "trained": False}
    assert (merge["candidates"], merge["trained"]) == (24, 3)
    assert merge["seconds"] > 0
    searched = mixed("+sweep=mix", "sweep.num_trials=6")
    assert made.estimate is not None and searched.estimate is not None
    assert made.estimate.seconds == pytest.approx(searched.estimate.seconds + merge["seconds"])
    assert searched.merge is None and searched.name != made.name
    assert len(searched.trials) == 6


def test_experts_have_one_source_each_and_a_constant_rate(mixed: Make) -> None:
    made = mixed(*MERGE, "optim.schedule=linear", "mix.steps=7")
    assert made.merge is not None
    points = {expert.source: mix_of(knob_of(made), expert.point) for expert in made.merge.experts}
    assert points == {
        "train": {"train": 1.0, "more": 0.0},
        "more": {"train": 0.0, "more": 1.0},
    }
    assert {expert.steps for expert in made.merge.experts} == {7}
    constant = mixed(*MERGE, "optim.schedule=constant", "mix.steps=7")
    assert digests(constant) == digests(made), "whatever the trials' rate does"


def test_an_expert_is_named_by_its_rows_its_settings_and_its_base(
    mixed: Make, plan: Make, tmp_path: Path
) -> None:
    first = digests(mixed(*MERGE))
    third = add_source(tmp_path, "third", 30)
    wider = digests(mixed(*MERGE, third))
    assert {name: wider[name] for name in first} == first, "a source more changes no other's expert"
    assert digests(mixed(*MERGE, "sweep.num_trials=9", "mix.candidates=50")) == first
    for setting in (
        "optim.lr=0.003",
        "adapter.rank=4",
        "mix.steps=9",
        "train.batch_size=6",
        "seed=1",
        "train.max_length=64",
        "data.instruction=Answer",
    ):
        changed = digests(mixed(*MERGE, setting))
        assert not set(changed.values()) & set(first.values()), setting
    add_source(tmp_path, "more", 61)
    changed = digests(mixed(*MERGE))
    assert changed["more"] != first["more"] and changed["train"] == first["train"]


def test_where_held_out_rows_are_cut_anew_an_expert_is_trained_anew(
    plan: Make, tmp_path: Path
) -> None:
    sources = [add_source(tmp_path, name, 60) for name in ("more", "third")]
    first, wider = plan(sources[0], *SIZED, *MERGE), plan(*sources, *SIZED, *MERGE)
    for name, digest in digests(first).items():
        same_rows = first.digests[f"train/{name}"] == wider.digests[f"train/{name}"]
        assert (digests(wider)[name] == digest) == same_rows
    assert first.digests["train/train"] != wider.digests["train/train"], "others are held out"


def test_an_expert_that_is_kept_is_found_again_and_costs_nothing(
    mixed: Make, tmp_path: Path
) -> None:
    made = mixed(*MERGE)
    assert made.merge is not None and made.merge.seconds is not None
    expert = next(expert for expert in made.merge.experts if expert.source == "more")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    keep(expert, adapter)
    again = mixed(*MERGE)
    assert again.merge is not None and again.merge.seconds is not None
    assert [expert.source for expert in again.merge.missing] == ["train"]
    assert again.merge.seconds < made.merge.seconds
    assert "of which more is found again" in plan_text(again)
    assert again.name == made.name


def test_candidates_begin_with_the_mixes_that_are_always_trained_and_keep_to_the_bounds(
    mixed: Make,
) -> None:
    made = mixed(*MERGE, "sweep.space.mix.bounds={more: {low: 0.2, high: 0.7}}")
    knob = knob_of(made)
    mixes = candidate_mixes(knob, 12, 0)
    assert len(mixes) == 12 == len({tuple(mix.values()) for mix in mixes})
    assert mixes == candidate_mixes(knob, 12, 0) and mixes != candidate_mixes(knob, 12, 1)
    assert mixes[1] == {"train": 0.5, "more": 0.5}
    assert {"train": 0.3, "more": 0.7} in mixes and {"train": 0.8, "more": 0.2} in mixes
    for mix in mixes:
        assert sum(mix.values()) == pytest.approx(1)
        assert 0.2 <= mix["more"] <= 0.7


def test_the_best_mixtures_become_the_trials_after_the_first_two(mixed: Make) -> None:
    made = mixed(*MERGE)
    assert made.merge is not None
    candidates = list(made.merge.candidates)

    def scored(mix: Mix) -> Scored:
        """Best where two fifths are of the added source; of equals the loss decides."""
        far = round(abs(mix["more"] - 0.4), 1)
        return Scored(mix, 1.0 - far, mix["more"])

    chosen = choose(made, [scored(mix) for mix in candidates])
    assert len(chosen) == 3
    assert not any(mix in candidates[:2] for mix in chosen)
    shares = [mix["more"] for mix in chosen]
    assert min(abs(one - other) for one in shares for other in shares if one != other) >= 0.05
    assert abs(shares[0] - 0.4) <= 0.16
    config = with_merged(made.config, chosen)
    points = first_points(config.sweep.space, config.seed, 6)
    tried = [mix_of(knob_of(made), point) for point in points]
    assert tried[0] == pytest.approx(candidates[0]) and tried[1] == candidates[1]
    assert tried[2:5] == chosen and tried[5] not in candidates[:2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["+sweep=lora"], "mix.method has no effect: the search space has no mix of sources"),
        ([], "mix.method has no effect: the search space has no mix of sources"),
        (["+sweep=mix", "adapter=full"], "adapter.kind=full trains every weight; write adapter="),
        (
            ["+sweep=mix", "+sweep.space.rank={path: adapter.rank, type: choice, values: [4, 8]}"],
            "sweep.space.rank adapter.rank is searched, and mix.method=merge needs experts of one",
        ),
        (
            ["+sweep=mix", "+sweep.space.say={path: data.instruction, type: grid, values: [a, b]}"],
            "sweep.space.say data.instruction is searched, and under mix.method=merge",
        ),
        (["+sweep=mix", "sweep.num_trials=2"], "sweep.num_trials 2 leaves no trial for a merged"),
        (["+sweep=mix", "mix.candidates=4"], "mix.candidates must be between mix.trained + 2 (5)"),
        (["+sweep=mix", "mix.trained=0"], "mix.trained must be at least 1, got 0"),
        (["+sweep=mix", "mix.steps=0"], "mix.steps must be at least 1 and below 2**31, got 0"),
        (["+sweep=mix", "adapter.rank=600"], "mix.method=merge needs adapter.rank=512 or less"),
        (["+sweep=mix", "sweep.metric=train/loss"], "needs one of the validation rows"),
        (["+sweep=mix", "mix.method=merged"], '"merged" is not one of search, merge'),
        (["+sweep=mix", "mix.method=search", "mix.steps=9"], "write mix.method=merge beside it"),
    ],
)
def test_what_cannot_be_merged_is_refused_with_the_remedy(
    mixed: Make, arguments: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        mixed("mix.method=merge", *arguments)
    told = [f"{path} {text}" for path, text in refused.value.problems]
    assert any(message in each for each in told), told


def test_data_with_one_source_has_nothing_to_merge(toy: Path) -> None:
    with pytest.raises(ConfigError, match="a mix needs two sources or more"):
        build(
            compose(
                ["model=tiny", "data=files", f"data.folder={toy}", *MERGE, *SIZED],
                None,
            )
        )


def test_a_budget_that_experts_alone_would_spend_is_refused(mixed: Make) -> None:
    fits = mixed(*MERGE, "budget.minutes=600")
    with pytest.raises(ConfigError) as refused:
        mixed(*MERGE, "mix.steps=50000000", "budget.minutes=10")
    told = dict(refused.value.problems)["budget.minutes"]
    assert "10 cannot pay the experts, their mixes and one trial to its first rung" in told
    assert "lower mix.steps or mix.candidates" in told
    folder = sweep_folder(fits.config.storage, fits.name)
    folder.mkdir(parents=True)
    Journal(folder).append("mixtures", trial=None)
    account = account_of(fits.config, fits.name)
    assert account.merged and not account.scored, "then nothing of it is still to be paid"


def test_tokens_that_experts_train_on_are_to_be_paid_too(mixed: Make) -> None:
    dear = "mix.steps=1000000"
    with pytest.raises(ConfigError) as refused:
        mixed(*MERGE, dear, "budget.tokens=5000000")
    told = dict(refused.value.problems)["budget.tokens"]
    assert "5e+06 cannot pay the experts, their mixes and one trial to its first rung" in told
    shown = plan_text(mixed(*MERGE, "budget.tokens=1e12"))
    more = plan_text(mixed(*MERGE, dear, "budget.tokens=1e12"))
    whole = [float(text.split("takes about ")[1].split()[0]) for text in (shown, more)]
    assert whole[1] > whole[0] + 1e6


def test_a_budget_ends_experts_at_its_limit_and_not_before(
    mixed: Make, base: BaseModel, tmp_path: Path
) -> None:
    made = mixed(*MERGE)
    assert made.merge is not None
    seconds = [0.0]
    screen = ProgressDisplay(2, 40, "valid/loss")
    budget = Budget(minutes=1, tokens=1000)
    screen.spending = Spending(budget, Prices(), 1, 0, 0.0, None, lambda: seconds[0])
    folder = tmp_path / "sweep"
    state = ExpertState(made, base, folder, screen, {}, list(made.merge.experts))
    assert state.screen.spending is screen.spending
    for index in (1, 2):
        state.trial(index)
        state.slots_taken.add(index)
        state.started.add(index)
    step = {"train/tokens_per_second": 100.0, "train/examples_per_second": 10.0}
    for number in range(1, 20):
        state.allowance.tell_step(1, 1000 * number, number, step)
    assert screen.spending.now().tokens == pytest.approx(19 * 5 * 10)
    seconds[0] = 60 + tolerance_seconds(60) - 1
    state.records[1].reports[40] = {"valid/loss": 1.0}
    state.allowance.look()
    assert state.abort_reason is None and not state.allowance.over, "one expert is not enough"
    seconds[0] += 2
    state.allowance.look()
    assert state.abort_reason is not None
    assert state.abort_reason.startswith("budget.minutes=1 is spent before the experts' mixes")
    state.abort_reason, seconds[0] = None, 0.0
    state.allowance.tell_step(1, 20000, 20, step)
    state.allowance.look()
    assert state.abort_reason is not None
    assert state.abort_reason.startswith("budget.tokens=1000 is spent before the experts' mixes")
