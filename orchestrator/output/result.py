"""What came out of a sweep, as the record that is kept, printed and given to other programs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from jobs.evaluation import registry
from orchestrator.config.run_numbers import label
from orchestrator.output.plan_text import duration, plural, short
from orchestrator.tracking import shown_commands

DEFAULT_TEST = registry.key(registry.EXACT_MATCH, registry.TEST)
"""What a result of before is judged by, which does not name it."""
SLICES_TOLD = 3
"""Slices that the last screen names, the worst ones."""
FEWEST_ROWS = 10
"""Smaller slices are told in result.json alone."""

Result = dict[str, Any]
"""sweep, metric, state, trials{total,finished,stopped,failed}, best{trial,run_id,params,metrics},
base{metrics}, baselines{NAME{metrics}}, model{name,version,alias,uri},
seconds{setup,train,total}, tracking_uri; and for the text: decision, failures, missing, command.
"""

PUBLIC = (
    *("sweep", "state", "trials", "metric", "best", "finalists", "base", "baselines", "model"),
    *("seconds", "tracking_uri"),
)
KEPT = {*PUBLIC, "steps", "target", "command", "wider"} - {"metric", "finalists"}
"""What the record of a finished sweep cannot do without; one that lacks it, by another version or a
torn disk, is made again.
"""


def is_whole(found: Result) -> bool:
    """Whether a record read from disk is one that can be shown."""
    try:
        text(found)
        public(found)
        counts = (found["steps"], found.get("copies", 0), *found["trials"].values())
        model = found["model"]
        return (
            found.keys() >= KEPT
            and all(isinstance(number, int) for number in counts)
            and (model is None or model.keys() >= {"name", "version", "uri", "alias"})
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return False


def public(result: Result) -> Result:
    """The part that `output=json` prints: these keys and no others, and `error` where there is
    one.
    """
    shown = {key: result.get(key) for key in PUBLIC}
    if result.get("best"):
        shown["best"] = {
            key: result["best"][key] for key in ("trial", "run_id", "params", "metrics")
        }
    if result.get("base"):
        shown["base"] = {"metrics": result["base"]["metrics"]}
    return shown | ({"error": result["error"]} if result.get("error") else {})


def text(result: Result, programs: str = "") -> str:
    """The last screen: what was found, what it is worth, what to do next. `programs` stands before
    "python" in the commands to paste.
    """
    lines: list[tuple[str, str]] = []
    if result["best"] and result["best"].get("trial"):
        lines += best_lines(result)
    lines += [("final", line) for line in finalist_lines(result)]
    if result.get("tied"):
        lines.append(("final", tied_line(result["tied"])))
    trials = result["trials"]
    lines.append(
        (
            "trials",
            f"{trials['finished']} finished, {trials['stopped']} stopped early, {trials['failed']} "
            f"failed of {trials['total']}",
        )
    )
    lines += [("failed", failure) for failure in result.get("failures", [])]
    if result.get("error"):
        lines.append(("error", result["error"]))
    if result.get("missing"):
        lines.append(("missing", result["missing"]))
    if result.get("unchecked"):
        lines.append(("note", result["unchecked"]))
    seconds = result["seconds"]
    lines.append(
        (
            "time",
            f"{duration(seconds['total'])} ({duration(seconds['setup'])} to start, "
            f"{duration(seconds['train'])} of training)",
        )
    )
    lines += [("help", hint) for hint in result.get("help", [])]
    lines += next_lines(result, programs)
    return "\n".join(f"{label:<8}{line}" for label, line in lines)


def finalist_lines(result: Result) -> list[str]:
    """What the finalists scored on the validation split, where they were trained again."""
    told = result.get("finalists") or []
    if not any(finalist["runs"] > 1 or finalist["again"] for finalist in told):
        return []
    lines = []
    for finalist in told:
        spread = "" if finalist["spread"] is None else f" ± {finalist['spread']:.3f}"
        runs = f" over {len(finalist['scores'])} seeds" if len(finalist["scores"]) > 1 else ""
        failed = f", {plural(finalist['failed'], 'run')} failed" if finalist["failed"] else ""
        metric = f"{finalist['metric']} {finalist['mean']:.3f}{spread}{runs}{failed}"
        lines.append(f"trial {finalist['trial']}  {metric}")
    return lines


def tied_line(tied: dict[str, Any]) -> str:
    """Which finalists the test rows cannot tell apart."""
    names = tied["tied"]
    if len(names) == 1:
        return f"{names[0]} is the best of {tied['compared']} that met the test rows"
    together = f"{', '.join(names[:-1])} and {names[-1]}"
    return (
        f"{together} are tied on the test rows ({tied['compared']} compared); the smallest, "
        f"{names[0]}, is registered"
    )


def best_lines(result: Result) -> list[tuple[str, str]]:
    """The winner, the base beside it, and the registered version."""
    best, model = result["best"], result["model"]
    searched = short(
        {
            path: best["params"][path]
            for path in result.get("searched", [])
            if path in best["params"]
        }
    )
    lines = [("best", f"{label(best.get('run', best['trial']))}  {searched}".rstrip())]
    for name, metrics in (
        ("test", best["metrics"]),
        ("base", (result["base"] or {}).get("metrics", {})),
    ):
        metric = judged_by(result)
        if metric in metrics:
            value, low, high = (metrics[f"{metric}{end}"] for end in ("", "_low", "_high"))
            whose = metric if name == "test" else "the untouched base"
            cut = metrics.get(f"{registry.TEST}/shortened")
            told = f"; {cut:.0f} prompts were cut" if cut else ""
            lines.append(
                (
                    name,
                    f"{whose} {value:.3f} ({result.get('confidence', 0.95):.0%} interval "
                    f"{low:.3f}..{high:.3f}{told})",
                )
            )
    worst = worst_slices(best.get("slices") or {}, judged_by(result))
    if worst:
        lines.append(("slices", f"worst of those with {FEWEST_ROWS} rows or more: {worst}"))
    lines += baseline_lines(result)
    if model:
        alias = f" -> alias {model['alias']}" if model["alias"] else ""
        lines.append(("model", f"{model['name']} v{model['version']}{alias}: {result['decision']}"))
    return lines


def judged_by(result: Result) -> str:
    """Under which name the winner's test score stands among the metrics."""
    return result.get("metric") or DEFAULT_TEST


