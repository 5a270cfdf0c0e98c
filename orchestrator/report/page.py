"""The page itself: one HTML file that needs no network, with the chart library in it.

All texts of the sweep are escaped here, in HTML and in the JSON that the charts read: prompts and
answers may hold any markup. A policy in the page forbids it every request.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from orchestrator.report.content import Content, content
from orchestrator.report.metric_text import shown
from orchestrator.report.sweep_data import read_sweep
from orchestrator.storage.json_files import write_whole

ASSETS = Path(__file__).resolve().parent / "assets"
NAME = "report.html"
LEVELS = {"warning": "Warning", "note": "Note"}


def write_report(folder: Path) -> Path:
    """Write the report of the sweep in a folder into it; returns the file."""
    file = folder / NAME
    write_whole(file, page(content(read_sweep(folder))))
    return file


def asset(name: str) -> str:
    """A file of the page's own."""
    return (ASSETS / name).read_text(encoding="utf-8")


def escape(value: object) -> str:
    """A text as it may stand in HTML."""
    return html.escape(str(value), quote=True)


def data_json(value: Content) -> str:
    """An object for a script of the page: nothing in it ends the script or starts a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "replace").decode("utf-8")


def page(of: Content) -> str:
    """The whole page."""
    sections = [
        ("verdict", "Verdict", verdict(of)),
        ("leaderboard", "Leaderboard", leaderboard(of)),
        ("curves", "Learning curves", curves(of)),
        ("settings", "Settings and scores", parallel(of)),
        ("knobs", "What mattered", knobs(of)),
        ("mix", "Data mix", mix(of)),
        ("cost", "Quality and cost", cost(of)),
        ("slices", "Slices of the test split", slices(of)),
        ("errors", "Wrong answers", errors(of)),
        ("failures", "Failed trials", failures(of)),
        ("next", "What to try next", next_steps(of)),
    ]
    if of["ships"]:
        sections.insert(1, ("ships", "Files that ship", ships(of)))
    parts = {
        "TITLE": escape(f"Sweep {of['name']}"),
        "STATE": escape(of["state"]),
        "STYLE": asset("report.css"),
        "NAVIGATION": "".join(f'<a href="#{id}">{title}</a>' for id, title, _ in sections),
        "SECTIONS": "".join(
            f'<section id="{id}" aria-labelledby="{id}-title"><h2 id="{id}-title">{title}</h2>'
            f"{body}</section>"
            for id, title, body in sections
        ),
        "DATA": data_json(of),
        "LIBRARY": asset("echarts.custom.min.js"),
        "SCRIPT": asset("report.js"),
    }
    whole = asset("page.html")
    pieces = whole.split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        filled += [parts[name], rest]
    return "".join(filled).encode("utf-8", "replace").decode("utf-8")


def paragraph(text: str, css: str = "") -> str:
    """One paragraph of a text."""
    mark = f' class="{css}"' if css else ""
    return f"<p{mark}>{escape(text)}</p>"


def chart(name: str, label: str, tall: bool = False) -> str:
    """The place of a chart. With the keyboard its points are walked through by the arrow keys."""
    css = "chart tall" if tall else "chart"
    return (
        f'<div class="{css}" id="chart-{name}" data-chart="{name}" tabindex="0" role="application" '
        f'aria-roledescription="chart" aria-label="{escape(label)}: arrow keys walk through its '
        'points, Enter marks the trial"></div>'
    )


def chooser(name: str, label: str, options: list[str]) -> str:
    """A list to choose what a chart shows; nothing where there is no choice."""
    if len(options) < 2:
        return ""
    entries = "".join(f'<option value="{n}">{escape(o)}</option>' for n, o in enumerate(options))
    return (
        f'<label class="choice">{escape(label)} '
        f'<select data-choice="{name}">{entries}</select></label>'
    )


def table(head: list[str], rows: list[list[Any]], css: str = "", num_texts: int = 0) -> str:
    """A table that its headings sort; the first `num_texts` columns are texts."""
    heads = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(h)}</button></th>'
        for h in head
    )
    body = "".join(
        "<tr>" + "".join(cell(value, at < num_texts) for at, value in enumerate(row)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="table"><table class="{css}">'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def cell(value: Any, is_text: bool) -> str:
    """A cell; a trial's number marks it in all charts."""
    if isinstance(value, dict) and "trial" in value:
        index = int(value["trial"])
        return f'<td><button type="button" data-trial="{index}">{index}</button></td>'
    text = "–" if value is None else shown(value)
    return f"<td{'' if is_text else ' class=number'}>{escape(text)}</td>"


