"""The metrics by name: which direction is better, in which unit, and what each needs.

Every name of a metric that the rest of the project knows comes from here. How each is computed
stands in text_metrics.py, label_metrics.py, structured_metrics.py, calibration.py and
user_metric.py. Imports the standard library only.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

Needs = Literal["text", "logits", "training"]
"""text: answers that the model generates. logits: one pass over the reference answers. training:
what a training step gives anyway.
"""


@dataclass(frozen=True)
class Metric:
    """One way to score a model."""

    name: str
    maximise: bool
    """Whether a higher value is better."""
    unit: str
    needs: Needs
    meaning: str
    share: bool = False
    """Whether it is the share of the rows that are right, each row being right or wrong."""
    by_row: bool = True
    """Whether the score of a single row means something."""


EXACT_MATCH, ACCURACY, MACRO_F1, CHRF = "exact_match", "accuracy", "macro_f1", "chrf"
BLEU, ROUGE_L, LOSS, BITS_PER_BYTE = "bleu", "rouge_l", "loss", "bits_per_byte"
CALIBRATION_ERROR, JSON_VALID, FIELD_AGREEMENT = (
    "calibration_error",
    "json_valid",
    "field_agreement",
)
COST = "cost"
PLACEHOLDERS = "placeholders"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(EXACT_MATCH, True, "share of rows", "logits", "the reference, word for word", True),
        Metric(ACCURACY, True, "share of rows", "text", "the right label, case aside", True),
        Metric(
            MACRO_F1,
            True,
            "0 to 1",
            "text",
            "mean F1 of the labels found in training",
            by_row=False,
        ),
        Metric(CHRF, True, "0 to 100", "text", "character n-grams, as sacrebleu counts them"),
        Metric(BLEU, True, "0 to 100", "text", "word n-grams, as sacrebleu counts", by_row=False),
        Metric(ROUGE_L, True, "0 to 1", "text", "F1 of the longest common subsequence of words"),
        Metric(LOSS, False, "nats per token", "logits", "cross-entropy of the reference answers"),
        Metric(
            BITS_PER_BYTE,
            False,
            "bits per byte",
            "logits",
            "cross-entropy per byte of answer, whatever the tokenizer",
        ),
        Metric(
            CALIBRATION_ERROR,
            False,
            "0 to 1",
            "logits",
            "mean gap between a token's probability and how often it is right (15 bins)",
            by_row=False,
        ),
        Metric(JSON_VALID, True, "share of rows", "text", "answers that are JSON", True),
        Metric(FIELD_AGREEMENT, True, "0 to 1", "text", "fields that agree, of all in either"),
        Metric(COST, False, "cost per row", "text", "mean cost of sweep.costs"),
        Metric(
            PLACEHOLDERS,
            True,
            "share of rows",
            "text",
            "answers with just the reference's %s, {name} and marks of HTML",
            True,
        ),
    )
}
ALIASES = {
    "em": EXACT_MATCH,
    "f1": MACRO_F1,
    "f1_macro": MACRO_F1,
    "bpb": BITS_PER_BYTE,
    "ece": CALIBRATION_ERROR,
    "expected_calibration_error": CALIBRATION_ERROR,
    "rouge": ROUGE_L,
    "rougel": ROUGE_L,
    "cross_entropy": LOSS,
    "json": JSON_VALID,
    "costs": COST,
}
"""Other words for them, for suggestions alone."""

VALID, TEST, TRAIN = "valid", "test", "train"
AUTO = "auto"
"""The data decides; see metric_choice.py."""
DEFAULT = f"{VALID}/{EXACT_MATCH}"
VALID_LOSS = f"{VALID}/{LOSS}"
"""Decides between equal scores."""
TRAIN_LOSS = f"{TRAIN}/{LOSS}"
NUM_ANSWERED = f"{VALID}/answered_rows"
"""On how many rows a text metric was measured at a rung."""
USER = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
"""A function of the user's, as module:function."""


def key(name: str, split: str = VALID) -> str:
    """Under which name a metric of a split is reported."""
    return f"{split}/{name}"


def name_of(metric: str) -> str:
    """The metric of a key such as valid/loss, without its split."""
    split, slash, name = metric.partition("/")
    if slash and split in (VALID, TEST, TRAIN):
        return name
    return metric


def with_split(metric: str) -> str:
    """A value of sweep.metric as the key under which trials report it: chrf is valid/chrf."""
    if metric == AUTO or "/" in metric or not (metric in METRICS or USER.fullmatch(metric)):
        return metric
    return key(metric)


def metric_of(metric: str) -> Metric:
    """The metric of a key. Raises KeyError for one that there is not."""
    if metric == TRAIN_LOSS:
        return Metric(LOSS, False, "nats per token", "training", "the loss of the last batch")
    name = name_of(metric)
    if USER.fullmatch(name):
        return Metric(name, True, "as it returns", "text", "a function of your own")
    return METRICS[name]


def is_user_function(metric: str) -> bool:
    """Whether a key names a function of the user's."""
    return USER.fullmatch(name_of(metric)) is not None


def needs_text(metric: str) -> bool:
    """Whether answers have to be generated for a metric."""
    return metric not in ("", AUTO) and metric_of(metric).needs == "text"


def problem(metric: str) -> str | None:
    """Why a value of sweep.metric is none, and which are near; None where it is one."""
    if metric in (AUTO, TRAIN_LOSS):
        return None
    split, slash, name = metric.partition("/")
    if slash and split == VALID and (name in METRICS or USER.fullmatch(name)):
        return None
    if slash and split == TEST and name in METRICS:
        return (
            f'"{metric}" would choose trials by the test rows, which judge the winner; '
            f"{key(name)} chooses by the validation rows"
        )
    choices = [AUTO, *(key(metric_name) for metric_name in METRICS), TRAIN_LOSS]
    near = nearest(name if slash else metric)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return (
        f'"{metric}" is no metric; what is: {", ".join(choices)}, or a function of your own as '
        f"module:function{hint}"
    )


def nearest(name: str) -> list[str]:
    """The keys of the metrics whose names are most like this one."""
    asked = name.lower().replace("-", "_").replace(" ", "_")
    words = {metric_name: metric_name for metric_name in METRICS} | ALIASES
    close = difflib.get_close_matches(asked, list(words), n=3, cutoff=0.6)
    inside = [word for word in METRICS if asked and (asked in word or word in asked)]
    return list(dict.fromkeys(key(words[word]) for word in [*close, *inside]))[:3]
