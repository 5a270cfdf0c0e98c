"""Judging a model: what one pass over reference answers tells (loss, exact match, bits per byte,
calibration), greedy answers to the test rows, all metrics of them, and how sure the scores are.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from jobs.config import BaseModel, Trial
from jobs.data.answer_text import answer_text
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import Corpus, load_corpus
from jobs.data.neighbours import nearest_rows
from jobs.data.readers import Row
from jobs.data.task_prompt import reworded
from jobs.data.tokenization import Example, encode_asked
from jobs.data.version_rows import rows_of_version
from jobs.evaluation import registry, thresholds
from jobs.evaluation.answer_losses import AnswerLosses, teacher_forced_rows
from jobs.evaluation.answer_scores import all_scorers, confidence_interval, row_scores
from jobs.evaluation.by_source import key as key_of_source
from jobs.evaluation.calibration import SUMS, calibration_error
from jobs.evaluation.copying import copying
from jobs.evaluation.few_shot import with_examples
from jobs.evaluation.generate import continue_all
from jobs.evaluation.label_metrics import LabelCounts
from jobs.evaluation.metric_choice import context_of
from jobs.evaluation.scored_rows import MetricContext, ScoredRow, scored_rows
from jobs.evaluation.scorers import Scorer, SumScorer, drawn_of, ratio_scorer, whole
from jobs.evaluation.scores import EvaluationSettings, TestScores
from jobs.evaluation.slices import slice_scores, values_by_kind
from jobs.evaluation.structured_metrics import by_field
from jobs.model.frozen_linear import drop_prepacked, prepack_weights
from jobs.model.loading import pick_device, restore
from jobs.model.memory import out_of_memory
from jobs.model.shared_prefix import can_share_prefix

if TYPE_CHECKING:
    from jobs.model.language_model import LanguageModel


@dataclass(frozen=True)
class EvaluationSums:
    """Sums over rows, so that workers' shares can be added up."""

    loss: float = 0.0
    """Cross-entropy in nats, summed over answer tokens."""
    tokens: int = 0
    exact: int = 0
    rows: int = 0
    num_bytes: int = 0
    """Of the reference answers in UTF-8."""
    bins: tuple[float, ...] = ()
    """For the calibration error; see calibration.py."""
    by_source: tuple[tuple[str, EvaluationSums], ...] = ()
    """The same of the rows of each source, where they tell theirs."""

    def metrics(self, split: str = registry.VALID) -> dict[str, float]:
        """What needs no generated answers, by the names of the registry."""
        metrics = {registry.key(name, split): value for name, value in self.values().items()}
        for source, sums in self.by_source:
            for name in (registry.LOSS, registry.EXACT_MATCH):
                metrics[key_of_source(source, name)] = sums.values()[name]
        return metrics

    def values(self) -> dict[str, float]:
        """The same by names without a split."""
        values = {
            registry.LOSS: self.loss / max(self.tokens, 1),
            registry.EXACT_MATCH: self.exact / max(self.rows, 1),
        }
        if self.num_bytes:
            values[registry.BITS_PER_BYTE] = self.loss / math.log(2) / self.num_bytes
        if any(self.bins):
            values[registry.CALIBRATION_ERROR] = calibration_error(self.bins)
        return values

    def vector(self) -> list[float]:
        """All sums, for workers to add up."""
        bins = self.bins or (0.0,) * SUMS
        return [self.loss, self.tokens, self.exact, self.rows, self.num_bytes, *bins]

    @classmethod
    def from_vector(cls, sums: list[float]) -> EvaluationSums:
        """The sums of a vector."""
        loss, tokens, exact, rows, num_bytes = sums[:5]
        return cls(loss, int(tokens), int(exact), int(rows), int(num_bytes), tuple(sums[5:]))

    @classmethod
    def of_sources(cls, names: list[str], sums: list[list[float]]) -> EvaluationSums:
        """The sums of all rows, from vectors of each source; a single source is not told."""
        total = cls.from_vector([sum(column) for column in zip(*sums, strict=True)])
        if len(names) < 2:
            return total
        parts = [cls.from_vector(vector) for vector in sums]
        return dataclasses.replace(total, by_source=tuple(zip(names, parts, strict=True)))


def teacher_forced_scores(
    model: LanguageModel, examples: list[Example], pad_id: int, tokens: int, sharing: bool = False
) -> EvaluationSums:
    """Loss, exact match and calibration without generation, summed over the examples; see
    `teacher_forced_rows`.
    """
    sums = teacher_forced_rows(model, examples, pad_id, tokens, sharing).sum(0).tolist()
    return EvaluationSums.from_vector(sums)


