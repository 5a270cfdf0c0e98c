"""Tokenised rows on disk: written once by whoever counts them first, mapped into memory by every
process that trains on them.

A folder holds the rows of one source or split under a name that follows from the rows, the
tokenizer, the chat template and this code, so that another of them never finds it. It appears whole
or not at all, and is checked when it is opened. Prompts are kept uncut: train.max_length cuts them
when they are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import mmap
import os
import shutil
import tempfile
import zlib
from array import array
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO

from jobs.data.chat_template import ChatTokenizer
from jobs.data.corpus import Corpus
from jobs.data.readers import Row
from jobs.data.rendered import Rendered
from jobs.data.tokenization import Example, make_example, too_long
from jobs.files.cache import cache_folder

FEWEST_ROWS = 200
"""Fewer rows are tokenised again: it takes no longer than to look."""
MOST_BYTES = 4 * 10**9
"""Of all folders together; those that were not used for longest go."""
IDS, TEXTS, ROWS, ANSWERS, SEAL = "ids.bin", "texts.bin", "rows.bin", "answers.json", "seal.json"
PER_ROW = 3
"""Numbers of a row in ROWS: where its ids end, where its text ends, which answer it has."""


@cache
def rendering_code() -> str:
    """SHA-256 over the code that renders and tokenises, and the versions of the libraries that it
    uses.
    """
    files = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files))
    for name in ("tokenizers", "jinja2"):
        digest.update(importlib.metadata.version(name).encode())
    return digest.hexdigest()


def folder_of(rows: Sequence[Row], digest: str, template: ChatTokenizer) -> Path:
    """Where the tokens of these rows are kept. `digest` is that of their messages."""
    key = [digest, rows[0].instruction, rows[0].thinking, template.fingerprint, rendering_code()]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    return cache_folder() / "tokens" / name


class TokenWriter:
    """Writes the rows of one source or split, some at a time; nothing is seen before `publish`. A
    cache that cannot be written costs time only.
    """

    def __init__(self, rows: Sequence[Row], digest: str, template: ChatTokenizer) -> None:
        self.folder = folder_of(rows, digest, template)
        self.template = template
        self.num_rows = len(rows)
        self.draft: Path | None = None
        self.files: dict[str, BinaryIO] = {}
        self.numbers = array("q")
        self.ends = [0, 0]
        self.answer_indices: dict[tuple[str, str, str], int] = {}
        self.answers: list[tuple[int, int, str, str]] = []
        if len(rows) < FEWEST_ROWS or self.folder.exists():
            return
        with contextlib.suppress(OSError):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.draft = Path(tempfile.mkdtemp(dir=self.folder.parent, suffix=".draft"))
            self.files = {name: (self.draft / name).open("wb") for name in (IDS, TEXTS)}

    def add(
        self,
        rendered: Sequence[Rendered],
        prompts: Sequence[Sequence[int]],
        answer_ids: Mapping[str, Sequence[int]],
    ) -> None:
        """The next rows. `answer_ids` has the tokens of answers that were not met before."""
        if self.draft is None:
            return
        try:
            for text, ids in zip(rendered, prompts, strict=True):
                answer = self.answer_index(text, answer_ids)
                self.put(IDS, array("i", ids).tobytes())
                self.put(TEXTS, text.prompt.encode("utf-8", "surrogatepass"))
                self.numbers.extend((self.ends[0], self.ends[1], answer))
        except OSError:
            self.discard()

    def answer_index(self, text: Rendered, answer_ids: Mapping[str, Sequence[int]]) -> int:
        """The number of an answer; its ids are written where it is met first."""
        key = text.answer, text.reference, text.mark
        index = self.answer_indices.get(key)
        if index is None:
            index = self.answer_indices[key] = len(self.answers)
            ids = answer_ids.get(text.answer)
            if ids is None:
                ids = self.template.encode_continuation(text.answer)
            start = self.ends[0]
            self.put(IDS, array("i", ids).tobytes())
            self.answers.append((start, self.ends[0], text.reference, text.mark))
        return index

    def put(self, name: str, content: bytes) -> None:
        """Append to one of the files."""
        self.files[name].write(content)
        self.ends[name == TEXTS] += len(content)

    def publish(self) -> None:
        """Make what was written visible, if all rows are there."""
        if self.draft is None:
            return
        if len(self.numbers) != PER_ROW * self.num_rows:
            self.discard()
            return
        try:
            for file in self.files.values():
                file.close()
            (self.draft / ROWS).write_bytes(self.numbers.tobytes())
            (self.draft / ANSWERS).write_bytes(json.dumps(self.answers).encode())
            seal = {name: checksum(self.draft / name) for name in (IDS, TEXTS, ROWS, ANSWERS)}
            (self.draft / SEAL).write_text(json.dumps(seal), encoding="utf-8")
            os.replace(self.draft, self.folder)
            self.draft = None
            make_room(self.folder)
        except OSError:  # another process was faster, or the disk is full
            self.discard()

    def discard(self) -> None:
        """Leave nothing behind."""
        for file in self.files.values():
            with contextlib.suppress(OSError):
                file.close()
        if self.draft is not None:
            shutil.rmtree(self.draft, ignore_errors=True)
            self.draft = None


class StoredTokens:
    """The tokens of one source or split, mapped into memory."""

    def __init__(self, folder: Path, num_rows: int) -> None:
        """Raises OSError or ValueError for a folder that is not there, or damaged."""
        seal = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        for name in (IDS, TEXTS, ROWS, ANSWERS):
            if checksum(folder / name) != seal[name]:
                raise ValueError(f"{folder / name} is damaged")
        self.ids = mapped(folder / IDS)
        self.texts = mapped(folder / TEXTS)
        self.numbers = array("q")
        self.numbers.frombytes((folder / ROWS).read_bytes())
        if len(self.numbers) != PER_ROW * num_rows:
            raise ValueError(f"{folder} holds other rows")
        self.answers = json.loads((folder / ANSWERS).read_text(encoding="utf-8"))
        with contextlib.suppress(OSError):
            os.utime(folder)

    def read_ids(self, start: int, end: int) -> list[int]:
        """Token ids between two places of the file, in bytes."""
        ids = array("i")
        ids.frombytes(self.ids[start:end])
        return ids.tolist()

    def examples(
        self,
        rows: Sequence[Row],
        indices: Sequence[int],
        template: ChatTokenizer,
        max_length: int,
        where: str,
    ) -> list[Example]:
        """What `encode_rows` makes of rows[i] for each of these indices. Raises ValueError for an
        answer that leaves no room for what must stay of its prompt.
        """
        examples = []
        for index in indices:
            text, prompt = self.prompt(index)
            start, end, _, _ = self.answers[self.numbers[PER_ROW * index + 2]]
            answer = self.read_ids(start, end)
            room = max_length - len(answer)
            example = make_example(rows[index], text, prompt, answer, room, template)
            if len(example.ids) > max_length:
                raise ValueError(too_long(where, rows[index], example, max_length))
            examples.append(example)
        return examples

    def prompt(self, index: int) -> tuple[Rendered, list[int]]:
        """A row as text, without its answer's, and the ids of its whole prompt."""
        ids_end, text_end, answer = self.numbers[PER_ROW * index : PER_ROW * (index + 1)]
        text_start = self.numbers[PER_ROW * (index - 1) + 1] if index else 0
        start, end, reference, mark = self.answers[answer]
        ids_start = self.numbers[PER_ROW * (index - 1)] if index else 0
        if ids_start == start:  # the answer was met first here, and stands before the prompt
            ids_start = end
        prompt = self.texts[text_start:text_end].decode("utf-8", "surrogatepass")
        return Rendered(prompt, "", reference, mark), self.read_ids(ids_start, ids_end)


