"""What job=synthesize prints and keeps: its plan, the preview with the cost, the result, the
manifest.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from jobs.files.json_types import JsonObject
from jobs.synthesis.chat_server import without_login
from jobs.synthesis.drafts import Ask
from jobs.synthesis.filters import REASONS
from jobs.synthesis.synthesizer import Outcome, Tally
from jobs.synthesis_settings import Teacher
from orchestrator.commands.synthesis_job import Job, digest
from orchestrator.config.chosen_files import chosen_files
from orchestrator.output.console import duration, plural
from orchestrator.tracking.shown_commands import programs_here

FORMAT = 1
"""Of the manifest."""
MILLION = 1_000_000
SHOWN = 90
SAME_ROWS = r"[+~]*(data|model)([.=]|$)|[+]?(experiment|sweep)="
"""What on a command line decides which rows are trained on, and how."""


def who(teacher: Teacher, base: str) -> str:
    """Who answers, in words."""
    if teacher.url is not None:
        return f"{teacher.model} at {without_login(teacher.url)}"
    return f"{teacher.model or base} on this machine"


def teacher_words(job: Job) -> str:
    """The teacher in words."""
    if not job.recipe.steps:
        return "by rule, without a teacher"
    return f"by {who(job.settings.teacher, job.config.model.name)}"


def headline(job: Job) -> str:
    """Recipe, seeds and teacher in a line."""
    settings = job.settings
    if settings.recipe == "questions":
        start = f"{len(job.passages):,} passages of {settings.documents}"
    else:
        start = f"{len(job.seeds.rows):,} training rows of {job.config.data.name}"
    return f"{settings.recipe} of {start}, {teacher_words(job)}"


def plan_lines(job: Job, first: Ask | None) -> list[str]:
    """What would be done."""
    settings = job.settings
    most = settings.rows * settings.tries
    requests = f"{settings.rows * job.recipe.steps:,} requests at least"
    counts = job.seeds.counts
    lines = [
        f"plan    {headline(job)}",
        f"rows    {plural(settings.rows, 'row')} of at most {most:,} drafts, into {job.folder}",
    ]
    if job.recipe.steps:
        lines.append(f"asks    {requests}; synthesis.preview=true makes ten rows and says the cost")
    limits = [f"budget.{name}={limit:g}" for name, limit in job.config.budget.amounts().items()]
    if limits:
        lines.append(f"budget  {', '.join(limits)}: it ends there, with the rows that it has")
    if counts:
        rarest = ", ".join(f"{name} ({n})" for name, n in counts.most_common()[:-4:-1])
        lines.append(f"labels  {len(counts):,}, the rarest {rarest}")
    if settings.judge is not None:
        name = settings.judge.version or who(settings.judge, job.config.model.name)
        lines.append(f"judge   {name}")
    if first is not None:
        text = str(first.as_one[-1]["content"])
        lines.append("first   " + text.replace("\n", "\n        "))
    return lines


def plan_record(job: Job, first: Ask | None) -> JsonObject:
    """The same as a record."""
    return {
        "plan": {
            "job": "synthesize",
            "recipe": job.settings.recipe,
            "rows": job.settings.rows,
            "most_drafts": job.settings.rows * job.settings.tries,
            "requests_for_a_row": job.recipe.steps,
            "seeds": len(job.seeds.rows),
            "labels": len(job.seeds.counts),
            "passages": len(job.passages),
            "folder": str(job.folder),
            "first_request": None if first is None else first.as_one[-1]["content"],
            "notes": job.notes,
        }
    }


def preview_lines(job: Job, outcome: Outcome) -> list[str]:
    """Ten rows, and what all will cost."""
    lines = [f"plan    {headline(job)}"]
    for position, row in enumerate(outcome.rows, start=1):
        prompt, answer = asked_and_answered(row)
        wishes = row["provenance"].get("attributes") or {}
        asked_for = ", ".join(f"{name}={value}" for name, value in wishes.items())
        lines.append(f"row {position:<3} {one_line(prompt)} -> {one_line(answer)}")
        lines.append(
            f"        from {row['provenance']['seed']}" + (f" ({asked_for})" if asked_for else "")
        )
    lines += rejected_lines(outcome.tally)
    lines.append(f"cost    {cost_words(outcome.tally, job)}")
    record = estimate(job, outcome)
    if record is None:
        lines.append("all     no row has passed, so nobody can say what all would cost")
    else:
        lines.append(f"all     {job.settings.rows:,} rows: {estimate_words(record)}")
    lines.append("wrote   nothing: synthesis.preview=true; without it the rows are made")
    return lines


def preview_record(job: Job, outcome: Outcome) -> JsonObject:
    """The same as a record."""
    return {
        "preview": {
            "job": "synthesize",
            "recipe": job.settings.recipe,
            "rows": outcome.rows,
            "drafts": outcome.tally.drafts,
            "rejected": dict(outcome.tally.rejected),
            "cost": cost(outcome.tally, job),
            "estimate": estimate(job, outcome),
            "folder": str(job.folder),
        }
    }


def estimate(job: Job, outcome: Outcome) -> JsonObject | None:
    """What all rows will take, by what these took; None where no row has passed."""
    if not outcome.rows:
        return None
    scale = job.settings.rows / len(outcome.rows)
    return {
        name: value if name == "estimated_tokens" or value is None else scaled(value, scale)
        for name, value in cost(outcome.tally, job).items()
    }


def scaled(value: float, scale: float) -> float:
    """A count or an amount, so many times."""
    return round(value * scale) if isinstance(value, int) else round(value * scale, 4)


def cost(tally: Tally, job: Job) -> JsonObject:
    """Requests, tokens, seconds and price."""
    settings = job.settings
    prices = [
        (settings.teacher.price, tally.input_tokens, tally.output_tokens),
        (
            None if settings.judge is None else settings.judge.price,
            tally.judge_input_tokens,
            tally.judge_output_tokens,
        ),
    ]
    named = [(price, read, written) for price, read, written in prices if price is not None]
    total = sum(
        (price.input * read + price.output * written) / MILLION for price, read, written in named
    )
    return {
        "requests": tally.requests + tally.taken_over,
        "input_tokens": tally.input_tokens + tally.judge_input_tokens,
        "output_tokens": tally.output_tokens + tally.judge_output_tokens,
        "estimated_tokens": tally.estimated_tokens,
        "seconds": round(tally.seconds, 1),
        "price": round(total, 6) if named else None,
    }


def cost_words(tally: Tally, job: Job) -> str:
    """The same in words."""
    words = estimate_words(cost(tally, job))
    if tally.taken_over:
        words += f" (of the requests {tally.taken_over:,} were answered before)"
    return words


def estimate_words(record: JsonObject) -> str:
    """A cost in words."""
    about = "about " if record["estimated_tokens"] else ""
    words = (
        f"{plural(record['requests'], 'request')}, {about}{record['input_tokens']:,} tokens read "
        f"and {record['output_tokens']:,} written, {duration(record['seconds'])}"
    )
    if record["price"] is not None:
        words += f", price {record['price']:.4g}"
    return words


def rejected_lines(tally: Tally) -> list[str]:
    """What was rejected, by reason, with an example of each."""
    total = tally.rejected.total()
    if not total:
        return [f"passed  all {plural(tally.drafts, 'draft')}"]
    lines = [f"reject  {total:,} of {plural(tally.drafts, 'draft')}"]
    for reason, count in tally.rejected.most_common():
        about = REASONS.get(reason, "")
        example = one_line(tally.examples.get(reason, ""))
        lines.append(
            f"        {count:>5,}  {reason}{f': {about}' if about else ''}"
            + (f"; first: {example}" if example else "")
        )
    return lines


def asked_and_answered(row: JsonObject) -> tuple[str, str]:
    """A row's question and answer."""
    if "messages" in row:
        return row["messages"][-2]["content"], row["messages"][-1]["content"]
    return row["prompt"], row["completion"]


