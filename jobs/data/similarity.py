"""Which training prompts are most like a question: TF-IDF of the character 2- to 5-grams inside
words, and cosines, a few rows at a time.

scikit-learn is imported where it is needed: whoever asks for no similarity does without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

MOST_CHARACTERS = 4_000_000
"""Text of the training prompts that is looked at: it bounds memory to about a gigabyte."""
PROMPT_CHARACTERS = 2_000
"""Of one prompt, from its end, where the question stands."""
BATCH_CELLS = 4_000_000
"""Similarities that are held at once."""


def spread(texts: Sequence[str]) -> list[int]:
    """Indices of as many of the texts as the memory bound lets in, evenly over all of them."""
    size = sum(min(len(text), PROMPT_CHARACTERS) for text in texts)
    if size <= MOST_CHARACTERS:
        return list(range(len(texts)))
    count = max(1, len(texts) * MOST_CHARACTERS // size)
    return [index * len(texts) // count for index in range(count)]


def fit(texts: Sequence[str]) -> tuple[Any, Any]:
    """The vectorizer of these texts, and their vectors."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    # A prompt of white space alone has no n-gram; the first word keeps the vocabulary from being
    # empty where all prompts are such.
    vectorizer = TfidfVectorizer(
        analyzer="char_wb",
        ngram_range=(2, 5),
        sublinear_tf=True,
        dtype=np.float32,  # type: ignore[arg-type]
    )
    ends = [text[-PROMPT_CHARACTERS:] for text in texts]
    try:
        return vectorizer, vectorizer.fit_transform(ends)
    except ValueError as error:
        if "empty vocabulary" not in str(error):
            raise
        return vectorizer, vectorizer.fit_transform(["-- no words --", *ends])[1:]


def transform(vectorizer: Any, texts: Sequence[str]) -> Any:
    """Vectors of other texts."""
    return vectorizer.transform([text[-PROMPT_CHARACTERS:] for text in texts])


def similarities(features: Any, asked: Any) -> Iterator[tuple[int, Any]]:
    """Cosines of a few rows at a time with all training rows, as (first row, dense block)."""
    transposed = features.T.tocsr()
    rows = max(1, BATCH_CELLS // max(features.shape[0], 1))
    for start in range(0, asked.shape[0], rows):
        yield start, (asked[start : start + rows] @ transposed).toarray()
