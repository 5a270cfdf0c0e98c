"""jobs.base_models.hf_folder: local folders as a source, each way to be unusable, and
fingerprints.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from jobs.base_models import fetch, hf_folder
from jobs.config import BaseModel, Model


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return fetch.prepare(Model(name="tiny", source="tiny"), tmp_path_factory.mktemp("cache"))


@pytest.fixture
def local(tiny_base: BaseModel, tmp_path: Path) -> Path:
    path = tmp_path / "local"
    shutil.copytree(tiny_base.path, path)
    return path


def local_model(path: Path) -> Model:
    return Model(name="mine", source="path", path=str(path))


def test_a_local_folder_is_used_as_it_is_and_named_by_its_content(local: Path, tmp_path: Path):
    cache = tmp_path / "cache"
    base = fetch.prepare(local_model(local), cache)
    assert (base.source, base.id, base.path) == ("path", str(local), str(local))
    (local / "README.md").write_text("notes do not decide what a model computes")
    assert fetch.locate(local_model(local), cache) == base
    moved = tmp_path / "moved"
    shutil.copytree(local, moved)
    assert fetch.locate(local_model(moved), cache).revision == base.revision
    config = local / "config.json"
    config.write_text(config.read_text().replace('"use_cache": true', '"use_cache": null'))
    assert fetch.locate(local_model(local), cache).revision != base.revision


def test_weights_are_read_once_and_only_by_prepare_when_large(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fetch, "MAX_HASH_BYTES", 1000)
    cache = tmp_path / "cache"
    assert fetch.locate(local_model(local), cache) is None
    base = fetch.prepare(local_model(local), cache)
    monkeypatch.setattr(
        hf_folder, "sha256", lambda path: pytest.fail(f"{path} was read a second time")
    )
    assert fetch.locate(local_model(local), cache) == base


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def only_pickle(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def into_adapter(path: Path) -> None:
    (path / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')


def into_dead_link(path: Path) -> None:
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").symlink_to("/nowhere/weights")


def add_index(path: Path) -> None:
    (path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: shutil.rmtree(p), "no such folder"),
        (lambda p: (p / "config.json").unlink(), "no config.json in it"),
        (lambda p: (p / "config.json").write_text("{"), "config.json is not JSON ("),
        (lambda p: (p / "config.json").write_text("{}"), "config.json has no model_type"),
        (lambda p: (p / "model.safetensors").unlink(), "no model.safetensors in it"),
        (
            lambda p: (p / "model.safetensors").rename(p / "weights.safetensors"),
            "no model.safetensors in it (found weights.safetensors)",
        ),
        (
            into_dead_link,
            "model.safetensors is a link to /nowhere/weights, where there is no file; fetch it again",
        ),
        (add_index, "no model-00001-of-00002.safetensors in it (found model.safetensors)"),
        (
            lambda p: (p / "model.safetensors.index.json").write_text("[]"),
            "model.safetensors.index.json has no readable weight_map",
        ),
        (lambda p: cut(p / "model.safetensors"), "model.safetensors is broken: it has "),
        (
            lambda p: (p / "model.safetensors").write_bytes(b"nonsense!" * 9),
            "model.safetensors is broken: its first ",
        ),
        (
            lambda p: (p / "model.safetensors").write_bytes(b""),
            "model.safetensors is broken: its first 8 bytes",
        ),
        (
            lambda p: (p / "model.safetensors").write_text(
                "version https://git-lfs.github.com/spec/v1"
            ),
            " lfs pull",
        ),
        (
            only_pickle,
            "its weights are pytorch_model.bin, which this project does not load; convert them with: ",
        ),
        (into_adapter, "it is a LoRA adapter for owner/base, not a whole model"),
        (lambda p: (p / "tokenizer.json").unlink(), "no tokenizer.json in it"),
        (
            lambda p: (p / "tokenizer.json").rename(p / "tokenizer.model"),
            "make it from the tokenizer that is there with: ",
        ),
        (lambda p: cut(p / "tokenizer.json"), "tokenizer.json is not a whole JSON object"),
    ],
)
def test_a_folder_that_cannot_be_loaded_says_why(local: Path, tmp_path: Path, damage, message: str):
    damage(local)
    with pytest.raises(ValueError) as caught:
        fetch.locate(local_model(local), tmp_path)
    assert str(caught.value).startswith(f"model.path {local}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_printed_command_converts_weights_whatever_the_folder_is_called(
    local: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    odd = local.rename(tmp_path / 'it\'s $HOME "here"')
    torch.save(load_file(odd / "model.safetensors"), odd / "pytorch_model.bin")
    (odd / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="convert them with: ") as told:
        fetch.locate(local_model(odd), tmp_path)
    line = str(told.value).partition("convert them with: ")[2].partition(". It must be")[0]
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    fetch.prepare(local_model(odd), tmp_path)


def test_every_missing_file_is_named_at_once(tmp_path: Path):
    with pytest.raises(ValueError) as caught:
        fetch.prepare(local_model(tmp_path), tmp_path)
    assert str(caught.value) == (
        f"model.path {tmp_path}: no config.json in it; no model.safetensors in it; no tokenizer.json in it. "
        "It must be a folder that holds config.json, model.safetensors and tokenizer.json"
    )