def one_line(text: str) -> str:
    """The beginning of a text on one line."""
    flat = " ".join(str(text).split())
    return flat if len(flat) <= SHOWN else f"{flat[:SHOWN]}..."


def nothing_text(job: Job, folder: Path, outcome: Outcome) -> str:
    """That no row has passed, and why."""
    tally = outcome.tally
    if outcome.ended.startswith("budget."):
        return f"{outcome.ended}, and no row is made; raise it: what was answered is kept"
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in tally.rejected.most_common())
    reason, detail = next(iter(tally.examples.items()), ("", ""))
    first = f"; the first: {reason} {one_line(detail)}" if reason else ""
    return (
        f"none of {plural(tally.drafts, 'draft')} became a row ({reasons}){first}; another "
        f"teacher, recipe or synthesis.filters helps; all of them are in "
        f"{folder}/.synthesis/rejected.jsonl"
    )


def manifest(job: Job, outcome: Outcome, file: str, sha256: str) -> JsonObject:
    """What is written last, beside the rows."""
    tally = outcome.tally
    labels = Counter(
        value
        for row in outcome.rows
        for value in (f"{k}={v}" for k, v in (row["provenance"].get("attributes") or {}).items())
    )
    return {
        "format": FORMAT,
        "job": "synthesize",
        "file": file,
        "folder": str(job.folder),
        "rows": len(outcome.rows),
        "ended": outcome.ended or None,
        "budget": job.config.budget.amounts(),
        "sha256": sha256,
        "recipe": job.settings.recipe,
        "teacher": None if not job.recipe.steps else teacher_words(job).removeprefix("by "),
        "data": {
            "name": job.config.data.name,
            "fingerprint": job.corpus.fingerprint,
            "digests": job.corpus.digests,
            "seeds": len(job.seeds.rows),
        },
        "drafts": tally.drafts,
        "rejected": dict(tally.rejected.most_common()),
        "examples": {reason: text for reason, text in tally.examples.items() if text},
        "cost": cost(tally, job),
        "pace": outcome.pace,
        "diversity": outcome.figures,
        "attributes": dict(sorted(labels.items())),
        "settings": dataclasses.asdict(job.settings),
        "seed": job.config.seed,
        "identity": digest(job.decisive),
        "wanted": job.wanted,
        "written": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def result_lines(job: Job, folder: Path, record: JsonObject, same: list[str]) -> list[str]:
    """What came of it."""
    tally = Tally(
        drafts=record["drafts"],
        rejected=Counter(record["rejected"]),
        examples=record["examples"],
    )
    fewer = ""
    if record["ended"]:
        fewer = f" of {job.settings.rows:,} that were wanted: {record['ended']}"
    path = folder / record["file"]
    figures = record["diversity"]
    spread = (
        f"{figures['distinct_words']:.2f} of the words are different; a row shares "
        f"{figures['mean_nearest']:.2f} of its words with the nearest before it"
    )
    return [
        f"made    {headline(job)}",
        f"rows    {plural(record['rows'], 'row')}{fewer}, in {path}",
        *rejected_lines(tally),
        f"differ  {spread}",
        f"cost    {estimate_words(record['cost'])}",
        f"next    {train_command(path, same)}",
    ]


def same_rows(overrides: list[str], folder: str | None) -> list[str]:
    """What of a command line chooses the rows, the base and the sweep, for the command that trains
    on them too; `folder` is --config-dir.
    """
    own = [] if folder is None else ["--config-dir", folder]
    chosen = list(chosen_files(overrides, folder))
    sweeps = any(file.choice_of("sweep") for file in chosen) or any(
        text.lstrip("+").startswith("sweep=") for text in overrides
    )
    same = [text for text in overrides if re.match(SAME_ROWS, text)]
    return [*own, *([] if sweeps else ["+sweep=lora"]), *same]


def train_command(path: Path, same: list[str]) -> str:
    """The command that trains on the rows, their share searched."""
    knob = "{path: data.sources.synthetic.weight, type: uniform, low: 0.0, high: 0.5}"
    words = [*same, f"+data.sources.synthetic.path={path}", f"+sweep.space.synthetic={knob}"]
    return f"{programs_here()}python -m {shlex.join(['orchestrator', *words])}"