def worst_slices(slices: dict[str, dict[str, dict[str, float]]], metric: str) -> str:
    """The slices with the worst scores, a few of those of enough rows; nothing where there are not
    two of one kind to compare.
    """
    name = registry.name_of(metric)
    told = [
        (scores[name], kind, value, int(scores["rows"]))
        for kind, values in slices.items()
        for value, scores in values.items()
        if name in scores and scores["rows"] >= FEWEST_ROWS
    ]
    kinds = Counter(kind for _, kind, _, _ in told)
    told = [entry for entry in told if kinds[entry[1]] > 1]
    told.sort(reverse=not registry.metric_of(metric).maximise)
    return ", ".join(
        f"{kind} {shown(value)} {score:.3f} ({plural(rows, 'row')})"
        for score, kind, value, rows in told[:SLICES_TOLD]
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


def baseline_lines(result: Result) -> list[tuple[str, str]]:
    """What needs no training, the best first, and what of it is not known."""
    key = judged_by(result)
    values = {
        name: scores["metrics"][key]
        for name, scores in (result.get("baselines") or {}).items()
        if key in scores["metrics"]
    }
    maximise = registry.metric_of(registry.name_of(key)).maximise
    order = sorted(values, key=lambda name: -values[name] if maximise else values[name])
    lines = [("beside", f"{BASELINES.get(name, name)} {values[name]:.3f}") for name in order]
    return lines + [("note", note) for note in result.get("notes", [])]


def next_lines(result: Result, programs: str) -> list[tuple[str, str]]:
    """Commands to paste."""
    lines = []
    if result["state"] == "interrupted":
        lines.append(("go on", f"{programs}{result['command']}"))
    if result.get("report"):
        lines.append(("report", result["report"]))
    lines.append(("open", shown_commands.ui(result["tracking_uri"], programs)))
    if result["state"] == "finished" and result["trials"]["total"] > 1 and result["wider"]:
        lines.append(("more", f"{programs}{result['wider']}"))
    if result["model"]:
        model = result["model"]
        address = f"models:/{model['name']}@{model['alias']}" if model["alias"] else model["uri"]
        question = f"{result.get('asked', 'prompt')}={result['prompt']}"
        asked = ["job=predict", f"model_uri={address}", question, *result.get("settings", [])]
        lines.append(("try", shown_commands.orchestrator(asked, programs)))
    if result.get("needs"):
        lines.append(("needs", result["needs"]))
    return lines


def counted(states: list[str], total: int) -> dict[str, int]:
    """Trials by how they ended."""
    return {"total": total} | {
        state: states.count(state) for state in ("finished", "stopped", "failed")
    }


def failures(records: Any) -> list[str]:
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
    return "; ".join(text for text, there in ((late, count), (never, refused)) if there) or None
