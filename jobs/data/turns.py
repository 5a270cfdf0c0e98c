"""Where earlier answers of a conversation stand in the text of its prompt, for train.on=answers: by
position, never by looking for them in the text.

Owns which of them carry loss; where the last answer begins and ends is rendering.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jobs.data.chat_template import PROBES, ChatTokenizer, common_end
from jobs.data.messages import THOUGHTS, tool_name
from jobs.data.rendered import squeezed
from jobs.data.rendering import CALLS, Renderer, call, common_start, renderer

if TYPE_CHECKING:
    from jobs.data.readers import Row

Messages = Sequence[dict[str, Any]]
Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Turn:
    """One earlier answer in a text, in characters."""

    start: int
    stop: int
    """After the mark that ends the turn."""


class TurnFinder:
    """Finds the earlier answers that one template has written."""

    def __init__(self, render: Renderer) -> None:
        self.renderer = render
        self.template = render.template
        self.closings: dict[Any, str] = {}

    def turns(self, row: Row, context: Messages, prompt: str) -> list[Turn]:
        """The answers among the messages of a prompt that stand in it whole, in order. `prompt` is
        what the template writes for `context` when it asks for the next answer.

        An answer that the template cuts, such as one without its reasoning, is none: the model
        would learn to leave out what it should write.
        """
        turns: list[Turn] = []
        for index, message in enumerate(context):
            if message["role"] != "assistant":
                continue
            turn = self.plain_turn(row, context, index, prompt)
            turn = turn or self.probed_turn(row, context, index, prompt)
            after = turns[-1].stop if turns else 0
            if turn is not None and after <= turn.start < turn.stop:
                turns.append(turn)
        return turns

    def plain_turn(self, row: Row, context: Messages, index: int, prompt: str) -> Turn | None:
        """An answer that stands right after what the model is given to write it, and before the
        end of its turn; None for one that the template writes otherwise.
        """
        asked = self.text(row, context[:index], True)
        closed = self.text(row, context[: index + 1], False)
        if asked is None or closed is None or not closed.startswith(asked):
            return None
        if not prompt.startswith(closed):
            return None
        shape = tuple(one["role"] for one in context[: index + 1]), "tool_calls" in context[index]
        key = (*shape, bool(row.tools), row.thinking)
        if key not in self.closings:
            texts = [self.text(row, one, False) for one in probed(context[: index + 1], index)]
            self.closings[key] = common_end(texts[0] or "", texts[1] or "")
        closing = self.closings[key]
        if not closed.endswith(closing):
            return None
        stop = len(closed) - len(closing) + self.mark(closing)
        body = closed[len(asked) : stop]
        return Turn(len(asked), stop) if says(context[index], body) else None

    def probed_turn(self, row: Row, context: Messages, index: int, prompt: str) -> Turn | None:
        """An answer whose place is seen from two others in it, for a template that writes earlier
        answers otherwise than it asks for them.
        """
        texts = [self.text(row, one, True) for one in probed(context, index)]
        if texts[0] is None or texts[1] is None or texts[0] == texts[1]:
            return None
        start = self.beginning(row, context, index)
        if start is None:
            start = len(common_start(texts[0], texts[1]))
        asked = self.text(row, context[:index], True)
        plain = self.text(row, plainly(context, index, PROBES[0]), True)
        if asked is not None and plain is not None:
            start = min(start, len(common_start(plain, asked)))
        end = len(prompt) - len(common_end(texts[0], texts[1]))
        if end < start or prompt[:start] != texts[0][:start]:
            return None
        later = self.beginning(row, context, index + 1) if index + 1 < len(context) else None
        tail = prompt[end : len(prompt) if later is None else max(later, end)]
        body = prompt[start : end + self.mark(tail)]
        return Turn(start, start + len(body)) if says(context[index], body) else None

    def beginning(self, row: Row, context: Messages, index: int) -> int | None:
        """Where the content of a message begins in the prompt, in characters; None where the
        template refuses other contents.
        """
        texts = [self.text(row, plainly(context, index, one), True) for one in PROBES]
        if texts[0] is None or texts[1] is None or texts[0] == texts[1]:
            return None
        return len(common_start(texts[0], texts[1]))

    def text(self, row: Row, messages: Messages, asks: bool) -> str | None:
        """What the template writes for some messages; None where it refuses them."""
        try:
            return self.template.render(messages, asks, row.tools, row.thinking)
        except ValueError:
            return None

    def mark(self, closing: str) -> int:
        """Up to where the end of a turn reaches in what the template writes after an answer."""
        ends = [
            (index, index + len(token))
            for token in self.template.eos_tokens
            if token and (index := closing.find(token)) >= 0
        ]
        return min(ends, default=(0, 0))[1]


@lru_cache(maxsize=8)
def turn_finder(template: ChatTokenizer) -> TurnFinder:
    """The finder of a template, which remembers what it writes after answers."""
    return TurnFinder(renderer(template))


def probed(context: Messages, index: int) -> list[list[dict[str, Any]]]:
    """The messages with each of two other answers in the place of one."""
    message = context[index]
    others: list[dict[str, Any]]
    if message.get("tool_calls"):
        first = message["tool_calls"][0]
        others = [message | {"content": "", "tool_calls": [call(first, *one)]} for one in CALLS]
    else:
        others = [message | {"content": one} for one in PROBES]
    return [[*context[:index], other, *context[index + 1 :]] for other in others]


def plainly(context: Messages, index: int, content: str) -> list[dict[str, Any]]:
    """The messages with another content in the place of what one says, its calls left out."""
    message = {name: value for name, value in context[index].items() if name != "tool_calls"}
    return [*context[:index], message | {"content": content}, *context[index + 1 :]]


def says(message: dict[str, Any], body: str) -> bool:
    """Whether a text holds all that an answer says: its content, its calls and its reasoning."""
    texts = [message.get("content") or "", *(message.get(name) or "" for name in THOUGHTS)]
    texts += [str(tool_name(one)) for one in message.get("tool_calls") or ()]
    written = squeezed(body)
    return all(squeezed(text) in written for text in texts)


def encoded(
    row: Row, context: Messages, prompt: str, template: ChatTokenizer
) -> tuple[list[int], Spans]:
    """Token ids of a prompt, and where in them its earlier answers stand. Each answer is tokenised
    apart from what is before it, as when the model has written it.
    """
    turns = turn_finder(template).turns(row, context, prompt)
    ids: list[int] = []
    spans = []
    at = 0
    for turn in turns:
        ids += piece(prompt[at : turn.start], ids, template)
        start = len(ids)
        ids += template.encode_continuation(prompt[turn.start : turn.stop])
        spans.append((start, len(ids)))
        at = turn.stop
    return ids + piece(prompt[at:], ids, template), tuple(spans)


def piece(text: str, before: list[int], template: ChatTokenizer) -> list[int]:
    """Token ids of what stands between answers. After a special token, which no tokenizer looks
    across, they are those of the text by itself.
    """
    if not before or before[-1] in template.special_ids:
        return template.encode(text)
    return template.encode_continuation(text)


def has_earlier_answer(row: Row) -> bool:
    """Whether an answer stands before the last one."""
    return any(message["role"] == "assistant" for message in row.context)
