"""A folder of text files as passages that a question can be asked about."""

from __future__ import annotations

import re
from pathlib import Path

from jobs.synthesis.drafts import Passage

ENDINGS = (".txt", ".md", ".markdown", ".rst")
FEWEST_WORDS = 8
"""A stretch of fewer words says too little to ask about."""


def passages_of(folder: str, words: int) -> tuple[list[Passage], list[str]]:
    """The passages of all text files of a folder and those below it, in order of their names, and
    what was not read. Raises ValueError for a folder without any text.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        kind = "is a file, not a folder" if root.exists() else "does not exist"
        raise ValueError(f"synthesis.documents={folder} {kind}; name a folder of .txt or .md files")
    files = [
        path
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(name.startswith(".") for name in path.relative_to(root).parts)
    ]
    passages: list[Passage] = []
    unread: list[str] = []
    for file in files:
        name = str(file.relative_to(root))
        if file.suffix.lower() not in ENDINGS:
            unread.append(name)
            continue
        texts = stretches(text_of(file), words)
        passages += [
            Passage(f"{name}, passage {position}", text)
            for position, text in enumerate(texts, start=1)
        ]
    if not passages:
        content = f"; it holds {', '.join(unread[:6])}" if unread else "; it is empty"
        raise ValueError(
            f"synthesis.documents={folder} has no text in {', '.join(ENDINGS)} files of "
            f"{FEWEST_WORDS} words and more{content}"
        )
    return passages, unread


def text_of(file: Path) -> str:
    """The text of a file. Raises ValueError for one that is no text in UTF-8."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}") from None
    if "\0" in text:
        raise ValueError(f"{file} holds NUL bytes, it is no text; take it out of the folder")
    return text


def stretches(text: str, words: int) -> list[str]:
    """Paragraphs put together up to so many words; a longer one is cut between sentences."""
    pieces: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        flat = " ".join(paragraph.split())
        if len(flat.split()) <= words:
            pieces.append(flat)
            continue
        pieces += re.split(r"(?<=[.!?。！？])\s+", flat)
    joined: list[str] = []
    current: list[str] = []
    count = 0
    for piece in pieces:
        size = len(piece.split())
        if current and count + size > words:
            joined.append(" ".join(current))
            current, count = [], 0
        current.append(piece)
        count += size
    joined.append(" ".join(current))
    return [
        " ".join(stretch.split()[: 2 * words])
        for stretch in joined
        if len(stretch.split()) >= FEWEST_WORDS
    ]
