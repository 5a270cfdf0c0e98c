"""What a sweep ships, and what of a device's limits is known before anything is trained."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from jobs.config import Adapter, BaseModel
from jobs.export.formats import FORMATS
from jobs.export.shipment import Shipment, ShipmentSettings
from jobs.onnx_genai import runtime as onnx_runtime
from orchestrator.config.device_profiles import with_profiles
from orchestrator.errors import ConfigError
from orchestrator.launch.shipping_checks import not_installed
from orchestrator.output.plan_text import plan_record, plan_text
from orchestrator.plan.file_sizes import least_megabytes
from orchestrator.plan.shipping import check_architecture
from orchestrator.sweep.sampler import Sampler
from tests.support.shipping import adapted_version

SIZES = "sweep.space={rank: {path: adapter.rank, type: choice, values: [4, 8, 16, 32, 64]}}"
SWEEP = ("sweep.num_trials=4", "train.steps=4", "export.format=gguf-adapter")


@pytest.fixture(scope="module")
def version(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapted_version(base, tmp_path_factory.mktemp("versions"))


@pytest.mark.parametrize("form", ["gguf-f16", "gguf-q8_0", "gguf-q4_0", "gguf-adapter"])
def test_the_size_that_is_known_before_training_is_that_of_the_file_but_for_its_words(
    form: str,
    version: Path,
    base: BaseModel,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    settings = ShipmentSettings("models:/toy/3", "toy", score=False, threads=(1,))
    report = Shipment(version, base, FORMATS[form], settings, lambda line: None).run(tmp_path / "x")
    files = [tmp_path / "x" / report["file"], *map(Path, filter(None, [report.get("base_file")]))]
    size = sum(file.stat().st_size for file in files) / 1e6
    least = least_megabytes(base, form, Adapter(rank=4, alpha=16.0))
    assert least < size < least + 0.03, "a header, and a tokenizer of 259 tokens"


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ("onnx-int4", "a GPT2LMHeadModel, which onnxruntime-genai's builder does not take"),
        ("gguf-q8_0", "a GPT2LMHeadModel, and GGUF files are written for LlamaForCausalLM"),
    ],
)
def test_a_base_that_no_file_can_be_written_of_is_refused_before_training(
    form: str, says: str, base: BaseModel, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    other = dataclasses.replace(base, path=str(tmp_path))
    with pytest.raises(ConfigError, match=says):
        check_architecture(other, ["safetensors", form])
    check_architecture(other, ["safetensors"])
    check_architecture(base, [form])
    (tmp_path / "config.json").write_text('{"architectures": 5}')
    check_architecture(other, [form])


def test_the_plan_names_the_files_and_the_devices(plan: Any) -> None:
    made = plan("export.format=[gguf-q8_0,gguf-q4_0]", "device.profiles=[phone,laptop]")
    text = plan_text(made)
    assert "ships   the winner as gguf-q8_0 (at least 0.1 MB), gguf-q4_0" in text
    assert "device  phone: at most 300 MB" in text and "alias champion-laptop" in text
    ships = plan_record(made)["ships"]
    assert ships["profiles"]["champion-phone"]["formats"] == ["gguf-q8_0", "gguf-q4_0"]
    json.dumps(ships)
    assert plan_record(plan())["ships"] is None and "ships   " not in plan_text(plan())


def test_limits_alone_have_the_default_format_made(plan: Any) -> None:
    assert plan("device=phone").shipping.formats == ("gguf-q8_0",)


def test_a_size_that_no_file_can_have_is_refused_before_training(plan: Any) -> None:
    with pytest.raises(ConfigError) as refused:
        plan("device.max_size_mb=0.08")
    ((path, text),) = refused.value.problems
    assert path == "device.max_size_mb"
    assert "gguf-q8_0 at least 0.1 MB" in text and "export.format=gguf-q5_1 may be" in text


def test_a_format_that_no_device_takes_is_not_made(plan: Any) -> None:
    made = plan("export.format=[gguf-f16,gguf-q4_0]", "device.max_size_mb=0.1")
    assert made.shipping.formats == ("gguf-q4_0",)
    assert "gguf-f16 is not made: it has at least 0.2 MB" in plan_text(made)


def test_trials_whose_adapter_would_be_too_large_are_not_drawn(plan: Any) -> None:
    free = plan(*SWEEP, SIZES)
    ranks = {trial.adapter.rank for trial in free.trials}
    limit = least_megabytes(free.base, "gguf-adapter", Adapter(rank=16, alpha=16.0, layers=0.5))
    held = plan(*SWEEP, SIZES, f"device.max_size_mb={limit + 1e-6}", "sweep.num_trials=3")
    assert max(ranks) > 16 and {trial.adapter.rank for trial in held.trials} == {4, 8, 16}
    assert held.name != free.name, "another set of trials is another sweep"
    with pytest.raises(ConfigError, match=r"no other one is left whose file is within"):
        plan(*SWEEP, SIZES, f"device.max_size_mb={limit + 1e-6}")


def test_optuna_learns_of_points_that_are_too_large_without_a_trial(plan: Any) -> None:
    import optuna

    free = plan(*SWEEP, SIZES)
    limit = least_megabytes(free.base, "gguf-adapter", Adapter(rank=16, alpha=16.0, layers=0.5))
    search = "sweep.search=optuna"
    made = plan(*SWEEP, SIZES, search, f"device.max_size_mb={limit + 1e-6}", "sweep.num_trials=3")
    sampler = Sampler(made.config, 3, {}, made.shipping.constraint)
    ranks = []
    for index in (1, 2, 3):
        ranks.append(sampler.next_point(index)["adapter.rank"])
        sampler.ended(index, 0.1 * index)
    assert sorted(ranks) == [4, 8, 16]
    assert sampler._optuna is not None
    trials = sampler._optuna._study.trials
    pruned = [trial for trial in trials if trial.state == optuna.trial.TrialState.PRUNED]
    assert pruned and all(max(trial.constraints.values()) > 0 for trial in pruned)
    assert all(trial.params["adapter.rank"] > 16 for trial in pruned)
    done = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert len(done) == 3 and all(max(trial.constraints.values()) <= 0 for trial in done)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["device.max_size_mb=0"], "must be above 0, got 0"),
        (["device.profiles={phone: {max_drop: -1}}"], "must be a number of at least 0, got -1"),
        (["device.name=phone"], "device.name=phone has no limits"),
        (["device.name=Phone", "device.max_drop=0"], "must be lower-case letters"),
        (["device.threads=2", "device.max_drop=0"], "has no effect without"),
        (["device.profiles=[tablet]"], '"tablet" is not one of laptop, phone, server'),
        (["device=phone", "device.profiles=[phone]"], "leave one of them out"),
        (["export.format=[]"], "an empty list"),
        (["export.format=[gguf-q8_0,gguf-q8_0]"], "must name each once"),
        (["export.format=gguf-q8_0", "export.score=false"], "a sweep scores what it exports"),
        (["export.format=gguf-q8_0", "export.folder=x"], "a sweep keeps its files in its storage"),
        (["export.rows=5"], "export.format=gguf-q8_0 has a sweep export its winner"),
        (["export.format=gguf-adapter", "adapter=full"], "adapter.kind=full trains every weight"),
        (
            ["export.format=safetensors", "device.max_drop=0"],
            "measured of GGUF and ONNX files alone",
        ),
        (
            ["device.min_tokens_per_second=5", "export.threads=[]"],
            "so that neither speed nor memory is measured",
        ),
        (["export.format=gguf-q8_0", "storage=s3://bucket/x"], "keeps its files in a folder"),
        (["export.format=gguf-q4_k_m"], "K-quants need"),
    ],
)
def test_what_cannot_work_is_said_at_once(arguments: list[str], words: str, plan: Any) -> None:
    with pytest.raises(ConfigError) as refused:
        plan(*arguments)
    told = "; ".join(f"{path} {text}" for path, text in refused.value.problems)
    assert words in told, told


def test_an_adapters_smallest_file_is_known_where_its_rank_follows_another_knob(plan: Any) -> None:
    linked = (
        "sweep.space={layers: {path: adapter.layers, type: choice, values: [1, 0.5]}, "
        "rank: {path: adapter.rank, type: linked, to: adapter.layers, times: 8}}"
    )
    made = plan(*SWEEP[1:], "sweep.num_trials=2", linked)
    smallest = least_megabytes(made.base, "gguf-adapter", Adapter(rank=4, alpha=16.0, layers=0.5))
    assert made.shipping.sizes["gguf-adapter"] == pytest.approx(smallest)


def test_profiles_are_a_list_of_names_each_once(plan: Any, tmp_path: Path) -> None:
    for typed, words in (
        ("device.profiles=phone", "write device.profiles=[phone]"),
        ("device.profiles=[phone,phone]", "names phone twice"),
    ):
        with pytest.raises(ConfigError, match=re.escape(words)):
            plan(typed)
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / "odd.yaml").write_text("- a\n", encoding="utf-8")
    problems: list[tuple[str, str]] = []
    with_profiles({"device": {"profiles": ["odd"]}}, str(tmp_path), problems)
    assert "must hold limits by name" in problems[0][1]


def test_what_writes_onnx_files_is_looked_for_before_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onnx_runtime, "PACKAGES", ("no_such_package",))
    assert "no-such-package" in str(not_installed(["onnx-int4"]))
    assert not_installed(["safetensors"]) is None
