"""Labels that stand in files as whole numbers, and their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.data.column_names import PAIR
from jobs.data.messages import Malformed, as_text, describe
from jobs.data.shape_remedies import NAME_THEM, no_text
from jobs.files.json_types import Json

if TYPE_CHECKING:
    from jobs.data.shapes import Shape


class LabelNames:
    """Gives the names of data.label_names to whole numbers, and counts those without one."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.counts: Counter[str] = Counter()

    def answer(self, value: Json, shape: Shape) -> Json:
        """An answer of a shape as text, a whole number by its name where there are names. What is
        no text and no number is left to the reader, which says so.
        """
        number = whole_number(value)
        if number is not None and self.names:
            if not 0 <= number < len(self.names):
                raise Malformed(
                    f'"{shape.answer}" is {number}, and data.label_names has {len(self.names)} '
                    f"names, for 0 to {len(self.names) - 1}; add the missing ones"
                )
            self.counts["named"] += 1
            return self.names[number]
        if number is not None and shape.labels:
            self.counts["bare"] += 1
            if isinstance(value, float):
                self.counts["fractional"] += 1
        if isinstance(value, str) or value is None or not shape.answer:
            return value
        if shape.prompts and isinstance(value, list | dict):
            raise Malformed(no_text(shape.answer, value, shape.prompts))
        if shape.name == PAIR:
            raise Malformed(no_text_of_pair(value, shape.answer))
        return as_text(value, shape.answer)


def no_text_of_pair(value: Json, column: str) -> str:
    """Why an answer of the project's own format that is a number is refused: how it is written as
    text is for its author to say.
    """
    remedy = NAME_THEM.format(prompt="prompt", completion=column)
    return (
        f'"{column}" must be text, got {describe(value)}; write it in quotes, or have it read as '
        f"it stands: {remedy}"
    )


def whole_number(value: Json) -> int | None:
    """The whole number that a value is, or says; None for any other."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,9}", value.strip()):
        return int(value)
    return None
