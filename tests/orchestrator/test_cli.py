"""The command line's own work: flags, the text of settings, folders of choices, what goes to which
stream.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.base_models import fetch
from jobs.config import Model
from orchestrator.cli import main
from orchestrator.config.compose import choices, compose
from tests.conftest import ROOT, Finished, environment

TEXTS = [
    "12e4567",
    "0123456",
    "2024_1",
    "1.50",
    "true",
    "2024-01-02",
    "a,b",
    "a b",
    "x=y",
    "{x: 1}",
    "Größe (1)",
    "[1]",
    'q"x',
    "b\\",
    "it's",
]
SENTENCES = [
    '"Hi", she said: {x}',
    "costs ${5}",
    "\\${x}",
    "a\\",
    '\\"',
    "'",
    "1,2",
    "a\nb",
    "x # y",
    "~",
]


@pytest.fixture
def tiny(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model lies ready for commands that run in this process."""
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    fetch.prepare(Model(name="tiny", source="tiny"))


def shell(cache: Path, *arguments: str) -> Finished:
    """A command as a user runs it."""
    line = [sys.executable, "-m", "orchestrator", *arguments]
    done = subprocess.run(
        line,
        capture_output=True,
        text=True,
        env=environment(cache),
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_setting_holds_what_was_typed(text: str) -> None:
    composed = compose(
        [f"model.revision={text}", f"data.folder=/tmp/{text}", f"storage={text}"], None
    )
    assert (composed["model"]["revision"], composed["data"]["folder"], composed["storage"]) == (
        text,
        f"/tmp/{text}",
        text,
    )


@pytest.mark.parametrize("text", [*TEXTS, *SENTENCES])
def test_a_prompt_may_hold_any_punctuation(text: str) -> None:
    composed = compose([f"prompt={text}", f"data.instruction={text}"], None)
    assert (composed["prompt"], composed["data"]["instruction"]) == (text, text)


def test_quotes_around_a_text_setting_are_hydras_and_null_is_nothing() -> None:
    composed = compose(
        ["data.folder='a b'", 'model.revision="7"', "tracking.uri=null", "prompt="], None
    )
    assert (composed["data"]["folder"], composed["model"]["revision"]) == ("a b", "7")
    assert composed["tracking"]["uri"] is None
    assert composed["prompt"] == ""


def test_an_environment_variable_can_name_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_ROWS", "/some/where")
    assert compose(["data.folder=${oc.env:MY_ROWS}/x"], None)["data"]["folder"] == "/some/where/x"


def test_the_plus_before_a_group_or_a_setting_may_be_left_out() -> None:
    assert compose(["sweep=lora", "experiment=tiny"], None) == compose(
        ["+sweep=lora", "+experiment=tiny"], None
    )
    assert (
        compose(["+prompt=x"], None) == compose(["prompt=x"], None) == compose(["++prompt=x"], None)
    )


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
        (["data.sources.terms.weight=0", "data.sources.titles.weight=0"], "every weight is 0"),
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


def test_the_program_itself_says_nothing_on_stdout_when_it_refuses(cache: Path) -> None:
    done = shell(cache, "model=tiny", "optim.lrr=1")
    assert (done.code, done.out) == (2, "")
    assert done.err == "conf: 1 problem\n  optim.lrr   no such setting; did you mean optim.lr?\n"


def test_a_reader_that_goes_away_is_no_crash(cache: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, "-m", "orchestrator", "--cfg", "job"]
    buffered = {
        name: value for name, value in environment(cache).items() if name != "PYTHONUNBUFFERED"
    }
    done = subprocess.run(
        line,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env=buffered,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line_with_a_remedy(cache: Path) -> None:
    line = [sys.executable, "-m", "orchestrator", "--cfg", "job"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            line,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(cache),
            cwd=ROOT,
            check=False,
        )
    assert done.returncode == 1
    assert (
        done.stderr.count("\n") == 1 and "No space left on device; free some space" in done.stderr
    )


def test_ctrl_c_while_planning_is_one_line_and_exit_code_130(cache: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "train.jsonl"
    os.mkfifo(pipe)  # reading it waits until someone writes: the plan never gets further
    line = [
        sys.executable,
        "-m",
        "orchestrator",
        "model=tiny",
        f"+data.sources.pipe.path={pipe}",
        "dry_run=true",
    ]
    process = subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(cache),
        cwd=ROOT,
    )
    with pipe.open("w"):  # opens as soon as the other side reads
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "error: interrupted; the same command continues\n"


@pytest.mark.parametrize("module", ["hydra", "difflib"])
def test_ctrl_c_while_libraries_are_imported_is_one_line_and_exit_code_130(
    cache: Path, tmp_path: Path, module: str
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / f"{module}.py").write_text(
        f"exec({f'open({str(pipe)!r}).read()'!r})", encoding="utf-8"
    )
    here = environment(cache) | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    line = [sys.executable, "-m", "orchestrator", "dry_run=true"]
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=here, cwd=tmp_path
    )
    with pipe.open("w"):
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (
        130,
        "",
        "error: interrupted; the same command continues\n",
    )


def test_neither_an_ascii_terminal_nor_a_torn_file_of_an_earlier_run_keeps_the_plan_back(
    toy: Path, cache: Path, tmp_path: Path
) -> None:
    storage = tmp_path / "a storage"
    storage.mkdir()
    (storage / "rates.json").write_text('{"half', encoding="utf-8")
    line = [
        "-m",
        "orchestrator",
        "model=tiny",
        "data=files",
        f"data.folder={toy}",
        "dry_run=true",
        f"storage={storage.as_uri()}",
    ]
    ascii_only = environment(cache) | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, *line], env=ascii_only, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1 trial in 1 pack" in done.stdout and "\\xb7" in done.stdout


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["runs", "list"], "python -m orchestrator.runs list"),
        (["runs"], "python -m orchestrator.runs list"),
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