def verdict(of: Content) -> str:
    """The verdict in words, and the alerts."""
    body = "".join(paragraph(sentence, "lead") for sentence in of["verdict"])
    if of["continues"]:
        body += paragraph("This command continues it:") + command_box(of["continues"])
    if not of["alerts"]:
        return body + paragraph("Nothing in the numbers warns of anything.")
    items = "".join(
        f'<li class="{alert["level"]}"><strong>{LEVELS[alert["level"]]}:</strong> '
        f"{escape(alert['text'])}</li>"
        for alert in of["alerts"]
    )
    return f'{body}<ul class="alerts">{items}</ul>'


def command_box(command: str) -> str:
    """A command to paste."""
    return (
        f"<div class=command><pre>{escape(command)}</pre>"
        '<button type="button" data-copy>Copy</button></div>'
    )


def leaderboard(of: Content) -> str:
    """All trials by score, with intervals and what stands beside them."""
    if not of["order"]:
        return paragraph(f"No trial has a value of {of['metric']}, so there is none to rank.")
    paths = list(dict.fromkeys(path for trial in of["trials"] for path in trial["point"]))
    by_index = {trial["index"]: trial for trial in of["trials"]}
    rest = [trial["index"] for trial in of["trials"] if trial["index"] not in of["order"]]
    rows = []
    for position, index in enumerate([*of["order"], *rest], 1):
        trial = by_index[index]
        interval = None if trial["low"] is None else f"{trial['low']:.3g} to {trial['high']:.3g}"
        ranked = position if index in of["order"] else None
        values = [trial["point"].get(path) for path in paths]
        rows.append(
            [ranked, {"trial": index}, trial["score"], interval, trial["state"], trial["steps"]]
            + values
        )
    head = ["rank", "trial", of["metric"], "95 % interval", "state", "steps", *paths]
    lines = [
        [line[key] for key in ("letter", "name", "value", "low", "high")]
        for line in of["baselines"]
    ]
    beside = (
        table(["line", "beside it", "test score", "low", "high"], lines, num_texts=2)
        if lines
        else ""
    )
    legend = "Bars: 95 % intervals on the validation rows. Upright lines: scores on the test split."
    return (
        chart("leaderboard", "scores of the trials", True)
        + paragraph(legend, "note")
        + beside
        + table(head, rows, "trials", 0)
    )


def curves(of: Content) -> str:
    """Scores and losses over the steps."""
    options = [
        name
        for name, key in (
            (f"{of['metric']} ({of['unit']})", "curve"),
            ("validation loss (nats per token)", "valid_loss"),
            ("training loss (nats per token)", "train_loss"),
        )
        if any(trial[key] for trial in of["trials"])
    ]
    if not options:
        return paragraph("No trial has reported anything yet.")
    return chooser("curves", "Show", options) + chart("curves", "learning curves")


def parallel(of: Content) -> str:
    """Parallel coordinates."""
    if len(of["order"]) < 2 or not of["knobs"]:
        return paragraph(
            "Parallel coordinates compare trials with different settings: there are not two that "
            "have a score."
        )
    legend = "Each line is a trial; drag along an axis to keep the trials within a range."
    return chart("parallel", "parallel coordinates of settings and score") + paragraph(
        legend, "note"
    )


def knobs(of: Content) -> str:
    """Importance and effect of each knob."""
    if not of["knobs"]:
        return paragraph("Nothing was searched.")
    weighed = [knob for knob in of["knobs"] if knob["importance"] is not None]
    body = ""
    if weighed:
        body = chart("importance", "importance of each setting") + paragraph(
            "Importance by PED-ANOVA: which settings tell the best trials from the others. Trials "
            "that were stopped early count with the best score that they had.",
            "note",
        )
    else:
        body = paragraph(
            "The importance of settings needs four trials with scores that differ: there are not "
            "so many."
        )
    edges = [knob for knob in of["knobs"] if knob["edge"]]
    body += "".join(
        paragraph(
            f"{knob['path']}: the best value, {shown(knob['best'])}, lies at the {knob['edge']} "
            "end of what was searched.",
            "flag",
        )
        for knob in edges
    )
    if not of["order"]:
        return body
    names = [
        knob["path"]
        + (" (best value at the edge)" if knob["edge"] else "")
        + (" (follows another)" if knob["linked"] else "")
        for knob in of["knobs"]
    ]
    return body + chooser("effect", "Setting", names) + chart("effect", "effect of one setting")


def mix(of: Content) -> str:
    """Response to the share of each source."""
    if not of["mix"]:
        return paragraph("The data mix was the same in all trials, so nothing is told of it.")
    names = [entry["source"] for entry in of["mix"]]
    body = chooser("mix", "Source", names) + chart("mix", "score by the share of a source")
    if of["mix_need"]:
        body += paragraph(of["mix_need"], "note")
    of_trials = of["mix_table"]
    legend = "Examples, tokens and epochs: what a trial has really drawn of each source."
    return (
        body
        + paragraph(legend, "note")
        + "<details><summary>What each trial was trained on</summary>"
        + table(of_trials["head"], of_trials["rows"])
        + "</details>"
        + merged(of["merged"])
    )


