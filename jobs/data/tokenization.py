"""A row into an example: token ids, and which of them carry loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jobs.data import turns
from jobs.data.chat_template import ChatTokenizer
from jobs.data.neighbour_prompt import without_farthest
from jobs.data.readers import Row
from jobs.data.rendered import Rendered, matches
from jobs.data.rendering import renderer
from jobs.data.truncation import fewer_neighbours

RENDERING = 2
"""Goes up when the same row gives other tokens than before: what was trained or judged on the
former ones is not gone on with.
"""


@dataclass(frozen=True)
class Example:
    """A row as the model sees it."""

    ids: list[int]
    """Tokens of the prompt and then of the answer, the end-of-turn token included."""
    prompt_length: int
    """How many of `ids` are the prompt."""
    text: str
    """The prompt exactly as the model is given it."""
    reference: str
    """The answer in plain text, without white space around it: what a decoded answer is compared
    with.
    """
    num_cut: int = 0
    """Tokens that the prompt lost because the example was longer than train.max_length; whole
    neighbours that were left out do not count.
    """
    mark: str = ""
    """What stands between a reasoning and the answer proper, where rows have reasoning."""
    num_neighbours: int = 0
    """Training rows that stand before the question."""
    earlier: tuple[tuple[int, int], ...] = ()
    """Where answers before the last one stand in `ids`, each from its first token to behind its
    last; none unless they carry loss.
    """

    @property
    def first_target(self) -> int:
        """The first token of an answer that carries loss."""
        return self.earlier[0][0] if self.earlier else self.prompt_length

    def targets(self, everything: bool = False) -> tuple[tuple[int, int], ...]:
        """Where the tokens that carry loss stand in `ids`; with `everything` all but the first,
        which nothing predicts.
        """
        if everything:
            return ((1, len(self.ids)),)
        return (*self.earlier, (self.prompt_length, len(self.ids)))

    def num_targets(self, everything: bool = False) -> int:
        """How many tokens carry loss."""
        return sum(stop - start for start, stop in self.targets(everything))

    def matches(self, answer: str) -> bool:
        """Whether a decoded answer is right; a reasoning before it need not be the same."""
        return matches(answer, self.reference, self.mark)


def encode_row(row: Row, template: ChatTokenizer, max_length: int) -> Example:
    """The example of one row; see `encode_rows`."""
    return encode_rows([row], template, max_length)[0]


def encode_rows(
    rows: Sequence[Row],
    template: ChatTokenizer,
    max_length: int,
    where: str = "data",
    answers_carry_loss: bool = False,
) -> list[Example]:
    """Token ids of every row, at most `max_length` each.

    Prompt and answer are tokenised apart: when the model answers, it has seen the ids of the prompt
    alone, and in training it must see the same. A prompt that is too long loses some of what the
    user says (rendering.py), and `num_cut` says how much. With `answers_carry_loss` the earlier
    answers of a conversation carry loss too. Raises ValueError for a row that the
    template does not render as it stands, and for an answer that leaves no room for what must stay
    of the prompt.
    """
    rendered = render_rows(rows, template, where)
    answers = encode_answers(rendered, template)
    prompts = template.encode_batch([text.prompt for text in rendered])
    examples = []
    for row, text, ids in zip(rows, rendered, prompts, strict=True):
        answer = answers[text.answer]
        room = max_length - len(answer)
        examples.append(make_example(row, text, ids, answer, room, template, answers_carry_loss))
        if len(examples[-1].ids) > max_length:
            raise ValueError(too_long(where, row, examples[-1], max_length))
    return examples


def encode_asked(
    rows: Sequence[Row],
    template: ChatTokenizer,
    max_length: int,
    max_new_tokens: int | None,
    where: str = "data",
) -> tuple[list[Example], int]:
    """Token ids of rows that are to be answered, and how many tokens an answer may have: by default
    those of the longest.

    Prompts are cut as in use, where nobody knows how long the right answer is.
    """
    rendered = render_rows(rows, template, where)
    answers = encode_answers(rendered, template)
    prompts = template.encode_batch([text.prompt for text in rendered])
    limit = max_new_tokens or max(map(len, answers.values()))
    room = room_in_use(max_length, limit)
    return [
        make_example(row, text, ids, answers[text.answer], room, template)
        for row, text, ids in zip(rows, rendered, prompts, strict=True)
    ], limit


def room_in_use(max_length: int, max_new_tokens: int) -> int:
    """Tokens that a prompt may have in use. Answers that may be longer than any that was trained
    take half of the room, no more.
    """
    return max_length - min(max_new_tokens, max_length // 2)


def render_rows(rows: Iterable[Row], template: ChatTokenizer, where: str) -> list[Rendered]:
    """The text of every row. Raises ValueError that names the first that cannot be rendered."""
    render = renderer(template).render
    texts = []
    for row in rows:
        try:
            texts.append(render(row))
        except ValueError as error:
            raise ValueError(f"{where}: {row.place}: {error}") from None
    return texts


def encode_answers(rendered: Iterable[Rendered], template: ChatTokenizer) -> dict[str, list[int]]:
    """Token ids by the text of the answer: in many tasks answers repeat."""
    return {
        text: template.encode_continuation(text)
        for text in dict.fromkeys(one.answer for one in rendered)
    }


def make_example(
    row: Row,
    text: Rendered,
    ids: list[int],
    answer: list[int],
    room: int,
    template: ChatTokenizer,
    answers_carry_loss: bool = False,
) -> Example:
    """The example of a row whose prompt has `ids` and may have `room` of them."""
    prompt = text.prompt
    if len(ids) > room and row.neighbours:
        row, prompt, ids = fewer_neighbours(row, room, template)
    shortened_ids = ids
    context = list(row.as_shown.context)
    if len(ids) > room:
        prompt, shortened_ids, context = renderer(template).shorten(row, room)
    earlier: turns.Spans = ()
    if answers_carry_loss and turns.has_earlier_answer(row):
        shortened_ids, earlier = turns.encoded(row, context, prompt, template)
        while len(shortened_ids) > room and row.neighbours:  # a token or two more than as a whole
            row = dataclasses.replace(row, neighbours=without_farthest(row.neighbours))
            row, prompt, ids = fewer_neighbours(row, room, template)
            context = list(row.as_shown.context)
            shortened_ids, earlier = turns.encoded(row, context, prompt, template)
        if len(shortened_ids) > room:
            spare = 2 * room - len(shortened_ids)
            prompt, shortened_ids, context = renderer(template).shorten(row, spare)
            shortened_ids, earlier = turns.encoded(row, context, prompt, template)
    return Example(
        shortened_ids + answer,
        len(shortened_ids),
        prompt,
        text.reference,
        max(len(ids) - len(shortened_ids), 0),
        text.mark,
        len(row.neighbours),
        earlier,
    )


def too_long(where: str, row: Row, example: Example, max_length: int) -> str:
    """That an answer and what must stay of its prompt, which is all that `example` holds, have no
    room.
    """
    answer = len(example.ids) - example.prompt_length
    return (
        f"{where}: {row.place}: the answer has {answer:,} tokens, too many for "
        f"train.max_length={max_length}, which must also hold the "
        f"{example.prompt_length:,} of the prompt that always stay: marks, system message, "
        "instruction; raise train.max_length to "
        f"{len(example.ids) + min(example.num_cut, 64)}, or shorten them"
    )


PREFIX_MIN = 8
"""Shorter common beginnings are not worth a forward pass of their own, in tokens."""


def shared_prefix(examples: list[Example]) -> int:
    """How many tokens all prompts begin with alike before any that carries loss, leaving each
    prompt at least one; 0 below
    PREFIX_MIN or for one example.
    """
    if len(examples) < 2:
        return 0
    limit = min(example.first_target for example in examples) - 1
    first = min(e.ids[:limit] for e in examples)
    last = max(e.ids[:limit] for e in examples)
    # In sorted order everything between the smallest and the largest shares what these two share.
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=True)) if a != b), limit)
    return length if length >= PREFIX_MIN else 0
