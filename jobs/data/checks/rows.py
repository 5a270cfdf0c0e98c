"""Checks of rows by themselves: splits, empty, duplicate and contradictory rows, texts that were
damaged on their way, labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from jobs.data.checks.result import (
    MOST_EXAMPLES,
    CheckResult,
    asked,
    excerpt,
    groups_of_rows,
    place,
    share,
)
from jobs.data.corpus import Corpus
from jobs.data.messages import quote
from jobs.data.readers import Row
from jobs.data.row_quality import are_labels, compared, label_form, short

ONE_SIDED = 0.9
"""Share of the rows that one label may have before it is told."""
FEWEST_OF_LABEL = 5
"""Rows below which a label is hardly learned."""
FAR_APART = 0.2
"""Total variation distance between the labels of training and held-out rows from which on it is
told: so many rows would have to change their label.
"""
FEWEST_COMPARED = 50
"""Held-out rows below which their labels say little."""


def splits(corpus: Corpus) -> CheckResult:
    """How many rows each split has; a held-out split without any is fatal."""
    counts = {name: len(rows) for name, rows in groups_of_rows(corpus)}
    listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    result = CheckResult("splits", f"rows: {listed}", numbers=dict(counts))
    for split, rows in (("valid", corpus.valid), ("test", corpus.test)):
        synthetic = [row for row in rows if row.teacher]
        if synthetic:
            result.warnings.append(
                f"{split}: {share(len(synthetic), len(rows))} were written by a model "
                f"({synthetic[0].teacher}; first: {place(synthetic[0])}); judge on real rows alone"
            )
    empty = [split for split in ("valid", "test") if not counts[split]]
    if empty:
        named = " and ".join(f"data.{split}" for split in empty)
        result.fatal = (
            f"{named} has no rows, so nothing can be chosen or judged; name a file with rows, or "
            "leave the setting out to have the split cut from the training rows"
        )
    return result


def empty(corpus: Corpus, notes: Sequence[str]) -> CheckResult:
    """Prompts and answers that say nothing: signs alone, and what programs write for no value.
    Those without any character are refused when a file is read.
    """
    warnings = list(notes)
    numbers: dict[str, Any] = {}
    total = 0
    for name, rows in groups_of_rows(corpus):
        total += len(rows)
        silent = {
            "prompt": [row for row in rows if says_nothing(asked(row))],
            "answer": [
                row
                for row in rows
                if "tool_calls" not in row.messages[-1] and says_nothing(row.answer)
            ],
        }
        for kind, such in silent.items():
            if such:
                numbers.setdefault(name, {})[kind] = len(such)
                text = asked(such[0]) if kind == "prompt" else such[0].answer
                warnings.append(
                    f"{name}: the {kind} of {share(len(such), len(rows))} has no letter, digit or "
                    f"symbol, such as {excerpt(text)} ({place(such[0])})"
                )
    said = "each of" if not warnings else "not each of"
    return CheckResult("empty", f"{said} {total:,} rows says something", warnings, numbers=numbers)


def says_nothing(text: str) -> bool:
    """Whether a text has nothing but white space, dashes, dots, commas and the like."""
    return not text.strip(" \t\r\n-–—_.,;:…·•'\"`()[]{}/\\|")


def duplicates(corpus: Corpus, notes: Sequence[str]) -> CheckResult:
    """Rows that repeat prompt and answer of another row of their split; across sources too."""
    result = CheckResult("duplicates", "", list(notes))
    summaries = []
    train = [row for rows in corpus.sources.values() for row in rows]
    for split, rows in (("train", train), ("valid", corpus.valid), ("test", corpus.test)):
        first: dict[tuple[str, str], Row] = {}
        again: list[tuple[Row, Row]] = []
        for row in rows:
            earlier = first.setdefault((row.key, compared(row.answer)), row)
            if earlier is not row:
                again.append((row, earlier))
        result.numbers[split] = len(again)
        if again:
            summaries.append(f"{split} {share(len(again), len(rows))}")
        for row, earlier in again[:MOST_EXAMPLES]:
            result.details.append(
                f"{split}: {excerpt(asked(row))} ({place(row)}) repeats {place(earlier)}"
            )
    result.summary = "no row repeats another"
    if summaries:
        result.summary = f"repeating prompt and answer of another row: {', '.join(summaries)}"
    return result


def contradictions(corpus: Corpus, notes: Sequence[str]) -> CheckResult:
    """The same prompt with different answers."""
    result = CheckResult("contradictions", "no prompt has two answers", list(notes))
    train = [row for rows in corpus.sources.values() for row in rows]
    for split, rows in (("train", train), ("valid", corpus.valid), ("test", corpus.test)):
        by_prompt: dict[str, Row] = {}
        several: dict[str, Row] = {}
        for row in rows:
            first = by_prompt.setdefault(row.key, row)
            if first.answer != row.answer and compared(first.answer) != compared(row.answer):
                several.setdefault(row.key, row)
        result.numbers[split] = len(several)
        for key, row in list(several.items())[:MOST_EXAMPLES]:
            first = by_prompt[key]
            result.details.append(
                f"{split}: {excerpt(asked(row))} is answered {quote([short(first.answer)])} "
                f"({place(first)}) and {quote([short(row.answer)])} ({place(row)})"
            )
    if notes:
        listed = ", ".join(f"{split} {count:,}" for split, count in result.numbers.items())
        result.summary = f"prompts that are answered in two ways or more: {listed}"
    return result


def text(notes: Sequence[str]) -> CheckResult:
    """What another program has left in texts; the notes say all of it."""
    summary = "nothing looks damaged"
    if notes:
        summary = f"{len(notes):,} signs of damage by another program"
    return CheckResult("text", summary, list(notes))


def labels(corpus: Corpus, notes: Sequence[str]) -> CheckResult:
    """How labels are distributed, where answers are labels."""
    train = Counter(row.answer for rows in corpus.sources.values() for row in rows)
    different = f"{len(train):,} different answers in {train.total():,} training rows"
    if not are_labels(train):
        return CheckResult(
            "labels", f"answers are no labels: {different}", list(notes), numbers={"labels": 0}
        )
    result = CheckResult("labels", "", list(notes))
    trained = by_form(train)
    written = {label_form(answer): answer for answer, _ in reversed(train.most_common())}
    most, count = trained.most_common(1)[0]
    rare = [label for label, rows in trained.items() if rows < FEWEST_OF_LABEL]
    result.summary = (
        f"{len(trained):,} labels; the most frequent, {quote([short(written[most])])}, has "
        f"{count / train.total():.1%} of the training rows, {len(rare):,} have fewer than "
        f"{FEWEST_OF_LABEL}"
    )
    result.details = [
        f"{quote([short(written[label])])}: {rows:,}" for label, rows in trained.most_common(10)
    ]
    result.numbers = {
        "labels": len(trained),
        "largest_share": count / train.total(),
        "rare": len(rare),
    }
    if len(trained) > 1 and count > ONE_SIDED * train.total():
        result.warnings.append(
            f"train: {quote([short(written[most])])} is the answer of "
            f"{share(count, train.total())}: always answering it looks good; look at scores by "
            "label"
        )
    for split, rows in (("valid", corpus.valid), ("test", corpus.test)):
        held_out = by_form(Counter(row.answer for row in rows))
        if len(rows) < FEWEST_COMPARED or len(trained) * 5 > len(rows):
            continue
        distance = apart(trained, held_out)
        result.numbers[f"distance_{split}"] = distance
        if distance >= FAR_APART:
            gaps = {
                label: held_out[label] / held_out.total() - trained[label] / trained.total()
                for label in trained | held_out
            }
            worst = max(gaps, key=lambda label: abs(gaps[label]))
            named = quote([short(written.get(worst, worst))])
            result.warnings.append(
                f"{split}: labels are distributed otherwise than in the training rows: "
                f"{distance:.0%} of the rows would have to change theirs; {named} "
                f"has {trained[worst] / trained.total():.1%} there and "
                f"{held_out[worst] / held_out.total():.1%} here"
            )
    return result


def by_form(answers: Counter[str]) -> Counter[str]:
    """Rows by label, in the form in which two labels are meant as one."""
    counts: Counter[str] = Counter()
    for answer, rows in answers.items():
        counts[label_form(answer)] += rows
    return counts


def apart(left: Counter[str], right: Counter[str]) -> float:
    """The total variation distance of two distributions."""
    return 0.5 * sum(
        abs(left[label] / left.total() - right[label] / right.total()) for label in left | right
    )
