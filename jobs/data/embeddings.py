"""Embedding models: a text as a vector whose direction says what it means; sentence-transformers
reads them.

Owns where one lies (a folder, or hf://ORG/NAME of the hub), what it is told apart by, and what a
registered version carries of it. Weights are safetensors only; code that a model brings along is
not run. sentence-transformers is imported where it is needed: it loads torch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from jobs.data import hub_data

SETTING = "data.neighbours.embedding"
LIBRARY = "sentence_transformers"
PACKAGE = "sentence-transformers"
FOLDER = "embedding"
"""Where a version's folder holds its model."""
LEFT_OUT = ("onnx", "openvino", "__pycache__")
"""Folders with the same weights in other forms, or none."""
BATCH = 64


class EmbeddingModel:
    """A model in a folder, loaded when the first text is asked for."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name

    @cached_property
    def model(self) -> Any:
        """The loaded model, on the CPU: the same vectors on every machine but for rounding. Raises
        ValueError.
        """
        check_installed(self.name)
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            return SentenceTransformer(
                str(self.folder),
                device="cpu",
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )
        except Exception as error:  # whatever a foreign folder leads to
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise ValueError(
                f"{SETTING}={self.name} cannot be loaded ({reason}); name the folder of a model "
                "that sentence-transformers can read"
            ) from error

    def load(self) -> None:
        """Load it now, before several threads ask for it. Raises ValueError."""
        _ = self.model

    def encode(self, texts: Sequence[str]) -> Any:
        """Vectors of length 1: float32 (texts, width). Raises ValueError."""
        import numpy as np

        vectors = self.model.encode(
            list(texts), batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
        )
        vectors = np.asarray(vectors, dtype=np.float32)
        if not np.isfinite(vectors).all():
            raise ValueError(f"{SETTING}={self.name} makes vectors that are not finite")
        return vectors

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all its files and their names."""
        told = hashlib.sha256()
        for file in files_of(self.folder):
            told.update(f"{file.relative_to(self.folder).as_posix()}\0".encode())
            with file.open("rb") as stream:
                hashlib.file_digest(stream, lambda: told)
        return told.hexdigest()

    def copy_to(self, folder: Path) -> None:
        """Put its files into a folder."""
        for file in files_of(self.folder):
            target = folder / file.relative_to(self.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def check_installed(name: str) -> None:
    """Raise ValueError where the library that reads embedding models is missing."""
    if importlib.util.find_spec(LIBRARY) is None:
        raise ValueError(
            f"{SETTING}={name} needs the package {PACKAGE}, which is not installed: pip install "
            f"{PACKAGE}"
        )


def open_model(location: str) -> EmbeddingModel:
    """The model of a setting, fetched from the hub where it names one. Raises ValueError for what
    is none, or cannot be had.
    """
    folder = Path(location)
    if location.startswith(hub_data.SCHEME):
        try:
            folder = Path(hub_data.fetch_model(location))
        except OSError as error:
            raise ValueError(f"{SETTING}: {error}") from error
    problem = problem_of(folder)
    if problem:
        raise ValueError(f"{SETTING}={location} {problem}")
    return EmbeddingModel(folder, location)


def problem_of(folder: Path) -> str | None:
    """Why a folder holds no embedding model that is read."""
    if not folder.is_dir():
        return (
            f"is no folder; name one with an embedding model, or {hub_data.SCHEME}ORG/NAME of the "
            "hub"
        )
    names = [file.name for file in files_of(folder)]
    if not any(name in names for name in ("modules.json", "config.json")):
        return "holds neither modules.json nor config.json; name the folder of an embedding model"
    if not any(name.endswith(".safetensors") for name in names):
        return "holds no weights as safetensors; save the model with model.save(FOLDER)"
    return None


def files_of(folder: Path) -> list[Path]:
    """What belongs to a model, in a fixed order; hidden files do not."""
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(map(is_left_out, file.relative_to(folder).parts))
    ]


def is_left_out(name: str) -> bool:
    """Whether a file or folder of that name is no part of a model."""
    return name.startswith(".") or name in LEFT_OUT
