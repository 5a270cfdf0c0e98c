"""A version as the file that ships: what the file holds, that it answers as the trained model, and
that what does not is refused with the reason.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from jobs.config import BaseModel
from jobs.export import shipment as shipments
from jobs.export.formats import FORMATS
from jobs.export.gguf_model import Provenance, rounded_again, write_model
from jobs.export.merged_model import MergedModel, merged_model
from jobs.export.shipment import Shipment, ShipmentSettings
from jobs.llama_cpp.runtime import Runtime
from tests.support.plain import architecture
from tests.support.shipping import adapted_version, rewritten

SETTINGS = ShipmentSettings("models:/toy/3", "toy", rows=8, threads=(1,))


@pytest.fixture(scope="module")
def version(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapted_version(base, tmp_path_factory.mktemp("versions"))


@pytest.fixture(autouse=True)
def cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))


@pytest.fixture(scope="module")
def merged(base: BaseModel, version: Path) -> MergedModel:
    return merged_model(base, version / "adapter")


def shipment(version: Path, base: BaseModel, form: str) -> Shipment:
    return Shipment(version, base, FORMATS[form], SETTINGS, lambda line: None)


@pytest.mark.parametrize("form", ["gguf-f16", "gguf-q8_0", "gguf-q4_0", "gguf-adapter"])
def test_a_file_answers_as_the_trained_model_and_is_scored_beside_it(
    form: str, version: Path, base: BaseModel, tmp_path: Path
) -> None:
    report = shipment(version, base, form).run(tmp_path / form)
    folder = Path(report["folder"])
    assert report == json.loads((folder / "export.json").read_text()) | {"folder": str(folder)}
    assert report["check"]["mean"] <= FORMATS[form].most_divergence
    scores, costs = report["scores"], report["costs"]
    assert scores["rows"] == len((folder / "predictions.jsonl").read_text().splitlines()) <= 8
    assert scores["low"] <= scores["value"] <= scores["high"]
    assert scores["difference"] == pytest.approx(scores["value"] - scores["trained"])
    if form in ("gguf-f16", "gguf-adapter"):
        assert report["divergence"]["equal"] >= FORMATS[form].fewest_equal
    if form == "gguf-adapter":
        assert report["check"]["without_adapter"]["mean"] > 100 * report["check"]["mean"]
    assert costs["size_mb"] > 0 and costs["peak_memory_mb"] > costs["size_mb"]
    assert costs["threads"]["1"]["tokens_per_second"] > 0
    card = (folder / "README.md").read_text()
    assert "Which letter?" in card and "llama-server -m" in card and "Apache-2.0" in card
    assert "FROM " in (folder / "Modelfile").read_text()


def test_the_file_tells_base_data_score_licence_template_and_end(
    version: Path, base: BaseModel, tmp_path: Path
) -> None:
    report = shipment(version, base, "gguf-q8_0").run(tmp_path / "out")
    reader = gguf.GGUFReader(tmp_path / "out" / report["file"])
    told = {key: entry.contents() for key, entry in reader.fields.items()}
    assert told["general.license"] == "Apache-2.0"
    assert told["general.base_model.0.name"] == "tiny"
    assert told["general.dataset.0.name"] == "toy"
    assert told["tokenizer.ggml.eos_token_id"] == 257
    assert told["tokenizer.ggml.add_bos_token"] is False
    assert "<|im_start|>" in told["tokenizer.chat_template"]


def test_merged_safetensors_load_with_plain_transformers(
    version: Path, base: BaseModel, merged: MergedModel, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report = shipment(version, base, "safetensors").run(tmp_path / "out")
    assert report["check"]["equal"] == 1.0
    folder = tmp_path / "out" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    row = json.loads((version / "predictions.jsonl").read_text().splitlines()[0])
    ids = AutoTokenizer.from_pretrained(folder)(
        row["text"], return_tensors="pt", add_special_tokens=False
    )["input_ids"]
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, merged.model(ids).logits, atol=1e-4)


@pytest.mark.parametrize("form", ["gguf-f16", "gguf-adapter"])
def test_each_token_of_an_unquantised_file_is_the_models_best_or_ties_with_it(
    form: str, version: Path, base: BaseModel, merged: MergedModel, tmp_path: Path
) -> None:
    made = shipment(version, base, form)
    report = made.run(tmp_path / "out")
    folder = Path(report["folder"])
    file, adapters, adapter = folder / report["file"], [], None
    if form == "gguf-adapter":
        file, adapters, adapter = Path(report["base_file"]), [folder / report["file"]], 0
    rows = [json.loads(line) for line in (version / "predictions.jsonl").read_text().splitlines()]
    prompts = [made.template.encode(row["text"]) for row in rows]
    with Runtime(file, adapters, threads=1) as runtime:
        answers = [runtime.complete(ids, 8, adapter).ids for ids in prompts]
    behind: list[float] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.no_grad():
            logits = merged.model(torch.tensor([[*prompt, *answer]])).logits[
                0, len(prompt) - 1 : -1
            ]
        behind += (
            logits.max(-1).values - logits.gather(1, torch.tensor(answer)[:, None])[:, 0]
        ).tolist()
    assert len(behind) >= len(rows)
    assert max(behind) < 0.02, "nats"
    assert sum(gap == 0 for gap in behind) > 0.95 * len(behind)


def test_an_adapter_on_the_base_gives_the_merged_files_answers(
    version: Path, base: BaseModel, tmp_path: Path
) -> None:
    alone = shipment(version, base, "gguf-adapter").run(tmp_path / "adapter")
    whole = shipment(version, base, "gguf-f16").run(tmp_path / "whole")
    rows = [json.loads(line) for line in (version / "predictions.jsonl").read_text().splitlines()]
    prompts = [shipment(version, base, "gguf-f16").template.encode(row["text"]) for row in rows]
    adapter, merged = Path(alone["folder"]) / alone["file"], Path(whole["folder"]) / whole["file"]
    with Runtime(Path(alone["base_file"]), [adapter], threads=1) as runtime:
        with_it = [runtime.complete(ids, 8, 0).ids for ids in prompts]
        without = [runtime.complete(ids, 8).ids for ids in prompts]
    with Runtime(merged, threads=1) as runtime:
        assert [runtime.complete(ids, 8).ids for ids in prompts] == with_it
    assert without != with_it


def square(name: str, array: np.ndarray) -> np.ndarray:
    return array.T if name == "blk.0.attn_q.weight" else array


def unscaled(name: str, array: np.ndarray) -> np.ndarray:
    return array / 4 if name.endswith("lora_b") else array


def turned(name: str, array: np.ndarray) -> np.ndarray:
    return array.T if name.endswith("lora_a") else array


@pytest.mark.parametrize(
    ("form", "settings", "tensors", "reason"),
    [
        ("gguf-f16", {"tokenizer.chat_template": "{{ messages[0]['content'] }}"}, None,
         "its chat template makes another prompt"),
        ("gguf-f16", {"tokenizer.ggml.eos_token_id": 65}, None, "its end token is 65"),
        ("gguf-f16", {"tokenizer.ggml.add_bos_token": True}, None,
         "the beginning of text is doubled"),
        ("gguf-f16", {}, square, "is transposed"),
        ("gguf-adapter", {}, unscaled, "is scaled by 0.25 of what it was trained with"),
        ("gguf-adapter", {"adapter.lora.alpha": 4.0}, None, "is scaled by 0.25"),
        ("gguf-adapter", {}, turned, "is transposed"),
    ],
)  # fmt: skip
def test_a_broken_export_is_refused_with_the_reason(
    form: str,
    settings: dict[str, Any],
    tensors: Any,
    reason: str,
    version: Path,
    base: BaseModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writing = Shipment.write_files

    def broken(self: Shipment, draft: Path, model: MergedModel) -> list[Path]:
        files = writing(self, draft, model)
        kept = files[-1].rename(files[-1].with_suffix(".kept"))
        change = {} if tensors is None else {"tensors": tensors}
        rewritten(kept, files[-1], settings, **change)
        kept.unlink()
        return files

    monkeypatch.setattr(shipments.Shipment, "write_files", broken)
    with pytest.raises(ValueError, match="is not the trained model") as refused:
        shipment(version, base, form).run(tmp_path / "out")
    assert reason in str(refused.value)
    assert not list(tmp_path.iterdir()), "nothing half-written stays"


def test_wrong_weights_are_caught_by_the_answers_too(
    version: Path, base: BaseModel, merged: MergedModel, tmp_path: Path
) -> None:
    made = shipment(version, base, "gguf-f16")
    files = made.write_files(tmp_path, merged)
    twisted = rewritten(files[0], tmp_path / "twisted.gguf", tensors=square)
    with pytest.raises(ValueError, match="does not answer as the trained model"):
        made.ask_file([twisted], merged)


@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Qwen3", "Gemma3Text"])
def test_other_architectures_answer_in_llama_cpp_as_in_transformers(
    kind: str, base: BaseModel, tmp_path: Path
) -> None:
    changed = {"query_pre_attn_scalar": 8} if kind == "Gemma3Text" else {}
    other = architecture(kind, tmp_path / "model", base, **changed)
    from jobs.export.divergence import model_reference, of_prompts
    from jobs.model.loading import read

    model = read(other.path)
    file = tmp_path / "model.gguf"
    told = Provenance("x", "x", "x", "x", "0")
    task = {"today": "2024-07-26"}
    form = FORMATS["gguf-f16"]
    weights = model.state_dict()
    write_model(weights, model.config, Path(other.path), task, form, file, told)
    prompts = [list(range(40, 60)), list(range(90, 200))]
    with Runtime(file, threads=1) as runtime:
        measured = of_prompts(runtime, model_reference(model.eval()), prompts, 8)
    assert measured.mean < form.most_divergence and measured.equal == 1.0, measured


def test_an_architecture_without_a_gguf_form_is_refused_with_what_works(
    model_of: Any, version: Path, tmp_path: Path
) -> None:
    from jobs.model.loading import read

    model = read(model_of("GPT2").path)
    told = Provenance("x", "x", "x", "x", "0")
    form = FORMATS["gguf-q8_0"]
    with pytest.raises(ValueError, match=r"GPT2.*export.format=safetensors"):
        write_model({}, model.config, tmp_path, {}, form, tmp_path / "x.gguf", told)
    assert not list(tmp_path.iterdir())


def test_weights_that_training_left_alone_stay_as_the_bases_own_file_has_them(
    version: Path, base: BaseModel, merged: MergedModel, tmp_path: Path
) -> None:
    made = shipment(version, base, "gguf-q8_0")
    weights, config = merged.model.state_dict(), merged.model.config
    task, folder, told = made.task, Path(base.path), made.provenance()
    source = tmp_path / "source.gguf"
    write_model(weights, config, folder, task, FORMATS["gguf-q4_1"], source, told)
    target = tmp_path / "target.gguf"
    name = "model.layers.1.mlp.up_proj.weight"
    write_model(
        *(weights, config, folder, task, FORMATS["gguf-q8_0"], target, told),
        *(source, frozenset({name})),
    )
    before = {tensor.name: tensor for tensor in gguf.GGUFReader(source).tensors}
    after = {tensor.name: tensor for tensor in gguf.GGUFReader(target).tensors}
    assert after["blk.1.ffn_up.weight"].tensor_type.name == "Q8_0"
    same = after["blk.0.ffn_up.weight"]
    assert same.tensor_type.name == "Q4_1"
    assert np.array_equal(same.data, before["blk.0.ffn_up.weight"].data)
    assert rounded_again(source, FORMATS["gguf-q4_1"]) is None
    assert rounded_again(source, FORMATS["gguf-q8_0"]) is None
    said = rounded_again(source, FORMATS["gguf-q4_0"])
    assert said is not None and "came as Q4_1" in said and "gguf-q4_1 keeps" in said
    with Runtime(target, threads=1) as runtime:
        assert runtime.complete([65, 66, 67], 4).timings["predicted_n"] >= 1


def test_k_quants_without_their_quantiser_name_what_there_is_instead(
    version: Path, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.export import k_quants

    monkeypatch.setattr(k_quants.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"k-quants.*gguf-q4_0"):
        shipment(version, base, "gguf-q4_k_m").run(tmp_path / "out")
    assert not list(tmp_path.iterdir())
