"""Answers that say the same in another form: a JSON object with its keys in another order, a list
with its parts in another order, white space around a text. Which form is wanted nothing in a
question tells, so it cannot be learned, and scores that compare texts count another one as wrong.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable

from jobs.data.messages import quote

LONGEST_LIST = 120
"""Characters of an answer that is a list of parts; what is longer is text."""
FEWEST = 2
"""Answers in another form than most from which on it is told."""
PADDED = 0.8
"""Share of the answers with white space around them from which on it is the file's habit."""
SEPARATORS = re.compile(r"\s*[,;|]\s*")


def notes(answers: Counter[str]) -> list[str]:
    """What is to be told of the answers of the training rows, with how many rows have each."""
    total = answers.total()
    said = []
    found = other_forms(answers, as_object)
    if found is not None:
        count, one, other = found
        said.append(
            f"train: {count:,} of {total:,} answers are the JSON of another one with its keys in "
            f"another order, such as {quote([one])} and {quote([other])}: which order is wanted "
            "cannot be learned, and scores that compare texts count the other one as wrong; write "
            "keys in one order, or choose by sweep.metric=field_agreement"
        )
    found = other_forms(answers, as_parts)
    if found is not None:
        count, one, other = found
        said.append(
            f"train: {count:,} of {total:,} answers are the parts of another one in another order, "
            f"such as {quote([one])} and {quote([other])}: which order is wanted cannot be "
            "learned, and scores count the other one as wrong; write parts in one order"
        )
    padded = {answer: rows for answer, rows in answers.items() if answer != answer.strip()}
    if sum(padded.values()) > PADDED * total:
        first = json.dumps(next(iter(padded))[:LONGEST_LIST], ensure_ascii=False)
        said.append(
            f"train: {sum(padded.values()):,} of {total:,} answers begin or end with white space, "
            f"which is trained as a part of them, such as {first}; data.columns.prompt=COLUMN "
            "data.columns.completion='{{ COLUMN | trim }}' take it off"
        )
    return said


def other_forms(
    answers: Counter[str], value_of: Callable[[str], tuple[str, str] | None]
) -> tuple[int, str, str] | None:
    """How many rows have their value in another form than most rows of that value, and two forms of
    one; None where hardly any do. `value_of` gives the value and the form of an answer.
    """
    forms: dict[str, Counter[str]] = {}
    for answer, rows in answers.items():
        found = value_of(answer)
        if found is not None:
            forms.setdefault(found[0], Counter())[found[1]] += rows
    several = [counts for counts in forms.values() if len(counts) > 1]
    others = sum(counts.total() - max(counts.values()) for counts in several)
    if others < FEWEST:
        return None
    one, other = [form for form, _ in several[0].most_common(2)]
    return others, one, other


def as_object(answer: str) -> tuple[str, str] | None:
    """A JSON object with its keys sorted, and as they stand; None for another answer."""
    if not answer.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or len(value) < 2:
        return None
    ordered = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return ordered, json.dumps(value, ensure_ascii=False)


def as_parts(answer: str) -> tuple[str, str] | None:
    """The parts of a short list sorted, and as they stand; None for another answer."""
    text = answer.strip()
    if len(text) > LONGEST_LIST or "\n" in text or text[:1] in "{[":
        return None
    parts = [part.casefold() for part in SEPARATORS.split(text)]
    if len(parts) < 2 or not all(parts):
        return None
    return "\n".join(sorted(parts)), ", ".join(parts)
