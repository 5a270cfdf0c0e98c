"""Build the icd10 data set, a diagnosis in words to its ICD-10-CM category, from the tables inside
the package simple-icd-10-cm.

    pip install simple-icd-10-cm==1.5.0
    python data/icd10/build.py

Owns the four .jsonl files and the README beside it; all are committed, so nobody needs the package
to train. Every choice (what is held out, which titles are kept) follows from a hash of the text, so
that it depends neither on the order of the tables nor on a random generator.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PACKAGE, VERSION = "simple-icd-10-cm", "1.5.0"
NUM_VALID, NUM_TEST, NUM_TITLES = 400, 850, 20_000

Rows = dict[str, tuple[str, str]]  # normalised text -> (text, category)

README = """# icd10: a diagnosis in words, its category as the answer

Each row asks for the three-character ICD-10-CM category of one diagnosis:

    {example}

| file | rows | categories | use |
|---|---|---|---|
{table}

`terms` are inclusion terms of leaf codes: other names that the tables list under a code, as a physician might write them. `titles` are
the official titles of leaf codes, longer and more regular. Both train; `valid` and `test` are inclusion terms only.

## How it is built
`python data/icd10/build.py` writes every file in this folder, byte for byte the same on each run, from `{package}=={version}`.

1. Two texts are equal when they agree after case folding, with each run of spaces and punctuation read as one space. {num_listed:,}
   listed inclusion terms leave {num_distinct:,} distinct ones.
2. A text that stands under two categories has no single right answer: {num_ambiguous} such texts are dropped.
3. The terms are sorted by the SHA-256 of their normalised text: the first {num_valid} are `valid`, the next {num_test} `test`, the rest
   `terms`.
4. From {num_all_titles:,} titles, {num_titles:,} are kept in rounds: every category gives one title per round, the one with the lowest
   hash. More than half of all titles describe injuries (S and T) and would otherwise fill the file. A title equal to a term is left out.

No normalised text stands in two files, and every category of `valid` and `test` occurs in training (tests/jobs/data/test_icd10.py).

## What a score means
- Always answering the most frequent category of `test` ({top_category}) is right for {top_count} of {num_test} rows: {top_share}.
- {num_codes:,} categories occur in training, {test_codes} in `test`. Near neighbours of a held-out term may stand in training (the
  pressure ulcers of L89 differ in place and stage only), so a score is about these tables, not about clinical notes.
- Tables of codes are public and may be part of what a base model was trained on.

