"""What a teacher meant by its reply: without reasoning, fences, quotes and the words that chat
models put around what they were asked for.
"""

from __future__ import annotations

import json
import re

from jobs.evaluation.json_answers import parse

THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL | re.IGNORECASE)
FENCE = re.compile(r"\A```[\w-]*\n(.*?)\n?```\Z", re.DOTALL)
QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb"}
LABEL = re.compile(
    r"\A\**(?:new |rewritten |rephrased |translated )?"
    r"(?:prompt|question|request|paraphrase|translation|text|output|version|q)\**\s*:\**\s*",
    re.IGNORECASE,
)
OPENING = re.compile(
    r"\A(?:sure|certainly|of course|okay|here(?:'s| is| are))\b[^\n]*:\s*\n+", re.IGNORECASE
)
CHATTER = re.compile(
    r"\A(?:sure[,!.]|certainly[,!.]|of course[,!.]|here(?:'s| is) (?:a|an|the|one|your)\b.*:"
    r"|as an ai\b|i(?:'m| am) (?:sorry|unable|an ai)\b|i (?:cannot|can't|can not) )",
    re.IGNORECASE,
)
MARKS = re.compile(r"<\|[^|<>]*\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>|\ufffd")
"""What templates write around messages, and what could not be decoded."""
QUESTION_FIELD = ("question", "prompt", "request", "input")
ANSWER_FIELD = ("answer", "completion", "response", "output")
PAIR = re.compile(
    r"\**(?:prompt|question|request|q)\**\s*:\**\s*(?P<question>.+?)\s*\n\s*"
    r"\**(?:answer|completion|a)\**\s*:\**\s*(?P<answer>.+)",
    re.IGNORECASE | re.DOTALL,
)


def cleaned(reply: str) -> str:
    """The text that was asked for."""
    text = THOUGHT.sub("", reply).strip()
    fenced = FENCE.match(text)
    text = fenced[1].strip() if fenced else text
    text = OPENING.sub("", text).strip()
    text = LABEL.sub("", text).strip()
    return unquoted(text)


def unquoted(text: str) -> str:
    """A text without quotes around all of it."""
    if len(text) > 1 and QUOTES.get(text[0]) == text[-1] and text[-1] not in text[1:-1]:
        return text[1:-1].strip()
    return text


def chatter_in(text: str) -> str | None:
    """What shows that a text is no row but talk about one, None where nothing does."""
    if CHATTER.match(text):
        return "talk instead of a row"
    return "marks of a chat template" if MARKS.search(text) else None


def pair_in(reply: str, compact: bool) -> tuple[str, str] | None:
    """Question and answer of a reply: an object in JSON, or two labelled texts. An answer that is
    itself JSON is written without blanks where `compact`.
    """
    text = cleaned_pair(reply)
    start, end = text.find("{"), text.rfind("}")
    if text.startswith("{") and start < end:
        value = parse(text[start : end + 1])
        fields = value[0] if value is not None else None
        if isinstance(fields, dict):
            question = first_of(fields, QUESTION_FIELD)
            answer = first_of(fields, ANSWER_FIELD)
            if isinstance(question, str) and answer is not None:
                return question.strip(), as_answer(answer, compact)
    match = PAIR.search(text)
    if match is None:
        return None
    return unquoted(match["question"].strip()), unquoted(match["answer"].strip())


def cleaned_pair(reply: str) -> str:
    """A reply without reasoning, fence and opening, its labels left."""
    text = THOUGHT.sub("", reply).strip()
    fenced = FENCE.match(text)
    text = fenced[1].strip() if fenced else text
    return OPENING.sub("", text).strip()


def first_of(fields: dict[str, object], names: tuple[str, ...]) -> object:
    """The first of some fields that is there."""
    lowered = {name.lower(): value for name, value in fields.items()}
    return next((lowered[name] for name in names if name in lowered), None)


def as_answer(value: object, compact: bool) -> str:
    """An answer as text; what is no text is JSON."""
    if isinstance(value, str):
        return value.strip()
    separators = (",", ":") if compact else None
    return json.dumps(value, ensure_ascii=False, separators=separators)
