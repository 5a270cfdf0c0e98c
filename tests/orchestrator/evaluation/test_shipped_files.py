"""A version's files on their way to devices: made once, told of the version, and given a device's
alias when they are within its limits and no worse than who has it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.config import BaseModel
from orchestrator.config.compose import compose
from orchestrator.config.device_settings import Limits, Profile
from orchestrator.evaluation import shipped_files
from orchestrator.evaluation.device_limits import MeasuredFile
from orchestrator.evaluation.pareto_front import FrontFile
from orchestrator.evaluation.pareto_result import placed, version_of
from orchestrator.evaluation.shipped_files import Contest, Maker
from orchestrator.tracking.mlflow_store import MlflowStore
from orchestrator.tracking.model_versions import Version
from tests.support.settings import build
from tests.support.shipping import adapted_version
from tests.support.stores import SWEEP, append, carry, run_of, trial


@pytest.fixture(scope="module")
def version_folder(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapted_version(base, tmp_path_factory.mktemp("versions"))


@pytest.fixture(autouse=True)
def cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))


def registered(store: MlflowStore, folder: Path, tmp_path: Path, count: int) -> list[Version]:
    append(tmp_path, SWEEP, trial(1))
    run_id = run_of(carry(tmp_path, store), 1)
    versions = []
    for number in range(count):
        store.log_artifacts(run_id, folder, f"model/{number}")
        versions.append(store.register("toy-tiny", run_id, f"model/{number}", {}, "a version"))
    return versions


def maker(base: BaseModel, tmp_path: Path, *settings: str) -> Maker:
    storage = f"storage={tmp_path / 'st'}"
    typed = ["model=tiny", storage, "export.format=gguf-q8_0", "export.threads=[1]", *settings]
    return Maker(build(compose(typed, None)), base, "rows", lambda line: None)


def profile(**limits: Any) -> Profile:
    return Profile("phone", Limits(**limits), "device.profiles.phone")


def test_a_file_is_made_once_for_a_version_and_its_settings(
    base: BaseModel, version_folder: Path, tmp_path: Path
) -> None:
    version = Version("toy-tiny", 1, "models:/toy-tiny/1")
    first = maker(base, tmp_path, "export.rows=2").files(version_folder, version, ["gguf-q8_0"])
    file = Path(first[0]["folder"]) / first[0]["file"]
    assert file.parent == tmp_path / "st" / "exports" / "toy-tiny-1" / "gguf-q8_0"
    made = file.stat().st_mtime_ns
    again = maker(base, tmp_path, "export.rows=2").files(version_folder, version, ["gguf-q8_0"])
    assert again == first and file.stat().st_mtime_ns == made
    report = file.parent / shipped_files.REPORT
    unscored = json.loads(report.read_text()) | {"scores": None}
    report.write_text(json.dumps(unscored))  # as job=export leaves it with export.score=false
    again = maker(base, tmp_path, "export.rows=2").files(version_folder, version, ["gguf-q8_0"])
    assert again[0]["scores"]["rows"] == 2 and file.stat().st_mtime_ns > made
    made = file.stat().st_mtime_ns
    more = maker(base, tmp_path, "export.rows=3")
    others = more.files(version_folder, version, ["gguf-q8_0", "gguf-q4_k_m"])
    assert others[0]["scores"]["rows"] == 3 and file.stat().st_mtime_ns > made
    assert "K-quants need" in others[1]["refused"], "what cannot be made ends nothing"
    (measured,) = more.measured(others)
    assert measured.scores is not None and len(measured.scores.per_row) == 3
    assert measured.scores.digest == "rows/3", "a part of the rows is another test set"


def measured(form: str, right: int, size: float) -> MeasuredFile:
    """A file as it would be measured; of 100 rows so many are right."""
    value = right / 100
    report = {
        "format": form,
        "check": {"mean": 0.0, "equal": 1.0},
        "scores": {
            "metric": "exact_match",
            **{"value": value, "low": value - 0.05, "high": value + 0.05, "rows": 100},
            **{"difference": -0.01, "difference_low": -0.02, "difference_high": 0.0},
            **{"same_answers": 0.9, "bits_per_byte": 1 - value},
        },
        "costs": {
            "size_mb": size,
            "peak_memory_mb": 2 * size,
            "threads": {"1": {"first_token_seconds": 0.1, "tokens_per_second": 30.0}},
        },
        "folder": "nowhere",
        "made_by": {"rows": None},
    }
    return MeasuredFile(form, report, shipped_files.scores_of(report, "rows"))


def contest(store: MlflowStore, *settings: str) -> Contest:
    rule = build(compose(["model=tiny", "registry.beat=[champion]", *settings], None)).registry
    return Contest(store, rule, [], "exact_match")


def test_a_devices_alias_goes_to_a_file_within_its_limits_that_beats_who_has_it(
    store: MlflowStore, version_folder: Path, tmp_path: Path
) -> None:
    first, second, third = registered(store, version_folder, tmp_path, 3)
    limits = profile(max_size_mb=100, max_drop=0.02, min_tokens_per_second=20)

    def settle(version: Version, file: MeasuredFile, wanted: Profile = limits) -> dict[str, Any]:
        shipped_files.record(store, version, [file])
        return shipped_files.place(wanted, [file], version, contest(store))

    def holder() -> int | None:
        aliased = store.aliased("toy-tiny", "champion-phone")
        return None if aliased is None else aliased.version

    told = settle(first, measured("gguf-f16", 60, 120))
    assert not told["holds"] and told["format"] is None and holder() is None
    assert (
        "its 120.0 MB on disk are more than device.profiles.phone.max_size_mb=100" in told["reason"]
    )
    assert settle(first, measured("gguf-q8_0", 60, 80))["holds"] and holder() == 1
    mark = json.loads(store.aliased("toy-tiny", "champion-phone").tags["device.phone"])  # type: ignore[union-attr]
    assert mark["format"] == "gguf-q8_0" and mark["limits"]["max_size_mb"] == 100
    told = settle(second, measured("gguf-q8_0", 60, 80))
    assert not told["holds"] and "a tie keeps the champion" in told["reason"] and holder() == 1
    assert settle(second, measured("gguf-q8_0", 95, 80))["holds"] and holder() == 2
    told = settle(third, measured("gguf-q4_0", 40, 50), profile(max_size_mb=60))
    assert told["holds"] and holder() == 3, "who has it is beyond the limits of now"
    told = settle(third, measured("gguf-q4_0", 40, 50), profile(max_size_mb=40))
    assert not told["holds"] and holder() is None, "its own file is beyond them now"


def test_a_file_of_other_rows_leaves_the_alias_where_it_is(
    store: MlflowStore, version_folder: Path, tmp_path: Path
) -> None:
    first, second = registered(store, version_folder, tmp_path, 2)
    file = measured("gguf-q8_0", 50, 80)
    shipped_files.record(store, first, [file])
    assert shipped_files.place(profile(max_size_mb=100), [file], first, contest(store))["holds"]
    better = measured("gguf-q8_0", 99, 80)
    elsewhere = MeasuredFile(
        "gguf-q8_0", better.report, shipped_files.scores_of(better.report, "other rows")
    )
    told = shipped_files.place(profile(max_size_mb=100), [elsewhere], second, contest(store))
    assert not told["holds"] and "was scored on other test rows" in told["reason"]


def test_of_several_bases_the_best_file_within_the_limits_gets_the_alias(
    store: MlflowStore, version_folder: Path, tmp_path: Path
) -> None:
    small, large = registered(store, version_folder, tmp_path, 2)
    files = [
        FrontFile("small", small.uri, measured("gguf-q8_0", 50, 40)),
        FrontFile("large", large.uri, measured("gguf-q8_0", 90, 90)),
    ]
    versions = {file.model: version_of(store, file.model) for file in files}
    roomy = placed(profile(max_size_mb=100), files, versions, contest(store))
    assert roomy["holds"] and roomy["base"] == "large" and roomy["model"] == large.uri
    tight = placed(Profile("watch", Limits(max_size_mb=50)), files, versions, contest(store))
    assert tight["holds"] and tight["base"] == "small" and tight["alias"] == "champion-watch"
    none = placed(Profile("pin", Limits(max_size_mb=5)), files, versions, contest(store))
    assert not none["holds"] and none["format"] is None
    assert "small as gguf-q8_0: its 40.0 MB" in none["reason"] and "large as" in none["reason"]
    assert store.aliased("toy-tiny", "champion-pin") is None
