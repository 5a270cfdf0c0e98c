"""The metrics against sacrebleu, scikit-learn and counts by hand, on fixed rows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
import sacrebleu
import torch
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from jobs.evaluation import registry
from jobs.evaluation.answer_scores import (
    SCORERS,
    all_scorers,
    confidence_interval,
    row_scores,
    scorer,
)
from jobs.evaluation.calibration import SUMS, add_tokens, calibration_error
from jobs.evaluation.evaluate import EvaluationSums
from jobs.evaluation.label_metrics import CostMatrix, LabelCounts
from jobs.evaluation.scored_rows import MetricContext, ScoredRow
from jobs.evaluation.scorers import MeanScorer, whole
from jobs.evaluation.scores import TestScores as Verdict
from jobs.evaluation.scores import plain
from jobs.evaluation.slices import length_class, slice_scores, values_by_kind
from jobs.evaluation.text_metrics import common_subsequence, words

NEAR = 1e-9
TEXTS = [
    ("the cat sat on the mat", "the cat is on the mat"),
    ("Die Katze saß auf der Matte.", "Die Katze sitzt auf der Matte!"),
    ("猫坐在垫子上。", "一只猫坐在垫子上。"),
    ("Кошка сидела на коврике", "кошка сидит на ковре"),
    ("👍🏽 fine 👨‍👩‍👧", "👍 fine 👨‍👩‍👧"),
    ("", "not empty"),
    ("exactly so", "exactly so"),
    ("word " * 3000, "word other " * 1500),
]
"""Answers and references in four languages, with emoji, an empty and a very long one."""
LABELS = [
    ("ham", "ham"),
    ("Fraud ", "fraud"),
    ("ham", "fraud"),
    ("", "ham"),
    ("spam", "ham"),
    ("spam", "spam"),
    ("欺诈", "欺诈"),
    ("🙂", "欺诈"),
    ("no label at all " * 500, "spam"),
]


def rows(pairs: Sequence[tuple[str, str]], **fields: str) -> list[ScoredRow]:
    """Answers and references as rows."""
    return [ScoredRow("asked", wanted, said, **fields) for said, wanted in pairs]  # type: ignore[arg-type]


def score(name: str, pairs: Sequence[tuple[str, str]], **context: object) -> float:
    """A metric of some answers."""
    return whole(scorer(name, rows(pairs), MetricContext(**context)))  # type: ignore[arg-type]


@pytest.mark.parametrize("pairs", [TEXTS, TEXTS[:1], TEXTS[4:6], [("", "x")], LABELS])
def test_chrf_and_bleu_are_those_of_sacrebleu(pairs: list[tuple[str, str]]) -> None:
    said, wanted = [pair[0] for pair in pairs], [[pair[1] for pair in pairs]]
    assert score("chrf", pairs) == pytest.approx(
        sacrebleu.corpus_chrf(said, wanted).score, abs=NEAR
    )
    assert score("bleu", pairs) == pytest.approx(
        sacrebleu.corpus_bleu(said, wanted).score, abs=NEAR
    )


def test_a_part_of_the_rows_scores_as_it_would_alone() -> None:
    measured = all_scorers(None, rows(TEXTS), MetricContext())
    chosen = np.array([1, 3, 3, 6])
    for name, one in measured.items():
        alone = score(name, [TEXTS[row] for row in chosen])
        assert one.value(chosen) == pytest.approx(alone, abs=NEAR), name


def test_label_metrics_are_those_of_scikit_learn() -> None:
    labels = frozenset({"ham", "fraud", "spam", "欺诈", "never seen"})
    right = [wanted for _, wanted in LABELS]
    said = [" ".join(given.casefold().split()) for given, _ in LABELS]
    present = sorted(labels & {*right, *said})
    f1 = f1_score(right, said, labels=present, average="macro", zero_division=0)
    assert score("macro_f1", LABELS, labels=labels) == pytest.approx(f1, abs=NEAR)
    assert score("accuracy", LABELS) == pytest.approx(accuracy_score(right, said), abs=NEAR)
    precision, recall, _, support = precision_recall_fscore_support(
        right, said, labels=present, zero_division=0
    )
    told = LabelCounts(rows(LABELS), MetricContext(labels=labels)).by_label()
    for number, label in enumerate(present):
        assert told[label]["precision"] == pytest.approx(precision[number], abs=NEAR)
        assert told[label]["recall"] == pytest.approx(recall[number], abs=NEAR)
        assert told[label]["rows"] == support[number]


def test_exact_match_counts_words_and_leaves_reasoning_out() -> None:
    assert score("exact_match", TEXTS) == 1 / 8
    assert score("exact_match", LABELS) == 3 / 9
    reasoned = [ScoredRow("", "<think>a</think> 4", "<think>b</think>4", mark="</think>")]
    assert whole(scorer("exact_match", reasoned, MetricContext())) == 1


def longest(first: list[str], second: list[str]) -> int:
    """The longest common subsequence as a textbook has it."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, word in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if word == other else max(table[i][j + 1], table[i + 1][j])
            )
    return table[-1][-1]


