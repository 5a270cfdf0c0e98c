"""Looking at the rows without a sweep: job=check."""

from __future__ import annotations

import json

from jobs.base_models import fetch
from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import Corpus, load_corpus, no_collection
from orchestrator.config.idle_settings import check_instruction
from orchestrator.config.settings import Config
from orchestrator.errors import InputError
from orchestrator.job_environment import mark_answer
from orchestrator.output import check_text, console
from orchestrator.plan.data_checks import CheckReport, check_data
from orchestrator.plan.data_statistics import SAMPLE_ROWS, count_all
from orchestrator.plan.metric import check_retained, check_slices
from orchestrator.plan.neighbours import check_neighbours, neighbour_plan
from orchestrator.plan.token_counts import Count


def run(config: Config) -> int:
    """Print what all checks say, on stdout; returns the exit code. Raises InputError for rows that
    cannot be read, and at the end for what a run refuses.
    """
    report, corpus = look(config)
    mark_answer()
    if config.output == "json":
        record = {"check": {"data": config.data.name, **report.record(), "notes": corpus.notes}}
        print(json.dumps(record, ensure_ascii=False), flush=True)
    else:
        print(check_text.full_text(report, title(config, corpus)), flush=True)
    report.refuse()
    return 0


@no_collection()
def look(config: Config) -> tuple[CheckReport, Corpus]:
    """The checks, and the rows that they were made of."""
    try:
        corpus = load_corpus(config.data)
        base = fetch.locate(config.model)
        template = None if base is None else ChatTokenizer(base.path)
    except ValueError as error:
        raise InputError(str(error)) from error
    check_settings(config, corpus, template)
    counts: dict[str, Count] = {}
    refused = ""
    if template is not None:
        try:
            counts = count_all(config, corpus, template)
        except InputError as error:
            refused = str(error)
    report = check_data(config, corpus, template, counts)
    if refused:
        report = report.with_refused_rows(refused)
    return report, corpus


def check_settings(config: Config, corpus: Corpus, template: ChatTokenizer | None) -> None:
    """Raise ConfigError or InputError for settings of the data that a run of these rows refuses."""
    check_slices(config, corpus)
    check_retained(config, corpus)
    check_instruction(config, corpus)
    check_neighbours(config, corpus)
    if template is not None:
        neighbour_plan(config, corpus, template, SAMPLE_ROWS)


def title(config: Config, corpus: Corpus) -> str:
    """Which data was looked at, and how the rows came to their splits."""
    names = console.plural(len(corpus.sources), "source")
    training = sum(map(len, corpus.sources.values()))
    lines = [
        f"{config.data.name}: {names} with {console.plural(training, 'training row')}, "
        f"{console.plural(len(corpus.valid), 'validation row')}, "
        f"{console.plural(len(corpus.test), 'test row')}",
        *corpus.notes,
    ]
    return f"\n{'':<8}".join(lines)
