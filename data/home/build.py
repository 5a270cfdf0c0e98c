"""Build the home data set, a spoken request to a smart home and its intent and slots as JSON, from
the English sentence templates inside the package home-assistant-intents.

    pip install home-assistant-intents==2026.11.25 hassil==3.13.0
    python data/home/build.py

Owns the .jsonl files and the README beside it; all are committed, so nobody needs the packages to
train. Every choice follows from a hash or from a generator seeded with one, so that the files are
the same on each run.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import random
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

import vocabulary  # noqa: E402

VERSIONS = {"home-assistant-intents": "2026.11.25", "hassil": "3.13.0"}
SIZES = {"train": 8_000, "valid": 300, "test": 600}
HELD_OUT_VALUES = 0.3
"""Share of the values of open slots that only valid and test may use."""
HELD_OUT_WORDINGS = 0.15
"""Share of the templates that only valid and test may use."""
SHARE_OF_NEW_WORDINGS = 0.25
"""Of the rows of valid and test."""
POLITE = ("please ", "could you ", "can you ", "would you ")
SHARE_OF_POLITE = 0.15
MOST_GROUPS = 8
"""An intent counts as often as it has combinations of slots, up to this: timers have 79."""

README = """# home: a request to a smart home, its intent and slots as the answer

Each row asks for the intent of one sentence, with its slots, as one line of JSON:

    {example}

| file | rows | intents | distinct answers | use |
|---|---|---|---|---|
{table}

`wording` says whether the row's sentence template occurs in training (`known`) or not (`new`).

## How it is built
`python data/home/build.py` writes every file in this folder, byte for byte the same on each run,
from {packages}.

1. {num_templates:,} English sentence templates, written by the volunteers of Home Assistant, name
   {num_intents} intents and their slots. A template is filled at random, one way for each row: a
   wording, and values for its slots.
2. Values of closed slots (colours, states, numbers) are the templates' own. Rooms, devices,
   groceries, chores, announcements and titles are made up (`vocabulary.py`), since the templates
   leave them to each home.
3. Of the values of open slots (devices, groceries, ...) {values} % occur in `valid` and `test`
   alone, and so do {wordings} % of the templates, of which a quarter of the held-out rows are
   made. A device that a model names there it has copied from the sentence.
4. A sentence that two templates answer differently has no single right answer and is dropped
   ({num_ambiguous} were), and so is a sentence that occurred before.

## What a score means
The sentences are made from templates: people who speak to a home are less regular. A score says
how well a model has learned this grammar, copies what it has never seen, and keeps to the form;
it does not say how a voice assistant does in a living room.

