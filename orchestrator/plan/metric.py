"""What trials are chosen by, once the rows are known: auto becomes a metric, a function of the
user's is tried, and the labels of a cost matrix and the columns of slices are looked up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import os
import sys
from collections.abc import Collection

from jobs.config import Scoring
from jobs.data.corpus import Corpus
from jobs.data.readers import Row
from jobs.evaluation import registry
from jobs.evaluation.metric_choice import choose_metric, is_closed, misfit
from jobs.evaluation.scored_rows import (
    ANYTHING,
    LABEL,
    LENGTH,
    ScoredRow,
    as_label,
    training_labels,
)
from orchestrator.config.settings import Config, Sweep, changed
from orchestrator.errors import ConfigError

TOLD_ANYWAY = {LENGTH: "by the length of the right answer", LABEL: "by the right answer itself"}
"""What scores are told by in any case, other than what a column of that name would say."""
TRIED_ROWS = 8
"""Validation rows that a function of the user's is tried on before anything starts."""


def with_chosen_metric(config: Config, corpus: Corpus) -> tuple[Config, list[str]]:
    """`config` with the metric that trials are chosen by, and notes for the plan. Raises
    ConfigError for one that cannot be used on these rows.
    """
    check_slices(config, corpus)
    check_retained(config, corpus)
    check_costs(config, corpus)
    sweep, notes = config.sweep, []
    if sweep.metric == registry.AUTO:
        metric, reason = choose_metric(corpus)
        sweep = dataclasses.replace(sweep, metric=metric)
        notes = [f"sweep.metric=auto is {metric}: {reason}"]
    if registry.is_user_function(sweep.metric):
        sweep = try_function(sweep, corpus)
    check_floor(config.registry.floor, sweep.metric)
    if (text := misfit(sweep.metric, corpus)) is not None:
        notes.append(text)
    return (config if sweep == config.sweep else changed(config, sweep=sweep)), notes


def check_floor(floor: float | None, metric: str) -> None:
    """Raise ConfigError for a floor that no score reaches, such as 60 for 60 % of the rows."""
    scored = registry.metric_of(metric)
    best = {"share of rows": 1, "0 to 1": 1, "0 to 100": 100}.get(scored.unit)
    if floor is not None and scored.maximise and best is not None and floor > best:
        text = f"must be at most {best}, which is the best that {metric} can be, got {floor:g}"
        raise ConfigError([("registry.floor", text)])


def try_function(sweep: Sweep, corpus: Corpus) -> Sweep:
    """The settings with the direction that the user's function asks for, after a call of it on a
    few rows: once with the right answers, once with empty ones. Raises ConfigError.
    """
    from jobs.evaluation import user_metric  # with numpy, which takes its time

    name, folder = registry.name_of(sweep.metric), os.getcwd()
    few = corpus.valid[:TRIED_ROWS]
    with contextlib.redirect_stdout(
        sys.stderr
    ):  # what a module prints is not this program's answer
        try:
            function = user_metric.load_function(name, folder)
        except ValueError as error:
            raise ConfigError([("sweep.metric", f"{name}: {error}")]) from error
        for what, answers in (
            ("right answers", [row.answer.strip() for row in few]),
            ("empty answers", [""] * len(few)),
        ):
            rows = [as_scored(row, answer) for row, answer in zip(few, answers, strict=True)]
            try:
                told = user_metric.call(name, function, rows)
            except ValueError as error:
                text = str(error).removeprefix("sweep.metric: ")
                raise ConfigError([("sweep.metric", text)]) from error
            scores = told if isinstance(told, list) else [told]
            bad = [score for score in scores if not math.isfinite(score)]
            if bad:
                text = f"{name} returned {bad[0]} for {what}; it must be a finite number"
                raise ConfigError([("sweep.metric", text)])
    maximise = getattr(function, "maximise", True)
    if sweep.mode is None and not maximise:
        return dataclasses.replace(sweep, mode="min")
    return sweep


