"""Counts over all rows before anything trains: tokens, prompts that are cut, answers that can never
match, rows that cannot be used.

What was counted is kept in the cache of base models, under a name that follows from the rows, the
tokenizer, the template, the settings and this code, and so are the tokens (token_cache.py): neither
a second plan nor those who train tokenise the same rows again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jobs.data.answer_text import without_tail
from jobs.data.chat_template import ChatTokenizer
from jobs.data.readers import Row
from jobs.data.rendered import Rendered
from jobs.data.rendering import renderer
from jobs.data.token_cache import FEWEST_ROWS, TokenWriter, folder_of, rendering_code
from jobs.data.tokenization import encode_rows, render_rows, room_in_use
from jobs.data.turns import has_earlier_answer
from jobs.files.cache import cache_folder
from jobs.files.drafts import drafted

ROWS_AT_ONCE = 2048
"""Rows that are tokenised together while the next ones are rendered."""
MOST_KEPT = 200
"""Counts that are kept in the cache; the oldest go."""


@dataclass
class Count:
    """What the rows of one split come to."""

    rows: int
    tokens: int = 0
    """Tokens of all examples, after what is cut."""
    supervised: int = 0
    """Tokens that carry loss when each row is trained on once."""
    longest: int = 0
    """Tokens of the longest example, after what is cut."""
    cut: int = 0
    """Rows whose prompt is too long and loses some of its text."""
    first_cut: int = 0
    """The first of them, counted from 0."""
    lost: int = 0
    """Rows whose answer comes back changed from the tokenizer."""
    lost_answer: str = ""
    """One of those answers."""
    earlier: int = 0
    """Of the supervised ones, those of answers before the last one."""
    unused: dict[str, list[int]] = field(default_factory=dict)
    """What the template does not use, in words: how many rows have it, and the first of them."""
    answers: list[list[int]] = field(default_factory=list)
    """How long answers are: tokens, the end of the turn included, and how many rows have that."""

    def by_length(self) -> Counter[int]:
        """Rows by the tokens of their answer."""
        return Counter({pair[0]: pair[1] for pair in self.answers})


@dataclass(frozen=True)
class Limits:
    """The settings that decide how a row is cut."""

    max_length: int
    everything: bool = False
    """Whether all tokens carry loss."""
    answers: bool = False
    """Whether earlier answers carry loss too."""
    in_use: bool = False
    """Whether prompts are cut as in use, where the answer is not known."""
    max_new_tokens: int | None = None
    """Tokens of an answer in use; None for those of the longest of these rows."""
    fewest_new_tokens: int = 1
    """Tokens that an answer in use has at least, where that is not set."""


def count(
    rows: Sequence[Row], digest: str, template: ChatTokenizer, limits: Limits, where: str
) -> Count:
    """The counts of these rows, from the cache where they are known. Raises ValueError for the
    first row that cannot be used.
    """
    if len(rows) < FEWEST_ROWS:
        return count_anew(rows, template, limits, where)
    cache_key = [
        digest,
        rows[0].instruction,
        rows[0].thinking,
        template.fingerprint,
        dataclasses.asdict(limits),
        code(),
    ]
    file = (
        cache_folder()
        / "counts"
        / f"{hashlib.sha256(json.dumps(cache_key).encode()).hexdigest()}.json"
    )
    if folder_of(rows, digest, template).exists():
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            return Count(**json.loads(file.read_text(encoding="utf-8")))
    writer = TokenWriter(rows, digest, template)
    try:
        counted = count_anew(rows, template, limits, where, writer)
        writer.publish()
    finally:
        writer.discard()
    write_whole(file, dataclasses.asdict(counted), MOST_KEPT)
    return counted


def count_anew(
    rows: Sequence[Row],
    template: ChatTokenizer,
    limits: Limits,
    where: str,
    writer: TokenWriter | None = None,
) -> Count:
    """See `count`. `writer` keeps the tokens for those who train on the rows."""
    counted = Count(len(rows))
    answer_lengths: dict[str, tuple[int, bool]] = {}
    sizes: list[tuple[int, int]] = []
    for start, rendered, prompts in tokenised(rows, template, where):
        answer_ids = note_answers(rendered, template, answer_lengths)
        if writer is not None:
            writer.add(rendered, prompts, answer_ids)
        for row_index, (text, ids) in enumerate(zip(rendered, prompts, strict=True), start):
            length, comes_back = answer_lengths[text.answer]
            sizes.append((len(ids), length))
            check(rows[row_index], ids, text, length, template, where)
            if not comes_back:
                counted.lost = counted.lost + 1
                counted.lost_answer = counted.lost_answer or text.reference
            for words in text.unused:
                counted.unused.setdefault(words, [0, row_index])[0] += 1
    lengths = Counter(length for _, length in sizes)
    counted.answers = sorted([length, times] for length, times in lengths.items())
    limit = limits.max_new_tokens or max(limits.fewest_new_tokens, *lengths, 0)
    least: dict[str, int] = {}
    for row_index, (prompt, answer) in enumerate(sizes):
        room = limits.max_length - answer
        if prompt > (room_in_use(limits.max_length, limit) if limits.in_use else room):
            counted.first_cut = counted.first_cut if counted.cut else row_index
            counted.cut += 1
        if prompt > room:
            if limits.everything or not renderer(template).fits(rows[row_index], room, least):
                (example,) = encode_rows([rows[row_index]], template, limits.max_length, where)
                prompt = example.prompt_length
            prompt = min(prompt, room)
        if limits.answers and has_earlier_answer(rows[row_index]):
            (example,) = encode_rows([rows[row_index]], template, limits.max_length, where, True)
            prompt = example.prompt_length
            counted.earlier += example.num_targets() - answer
            counted.supervised += example.num_targets() - answer
        counted.longest = max(counted.longest, prompt + answer)
        counted.tokens += prompt + answer
        counted.supervised += prompt + answer - 1 if limits.everything else answer
    return counted


def tokenised(
    rows: Sequence[Row], template: ChatTokenizer, where: str
) -> Iterator[tuple[int, list[Rendered], list[list[int]]]]:
    """Texts, and token ids of the prompts, some rows at a time. They are tokenised by threads of
    their own while the next are rendered.
    """
    with ThreadPoolExecutor(1) as pool:
        before: tuple[int, list[Rendered], Future[list[list[int]]]] | None = None
        for start in range(0, len(rows), ROWS_AT_ONCE):
            rendered = render_rows(rows[start : start + ROWS_AT_ONCE], template, where)
            waiting = pool.submit(template.encode_batch, [text.prompt for text in rendered])
            if before is not None:
                yield before[0], before[1], before[2].result()
            before = start, rendered, waiting
        if before is not None:
            yield before[0], before[1], before[2].result()


def note_answers(
    rendered: Sequence[Rendered],
    template: ChatTokenizer,
    answer_lengths: dict[str, tuple[int, bool]],
) -> dict[str, list[int]]:
    """Add to `answer_lengths` how many tokens each answer has and whether it comes back from them;
    returns the tokens of those that are new.
    """
    new = {text.answer: text for text in rendered if text.answer not in answer_lengths}
    texts = list(new.values())
    all_ids = template.encode_continuations(list(new))
    plain = renderer(template).without_end
    sure = [
        template.faithful
        and template.special_ids.isdisjoint(ids[:-1])
        and plain(text.answer).strip() == text.reference
        for text, ids in zip(texts, all_ids, strict=True)
    ]
    doubtful = [position for position, comes_back in enumerate(sure) if not comes_back]
    decoded = template.decode_batch([all_ids[position] for position in doubtful])
    for position, decoded_text in zip(doubtful, decoded, strict=True):
        sure[position] = texts[position].matches(without_tail(template, decoded_text))
    answer_lengths |= {
        text.answer: (len(ids), comes_back)
        for text, ids, comes_back in zip(texts, all_ids, sure, strict=True)
    }
    return dict(zip(new, all_ids, strict=True))


def check(
    row: Row, ids: Sequence[int], text: Rendered, answer: int, template: ChatTokenizer, where: str
) -> None:
    """Raise ValueError, with the row's place, for tokens that the model does not know and answers
    beyond the text that it was made for.
    """
    try:
        if template.foreign:
            template.check_known(ids)
            template.check_known(template.encode_continuation(text.answer))
        if template.num_positions is not None and answer >= template.num_positions:
            raise ValueError(
                f"the answer has {answer:,} tokens, and the base was made for "
                f"{template.num_positions:,}; shorten it"
            )
    except ValueError as error:
        raise ValueError(f"{where}: {row.place}: {error}") from None


@cache
def code() -> str:
    """SHA-256 over the code that renders and counts, and the versions of the libraries that it
    uses.
    """
    own = Path(__file__).read_bytes()
    return hashlib.sha256(rendering_code().encode() + own).hexdigest()


def write_whole(file: Path, record: dict[str, Any], most: int) -> None:
    """Write a record into a folder of the cache, whole or not at all, and leave the newest `most`
    there; a cache that cannot be written costs time only.
    """
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with drafted(file, uuid.uuid4().hex) as draft:
            draft.write_text(json.dumps(record), encoding="utf-8")
        for old in sorted(file.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)[
            :-most
        ]:
            old.unlink(missing_ok=True)
