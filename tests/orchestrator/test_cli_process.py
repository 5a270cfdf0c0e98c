"""The command as a process of its own: streams that are closed, full or plain ASCII, and Ctrl-C
before anything has started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, Finished, environment


def shell(cache: Path, *arguments: str) -> Finished:
    """A command as a user runs it."""
    line = [sys.executable, "-m", "orchestrator", *arguments]
    done = subprocess.run(
        line,
        capture_output=True,
        text=True,
        env=environment(cache),
        cwd=ROOT,
        timeout=300,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


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
        timeout=300,
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
        out, err = process.communicate(timeout=300)
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
        out, err = process.communicate(timeout=300)
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
