"""Files of rows as people have them: a hundred rows of each usual kind."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

COLOURS = ("red", "green", "blue", "grey", "pink", "white", "black", "brown", "amber", "teal")
THINGS = (
    "lamp",
    "chair",
    "bottle",
    "basket",
    "carpet",
    "kettle",
    "window",
    "bucket",
    "ladder",
    "pencil",
)
TOPICS = [f"the {colour} {thing}" for colour in COLOURS for thing in THINGS]


def write_lines(file: Path, rows: list[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return file


def pairs(folder: Path) -> Path:
    rows = [
        {
            "prompt": f"Where is {t}?",
            "completion": f"Look for {t} in room {i}, please, and tell us where you have found it.",
        }
        for i, t in enumerate(TOPICS)
    ]
    return write_lines(folder / "pairs.jsonl", rows)


def labelled_table(folder: Path) -> Path:
    file = folder / "tickets.csv"
    lines = [
        f'"a ticket about {t}",{"billing" if i % 3 else "returns"},{"web" if i % 2 else "mail"}'
        for i, t in enumerate(TOPICS)
    ]
    file.write_text("text,label,channel\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return file


def numbered_labels(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    info = {
        "features": {
            "text": {"dtype": "string", "_type": "Value"},
            "label": {"names": ["no", "yes"], "_type": "ClassLabel"},
        }
    }
    table = pa.table(
        {
            "text": [f"is {t} here" for t in TOPICS],
            "label": pa.array([i % 2 for i in range(100)], pa.int64()),
        }
    )
    file = folder / "numbered.parquet"
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": info})}), file)
    return file


def conversations(folder: Path) -> Path:
    rows = [
        {
            "messages": [
                {"role": "system", "content": "You work in a shop."},
                {"role": "user", "content": f"Have you {t}?"},
                {"role": "assistant", "content": f"Yes, {t} is on shelf {i}."},
            ]
        }
        for i, t in enumerate(TOPICS)
    ]
    return write_lines(folder / "chats.jsonl", rows)


def sharegpt(folder: Path) -> Path:
    rows = [
        {
            "conversations": [
                {"from": "human", "value": f"What does {t} cost?"},
                {"from": "gpt", "value": f"It costs {i} euros."},
            ]
        }
        for i, t in enumerate(TOPICS)
    ]
    file = folder / "sharegpt.json"
    file.write_text(json.dumps(rows))
    return file


def alpaca(folder: Path) -> Path:
    rows = [{"instruction": "Write in capitals.", "input": t, "output": t.upper()} for t in TOPICS]
    file = folder / "alpaca.json"
    file.write_text(json.dumps(rows))
    return file


def preferences(folder: Path) -> Path:
    rows = [
        {"prompt": f"Sell {t}.", "chosen": f"Take {t} home today.", "rejected": "No."}
        for t in TOPICS
    ]
    return write_lines(folder / "preferences.jsonl", rows)


def json_answers(folder: Path) -> Path:
    rows = [
        {"query": f"put {t} into box {i}", "answer": json.dumps({"item": t, "box": i})}
        for i, t in enumerate(TOPICS)
    ]
    return write_lines(folder / "slots.jsonl", rows)


def splits_in_a_folder(folder: Path) -> Path:
    for split, part in {"train": TOPICS[:60], "valid": TOPICS[60:80], "test": TOPICS[80:]}.items():
        lines = [f"how heavy is {t}\t{'heavy' if len(t) % 2 else 'light'}" for t in part]
        (folder / "split").mkdir(exist_ok=True)
        (folder / "split" / f"{split}.tsv").write_text(
            "question\tresponse\n" + "\n".join(lines) + "\n"
        )
    return folder / "split"


def long_texts(folder: Path) -> Path:
    file = folder / "reports.jsonl.gz"
    rows = [
        {
            "text": f"Report {i}. " + f"We have looked at {t} again and again. " * 110,
            "summary": f"In report {i} it was {t} that was looked at.",
        }
        for i, t in enumerate(TOPICS)
    ]
    with gzip.open(file, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    return file


def repeated_rows(folder: Path) -> Path:
    rows = [
        {"prompt": f"{t}: in or out", "completion": "in" if i % 2 else "out"}
        for i, t in enumerate(TOPICS)
    ]
    return write_lines(folder / "repeated.jsonl", rows + rows[:20])
