"""Build the support data set, a request in one of five languages to its intent and slots as JSON,
with the reply where it is a fixed one, from the templates inside home-assistant-intents.

    pip install home-assistant-intents==2026.11.25 hassil==3.13.0
    python data/support/build.py

Owns the .jsonl files and the README beside it; all are committed, so nobody needs the packages to
train. How a template is filled stands in data/home/build.py.
"""

from __future__ import annotations

import importlib.util
import json
import random
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

import building  # noqa: E402


def load(name: str, file: Path) -> ModuleType:
    """A file beside this one, or in the folder of another data set, as a module."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


home = load("home_templates", FOLDER.parent / "home" / "build.py")
home.SHARE_OF_POLITE = 0.0  # those words are English
vocabulary = load("support_vocabulary", FOLDER / "vocabulary.py")

LANGUAGES = ("de", "en", "es", "fr", "nl")
SIZES = {"train": 500, "valid": 50, "test": 100}
"""Rows of each language."""
USE = {"train": "training", "valid": "chooses the best trial", "test": "judges it"}
HELD_OUT_VALUES, HELD_OUT_WORDINGS, SHARE_OF_NEW_WORDINGS = 0.3, 0.15, 0.25
OPEN_LISTS = {"name", "area", "floor"}
"""Lists that this data set fills; templates with other lists of any text are left out."""

README = """# support: a request in one of five languages, its intent and slots as JSON, with a reply for some

Each row asks for what a household's support line calls the request: an intent and slots in the jargon of Home Assistant, as one line
of JSON, with the fixed `reply` of the language where there is one.

    {example}

{table}

A fifth of each file is in each of {languages} (`language`). `wording` says whether the row's sentence template occurs in
training (`known`) or not (`new`), `reply` whether its answer has one: {num_replies:,} of all rows have.

## How it is built
`python data/support/build.py` writes every file in this folder, byte for byte the same on each run, from
`home-assistant-intents==2026.11.25` and `hassil==3.13.0`.

1. {num_templates:,} sentence templates, written by the volunteers of Home Assistant, are filled at random. Values of closed slots are
   the templates' own; rooms, floors and devices are made up (`vocabulary.py`). Templates that take any text are left out.
2. Of the devices 30 % occur in `valid` and `test` alone, and so do 15 % of the templates, of which a quarter of the held-out rows
   are made.
3. A sentence with two answers, in whichever languages, has no single right one and is dropped, and so is one that occurred before.
4. Where the templates answer an intent with a fixed text, that is the `reply`; answers with the state of a device in them need
   that state and are left out.

## What a score means
The sentences are made from templates: customers are less regular. A score says how well a model has learned this grammar in five
languages, copies what it has never seen, and keeps to the form.

## Origin and licence
Sentence templates and replies of Home Assistant, The Home Assistant Authors (https://github.com/OHF-Voice/intents), released under
CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/); the package that carries them is under the Apache License 2.0. Changed: filled in
with made-up values. The rows here are under CC BY 4.0 as well.
"""


class Writer(home.Writer):
    """Fills the templates of one language."""

    def __init__(self, language: str, lists: dict[str, Any], rules: dict[str, Any]) -> None:
        self.lists, self.rules = lists, rules
        self.closed = {"area": vocabulary.AREAS[language], "floor": vocabulary.FLOORS[language]}
        names = vocabulary.names(language)
        self.open = {
            held_out: {
                "name:button": [
                    name for name in names if (building.share(name) < HELD_OUT_VALUES) == held_out
                ]
            }
            for held_out in (False, True)
        }


def lists_of(expression: Any, rules: dict[str, Any], seen: tuple[str, ...] = ()) -> set[str]:
    """The names of all lists that an expression may draw from."""
    from hassil import expression as kinds

    if isinstance(expression, kinds.ListReference):
        return {expression.list_name}
    if isinstance(expression, kinds.RuleReference):
        name = expression.rule_name
        if name in seen or name not in rules:
            return {f"<{name}>"}
        return lists_of(rules[name], rules, (*seen, name))
    return {
        name for item in getattr(expression, "items", []) for name in lists_of(item, rules, seen)
    }


def usable(template: Any, lists: dict[str, Any], rules: dict[str, Any]) -> bool:
    """Whether this data set has values for all of a template's lists."""
    from hassil.parse_expression import parse_sentence

    closed = {name for name, entry in lists.items() if "values" in entry or "range" in entry}
    return lists_of(parse_sentence(template.text).expression, rules) <= closed | OPEN_LISTS


