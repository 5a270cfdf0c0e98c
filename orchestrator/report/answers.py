"""The winner's answers to the test rows: which are wrong, in what way, and where. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from orchestrator.report.metric_text import rounded, wilson

MOST_EXAMPLES = 4
MOST_CHARACTERS = 400
"""Of one text of an example."""
MOST_LABELS = 30
FEW_ANSWERS = 0.5
"""With fewer different answers than this share of the rows they are labels."""


def is_right(row: dict[str, Any]) -> bool:
    """Whether an answer counts as right: as the row says, else whether it is the reference."""
    scores = row.get("scores")
    for entry in (row, scores if isinstance(scores, dict) else {}):
        for name in ("exact_match", "hit", "correct", "accuracy"):
            value = entry.get(name)
            if isinstance(value, bool | int | float):
                return bool(value)
    return str(row["prediction"]).strip() == str(row["reference"]).strip()


def error_kinds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Wrong answers by kind, the most frequent first: name, number, examples."""
    labels = {str(row["reference"]).strip() for row in rows}
    closed = len(labels) <= FEW_ANSWERS * len(rows)
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if not is_right(row):
            groups[kind_of(row, labels if closed else set())].append(row)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [
        {"kind": kind, "count": len(group), "examples": [example(row) for row in spread(group)]}
        for kind, group in ordered
    ]


def kind_of(row: dict[str, Any], labels: set[str]) -> str:
    """In what way an answer is wrong. `labels` are the answers of a closed task, else nothing."""
    answer, reference = str(row["prediction"]).strip(), str(row["reference"]).strip()
    if not answer:
        return "no answer"
    if plain(answer) == plain(reference):
        return "differs in case, blanks or punctuation only"
    if reference and reference in answer:
        return "holds the right answer and more"
    if reference.startswith(answer):
        return "breaks off"
    if labels:
        if answer not in labels:
            return "is none of the answers of the test split"
        if reference and answer[0] == reference[0]:
            return "another label, with the same beginning"
        return "another label"
    shared = len(set(plain(answer).split()) & set(plain(reference).split()))
    words = max(len(set(plain(reference).split())), 1)
    return "shares half of its words or more" if shared >= words / 2 else "says something else"


def plain(text: str) -> str:
    """A text in small letters, without punctuation and double blanks."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.casefold()).split())


def spread(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some rows of a group, from its whole length."""
    step = max(len(rows) // MOST_EXAMPLES, 1)
    return rows[::step][:MOST_EXAMPLES]


def example(row: dict[str, Any]) -> dict[str, str]:
    """One wrong answer as it is shown; of a long prompt its end, which holds the question."""
    prompt = str(row.get("text") or row.get("prompt") or "")
    cut = len(prompt) > MOST_CHARACTERS
    return {
        "prompt": ("… " if cut else "") + prompt[-MOST_CHARACTERS:],
        "reference": shortened(row["reference"]),
        "prediction": shortened(row["prediction"]),
    }


def shortened(text: Any) -> str:
    """The beginning of a text."""
    whole = str(text)
    return whole if len(whole) <= MOST_CHARACTERS else whole[:MOST_CHARACTERS] + " …"


def own_slices(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Shares of right answers by the length of the reference and, for closed answers, by label."""
    if not rows:
        return {}
    lengths = by_length(rows)
    slices = {"length of the reference answer": lengths} if len(lengths) > 1 else {}
    labels = Counter(str(row["reference"]).strip() for row in rows)
    if 1 < len(labels) <= FEW_ANSWERS * len(rows):
        frequent = [label for label, _ in labels.most_common(MOST_LABELS)]
        groups: dict[str, list[bool]] = {label: [] for label in frequent}
        for row in rows:
            label = str(row["reference"]).strip()
            if label in groups:
                groups[label].append(is_right(row))
        slices["label (the most frequent)"] = [share(name, g) for name, g in groups.items()]
    return slices


def by_length(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Shares of right answers in quarters of the rows by the reference's length in characters."""
    lengths = sorted(len(str(row["reference"])) for row in rows)
    ends = sorted({lengths[min(len(lengths) * n // 4, len(lengths) - 1)] for n in (1, 2, 3, 4)})
    groups: dict[int, list[bool]] = {end: [] for end in ends}
    for row in rows:
        groups[next(end for end in ends if len(str(row["reference"])) <= end)].append(is_right(row))
    low = 0
    slices = []
    for end, hits in groups.items():
        name = f"{low} to {end} characters" if low < end else f"{end} characters"
        slices.append(share(name, hits))
        low = end + 1
    return slices


def share(name: str, hits: list[bool]) -> dict[str, Any]:
    """One slice with its interval."""
    value = sum(hits) / len(hits)
    low, high = wilson(value, len(hits))
    return {
        "name": shortened(name),
        "value": rounded(value),
        "low": rounded(low),
        "high": rounded(high),
        "rows": len(hits),
    }
