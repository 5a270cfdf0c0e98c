"""Rows that were likely meant otherwise: the same question answered in two ways, one label written
in several, what a spreadsheet or a converted text has left in an answer's place.

Nothing is changed: whoever knows the rows decides. They are counted over all rows and named in the
plan, each kind in a line.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from functools import lru_cache

from jobs.data import answer_forms
from jobs.data.corpus import Corpus
from jobs.data.messages import quote
from jobs.data.readers import Row, normalise

REPEATS = 3
"""How often a label stands in the training rows, on average; answers that are rarer are texts."""
MOST_NAMED = 3
"""Labels of a kind that are named."""
MOST_LABELS = 5_000
"""Different answers up to which a task is one of labels."""
LONGEST_LABEL = 60
"""Characters of a label; what is longer is text."""
MISSING = {
    *("nan", "n/a", "na", "null", "none", "nil", "nat", "<na>", "undefined", "#n/a", "#na"),
    *("#value!", "#ref!", "#div/0!", "#name?", "#num!", "#null!"),
}
"""What programs write where there is no value, case folded."""
ROUNDED = re.compile(r"\d(\.\d+)?E[+-]\d+")
"""How a spreadsheet shows a number that is too long for it."""
QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019"}
LOST = "\ufffd"
"""What stands in the place of a character that could not be read."""
TWICE_ENCODED = re.compile(
    "[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac[\u2122\u0153\u009d\u201c\u2026]"
)
"""UTF-8 that was read as Windows-1252."""


def notes(corpus: Corpus) -> list[str]:
    """What is likely not meant, for the plan."""
    return [text for _, text in named_notes(corpus)]


def named_notes(corpus: Corpus) -> list[tuple[str, str]]:
    """The same, each with the name of the check that it belongs to (jobs/check_settings.py)."""
    train = [row for rows in corpus.sources.values() for row in rows]
    splits = {"train": train, "valid": corpus.valid, "test": corpus.test}
    answers = {split: Counter([row.answer for row in rows]) for split, rows in splits.items()}
    told: list[tuple[str, str]] = []
    for split, rows in splits.items():
        if len({row.key for row in rows}) < len(rows):
            told += [("contradictions", text) for text in conflicts(split, rows)]
            if split != "train":
                told += [("duplicates", text) for text in repeats(split, rows)]
        told += [("empty", text) for text in missing_values(split, rows, answers[split])]
        told += [("text", text) for text in rounded_numbers(split, answers[split])]
        told += [("text", text) for text in lost_characters(split, rows)]
    told += [("text", text) for text in quoted_answers(answers["train"])]
    told += [("labels", text) for text in answer_forms.notes(answers["train"])]
    return told + [("labels", text) for text in label_notes(answers)]


@lru_cache(maxsize=65_536)
def compared(answer: str) -> str:
    """An answer in the form in which two are compared; many rows have the same one."""
    return normalise(answer)


def conflicts(split: str, rows: Sequence[Row]) -> list[str]:
    """Rows that ask the same and are answered in two ways."""
    first_by_prompt: dict[str, Row] = {}
    prompts: dict[str, list[Row]] = {}
    for row in rows:
        first = first_by_prompt.setdefault(row.key, row)
        if first.answer != row.answer and compared(first.answer) != compared(row.answer):
            prompts.setdefault(row.key, [first]).append(row)
    if not prompts:
        return []
    one, other = next(iter(prompts.values()))[:2]
    share = f"{len(prompts):,} {'prompt is' if len(prompts) == 1 else 'prompts are'}"
    return [
        f"{split}: {share} answered in two ways or more: {quote([short(one.answer)])} "
        f"({one.place}) and {quote([short(other.answer)])} ({other.place})"
    ]


def repeats(split: str, rows: Sequence[Row]) -> list[str]:
    """Held-out rows that count one question several times."""
    counts = Counter((row.key, compared(row.answer)) for row in rows)
    again = len(rows) - len(counts)
    if not again:
        return []
    return [
        f"{split}: {again:,} of {len(rows):,} rows repeat prompt and answer of another one: the "
        "intervals of scores are too narrow"
    ]


def missing_values(split: str, rows: Sequence[Row], answers: Counter[str]) -> list[str]:
    """Answers and prompts that say that there is none."""
    kinds = {
        "answers": such(answers, lambda text: text.casefold() in MISSING),
        "prompts": Counter(row.key for row in rows if row.key in MISSING),
    }
    return [
        f"{split}: {kind} that look like a missing value: {named(counts)}; leave those rows out if "
        "that is what they are"
        for kind, counts in kinds.items()
        if counts
    ]


def rounded_numbers(split: str, answers: Counter[str]) -> list[str]:
    """Answers of which a spreadsheet has kept the first digits."""
    counts = such(answers, lambda text: ROUNDED.fullmatch(text) is not None)
    if not counts:
        return []
    return [
        f"{split}: answers that look like long numbers, which a spreadsheet has rounded: "
        f"{named(counts)}"
    ]


def such(answers: Counter[str], fits: Callable[[str], bool]) -> Counter[str]:
    """The answers of a kind, without white space around them."""
    counts: Counter[str] = Counter()
    for answer, count in answers.items():
        if len(answer) <= LONGEST_LABEL and fits(text := answer.strip()):
            counts[text] += count
    return counts


def lost_characters(split: str, rows: Sequence[Row]) -> list[str]:
    """Rows whose text has lost characters on its way."""
    odd = [row for row in rows if not (row.key.isascii() and row.answer.isascii())]
    kinds: list[tuple[str, Callable[[str], object]]] = [
        ("holds U+FFFD, which stands for a character that was lost", lambda text: LOST in text),
        ("looks like UTF-8 that was read in another encoding", TWICE_ENCODED.search),
    ]
    said = []
    for words, found in kinds:
        places = [row.place for row in odd if any(found(text) for text in texts_of(row))]
        if places:
            said.append(
                f"{split}: text of {len(places):,} of {len(rows):,} rows {words} "
                f"(first: {places[0]})"
            )
    return said


def quoted_answers(answers: Counter[str]) -> list[str]:
    """Answers that all stand in quotes: those are trained, too."""
    for answer in answers:
        text = answer.strip()
        if QUOTES.get(text[:1]) != text[-1:] or len(text) < 2:
            return []
    shown = next(iter(answers), "").strip()[:LONGEST_LABEL]
    return [f"train: every answer stands in quotes, which are trained as a part of it: {shown}"]


def label_notes(answers: dict[str, Counter[str]]) -> list[str]:
    """What is odd about answers that are labels: few different ones, which repeat."""
    train = answers["train"]
    if not are_labels(train):
        return []
    trained = {label_form(answer) for answer in train}
    labels: dict[str, Counter[str]] = {}
    for counts in answers.values():
        for answer, count in counts.items():
            labels.setdefault(label_form(answer), Counter())[answer] += count
    said = []
    several = [forms for forms in labels.values() if len(forms) > 1]
    look_alike = [forms for forms in several if len({composed(form) for form in forms}) == 1]
    if look_alike:
        said.append(
            "answers that look the same are written with other characters (an accent as a part of "
            f"its letter, NFC, or as one of its own, NFD) and trained as they stand: "
            f"{listed(look_alike)}{unseen_forms(answers, look_alike)}; write the files in NFC, as "
            "Python's unicodedata.normalize('NFC', text) does"
        )
    several = [forms for forms in several if forms not in look_alike]
    if several:
        said.append(
            "answers that differ only in case, spaces, marks at the end or how a number is written "
            f"are trained as they stand: {listed(several)}; write each label in one way"
        )
    if len(train) == 1:
        said.append(f"train: all answers are the same, {quote([short(next(iter(train)))])}")
    for split in ("valid", "test"):
        unseen = such(answers[split], lambda text: label_form(text) not in trained)
        if unseen:
            said.append(
                f"{split}: {unseen.total():,} of {answers[split].total():,} rows have an answer "
                f"that no training row has: {named(unseen)}"
            )
    return said


def are_labels(answers: Counter[str]) -> bool:
    """Whether answers are few different short ones, which repeat."""
    if not answers or len(answers) > MOST_LABELS or max(map(len, answers)) > LONGEST_LABEL:
        return False
    return len({label_form(answer) for answer in answers}) * REPEATS <= answers.total()


@lru_cache(maxsize=65_536)
def label_form(text: str) -> str:
    """A label in the form in which two are likely meant as one."""
    form = normalise(text).rstrip(".!;:, ")
    try:
        number = Decimal(form.replace(",", ""))
    except InvalidOperation:
        return form
    return str(number.normalize()) if number.is_finite() else form


def composed(text: str) -> str:
    """A text with each accent as a part of its letter."""
    return unicodedata.normalize("NFC", text)


def unseen_forms(answers: dict[str, Counter[str]], groups: Sequence[Counter[str]]) -> str:
    """How many held-out rows have some labels in a form that no training row has."""
    unseen = {form for forms in groups for form in forms} - answers["train"].keys()
    counts = {split: sum(answers[split][form] for form in unseen) for split in ("valid", "test")}
    return "".join(
        f"; {count:,} of {answers[split].total():,} {split} rows have one in characters that no "
        "training row has"
        for split, count in counts.items()
        if count
    )


def listed(groups: Sequence[Counter[str]]) -> str:
    """The first of some labels, each in all its forms."""
    shown = "; ".join(named(forms) for forms in groups[:MOST_NAMED])
    return shown + (f" and {len(groups) - MOST_NAMED} more" if len(groups) > MOST_NAMED else "")


def texts_of(row: Row) -> list[str]:
    """All that is said in a row."""
    return [str(message.get("content") or "") for message in row.messages]


def short(text: str) -> str:
    """A text that a line has room for."""
    return text if len(text) <= LONGEST_LABEL else f"{text[:LONGEST_LABEL]}..."


def named(counts: Counter[str]) -> str:
    """The most frequent of some texts, with how often they are there."""
    shown = [
        f"{quote([short(text)])} ({count:,})" for text, count in counts.most_common(MOST_NAMED)
    ]
    more = f" and {len(counts) - MOST_NAMED} more" if len(counts) > MOST_NAMED else ""
    return ", ".join(shown) + more
