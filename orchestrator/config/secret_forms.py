"""In which forms a secret may stand in a text, and which variables of the environment hold one."""

from __future__ import annotations

import base64
import binascii
import functools
import json
import os
import re
from urllib.parse import quote, quote_plus

SHORTEST = 8
"""Characters of a secret that is looked for in texts; a shorter one would be found in any word."""
LONG = 12
"""Characters from which on a secret is found also within other text: no word holds it by chance."""
LONGEST_WORD = 12
"""Letters of a variable's value that may be an ordinary word, which is never taken out of texts."""
NAMES = re.compile(
    r"PASSW(OR)?D|PASSPHRASE|PASS$|_PWD$|SECRET|TOKEN|API_?KEY|AC(CESS|COUNT)_?KEY|CREDENTIAL"
    r"|CONNECTION_STRING"
)
"""Variables whose value is a secret."""
IDENTIFIER = re.compile(r"[A-Za-z]{1,12}([_./:-][A-Za-z]{1,12})*")
"""What the value of another variable called KEY may be: a column's name, a label's."""
OPEN_NAMES = ("_FILE", "_PATH", "_DIR", "_ID", "_URL", "_URI")
"""Endings of variables that say where a secret lies, or whose it is."""
KEY_ID = "ACCESS_KEY_ID"
"""An identifier that is hidden all the same, as half of a pair of keys."""
PATH = re.compile(r"(~|\.{1,2})?(/[A-Z]?[a-z\d._-]+){2,}/?")


def forms_of(secret: str) -> set[str]:
    """A secret as it was given, and as messages, JSON, Python and addresses write it."""
    bare = secret.strip()
    escaped = {quote(bare, safe=""), quote(bare), quote_plus(bare)}
    forms = {secret, bare, *escaped}
    forms |= {json.dumps(bare)[1:-1], json.dumps(bare, ensure_ascii=False)[1:-1], repr(bare)[1:-1]}
    return {form for form in forms if len(form) >= SHORTEST}


@functools.lru_cache(maxsize=16)
def pattern(secrets: frozenset[str]) -> re.Pattern[str]:
    """What finds each of these forms in a text, the longest first."""
    longest_first = sorted(secrets, key=lambda secret: (-len(secret), secret))
    return re.compile("|".join(map(guarded, longest_first)) or "(?!)")


def guarded(secret: str) -> str:
    """What finds one form: a word only as a whole word, and what is short only where it begins and
    ends, which an escaped character before it does not hide.
    """
    text = re.sub("%[0-9A-F]{2}", lambda code: f"(?i:{code[0]})", re.escape(secret))
    if secret.isalpha():
        return rf"(?<!\w){text}(?!\w)"
    if len(secret) >= LONG:
        return text
    escape = r"(?<=\\[nrt])|(?<=%[0-9A-Fa-f][0-9A-Fa-f])"
    return rf"(?:(?<![^\W_])|{escape}){text}(?![^\W_])"


def of_variable(name: str, value: str) -> list[str]:
    """The secrets that a variable of the environment holds, by its name."""
    name = name.upper()
    if "WEBHOOK" in name and (address := re.fullmatch(r"\s*\w+://[^/\s]+(/\S*)\s*", value)):
        return [value, *([address[1]] if re.search(r"\d", address[1]) else [])]
    if name.endswith(OPEN_NAMES) and not name.endswith(KEY_ID):
        return []
    is_key = name.endswith("_KEY") and IDENTIFIER.fullmatch(value) is None
    if not (is_key or NAMES.search(name)) or is_ordinary(value):
        return []
    if "TOKENS" in name and value.isdigit():
        return []  # how many
    if "CONNECTION_STRING" not in name:
        return [value]
    parts = (part.partition("=")[::2] for part in value.split(";"))
    return [value, *(text for key, text in parts if re.search(r"(?i)key|sig|passw|pwd", key))]


def is_ordinary(value: str) -> bool:
    """Whether a value is a word or a path, which stands in many texts and is no secret."""
    value = value.strip()
    if value.isalpha():
        return len(value) <= LONGEST_WORD
    return PATH.fullmatch(value) is not None or (
        value.startswith(("/", "~", ".")) and os.path.exists(os.path.expanduser(value))
    )


def is_signed(encoded: str) -> bool:
    """Whether a word is what follows Basic in a header: a name and a password."""
    try:
        return b":" in base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return False
