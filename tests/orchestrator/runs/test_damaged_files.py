"""Files of a sweep that a disk has changed, or someone has cut: looking at it goes on, and a result
that cannot be shown is made again.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import credentials
from orchestrator.evaluation import kept_result
from orchestrator.output import result
from orchestrator.runs import cli
from orchestrator.storage.json_files import read_object, read_sealed, write_sealed
from tests.support.journals import write_sweep
from tests.support.results import outcome

WRONG: tuple[Any, ...] = (None, 0, 1.5, float("inf"), "", "it's", [], {}, {"a": 1}, 10**400)
"""What may stand in the place of anything in JSON."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a nested value."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


class Store:
    """A store that has all that is asked of it."""

    def __init__(self, run_id: Any) -> None:
        self.run_id = run_id
        self.version_number = 7

    def has_run(self, run_id: Any) -> bool:
        return True

    def version(self, name: Any, number: Any) -> Store:
        return self

    def holds(self, uri: Any) -> bool:
        return True

    def champion(self, name: Any) -> None:
        return None


def test_a_kept_result_in_which_anything_is_something_else_is_shown_or_made_again() -> None:
    kept = outcome().as_json()
    assert result.read(kept) is not None
    shown = refused = 0
    for path in places(kept):
        for wrong in (*WRONG, KeyError):
            changed = copy.deepcopy(kept)
            inner: Any = changed
            for key in path[:-1]:
                inner = inner[key]
            if wrong is KeyError:
                del inner[path[-1]]
            else:
                inner[path[-1]] = wrong
            told = result.read(changed)
            if told is None:
                refused += 1
                continue
            shown += 1
            assert result.text(told) and result.public(told)
            store: Any = Store(told.best.run_id if told.best else None)
            if kept_result.missing(store, told) is None:
                kept_result.renew(store, told)
    assert shown > 50 and refused > 50


@pytest.mark.parametrize("seed", range(4))
def test_whoever_looks_on_is_answered_whatever_a_disk_has_made_of_the_files(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(credentials, "SECRETS", set())
    monkeypatch.chdir(tmp_path)
    folder = write_sweep(tmp_path / "store" / "sweeps" / "a-1", 3, faulty=True)
    kept = outcome().as_json()
    files = {
        "journal.jsonl": (folder / "journal.jsonl").read_bytes(),
        "result.json": json.dumps(kept, indent=1).encode(),
        "config.yaml": b"seed: 0\ntrain:\n  steps: 160\nmodel:\n  name: tiny\n",
        "tracking.json": b'{"journal": "x", "offset": 3}',
        "tracking.told": bytes(range(64)),
    }
    source = random.Random(seed)
    for turn in range(35):
        for name, content in files.items():
            (folder / name).write_bytes(content)
        name = list(files)[turn % len(files)]
        damaged = bytearray(files[name])
        place = source.randrange(len(damaged))
        if turn % 4 == 0:
            del damaged[place:]
        elif turn % 4 == 1:
            damaged[place : place + 40] = bytes(len(damaged[place : place + 40]))
        else:
            for _ in range(1 + turn % 3):
                damaged[source.randrange(len(damaged))] ^= 1 << source.randrange(8)
        (folder / name).write_bytes(damaged)
        asked = [["list"], ["show", "a-1"], ["debug", "a-1"], ["compare", "a-1", "a-1"]]
        for words in [*asked, *([["report", "a-1"]] if turn % 3 == 0 else [])]:
            code = cli.main([*words, "--storage", str(tmp_path / "store")])
            out, err = capsys.readouterr()
            assert code in (0, 2) and (out or err), (name, words)
            assert "Traceback" not in err


@pytest.mark.parametrize("score", ['"1.0"', '"high"', "[]", "{}", "1e999", "null", "NaN"])
def test_a_score_that_is_none_hides_no_sweep(
    tmp_path: Path, score: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweeps" / "a-1"
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_text("")
    text = '{"metric": "m", "best": {"metrics": {"m": SCORE}}, "command": "it\'s"}'.replace(
        "SCORE", score
    )
    (folder / "result.json").write_text(text)
    for words in (["list"], ["show", "a-1"]):
        assert cli.main([*words, "--storage", str(tmp_path)]) == 0
        assert "a-1" in capsys.readouterr().out


def test_an_object_with_a_broken_character_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'{"command": "a\xba"}')
    assert read_object(tmp_path / "x.json") == {}


def test_a_result_that_a_disk_has_changed_is_none_and_one_of_an_earlier_version_is_taken(
    tmp_path: Path,
) -> None:
    file, kept = tmp_path / "result.json", outcome().as_json()
    write_sealed(file, kept)
    assert read_sealed(file) == json.loads(json.dumps(kept))
    assert result.read(read_sealed(file)) == result.read(kept)
    whole = file.read_bytes()
    digits = [at for at in range(len(whole)) if whole[at : at + 1].isdigit()]
    source = random.Random(5)
    refused = 0
    for at in [*digits, *(source.randrange(len(whole)) for _ in range(600))]:
        content = bytearray(whole)
        content[at] ^= 1
        file.write_bytes(content)
        told = result.read(read_sealed(file))
        assert told is None or told == result.read(kept), at
        refused += told is None
    assert refused >= len(digits)
    file.write_text(json.dumps(kept))
    assert result.read(read_sealed(file)) == result.read(kept)
