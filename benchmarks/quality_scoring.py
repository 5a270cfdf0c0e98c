"""Scores for benchmarks.quality: a saved model's greedy answers to the test rows, or what a lookup
answers to them, by the task's own metric.

    python -m benchmarks.quality_scoring model TASK FOLDER OUTCOME
    python -m benchmarks.quality_scoring BASELINE TASK OUTCOME

Both are started by benchmarks.quality. A model is judged by the code that
judges this project's own winners.
"""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.quality_task import Score, Task
from jobs.data.corpus import Corpus, load_corpus
from jobs.data.readers import Row
from jobs.evaluation import registry
from jobs.evaluation.answer_scores import confidence_interval, is_of_answers, scorer
from jobs.evaluation.baselines import LINEAR, NEAREST_PROMPT, answer_of, answers_of
from jobs.evaluation.metric_choice import context_of
from jobs.evaluation.scored_rows import ScoredRow
from jobs.evaluation.scorers import whole

ROWS_AT_ONCE = 64
WORDS = {
    NEAREST_PROMPT: "TF-IDF of character 2- to 5-grams, cosine",
    LINEAR: "the same features, a linear classifier",
}


def score_model(task: Task, folder: Path) -> Score:
    """The score of an adapter, or of a whole model."""
    from jobs.evaluation.evaluate import evaluate_on_test

    scores = evaluate_on_test(task.trial, task.base, str(folder), task.rule())
    return Score(scores.key, scores.value, scores.low, scores.high)


def score_answers(task: Task, corpus: Corpus, answers: list[str]) -> Score:
    """The score of answers that were made without a model."""
    rows = [
        ScoredRow(row.key, row.answer.strip(), answer, row.source, dict(row.columns))
        for row, answer in zip(corpus.test, answers, strict=True)
    ]
    name = registry.name_of(task.scoring.metric)
    measured = scorer(name, rows, context_of(corpus, task.scoring))
    low, high = confidence_interval(measured, task.confidence)
    return Score(registry.key(name, registry.TEST), whole(measured), low, high)


def nearest_answers(rows: list[Row], asked: list[Row]) -> list[str]:
    """The answer of the training row whose prompt is most like each question. Other than the
    baseline of a sweep, it is told for free text too.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    features = vectorizer.fit_transform(row.key for row in rows).T.tocsr()
    questions = vectorizer.transform(row.key for row in asked)
    nearest: list[int] = []
    for start in range(0, len(asked), ROWS_AT_ONCE):
        similar = (questions[start : start + ROWS_AT_ONCE] @ features).toarray()
        nearest += np.argmax(similar, axis=1).tolist()
    return [answer_of(rows[index]) for index in nearest]


def score_baseline(name: str, task: Task) -> dict[str, object]:
    """A baseline's score and how many rows it has seen, or why there is none."""
    metric = registry.name_of(task.scoring.metric)
    if not is_of_answers(metric):
        return {"left_out": f"{task.scoring.metric} is not computed from answers"}
    corpus = load_corpus(task.trial.data)
    rows = [row for source in corpus.sources.values() for row in source]
    if any(row.messages[-1].get("tool_calls") for row in [*rows, *corpus.test]):
        return {"left_out": "answers call functions"}
    if name == NEAREST_PROMPT:
        answers = nearest_answers(rows, corpus.test)
    else:
        known = answers_of(corpus)
        if LINEAR not in known.splits.get("test", {}):
            return {"left_out": "; ".join(known.notes) or "all answers are the same"}
        answers = known.splits["test"][LINEAR]
    score = score_answers(task, corpus, answers)
    return {**asdict(score), "rows": len(rows), "settings": WORDS[name]}


def main(arguments: list[str]) -> None:
    """Score and write the outcome."""
    name, source, *model, target = arguments
    task: Task = pickle.loads(Path(source).read_bytes())
    if name == "model":
        score_model(task, Path(model[0])).write(Path(target))
    else:
        Path(target).write_text(json.dumps(score_baseline(name, task)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
