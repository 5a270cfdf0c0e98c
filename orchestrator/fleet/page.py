"""The page of a fleet: its table, with a link to each task's own report."""

from __future__ import annotations

import html
import os
from pathlib import Path

from orchestrator.fleet.fleet_result import HEADINGS, FleetResult, TaskRow
from orchestrator.report.page import NAME
from orchestrator.storage.json_files import write_whole

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
  color: #1b1f24; background: #fff; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid #d7dce1; }
tr.failed td, tr.interrupted td { color: #a0302a; }
@media (prefers-color-scheme: dark) { body { color: #e6e9ec; background: #16191d; }
  th, td { border-color: #3a4149; } a { color: #8ab4f8; } }
"""


def write_page(folder: Path, result: FleetResult) -> Path:
    """Write the page into the fleet's folder; returns the file."""
    file = folder / NAME
    write_whole(file, page(folder, result))
    return file


def page(folder: Path, result: FleetResult) -> str:
    """The page as HTML."""
    title = html.escape(f"fleet {result.fleet}")
    headings = "".join(f"<th>{html.escape(heading)}</th>" for heading in HEADINGS)
    rows = "\n".join(row_html(folder, row) for row in result.tasks)
    remarks = "\n".join(
        f"<li>{html.escape(row.task)}: {html.escape(text)}</li>"
        for row in result.tasks
        for text in remarks_of(row)
    )
    serve = ""
    if result.serve is not None:
        serve = f"<p>All of them from one base: <code>{html.escape(result.serve)}</code></p>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
        "<p>One row for each task: the untouched base, the best baseline and the tuned model on "
        "the task's test rows, with the interval of the last.</p>\n"
        f"<table><thead><tr>{headings}</tr></thead><tbody>\n{rows}\n</tbody></table>\n"
        f"<ul>{remarks}</ul>\n{serve}\n</body></html>\n"
    )


def remarks_of(row: TaskRow) -> list[str]:
    """What is said of a task below the table."""
    remarks = [text for text in (row.error, row.decision) if text is not None]
    return [*remarks, *row.notes]


def row_html(folder: Path, row: TaskRow) -> str:
    """One row; the task's name leads to its own report where that is on this disk."""
    name, *others = [html.escape(cell) for cell in row.cells()]
    if row.report is not None and os.path.isabs(row.report):
        link = html.escape(os.path.relpath(row.report, folder), quote=True)
        name = f'<a href="{link}">{name}</a>'
    cells = "".join(f"<td>{cell}</td>" for cell in [name, *others])
    return f'<tr class="{html.escape(row.state)}">{cells}</tr>'
