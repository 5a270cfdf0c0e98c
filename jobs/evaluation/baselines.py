"""What needs no model: the most frequent answer, the answer of the nearest training prompt, and a
linear classifier.

A score of a model means little beside what a lookup gives. The most frequent answer and the
classifier choose among labels, so they are claimed for closed answers alone: where nearly every row
has an answer of its own there are none. The nearest row's answer is a text like any other: what a
translation memory, or a search through old replies, gives. Run as a program, it works at the lowest
priority on one core and ends with whoever started it:

    python -m jobs.evaluation.baselines FILE < DATA_AS_JSON
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobs.check_settings import Checks
from jobs.config import Data, Neighbours, Source
from jobs.data.corpus import Corpus, load_corpus
from jobs.data.readers import Row, normalise
from jobs.data.similarity import fit, similarities, spread, transform
from jobs.files.drafts import drafted
from jobs.files.sealed_json import sealed
from jobs.source_rows import Columns

VERSION = 2
"""Goes up when the same rows give other answers than before: kept ones are then made again."""
NEAREST = 64
"""Training rows among which the nearest different answers are looked for."""
NUM_ANSWERS = 6
"""Different answers of the nearest rows, of which it is told how often the right one is there."""
DISTINCT_SHARE = 0.5
"""With more different answers per training row than this, the answers are free text."""
SEEN_SHARE = 0.5
"""With fewer held-out answers than this among the training answers, likewise."""
CLASSIFIER_WORK = 400_000_000
"""Labels times non-zero features up to which a support vector machine takes seconds."""
CLASSIFIER_WEIGHTS = 30_000_000
"""Labels times features up to which its weights fit into a quarter of a gigabyte."""

CALLS = "answers call functions"
"""Why there is no baseline at all."""

MOST_FREQUENT, NEAREST_PROMPT, LINEAR = "most_frequent", "nearest_prompt", "linear_classifier"


@dataclass
class Answers:
    """What the baselines answer, in the order of the rows."""

    splits: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Split ("valid", "test") -> baseline -> an answer per row."""
    nearest_hold: dict[str, float] = field(default_factory=dict)
    """Split -> share of its rows whose answer is among the answers of the nearest rows."""
    notes: list[str] = field(default_factory=list)
    """What was left out and why, in words."""
    free_text: bool = False
    """Whether the answers are no labels, but texts of their own."""
    seconds: float = 0.0


def answers_of(corpus: Corpus) -> Answers:
    """The answers of all baselines on the validation and the test rows."""
    began = time.monotonic()
    answers = Answers()
    rows = [row for source in corpus.sources.values() for row in source]
    held_out = {"valid": corpus.valid, "test": corpus.test}
    asked_rows = [row for split in held_out.values() for row in split]
    reason = free_text(rows, asked_rows)
    if reason is not None:
        answers.free_text = True
        answers.notes.append(f"no label baseline: {reason}")
        if reason == CALLS or not rows:
            return answers
    texts = [text_of(row) for row in rows]
    indices = spread(texts)
    looked_at, texts = [rows[index] for index in indices], [texts[index] for index in indices]
    if len(looked_at) < len(rows):
        answers.notes.append(
            f"the lookup baselines saw {len(looked_at):,} of {len(rows):,} training rows"
        )
    labels = [answer_of(row) for row in looked_at]
    most_frequent = ""  # a text for no question is no answer
    if not answers.free_text:
        most_frequent = Counter(answer_of(row) for row in rows).most_common(1)[0][0]
    vectorizer, features = fit(texts)
    valid, test = (
        transform(vectorizer, [text_of(row) for row in split])
        for split in (corpus.valid, corpus.test)
    )
    classify = None
    if len(set(labels)) > 1 and not answers.free_text:
        classify = classifier(features, labels)
    for split, asked in (("valid", valid), ("test", test)):
        nearest, hold = look_up(features, labels, asked, [answer_of(r) for r in held_out[split]])
        answers.splits[split] = {
            NEAREST_PROMPT: [most_frequent if one is None else one for one in nearest]
        }
        if not answers.free_text:
            answers.splits[split][MOST_FREQUENT] = [most_frequent] * len(nearest)
        answers.nearest_hold[split] = hold
        if classify is not None:
            answers.splits[split][LINEAR] = classify(asked)
    answers.seconds = round(time.monotonic() - began, 1)
    return answers


