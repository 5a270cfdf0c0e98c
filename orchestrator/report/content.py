"""What stands on the page of a sweep, as one JSON object: charts and tables are drawn from it."""

from __future__ import annotations

import contextlib
from typing import Any

from jobs.evaluation import registry
from orchestrator.output.best_lines import BASELINES, forgetting_texts, threshold_text
from orchestrator.report import answers, importance, merged_mixes, mixes, shipped_files
from orchestrator.report.actions import actions
from orchestrator.report.alerts import alerts, causes, tied
from orchestrator.report.edges import edge_of, widened
from orchestrator.report.judged import metrics_of, test_values
from orchestrator.report.metric_text import is_counted, rounded, shown, unit, wilson
from orchestrator.report.sweep_data import SweepData, TrialData, finite

MOST_POINTS = 40
"""Points of one curve of the training loss; more are averaged."""
MOST_VALUES = 20_000
"""Points of all curves of the training loss: of many trials each has fewer."""

Content = dict[str, Any]


def content(data: SweepData) -> Content:
    """Everything that the page shows."""
    ranked = data.ranked()
    mix = mixes.mixture(data, ranked)
    return {
        "name": data.name,
        "metric": data.stem,
        "unit": unit(data.metric),
        "maximise": data.maximise,
        "state": state_of(data),
        "winner": getattr(data.winner(), "index", None),
        "verdict": verdict(data),
        "continues": None if data.state == "finished" else data.command,
        "alerts": alerts(data),
        "trials": [trial_entry(data, trial) for trial in data.trials],
        "order": [trial.index for trial in ranked],
        "baselines": baseline_lines(data),
        "knobs": knobs(data, ranked),
        "mix": mix,
        "mix_need": mixes.mix_need(data, ranked, len(mix)),
        "mix_table": mixes.mix_table(data, ranked) if mix else None,
        "merged": merged_mixes.merged(data),
        "costs": costs(data, ranked),
        "slices": slices(data),
        "errors": answers.error_kinds(data.predictions),
        "answered": len(data.predictions),
        "ships": shipped_files.entries(data),
        "devices": shipped_files.devices(data),
        "failures": [{"cause": cause, "trials": t} for cause, t in causes(data).items()],
        "actions": actions(data),
    }


def state_of(data: SweepData) -> str:
    """How the sweep has ended, or that it has not."""
    return str(data.state or data.result.get("state") or "running, or its command has died")


def trial_entry(data: SweepData, trial: TrialData) -> dict[str, Any]:
    """One trial."""
    low, high = interval_of(data, trial)
    curve = [
        [step, rounded(data.value_in(report))] for step, report in sorted(trial.reports.items())
    ]
    loss = [
        [step, rounded(report.get(registry.VALID_LOSS))]
        for step, report in sorted(trial.reports.items())
    ]
    return {
        "index": trial.index,
        "state": trial.state,
        "score": rounded(trial.score),
        "low": rounded(low),
        "high": rounded(high),
        "steps": trial.steps,
        "seconds": rounded(seconds_of(trial)),
        "point": {path: compact(value) for path, value in trial.point.items()},
        "curve": [pair for pair in curve if pair[1] is not None],
        "valid_loss": [pair for pair in loss if pair[1] is not None],
        "train_loss": thinned(trial.losses, len(data.trials)),
    }


def compact(value: Any) -> Any:
    """A setting's value with so many digits as are read."""
    return rounded(value, 5) if isinstance(value, float) else value


def seconds_of(trial: TrialData) -> float | None:
    """From its start to its last report, in each command that has trained it."""
    if trial.started is None or trial.last is None:
        return None
    return sum(last - start for start, last in trial.spans.items())


def interval_of(data: SweepData, trial: TrialData) -> tuple[float | None, float | None]:
    """The 95 % interval of a trial's score: as it was reported, else from the number of rows where
    the metric counts rows.
    """
    if trial.score is None or trial.best_step is None:
        return None, None
    report = trial.reports[trial.best_step]
    low, high = data.value_in(report, "valid", "_low"), data.value_in(report, "valid", "_high")
    rows = data.rows.get("valid")
    if low is None and high is None and rows and is_counted(data.metric) and 0 <= trial.score <= 1:
        return wilson(trial.score, rows)
    return low, high


