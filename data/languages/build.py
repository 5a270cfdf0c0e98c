"""Build the languages data sets: a request to a smart home in one of eight languages, and its
intent and slots as JSON, from the wordings in templates.py.

    python data/languages/build.py

Owns the .jsonl files and the README beside it; all are committed. Every choice follows from a
generator seeded with the language, so that the files are the same on each run.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

from templates import AREAS, DEVICES, ROOMS, WORDINGS  # noqa: E402

SIZES = {"train": 300, "valid": 60, "test": 120}
HELD_OUT_DEVICES = 3
"""The last so many devices occur in valid and test alone: a model that names one has copied it."""
VALUES = {"temperature": range(15, 29), "brightness": range(5, 101, 5), "timer": range(1, 91)}

README = """# languages: a request to a smart home in eight languages, its intent and slots

Each row asks for the intent of one sentence, with its slots, as one line of JSON:

    {example}

A folder for each language ({languages}), each with {train} rows to train on, {valid} that choose
the best trial and {test} that judge it. The languages are tasks of one fleet:
`python -m orchestrator +fleet=languages` (docs/fleet.md).

## How it is built
`python data/languages/build.py` writes every file in this folder, byte for byte the same on each
run. {intents} intents have two or three wordings in each language (`templates.py`); rooms, devices
and numbers are filled in at random. {held_out} of {devices} devices occur in `valid` and `test`
alone. No sentence occurs twice in a language.

## What a score means
The sentences are made from few wordings: people who speak to a home are less regular. A score says
how well a model has learned this form and copies what it has never seen, and how a fleet compares
with as many sweeps; it says little of the language.

## Origin and licence
Written for this project, without any other source, under the project's own licence (LICENSE).
"""


def rows_of(language: str) -> dict[str, list[dict[str, str]]]:
    """The rows of each split of a language."""
    draw = random.Random(language)
    splits: dict[str, list[dict[str, str]]] = {}
    sentences: set[str] = set()
    for split, count in SIZES.items():
        rows: list[dict[str, str]] = []
        while len(rows) < count:
            row = one(language, split, draw)
            if row["prompt"] not in sentences:
                sentences.add(row["prompt"])
                rows.append(row)
        splits[split] = rows
    return splits


def one(language: str, split: str, draw: random.Random) -> dict[str, str]:
    """A row, drawn at random."""
    intent = draw.choice(list(WORDINGS[language]))
    wording = draw.choice(WORDINGS[language][intent])
    room = draw.randrange(len(AREAS))
    devices = DEVICES[language]
    if split == "train":
        devices = devices[:-HELD_OUT_DEVICES]
    device = draw.choice(devices)
    value = draw.choice(VALUES.get(intent, range(1)))
    answer: dict[str, object] = {"intent": intent}
    if "{device}" in wording:
        answer["device"] = device
    if "{room}" in wording:
        answer["area"] = AREAS[room]
    if "{value}" in wording:
        answer["value"] = value
    sentence = wording.format(device=device, room=ROOMS[language][room], value=value)
    return {"prompt": sentence, "completion": text(answer)}


def text(value: object) -> str:
    """One line of JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def main() -> None:
    """Write everything."""
    for language in WORDINGS:
        folder = FOLDER / language
        folder.mkdir(exist_ok=True)
        for split, rows in rows_of(language).items():
            lines = "".join(text(row) + "\n" for row in rows)
            (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    page = README.format(
        example=text(rows_of("en")["train"][0]),
        languages=", ".join(WORDINGS),
        intents=len(WORDINGS["en"]),
        held_out=HELD_OUT_DEVICES,
        devices=len(DEVICES["en"]),
        **SIZES,
    )
    (FOLDER / "README.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