def answer_of(row: Row) -> str:
    """A row's answer, as a label."""
    return str(row.answer or "").strip()


def text_of(row: Row) -> str:
    """What of a row is compared: all that is said before the answer, without who says it, which is
    no likeness.
    """
    if len(row.context) == 1:
        return row.key
    return normalise(" ".join(str(message.get("content") or "") for message in row.context))


def free_text(rows: list[Row], held_out: list[Row]) -> str | None:
    """Why the answers are no labels; None where they are."""
    if calls_functions([*rows, *held_out]):
        return CALLS
    answers = {answer_of(row) for row in rows}
    if len(answers) > DISTINCT_SHARE * len(rows):
        return f"answers are free text ({len(answers):,} different ones in {len(rows):,} rows)"
    hits = sum(answer_of(row) in answers for row in held_out)
    if hits < SEEN_SHARE * len(held_out):
        return (
            f"only {hits:,} of {len(held_out):,} held-out answers stand among the training answers"
        )
    return None


def calls_functions(rows: list[Row]) -> bool:
    """Whether answers are calls of functions rather than texts."""
    return any(row.messages[-1].get("tool_calls") for row in rows)


def look_up(
    features: Any, labels: list[str], asked: Any, right: list[str]
) -> tuple[list[str | None], float]:
    """The answer of the most similar training prompt for each row, None where none has anything in
    common with it; and how often the right one is among those of the nearest rows.
    """
    import numpy as np

    nearest: list[str | None] = []
    hits = 0
    for start, similar in similarities(features, asked):
        first = np.argmax(similar, axis=1)
        count = min(NEAREST, similar.shape[1])
        top = np.argpartition(-similar, count - 1, axis=1)[:, :count]
        for offset, row in enumerate(similar):
            best = int(first[offset])
            nearest.append(labels[best] if row[best] > 0 else None)
            order = sorted(top[offset], key=lambda column, row=row: (-row[column], column))
            near = dict.fromkeys(labels[column] for column in order if row[column] > 0)
            hits += right[start + offset] in list(near)[:NUM_ANSWERS]
    return nearest, hits / max(len(right), 1)


def classifier(features: Any, labels: list[str]) -> Any:
    """A function from vectors to answers: a linear support vector machine, or with many labels,
    where that takes minutes and gigabytes, the nearest mean vector of a label (Rocchio, 1971).
    """
    import numpy as np
    import scipy.sparse as sparse
    from sklearn.preprocessing import normalize
    from sklearn.svm import LinearSVC

    names, codes = np.unique(np.asarray(labels, dtype=object), return_inverse=True)
    count = len(names) if len(names) > 2 else 1
    work, weights = count * features.nnz, count * features.shape[1]
    if work <= CLASSIFIER_WORK and weights <= CLASSIFIER_WEIGHTS:
        machine = LinearSVC(random_state=0).fit(features, codes)
        return lambda asked: [str(names[code]) for code in machine.predict(asked)]
    members = sparse.csr_matrix(
        (np.ones(len(codes), np.float32), (codes, np.arange(len(codes)))),
        shape=(len(names), len(codes)),
    )
    means = normalize(members @ features)

    def choose(asked: Any) -> list[str]:
        chosen: list[str] = []
        for _, similar in similarities(means, asked):
            chosen += [str(names[code]) for code in np.argmax(similar, axis=1)]
        return chosen

    return choose


def data_of(raw: dict[str, Any]) -> Data:
    """The data settings from plain values."""
    sources = {
        name: Source(**{**source, "columns": Columns(**source.get("columns", {}))})
        for name, source in raw["sources"].items()
    }
    neighbours = Neighbours(**raw.get("neighbours", {}))
    columns = Columns(**raw.get("columns", {}))
    checks = Checks(**raw.get("checks", {}))
    nested = {"sources": sources, "neighbours": neighbours, "columns": columns, "checks": checks}
    settings: dict[str, Any] = {**raw, **nested}
    return Data(**settings)


def step_back() -> None:
    """Give everyone else the processor, and end with the process that started this one."""
    os.nice(19)
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def main(file: str) -> None:
    """Read data settings from the standard input, and write what the baselines answer to a file,
    whole or not at all.
    """
    step_back()
    answers = answers_of(load_corpus(data_of(json.load(sys.stdin))))
    target = Path(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    with drafted(target, str(os.getpid())) as draft:
        draft.write_text(json.dumps(sealed(asdict(answers)), ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
