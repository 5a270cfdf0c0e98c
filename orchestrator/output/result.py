"""What came out of a sweep, as the record that is kept, printed and given to other programs."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from jobs.evaluation import copying, registry
from jobs.files.json_types import JsonObject
from orchestrator.config.run_numbers import label
from orchestrator.output.console import duration, plural, short
from orchestrator.output.remote_state import RemoteState
from orchestrator.output.shipped_text import shipping_lines
from orchestrator.output.sweep_result import (
    Metrics,
    SweepResult,
    TiedFinalists,
    TrialCounts,
    from_json,
)
from orchestrator.storage.journal import Record
from orchestrator.tracking import shown_commands

DEFAULT_TEST = registry.key(registry.EXACT_MATCH, registry.TEST)
"""What a result of before is judged by, which does not name it."""
SLICES_TOLD = 3
"""Slices that the last screen names, the worst ones."""
FEWEST_ROWS = 10
"""Smaller slices are told in result.json alone."""

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
    lines.append(
        (
            "time",
            f"{duration(seconds.total)} ({duration(seconds.setup)} to start, "
            f"{duration(seconds.train)} of training)",
        )
    )
    lines += decision_lines(result)
    lines += shipping_lines(result)
    lines += [("help", hint) for hint in result.help or []]
    folded = [f"{label:<8}{line}" for label, line in lines]
    if width is not None:
        folded = [fold(line, width) for line in folded]
    return "\n".join(
        [*folded, *(f"{label:<8}{line}" for label, line in next_lines(result, programs))]
    )


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


def best_lines(result: SweepResult) -> list[tuple[str, str]]:
    """The winner, with the base and the baselines beside it."""
    best = result.best
    if best is None:
        return []
    searched = short({path: best.params[path] for path in result.searched if path in best.params})
    lines = [("best", f"{label(best.run or best.trial)}  {searched}".rstrip())]
    metric = judged_by(result)
    for name, subject, metrics in (
        ("test", metric, best.metrics),
        ("base", "the untouched base", result.base.metrics if result.base else {}),
    ):
        if metric in metrics:
            value, low, high = (metrics[f"{metric}{end}"] for end in ("", "_low", "_high"))
            shortened = metrics.get(f"{registry.TEST}/shortened")
            cut = f"; {shortened:.0f} prompts were cut" if shortened else ""
            unended = metrics.get(f"{registry.TEST}/unended")
            cut += f"; {plural(int(unended), 'answer')} did not end" if unended else ""
            lines.append(
                (
                    name,
                    f"{subject} {value:.3f} ({result.confidence:.0%} interval "
                    f"{low:.3f}..{high:.3f}{cut})",
                )
            )
    worst = worst_slices(best.slices or {}, metric, is_higher_better(result))
    if worst:
        lines.append(("slices", f"worst of those with {FEWEST_ROWS} rows or more: {worst}"))
    return [
        *lines,
        *baseline_lines(result),
        *(("shown", line) for line in copying_lines(best.metrics)),
    ]


def judged_by(result: SweepResult) -> str:
    """Under which name the winner's test score stands among the metrics."""
    return result.metric or DEFAULT_TEST


def is_higher_better(result: SweepResult) -> bool:
    """In which direction the winner's score is better: a function of the user's has its own."""
    if result.maximise is None:
        return registry.metric_of(judged_by(result)).maximise
    return result.maximise


def worst_slices(slices: dict[str, dict[str, Metrics]], metric: str, maximise: bool) -> str:
    """The slices with the worst scores, a few of those of enough rows; nothing where there are not
    two of one kind to compare.
    """
    name = registry.name_of(metric)
    scored = [
        (scores[name], kind, value, int(scores["rows"]))
        for kind, values in slices.items()
        for value, scores in values.items()
        if name in scores and scores["rows"] >= FEWEST_ROWS
    ]
    kinds = Counter(kind for _, kind, _, _ in scored)
    scored = [entry for entry in scored if kinds[entry[1]] > 1]
    scored.sort(reverse=not maximise)
    return ", ".join(
        f"{kind} {shown(value)} {score:.3f} ({plural(rows, 'row')})"
        for score, kind, value, rows in scored[:SLICES_TOLD]
    )


def shown(value: str) -> str:
    """A slice's value, not too long for a line."""
    line = " ".join(value.split())
    return line if len(line) <= LONGEST_VALUE else f"{line[:LONGEST_VALUE]}..."


LONGEST_VALUE = 30


BASELINES = {
    "most_frequent": "the most frequent answer",
    "nearest_prompt": "the answer of the nearest training prompt",
    "linear_classifier": "a linear classifier",
    "base_with_examples": "the untouched base with examples in its prompt",
}
"""Baselines in words."""


def baseline_lines(result: SweepResult) -> list[tuple[str, str]]:
    """What needs no training, the best first, and what of it is not known."""
    key = judged_by(result)
    values = {
        name: scores.metrics[key]
        for name, scores in result.baselines.items()
        if key in scores.metrics
    }
    maximise = is_higher_better(result)
    order = sorted(values, key=lambda name: -values[name] if maximise else values[name])
    lines = [("beside", f"{BASELINES.get(name, name)} {values[name]:.3f}") for name in order]
    return lines + [("note", note) for note in result.notes or []]


def copying_lines(metrics: Metrics) -> list[str]:
    """What the winner adds over copying the neighbours that it is shown."""
    scores = {
        name: metrics[f"{registry.TEST}/{name}"] for name in copying.ALL if has(metrics, name)
    }
    if copying.COPIED not in scores:
        return []
    further = ""
    if copying.FURTHER in scores:
        further = (
            f"; right in {scores[copying.FURTHER]:.3f} of the {scores[copying.FURTHER_ROWS]:.0f} "
            "rows whose answer is another neighbour's"
        )
    return [
        f"the right answer is among its neighbours' in {scores[copying.HOLD]:.3f} of the test "
        f"rows, the nearest one's in {scores[copying.NEAREST]:.3f}; it answered the nearest one's "
        f"in {scores[copying.COPIED]:.3f}{further}"
    ]


def has(metrics: Metrics, name: str) -> bool:
    """Whether a metric of the test split is there."""
    return f"{registry.TEST}/{name}" in metrics


def next_lines(result: SweepResult, programs: str) -> list[tuple[str, str]]:
    """Commands to paste."""
    lines = []
    if result.state == "interrupted":
        lines.append(("go on", f"{programs}{result.command}"))
    if result.report:
        lines.append(("report", result.report))
    lines.append(("open", shown_commands.ui(result.tracking_uri, programs)))
    if result.state == "finished" and result.trials.total > 1 and result.wider:
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
    count: int, error: str | None, refused: int = 0, aside: Path | str | None = None
) -> str | None:
    """What the tracking store has not received: not yet, and never."""
    late = (
        f"{plural(count, 'event')} not yet in MLflow ({error or 'it is slow to answer'}); the same "
        "command again writes them"
    )
    never = f"{plural(refused, 'event')} refused by MLflow, kept with the reasons in {aside}"
    return (
        "; ".join(text for text, num_events in ((late, count), (never, refused)) if num_events)
        or None
    )
