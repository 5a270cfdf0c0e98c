"""The command line's own work: flags, messages for mistakes, folders of choices, what goes to which
stream.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from jobs.base_models import fetch
from jobs.config import Model
from orchestrator.cli import main
from orchestrator.config.compose import choices, compose
from orchestrator.config.dotted_paths import leaves
from orchestrator.config.validation import build


@pytest.fixture
def tiny(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model lies ready for commands that run in this process."""
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    fetch.prepare(Model(name="tiny", source="tiny"))


def test_help_names_every_choice_of_every_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == main(["-h", "nonsense"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for names in choices().values() for name in names)


def test_cfg_prints_yaml_that_can_be_used_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import yaml

    assert main(["+sweep=lora", "optim.lr=0.002", "--cfg", "job"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown == compose(["+sweep=lora", "optim.lr=0.002"], None)
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "again.yaml").write_text(
        "# @package _global_\n" + yaml.safe_dump(shown), encoding="utf-8"
    )
    assert compose(["experiment=again"], str(tmp_path)) == shown


@pytest.mark.parametrize("arguments", [["+sweep=lora"], ["job=check", "adapter=full"]])
def test_cfg_prints_every_setting_those_at_their_defaults_as_comments(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main([*arguments, "--cfg", "job"]) == 0
    comments = [line for line in capsys.readouterr().out.splitlines() if line.startswith("# ")]
    listed = dict(line[2:].split("=", 1) for line in comments if "=" in line)
    assert listed["train.max_length"] == "512" and listed["budget.minutes"] == "null"
    assert listed["registry.beat"] == "[base,baselines,champion]"
    raw = compose(arguments, None)
    everything = dataclasses.asdict(build(raw))
    for found in ("skipped", "unused", "left_open"):
        del everything[found]
    given, known = leaves(raw), leaves(everything)
    below = ("data.sources.", "sweep.space.")  # the user's own names
    missing = {path for path in known if path not in {*given, *listed}}
    assert {path for path in missing if not path.startswith(below)} == set()
    assert not {*given} & {*listed}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--cfg"], "--cfg needs a value"),
        (["--cfg", "nonsense"], "there is only --cfg job"),
        (["--config-dir", "/nowhere"], "/nowhere: no such folder"),
        (["-x"], "no such flag: -x"),
        (["hydra.run.dir=x"], "hydra.run.dir   no such setting"),
        (["hydra=x"], "hydra   no such setting"),
        (["optm=adamw"], "did you mean optim?"),
        (["nosuch.deep.one=1"], "no such setting"),
        (["optim.lr.x=3"], "optim.lr   must be a number"),
        (["~nosuch"], "'nosuch' does not exist"),
        (["~train"], "train   must be set"),
        (["=3"], "is not of the form name=value"),
        (["adapter.rank=null"], "must be a whole number, got null"),
        (["train={steps: 5}"], "is not one of default"),
        (["seed=[1]"], "must be a whole number, got [1]"),
        (["seed=-1"], "seed   must be at least 0"),
        (["optim.max_norm=nan"], "optim.max_norm   must be above 0, got nan"),
        (["dry_run=maybe"], "must be true or false, got 'maybe'"),
        (["data.folder=/tmp/${nosuch}"], "nosuch"),
        (["sweep.space=3"], "sweep.space   must be a group of settings"),
        (
            ["sweep.space={a: {path: optim.lr, type: choice, values: [[1]]}}"],
            "must be a number or a text, got [1]",
        ),
        (
            ["sweep.space={a: {path: adapter.rank, type: choice, values: [true]}}"],
            "adapter.rank must not be true",
        ),
        (
            ["sweep.space={a: {path: adapter.rank, type: uniform, low: 1, high: 4}}"],
            "must be a whole number, got 2.146",
        ),
        (
            ["data=icd10", "data.sources.terms.weight=0", "data.sources.titles.weight=0"],
            "every weight is 0",
        ),
        (["cluster.num_gpus=99"], "99 is more than the"),
        (["adapter=full", "+adapter.dropout=0.1"], "adapter.dropout   0.1 drops nothing"),
        (
            [
                "adapter=full",
                "sweep.space={d: {path: adapter.dropout, type: uniform, low: 0, high: 0.2}}",
            ],
            "adapter.dropout changes nothing",
        ),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_message_and_exit_code_2(
    arguments: list[str], expected: str, tiny: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model=tiny", "dry_run=true", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert expected in printed.err


def test_all_problems_of_all_kinds_are_told_at_once_and_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mistakes = [
        "oops",
        "model=smol",
        "adapter.rank=0",
        "optim.lrr=1",
        "train.steps=many",
        "adapter.kind=lorra",
        "seed=1,2",
        "adapter.kind=l",
    ]
    assert main(mistakes) == 2
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == "conf: 7 problems"
    assert sorted(line.split()[0] for line in rest) == sorted(
        ["oops", "model", "adapter.rank", "optim.lrr", "train.steps", "adapter.kind", "seed"]
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"sweep: {a: [1\n b: 2", "not valid YAML"),
        (b"\xff\xfe\x00", "utf-8"),
        (b"- a\n- b\n", "must be a group of settings"),
        (b"defaults:\n  - nosuch: 1\n", "defaults"),
        (b"a: ${nope}\n", "nope"),
        (b"nmae: x\n", "sweep.nmae"),
    ],
)
def test_a_broken_file_of_ones_own_is_one_message(
    content: bytes, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_bytes(content)
    assert main(["--config-dir", str(tmp_path), "+sweep=mine"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert expected in printed.err


def test_a_folder_of_ones_own_adds_choices(tmp_path: Path) -> None:
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "slow.yaml").write_text("lr: 1.0e-6\n", encoding="utf-8")
    assert compose(["optim=slow"], str(tmp_path))["optim"] == {"lr": 1e-6}
    assert choices(str(tmp_path))["optim"] == ["adamw", "slow"]


def test_a_folder_with_spaces_and_umlauts_holds_data_like_any_other(
    tiny: None, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "Größen, alle (1)"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes((toy / "train.jsonl").read_bytes())
    assert main(["model=tiny", "data=files", f"data.folder={folder}", "dry_run=true"]) == 0
    assert "train: 240 rows" in capsys.readouterr().out


def test_a_dry_run_says_in_json_what_it_says_in_words(
    tiny: None, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = [
        "model=tiny",
        "data=files",
        f"data.folder={toy}",
        "+sweep=lora",
        "sweep.num_trials=6",
        "dry_run=true",
        f"storage={tmp_path / 'none'}",
    ]
    assert main(base) == main([*base, "output=json"]) == 0
    words, line = capsys.readouterr().out.rstrip("\n").rsplit("\n", 1)
    told: dict[str, Any] = json.loads(line)["plan"]
    assert told["name"] in words
    assert len(told["points"]) == told["trials"] == words.count("\ntrial ") == 6
    assert set(told["points"][0]) == {"optim.lr", "adapter.rank"}
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["runs", "list"], "python -m orchestrator.runs list"),
        (["runs"], "python -m orchestrator.runs list"),
        (["drop", "lora-7f3a91", "3"], "python -m orchestrator.runs drop lora-7f3a91 3"),
        (
            ["watch", "lora-7f3a91", "--json"],
            "python -m orchestrator.runs watch lora-7f3a91 --json",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_command_about_sweeps_is_told_where_it_lives(
    typed: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.endswith(f"a command of its own: {line}\n")
