"""From a row to what the model is given and what it must write, as text: by position, never by
looking for the answer in the text.

Owns where the answer begins and ends in what a template writes, what of a row a template leaves
out, and how a prompt that is too long is cut. Rendering and tokenising themselves are
template.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property, lru_cache
from itertools import chain
from typing import Any

from jobs.data import truncation
from jobs.data.answer_text import without_tail
from jobs.data.chat_template import PROBES, ChatTokenizer, common_end
from jobs.data.messages import CLOSED_THOUGHT, THOUGHTS, tool_name
from jobs.data.readers import Row
from jobs.data.rendered import Around, Rendered, each_probed, holds_each, probed_in, shown, squeezed
from jobs.data.truncation import emptied, fixed, highest, is_free, least, middle_cut

NEEDED = (*THOUGHTS, "tool_calls", "function_call")
"""Fields of a message that say something to the model: a template that does not render them cannot
be trained on them.
"""
CALLS = (("Beta7q", {"one": "Beta7q"}), ("Zeta3w", {"two": 3}))
"""Calls that stand in for an answer's, as PROBES do for its text."""
PROBE_THOUGHT = "Kappa5r"
MOST_TRIES = 40


@lru_cache(maxsize=8)
def renderer(template: ChatTokenizer) -> Renderer:
    """The renderer of a template, which remembers what it has found out about it."""
    return Renderer(template)


