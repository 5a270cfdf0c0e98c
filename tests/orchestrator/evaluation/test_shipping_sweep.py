"""A sweep that exports its winner: the very file decides who gets a device's alias."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.finished_sweeps import registry
from tests.support.trials import SHORT_SWEEP

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
SHIPS = (
    *("export.format=[gguf-q8_0,gguf-q4_0]", "export.threads=[1]", "export.rows=20"),
    "device.profiles={watch: {max_size_mb: 0.12}, phone: {max_drop: 1, max_memory_mb: 9000}}",
)


def test_the_winner_is_exported_scored_and_given_the_aliases_that_its_files_deserve(
    command: Any, tmp_path: Path
) -> None:
    storage = tmp_path / "st"
    done = command(*SHORT_SWEEP, *SHIPS, f"storage={storage}")
    assert done.code == 0, done.err
    assert "ships   the winner as gguf-q8_0" in done.err
    result = done.result
    files = {report["format"]: report for report in result["shipped"]}
    assert set(files) == {"gguf-q8_0", "gguf-q4_0"}
    name, version = result["model"]["name"], result["model"]["version"]
    for form, report in files.items():
        assert (storage / "exports" / f"{name}-{version}" / form / report["file"]).exists()
        assert report["scores"]["rows"] == 20 and "bits_per_byte" in report["scores"]
    devices = {told["device"]: told for told in result["devices"]}
    assert devices["phone"]["holds"]
    client = registry(storage)
    assert client.get_model_version_by_alias(name, "champion-phone").version == version
    told = client.get_model_version(name, str(version))
    assert "shipped.gguf-q8_0" in told.tags and "## Shipped files" in told.description
    assert json.loads(told.tags["device.phone"])["format"] in files
    within = [form for form, report in files.items() if report["costs"]["size_mb"] <= 0.12]
    assert devices["watch"]["holds"] == bool(within)
    (page,) = storage.glob("sweeps/*/report.html")
    assert "Files that ship" in page.read_text(encoding="utf-8")
    before = {
        form: (storage / "exports" / f"{name}-{version}" / form).stat().st_mtime_ns
        for form in files
    }
    again = command(*SHORT_SWEEP, *SHIPS, f"storage={storage}", "output=text")
    assert again.code == 0 and "is finished" in again.err
    assert f"models:/{name}/{version} has the alias champion-phone" in again.out
    tighter = "device.profiles={phone: {max_size_mb: 0.12, max_memory_mb: 1}}"
    refused = command(*SHORT_SWEEP, SHIPS[0], tighter, f"storage={storage}")
    assert refused.code == 2 and "measured of the untouched base" in refused.err
    after = {
        form: (storage / "exports" / f"{name}-{version}" / form).stat().st_mtime_ns
        for form in files
    }
    assert after == before, "what was made is taken as it is"
