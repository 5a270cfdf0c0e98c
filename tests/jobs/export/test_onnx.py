"""A version as ONNX: it answers in onnxruntime-genai as the trained model does, and what does not
is refused with the reason.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.config import BaseModel
from jobs.data.chat_template import ChatTokenizer
from jobs.export import onnx_model
from jobs.export.divergence import model_reference, of_prompts
from jobs.export.formats import FORMATS
from jobs.export.merged_model import MergedModel, merged_model
from jobs.export.shipment import Shipment, ShipmentSettings
from jobs.onnx_genai import runtime
from jobs.onnx_genai.runtime import OnnxRuntime
from tests.support.plain import architecture
from tests.support.shipping import adapted_version

SETTINGS = ShipmentSettings("models:/toy/3", "toy", rows=8, threads=(1,))


@pytest.fixture(scope="module")
def version(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapted_version(base, tmp_path_factory.mktemp("versions"))


def shipment(version: Path, base: BaseModel, form: str) -> Shipment:
    return Shipment(version, base, FORMATS[form], SETTINGS, lambda line: None)


@pytest.fixture(scope="module", params=["onnx-fp32", "onnx-int4"])
def report(
    request: pytest.FixtureRequest,
    version: Path,
    base: BaseModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    return shipment(version, base, request.param).run(tmp_path_factory.mktemp("out") / "out")


@pytest.fixture(scope="module")
def merged(version: Path, base: BaseModel) -> MergedModel:
    return merged_model(base, version / "adapter")


@pytest.fixture(scope="module")
def sound(
    version: Path,
    base: BaseModel,
    merged: MergedModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A model as it is written."""
    draft = tmp_path_factory.mktemp("draft")
    return shipment(version, base, "onnx-fp32").write_files(draft, merged)[0]


def test_a_model_answers_as_the_trained_one_and_is_scored_beside_it(report: dict[str, Any]) -> None:
    folder, form = Path(report["folder"]), report["format"]
    assert report["check"]["mean"] <= FORMATS[form].most_divergence
    assert report["check"]["equal"] >= FORMATS[form].fewest_equal
    rows = (folder / "predictions.jsonl").read_text().splitlines()
    assert 0 < report["scores"]["rows"] == len(rows) <= 8
    model = folder / report["file"]
    size = sum(file.stat().st_size for file in model.rglob("*")) / 1e6
    assert report["costs"]["size_mb"] == pytest.approx(size, abs=0.001)
    assert report["costs"]["threads"]["1"]["tokens_per_second"] > 0
    card = (folder / "README.md").read_text()
    assert "onnxruntime-genai loads it" in card and "(onnxruntime):" in card
    assert not (folder / "Modelfile").exists()
    assert sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) == [
        "model",
        "tokenizer",
    ]


def test_the_program_in_the_card_gives_what_was_scored(
    report: dict[str, Any], version: Path, base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(report["folder"])
    program = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(folder)
    said: list[str] = []
    prompt = "Which letter?\nTicket 3 from d?"
    names: dict[str, Any] = {"PROMPT": prompt, "print": said.append}
    exec(compile(program, "card", "exec"), names)
    made = shipment(version, base, report["format"])
    with OnnxRuntime(folder / "model", threads=1) as answering:
        ids = made.template.encode(answering.render([{"role": "user", "content": prompt}]))
        completion = answering.complete(ids, made.task["max_new_tokens"])
    assert ids == list(names["ids"]) and len(said) == 1
    whole = [int(token) for token in names["generator"].get_sequence(0)[len(ids) :]]
    assert whole[: len(completion.ids)] == completion.ids
    assert len(whole) == completion.produced


def other_end(folder: Path) -> None:
    config = onnx_model.read_config(folder)
    config["model"]["eos_token_id"] = [65]
    (folder / onnx_model.CONFIG).write_text(json.dumps(config))


def other_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")


def no_weights(folder: Path) -> None:
    weights = folder / "model.onnx.data"
    weights.write_bytes(weights.read_bytes()[:100])


def zero_weights(folder: Path) -> None:
    weights = folder / "model.onnx.data"
    content = bytearray(weights.read_bytes())
    middle = len(content) // 2
    content[middle:] = bytes(len(content) - middle)
    weights.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (other_end, "its end tokens are 65"),
        (other_template, "its chat template makes another prompt"),
        (no_weights, "onnxruntime cannot load"),
        (zero_weights, "does not answer as the trained model"),
    ],
)
def test_a_broken_model_is_refused_with_the_reason(
    harm: Callable[[Path], None],
    reason: str,
    version: Path,
    base: BaseModel,
    merged: MergedModel,
    sound: Path,
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(sound, tmp_path / "model")
    harm(folder)
    with pytest.raises(ValueError, match="is not the trained model") as refused:
        shipment(version, base, "onnx-fp32").check_file([folder], merged)
    assert reason in str(refused.value)


@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3"])
def test_other_architectures_answer_in_onnxruntime_as_in_transformers(
    kind: str, base: BaseModel, tmp_path: Path
) -> None:
    from jobs.model.loading import read

    other = architecture(kind, tmp_path / "source", base, hidden_size=64, head_dim=16)
    form = FORMATS["onnx-fp32"]
    template = ChatTokenizer(other.path)
    onnx_model.write_onnx(Path(other.path), tmp_path / "model", form, template)
    onnx_model.check_ends(tmp_path / "model", template)
    prompts = [list(range(40, 60)), list(range(90, 200))]
    reference: Any = model_reference(read(other.path).eval())
    with OnnxRuntime(tmp_path / "model", threads=1) as answering:
        measured = of_prompts(answering, reference, prompts, 8)
    assert measured.mean < form.most_divergence and measured.equal == 1.0, measured


def test_an_architecture_that_the_builder_does_not_know_is_refused_with_what_works(
    base: BaseModel, model_of: Any, tmp_path: Path
) -> None:
    other = model_of("GPT2")
    template = ChatTokenizer(base.path)
    with pytest.raises(ValueError, match=r"cannot write GPT2LMHeadModel as onnx-fp32.*gguf-q8_0"):
        onnx_model.write_onnx(Path(other.path), tmp_path / "x", FORMATS["onnx-fp32"], template)


def test_without_its_package_the_form_names_how_to_install_it(
    version: Path, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'slm-orchestrator\[onnx\]'"):
        shipment(version, base, "onnx-int4").run(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_process_that_is_gone_is_told_as_that(sound: Path) -> None:
    with OnnxRuntime(sound, threads=1) as answering:
        answering.process.kill()
        answering.process.wait()
        with pytest.raises(RuntimeError, match="onnxruntime has ended"):
            answering.tokenize("A")