def evaluate_on_test(
    trial: Trial,
    base: BaseModel,
    folder: str | None,
    rule: EvaluationSettings,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> TestScores:
    """Answer every test row with the base (folder None) or with what was trained on it, in float32,
    and score the answers.

    float32, which the version's task.json names: a reader who loads it with plain transformers must
    see the same answers on any machine. A registered version is asked as it was trained: with its
    own neighbours, instruction and longest prompt.
    """
    task = None if rule.version is None else task_of(Path(rule.version))
    longest = trial.train.max_length if task is None else int(task["max_length"])
    torch.set_num_threads(rule.num_threads)
    template = ChatTokenizer(base.path)
    corpus = load_corpus(trial.data)
    asked, example_tokens = test_rows(corpus, trial, rule, task), 0
    if rule.num_examples:
        asked, example_tokens = with_examples(
            corpus.test, corpus, template, Path(base.path), rule.num_examples
        )
    examples, limit = encode_asked(
        asked, template, longest + example_tokens, rule.max_new_tokens, "test"
    )
    model = restore(
        base, None if folder is None else Path(folder), torch.float32, pick_device()
    ).requires_grad_(False)
    prepack_weights(model, [])
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        tick(done, len(examples))

    context = context_of(corpus, rule.scoring)
    decisive = registry.name_of(rule.scoring.metric or registry.DEFAULT)
    tokens = trial.train.pass_tokens()
    wanted: list[list[Example]] = [[example] for example in examples]
    weighs = folder is not None and not rule.num_examples and thresholds.applies(context, asked)
    if weighs:
        labelled = thresholds.with_labels(asked, thresholds.spelled_labels(corpus))
        both, _ = encode_asked(labelled, template, longest, limit, "test")
        pairs = zip(both[::2], both[1::2], strict=True)
        wanted = [[example, *pair] for example, pair in zip(examples, pairs, strict=True)]
    losses = AnswerLosses()
    prompts = [example.ids[: example.prompt_length] for example in examples]
    began = time.monotonic()
    gathered = None if rule.num_examples else losses
    produced = continue_all(model, prompts, template, limit, count, wanted, gathered)
    seconds = (time.monotonic() - began - losses.seconds) / len(examples)
    answers = [answer_text(template, ids) for ids in produced]
    rows = scored_rows(corpus.test, examples, answers)
    scorers = all_scorers(rule.scoring.metric or registry.DEFAULT, rows, context)
    if not rule.num_examples or decisive not in scorers:
        # A pass over prompts with examples takes longer than answering them, which decides.
        scorers |= logit_scorers(model, examples, template.eos_id, tokens, losses)
    scores = verdict(rows, scorers, context, rule, trial.data.slices)
    threshold = {}
    if weighs:

        def log_likelihoods(answered: list[Row]) -> np.ndarray:
            encoded, _ = encode_asked(answered, template, longest, limit, "test")
            gather_losses(model, encoded, template, losses)
            if not fill_in(model, encoded, template.eos_id, tokens, losses):
                raise MemoryError(NO_ROOM.format("the threshold"))
            return -losses.rows(encoded).numpy()[:, 0]

        threshold = thresholds.threshold_scores(corpus, context, log_likelihoods)
    return TestScores(
        **scores,
        threshold=threshold,
        neighbours=copying(asked, examples, rows),
        max_new_tokens=limit,
        num_cut=sum(example.num_cut > 0 for example in examples),
        num_unended=sum(len(ids) >= limit for ids in produced),
        seconds=seconds,
        example_tokens=example_tokens,
    )


def task_of(version: Path) -> dict[str, Any]:
    """How a registered version is asked."""
    return json.loads((version / "task.json").read_text(encoding="utf-8"))


def test_rows(
    corpus: Corpus, trial: Trial, rule: EvaluationSettings, task: dict[str, Any] | None
) -> list[Row]:
    """The test rows as a model is asked them: with the neighbours that it was trained with. `task`
    is how a registered version is asked.
    """
    if rule.num_examples:
        return corpus.test
    if rule.version is not None and task is not None:
        asked = [reworded(row, task) for row in corpus.test]
        rows = rows_of_version(Path(rule.version), task)
        return asked if rows is None else rows.all_shown(asked, left_out=True)
    if not trial.data.neighbours.count:
        return corpus.test
    neighbours = trial.data.neighbours
    return nearest_rows(corpus, neighbours.embedding).held_out("test", neighbours)


def logit_scorers(
    model: LanguageModel, examples: list[Example], pad_id: int, tokens: int, losses: AnswerLosses
) -> dict[str, Scorer]:
    """The metrics that the reference answers' logits give; none where no pass over those that are
    not known yet fits into memory, since nobody is judged by them alone.
    """
    if not fill_in(model, examples, pad_id, tokens, losses):
        return {}
    sums = losses.rows(examples).numpy()
    return {
        registry.LOSS: ratio_scorer(sums[:, [0, 1]].tolist()),
        registry.BITS_PER_BYTE: ratio_scorer(sums[:, [0, 4]].tolist(), 1 / np.log(2)),
        registry.CALIBRATION_ERROR: SumScorer(
            sums[:, 5:].tolist(), lambda total, count: calibration_error(total.tolist())
        ),
    }


NO_ROOM = (
    "out of memory on one test row: {} needs a pass over a whole one; a smaller train.max_length "
    "or a smaller model helps"
)


def fill_in(
    model: LanguageModel, examples: list[Example], pad_id: int, tokens: int, losses: AnswerLosses
) -> bool:
    """Gather what is missing of the examples' losses; whether memory was enough."""
    missing = losses.missing(examples)
    if not missing:
        return True
    longest = max(len(example.ids) for example in missing)
    sharing = can_share_prefix(model, missing, pad_id)
    while True:
        try:
            sums = teacher_forced_rows(model, missing, pad_id, tokens, sharing)
            losses.keep(missing, sums)
            return True
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if drop_prepacked(model):
                continue
            if tokens <= longest:
                return False
            tokens = max(tokens // 2, longest)


def gather_losses(
    model: LanguageModel, pairs: list[Example], template: ChatTokenizer, losses: AnswerLosses
) -> None:
    """Of two answers to each prompt, one after the other, what is missing of their losses, where
    prompts are answered together: each goes through the model once for both.
    """
    if not losses.known:
        return  # transformers' own loop has answered
    missing = [
        [one, other]
        for one, other in zip(pairs[::2], pairs[1::2], strict=True)
        if losses.missing([one, other])
    ]
    prompts = [pair[0].ids[: pair[0].prompt_length] for pair in missing]
    if prompts:
        continue_all(model, prompts, template, 1, lambda rows: None, missing, losses)


def verdict(
    rows: list[ScoredRow],
    scorers: dict[str, Scorer],
    context: MetricContext,
    rule: EvaluationSettings,
    columns: list[str],
) -> dict[str, Any]:
    """The fields of a TestScores that answers give; baselines that answer without a model are
    scored by it too.
    """
    decisive = registry.name_of(rule.scoring.metric or registry.DEFAULT)
    if decisive not in scorers:
        raise MemoryError(NO_ROOM.format(decisive))
    intervals = {
        name: confidence_interval(scorers[name], rule.confidence)
        for name in dict.fromkeys((decisive, registry.EXACT_MATCH))
    }
    kinds = values_by_kind(rows, columns, context)
    labels = LabelCounts(rows, context).by_label() if context.closed else {}
    return {
        "value": whole(scorers[decisive]),
        "low": intervals[decisive][0],
        "high": intervals[decisive][1],
        "metric": decisive,
        "predictions": predictions(rows, row_scores(scorers, len(rows)), kinds),
        "scores": {name: whole(scorer) for name, scorer in scorers.items()},
        "intervals": {name: list(ends) for name, ends in intervals.items()},
        "slices": slice_scores(kinds, scorers, labels),
        "fields": by_field(rows) if context.structured else {},
        "drawn": drawn_of(scorers[decisive]),
    }


def predictions(
    rows: list[ScoredRow], scores: list[dict[str, float]], kinds: dict[str, list[str]]
) -> list[dict[str, Any]]:
    """What is told of each test row, for others to pair and to slice. `text` and `prediction` are
    the names that versions of before have.
    """
    return [
        {
            "text": row.prompt,
            "reference": row.reference,
            "prediction": row.answer,
            "prompt": row.prompt,
            "answer": row.answer,
            "source": row.source,
            **row.further(),
            "scores": scores[index],
            "slices": {kind: values[index] for kind, values in kinds.items()},
        }
        for index, row in enumerate(rows)
    ]
