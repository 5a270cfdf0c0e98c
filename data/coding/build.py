"""Build the coding data set, a diagnosis in words with its ICD-10-CM chapter and its full code, from
the tables inside the package simple-icd-10-cm.

    pip install simple-icd-10-cm==1.5.0
    python data/coding/build.py

Owns the .jsonl files and the README beside it; all are committed, so nobody needs the package to
train. Every choice follows from a hash of the text.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

import building  # noqa: E402

VERSIONS = {"simple-icd-10-cm": "1.5.0"}
SIZES = {"valid": 250, "test": 500, "terms": 2_500}
USE = {
    "terms": "training",
    "titles": "training",
    "valid": "chooses the best trial",
    "test": "judges it",
}
CHAPTERS = {
    "1": "infections",
    "2": "neoplasms",
    "3": "blood",
    "4": "endocrine",
    "5": "mental",
    "6": "nervous system",
    "7": "eye",
    "8": "ear",
    "9": "circulatory",
    "10": "respiratory",
    "11": "digestive",
    "12": "skin",
    "13": "musculoskeletal",
    "14": "genitourinary",
    "15": "pregnancy",
    "16": "perinatal",
    "17": "congenital",
    "18": "symptoms",
    "19": "injury",
    "20": "external causes",
    "21": "health services",
    "22": "special purposes",
}
"""Short names of the chapters, by their numbers."""

README = """# coding: a diagnosis in words, with its chapter and its full code

Two variants of medical coding beside `data=icd10`, whose answer is the category: an easy one (`data=icd10-chapter`, the
chapter, {num_chapters} different answers) and a hard one (`data=icd10-code`, the full ICD-10-CM code, {num_codes:,} different ones). A row:

    {example}

{table}

`terms` are inclusion terms of leaf codes, other names that the tables list under a code; `titles` are the official titles of the
codes that any term here has. `valid` and `test` are inclusion terms only, and each of their codes occurs in training, if only by its title.

## How it is built
`python data/coding/build.py` writes every file in this folder, byte for byte the same on each run, from `simple-icd-10-cm==1.5.0`.
Texts are equal when they agree after case folding, with each run of spaces and punctuation read as one space. A text that stands
under two codes has no single right answer and is dropped. The terms are sorted by the SHA-256 of their normalised text: the first
{num_valid} are `valid`, the next {num_test} `test`, the next {num_terms:,} `terms`. A title equal to a term is left out.

Chapters go by short names: {chapters}.

## What a score means
Always answering the most frequent chapter of `test` ({top_chapter}) is right for {top_count} of {num_test} rows. Near neighbours of
a held-out term may stand in training, so a score is about these tables, not about clinical notes. Tables of codes are public and may
be part of what a base model was trained on.

## Origin and licence
ICD-10-CM, release of April 2026, published by two agencies of the United States government, the National Center for Health Statistics
(NCHS, https://www.cdc.gov/nchs/icd/icd-10-cm/) and the Centers for Medicare & Medicaid Services (CMS); a work of the government and free of
copyright in the United States. It is the national adaptation of ICD-10, whose copyright the World Health Organization holds: for use
outside the United States ask the WHO. The package that carries the tables is MIT-licensed; none of its code is copied here.

The rows are an exercise for training programs, not for coding real records.
"""


def read_tables() -> tuple[list[tuple[str, str]], dict[str, str], dict[str, str]]:
    """(text, code) of all inclusion terms, the title of each leaf code, and its chapter."""
    building.require(VERSIONS)
    import simple_icd_10_cm as tables  # takes 2 s: it reads the whole classification

    leaves = [code for code in tables.get_all_codes(with_dots=True) if tables.is_leaf(code)]
    terms = [
        (" ".join(term.split()), code)
        for code in leaves
        for term in tables.get_inclusion_term(code)
    ]
    titles = {code: " ".join(tables.get_description(code).split()) for code in leaves}
    chapters = {code: CHAPTERS[tables.get_ancestors(code)[-1]] for code in leaves}
    return terms, titles, chapters


def clear_terms(listed: list[tuple[str, str]], titles: dict[str, str]) -> list[tuple[str, str]]:
    """Terms that stand under one code alone, in the order of their hashes."""
    codes = defaultdict(set)
    for text, code in [*listed, *((title, code) for code, title in titles.items())]:
        codes[building.normalise(text)].add(code)
    distinct = {building.normalise(text): (text, code) for text, code in sorted(listed)[::-1]}
    clear = [row for key, row in distinct.items() if len(codes[key]) == 1]
    return sorted(clear, key=lambda row: building.hashed(row[0]))


def build() -> dict[str, str]:
    """Content of every file by name. Reads the installed tables and nothing else."""
    listed, titles, chapters = read_tables()
    terms = clear_terms(listed, titles)
    splits: dict[str, list[dict[str, Any]]] = {}
    start = 0
    for name, size in SIZES.items():
        splits[name] = [row_of(text, code, chapters) for text, code in terms[start : start + size]]
        start += size
    used = {row["code"] for rows in splits.values() for row in rows}
    keys = {building.normalise(text) for text, _ in terms}
    splits["titles"] = [
        row_of(titles[code], code, chapters)
        for code in sorted(used)
        if building.normalise(titles[code]) not in keys
    ]
    trained = {row["code"] for name in ("terms", "titles") for row in splits[name]}
    for name in ("valid", "test"):
        splits[name] = [row for row in splits[name] if row["code"] in trained]
    splits = {name: splits[name] for name in USE}
    files = {f"{name}.jsonl": building.json_lines(rows) for name, rows in splits.items()}
    return files | {"README.md": describe(splits, files)}


def row_of(text: str, code: str, chapters: dict[str, str]) -> dict[str, Any]:
    """One row."""
    return {"prompt": text, "chapter": chapters[code], "code": code}


def describe(splits: dict[str, list[dict[str, Any]]], files: dict[str, str]) -> str:
    """The README, with every number counted from the rows."""
    rows = [row for each in splits.values() for row in each]
    counts = Counter(row["chapter"] for row in splits["test"])
    top_count, top_chapter = max((count, chapter) for chapter, count in counts.items())
    return README.format(
        example=files["terms.jsonl"].splitlines()[0],
        table=building.table(splits, USE),
        num_chapters=len({row["chapter"] for row in rows}),
        num_codes=len({row["code"] for row in rows}),
        num_valid=len(splits["valid"]),
        num_test=len(splits["test"]),
        num_terms=SIZES["terms"],
        chapters=", ".join(f"{number} {name}" for number, name in CHAPTERS.items()),
        top_chapter=top_chapter,
        top_count=top_count,
    )


if __name__ == "__main__":
    building.write(FOLDER, build())
