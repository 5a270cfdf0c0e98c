"""Build the products data set, the attributes of a product to a short text for a catalogue, by a
generator: every product and every text is made up.

    python data/products/build.py

Owns the .jsonl files and the README beside it. Each choice comes from a generator that is seeded
with the row's own place.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER)]

import building  # noqa: E402
import vocabulary  # noqa: E402

SIZES = {"train": 1_500, "valid": 100, "test": 250}
USE = {"train": "training", "valid": "chooses the best trial", "test": "judges it"}
HELD_OUT = 0.3
"""Share of the products' names that only valid and test may use."""

README = """# products: attributes of a product to a short text for a catalogue

Made by a generator (`build.py`, `vocabulary.py`): no product, no shop and no customer is real, and a score here is no score on a real
catalogue. What it shows is whether a model keeps to the facts: each row holds attributes as JSON and a text that says all of them
and nothing else.

    {example}

{table}

`attributes` is how many there are, in the held-out rows too. Names of products (a mark and a number) are other ones in `train` than
in `valid` and `test`, and no set of attributes stands twice.

## How it is scored
`sweep.metric=jobs.evaluation.facts:facts_kept`: a text is right when every value of its attributes stands in it and none that is not
one of them: no other number, and no value that another product of the same file has for an attribute. How well it reads is not scored.

## Licence
Made for this project, under its licence, Apache-2.0.
"""


def product(chance: random.Random, held_out: bool) -> dict[str, str]:
    """A product: its kind, its name and some attributes, in the order in which a shop lists them."""
    marks = [mark for mark in vocabulary.MARKS if (building.share(mark) < HELD_OUT) == held_out]
    kind = chance.choice(sorted(vocabulary.KINDS))
    attributes = {
        "kind": kind,
        "name": f"{chance.choice(marks)} {chance.randrange(100, 1000)}",
        "material": chance.choice(vocabulary.MATERIALS),
        "colour": chance.choice(vocabulary.COLOURS),
    }
    measures = vocabulary.KINDS[kind]
    for measure in sorted(measures):
        if chance.random() < 0.7:
            attributes[measure] = chance.choice(measures[measure])
    if chance.random() < 0.5:
        attributes["warranty"] = chance.choice(vocabulary.WARRANTIES)
    if chance.random() < 0.5:
        attributes["origin"] = chance.choice(vocabulary.ORIGINS)
    return attributes


def text_of(attributes: dict[str, str], chance: random.Random) -> str:
    """A text that says all attributes and nothing else."""
    sentences = [chance.choice(vocabulary.OPENINGS).format(**attributes)]
    rest = [name for name in attributes if name not in ("kind", "name", "material", "colour")]
    for name in rest:
        wordings = vocabulary.MEASURES.get(name) or vocabulary.CLOSINGS[name]
        sentences.append(chance.choice(wordings).format(value=attributes[name]))
    return " ".join(sentences)


def build() -> dict[str, str]:
    """Content of every file by name."""
    splits: dict[str, list[dict[str, Any]]] = {}
    seen: set[str] = set()
    for name, size in SIZES.items():
        chance = random.Random(f"products {name}")
        splits[name] = []
        while len(splits[name]) < size:
            attributes = product(chance, held_out=name != "train")
            prompt = json.dumps(attributes, ensure_ascii=False)
            text = text_of(attributes, chance)
            if prompt not in seen:
                seen.add(prompt)
                splits[name].append(
                    {"prompt": prompt, "completion": text, "attributes": str(len(attributes))}
                )
    files = {f"{name}.jsonl": building.json_lines(rows) for name, rows in splits.items()}
    readme = README.format(
        example=files["train.jsonl"].splitlines()[0], table=building.table(splits, USE)
    )
    return files | {"README.md": readme}


if __name__ == "__main__":
    building.write(FOLDER, build())