def test_rouge_l_by_hand() -> None:
    assert score("rouge_l", TEXTS[:1]) == pytest.approx(2 * 5 / 12, abs=NEAR)
    assert words("Die Katze, 猫坐") == ["die", "katze", ",", "猫", "坐"]
    assert score("rouge_l", [("", "")]) == 1
    assert score("rouge_l", [("", "x")]) == 0
    chosen = np.random.default_rng(0)
    for _ in range(50):
        first, second = ([str(word) for word in chosen.integers(6, size=size)] for size in (70, 90))
        assert common_subsequence(first, second) == longest(first, second)


def test_costs_by_hand() -> None:
    costs = {"fraud": {"ham": 10.0, "*": 4.0}, "ham": {"fraud": 1.0}}
    matrix = CostMatrix(costs)
    assert [matrix.cost("fraud", said) for said in ("ham", "fraud", "spam")] == [10, 0, 4]
    assert [matrix.cost("ham", said) for said in ("fraud", "ham", "nonsense")] == [1, 0, 10]
    pairs = [("ham", "fraud"), ("Fraud", "ham"), ("ham", "ham"), ("?", "ham")]
    assert score("cost", pairs, costs=costs) == pytest.approx((10 + 1 + 0 + 10) / 4, abs=NEAR)


def test_structured_answers_by_hand() -> None:
    wanted = json.dumps({"a": 1, "b": {"c": [1, 2]}, "名": "👍"})
    pairs = [
        (json.dumps({"a": 1, "b": {"c": [1, 2]}, "名": "👍"}), wanted),
        (json.dumps({"a": True, "b": {"c": [1, 3]}, "extra": 0}), wanted),
        ("{", wanted),
        ("[1]", wanted),
        ("NaN", wanted),
    ]
    assert score("json_valid", pairs) == 2 / 5
    # Fields in either: a, b.c.0, b.c.1, 名, extra; of these b.c.0 alone agrees.
    assert score("field_agreement", pairs) == pytest.approx((1 + 1 / 5) / 5, abs=NEAR)


def test_loss_bits_per_byte_and_calibration_by_hand() -> None:
    confidence = torch.tensor([0.95, 0.90, 0.10, 0.5])
    right = torch.tensor([True, False, False, True])
    sums = torch.zeros(1, SUMS, dtype=torch.float64)
    add_tokens(sums, torch.zeros(4, dtype=torch.long), confidence, right)
    # 0.95 lies in the last bin, 0.90 in the one before it, each by itself.
    by_hand = (abs(0.95 - 1) + 0.90 + 0.10 + abs(0.5 - 1)) / 4
    assert calibration_error(sums[0].tolist()) == pytest.approx(by_hand, abs=1e-7)
    told = EvaluationSums(8.0, 4, 1, 2, 16, tuple(sums[0].tolist()))
    assert EvaluationSums.from_vector(told.vector()) == told
    assert told.metrics()[registry.VALID_LOSS] == 2
    assert told.metrics()["valid/bits_per_byte"] == pytest.approx(0.5 / math.log(2), abs=NEAR)
    assert told.metrics()[registry.DEFAULT] == 0.5


def test_every_metric_of_text_is_computed_and_every_one_is_reachable() -> None:
    of_text = {name for name, metric in registry.METRICS.items() if metric.needs == "text"}
    assert of_text | {registry.EXACT_MATCH} == set(SCORERS)
    for name in registry.METRICS:
        assert registry.problem(registry.with_split(name)) is None
        assert registry.metric_of(registry.key(name)).name == name


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("valid/f1", "valid/macro_f1"),
        ("valid/chfr", "valid/chrf"),
        ("exact", "valid/exact_match"),
        ("bpb", "valid/bits_per_byte"),
        ("valid/Rouge-L", "valid/rouge_l"),
    ],
)
def test_a_misspelt_metric_is_told_with_the_near_ones(typed: str, near: str) -> None:
    said = registry.problem(typed)
    assert said is not None
    assert typed in said
    assert near in said.partition("did you mean")[2]


def test_choosing_by_the_test_rows_is_refused() -> None:
    assert "judge the winner" in (registry.problem("test/chrf") or "")