def stored_tokens(corpus: Corpus, name: str, template: ChatTokenizer) -> StoredTokens | None:
    """The tokens of a source, or of "valid" or "test", that lie in the cache; None where there are
    none. They are opened once for a corpus.
    """
    key = f"tokens {name} {template.fingerprint}"
    if key not in corpus.memo:
        corpus.memo[key] = None
        rows = corpus.sources.get(name)
        digest = f"train/{name}"
        if rows is None:
            rows = {"valid": corpus.valid, "test": corpus.test}[name]
            digest = name
        if len(rows) >= FEWEST_ROWS:
            folder = folder_of(rows, corpus.digests[digest], template)
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                corpus.memo[key] = StoredTokens(folder, len(rows))
            if corpus.memo[key] is None and folder.exists():
                shutil.rmtree(folder, ignore_errors=True)  # damaged; the next plan writes it anew
    return corpus.memo[key]


def mapped(file: Path) -> mmap.mmap | bytes:
    """A file's content without reading it all."""
    with file.open("rb") as source:
        if not file.stat().st_size:
            return b""
        return mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)


def checksum(file: Path) -> list[int]:
    """Size and CRC-32 of a file."""
    total = 0
    with file.open("rb") as source:
        while block := source.read(1 << 20):
            total = zlib.crc32(block, total)
    return [file.stat().st_size, total]


def make_room(newest: Path) -> None:
    """Delete what was not used for longest, until all of it fits."""
    folders = [path for path in newest.parent.iterdir() if path.suffix != ".draft"]
    folders.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for folder in folders:
        total += sum(file.stat().st_size for file in folder.iterdir())
        if total > MOST_BYTES and folder != newest:
            shutil.rmtree(folder, ignore_errors=True)
