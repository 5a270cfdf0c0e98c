"""A setting that changes nothing is refused or named, whichever it is, and no sweep's name depends
on one.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.base_models import fetch
from jobs.config import Model
from orchestrator.cli import main
from orchestrator.config import idle_settings
from orchestrator.config.compose import compose, typed_settings
from orchestrator.config.dotted_paths import leaves
from orchestrator.config.settings import Config, changed
from orchestrator.errors import ConfigError
from orchestrator.plan.sweep_identity import identity
from tests.support.idle_cases import ACTING, CONSTANT, LORA, NAMED, REFUSED, TINY
from tests.support.settings import build


def built(arguments: list[str]) -> Config:
    return build(compose(arguments, None), typed_settings(arguments))


@pytest.mark.parametrize(("before", "setting", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_setting_that_was_meant_to_do_something_else_is_refused(
    before: list[str], setting: str, reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        built([*before, setting])
    ((path, text),) = caught.value.problems
    assert path.startswith(setting.partition("=")[0])
    assert reason in text and re.search("has no effect|changes nothing|belongs to", text)


@pytest.mark.parametrize(("before", "setting", "reason"), NAMED.values(), ids=NAMED)
def test_a_setting_that_does_nothing_is_named(before: list[str], setting: str, reason: str) -> None:
    found = built([*before, setting]).unused
    assert [name.partition("=")[0] for name in found] == [setting.partition("=")[0]]
    assert reason in next(iter(found.values()))
    assert f"{setting.partition('=')[0]}=" in idle_settings.notes(built([*before, setting]))[0]


@pytest.mark.parametrize("arguments", ACTING, ids=" ".join)
def test_a_setting_that_acts_is_neither(arguments: list[str]) -> None:
    assert built(arguments).unused == {}


def test_every_rule_has_a_case_and_every_setting_that_it_names_exists() -> None:
    cases = [setting.partition("=")[0] for _, setting, _ in [*REFUSED.values(), *NAMED.values()]]
    paths = {
        path
        for arguments in (LORA, TINY)
        for path in leaves(dataclasses.asdict(build(compose(arguments, None))))
    }
    for rule in idle_settings.RULES:
        if rule.settings.startswith(r"cluster\.(token"):
            continue  # inside a cluster only: below
        assert any(re.fullmatch(rule.settings, case) for case in cases), rule.settings
        assert any(re.fullmatch(rule.settings, path) for path in paths), rule.settings


def test_on_the_cluster_itself_how_to_reach_it_is_named() -> None:
    inside = [
        "cluster=attached",
        "cluster.address=auto",
        "storage=/tmp/x",
        "tracking.uri=http://h",
        "model=tiny",
    ]
    assert list(built([*inside, "cluster.detach=true"]).unused) == ["cluster.detach=True"]
    assert built([*inside, "cluster.wait_seconds=60"]).unused == {}


def test_a_file_of_ones_own_counts_as_given(tmp_path: Path) -> None:
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "mine.yaml").write_text("decay_share: 0.5\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="optim.decay_share   has no effect"):
        build(compose(["model=tiny", "optim=mine"], str(tmp_path)))


def test_the_default_of_a_nested_setting_in_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text(
        "defaults: [home]\nneighbours: {order: nearest_last}\n", encoding="utf-8"
    )
    assert build(compose(["model=tiny", "data=mine"], str(tmp_path))).data.neighbours.count == 0
    (tmp_path / "data" / "mine.yaml").write_text(
        "defaults: [home]\nneighbours: {order: shuffled}\n", encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="neighbours.order   has no effect"):
        build(compose(["model=tiny", "data=mine"], str(tmp_path)))


def test_no_password_stands_in_a_note() -> None:
    found = built(["model=tiny", "job=setup", "tracking.uri=http://me:secret@host"])
    assert "tracking.uri" in str(idle_settings.notes(found)) and "secret" not in str(
        idle_settings.notes(found)
    )


def test_what_was_found_outlives_a_change() -> None:
    config = built([*TINY, "+sweep=lora", "data=icd10", "~data.sources.terms", "optim.lr=3e-4"])
    assert config.unused and config.skipped
    later = changed(config, seed=7)
    assert (later.seed, later.unused, later.skipped) == (7, config.unused, config.skipped)


@pytest.fixture
def tiny(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    fetch.prepare(Model(name="tiny", source="tiny"))


def test_what_changes_nothing_does_not_change_a_sweeps_name() -> None:
    def name(*arguments: str) -> str:
        config = build(compose(["model=tiny", *arguments], None))
        return identity(config, "the rows", None)

    def with_value(config_path: str, value: Any, *arguments: str) -> str:
        raw = compose(["model=tiny", *arguments], None)
        config = build(raw)
        group, setting = config_path.split(".")
        inner = dataclasses.replace(getattr(config, group), **{setting: value})
        return identity(changed(config, **{group: inner}), "the rows", None)

    assert with_value("optim.decay_share", 0.7, CONSTANT) == name(CONSTANT)
    assert with_value("optim.decay_share", 0.7) != name()
    assert with_value("adapter.rank", 3, "adapter=full") == name("adapter=full")
    assert with_value("adapter.rank", 3) != name()
    assert with_value("optim.lr", 0.5, "+sweep=lora") == name("+sweep=lora")
    assert (
        with_value("sweep.search", "optuna")
        == with_value("sweep.scheduler", "halving")
        == with_value("sweep.mode", "max")
        == name()
    )
    assert with_value("sweep.search", "optuna", "+sweep=lora") != name("+sweep=lora")
    double = ["data=icd10", "data.sources.terms.weight=1", "data.sources.titles.weight=1"]
    assert name(*double) == name("data=icd10") != name(*double[:2])
    only = ["data=icd10", "~data.sources.terms"]
    assert name(*only, "data.sources.titles.weight=3") == name(*only)


def write(folder: Path, name: str, chat: bool) -> str:
    rows = [{"prompt": f"Case {number} {name}", "completion": "A"} for number in range(40)]
    if chat:
        keys = ("user", "assistant")
        rows = [
            {
                "messages": [
                    {"role": r, "content": t} for r, t in zip(keys, row.values(), strict=True)
                ]
            }
            for row in rows
        ]
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(folder / name)


@pytest.fixture
def planned(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`planned(code, *arguments)` makes a plan, expects an exit code and gives what was said."""

    def run(code: int, *arguments: str) -> str:
        assert (
            main(["model=tiny", "dry_run=true", f"storage={tmp_path / 'outputs'}", *arguments])
            == code
        )
        printed = capsys.readouterr()
        return printed.out + printed.err

    return run


