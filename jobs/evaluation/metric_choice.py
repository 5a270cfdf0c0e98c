"""What sweep.metric=auto chooses, and why: by the answers of the rows. Also which metric does not
fit them, and what metrics know of a task.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Sequence

from jobs.config import Scoring
from jobs.data.corpus import Corpus
from jobs.evaluation import registry
from jobs.evaluation.json_answers import is_structured, parse
from jobs.evaluation.placeholders import has_placeholders
from jobs.evaluation.scored_rows import MetricContext, as_label, training_labels

FEW_LABELS = 50
"""Different answers up to which a task is one of labels, where they repeat."""
MOST_LABELS = 5000
"""Different answers up to which scores by label are told at all."""
REPEATS = 3
"""How often an answer of a closed task stands in the training rows, on average."""
SEEN_SHARE = 0.8
"""Share of the held-out answers that also stand in training, in a closed task."""
SHORT_CHARACTERS = 40
"""Answers up to so long, nine of ten of them, are short."""
SENTENCE_SHARE = 0.5
"""Where more of the answers end as a sentence does, they are sentences, however short."""
SENTENCE_ENDS = ".!?…"
"""What ends a sentence of several words between blanks."""
OTHER_SENTENCE_ENDS = "。！？｡।॥؟۔።፧།။។։"
"""What ends one in scripts where that alone tells: some have no blanks between words."""
AFTER_SENTENCES = " \t\n\"'”’»)]」』"
"""What may stand behind the end of a sentence."""
NUMBER = re.compile(r"[-+]?[\d.,]*\d%?")
"""An answer that is a number, however its thousands and decimals are written."""
NUMBERS_SHARE = 0.9
"""Share of the answers that are numbers from which on the task is one of numbers."""
ONE_LABEL_SHARE = 0.8
"""From this share of the held-out rows with the same label on, accuracy shows little."""
FEWEST_COUNTED = 20
"""With fewer held-out rows the share of a label is that among all rows."""
FOR_LABELS = (registry.ACCURACY, registry.MACRO_F1, registry.COST)
FOR_JSON = (registry.JSON_VALID, registry.FIELD_AGREEMENT)
"""Metrics that ask for answers of one kind."""


def choose_metric(corpus: Corpus) -> tuple[str, str]:
    """The metric that fits a task's answers, as sweep.metric names it, and the reason."""
    labels, answers = training_labels(corpus), held_out_answers(corpus)
    rows = sum(map(len, corpus.sources.values()))
    if is_closed(corpus, labels) and len(labels) <= FEW_LABELS:
        return (
            registry.key(registry.ACCURACY),
            f"{len(labels)} different answers stand in {rows:,} training rows",
        )
    if is_structured(answers):
        return (
            registry.key(registry.EXACT_MATCH),
            "answers are JSON, which serves a program only when every field is right",
        )
    sentences = sum(map(is_sentence, answers))
    if not is_closed(corpus, labels) and sentences > SENTENCE_SHARE * len(answers):
        return (
            registry.key(registry.CHRF),
            f"{sentences} of {len(answers)} answers are sentences, which other words may say as "
            "well",
        )
    numbers = sum(NUMBER.fullmatch(answer) is not None for answer in answers)
    if not is_closed(corpus, labels) and numbers >= NUMBERS_SHARE * max(len(answers), 1):
        return (
            registry.key(registry.EXACT_MATCH),
            f"{numbers} of {len(answers)} answers are numbers, of which a near miss counts as "
            "wrong; a function of your own counts how far off they are (docs/sweeps.md)",
        )
    length = ninth_decile([len(answer) for answer in answers])
    if length <= SHORT_CHARACTERS:
        return (
            registry.key(registry.EXACT_MATCH),
            f"nine of ten answers have at most {length} characters",
        )
    return (
        registry.key(registry.CHRF),
        f"answers are long: one in ten has more than {length} characters",
    )


def misfit(metric: str, corpus: Corpus) -> str | None:
    """Why a metric says little about these rows, and what says more; None where it fits."""
    name, answers, labels = (
        registry.name_of(metric),
        held_out_answers(corpus),
        training_labels(corpus),
    )
    if not answers:
        return None
    if name in FOR_JSON and not any(parse(answer) for answer in answers):
        return (
            f"sweep.metric={metric} is for answers that are JSON, and none of the {len(answers)} "
            "held-out ones is; sweep.metric=auto chooses by the answers"
        )
    if name in FOR_LABELS and not is_closed(corpus, labels):
        return (
            f"sweep.metric={metric} is for labels that repeat, but there are {len(labels):,} "
            f"different answers in {sum(map(len, corpus.sources.values())):,} training rows; "
            "sweep.metric=auto chooses by the answers"
        )
    if name not in (registry.ACCURACY, registry.EXACT_MATCH) or not is_closed(corpus, labels):
        return None
    kind = "held-out rows"
    if len(answers) < FEWEST_COUNTED:
        kind = "rows"
        everyone = [corpus.valid, corpus.test, *corpus.sources.values()]
        answers = [row.answer.strip() for rows in everyone for row in rows]
    ((label, count),) = Counter(map(as_label, answers)).most_common(1)
    if count < ONE_LABEL_SHARE * len(answers) or len(labels) < 2:
        return None  # of a single label another metric says no more
    return (
        f'{count} of {len(answers)} {kind} have the label "{label}", so always saying it '
        f"scores {count / len(answers):.2f}; sweep.metric=macro_f1 counts every label alike, and "
        "sweep.metric=cost with sweep.costs what each mistake costs"
    )


def held_out_answers(corpus: Corpus) -> list[str]:
    """The reference answers of the validation rows, or where there are none of the test rows."""
    return [row.answer.strip() for row in corpus.valid or corpus.test]


def is_sentence(answer: str) -> bool:
    """Whether an answer ends as a sentence does, in any script."""
    text = answer.rstrip(AFTER_SENTENCES)
    return text.endswith(tuple(OTHER_SENTENCE_ENDS)) or (
        text.endswith(tuple(SENTENCE_ENDS)) and len(text.split()) > 1
    )


def ninth_decile(lengths: Sequence[int]) -> int:
    """The length that nine of ten do not exceed."""
    if len(lengths) < 2:
        return max(lengths, default=0)
    return round(statistics.quantiles(lengths, n=10, method="inclusive")[-1])


def is_closed(corpus: Corpus, labels: frozenset[str]) -> bool:
    """Whether answers are labels: they repeat in training, and those of the held-out rows stand
    among them.
    """
    rows, answers = sum(map(len, corpus.sources.values())), held_out_answers(corpus)
    if not labels or len(labels) > MOST_LABELS or len(labels) * REPEATS > rows:
        return False
    return sum(as_label(answer) in labels for answer in answers) >= SEEN_SHARE * len(answers)


def context_of(corpus: Corpus, scoring: Scoring) -> MetricContext:
    """What metrics know of a task."""
    labels, answers = training_labels(corpus), held_out_answers(corpus)
    name = registry.name_of(scoring.metric)
    return MetricContext(
        labels=labels,
        costs=scoring.costs,
        function=name if registry.is_user_function(name) else None,
        folder=scoring.folder,
        closed=is_closed(corpus, labels),
        structured=is_structured(answers),
        placeholders=has_placeholders(answers),
    )
