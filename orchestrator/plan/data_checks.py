"""All checks of the rows, for the plan and for job=check: what is made, what is turned off, and
what refuses a run.

What a check says of many rows is kept in the cache of base models, under a name that follows from
the rows, the places where they stand and this code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jobs import check_settings
from jobs.check_settings import CHECKS
from jobs.config import Data
from jobs.data import checks as checks_room
from jobs.data import row_quality
from jobs.data.chat_template import ChatTokenizer
from jobs.data.checks import leakage, personal, rows, template
from jobs.data.checks.language import LanguageProcess
from jobs.data.checks.result import CheckResult, groups_of_rows, share
from jobs.data.corpus import Corpus
from jobs.files.cache import cache_folder
from orchestrator.config.settings import Config
from orchestrator.errors import InputError
from orchestrator.plan.data_statistics import lost_notes, split_notes
from orchestrator.plan.token_counts import Count, code, write_whole

MOST_KEPT = 400
"""Results that are kept in the cache; the oldest go."""


@dataclass(frozen=True)
class CheckReport:
    """What all checks of one choice of data say."""

    results: tuple[CheckResult, ...] = ()
    off: tuple[str, ...] = ()
    """Checks that were turned off."""
    unknown: tuple[str, ...] = ()
    """Checks that need the base model, which is not here."""

    @property
    def notes(self) -> list[str]:
        """What should be looked at, for the plan."""
        return [text for result in self.results for text in result.warnings]

    @property
    def refusal(self) -> str:
        """Why a run is refused; empty where it is not."""
        fatal = [result for result in self.results if result.fatal]
        return "\n".join(f"data check {result.name}: {result.fatal}" for result in fatal)

    def refuse(self) -> None:
        """Raise InputError where a check is fatal."""
        if self.refusal:
            raise InputError(self.refusal)

    def with_refused_rows(self, problems: str) -> CheckReport:
        """The same with rows that cannot be tokenised, which no run can train on."""
        refused = CheckResult("tokens", "rows that cannot be used", fatal=problems)
        rest = tuple(result for result in self.results if result.name != "tokens")
        unknown = tuple(name for name in self.unknown if name != "tokens")
        return CheckReport((refused, *rest), self.off, unknown)

    def record(self) -> dict[str, object]:
        """All of it as plain values."""
        made = {
            result.name: {"state": result.state} | dataclasses.asdict(result)
            for result in self.results
        }
        return {
            "results": made,
            "off": list(self.off),
            "unknown": list(self.unknown),
            "refused": bool(self.refusal),
        }


def check_data(
    config: Config,
    corpus: Corpus,
    tokenizer: ChatTokenizer | None,
    counts: Mapping[str, Count],
) -> CheckReport:
    """All checks that are not turned off. `counts` are of tokens, by source and split."""
    off = tuple(name for name in CHECKS if name in config.data.checks.off)
    cached = CheckCache(config.data, corpus)
    results: dict[str, CheckResult] = {}
    language = None
    if "language" not in off:
        earlier = cached.read("language")
        if earlier is None:
            language = LanguageProcess(corpus)
        else:
            results["language"] = earlier
    try:
        for name, make in makers(corpus, tokenizer).items():
            if name not in off:
                of_template = tokenizer if name == "template" else None
                results[name] = cached.result(name, make, of_template)
        if language is not None:
            results["language"] = language.collect()
            if results["language"].numbers:  # it may have failed, and need not the next time
                cached.write("language", results["language"])
    finally:
        if language is not None:
            language.close()
    if counts and "tokens" not in off:
        results["tokens"] = tokens(config, corpus, counts)
    if "leakage" in results:
        twins = results["leakage"]
        twins.fatal = leakage.refusal(
            twins.numbers, twins.details, config.data.checks.leakage_share
        )
    unknown = [name for name in CHECKS if name not in off and name not in results]
    ordered = tuple(results[name] for name in CHECKS if name in results)
    return CheckReport(ordered, off, tuple(unknown))


def makers(corpus: Corpus, tokenizer: ChatTokenizer | None) -> dict[str, Callable[[], CheckResult]]:
    """What makes each check but those of tokens and language."""
    by_check: dict[str, list[str]] = {}

    def notes(name: str) -> list[str]:
        if not by_check:
            by_check["done"] = []
            for check, text in row_quality.named_notes(corpus):
                by_check.setdefault(check, []).append(text)
        return by_check.get(name, [])

    made = {
        "splits": lambda: rows.splits(corpus),
        "empty": lambda: rows.empty(corpus, notes("empty")),
        "duplicates": lambda: rows.duplicates(corpus, notes("duplicates")),
        "contradictions": lambda: rows.contradictions(corpus, notes("contradictions")),
        "text": lambda: rows.text(notes("text")),
        "labels": lambda: rows.labels(corpus, notes("labels")),
        "leakage": lambda: leakage.check(corpus),
        "personal": lambda: personal.check(corpus),
    }
    if tokenizer is not None:
        made["template"] = lambda: template.check(corpus, tokenizer)
    return made


def tokens(config: Config, corpus: Corpus, counts: Mapping[str, Count]) -> CheckResult:
    """Tokens of each source and split, and how many prompts are cut. Fatal where no token of the
    sources that are drawn from carries loss.
    """
    by_group = dict(groups_of_rows(corpus))
    result = CheckResult("tokens", "")
    for name, counted in counts.items():
        cut = f"{share(counted.cut, counted.rows)} truncated"
        result.details.append(
            f"{name}: {counted.rows:,} rows, {counted.tokens:,} tokens, {counted.supervised:,} of "
            f"them supervised, longest {counted.longest:,}; {cut}"
        )
        result.numbers[name] = {
            "rows": counted.rows,
            "tokens": counted.tokens,
            "supervised": counted.supervised,
            "truncated": counted.cut,
        }
        result.warnings += split_notes(config, name, counted, by_group[name])
    result.warnings += lost_notes(dict(counts))
    drawn = [name for name in corpus.sources if config.data.sources[name].weight > 0]
    supervised = sum(counts[name].supervised for name in drawn)
    cut = sum(counts[name].cut for name in corpus.sources)
    total = sum(counts[name].rows for name in corpus.sources)
    result.summary = (
        f"{sum(counts[name].tokens for name in corpus.sources):,} training tokens, "
        f"{sum(counts[name].supervised for name in corpus.sources):,} of them supervised; "
        f"{share(cut, total)} truncated"
    )
    if not supervised:
        result.fatal = (
            f"no token of {', '.join(f'data.sources.{name}' for name in drawn)} carries loss, so "
            "nothing would be learned; give the rows answers, or take train.on=all"
        )
    return result


class CheckCache:
    """Results of checks by rows, places and code. A cache that cannot be read or written costs time
    only.
    """

    def __init__(self, data: Data, corpus: Corpus) -> None:
        places = hashlib.sha256()
        for _, group in groups_of_rows(corpus):
            places.update("\n".join(row.place for row in group).encode())
        places.update("\n".join(f"{row.place} {row.key}" for row in corpus.leaked).encode())
        self.key = [corpus.digests, places.hexdigest(), data.instruction, checks_code()]

    def file(self, name: str, tokenizer: ChatTokenizer | None = None) -> Path:
        """Where the result of a check is kept."""
        key = [self.key, name, None if tokenizer is None else tokenizer.fingerprint]
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return cache_folder() / "checks" / f"{digest}.json"

    def read(self, name: str, tokenizer: ChatTokenizer | None = None) -> CheckResult | None:
        """The result that is kept, or None."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            text = self.file(name, tokenizer).read_text(encoding="utf-8")
            return CheckResult(**json.loads(text))
        return None

    def result(
        self,
        name: str,
        make: Callable[[], CheckResult],
        tokenizer: ChatTokenizer | None = None,
    ) -> CheckResult:
        """The result that is kept, or a new one, which is kept from then on."""
        result = self.read(name, tokenizer)
        if result is None:
            result = make()
            self.write(name, result, tokenizer)
        return result

    def write(self, name: str, result: CheckResult, tokenizer: ChatTokenizer | None = None) -> None:
        """Keep a result for the next plan, where there is a cache already: without a base model
        there is none, and a plan makes none.
        """
        if cache_folder().is_dir():
            write_whole(self.file(name, tokenizer), dataclasses.asdict(result), MOST_KEPT)


@cache
def checks_code() -> str:
    """SHA-256 over the code of all checks, and of what they read rows with."""
    folder = Path(checks_room.__file__).parent
    files = [*sorted(folder.glob("*.py")), Path(check_settings.__file__), Path(__file__)]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files))
    digest.update(code().encode())
    return digest.hexdigest()