class Renderer:
    """Renders rows with one template."""

    def __init__(self, template: ChatTokenizer) -> None:
        self.template = template
        self.surroundings: dict[Any, Around] = {}

    def render(self, row: Row) -> Rendered:
        """Raises ValueError, without the row's place, for a row of which the template leaves out or
        changes what matters.
        """
        row = row.as_shown
        prompt = self.prompt(row, row.context)
        full = self.template.render(row.messages, False, row.tools, row.thinking)
        last = row.messages[-1]
        kind = "tool_calls" in last, any(last.get(name) for name in THOUGHTS)
        shape = (
            tuple(message["role"] for message in row.messages),
            bool(row.tools),
            row.thinking,
            kind,
        )
        if shape not in self.surroundings:
            self.check_shown(row, prompt)
            self.surroundings[shape] = self.around(row, prompt)
        unused = self.unused(row, prompt, full)
        rendered = self.answer(row, prompt, full, self.surroundings[shape]) or self.answer(
            row, prompt, full, None
        )
        answer, reference, mark = rendered or self.refuse(row, full.startswith(prompt))
        return Rendered(prompt, answer, reference, self.mark if row.thinking else mark, unused)

    def prompt(self, row: Row, context: Sequence[dict[str, Any]]) -> str:
        """The text that the model is given for these messages of a row."""
        return self.template.render(context, True, row.tools, row.thinking)

    def around(self, row: Row, prompt: str) -> Around:
        """Found by rendering two other answers in the place of a row's own: what both have in
        common is the template's.
        """
        last = row.messages[-1]
        if "tool_calls" in last:
            first, second = (
                self.full(row, {"content": "", "tool_calls": [call(last["tool_calls"][0], *probe)]})
                for probe in CALLS
            )
        else:
            first, second = (self.full(row, {"content": probe}) for probe in PROBES)
        start = len(common_start(first, second))
        lead = first[len(prompt) : start] if first.startswith(prompt) else ""
        return Around(lead, common_end(first, second))

    def full(self, row: Row, instead: dict[str, Any]) -> str:
        """The whole conversation with another answer."""
        return self.template.render(
            (*row.context, row.messages[-1] | instead), False, row.tools, row.thinking
        )

    def answer(
        self, row: Row, prompt: str, full: str, around: Around | None
    ) -> tuple[str, str, str] | None:
        """The answer with its end, what a decoded one is compared with, and what may stand before
        that; None where the template has changed the answer.

        Without `around` it is found for this very row. A template that rewrites the prompt once an
        answer follows gets the answer as it stands, right after the prompt.
        """
        start = len(prompt)
        around = around or self.around(row, prompt)
        if not full.startswith(prompt):
            first, second = (self.full(row, {"content": probe}) for probe in PROBES)
            if first == second or any(row.messages[-1].get(name) for name in THOUGHTS):
                return None
            start = len(common_start(first, second))
            around = Around("", self.around(row, prompt).ending)
        remaining = full[start:]
        if not remaining.endswith(around.ending):
            return None
        body = remaining[: len(remaining) - len(around.ending)]
        expected = row.answer.strip()
        text = body + self.end(around.ending)
        if body.strip() == expected:
            return text, expected, ""
        if not self.says(row, body, around.lead):
            return None
        if "tool_calls" not in row.messages[-1] and body.strip().endswith(expected):
            return text, expected, self.decoded(around.lead)
        return text, without_tail(self.template, self.decoded(self.without_end(text))), ""

    def decoded(self, text: str) -> str:
        """A text as it comes back from the tokenizer, without special tokens and white space around
        it.
        """
        return self.template.decode(self.template.encode_continuation(text)).strip()

    def says(self, row: Row, body: str, lead: str) -> bool:
        """Whether `body`, which the template wrote for an answer, is that answer but for white
        space and what belongs around it.
        """
        last = row.messages[-1]
        expected = row.answer.strip()
        if "tool_calls" in last:
            return squeezed(expected) in squeezed(body) and all(
                str(tool_name(one)) in body for one in last["tool_calls"]
            )
        thoughts = [last[name].strip() for name in THOUGHTS if last.get(name)]
        if thoughts:
            return body.strip().endswith(expected) and any(thought in body for thought in thoughts)
        if body.startswith(lead) and body[len(lead) :].strip() == expected:
            return True
        return squeezed(body) in (squeezed(expected), squeezed(lead + expected))

    def end(self, ending: str) -> str:
        """What ends an answer: as much of the template's ending as holds a token that ends a turn,
        or such a token where it has none.
        """
        candidates = [
            (index, -len(token), token)
            for token in self.template.eos_tokens
            if token and (index := ending.find(token)) >= 0
        ]
        if not candidates:
            return self.template.end_of_turn
        index, _, token = min(candidates)
        return ending[: index + len(token)]

    def without_end(self, text: str) -> str:
        """An answer without the token that ends its turn."""
        return next(
            (
                text[: -len(token)]
                for token in self.template.eos_tokens
                if token and text.endswith(token)
            ),
            text,
        )

    def refuse(self, row: Row, goes_on: bool) -> tuple[str, str, str]:
        """Say that a template changes an answer, or has no place for its calls or its reasoning."""
        name = self.template.folder.name
        written = self.full(row, {})
        if not goes_on and row.messages[-1].keys() - {"role", "content"}:
            problem = (
                "writes the prompt otherwise once an answer with calls or reasoning follows, which "
                "has no place there"
            )
        else:
            problem = (
                f"does not write the answer {shown(row.answer)} as it stands: the conversation "
                f"ends with {shown(written[-60:])}"
            )
        raise ValueError(
            f"the chat template of {name} {problem}; write the answer as the template does, or "
            "take another model"
        )

    @cached_property
    def thought(self) -> str | None:
        """The field from which the template takes an answer's reasoning."""
        for name in THOUGHTS:
            messages = [
                {"role": "user", "content": PROBES[0]},
                {"role": "assistant", name: PROBE_THOUGHT, "content": PROBES[1]},
            ]
            try:
                if PROBE_THOUGHT in self.template.render(messages, False, (), True):
                    return name
            except ValueError:
                continue
        return None

    @cached_property
    def mark(self) -> str:
        """What a decoded answer has between its reasoning and what it answers."""
        if self.thought is None:
            return CLOSED_THOUGHT
        messages = [
            {"role": "user", "content": PROBES[0]},
            {"role": "assistant", self.thought: PROBE_THOUGHT, "content": PROBES[1]},
        ]
        text = self.template.render(messages, False, (), True)
        between = text.partition(PROBE_THOUGHT)[2].partition(PROBES[1])[0]
        return self.decoded(between)

    def check_shown(self, row: Row, prompt: str) -> None:
        """Raise ValueError when the prompt of a row's shape lacks what a message or the tools
        say.
        """
        name = self.template.folder.name
        for index in self.not_shown_together(row):
            message = row.context[index]
            probed = [
                one | {"content": PROBES[0]} if position == index else one
                for position, one in enumerate(row.context)
            ]
            try:
                is_shown = PROBES[0].lower() in self.prompt(row, probed).lower()
            except ValueError:
                is_shown = message["content"].strip() in prompt
            if not is_shown:
                remedy = (
                    "put it before the first message of the user"
                    if message["role"] == "system"
                    else "leave it out"
                )
                raise ValueError(
                    f"the chat template of {name} leaves out message {index + 1}, which is from "
                    f'"{message["role"]}"; {remedy}, '
                    "or take a model whose template renders it"
                )

    def not_shown_together(self, row: Row) -> list[int]:
        """The messages that are missing where each says something of its own, all of them where the
        template refuses that: one rendering tells of thousands, which one each takes minutes for.
        """
        spoken = {index for index, one in enumerate(row.context) if one["content"].strip()}
        try:
            text = self.prompt(row, each_probed(row.context, spoken))
        except ValueError:
            return sorted(spoken)
        return sorted(spoken - probed_in(text))

    def unused(self, row: Row, prompt: str, full: str) -> tuple[str, ...]:
        """What of a row the template does not use and that may be left out, in words. Raises
        ValueError for what may not.
        """
        name = self.template.folder.name
        unused_fields = []
        if row.tools:
            missing = [
                str(tool_name(tool)) for tool in row.tools if str(tool_name(tool)) not in prompt
            ]
            if missing or self.template.render(row.context, True, (), row.thinking) == prompt:
                raise ValueError(
                    f'the chat template of {name} does not render "tools"; take another model, or '
                    "leave them out"
                )
        for index, message in enumerate(row.messages):
            for field in message.keys() - {"role", "content"}:
                if self.uses(row, index, field, full):
                    continue
                if field in THOUGHTS and field == self.thought and index + 1 < len(row.messages):
                    unused_fields.append(
                        f'the template leaves the "{field}" of earlier answers out, as in use'
                    )
                elif field in NEEDED and message[field]:
                    better = (
                        f'; it takes it from "{self.thought}": rename it'
                        if field in THOUGHTS and self.thought
                        else ""
                    )
                    remedy = better or "; take another model, or leave it out"
                    raise ValueError(
                        f'the chat template of {name} does not render the "{field}" of message '
                        f"{index + 1}{remedy}"
                    )
                else:
                    unused_fields.append(f'the template does not use "{field}" of messages')
        if not holds_each(prompt, (message["content"].strip() for message in row.context)):
            unused_fields.append("the template changes what earlier messages say")
        return tuple(dict.fromkeys(unused_fields))

    def uses(self, row: Row, index: int, field: str, full: str) -> bool:
        """Whether a message's field changes the text, and each call in it is named there."""
        message = row.messages[index]
        if field == "tool_calls" and not all(str(tool_name(one)) in full for one in message[field]):
            return False
        bare = {key: value for key, value in message.items() if key != field}
        messages = [bare if position == index else one for position, one in enumerate(row.messages)]
        try:
            return self.template.render(messages, False, row.tools, row.thinking) != full
        except ValueError:
            return True

    def fits(self, row: Row, room: int, sizes: dict[str, int]) -> bool:
        """Whether `room` tokens hold what must stay of a row's prompt. `sizes` keeps lengths by
        text.
        """
        text = self.prompt(row, least(row))
        if text not in sizes:
            sizes[text] = len(self.template.encode(text))
        return sizes[text] <= room

    def shorten(self, row: Row, room: int) -> tuple[str, list[int], list[dict[str, Any]]]:
        """A prompt of at most `room` tokens, as text, ids and messages, without neighbours: marks,
        system messages, tools and instruction stay, of the rest the oldest exchanges go first, then
        the middle of the longest text of the one that is cut. It is longer than `room` where even
        what must stay is.
        """
        head, exchanges = truncation.head_and_exchanges(row)

        @cache
        def spare(index: int) -> int:
            """What has room beside the later exchanges once this one's free texts are empty."""
            emptied_ones = (emptied(message, row.instruction) for message in exchanges[index])
            later = chain.from_iterable(exchanges[index + 1 :])
            text = self.prompt(row, [*head, *emptied_ones, *later])
            return room - len(self.template.encode(text))

        first = truncation.first_with_room(len(exchanges), spare)
        if first is not None:
            later_messages = list(chain.from_iterable(exchanges[first + 1 :]))
            return self.cut(row, room, spare(first), head, exchanges[first], later_messages)
        text = self.prompt(row, least(row))
        return text, self.template.encode(text), least(row)

    def cut(
        self,
        row: Row,
        room: int,
        spare: int,
        head: list[dict[str, Any]],
        exchange: list[dict[str, Any]],
        later_messages: list[dict[str, Any]],
    ) -> tuple[str, list[int], list[dict[str, Any]]]:
        """The longest prompt of at most `room` tokens that can be had by cutting the free texts of
        one exchange to about `spare` tokens.
        """
        free = {
            index: message["content"][len(fixed(message, row.instruction)) :]
            for index, message in enumerate(exchange)
            if is_free(message)
        }
        spans = {index: self.template.spans(text) for index, text in free.items()}
        for _ in range(MOST_TRIES):
            level = highest([len(message_spans) for message_spans in spans.values()], spare)
            texts = {index: middle_cut(free[index], spans[index], level) for index in free}
            messages = [
                message | {"content": fixed(message, row.instruction) + texts[index]}
                if index in texts
                else message
                for index, message in enumerate(exchange)
            ]
            messages = [*head, *messages, *later_messages]
            text = self.prompt(row, messages)
            ids = self.template.encode(text)
            if len(ids) <= room or spare <= 0:
                break
            spare = max(0, spare - (len(ids) - room))
        else:
            messages = [*head, *(emptied(m, row.instruction) for m in exchange), *later_messages]
            text = self.prompt(row, messages)
            ids = self.template.encode(text)
        return text, ids, messages


def call(like: dict[str, Any], name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Another call in the form of `like`."""
    if "function" in like:
        return like | {"function": {"name": name, "arguments": arguments}}
    return like | {"name": name, "arguments": arguments}


def common_start(left: str, right: str) -> str:
    """What two texts begin with alike."""
    most = min(len(left), len(right))
    return left[: next((index for index in range(most) if left[index] != right[index]), most)]
