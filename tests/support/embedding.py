"""A small embedding model: a vector for each token of the tiny model's tokenizer, and their mean."""

from __future__ import annotations

from pathlib import Path

from jobs.config import BaseModel

WIDTH = 16


def save_embedding(base: BaseModel, folder: Path) -> Path:
    """Write it, and return its folder."""
    import numpy as np
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{base.path}/tokenizer.json")
    weights = np.random.default_rng(0).standard_normal((tokenizer.get_vocab_size(), WIDTH))
    module = StaticEmbedding(tokenizer, embedding_weights=weights.astype(np.float32))
    SentenceTransformer(modules=[module]).save(str(folder))
    return folder