def replies_of(language: str) -> dict[str, dict[str, str]]:
    """Intent -> name of the response -> its text, of fixed texts only."""
    from home_assistant_intents import get_intents

    content = get_intents(language)
    assert content is not None
    return {
        intent: {
            name: " ".join(text.split())
            for name, text in responses.items()
            if text.strip() and not re.search(r"[{}%]", text)
        }
        for intent, responses in content["responses"]["intents"].items()
    }


def responses_of(language: str) -> dict[tuple[str, str], str]:
    """(intent, template's text) -> the name of its response."""
    from home_assistant_intents import get_intents

    content = get_intents(language)
    assert content is not None
    return {
        (intent, text): block.get("response", "default")
        for intent, entry in content["intents"].items()
        for block in entry["data"]
        for text in block["sentences"]
    }


def rows_of(language: str) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """More rows of each split than are needed, and the number of templates."""
    templates, lists, rules = home.read_templates(language)
    templates = [template for template in templates if usable(template, lists, rules)]
    groups, writer = home.grouped(templates), Writer(language, lists, rules)
    replies, responses = replies_of(language), responses_of(language)
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, size in SIZES.items():
        chance, held_out = random.Random(f"support {language} {name}"), name != "train"
        rows[name] = []
        while len(rows[name]) < 2 * size:
            new = held_out and chance.random() < SHARE_OF_NEW_WORDINGS
            template = home.pick(groups, chance, new)
            sentence, answer = writer.write(template, chance, held_out)
            response = responses[(template.intent, template.text)]
            reply = replies.get(template.intent, {}).get(response)
            meant = json.loads(answer) | ({} if reply is None else {"reply": reply})
            rows[name].append(
                {
                    "prompt": sentence,
                    "completion": json.dumps(meant, ensure_ascii=False, separators=(",", ":")),
                    "language": language,
                    "wording": "new" if new else "known",
                    "reply": "no" if reply is None else "yes",
                }
            )
    return rows, len(templates)


def build() -> dict[str, str]:
    """Content of every file by name. Reads the installed templates and nothing else."""
    building.require(home.VERSIONS)
    drawn, num_templates = {}, 0
    for language in LANGUAGES:
        drawn[language], count = rows_of(language)
        num_templates += count
    answers: dict[str, set[str]] = {}
    for rows in drawn.values():
        for row in (row for split in SIZES for row in rows[split]):
            answers.setdefault(building.normalise(row["prompt"]), set()).add(row["completion"])
    seen: set[str] = set()
    splits: dict[str, list[dict[str, Any]]] = {name: [] for name in SIZES}
    for name, size in SIZES.items():
        for language in LANGUAGES:
            clear = []
            for row in drawn[language][name]:
                key = building.normalise(row["prompt"])
                if key not in seen and len(answers[key]) == 1:
                    seen.add(key)
                    clear.append(row)
            assert len(clear) >= size, f"{language} {name}: {len(clear)}"
            splits[name] += clear[:size]
    files = {f"{name}.jsonl": building.json_lines(rows) for name, rows in splits.items()}
    rows = [row for each in splits.values() for row in each]
    readme = README.format(
        example=files["train.jsonl"].splitlines()[0],
        table=building.table(splits, USE),
        languages=", ".join(LANGUAGES),
        num_replies=sum(row["reply"] == "yes" for row in rows),
        num_templates=num_templates,
    )
    return files | {"README.md": readme}


if __name__ == "__main__":
    building.write(FOLDER, build())
