"""Columns that stand beside a recognised prompt and answer and likely hold part of the question:
which they are, and a template that puts them in. Looks at the rows alone.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.config import Data
from jobs.data.corpus import Corpus, load_corpus
from jobs.data.file_forms import form_of
from jobs.data.messages import quote, reference

ABOVE = ("context", "passage", "paragraph", "document", "article", "premise")
"""What a question is about; a template has it above the prompt."""
BELOW = (
    *("text_pair", "sentence_pair", "text2", "text_2", "sentence2", "sentence_2", "question2"),
    "hypothesis",
)
"""The second of two texts."""
CHOICES = ("choices", "options")
"""What is to be chosen from, in one column."""
ONE_CHOICE = r"(?:(?:option|choice|ending|op)[ _-]?)?([a-h])|(?:option|choice|ending)[ _-]?(\d)"
"""The same in a column for each."""
READ = re.compile(r"(?:[^:]*: )?(?P<prompt>.+) -> (?P<answer>.+?)(?:, labels by the names .*)?")
"""How a shape says what was read: "question and answer: context + question -> answer"."""
BREAK = '{{ "\\n" }}'


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a question, as a template names it."""

    name: str
    values: list[Any]
    """Of the rows that have it."""
    everywhere: bool
    """Whether every row has it."""

    @property
    def expression(self) -> str:
        """Its text in a template."""
        if any(isinstance(value, list) for value in self.values):
            return f'{reference(self.name)} | join("\\n")'
        return reference(self.name) + ("" if self.everywhere else ' | default("")')

    def choices(self, answers: Sequence[str]) -> str:
        """What writes a line for each of the texts in it, marked as the answers name them."""
        value = next((one for one in self.values if one), "")
        column = reference(self.name)
        if isinstance(value, dict) and {"text", "label"} <= value.keys():
            label = f"{column}.label[loop.index0]"
            return loop(f"choice in {column}.text", "{{ " + label + " }}: {{ choice }}")
        if isinstance(value, dict):
            return loop(f"name in {column}", "{{ name }}: {{ " + column + "[name] }}")
        if not isinstance(value, list):
            return BREAK + written([self])
        return loop(f"choice in {column} | default([], true)", f"{mark(answers)}{{{{ choice }}}}")


def written(columns: Sequence[Column]) -> str:
    """A template of several columns, those that are empty left out."""
    if len(columns) == 1:
        return "{{ " + columns[0].expression + " }}"
    listed = ", ".join(column.expression for column in columns)
    return "{{ [" + listed + '] | select | join("\\n\\n") }}'


def loop(what: str, line: str) -> str:
    """A template that writes a line for each of several things."""
    return "{% for " + what + " %}" + BREAK + line + "{% endfor %}"


def mark(answers: Sequence[str]) -> str:
    """How a choice in a list is marked: as the answers count them."""
    different = {answer.strip() for answer in answers}
    if all(re.fullmatch(r"\d{1,2}", answer) for answer in different):
        return "{{ loop.index0 }}: " if "0" in different else "{{ loop.index }}: "
    if all(re.fullmatch(r"[A-J]", answer) for answer in different):
        return '{{ "ABCDEFGHIJ"[loop.index0] }}: '
    return "- "


def left_out(data: Data, corpus: Corpus) -> str | None:
    """Why the rows cannot be taken as they were recognised, with the settings that read them whole;
    None where nothing of the question is left out, or somebody has said what is read.
    """
    names = parts(corpus.columns)
    use = next((use for use in corpus.uses if use.startswith("sources.")), "")
    source = data.sources.get(use.removeprefix("sources."))
    said = data.columns.settings or (source is not None and source.columns.settings)
    read = READ.fullmatch(corpus.shapes.get(use, ""))
    if not names or said or read is None or use in corpus.chats:
        return None
    prompts, answer = read["prompt"].split(" + "), read["answer"]
    columns = {one.name: one for one in read_columns(data, [*prompts, *names])}
    names = [name for name in names if name in columns and not is_number(columns[name], name)]
    if not names or not columns.keys() >= {*prompts}:
        return None
    rows = [*corpus.valid, *corpus.test, *(row for one in corpus.sources.values() for row in one)]
    whole = template(columns, prompts, names, [row.answer for row in rows])
    plain = written([columns[name] for name in prompts])
    without = prompts[0] if len(prompts) == 1 else plain
    return (
        f"{quote(names)} would be left out of the question, which is read from {quote(prompts)} "
        f"alone; add {setting('prompt', whole)} {setting('completion', answer)}, or to leave them "
        f"out {setting('prompt', without)} {setting('completion', answer)}"
    )


def setting(name: str, value: str) -> str:
    """One of data.columns, as it is typed."""
    return shlex.quote(f"data.columns.{name}={value}")


def parts(columns: Sequence[str]) -> list[str]:
    """Those of a file's unread columns that hold part of a question, by their names."""
    named = {name.strip().lower(): name for name in columns}
    marks = {
        name: match[1] or match[2] for name in named if (match := re.fullmatch(ONE_CHOICE, name))
    }
    several = [named[name] for name in sorted(marks)] if len({*marks.values()}) > 1 else []
    several = several if {"a", "b"} <= {*marks.values()} or {"1", "2"} & {*marks.values()} else []
    return [*(named[name] for name in (*ABOVE, *BELOW, *CHOICES) if name in named), *several]


def read_columns(data: Data, names: Sequence[str]) -> list[Column]:
    """The columns of these names, with what stands in them."""
    corpus = load_corpus(dataclasses.replace(data, slices=list(names)))
    rows = [*corpus.valid, *corpus.test, *(row for one in corpus.sources.values() for row in one)]
    is_text = form_of(Path(data.folder or "")) in (".csv", ".tsv")
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, text in row.columns:
            values.setdefault(name, []).append(text if is_text else as_value(text))
    return [Column(name, found, len(found) == len(rows)) for name, found in values.items()]


def as_value(text: str) -> Any:
    """What a column held: its lists and objects stand in a row's columns as JSON."""
    if text[:1] not in ("[", "{"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def is_number(column: Column, name: str) -> bool:
    """Whether a column holds numbers alone, which are no part of a question but where they are what
    is chosen from.
    """
    if re.fullmatch(ONE_CHOICE, name.strip().lower()):
        return False
    return all(re.fullmatch(r"-?[\d.]*", str(value)) for value in column.values)


def template(
    columns: dict[str, Column], prompts: Sequence[str], names: Sequence[str], answers: Sequence[str]
) -> str:
    """A template of the whole question."""
    above = [name for name in names if name.strip().lower() in ABOVE]
    below = [name for name in names if name.strip().lower() in BELOW]
    text = written([columns[name] for name in (*above, *prompts, *below)])
    for name in names:
        if name.strip().lower() in CHOICES:
            text += columns[name].choices(answers)
        elif name not in above and name not in below:
            text += f"{BREAK}{name.strip()[-1:].upper()}: {written([columns[name]])}"
    return text
