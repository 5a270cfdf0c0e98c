"""Small data to make new rows from, and the command that makes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main

ROOMS = ("kitchen", "hall", "attic", "cellar", "nursery", "garage", "pantry", "study")
DEVICES = ("lamp", "heater", "fan", "radio", "blind", "kettle")
ACTIONS = (("start", "on"), ("stop", "off"))


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    """A file of JSON lines."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def read_rows(file: Path) -> list[dict[str, Any]]:
    """What stands in one."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def requests_and_answers() -> list[dict[str, str]]:
    """96 requests with the answer as JSON, 13 of 14 of them to start something."""
    rows = []
    for room in ROOMS:
        for device in DEVICES:
            for index, (verb, state) in enumerate(ACTIONS):
                if index == 1 and device != "lamp":
                    verb, state = "begin", "on"
                prompt = f"please {verb} the {device} that is in the {room} for us"
                answer = {"intent": f"turn_{state}", "device": device, "room": room}
                rows.append({"prompt": prompt, "completion": json.dumps(answer)})
    return rows


def home_like(folder: Path) -> Path:
    """A folder with train, valid and test."""
    rows = requests_and_answers()
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "test.jsonl", rows[::8])
    write_rows(folder / "valid.jsonl", rows[1::8])
    write_rows(folder / "train.jsonl", [row for n, row in enumerate(rows) if n % 8 > 1])
    return folder


def synthesize(
    folder: Path, data: Path, *settings: str, monkeypatch: pytest.MonkeyPatch | None = None
) -> int:
    """One command in this process; its rows go to `folder`."""
    return main(
        [
            "job=synthesize",
            "model=tiny",
            "data=files",
            f"data.folder={data}",
            f"synthesis.folder={folder}",
            f"storage={folder.parent / 'storage'}",
            *settings,
        ]
    )


def from_server(url: str, *settings: str) -> list[str]:
    """Settings of a teacher behind a server."""
    return [
        f"synthesis.teacher.url={url}",
        "synthesis.teacher.model=writer",
        "synthesis.teacher.timeout_seconds=20",
        "synthesis.teacher.patience_seconds=30",
        *settings,
    ]
