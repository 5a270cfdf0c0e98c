"""Rows that belong together: one conversation, written out once per turn or branching after its
first turns.

Owns which of them must stay on one side of a split. Equal prompts are prompt_keys.py's; what is
dropped or cut is corpus.py's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from jobs.data.prompt_keys import turn_key
from jobs.data.readers import Row

MOST_BRANCHES = 8
"""A beginning after which more than so many different things are said is no conversation of its
own, but what many have in common: a greeting, or examples that stand before each question.
"""


def groups_of(splits: Sequence[list[Row]]) -> dict[str, str]:
    """The smallest key of a row's conversation by the row's key, for rows that share one with rows
    of another key.

    Two rows are of one conversation when they begin with the same turns, up to and including an
    answer: the first turns in which not many, and not all, rows are alike. What the system says is
    part of the first turn.
    """
    rows = [row for split_rows in splits for row in split_rows]
    if not any(message["role"] == "assistant" for row in rows for message in row.context):
        return {}
    digests: dict[tuple[str, str], bytes] = {}
    paths = [path_of(row, digests) for row in rows]
    followers: dict[bytes, set[bytes]] = {}
    sizes: dict[bytes, int] = {}
    for path in paths:
        for depth, beginning in enumerate(path):
            sizes[beginning] = sizes.get(beginning, 0) + 1
            if depth + 1 < len(path):
                followers.setdefault(beginning, set()).add(path[depth + 1])
    common = {beginning for beginning, after in followers.items() if len(after) > MOST_BRANCHES}
    common |= {
        beginning
        for beginning, size in sizes.items()
        if size == len(rows) and len(followers.get(beginning, ())) > 1
    }
    roots: dict[str, str] = {}
    firsts: dict[bytes, str] = {}
    for row, path in zip(rows, paths, strict=True):
        shared = max(
            (depth + 1 for depth, beginning in enumerate(path) if beginning in common), default=0
        )
        if shared < len(path):
            first = firsts.setdefault(path[shared], row.key)
            join(roots, first, row.key)
    keys = {row.key for row in rows}
    members: dict[str, list[str]] = {}
    for key in keys:
        members.setdefault(root_of(roots, key), []).append(key)
    return {key: min(group) for group in members.values() if len(group) > 1 for key in group}


def path_of(row: Row, digests: dict[tuple[str, str], bytes]) -> list[bytes]:
    """A digest of the row's turns up to each answer, one after the other; the last is the whole
    row's. `known` keeps what plain turns come to: those of a conversation stand in many rows.
    """
    path = []
    digest = hashlib.blake2b(digest_size=12)
    for message in row.messages:
        plain = (message["role"], message["content"]) if len(message) == 2 else None
        turn = digests.get(plain) if plain is not None else None
        if turn is None:
            turn = hashlib.blake2b(repr(turn_key(message)).encode(), digest_size=12).digest()
            if plain is not None:
                digests[plain] = turn
        digest.update(turn)
        if message["role"] == "assistant":
            path.append(digest.digest())
    return path


def root_of(roots: dict[str, str], key: str) -> str:
    """The key that stands for a key's group."""
    while roots.get(key, key) != key:
        roots[key] = key = roots.get(roots[key], roots[key])
    return key


def join(roots: dict[str, str], left: str, right: str) -> None:
    """Make two groups one."""
    first = root_of(roots, left)
    second = root_of(roots, right)
    if first != second:
        roots[max(first, second)] = min(first, second)