def merged(found: Content | None) -> str:
    """What merged experts had said of the mixes, beside what training has shown."""
    if found is None:
        return ""
    return (
        paragraph(found["text"], "note")
        + "<details><summary>Score of the merged experts, and of the trial with that mix</summary>"
        + table(found["head"], found["rows"])
        + "</details>"
    )


def cost(of: Content) -> str:
    """Pareto fronts."""
    if not of["costs"]:
        return paragraph("All trials cost the same, or there are not two with a score.")
    names = [entry["name"] for entry in of["costs"]]
    return (
        chooser("cost", "Cost", names)
        + chart("cost", "quality against cost")
        + paragraph("The line joins trials that nothing cheaper beats (the Pareto front).", "note")
    )


def ships(of: Content) -> str:
    """The exported files with what they score and cost, and the devices that they are for."""
    head = ["format", of["metric"], "low", "high", "drop", "MB", "MB of memory", "tokens/s", "file"]
    body = table(head, [entry["cells"] for entry in of["ships"] if "cells" in entry], num_texts=1)
    notes = [entry["note"] for entry in of["ships"] if "note" in entry] + of["devices"]
    return body + "".join(paragraph(text) for text in notes)


def slices(of: Content) -> str:
    """Scores by slice."""
    if not of["slices"]:
        return paragraph("The winner was not judged on the test split, so there are no slices.")
    names = [entry["column"] for entry in of["slices"]]
    rows = [
        [entry["column"], row["name"], row["value"], row["low"], row["high"], row["rows"]]
        for entry in of["slices"]
        for row in entry["rows"]
    ]
    head = ["column", "slice", of["metric"], "low", "high", "rows"]
    return (
        chooser("slices", "By", names)
        + chart("slices", "scores by slice")
        + paragraph("Thin lines: 95 % intervals. In brackets: the number of test rows.", "note")
        + f"<details><summary>The numbers</summary>{table(head, rows, num_texts=2)}</details>"
    )


def errors(of: Content) -> str:
    """Wrong answers by kind, with examples."""
    if not of["answered"]:
        return paragraph("No answers are kept of this sweep: the winner was not judged yet.")
    if not of["errors"]:
        return paragraph(f"All {of['answered']:,} answers are right.")
    wrong = sum(entry["count"] for entry in of["errors"])
    body = paragraph(f"{wrong:,} of {of['answered']:,} answers are wrong.")
    body += chart("errors", "wrong answers by kind")
    for entry in of["errors"]:
        shown_rows = "".join(
            "<dl>"
            f"<dt>prompt</dt><dd><pre>{escape(row['prompt'])}</pre></dd>"
            f"<dt>right</dt><dd><pre>{escape(row['reference'])}</pre></dd>"
            f"<dt>answered</dt><dd><pre>{escape(row['prediction']) or '(nothing)'}</pre></dd></dl>"
            for row in entry["examples"]
        )
        title = f"{entry['count']:,} × {entry['kind']}"
        body += f"<details><summary>{escape(title)}</summary>{shown_rows}</details>"
    return body


def failures(of: Content) -> str:
    """Failed trials by cause."""
    if not of["failures"]:
        return paragraph("No trial has failed.") + done_about_faults(of)
    items = "".join(
        f"<li><strong>{len(entry['trials'])}</strong> "
        f"({escape(', '.join(map(str, entry['trials'][:20])))}): {escape(entry['cause'])}</li>"
        for entry in of["failures"]
    )
    return f"<ul>{items}</ul>" + done_about_faults(of)


def done_about_faults(of: Content) -> str:
    """What the sweep has done about faults, counted."""
    if not of["actions"]:
        return ""
    items = ""
    for entry in of["actions"]:
        trials = ", ".join(map(str, entry["trials"][:20]))
        which = f" (trials {escape(trials)})" if trials else ""
        items += f"<li><strong>{entry['count']}</strong>{which}: {escape(entry['action'])}</li>"
    return f"<h3>What was done</h3><ul>{items}</ul>"


def next_steps(of: Content) -> str:
    """Commands to paste, one for each alert that has a remedy."""
    advised: dict[str, list[str]] = {}
    for alert in of["alerts"]:
        if alert["command"]:
            advised.setdefault(alert["command"], []).append(alert["text"])
    if not advised:
        return paragraph(
            "Nothing calls for another sweep: look at the wrong answers, and at rows like them."
        )
    items = "".join(
        f"<li>{''.join(map(paragraph, texts))}{command_box(command)}</li>"
        for command, texts in advised.items()
    )
    return f"<ol>{items}</ol>"
