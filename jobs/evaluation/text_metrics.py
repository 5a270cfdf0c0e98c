"""Metrics that compare texts: exact match, chrF, BLEU and ROUGE-L."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jobs.evaluation.placeholders import placeholders_of
from jobs.evaluation.scored_rows import MetricContext, ScoredRow
from jobs.evaluation.scorers import MeanScorer, SumScorer


def exact_match(rows: Sequence[ScoredRow], context: MetricContext) -> SumScorer:
    """The share of answers that are their reference, word for word; a reasoning before it need not
    be the same.
    """
    return MeanScorer([float(row.said == row.wanted) for row in rows])


def chrf(rows: Sequence[ScoredRow], context: MetricContext) -> SumScorer:
    """chrF2 over character 6-grams (Popović, 2015), of the whole selection, by sacrebleu."""
    from sacrebleu.metrics.chrf import CHRF

    return by_sacrebleu(CHRF(), rows)


def bleu(rows: Sequence[ScoredRow], context: MetricContext) -> SumScorer:
    """BLEU-4 (Papineni et al., 2002) of the whole selection, sacrebleu's "13a" tokens."""
    from sacrebleu.metrics.bleu import BLEU

    return by_sacrebleu(BLEU(), rows)


def by_sacrebleu(metric: Any, rows: Sequence[ScoredRow]) -> SumScorer:
    """A metric of sacrebleu, from the counts that it keeps of each row: as its own bootstrap does,
    so that a selection costs no second look at the texts.
    """
    answers, wanted = [row.said for row in rows], [[row.wanted for row in rows]]
    counts = metric._extract_corpus_statistics(answers, wanted)
    return SumScorer(
        counts,
        lambda sums, count: (
            metric._compute_score_from_stats([int(statistic) for statistic in sums]).score
        ),
    )


def placeholders(rows: Sequence[ScoredRow], context: MetricContext) -> SumScorer:
    """The share of answers with just the placeholders of their reference, in any order."""
    return MeanScorer(
        [float(placeholders_of(row.said) == placeholders_of(row.wanted)) for row in rows]
    )


WORDS = re.compile(r"[^\W_]+|[^\w\s]", re.UNICODE)
UNSPACED = re.compile(
    "[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]"
)
"""Letters of scripts that write no space between words: Thai, Japanese, Chinese."""


def words(text: str) -> list[str]:
    """Words of a text in any script, case folded; a sign is one of its own, and so is a letter of a
    script without spaces.
    """
    spaced = UNSPACED.sub(lambda letter: f" {letter[0]} ", text.casefold())
    return WORDS.findall(spaced)


def rouge_l(rows: Sequence[ScoredRow], context: MetricContext) -> SumScorer:
    """ROUGE-L (Lin, 2004): the mean over rows of the F1 of the longest common subsequence of
    words.
    """
    return MeanScorer([rouge_l_of(row.said, row.wanted) for row in rows])


def rouge_l_of(answer: str, wanted: str) -> float:
    """ROUGE-L of one answer. Two texts without a word agree if they are the same."""
    answer_words, reference = words(answer), words(wanted)
    if not answer_words or not reference:
        return float(answer == wanted)
    common = common_subsequence(answer_words, reference)
    return 2 * common / (len(answer_words) + len(reference))


def common_subsequence(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence, 1 bit per word of the first one (Hyyrö, 2004)."""
    position_bits: dict[str, int] = {}
    for index, word in enumerate(first):
        position_bits[word] = position_bits.get(word, 0) | (1 << index)
    everything = (1 << len(first)) - 1
    row = everything
    for word in second:
        met = row & position_bits.get(word, 0)
        row = ((row + met) | (row - met)) & everything
    return len(first) - row.bit_count()
