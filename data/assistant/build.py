"""Build the assistant data set, everyday questions and answers that a tuned model should not forget
to answer, from the English part of the package chatterbot-corpus.

    pip install chatterbot-corpus==1.3.3
    python data/assistant/build.py

Owns the .jsonl files and the README beside it; all are committed, so nobody needs the package to
train. The rows of the task beside them are those of data/support.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

import building  # noqa: E402

VERSIONS = {"chatterbot-corpus": "1.3.3"}
TOPICS = (
    *("ai", "coding", "computers", "food", "history", "literature", "money", "movies"),
    *("psychology", "science", "sports", "tech_support", "trivia"),
)
HELD_OUT = {"valid": 0.10, "test": 0.25}
MOST_CHARACTERS = 240
TASK_ROWS = {"valid": 150, "test": 300}
USE = {"general": "training", "valid": "chooses the best trial", "test": "judges it"}

README = """# assistant: a task, and everyday questions that must not be forgotten over it

    {example}

{table}

`valid` and `test` hold two kinds of rows, by `source`: `task`, the first {task_valid} and {task_test} rows by hash of `data/support`, and
`general`, questions and answers about {topics}. The task is trained on the rows of `data/support`, what is to be retained on `general`
here, and how much of it there is in the mix is searched. What is forgotten is the loss on the general rows of `test`, before and after
training: scores are told for each source.

## How it is built
`python data/assistant/build.py` writes every file in this folder, byte for byte the same on each run, from `chatterbot-corpus==1.3.3`
and `data/support`. A row is a question and the answer that follows it, both of at most {most} characters; a question with several
answers has the first. By a hash of the question a tenth of them is `valid`, fifteen of a hundred `test`.

## What a score means
A general answer is one of many right ones, so no share of right answers is told of them: their loss says how far a model has moved
away from saying such things, no more.

## Origin and licence
ChatterBot Language Training Corpus, Copyright (c) Gunther Cox and contributors (https://github.com/gunthercox/chatterbot-corpus), BSD
3-clause. The rows of `task` are those of `data/support`: sentence templates of Home Assistant, CC BY 4.0
(data/support/README.md).
"""


def read_conversations() -> dict[str, tuple[str, str]]:
    """Question in the form in which two are compared -> the question and its first answer."""
    building.require(VERSIONS)
    import chatterbot_corpus
    import yaml

    folder = Path(str(chatterbot_corpus.__file__)).parent / "data" / "english"
    pairs: dict[str, tuple[str, str]] = {}
    for topic in TOPICS:
        content = yaml.safe_load((folder / f"{topic}.yml").read_text(encoding="utf-8"))
        for conversation in content["conversations"]:
            question, answer, *_ = [" ".join(str(text).split()) for text in (*conversation, "", "")]
            fits = max(len(question), len(answer)) <= MOST_CHARACTERS
            if fits and re.search(r"\w{2}", question) and re.search(r"\w{2}", answer):
                pairs.setdefault(building.normalise(question), (question, answer))
    return pairs


def task_rows(split: str) -> list[dict[str, str]]:
    """Some rows of the task."""
    file = FOLDER.parent / "support" / f"{split}.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows.sort(key=lambda row: building.hashed(row["prompt"]))
    return [row_of(row["prompt"], row["completion"], "task") for row in rows[: TASK_ROWS[split]]]


def row_of(prompt: str, completion: str, source: str) -> dict[str, str]:
    """One row."""
    return {"prompt": prompt, "completion": completion, "source": source}


def build() -> dict[str, str]:
    """Content of every file by name."""
    splits: dict[str, list[Any]] = {name: [] for name in USE}
    for key, (question, answer) in sorted(read_conversations().items()):
        position = building.share(key)
        name = next((name for name, end in HELD_OUT.items() if position < end), "general")
        splits[name].append(row_of(question, answer, "general"))
    for name in TASK_ROWS:
        splits[name] += task_rows(name)
    files = {f"{name}.jsonl": building.json_lines(rows) for name, rows in splits.items()}
    readme = README.format(
        example=files["general.jsonl"].splitlines()[0],
        table=building.table(splits, USE),
        task_valid=TASK_ROWS["valid"],
        task_test=TASK_ROWS["test"],
        topics=", ".join(topic.replace("_", " ") for topic in TOPICS),
        most=MOST_CHARACTERS,
    )
    return files | {"README.md": readme}


if __name__ == "__main__":
    building.write(FOLDER, build())
