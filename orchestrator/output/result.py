"""What came out of a sweep, as the record that is kept, printed and given to other programs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

from jobs.files.json_types import JsonObject
from orchestrator.config.run_numbers import label
from orchestrator.output.best_lines import best_lines, judged_by
from orchestrator.output.console import duration, plural
from orchestrator.output.remote_state import RemoteState
from orchestrator.output.shipped_text import shipping_lines
from orchestrator.output.sweep_result import (
    SweepResult,
    TiedFinalists,
    TrialCounts,
    from_json,
)
from orchestrator.storage.journal import Record
from orchestrator.storage.spending import spent_of
from orchestrator.tracking import shown_commands

WIDEST, NARROWEST = 100, 40
"""Columns of folded sentences."""
NO_ALIAS = "is registered, without the alias champion"

PUBLIC = (
    *("version", "sweep", "state", "trials", "metric", "best", "finalists", "base", "baselines"),
    *("model", "seconds", "tracking_uri"),
)
"""The keys that `output=json` prints."""


def read(record: JsonObject) -> SweepResult | None:
    """The result in a record that was read from disk; None for one that cannot be shown, by another
    version or a torn disk: it is made again.
    """
    result = from_json(record)
    if result is None:
        return None
    try:
        text(result)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return result


def public(result: SweepResult) -> JsonObject:
    """The part that `output=json` prints: these keys and no others, and `error` where there is
    one.
    """
    record = result.as_json()
    shown: JsonObject = {key: record[key] for key in PUBLIC}
    if result.best:
        shown["best"] = {
            key: record["best"][key] for key in ("trial", "run_id", "params", "metrics")
        }
    if result.base:
        shown["base"] = {"metrics": record["base"]["metrics"]}
    if result.shipped:
        shown |= {"shipped": record["shipped"], "devices": record["devices"]}
    return shown | ({"error": result.error} if result.error else {})


def remote_state(result: SweepResult) -> RemoteState:
    """What a remote log tells of the result."""
    score = None if result.best is None else result.best.metrics.get(judged_by(result))
    trials = result.trials
    return RemoteState(
        sweep=result.sweep,
        ended=trials.finished + trials.stopped + trials.failed,
        total=trials.total,
        best=None if score is None else f"{judged_by(result)} {score:.3f}",
    )


def text(result: SweepResult, programs: str = "", width: int | None = None) -> str:
    """The last screen: what was found, what it is worth, what to do next. `programs` stands before
    "python" in the commands to paste. Sentences are folded to a terminal of this width, commands
    never; without a terminal each stands on one line.
    """
    lines: list[tuple[str, str]] = []
    if result.best:
        lines += best_lines(result)
    lines += [("final", line) for line in finalist_lines(result)]
    if result.tied:
        lines.append(("final", tied_line(result.tied)))
    trials = result.trials
    lines.append(
        (
            "trials",
            f"{trials.finished} finished, {trials.stopped} stopped early, {trials.failed} "
            f"failed of {trials.total}",
        )
    )
    lines += [("failed", failure) for failure in result.failures]
    if result.error:
        lines.append(("error", result.error))
    if result.missing:
        lines.append(("missing", result.missing))
    if result.unchecked:
        lines.append(("note", result.unchecked))
    seconds = result.seconds
    planned = "" if seconds.planned is None else f"; planned {duration(seconds.planned)}"
    lines.append(
        (
            "time",
            f"{duration(seconds.total)} ({duration(seconds.setup)} to start, "
            f"{duration(seconds.train)} of training{planned})",
        )
    )
    lines += spent_lines(result)
    lines += decision_lines(result)
    lines += shipping_lines(result)
    lines += [("help", hint) for hint in result.help or []]
    folded = [f"{label:<8}{line}" for label, line in lines]
    if width is not None:
        folded = [fold(line, width) for line in folded]
    return "\n".join(
        [*folded, *(f"{label:<8}{line}" for label, line in next_lines(result, programs))]
    )


def spent_lines(result: SweepResult) -> list[tuple[str, str]]:
    """What the sweep has spent, where it has a budget or a price, and what that has ended."""
    spent = spent_of(result.spent or {})
    if spent is None or (result.budget is None and not spent.money):
        return []
    lines = [("spent", f"{spent.words()} in all commands of this sweep")]
    if result.budget is not None:
        lines += [("budget", str(line)) for line in result.budget.get("lines") or []]
    return lines


def fold(line: str, width: int) -> str:
    """A line with its label, on as many as it takes."""
    return textwrap.fill(
        line,
        max(min(width, WIDEST), NARROWEST),
        subsequent_indent=" " * 8,
        break_long_words=False,
        break_on_hyphens=False,
    )


def decision_lines(result: SweepResult) -> list[tuple[str, str]]:
    """The verdict on the registered version, and each of its reasons."""
    model = result.model
    if model is None or result.best is None:
        return []
    role = f"has the alias {model.alias}" if model.alias else NO_ALIAS
    return [
        ("model", f"{model.name} v{model.version} {role}"),
        *(("why", reason) for reason in result.reasons or [result.decision or ""]),
    ]


def finalist_lines(result: SweepResult) -> list[str]:
    """What the finalists scored on the validation split, where they were trained again."""
    if not any(finalist.runs > 1 or finalist.again for finalist in result.finalists):
        return []
    lines = []
    for finalist in result.finalists:
        spread = "" if finalist.spread is None else f" ± {finalist.spread:.3f}"
        runs = f" over {len(finalist.scores)} seeds" if len(finalist.scores) > 1 else ""
        failed = f", {plural(finalist.failed, 'run')} failed" if finalist.failed else ""
        metric = f"{finalist.metric} {finalist.mean:.3f}{spread}{runs}{failed}"
        lines.append(f"trial {finalist.trial}  {metric}")
    return lines


def tied_line(tied: TiedFinalists) -> str:
    """Which finalists the test rows cannot tell apart."""
    names = tied.tied
    if len(names) == 1:
        return f"{names[0]} is the best of {tied.compared} that met the test rows"
    together = f"{', '.join(names[:-1])} and {names[-1]}"
    return (
        f"{together} are tied on the test rows ({tied.compared} compared); the smallest, "
        f"{names[0]}, is registered"
    )


def next_lines(result: SweepResult, programs: str) -> list[tuple[str, str]]:
    """Commands to paste."""
    lines = []
    if result.state == "interrupted":
        lines.append(("go on", f"{programs}{result.command}"))
    if result.report:
        lines.append(("report", result.report))
    lines.append(("open", shown_commands.ui(result.tracking_uri, programs)))
    is_cut = result.budget is not None and result.budget.get("wider") is not None
    if result.state == "finished" and (result.trials.total > 1 or is_cut) and result.wider:
        lines.append(("more", f"{programs}{result.wider}"))
    if result.model:
        model = result.model
        address = f"models:/{model.name}@{model.alias}" if model.alias else model.uri
        question = f"{result.asked or 'prompt'}={result.prompt}"
        asked = ["job=predict", f"model_uri={address}", question, *result.settings]
        lines.append(("try", shown_commands.orchestrator(asked, programs)))
    if result.needs:
        lines.append(("needs", result.needs))
    return lines


def counted(states: list[str], total: int) -> TrialCounts:
    """Trials by how they ended."""
    return TrialCounts(
        total, states.count("finished"), states.count("stopped"), states.count("failed")
    )


def failures(records: Iterable[Record]) -> list[str]:
    """One line per failed trial, with its cause."""
    return [
        f"{label(record.index)}: {record.error}" for record in records if record.state == "failed"
    ]


def unfinished(
    count: int, error: str | None, refused: int = 0, refused_file: Path | str | None = None
) -> str | None:
    """What the tracking store has not received: not yet, and never."""
    late = (
        f"{plural(count, 'event')} not yet in MLflow ({error or 'it is slow to answer'}); the same "
        "command again writes them"
    )
    never = f"{plural(refused, 'event')} refused by MLflow, kept with the reasons in {refused_file}"
    return (
        "; ".join(text for text, num_events in ((late, count), (never, refused)) if num_events)
        or None
    )
