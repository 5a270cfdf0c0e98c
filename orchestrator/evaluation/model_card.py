"""The model card of a version, in Markdown: what it was made of, what it scores beside what, and
how to load it. It is the version's description in MLflow, and README.md in its folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.config import BaseModel, Trial
from jobs.evaluation import registry
from jobs.evaluation.comparison import smallest_difference
from orchestrator.evaluation.promotion import Candidate, Scores
from orchestrator.output.best_lines import BASELINES, DEFAULT_TEST
from orchestrator.plan.data_provenance import NOT_STATED, DataProvenance, provenance
from orchestrator.plan.licences import licence_of
from orchestrator.plan.planner import Plan

LONGEST_DESCRIPTION = 5_000
"""Characters that MLflow keeps of a version's description."""
SHOWN_SLICES = 20


def card(
    plan: Plan,
    trial: Trial,
    base: BaseModel,
    candidate: Candidate,
    base_scores: Scores,
    baselines: Mapping[str, Scores],
    params: Mapping[str, Any],
    name: str,
    notes: Sequence[str] = (),
    metric: str = DEFAULT_TEST,
    forgetting: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """The whole card. `notes` say what is not known, and why."""
    data = provenance(plan, trial)
    sections = [
        heading(plan, base, name),
        score_table(plan, candidate.scores, base_scores, baselines, notes, metric),
        slice_table(candidate.scores, candidate.slices, metric),
        forgetting_section(forgetting or {}),
        data_section(data),
        neighbour_section(trial),
        settings_section(params),
        licence_section(base, data),
        load_section(name),
    ]
    return "\n".join(section for section in sections if section)


def heading(plan: Plan, base: BaseModel, name: str) -> str:
    """What it is."""
    adapter = plan.config.adapter
    kind = "A LoRA adapter" if adapter.kind == "lora" else "All weights"
    return (
        f"# {name}\n\n{kind} for {base.name} ({base.id}, revision {base.revision[:12]}), trained "
        f"on {plan.config.data.name} by the sweep {plan.name}.\n"
        + (f"\n{plan.config.data.description.strip()}\n" if plan.config.data.description else "")
    )


def forgetting_section(forgetting: Mapping[str, Mapping[str, float]]) -> str:
    """What it has forgotten of what the base could do."""
    if not forgetting:
        return ""
    lines = [
        "## What it keeps\n",
        "| source | test rows | loss before | after |",
        "|---|---|---|---|",
    ]
    for name, scores in forgetting.items():
        lines.append(
            f"| {name} | {scores['rows']:,.0f} | {scores['before']:.3f} | {scores['after']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def score_table(
    plan: Plan,
    candidate: Scores,
    base_scores: Scores,
    baselines: Mapping[str, Scores],
    notes: Sequence[str],
    metric: str,
) -> str:
    """What it scores, beside what needs no training."""
    confidence = plan.config.job.confidence
    lines = [
        f"## Scores on {candidate.rows:,} test rows\n",
        f"| | {metric} | {confidence:.0%} interval |",
        "|---|---|---|",
        row("this model", candidate),
        row("the untouched base model", base_scores),
        *(
            row(BASELINES.get(name, name), scores)
            for name, scores in sorted(
                baselines.items(),
                key=lambda item: item[1].value,
                reverse=plan.config.sweep.maximise,
            )
        ),
    ]
    smallest = smallest_difference(candidate.rows, plan.config.registry.error_rate)
    if smallest is None:
        lines.append("\nSo few test rows cannot show that one model is better than another.")
    elif registry.metric_of(metric).share:  # of other scores it does not follow from the rows alone
        lines.append(f"\nSmallest difference that these rows can show: about {smallest:.3f}.")
    lines += [f"\nNote: {note}." for note in notes]
    lines.append(
        f"\nThe winner of {plan.num_trials:,} trials, chosen on {plan.num_valid:,} "
        "validation rows.\n"
    )
    return "\n".join(lines)


def row(name: str, scores: Scores) -> str:
    """One line of the table."""
    return f"| {name} | {scores.value:.3f} | {scores.low:.3f} to {scores.high:.3f} |"


def slice_table(candidate: Scores, slices: Mapping[str, Sequence[int]], metric: str) -> str:
    """Its scores on slices of the test rows, the largest first."""
    if not slices or not candidate.per_row:
        return ""
    lines = ["## Slices\n", f"| slice | rows | {metric} |", "|---|---|---|"]
    order = sorted(slices.items(), key=lambda item: (-len(item[1]), item[0]))
    for name, rows in order[:SHOWN_SLICES]:
        value = sum(candidate.per_row[row_index] for row_index in rows) / len(rows)
        shown = " ".join(name.split()).replace("|", "\\|")[:80]
        lines.append(f"| {shown} | {len(rows):,} | {value:.3f} |")
    if len(order) > SHOWN_SLICES:
        lines.append(f"\n{len(order) - SHOWN_SLICES} smaller slices are left out.")
    return "\n".join(lines) + "\n"


def data_section(data: DataProvenance) -> str:
    """What it was trained and judged on."""
    lines = [
        "## Data\n",
        "| source | rows | tokens | supervised | share of what it saw | synthetic | sha256 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, source in data.sources.items():
        lines.append(
            f"| {name} | {source.rows:,} | {counted(source.tokens)} | "
            f"{counted(source.supervised_tokens)} | {source.share:.0%} | {source.synthetic:.1%} | "
            f"{source.digest[:12]} |"
        )
    for split, rows in data.held_out.items():
        lines.append(
            f"| {split} (held out) | {rows.rows:,} | {counted(rows.tokens)} | | | "
            f"{rows.synthetic:.1%} | {rows.digest[:12]} |"
        )
    if data.synthetic:
        written = ", ".join(
            f"{rows:,} rows of {name} by {teacher}"
            for name, source in data.sources.items()
            for teacher, rows in source.teachers.items()
        )
        lines.append(
            f"\n{data.synthetic:.1%} of what it saw was written by a model, not by people: "
            f"{written}."
        )
    return "\n".join(lines) + "\n"


def counted(tokens: int | None) -> str:
    """A number of tokens, where it is known."""
    return "?" if tokens is None else f"{tokens:,}"


def neighbour_section(trial: Trial) -> str:
    """Which of its training rows it carries, and what it does with them."""
    count = trial.data.neighbours.count
    if not count:
        return ""
    embedding = trial.data.neighbours.embedding
    by = (
        "their letters (TF-IDF)"
        if embedding is None
        else f"the embedding model in `embedding/` ({embedding.rstrip('/').rsplit('/')[-1]}; the "
        "package sentence-transformers reads it)"
    )
    return (
        f"## Neighbours\n\nBefore each question stand the {count} most similar training rows with "
        f"different answers, by {by}. The version carries the rows in `neighbours.jsonl`, looks "
        "them up by itself when it is asked, and is of no use without them. `text` in "
        "`predictions.jsonl` is the whole prompt.\n"
    )


def settings_section(params: Mapping[str, Any]) -> str:
    """The settings that were trained with."""
    shown = ", ".join(f"`{key}={value}`" for key, value in sorted(params.items()))
    return f"## Settings\n\n{shown}\n"


def licence_section(base: BaseModel, data: DataProvenance) -> str:
    """Under what terms base and data stand, as far as settings and their own files say."""
    of_base = licence_of([Path(base.path)]) or f"not stated in its files, see {base.id}"
    by_licence: dict[str, list[str]] = {}
    for name, source in data.sources.items():
        by_licence.setdefault(source.licence or NOT_STATED, []).append(name)
    lines = [
        "## Licences\n",
        f"- Base model {base.name}: {of_base}",
        *(f"- Data, {', '.join(names)}: {licence}" for licence, names in by_licence.items()),
        "\nThe adapter inherits the terms of both.",
    ]
    return "\n".join(lines) + "\n"


def load_section(name: str) -> str:
    """How it is asked and loaded."""
    return f"""## How to load

```
python -m orchestrator job=predict model_uri=models:/{name}/VERSION prompt="..."
```

VERSION is the number that MLflow shows for this version, `model.version` in the sweep's
`result.json`. `@champion` in place of `/VERSION` asks whichever version is the champion by then:
another one than this, or none.

Or over HTTP, behind a chat interface, once its `requirements.txt` is installed:

```
mlflow models serve -m models:/{name}/VERSION --env-manager local
```

Or with transformers and peft alone: load the base model of `base.json` in the `dtype` of
`task.json`, put `adapter/` on it, and call `generate` with the settings of `task.json`.
`predictions.jsonl` holds the answer to every test row with its score.
"""


def description(text: str, promoted: bool, reasons: Sequence[str]) -> str:
    """The card as MLflow keeps it: with the decision, and cut to what it takes."""
    outcome = "It took the alias champion:" if promoted else "It did not take the alias champion:"
    reason = "\n".join([outcome, "", *(f"- {line}" for line in reasons)])
    full_text = f"{text}\n## Decision\n\n{reason}\n"
    if len(full_text) <= LONGEST_DESCRIPTION:
        return full_text
    ending = (
        "\n\n(cut; the whole card is README.md among the files)\n\n## Decision\n\n"
        f"{reason[:1500]}\n"
    )
    return text[: LONGEST_DESCRIPTION - len(ending)] + ending