def as_scored(row: Row, answer: str) -> ScoredRow:
    """A row with an answer to it, as a function of the user's is given it."""
    return ScoredRow(
        prompt=str(row.context[-1].get("content") or ""),
        reference=row.answer.strip(),
        answer=answer,
        source=row.source,
        columns=dict(row.columns),
    )


def check_costs(config: Config, corpus: Corpus) -> None:
    """Raise ConfigError for labels of the cost matrix that no row has."""
    if not config.sweep.costs:
        return
    labels = training_labels(corpus)
    labels |= {as_label(row.answer) for rows in (corpus.valid, corpus.test) for row in rows}
    problems = []
    for right, row in config.sweep.costs.items():
        for said in (right, *row):
            if said != ANYTHING and as_label(said) not in labels:
                problems.append(f'no row has the answer "{said}"{near(as_label(said), labels)}')
    if problems:
        raise ConfigError([("sweep.costs", text) for text in dict.fromkeys(problems)])


def check_slices(config: Config, corpus: Corpus) -> None:
    """Raise ConfigError for columns of data.slices that no held-out row has, or whose name is that
    of something else that scores are told by.
    """
    held = [*corpus.valid, *corpus.test]
    there = {name for row in held for name, _ in row.columns}
    twice = {name for name in config.data.slices if config.data.slices.count(name) > 1}
    problems = [("data.slices", f"names {', '.join(sorted(twice))} twice")] if twice else []
    problems += [
        ("data.slices", f'no held-out row has a column "{name}"{near(name, corpus.columns)}')
        for name in config.data.slices
        if name not in there
    ]
    problems += [
        (
            "data.slices",
            f'scores are told by "{name}" anyway, {what}; leave it out, or rename the column',
        )
        for name, what in TOLD_ANYWAY.items()
        if name in there and (name != LABEL or is_closed(corpus, training_labels(corpus)))
    ]
    if problems:
        raise ConfigError(problems)


def check_retained(config: Config, corpus: Corpus) -> None:
    """Raise ConfigError for names in data.retained that no test row has as its source."""
    sources = {row.source for row in corpus.test}
    problems = [
        (
            "data.retained",
            f'no test row has the source "{name}"{near(name, sources - {""})}; a column source in '
            "the test rows says where each is from",
        )
        for name in config.data.retained
        if name not in sources
    ]
    if not problems and config.data.retained and len(sources) < 2:
        problems = [
            ("data.retained", "all test rows are of one source: there is no task beside it")
        ]
    if problems:
        raise ConfigError(problems)


def near(word: str, words: Collection[str]) -> str:
    """The most similar words there are, or some of them."""
    close = difflib.get_close_matches(word, sorted(words), n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    some = sorted(words)[:8]
    return f"; there are {', '.join(some)}" if some else "; there is no further column"


def scoring_of(config: Config) -> Scoring:
    """How answers are scored, for those who do it."""
    sweep = config.sweep
    folder, code = None, None
    if registry.is_user_function(sweep.metric):
        from jobs.evaluation import user_metric

        folder = os.getcwd()
        code = user_metric.digest_of(registry.name_of(sweep.metric), folder)
    return Scoring(
        metric=sweep.metric,
        rows=sweep.metric_rows,
        costs=sweep.costs,
        folder=folder,
        code=code,
        max_new_tokens=config.job.max_new_tokens,
    )


def decisive_settings(config: Config) -> dict[str, object]:
    """What of these settings decides which trial wins, for a sweep's identity."""
    scoring = scoring_of(config)
    told: dict[str, object] = {}
    if registry.needs_text(config.sweep.metric):
        told = {"metric_rows": scoring.rows, "max_new_tokens": scoring.max_new_tokens}
    if registry.name_of(config.sweep.metric) == registry.COST:
        told["costs"] = scoring.costs
    if scoring.code is not None:
        told["code"] = scoring.code
    return told
