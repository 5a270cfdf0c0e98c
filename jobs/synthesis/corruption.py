"""Copies of a text as people type, shorten or dictate it. By rule, so that the same seed gives the
same copy and no teacher is needed. Rules on words are for English; typos are for any letters.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
TOKEN = re.compile(r"\S+")
ROWS_OF_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
SHORT_FORMS = {
    **{"and": "&", "with": "w/", "without": "w/o", "because": "bc", "please": "pls"},
    **{"you": "u", "are": "r", "your": "ur", "for": "4", "to": "2", "before": "b4"},
    **{"people": "ppl", "tomorrow": "tmrw", "tonight": "tonite", "minutes": "min"},
    **{"minute": "min", "hours": "hrs", "hour": "hr", "seconds": "sec", "degrees": "deg"},
    **{"temperature": "temp", "percent": "%", "number": "no.", "unspecified": "unsp."},
    **{"due to": "d/t", "history of": "h/o", "left": "lt", "right": "rt", "acute": "ac."},
    **{"chronic": "chr.", "bilateral": "bilat.", "syndrome": "sdr", "disease": "dis."},
    **{"fracture": "fx", "diagnosis": "dx", "treatment": "tx", "patient": "pt"},
    **{"question": "q", "information": "info", "message": "msg", "approximately": "approx."},
    **{"as soon as possible": "asap", "thanks": "thx", "okay": "k", "great": "gr8"},
    **{"department": "dept", "company": "co.", "government": "govt", "and so on": "etc."},
}
VOWELS = "aeiou"
SOUND_ALIKE = {
    **{"to": "two", "too": "to", "two": "to", "for": "four", "four": "for", "there": "their"},
    **{"their": "there", "your": "you're", "you're": "your", "its": "it's", "it's": "its"},
    **{"right": "write", "write": "right", "by": "buy", "buy": "by", "no": "know"},
    **{"know": "no", "hear": "here", "here": "hear", "whole": "hole", "week": "weak"},
    **{"weak": "week", "sale": "sail", "wait": "weight", "weight": "wait", "then": "than"},
}
FILLERS = ("um", "uh", "you know", "like", "so")
ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen"),
)
TENS = ("", "", *("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"))
SPOKEN_MARKS = {"%": " percent", "&": " and ", "+": " plus ", "@": " at ", "°": " degrees "}
FEWEST_LETTERS = 4
"""Shorter words are mistyped less, and can no longer be told."""


def corrupted(
    kind: str,
    text: str,
    protected: Collection[str],
    rate: float,
    chance: random.Random,
    short_forms: Mapping[str, str],
) -> str:
    """A copy of a text with mistakes of one kind. Words of `protected` texts, which the answer
    repeats, stay as they are.
    """
    guarded = {word.casefold() for value in protected for word in TOKEN.findall(value)}
    guarded |= {word.casefold() for value in protected for word in WORD.findall(value)}
    if kind == "typos":
        return mistyped(text, guarded, rate, chance)
    if kind == "abbreviations":
        return shortened(text, guarded, rate, chance, {**SHORT_FORMS, **short_forms})
    return dictated(text, guarded, rate, chance)


def mistyped(text: str, guarded: Collection[str], rate: float, chance: random.Random) -> str:
    """Letters swapped, left out, doubled, or one beside them hit."""
    words = [
        match
        for match in WORD.finditer(text)
        if len(match[0]) >= FEWEST_LETTERS and match[0].casefold() not in guarded
    ]
    chosen = some_of(words, rate, chance)
    for match in sorted(chosen, key=lambda word: -word.start()):
        text = text[: match.start()] + typo(match[0], chance) + text[match.end() :]
    return text


def typo(word: str, chance: random.Random) -> str:
    """A word with one slip, behind its first letter."""
    position = chance.randrange(1, len(word) - 1)
    kind = chance.choice(("swap", "drop", "double", "neighbour"))
    letter, following = word[position], word[position + 1]
    if kind == "swap" and letter != following:
        return word[:position] + following + letter + word[position + 2 :]
    if kind == "drop":
        return word[:position] + word[position + 1 :]
    beside = keys_beside(letter.lower())
    if kind == "neighbour" and beside:
        return word[:position] + chance.choice(beside) + word[position + 1 :]
    return word[:position] + letter + word[position:]


def keys_beside(letter: str) -> str:
    """The keys to the left and to the right of one."""
    for row in ROWS_OF_KEYS:
        position = row.find(letter)
        if position >= 0:
            return row[max(position - 1, 0) : position] + row[position + 1 : position + 2]
    return ""


def shortened(
    text: str,
    guarded: Collection[str],
    rate: float,
    chance: random.Random,
    short_forms: Mapping[str, str],
) -> str:
    """The usual short forms of words and phrases; where a text has none, long words lose their
    vowels or their end.
    """
    pattern = "|".join(re.escape(name) for name in sorted(short_forms, key=len, reverse=True))
    lowered = {name.casefold(): short for name, short in short_forms.items()}
    matches = [
        match
        for match in re.finditer(rf"(?<![\w'])(?:{pattern})(?![\w'])", text, re.IGNORECASE)
        if not any(word.casefold() in guarded for word in match[0].split())
    ]
    changes = [(match, lowered[match[0].casefold()]) for match in matches]
    # Two words at least: with one alone nearly all that is typed in short would be the same.
    wanted = max(2, round(rate * len(text.split())))
    changes = sorted(chance.sample(changes, min(wanted, len(changes))), key=lambda c: c[0].start())
    if len(changes) < wanted:
        spans = [match.span() for match, _ in changes]
        long_words = [
            match
            for match in WORD.finditer(text)
            if len(match[0]) > 6
            and match[0].casefold() not in guarded
            and not any(start <= match.start() < end for start, end in spans)
        ]
        few = chance.sample(long_words, min(wanted - len(changes), len(long_words)))
        changes += [(match, clipped(match[0], chance)) for match in few]
    for match, short in sorted(changes, key=lambda change: -change[0].start()):
        text = text[: match.start()] + short + text[match.end() :]
    return text


def clipped(word: str, chance: random.Random) -> str:
    """A long word in short."""
    if chance.random() < 0.5:
        return word[:4] + "."
    middle = "".join(letter for letter in word[1:-1] if letter.lower() not in VOWELS)
    return word[0] + middle + word[-1]


def dictated(text: str, guarded: Collection[str], rate: float, chance: random.Random) -> str:
    """What a recogniser of speech writes: no marks, no capitals, numbers in words, words that sound
    alike, a filler.
    """
    words = []
    for token in TOKEN.findall(text):
        if token.strip(".,;:!?\"'()").casefold() in guarded:
            words.append(token.strip(',;!?"()').rstrip(".:").lower())
            continue
        for mark, spoken in SPOKEN_MARKS.items():
            token = token.replace(mark, spoken)
        spoken = re.sub(r"\d+", lambda match: said_number(match[0], guarded), token)
        spoken = re.sub(r"[^\w\s']|_", " ", spoken)
        words += spoken.lower().split()
    alike = [index for index, word in enumerate(words) if word in SOUND_ALIKE]
    alike = [index for index in alike if words[index] not in guarded]
    for index in some_of(alike, max(rate, 0.5), chance) if alike else []:
        words[index] = SOUND_ALIKE[words[index]]
    if len(words) > 1 and chance.random() < 0.5:
        words.insert(0, chance.choice(FILLERS))
    return " ".join(words)


def said_number(digits: str, guarded: Collection[str]) -> str:
    """A number in words, one that the answer repeats as it stands."""
    return f" {digits if digits in guarded else in_words(digits)} "


def in_words(digits: str) -> str:
    """A number as it is said; long ones digit by digit."""
    if len(digits) > 3 or (digits.startswith("0") and len(digits) > 1):
        return " ".join(ONES[int(digit)] for digit in digits)
    value = int(digits)
    if value < 20:
        return ONES[value]
    if value < 100:
        return (TENS[value // 10] + (f" {ONES[value % 10]}" if value % 10 else "")).strip()
    more = f" {in_words(str(value % 100))}" if value % 100 else ""
    return f"{ONES[value // 100]} hundred{more}"


def some_of(items: list, rate: float, chance: random.Random) -> list:
    """A share of some items, one at least where there are any."""
    return chance.sample(items, min(len(items), max(1, round(rate * len(items)))))
