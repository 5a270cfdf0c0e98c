"""Build the translation data set, texts of a program's interface from English into Upper Sorbian and
Kyrgyz, from the catalogues inside the package django.

    pip install django==5.2.19
    python data/translation/build.py

Owns the .jsonl files and the README beside it; all are committed, so nobody needs the package to
train.
"""

from __future__ import annotations

import gettext
import importlib.metadata
import re
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

import building  # noqa: E402

VERSIONS = {"django": "5.2.19"}
LANGUAGES = {"hsb": "Upper Sorbian", "ky": "Kyrgyz"}
HELD_OUT = {"valid": 0.07, "test": 0.22}
"""Up to which hash of the English text a row is in valid, and from there in test."""
MOST_CHARACTERS = 240
USE = {
    "upper_sorbian": "training",
    "kyrgyz": "training",
    "valid": "chooses the best trial",
    "test": "judges it",
}
PLACEHOLDER = re.compile(r"%\(\w+\)[#0 +-]*[\d.]*[a-zA-Z]|%[sdif]|\{\w*\}|<[^<>]+>")
"""What stands for something else: %(name)s, %d, {name}, a mark of HTML."""

README = """# translation: a text of a program's interface, from English into Upper Sorbian or Kyrgyz

    {example}

{table}

Upper Sorbian (a Slavic language with some ten thousand speakers) and Kyrgyz (a Turkic language in Cyrillic script) are languages that
small base models hardly know. Each is a source of its own; `language` and `placeholders` (whether the text holds any, such as `%(name)s`)
stand in the held-out rows.

## How it is built
`python data/translation/build.py` writes every file in this folder, byte for byte the same on each run, from `django==5.2.19`.

1. Every English text of the compiled catalogues with its translation, the first of several forms of a plural; texts of more than
   {most} characters, without a letter, or left as they are in English are left out. A text that is translated in two ways has no
   single right answer and is dropped ({num_ambiguous} were).
2. By a hash of the English text, without its placeholders, case and punctuation, 7 % of the texts are `valid` and 15 %
   `test`: a text that is held out of one language is held out of the other.

## What a score means
The texts are those of one program and its manner: a score says little about prose. Many words of a held-out text stand in training
texts, which is what a translator's memory has, too.

## Origin and licence
Catalogues of Django, Copyright (c) Django Software Foundation and individual contributors, among them the translators named in each
catalogue (https://github.com/django/django), under the 3-clause BSD licence, which follows. The rows here are under it as well.

{licence}
"""


def read_catalogues(language: str) -> list[tuple[str, str]]:
    """(English, translation) of every text in the language."""
    import django

    root = Path(django.__file__).parent
    pairs = []
    for file in sorted(root.glob(f"**/locale/{language}/LC_MESSAGES/*.mo")):
        with file.open("rb") as stream:
            catalogue: dict[Any, str] = vars(gettext.GNUTranslations(stream))["_catalog"]
        for key, translation in catalogue.items():
            english, form = key if isinstance(key, tuple) else (key, 0)
            if form == 0:
                english = english.rpartition("\x04")[2]
                pairs.append((" ".join(english.split()), " ".join(translation.split())))
    return pairs


def usable(english: str, translation: str) -> bool:
    """Whether a pair says how to translate something."""
    words = PLACEHOLDER.sub("", english)
    return (
        bool(re.search(r"[^\W\d_]{2}", words))
        and bool(re.search(r"[^\W\d_]", PLACEHOLDER.sub("", translation)))
        and english != translation
        and max(len(english), len(translation)) <= MOST_CHARACTERS
        and sorted(PLACEHOLDER.findall(english)) == sorted(PLACEHOLDER.findall(translation))
    )


def key_of(english: str) -> str:
    """The form in which two English texts are compared."""
    return building.normalise(PLACEHOLDER.sub(" ", english))


def clear_pairs(pairs: list[tuple[str, str]]) -> tuple[dict[str, str], int]:
    """English -> its one translation, and how many texts have several. Texts that differ in letter
    case alone are one.
    """
    translations: dict[str, dict[str, str]] = {}
    for english, translation in sorted(pairs):
        if usable(english, translation):
            translations.setdefault(english.casefold(), {})[english] = translation
    clear = {}
    for texts in translations.values():
        if len({translation.casefold() for translation in texts.values()}) == 1:
            english, translation = next(iter(texts.items()))
            clear[english] = translation
    return clear, len(translations) - len(clear)


def split_of(english: str, source: str) -> str:
    """The file that a text belongs to."""
    position = building.share(key_of(english))
    return next((name for name, end in HELD_OUT.items() if position < end), source)


def build() -> dict[str, str]:
    """Content of every file by name. Reads the installed catalogues and nothing else."""
    building.require(VERSIONS)
    splits: dict[str, list[dict[str, Any]]] = {name: [] for name in USE}
    num_ambiguous = 0
    for code, language in LANGUAGES.items():
        pairs, count = clear_pairs(read_catalogues(code))
        num_ambiguous += count
        source = language.lower().replace(" ", "_")
        for english, translation in pairs.items():
            row = {
                "prompt": f"{language}: {english}",
                "completion": translation,
                "source": source,
                "language": language,
                "placeholders": "yes" if PLACEHOLDER.search(english) else "no",
            }
            splits[split_of(english, source)].append(row)
    files = {f"{name}.jsonl": building.json_lines(rows) for name, rows in splits.items()}
    readme = README.format(
        example=files["kyrgyz.jsonl"].splitlines()[0],
        table=building.table(splits, USE),
        most=MOST_CHARACTERS,
        num_ambiguous=num_ambiguous,
        licence=licence(),
    )
    return files | {"README.md": readme}


def licence() -> str:
    """The licence text inside the package, as a quotation."""
    distribution = importlib.metadata.distribution("django")
    file = next(
        file
        for file in distribution.files or []
        if file.name == "LICENSE" and "dist-info" in str(file)
    )
    text = Path(str(distribution.locate_file(file))).read_text(encoding="utf-8")
    return "\n".join(f"> {line}".rstrip() for line in text.strip().splitlines())


if __name__ == "__main__":
    building.write(FOLDER, build())
