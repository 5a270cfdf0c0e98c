"""Commands and files with drawn mistakes: each is planned or answered with exit code 2 and a
message, never with a traceback or a hang, and nothing is left behind.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.base_models import fetch
from jobs.config import Model
from orchestrator.cli import main
from tests.support import mutations

LIMIT = 60
"""Seconds after which a command counts as hanging."""
FEW, MANY = range(40), range(40, 540)
KNOWN = [path for path in mutations.paths() if not path.startswith(mutations.LEFT_ALONE)]


@pytest.fixture
def tiny(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    fetch.prepare(Model(name="tiny", source="tiny"))


@contextmanager
def bounded(what: str) -> Iterator[None]:
    """Fails where something takes longer than the limit."""

    def late(*_: object) -> None:
        raise TimeoutError(f"{LIMIT} seconds: {what}")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def answered(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One command is planned, or refused with a message; nothing is written."""
    before = sorted(str(file) for file in folder.rglob("*"))
    line = [*words, "dry_run=true", f"storage={folder / 'outputs'}"]
    try:
        with bounded(" ".join(line)):
            code = main(line)
    except BaseException as error:
        raise AssertionError(f"{line}: {error!r}") from error
    told = capsys.readouterr()
    assert code in (0, 2), (line, told)
    assert "Traceback" not in told.out + told.err, (line, told)
    if code == 2:
        assert told.err.strip(), line
    assert sorted(str(file) for file in folder.rglob("*")) == before, line


def rows_in(folder: Path) -> Path:
    """A folder of rows that are right."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in mutations.ROWS)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
    return folder


def commands(seeds: range, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = rows_in(tmp_path / "rows")
    for seed in seeds:
        first = ["model=tiny", "data=files", f"data.folder={data}"]
        answered([*first, *mutations.command(seed, KNOWN)], tmp_path, capsys)


def files(seeds: range, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in seeds:
        name, content = mutations.file_of_rows(seed)
        folder = tmp_path / f"rows{seed}"
        folder.mkdir()
        (folder / name).write_bytes(content)
        first = ["model=tiny", "data=files", f"data.folder={folder}"]
        answered([*first, "train.steps=4", "train.eval_every=2"], tmp_path, capsys)


@pytest.mark.usefixtures("tiny")
def test_commands_with_drawn_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands(FEW, tmp_path, capsys)


@pytest.mark.usefixtures("tiny")
def test_files_with_drawn_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files(FEW, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_many_commands_with_drawn_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands(MANY, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_many_files_with_drawn_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files(MANY, tmp_path, capsys)
