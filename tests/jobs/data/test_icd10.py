"""The committed example data keep what their README promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.data_builders import load_builder, read_rows

FOLDER = Path(__file__).resolve().parents[3] / "data" / "icd10"
SIZES = {"terms": 7276, "titles": 20_000, "valid": 400, "test": 850}


def read(name: str) -> list[dict[str, str]]:
    return read_rows(FOLDER / f"{name}.jsonl")


def keys(name: str) -> set[str]:
    normalise = load_builder(FOLDER).normalise
    return {normalise(row["prompt"]) for row in read(name)}


@pytest.mark.parametrize("name", SIZES)
def test_every_row_holds_a_diagnosis_and_a_three_character_category(name: str) -> None:
    rows = read(name)
    assert len(rows) == SIZES[name]
    for row in rows:
        assert list(row) == ["prompt", "completion"]
        assert row["prompt"] == " ".join(row["prompt"].split()) != ""
        assert (
            len(row["completion"]) == 3
            and row["completion"].isalnum()
            and row["completion"].isupper()
        )


def test_no_diagnosis_stands_in_two_files_or_twice_in_one() -> None:
    sets = {name: keys(name) for name in SIZES}
    assert {name: len(found) for name, found in sets.items()} == SIZES
    assert len(set.union(*sets.values())) == sum(SIZES.values())


def test_every_held_out_category_occurs_in_training() -> None:
    trained = {row["completion"] for name in ("terms", "titles") for row in read(name)}
    for name in ("valid", "test"):
        assert {row["completion"] for row in read(name)} <= trained


def test_the_rows_are_sorted_and_the_files_small() -> None:
    for name in SIZES:
        rows = [(row["completion"], row["prompt"]) for row in read(name)]
        assert rows == sorted(rows)
    assert sum((FOLDER / f"{name}.jsonl").stat().st_size for name in SIZES) < 2.5e6


def test_building_again_gives_the_committed_bytes() -> None:
    pytest.importorskip(
        "simple_icd_10_cm",
        reason="the package with the tables is not installed; the committed files need it only to be rebuilt",
    )
    files = load_builder(FOLDER).build()
    assert set(files) == {"README.md"} | {f"{name}.jsonl" for name in SIZES}
    for name, content in files.items():
        assert (FOLDER / name).read_bytes() == content.encode(), (
            f"{name} is not what data/icd10/build.py writes"
        )


def test_what_is_held_out_depends_on_the_text_alone() -> None:
    builder = load_builder(FOLDER)
    rows = [(f"Diagnosis {number}", f"A{number % 60:02}") for number in range(90)]
    assert builder.sample_titles(rows) == builder.sample_titles(rows[::-1])
    assert builder.distinct([("The  Flu.", "J11"), ("the flu", "J11")]) == builder.distinct(
        [("the flu", "J11"), ("The  Flu.", "J11")]
    )
    assert builder.find_ambiguous([("The flu", "J11"), ("the-flu", "J10"), ("cold", "J00")]) == {
        "the flu"
    }