def test_an_instruction_before_messages_is_refused_or_named(
    planned: Callable[..., str], tmp_path: Path
) -> None:
    write(tmp_path, "train.jsonl", chat=True)
    mine = ["data=files", f"data.folder={tmp_path}"]
    assert "data.instruction   has no effect: it is put before each prompt" in planned(
        2, *mine, "data.instruction=Sort."
    )
    space = "sweep.space={i: {path: data.instruction, type: grid, values: [a, b]}}"
    assert "sweep.space.i.path   has no effect" in planned(2, *mine, space)
    pairs = write(tmp_path, "pairs.jsonl", chat=False)
    said = planned(0, *mine, f"+data.sources.pairs.path={pairs}", "data.instruction=Sort.")
    assert "note    data.instruction is not put before the messages of train" in said
    assert "data.instruction" not in planned(0, *mine)


def test_variables_of_other_programs_are_named_unless_they_say_what_is_done(
    planned: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "is not used" not in planned(0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@server:5000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://registry")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    said = planned(0)
    assert (
        'MLFLOW_TRACKING_URI is not used: runs go to SQLite in the storage; tracking.uri="$MLFLOW_TRACKING_URI" takes it'
        in said
    )
    assert "secret" not in said
    for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_REGISTRY_URI", "RAY_ADDRESS"):
        assert f"note    {name} is not used" in said
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000/")
    said = planned(0, "tracking.uri=http://server:5000", "tracking.experiment=mine")
    assert "MLFLOW_TRACKING_URI" not in said and "MLFLOW_EXPERIMENT_NAME" not in said


def test_other_jobs_name_what_they_do_not_look_at(planned: Callable[..., str]) -> None:
    assert "note    train.steps=5 has no effect: job=setup does not look at it" in planned(
        0, "job=setup", "train.steps=5"
    )


def test_fields_of_messages_that_no_template_writes_are_named(
    planned: Callable[..., str], tmp_path: Path
) -> None:
    def turns(number: int) -> list[dict[str, Any]]:
        ask = {"role": "user", "content": f"Case {number}", "name": "Ann"}
        return [ask, {"role": "assistant", "content": "A", "weight": 1}]

    lines = [json.dumps({"messages": turns(number), "origin": "x"}) for number in range(40)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    said = planned(0, "data=files", f"data.folder={tmp_path}")
    for name in ("weight", "name"):
        lines = [line for line in said.splitlines() if "train: " in line]
        (line,) = [line for line in lines if f'"{name}"' in line]
        assert f'train: the template does not use "{name}" of messages, in 32 of 32 rows' in line
    assert "fields of messages not used" not in said  # each field is named once
    assert 'note    train: columns not used, with the number of their rows: "origin" (40)' in said
