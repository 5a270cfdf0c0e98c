"""Near-twins in the rows that held-out rows are cut from: where a cut would leave many of them on
both sides, they are kept on one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from jobs.data.conversations import join, root_of
from jobs.data.near_duplicates import found, words_of
from jobs.data.readers import Row

BEGINNING = 40
"""Characters of a prompt whose first words are compared before all of them are."""
FIRST_WORDS = 3
Form = tuple[str, ...]


def leaks(rows: Sequence[Row], cut: Mapping[str, set[int]], most: float) -> bool:
    """Whether more than the share `most` of a split has a near-twin among the rows that stay. `cut`
    names the rows of each split by their ids.
    """
    moved = set().union(*cut.values())
    forms: dict[Form, list[int]] = {}
    for row in rows:
        if id(row) in moved and (form := form_of(row)):
            forms.setdefault(form, []).append(id(row))
    beginnings = {form[:FIRST_WORDS] for form in forms}
    leaked: set[int] = set()
    for row in rows:
        if id(row) not in moved and may_begin(row, beginnings):
            leaked.update(forms.get(form_of(row), ()))
    return any(len(ids & leaked) > most * len(ids) for ids in cut.values())


def with_twins(rows: Iterable[Row], groups: Mapping[str, str]) -> dict[str, str]:
    """The groups of `conversations.groups_of` with near-twins in one: rows whose prompts hold the
    same words one after the other, whatever the case, accents and punctuation.
    """
    roots: dict[str, str] = {}
    firsts: dict[Form, str] = {}
    keys = set()
    for row in rows:
        keys.add(row.key)
        join(roots, groups.get(row.key, row.key), row.key)
        if form := form_of(row):
            join(roots, firsts.setdefault(form, row.key), row.key)
    return {key: root for key in keys if (root := root_of(roots, key)) != key or key in roots}


def form_of(row: Row) -> Form:
    """What near-twins have in common; nothing for signs alone, which say nothing of each other."""
    return tuple(words_of(row))


def may_begin(row: Row, beginnings: set[Form]) -> bool:
    """Whether a row's first words are among those; True where they cannot be told apart quickly."""
    beginning = row.key[:BEGINNING]
    if not beginning.isascii():
        return True
    words = found(beginning)
    is_whole = len(row.key) <= BEGINNING
    if not is_whole and len(words) <= FIRST_WORDS:
        return True
    return tuple(words[:FIRST_WORDS]) in beginnings
