"""jobs.base_models.fetch and jobs.base_models.tiny: the cache, and what a killed or interrupted
preparation leaves.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.base_models import fetch, tiny
from jobs.config import BaseModel, Model
from jobs.files import cache

ROOT = Path(__file__).resolve().parents[3]
TINY = Model(name="tiny", source="tiny")


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=settings, stdout=pipe, stderr=pipe, text=True
    )


def digests(path: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.iterdir()
        if file.name != "base.json"
    }


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return fetch.prepare(TINY, tmp_path_factory.mktemp("cache"))


def test_importing_fetch_loads_nothing_but_the_standard_library():
    code = "import sys; import jobs.base_models.fetch; print([m for m in sys.modules if m.split('.')[0] in sys.argv[1:]])"
    names = (
        "torch",
        "transformers",
        "huggingface_hub",
        "filelock",
        "rich",
        "tokenizers",
        "numpy",
        "gguf",
    )
    out, error = start(code, *names).communicate()
    assert (out, error) == ("[]\n", "")


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("ORCHESTRATOR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache.cache_folder() == Path("/x/orchestrator")
    monkeypatch.setenv("ORCHESTRATOR_CACHE", "/own")
    assert cache.cache_folder() == Path("/own")


def test_tiny_is_the_same_bytes_each_time_and_leaves_random_numbers_alone(
    tiny_base: BaseModel, tmp_path: Path
):
    import torch

    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    again = fetch.prepare(TINY, tmp_path)
    assert torch.equal(torch.rand(1), expected)
    assert digests(Path(again.path)) == digests(Path(tiny_base.path))
    assert json.loads(Path(again.path, "base.json").read_text()) == dataclasses.asdict(again)


def test_tiny_loads_with_plain_transformers_and_spells_any_text(tiny_base: BaseModel):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_base.path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base.path)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Grüße  12 漢"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt == "<|im_start|>user\nGrüße  12 漢<|im_end|>\n<|im_start|>assistant\n"
    encoded = tokenizer(prompt, return_tensors="pt")
    assert tokenizer.decode(encoded.input_ids[0]) == prompt
    assert (tokenizer.eos_token, tokenizer.pad_token, len(tokenizer)) == (
        "<|im_end|>",
        "<|endoftext|>",
        model.config.vocab_size,
    )
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model(**encoded).logits.std() > 0.5


def test_a_killed_conversion_leaves_nothing_that_looks_finished(tmp_path: Path):
    code = """
import os, signal, sys
from pathlib import Path
from jobs.base_models import fetch, tiny
from jobs.config import Model
def half(folder):
    (folder / "config.json").write_text('{"model_type": "llama"}')
    os.kill(os.getpid(), signal.SIGKILL)
tiny.make = half
fetch.prepare(Model(name="tiny", source="tiny"), Path(sys.argv[1]))
"""
    killed = start(code, str(tmp_path))
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert [path.suffix for path in (tmp_path / "models").iterdir()] == [".partial"]
    assert fetch.locate(TINY, tmp_path) is None
    base = fetch.prepare(TINY, tmp_path)
    assert [str(path) for path in (tmp_path / "models").iterdir()] == [base.path]


def test_an_interrupted_conversion_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(path: Path) -> None:
        (path / "config.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny, "make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch.prepare(TINY, tmp_path)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_folder_that_lost_a_file_is_made_again(tiny_base: BaseModel, tmp_path: Path):
    path = Path(fetch.prepare(TINY, tmp_path).path)
    (path / "model.safetensors").unlink()
    assert fetch.locate(TINY, tmp_path) is None
    fetch.prepare(TINY, tmp_path)
    assert digests(path) == digests(Path(tiny_base.path))


def test_a_cache_that_cannot_be_written_is_one_clear_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RuntimeError, match="set ORCHESTRATOR_CACHE to a folder that can be written"
    ):
        fetch.prepare(TINY, tmp_path / "file")
