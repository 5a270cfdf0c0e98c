"""The winner of a sweep in lines: its scores beside those of the base and of the baselines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from jobs.evaluation import copying, registry
from orchestrator.config.run_numbers import label
from orchestrator.output.console import plural, short
from orchestrator.output.sweep_result import Metrics, SweepResult

DEFAULT_TEST = registry.key(registry.EXACT_MATCH, registry.TEST)
"""What a result of before is judged by, which does not name it."""
SLICES_TOLD = 3
"""Slices that the last screen names, the worst ones."""
FEWEST_ROWS = 10
"""Smaller slices are told in result.json alone."""
LONGEST_VALUE = 30
"""Characters of a slice's value that a line has room for."""
BASELINES = {
    "most_frequent": "the most frequent answer",
    "nearest_prompt": "the answer of the nearest training prompt",
    "linear_classifier": "a linear classifier",
    "base_with_examples": "the untouched base with examples in its prompt",
}
"""Baselines in words."""


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
        *(("cost", threshold_text(rule)) for rule in [result.threshold] if rule),
        *(("keeps", text) for text in forgetting_texts(result.forgetting or {})),
        *baseline_lines(result),
        *(("shown", line) for line in copying_lines(best.metrics)),
    ]


def threshold_text(rule: Mapping[str, Any]) -> str:
    """From which probability on a label should be answered, and what that is worth."""
    return (
        f'{rule["cost"]:.3f} a row when "{rule["label"]}" is answered from probability '
        f"{rule['threshold']:.3f} on, which is the cheapest on {rule['valid_rows']} validation "
        f"rows ({rule['cost_at_half']:.3f} from a half on); the probability is off by "
        f"{rule['calibration_error']:.3f} on average"
    )


def forgetting_texts(forgetting: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The loss on what should be retained, before and after."""
    return [
        f"{shown(name)}: loss on {plural(int(scores['rows']), 'test row')} "
        f"{scores['before']:.3f} before training, {scores['after']:.3f} after "
        f"({scores['change']:+.3f})"
        for name, scores in forgetting.items()
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
