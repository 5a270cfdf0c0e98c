"""Which files keep a device's limits, which of them is the one for it, and what is on the front."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config.device_settings import Device, Limits, Profile, profiles_of
from orchestrator.config.registry_settings import Registry
from orchestrator.evaluation.device_limits import MeasuredFile, best_within, broken, only_drop
from orchestrator.evaluation.pareto_front import FrontFile, front, in_bits
from orchestrator.evaluation.promotion import Scores

RIGHT = (1.0,) * 60 + (0.0,) * 40


def report(size: float = 100.0, **changes: Any) -> dict[str, Any]:
    scores = {"metric": "exact_match", "value": 0.6, "difference": -0.01, "bits_per_byte": 0.4}
    return {
        "scores": scores | changes.pop("scores", {}),
        "costs": {
            "size_mb": size,
            "peak_memory_mb": 250.0,
            "threads": {
                "1": {"tokens_per_second": 20.0},
                "4": {"tokens_per_second": 50.0},
            },
        }
        | changes,
    }


def profile(**limits: Any) -> Profile:
    return Profile("phone", Limits(**limits), "device.profiles.phone")


def measured(form: str, size: float, per_row: tuple[float, ...] = RIGHT) -> MeasuredFile:
    value = sum(per_row) / len(per_row)
    scores = Scores(value, value - 0.1, value + 0.1, len(per_row), "rows", per_row)
    return MeasuredFile(form, report(size, scores={"value": value}), scores)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_size_mb": 100}, None),
        (
            {"max_size_mb": 99.9},
            "its 100.0 MB on disk are more than device.profiles.phone.max_size_mb=99.9",
        ),
        ({"max_memory_mb": 249}, "its 250.0 MB of memory are more than"),
        ({"min_tokens_per_second": 50}, None),
        ({"min_tokens_per_second": 51}, "its 50.0 tokens/s are fewer than"),
        ({"min_tokens_per_second": 50, "threads": 1}, "its 20.0 tokens/s on 1 threads are fewer"),
        ({"min_tokens_per_second": 1, "threads": 2}, "its speed was not measured"),
        ({"max_drop": 0.01}, None),
        ({"max_drop": 0.009}, "is 0.01 worse than the trained model's, more than"),
    ],
)
def test_each_limit_is_held_against_what_was_measured(limits: dict[str, Any], words: str) -> None:
    told = broken(report(), profile(**limits))
    if words is None:
        assert told == []
    else:
        assert len(told) == 1 and words in told[0], told


def test_a_drop_of_a_metric_that_falls_is_a_rise() -> None:
    worse = report(scores={"metric": "cost", "difference": 0.3})
    assert broken(worse, profile(max_drop=0.2)) and not broken(worse, profile(max_drop=0.3))


def test_what_was_not_measured_keeps_no_limit() -> None:
    empty: dict[str, Any] = {}
    limits = profile(max_size_mb=1, max_memory_mb=1, min_tokens_per_second=1, max_drop=0.1)
    assert len(broken(empty, limits)) == 4


def test_only_the_drop_can_be_another_with_another_training() -> None:
    assert only_drop(report(), profile(max_drop=0.001, max_size_mb=100))
    assert not only_drop(report(), profile(max_drop=0.001, max_size_mb=99))
    assert not only_drop(report(), profile(max_size_mb=99))


def test_of_files_that_the_rows_cannot_tell_apart_the_smallest_is_for_the_device() -> None:
    alike = (0.0,) + RIGHT[1:]
    far = (0.0,) * 30 + RIGHT[30:]
    files = [measured("large", 90), measured("small", 50, alike), measured("far", 20, far)]
    rule = Registry()
    assert best_within(files, profile(max_size_mb=100), rule) is files[1]
    assert best_within(files, profile(max_size_mb=40), rule) is files[2]
    assert best_within(files, profile(max_size_mb=10), rule) is None


def test_limits_without_a_name_decide_about_the_champion() -> None:
    device = Device(max_drop=0.0, profiles={"phone": Limits(max_size_mb=1)})
    first, second = profiles_of(device)
    assert (first.alias, second.alias) == ("champion", "champion-phone")
    assert profiles_of(Device()) == []


def test_a_file_is_on_the_front_unless_another_is_as_good_in_everything_and_better_in_one() -> None:
    def entry(value: float, size: float, speed: float) -> FrontFile:
        scores = Scores(value, value, value, 10, "rows")
        threads = {"1": {"tokens_per_second": speed}}
        return FrontFile(
            "base", "models:/x/1", MeasuredFile("f", report(size, threads=threads), scores)
        )

    files = [
        entry(0.8, 100, 10),
        entry(0.7, 50, 10),
        entry(0.7, 60, 10),  # larger than the one before, and no better
        entry(0.7, 60, 12),  # faster
        entry(0.8, 100, 10),  # the first one again
    ]
    assert front(files, True) == [0, 1, 3]
    assert front(files, False) == [1, 3]


def test_where_tokenizers_differ_bits_per_byte_are_the_score() -> None:
    file = in_bits(measured("f", 50))
    assert file.scores is not None and file.scores.value == 0.4 and file.metric == "bits_per_byte"
