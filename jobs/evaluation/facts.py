"""A metric of texts that are written from attributes: are all facts there, and is none invented?

    sweep.metric=jobs.evaluation.facts:facts_kept

The attributes are the last JSON object in a row's prompt. A text is right when it says the value of
each of them, and none that the prompt does not hold: no other number, and no value that another row
has for an attribute. Letter case and white space do not count.
"""

from __future__ import annotations

import json
import re

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def facts_kept(
    answers: list[str], references: list[str], rows: list[dict[str, str]]
) -> list[float]:
    """1 for each text with all facts of its row and no other, else 0."""
    attributes = [attributes_of(row["prompt"]) for row in rows]
    values: dict[str, set[str]] = {}
    for each in attributes:
        for name, value in each.items():
            values.setdefault(name, set()).add(value)
    return [
        float(not missing(answer, each) and not invented(answer, reference, each, values))
        for answer, reference, each in zip(answers, references, attributes, strict=True)
    ]


def attributes_of(prompt: str) -> dict[str, str]:
    """The last JSON object in a prompt, its values as texts; empty where there is none."""
    decoder, last = json.JSONDecoder(), {}
    start = prompt.find("{")
    while start >= 0:
        end = start + 1
        try:
            value, end = decoder.raw_decode(prompt, start)
        except ValueError:
            value = None
        if isinstance(value, dict):
            last = value
        start = prompt.find("{", end)
    return {str(name): folded(plain(each)) for name, each in last.items()}


def plain(value: object) -> str:
    """A value of JSON as a text would say it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def folded(text: str) -> str:
    """A text in the form in which it is looked for."""
    return " ".join(text.casefold().split())


def says(text: str, value: str) -> bool:
    """Whether a folded text holds a folded value as words of its own: 5 g is not in 15 g."""
    if not value:
        return True
    start = text.find(value)
    while start >= 0:
        end = start + len(value)
        if not goes_on(text[end : end + 2]) and not goes_on(text[max(start - 2, 0) : start][::-1]):
            return True
        start = text.find(value, start + 1)
    return False


def goes_on(beside: str) -> bool:
    """Whether the two characters beside a value, the nearer one first, are part of the same word or
    number.
    """
    nearest = beside[:1]
    if nearest in (".", ","):
        return beside[1:].isdigit()
    return nearest.isalnum() or nearest == "_"


def missing(answer: str, attributes: dict[str, str]) -> list[str]:
    """The attributes whose value a text does not say."""
    text = folded(answer)
    return [name for name, value in attributes.items() if not says(text, value)]


def invented(
    answer: str, reference: str, attributes: dict[str, str], values: dict[str, set[str]]
) -> list[str]:
    """What a text says that its row does not hold: numbers, and other values of attributes, also of
    those that the row does not have. Words that the reference says as well are no invention.
    """
    text, allowed = folded(answer), " ".join([*attributes.values(), folded(reference)])
    numbers = set(NUMBER.findall(text)) - set(NUMBER.findall(allowed))
    others = [
        value
        for each in values.values()
        for value in each
        if value and says(text, value) and not says(allowed, value)
    ]
    return [*sorted(numbers), *sorted(set(others))]