## Origin and licence
ICD-10-CM, release of April 2026, published by two agencies of the United States government, the National Center for Health Statistics
(NCHS, https://www.cdc.gov/nchs/icd/icd-10-cm/) and the Centers for Medicare & Medicaid Services (CMS); a work of the government and free of
copyright in the United States. It is the national adaptation of ICD-10, whose copyright the World Health Organization holds: for use
outside the United States ask the WHO. The package that carries the tables is MIT-licensed; none of its code is copied here.

The rows are an exercise for training programs, not for coding real records.
"""


def normalise(text: str) -> str:
    """Two texts that differ in case, spacing or punctuation only are the same diagnosis."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def hashed(text: str) -> str:
    """SHA-256 of the normalised text, as hexadecimal digits."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()


def read_tables() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(text, category) of all inclusion terms and of all titles of leaf codes."""
    found = importlib.metadata.version(PACKAGE)
    if found != VERSION:
        raise SystemExit(
            f"{PACKAGE} {found} is installed, and its tables differ; run: pip install "
            f"{PACKAGE}=={VERSION}"
        )
    import simple_icd_10_cm as tables  # takes 2 s: it reads the whole classification

    leaves = [code for code in tables.get_all_codes(with_dots=True) if tables.is_leaf(code)]
    terms = [
        (" ".join(term.split()), code[:3])
        for code in leaves
        for term in tables.get_inclusion_term(code)
    ]
    return terms, [(" ".join(tables.get_description(code).split()), code[:3]) for code in leaves]


def distinct(rows: list[tuple[str, str]]) -> Rows:
    """One row per normalised text; of several spellings the first in alphabetical order."""
    return {normalise(text): (text, category) for text, category in sorted(rows, reverse=True)}


def find_ambiguous(rows: list[tuple[str, str]]) -> set[str]:
    """Normalised texts that stand under more than one category."""
    categories = defaultdict(set)
    for text, category in rows:
        categories[normalise(text)].add(category)
    return {text for text, found in categories.items() if len(found) > 1}


def sample_titles(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The first NUM_TITLES rows when each category gives one row per round, lowest hash first."""
    rounds: Counter[str] = Counter()
    ranked = []
    for digest, text, category in sorted((hashed(text), text, category) for text, category in rows):
        ranked.append((rounds[category], digest, text, category))
        rounds[category] += 1
    return [(text, category) for _, _, text, category in sorted(ranked)[:NUM_TITLES]]


def render(rows: list[tuple[str, str]]) -> str:
    """Rows as JSON lines, ordered by category and text."""
    ordered = sorted((category, text) for text, category in rows)
    lines = [
        json.dumps(
            {"prompt": text, "completion": category}, ensure_ascii=False, separators=(",", ":")
        )
        for category, text in ordered
    ]
    return "\n".join(lines) + "\n"


def describe(splits: dict[str, list[tuple[str, str]]], counts: dict[str, int]) -> str:
    """The README, with every number counted from the rows."""
    use = {
        "terms": "training",
        "titles": "training",
        "valid": "chooses the best trial",
        "test": "judges it",
    }
    table = [
        f"| {name}.jsonl | {len(rows):,} | {len({c for _, c in rows}):,} | {use[name]} |"
        for name, rows in splits.items()
    ]
    categories = Counter(category for _, category in splits["test"])
    top_count, top_category = max((count, category) for category, count in categories.items())
    return README.format(
        example=render(splits["terms"]).splitlines()[0],
        table="\n".join(table),
        package=PACKAGE,
        version=VERSION,
        num_valid=NUM_VALID,
        num_test=NUM_TEST,
        num_titles=len(splits["titles"]),
        top_category=top_category,
        top_count=top_count,
        top_share=f"{100 * top_count / NUM_TEST:.1f} %",
        num_codes=len({category for name in ("terms", "titles") for _, category in splits[name]}),
        test_codes=len(categories),
        **counts,
    )


def build() -> dict[str, str]:
    """Content of every file by name. Reads the installed tables and nothing else."""
    listed, all_titles = read_tables()
    ambiguous = find_ambiguous(listed + all_titles)
    terms = distinct(listed)
    num_distinct = len(terms)
    kept = [row for text, row in terms.items() if text not in ambiguous]
    kept.sort(key=lambda row: hashed(row[0]))
    titles = [
        row
        for text, row in distinct(all_titles).items()
        if text not in ambiguous and text not in terms
    ]
    splits = {
        "terms": kept[NUM_VALID + NUM_TEST :],
        "titles": sample_titles(titles),
        "valid": kept[:NUM_VALID],
        "test": kept[NUM_VALID : NUM_VALID + NUM_TEST],
    }
    counts = {
        "num_listed": len(listed),
        "num_distinct": num_distinct,
        "num_ambiguous": num_distinct - len(kept),
        "num_all_titles": len(all_titles),
    }
    files = {f"{name}.jsonl": render(rows) for name, rows in splits.items()}
    return files | {"README.md": describe(splits, counts)}


def main() -> None:
    for name, content in build().items():
        (FOLDER / name).write_text(content, encoding="utf-8", newline="\n")
        print(
            f"data/icd10/{name}  {len(content.encode()):,} bytes, {content.count(chr(10)):,} lines"
        )


if __name__ == "__main__":
    main()
