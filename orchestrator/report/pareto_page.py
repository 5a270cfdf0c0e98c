"""The front of a sweep over several base models as one HTML page that needs no network."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from jobs.files.json_types import JsonObject
from orchestrator.output.pareto_text import COLUMNS, ordered, row_of
from orchestrator.output.shipped_text import device_lines
from orchestrator.storage.json_files import write_whole

NAME = "front.html"
WIDTH, HEIGHT, MARGIN = 640, 320, 48
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{padding:.2rem .7rem;text-align:left;"
    "border-bottom:1px solid #8884}svg{max-width:100%;height:auto}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}}"
)


def write(folder: Path, record: JsonObject) -> Path:
    """Write the page of a front into its folder; returns the file."""
    file = folder / NAME
    write_whole(file, page(record))
    return file


def page(record: JsonObject) -> str:
    """The whole page."""
    title = html.escape(f"Front {record['pareto']}")
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row_of(entry)) + "</tr>"
        for entry in ordered(record)
    )
    heads = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in COLUMNS)
    told = [
        f"{label}: {line}" for device in record["devices"] for label, line in device_lines(device)
    ]
    told += [f"{name} was not trained: {why}" for name, why in record["not_trained"].items()]
    told += [f"{name} was not made: {why}" for name, why in record["not_made"].items()]
    listed = "".join(f"<li>{html.escape(line)}</li>" for line in told)
    charts = "".join(
        f"<h2>{html.escape(str(record['metric']))} against {words}</h2>{chart(record, key, words)}"
        for key, words in (("size_mb", "MB on disk"), ("tokens_per_second", "tokens per second"))
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{charts}"
        f"<h2>Devices</h2><ul>{listed}</ul></body></html>"
    )


def chart(record: JsonObject, key: str, words: str) -> str:
    """Score against a cost; files on the front are filled."""
    points = [
        (float(entry[key]), float(entry["score"]), entry)
        for entry in record["files"]
        if entry[key] is not None and entry["score"] is not None
    ]
    if not points:
        return "<p>No file has both.</p>"
    columns = spread([x for x, _, _ in points])
    heights = spread([y for _, y, _ in points])
    marks = []
    for (x, y, entry), right, up in zip(points, columns, heights, strict=True):
        at = MARGIN + right * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - up * (HEIGHT - 2 * MARGIN)
        fill = "currentColor" if entry["front"] else "none"
        name = html.escape(f"{entry['base']} {entry['format']}: {y:.3f} at {x:,.1f} {words}")
        marks.append(
            f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="6" fill="{fill}" stroke="currentColor">'
            f"<title>{name}</title></circle>"
            f'<text x="{at[0] + 10:.1f}" y="{at[1] + 4:.1f}" font-size="12" fill="currentColor">'
            f"{html.escape(label_of(entry))}</text>"
        )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="score against {words}">'
        f'<path d="M{MARGIN} {MARGIN}V{HEIGHT - MARGIN}H{WIDTH - MARGIN}" fill="none" '
        f'stroke="currentColor" opacity=".4"/>{"".join(marks)}</svg>'
    )


def label_of(entry: dict[str, Any]) -> str:
    """What stands beside a point."""
    return f"{entry['base']} {str(entry['format']).removeprefix('gguf-')}"


def spread(values: list[float]) -> list[float]:
    """Values as shares of their range."""
    low, high = min(values), max(values)
    return [0.5 if high == low else (value - low) / (high - low) for value in values]