## Origin and licence
Sentence templates of Home Assistant, The Home Assistant Authors
(https://github.com/OHF-Voice/intents), released under CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/); the package that carries them is under the Apache
License 2.0. Changed: filled in with made-up values. The rows here are under CC BY 4.0 as well.
"""


@dataclass(frozen=True)
class Template:
    """One sentence template of an intent."""

    intent: str
    group: str
    """Its combination of slots."""
    text: str
    slots: tuple[tuple[str, Any], ...]
    """What every sentence of it means beside the slots in its text."""
    domains: tuple[str, ...]
    """Of the device that {name} stands for."""


@dataclass
class Filled:
    """A template on its way to a sentence."""

    chance: random.Random
    held_out: bool
    domains: tuple[str, ...]
    slots: dict[str, Any] = field(default_factory=dict)


def hashed(text: str) -> float:
    """A number from 0 to 1 that depends on the text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12


def normalise(text: str) -> str:
    """Two sentences that differ in case, spacing or punctuation only are the same."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def read_templates(code: str = "en") -> tuple[list[Template], dict[str, Any], dict[str, Any]]:
    """All templates of a language, the lists of values and the rules that they name."""
    for package, version in VERSIONS.items():
        installed = importlib.metadata.version(package)
        if installed != version:
            raise SystemExit(
                f"{package} {installed} is installed; pip install {package}=={version}"
            )
    from hassil.parse_expression import parse_sentence
    from home_assistant_intents import get_intents

    language = get_intents(code)
    assert language is not None
    rules = {
        name: parse_sentence(body).expression for name, body in language["expansion_rules"].items()
    }
    templates = []
    for intent, content in sorted(language["intents"].items()):
        for block in content["data"]:
            context = block.get("requires_context") or {}
            domains = context.get("domain") or ["light"]
            slots = tuple(sorted((block.get("slots") or {}).items()))
            group = f"{block['metadata']['slot_combination']} {slots}"
            templates += [
                Template(
                    intent,
                    group,
                    text,
                    slots,
                    tuple([domains] if isinstance(domains, str) else domains),
                )
                for text in block["sentences"]
            ]
    return templates, language["lists"], rules


class Writer:
    """Fills templates."""

    def __init__(self, lists: dict[str, Any], rules: dict[str, Any]) -> None:
        self.lists = lists
        self.rules = rules
        self.closed = vocabulary.closed_values()
        self.open = {
            held_out: {
                name: [v for v in values if (hashed(v) < HELD_OUT_VALUES) == held_out]
                for name, values in vocabulary.open_values().items()
            }
            for held_out in (False, True)
        }

    def write(self, template: Template, chance: random.Random, held_out: bool) -> tuple[str, str]:
        """A sentence of a template, and its answer."""
        from hassil.parse_expression import parse_sentence

        filled = Filled(chance, held_out, template.domains)
        text = " ".join(self.fill(parse_sentence(template.text).expression, filled).split())
        if chance.random() < SHARE_OF_POLITE:
            text = chance.choice(POLITE) + text
        slots = dict(sorted((dict(template.slots) | filled.slots).items()))
        return text, json.dumps({"intent": template.intent} | slots, separators=(",", ":"))

    def fill(self, expression: Any, filled: Filled) -> str:
        """A random wording of an expression; its slots are noted."""
        from hassil import expression as kinds

        if isinstance(expression, kinds.TextChunk):
            return expression.original_text
        if isinstance(expression, kinds.Alternative):
            return self.fill(filled.chance.choice(expression.items), filled)
        if isinstance(expression, kinds.Permutation):
            items = filled.chance.sample(expression.items, len(expression.items))
            return " ".join(self.fill(item, filled) for item in items)
        if isinstance(expression, kinds.Group):
            return "".join(self.fill(item, filled) for item in expression.items)
        if isinstance(expression, kinds.RuleReference):
            return self.fill(self.rules[expression.rule_name], filled)
        text, value = self.value(expression.list_name, filled)
        filled.slots[expression.slot_name] = value
        return text

    def value(self, name: str, filled: Filled) -> tuple[str, Any]:
        """A value of a list: what is said, and what it means."""
        if name == "name":
            name = f"name:{filled.chance.choice(filled.domains)}"
            if name not in self.closed and name not in self.open[False]:
                name = "name:button"
        choices = self.closed.get(name) or self.open[filled.held_out].get(name)
        if choices:
            said = filled.chance.choice(choices)
            return said, said
        listed = self.lists[name]
        if span := listed.get("range"):
            number = filled.chance.randrange(span["from"], span["to"] + 1, span.get("step", 1))
            return str(number), number * span.get("multiplier", 1)
        return self.listed_value(filled.chance.choice(listed["values"]), filled)

    def listed_value(self, entry: Any, filled: Filled) -> tuple[str, Any]:
        """A value that the templates list themselves."""
        from hassil.parse_expression import parse_sentence

        if isinstance(entry, str):
            entry = {"in": entry, "out": None}
        said = self.fill(parse_sentence(entry["in"]).expression, filled)
        meant = entry["out"]
        return said, said if meant is None else meant


def grouped(templates: list[Template]) -> dict[str, dict[str, list[Template]]]:
    """Templates by intent and combination of slots."""
    groups: dict[str, dict[str, list[Template]]] = {}
    for template in templates:
        groups.setdefault(template.intent, {}).setdefault(template.group, []).append(template)
    return groups


def is_new(template: Template, siblings: list[Template]) -> bool:
    """Whether a template is held out: never all of a group."""
    first = min(siblings, key=lambda sibling: hashed(sibling.text))
    return template.text != first.text and hashed(f"new {template.text}") < HELD_OUT_WORDINGS


def pick(
    groups: dict[str, dict[str, list[Template]]], chance: random.Random, new: bool
) -> Template:
    """A template: first its intent, then its combination of slots."""
    while True:
        weights = [min(len(inside), MOST_GROUPS) for inside in groups.values()]
        inside = chance.choices(list(groups.values()), weights)[0]
        siblings = inside[chance.choice(sorted(inside))]
        choices = [template for template in siblings if is_new(template, siblings) == new]
        if choices:
            return chance.choice(choices)


def sample(templates: list[Template], writer: Writer) -> tuple[dict[str, list[Any]], int]:
    """The rows of each file, (sentence, answer, wording), and how many sentences were ambiguous."""
    groups = grouped(templates)
    answers: dict[str, set[str]] = {}
    rows: dict[str, list[Any]] = {}
    for name, size in SIZES.items():
        chance, held_out = random.Random(f"home {name}"), name != "train"
        rows[name] = []
        while len(rows[name]) < 1.3 * size:
            new = held_out and chance.random() < SHARE_OF_NEW_WORDINGS
            sentence, answer = writer.write(pick(groups, chance, new), chance, held_out)
            seen = answers.setdefault(normalise(sentence), set())
            if not seen:
                rows[name].append((sentence, answer, "new" if new else "known"))
            seen.add(answer)
    ambiguous = {sentence for sentence, meanings in answers.items() if len(meanings) > 1}
    for name, size in SIZES.items():
        clear = [row for row in rows[name] if normalise(row[0]) not in ambiguous]
        assert len(clear) >= size
        rows[name] = clear[:size]
    return rows, len(ambiguous)


def render(rows: list[Any]) -> str:
    """Rows as JSON lines, ordered by answer and sentence."""
    ordered = sorted(rows, key=lambda row: (row[1], row[0]))
    keys = ("prompt", "completion", "wording")
    return "".join(
        json.dumps(dict(zip(keys, row, strict=True)), separators=(",", ":")) + "\n"
        for row in ordered
    )


def intent_of(answer: str) -> str:
    """The intent that an answer names."""
    return json.loads(answer)["intent"]


def describe(rows: dict[str, list[Any]], templates: list[Template], num_ambiguous: int) -> str:
    """The README, with every number counted from the rows."""
    use = {"train": "training", "valid": "chooses the best trial", "test": "judges it"}
    table = [
        f"| {name}.jsonl | {len(part):,} | {len({intent_of(row[1]) for row in part})} | "
        f"{len({row[1] for row in part}):,} | {use[name]} |"
        for name, part in rows.items()
    ]
    return README.format(
        example=render(rows["train"]).splitlines()[SIZES["train"] // 2],
        table="\n".join(table),
        packages=" and ".join(f"`{name}=={version}`" for name, version in VERSIONS.items()),
        num_templates=len(templates),
        num_intents=len({template.intent for template in templates}),
        values=round(100 * HELD_OUT_VALUES),
        wordings=round(100 * HELD_OUT_WORDINGS),
        num_ambiguous=num_ambiguous,
    )


def build() -> dict[str, str]:
    """Content of every file by name. Reads the installed templates and nothing else."""
    templates, lists, rules = read_templates()
    rows, num_ambiguous = sample(templates, Writer(lists, rules))
    files = {f"{name}.jsonl": render(part) for name, part in rows.items()}
    return files | {"README.md": describe(rows, templates, num_ambiguous)}


def main() -> None:
    for name, content in build().items():
        (FOLDER / name).write_text(content, encoding="utf-8", newline="\n")
        print(
            f"data/home/{name}  {len(content.encode()):,} bytes, {content.count(chr(10)):,} lines"
        )
    most = Counter(
        intent_of(json.loads(line)["completion"]) for line in (FOLDER / "test.jsonl").open()
    )
    print(f"most frequent intents of test: {most.most_common(5)}")


if __name__ == "__main__":
    main()
