"""The model card of a version, in Markdown: what it was made of, what it scores beside what, and
how to load it. It is the version's description in MLflow, and README.md in its folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.config import BaseModel, Trial
from jobs.data import hub_data
from jobs.evaluation import registry
from jobs.evaluation.comparison import smallest_difference
from orchestrator.evaluation.promotion import Candidate, Scores
from orchestrator.output.result import BASELINES, DEFAULT_TEST
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
) -> str:
    """The whole card. `notes` say what is not known, and why."""
    sections = [
        heading(plan, base, name),
        score_table(plan, candidate.scores, base_scores, baselines, notes, metric),
        slice_table(candidate.scores, candidate.slices, metric),
        data_section(plan, trial),
        neighbour_section(trial),
        settings_section(params),
        licence_section(base, data_files(plan)),
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
    )


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


def data_section(plan: Plan, trial: Trial) -> str:
    """What it was trained and judged on."""
    total = sum(source.weight for source in trial.data.sources.values()) or 1.0
    lines = ["## Data\n", "| source | rows | share of what it saw | sha256 |", "|---|---|---|---|"]
    for name, share in plan.sources.items():
        weight = trial.data.sources[name].weight / total
        digest = plan.digests[f"train/{name}"][:12]
        lines.append(f"| {name} | {share.rows:,} | {weight:.0%} | {digest} |")
    for split, count in (("valid", plan.num_valid), ("test", plan.num_test)):
        lines.append(f"| {split} (held out) | {count:,} | | {plan.digests[split][:12]} |")
    return "\n".join(lines) + "\n"


def neighbour_section(trial: Trial) -> str:
    """Which of its training rows it carries, and what it does with them."""
    count = trial.data.neighbours.count
    if not count:
        return ""
    return (
        f"## Neighbours\n\nBefore each question stand the {count} most similar training rows with "
        "different answers. The version carries the rows in `neighbours.jsonl`, looks them up by "
        "itself when it is asked, and is of no use without them. `text` in `predictions.jsonl` is "
        "the whole prompt.\n"
    )


def settings_section(params: Mapping[str, Any]) -> str:
    """The settings that were trained with."""
    shown = ", ".join(f"`{key}={value}`" for key, value in sorted(params.items()))
    return f"## Settings\n\n{shown}\n"


def licence_section(base: BaseModel, files: Sequence[Path]) -> str:
    """Under what terms base and data stand, as far as their own files say."""
    of_base = licence_of([Path(base.path)]) or f"not stated in its files, see {base.id}"
    lines = [
        "## Licences\n",
        f"- Base model {base.name}: {of_base}",
        f"- Data: {licence_of(folders_of(files)) or 'not stated beside its files'}",
        "\nThe adapter inherits the terms of both.",
    ]
    return "\n".join(lines) + "\n"


def data_licence(plan: Plan) -> str | None:
    """Under what terms the training rows stand, as far as files beside them say."""
    return licence_of(folders_of(data_files(plan)))


def data_files(plan: Plan) -> list[Path]:
    """The files and folders that the data settings name on this machine."""
    data = plan.config.data
    named = [source.path for source in data.sources.values()] + [data.valid, data.test]
    paths = [Path(path) for path in named if path is not None and "://" not in path]
    if data.folder is not None and "://" not in data.folder:
        paths.append(Path(data.folder))
    snapshots = [hub_data.snapshot_of(path) for path in (*named, data.folder) if path is not None]
    return paths + [path for path in snapshots if path is not None]


def folders_of(files: Sequence[Path]) -> list[Path]:
    """The folders that files lie in, each once."""
    return list(dict.fromkeys(file if file.is_dir() else file.parent for file in files))


def licence_of(folders: Sequence[Path]) -> str | None:
    """What files beside the weights or rows say of their terms: a README's front matter or its
    section on the licence, or the first line of a LICENSE.
    """
    for folder in folders:
        for file in sorted(folder.glob("README*")) + sorted(folder.glob("LICEN[CS]E*")):
            try:
                text = file.read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            if file.name.startswith("README"):
                front = re.search(r"\A---\n.*?^licen[cs]e: *(\S.*?)$", text, re.M | re.S)
                section = re.search(
                    r"^#+ [^\n]*licen[cs]e[^\n]*\n+(.+?)(\n\n|\Z)", text, re.M | re.S | re.I
                )
                licence_match = front or section
                if licence_match is not None:
                    return f"{' '.join(licence_match[1].split())[:500]} ({file.name})"
            elif text.strip():
                return f"{' '.join(text.strip().splitlines()[0].split())[:200]} ({file.name})"
    return None


def load_section(name: str) -> str:
    """How it is asked and loaded."""
    return f"""## How to load

```
python -m orchestrator job=predict model_uri=models:/{name}@champion prompt="..."
```

Or over HTTP, behind a chat interface, once its `requirements.txt` is installed:

```
mlflow models serve -m models:/{name}@champion --env-manager local
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