def test_intervals_hold_the_score_and_shares_have_wilsons() -> None:
    measured = all_scorers(None, rows(TEXTS), MetricContext())
    for name, one in measured.items():
        low, high = confidence_interval(one, 0.95)
        assert low <= whole(one) <= high, name
    none = scorer("exact_match", rows([("a", "b")] * 20), MetricContext())
    assert confidence_interval(none, 0.95)[1] == pytest.approx(0.1611, abs=1e-4)
    right = MeanScorer([1.0] * 20)
    assert confidence_interval(right, 0.95)[0] == pytest.approx(1 - 0.1611, abs=1e-4), (
        "own ones too"
    )
    labels = MetricContext(labels=frozenset("ab"), closed=True)
    wrong = scorer("macro_f1", rows([("a", "b"), ("b", "a")] * 10), labels)
    assert confidence_interval(wrong, 0.95) == (0.0, pytest.approx(0.1611, abs=1e-4))
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        sample = MeanScorer(generator.exponential(size=200).tolist())
        low, high = confidence_interval(sample, 0.9)
        covered += low <= 1 <= high
    assert 165 <= covered <= 195


def test_the_macro_f1_of_a_labels_slice_is_the_labels_f1() -> None:
    """Its own rows alone hold no false alarms, and one answer of another label would halve it."""
    said = ["a"] * 19 + ["b"] + ["b"] * 20 + ["a"]
    wanted = ["a"] * 20 + ["b"] * 21
    context = MetricContext(labels=frozenset({"a", "b"}), closed=True)
    rated = [ScoredRow("", right, answer) for right, answer in zip(wanted, said, strict=True)]
    scorers = {"macro_f1": scorer("macro_f1", rated, context)}
    details = LabelCounts(rated, context).by_label()
    told = slice_scores(values_by_kind(rated, [], context), scorers, details)["label"]
    assert told["a"]["macro_f1"] == pytest.approx(2 * 19 / (20 + 20))
    assert told["b"]["macro_f1"] == pytest.approx(2 * 20 / (21 + 21))
    whole_score = whole(scorers["macro_f1"])
    assert whole_score == pytest.approx((told["a"]["macro_f1"] + told["b"]["macro_f1"]) / 2)


def test_slices_add_up_to_the_whole_and_name_their_rows() -> None:
    context = MetricContext(labels=frozenset({"ham", "fraud", "spam", "欺诈"}), closed=True)
    sliced = [
        ScoredRow("", wanted, said, source="web" if n % 2 else "mail", columns={"lang": str(n % 3)})
        for n, (said, wanted) in enumerate(LABELS)
    ]
    scorers = {"accuracy": scorer("accuracy", sliced, context)}
    kinds = values_by_kind(sliced, ["lang"], context)
    assert kinds.keys() == {"source", "label", "lang"}  # all answers are short
    named = values_by_kind(sliced, ["source"], context)
    assert named["source"] == kinds["source"], "a column of that name says no more"
    told = slice_scores(kinds, scorers, LabelCounts(sliced, context).by_label())
    for values in told.values():
        assert sum(each["rows"] for each in values.values()) == len(LABELS)
        total = sum(each["rows"] * each["accuracy"] for each in values.values())
        assert total / len(LABELS) == pytest.approx(whole(scorers["accuracy"]), abs=NEAR)
    assert told["label"]["欺诈"]["recall"] == 0.5
    assert length_class("") == length_class("12345678") == "000-008"
    assert length_class("x" * 9) == "009-032"
    assert length_class("x" * 5000) == "513-"


def test_slices_of_labels_are_spelled_as_the_answers_are() -> None:
    context = MetricContext(labels=frozenset({"technik", "zugang"}), closed=True)
    answers = ["Technik", "technik", "Technik", "Zugang ", "Zugang"]
    rated = [ScoredRow("", wanted, "Technik") for wanted in answers]
    kinds = values_by_kind(rated, [], context)
    assert kinds["label"] == ["Technik"] * 3 + ["Zugang"] * 2
    told = slice_scores(kinds, {}, LabelCounts(rated, context).by_label())["label"]
    assert (told["Technik"]["recall"], told["Zugang"]["recall"]) == (1.0, 0.0)


def test_names_of_slices_are_names_that_mlflow_takes() -> None:
    from mlflow.utils.validation import _validate_metric_name

    odd = ["欺诈", "👍", "a/b", "..", "x" * 500, "", "ham", "A b"]
    scores = {value: {"rows": 1.0, "accuracy": 0.5} for value in odd}
    verdict = Verdict(0.5, 0.4, 0.6, [], 1, metric="accuracy", slices={"label": scores})
    told = verdict.slice_metrics()
    assert len(told) == len(odd)
    for name in told:
        _validate_metric_name(name)
    assert plain("ham") == "ham"


def test_each_row_has_the_scores_that_mean_something_for_one() -> None:
    measured = all_scorers(None, rows(TEXTS), MetricContext())
    told = row_scores(measured, len(TEXTS))
    assert told[6] == {"exact_match": 1, "chrf": 100, "rouge_l": 1}
    assert told[5]["rouge_l"] == 0