def thinned(losses: dict[int, float | None], num_trials: int) -> list[list[float | None]]:
    """A curve as means over equally long stretches."""
    steps = [(step, loss) for step, loss in sorted(losses.items()) if loss is not None]
    most = max(min(MOST_POINTS, MOST_VALUES // max(num_trials, 1)), 8)
    width = -(-len(steps) // most) or 1
    groups = [steps[start : start + width] for start in range(0, len(steps), width)]
    return [[group[-1][0], rounded(sum(v for _, v in group) / len(group))] for group in groups]


def baseline_lines(data: SweepData) -> list[dict[str, Any]]:
    """Scores that stand beside the trials: the base, the baselines, and the winner on the test
    split.
    """
    lines = []
    entries = {"untouched base": data.result.get("base")}
    baselines = data.result.get("baselines")
    if isinstance(baselines, dict):
        entries |= {BASELINES.get(str(k), str(k)): entry for k, entry in baselines.items()}
    entries["winner, on the test split"] = data.result.get("best")
    for name, entry in entries.items():
        value = data.value_in(metrics_of(entry), "test")
        if value is not None:
            ends = [data.value_in(metrics_of(entry), "test", end) for end in ("_low", "_high")]
            low, high = map(rounded, ends)
            letter = chr(ord("A") + len(lines) % 26)
            line = {"letter": letter, "name": name, "value": rounded(value)}
            lines.append(line | {"low": low, "high": high})
    return lines


def knobs(data: SweepData, ranked: list[TrialData]) -> list[dict[str, Any]]:
    """The searched settings, the most important first."""
    shares = importance.importances(data)
    winner = data.winner()
    entries = []
    for name, knob in data.space.items():
        path = knob["path"]
        linked = knob.get("type") == "linked"
        values = {trial.index: trial.point.get(path) for trial in ranked}
        effect = importance.effect(ranked, values, knob.get("type") == "loguniform")
        best = None if winner is None else winner.point.get(path)
        side = None if best is None else edge_of(knob, best)
        if side is not None and widened(name, knob, side) is None:
            side = None
        entries.append(
            {
                "path": path,
                "linked": linked,
                "log": knob.get("type") == "loguniform",
                "listed": knob.get("type") in ("choice", "grid"),
                "importance": rounded(shares.get(path)),
                "best": compact(best),
                "edge": side,
                "effect": effect,
            }
        )
    return sorted(entries, key=lambda entry: -(entry["importance"] or 0.0))


def costs(data: SweepData, ranked: list[TrialData]) -> list[dict[str, Any]]:
    """Quality against what it costs: for each cost a point per trial and the Pareto front."""
    batch = {trial.index: finite(trial.params.get("train.batch_size")) for trial in ranked}
    rank = {
        trial.index: finite((trial.params | trial.point).get("adapter.rank")) for trial in ranked
    }
    quantities = [
        ("training examples", "examples", lambda t: batch[t.index] and batch[t.index] * t.steps),
        ("time from start to last report", "seconds", seconds_of),
        ("size of the adapter (LoRA rank)", "rank", lambda t: rank[t.index]),
    ]
    entries = []
    for name, of_unit, quantity in quantities:
        points = [
            (cost, trial.score, trial.index)
            for trial in ranked
            if (cost := quantity(trial)) is not None and trial.score is not None
        ]
        if len({cost for cost, _, _ in points}) > 1:
            front = pareto(points, data.maximise)
            shown_points = [[rounded(c), rounded(s), index] for c, s, index in points]
            entries.append({"name": name, "unit": of_unit, "points": shown_points, "front": front})
    return entries


def pareto(points: list[tuple[float, float, int]], maximise: bool) -> list[int]:
    """Trials that no other one beats at the same cost or less, the cheapest first."""
    sign = 1 if maximise else -1
    front: list[int] = []
    best = None
    for _, score, index in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if best is None or sign * score > best:
            best = sign * score
            front.append(index)
    return front


def slices(data: SweepData) -> list[dict[str, Any]]:
    """Scores of parts of the test split: those of the result, else those that the answers give."""
    groups: dict[str, list[dict[str, Any]]] = {}
    best = data.result.get("best")
    judged = best.get("slices") if isinstance(best, dict) else None
    sliced = judged or data.result.get("slices")
    for column, entries in sliced.items() if isinstance(sliced, dict) else []:
        rows = slice_rows(data, entries)
        largest = sorted(rows, key=lambda row: -(row["rows"] or 0))[: answers.MOST_LABELS]
        title = str(column).replace("_", " ")
        if len(rows) > len(largest):
            title = f"{title} (the {len(largest)} with the most rows)"
        if rows:
            groups[title] = largest
    return [
        {"column": column, "rows": rows}
        for column, rows in (groups or answers.own_slices(data.predictions)).items()
    ]


def slice_rows(data: SweepData, entries: Any) -> list[dict[str, Any]]:
    """One column's slices, from a list of them or from a mapping by name."""
    if isinstance(entries, dict):
        entries = [
            (entry if isinstance(entry, dict) else {"value": entry}) | {"name": name}
            for name, entry in entries.items()
        ]
    rows = []
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict):
            continue
        metrics = metrics_of(entry)
        ends = {end: slice_value(data, entry, metrics, end) for end in ("", "_low", "_high")}
        count = finite(entry.get("rows", entry.get("n", entry.get("count"))))
        if ends[""] is not None and ends["_low"] is None and count and is_counted(data.metric):
            ends["_low"], ends["_high"] = wilson(min(max(ends[""], 0), 1), int(count))
        if ends[""] is not None:
            rows.append(
                {
                    "name": answers.shortened(entry.get("name", entry.get("slice", "?"))),
                    "value": rounded(ends[""]),
                    "low": rounded(ends["_low"]),
                    "high": rounded(ends["_high"]),
                    "rows": None if count is None else int(count),
                }
            )
    return rows


def slice_value(
    data: SweepData, entry: dict[str, Any], metrics: dict[str, Any], end: str
) -> float | None:
    """A slice's value of the sweep's metric, or an end of its interval."""
    value = data.value_in(metrics, "test", end)
    fallback = entry.get("value" if not end else end.lstrip("_"))
    return finite(fallback) if value is None else value


def verdict(data: SweepData) -> list[str]:
    """The verdict in sentences."""
    winner = data.winner()
    count = len(data.trials)
    if not count:
        return ["No trial has started yet: there is nothing to judge."]
    if winner is None:
        return [f"None of {count} trials has a value of {data.metric}: there is no winner."]
    settings = ", ".join(f"{path} {shown(value)}" for path, value in winner.point.items())
    first = f"Trial {winner.index} is the best of {count}" if count > 1 else "There is one trial"
    score = "has no score" if winner.score is None else f"has {shown(winner.score)} {data.stem}"
    rows = data.rows.get("valid")
    on = f" on {rows:,} validation rows" if rows else " on the validation rows"
    sentences = [f"{first}; it {score}{on}" + (f", with {settings}." if settings else ".")]
    ties = [trial.index for trial in tied(data) if trial.index != winner.index]
    if ties:
        others = "trial" if len(ties) == 1 else f"{len(ties)} trials, among them trial"
        sentences.append(
            f"The validation rows cannot tell it from {others} {', '.join(map(str, ties[:3]))}."
        )
    sentences += [*test_sentences(data), *kept_sentences(data)]
    decision, model = data.result.get("decision"), data.result.get("model")
    if isinstance(model, dict) and model.get("name"):
        alias = model.get("alias")
        role = f"with the alias {alias}" if alias else "without an alias"
        sentences.append(f"Registered as {model['name']} v{model.get('version')}, {role}.")
    reasons = data.result.get("reasons") or [decision]
    sentences += [f"Why: {str(reason).rstrip('.')}." for reason in reasons if reason]
    if data.state != "finished":
        sentences.append(unfinished(data))
    return sentences


def unfinished(data: SweepData) -> str:
    """That a sweep is not finished, how far it is and why."""
    over = sum(trial.state in ("finished", "stopped", "failed") for trial in data.trials)
    total = max(data.num_trials or 0, len(data.trials))
    why = f": {data.error.rstrip('.')}" if data.error else ""
    return (
        f"The sweep is not finished ({state_of(data)}{why}): {over} of {total} trials have ended, "
        "and all of this may change."
    )


def kept_sentences(data: SweepData) -> list[str]:
    """The threshold that was chosen for the winner, and what it has forgotten; nothing where the
    result tells of neither, or of less than a sentence needs.
    """
    rule, forgetting = data.result.get("threshold"), data.result.get("forgetting")
    sentences = []
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
        sentences += [f"Cost: {threshold_text(rule)}."] if rule else []
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
        sentences += [f"Kept of {text}." for text in forgetting_texts(forgetting or {})]
    return sentences


def test_sentences(data: SweepData) -> list[str]:
    """What the test split says of the winner, and of what stands beside it."""
    values = test_values(data)
    candidate = values.pop("candidate", None)
    if candidate is None:
        return ["It was not judged on the test split."]
    metrics = metrics_of(data.result.get("best"))
    low, high = data.value_in(metrics, "test", "_low"), data.value_in(metrics, "test", "_high")
    within = "" if low is None or high is None else f" (95 % interval {low:.3f} to {high:.3f})"
    rows = data.rows.get("test")
    on = f"On {rows:,} test rows" if rows else "On the test rows"
    sentences = [f"{on} it has {shown(candidate)} {data.stem}{within}."]
    sign = 1 if data.maximise else -1
    for name, value in values.items():
        more = "more than" if sign * (candidate - value) > 0 else "not more than"
        better = more if data.maximise else more.replace("more", "better")
        sentences.append(f"That is {better} {name}, which has {shown(value)}.")
    return sentences
