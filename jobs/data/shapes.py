"""Shapes: which columns of a file hold the prompt and the answer, recognised from their names.

What other projects call them stands in column_names.py. A shape turns a record into `prompt` and
`completion`, or into `messages`; what those may hold is checked in readers.py, how conversations
of others are written is conversation_forms.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from jobs.data.column_names import CHAT, LABEL_TEXTS, LABELS, PAIR, PROMPTS, candidates
from jobs.data.conversation_forms import (
    CONVERSATIONS,
    as_turns,
    looks_like_messages,
    names_of_turns,
    turns_of_pair,
)
from jobs.data.messages import Malformed, as_text, describe, parsed, quote
from jobs.data.shape_remedies import reason
from jobs.files.json_types import Json, JsonObject

SHAREGPT = "ShareGPT"


@dataclass(frozen=True)
class Shape:
    """How the rows of a file are read."""

    name: str
    """What messages call it; the rows of one file have one name."""
    told: str
    """What the plan says was recognised, columns included."""
    columns: tuple[str, ...]
    """Columns that are read."""
    make: Callable[[JsonObject], JsonObject]
    """A record as `prompt` and `completion`, or as `messages`."""
    answer: str = ""
    """The column whose whole numbers may have names; none where there is no such column."""
    labels: bool = False
    """Whether a whole number in that column is a label."""
    prompts: tuple[str, ...] = ()
    """The columns of the prompt, where it is made of texts."""
    open_end: bool = False
    """Whether its conversations may go on after the last answer."""


Signature = frozenset[tuple[str, str]]


def recognise(record: JsonObject, all_names: Collection[str] = ()) -> Shape:
    """The shape of a record. Raises Malformed for one that has none, or that may have two.

    `all_names` are the columns of its file, for messages, where not all of them were read.
    """
    signature = frozenset(
        (name, kind_of(value)) for name, value in record.items() if value is not None
    )
    shape = shape_of(signature)
    if shape is not None:
        if shape.name == CHAT:
            check_alone(record)
        return shape
    raise Malformed(reason(record, all_names or record))


def kind_of(value: Json) -> str:
    """What recognising a column needs to know of a value."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        return names_of_turns(value)
    return "object" if isinstance(value, dict) else "number"


@lru_cache(maxsize=256)
def shape_of(signature: Signature) -> Shape | None:
    """The shape of records with these columns, or None; see `Shapes`."""
    kinds = dict(signature)
    named = {name.strip().lower(): name for name in sorted(kinds, reverse=True)}
    for find in (preference, conversation, pair, alpaca, two_columns):
        if (shape := find(named, kinds)) is not None:
            return shape
    return None


def preference(named: Mapping[str, str], kinds: Mapping[str, str]) -> Shape | None:
    """Two answers of which one is preferred: that one is trained on."""
    if not {"chosen", "rejected"} <= named.keys():
        return None
    chosen, system = named["chosen"], system_of(named, kinds)
    is_list = looks_like_messages(kinds[chosen])
    asked = [named[name] for name in PROMPTS if name in named]
    if "instruction" in named and {*asked} <= {named["instruction"], named.get("input")}:
        asked = filled(named["instruction"], named.get("input"))  # as Alpaca has them
    elif "conversations" in named and not is_list:
        asked = [named["conversations"]]
    elif len(asked) > 1 or (not asked and not is_list):
        return None

    def make(record: JsonObject) -> JsonObject:
        prompts = [one for name in asked if (one := record.get(name)) not in (None, "")]
        side = record.get(chosen)
        if isinstance(side, dict):  # one message, as beside ShareGPT's conversations
            side = [side]
        if isinstance(side, list):
            turns = as_turns(side, chosen)
            is_whole = bool(turns) and turns[0].get("role") in ("user", "system")
            if not prompts or is_whole:
                return {"messages": turns}
            return {"messages": turns_of_pair(prompts[0], turns, asked[0])}
        prompt = "\n\n".join(as_text(one, name) for one, name in zip(prompts, asked, strict=False))
        return with_context(record, [system], prompt, side)

    told = f"a preference file, the chosen side: {' + '.join(asked)} -> {chosen}"
    if not asked:
        told = f"a preference file, the chosen side: {chosen}"
    return Shape("a preference file", told, filled(*asked, chosen, system), make, chosen)


def conversation(named: Mapping[str, str], kinds: Mapping[str, str]) -> Shape | None:
    """A column with a whole conversation."""
    columns = [
        named[name]
        for name in CONVERSATIONS
        if name in named and looks_like_messages(kinds[named[name]])
    ]
    if "messages" in named and not columns:
        columns = [named["messages"]]  # whatever it holds, the reader says what is wrong with it
    if len(columns) != 1:
        return None
    (column,) = columns
    system, tools = system_of(named, kinds), named.get("tools")
    if column == "messages" and kinds[column] != "from":
        return chat_shape(column, CHAT, system, tools)
    if kinds[column] == "from":
        return chat_shape(column, f'{SHAREGPT} ("{column}")', system, tools)
    return chat_shape(column, f'"{column}"', system, tools)


def chat_shape(column: str, name: str, system: str | None, tools: str | None) -> Shape:
    """The shape of a column with a conversation, in any of the forms that are known."""

    def make(record: JsonObject) -> JsonObject:
        if column not in record or record[column] is None:
            return {"messages": None}
        turns = parsed(record[column], f'"{column}"')
        if not isinstance(turns, list):
            raise Malformed(f'"{column}" must be a list, got {describe(record[column])}')
        first = record.get(system) if system is not None else None
        messages = as_turns(turns, column)
        if isinstance(first, str) and first.strip():
            messages = [{"role": "system", "content": first}, *messages]
        return {"messages": messages, **tools_of(record, tools)}

    beside = "".join(f" + {one}" for one in (system, tools) if one is not None)
    is_foreign = name.startswith(SHAREGPT)
    told = f"{SHAREGPT if is_foreign else 'conversations'}: {column}{beside}"
    return Shape(name, told, filled(column, system, tools), make, open_end=is_foreign)


def pair(named: Mapping[str, str], kinds: Mapping[str, str]) -> Shape | None:
    """`prompt` and `completion`, as texts or as two lists of messages."""
    if not {"prompt", "completion"} <= kinds.keys():
        return None
    tools, system = named.get("tools"), system_of(named, kinds)
    if looks_like_messages(kinds["prompt"]) and looks_like_messages(kinds["completion"]):

        def join(record: JsonObject) -> JsonObject:
            answer = as_turns(record["completion"], "completion")
            messages = turns_of_pair(record["prompt"], answer, "prompt")
            return {"messages": messages, **tools_of(record, tools)}

        told = "prompt and completion as messages: prompt -> completion"
        return Shape(
            "prompt and completion as messages", told, filled("prompt", "completion", tools), join
        )
    return pair_shape(tools, system)


@lru_cache(maxsize=64)
def pair_shape(tools: str | None = None, system: str | None = None) -> Shape:
    """The project's own shape."""

    def make(record: JsonObject) -> JsonObject:
        made = record
        if system is not None and record.get(system):
            made = with_context(record, [system], record["prompt"], record["completion"])
        return {**made, **tools_of(record, tools)} if tools is not None else made

    columns = filled("prompt", "completion", tools, system)
    return Shape(PAIR, "prompt -> completion", columns, make, "completion", prompts=("prompt",))


def alpaca(named: Mapping[str, str], kinds: Mapping[str, str]) -> Shape | None:
    """A task, what it is to be done to where there is something, and the answer."""
    answers = [named[name] for name in ("output", "response") if name in named]
    others = [name for name in ("prompt", "question", "query") if name in named]
    if "instruction" not in named or len(answers) != 1 or others:
        return None
    task, answer = named["instruction"], answers[0]
    inputs = [named[name] for name in ("input", "context") if name in named]
    if len(inputs) > 1:
        return None
    system, history, tools = system_of(named, kinds), named.get("history"), named.get("tools")

    def make(record: JsonObject) -> JsonObject:
        texts = [record[task], *(record.get(name) for name in inputs)]
        prompt = "\n\n".join(as_text(text, task) for text in texts if text not in (None, ""))
        made = with_context(record, [system, history], prompt, record[answer])
        return {**made, **tools_of(record, tools)}

    told = f"Alpaca: {' + '.join([task, *inputs])} -> {answer}"
    columns = filled(task, *inputs, answer, system, history, tools)
    return Shape("Alpaca", told, columns, make, answer, prompts=(task, *inputs))


def two_columns(named: Mapping[str, str], kinds: Mapping[str, str]) -> Shape | None:
    """One column that can be the prompt, and one that can be the answer."""
    asked, answered = candidates(named)
    if len(asked) != 1 or len(answered) != 1:
        return None
    (prompt,), (answer,) = asked, answered
    if {kinds[prompt], kinds[answer]} & {"list", "object", "role", "from"}:
        return None
    context = context_of(prompt, named, kinds)
    system, tools = system_of(named, kinds), named.get("tools")
    labels = answer.strip().lower() in (*LABELS, *LABEL_TEXTS)

    def make(record: JsonObject) -> JsonObject:
        texts = [record.get(context) if context is not None else None, record[prompt]]
        joined = "\n\n".join(as_text(text, prompt) for text in texts if text not in (None, ""))
        made = with_context(record, [system], joined, record[answer])
        return {**made, **tools_of(record, tools)}

    kind = "text and label" if labels else "question and answer"
    prompts = filled(context, prompt)
    asked_by = " + ".join(prompts)
    columns = filled(context, prompt, answer, system, tools)
    name = f'"{prompt}" and "{answer}"'
    told = f"{kind}: {asked_by} -> {answer}"
    return Shape(name, told, columns, make, answer, labels, prompts)


def context_of(prompt: str, named: Mapping[str, str], kinds: Mapping[str, str]) -> str | None:
    """The column with what a prompt is about, which stands above it."""
    context, name = named.get("context"), prompt.strip().lower()
    if context is None or name in ("question", "query"):
        return context
    return context if name in ("input", "text") and kinds[context] == "text" else None


def system_of(named: Mapping[str, str], kinds: Mapping[str, str]) -> str | None:
    """The column with what the system says."""
    other = named.get("system_prompt")
    return named.get("system") or (other if other and kinds[other] == "text" else None)


def with_context(
    record: JsonObject, beside: Sequence[str | None], prompt: Json, answer: Json
) -> JsonObject:
    """A prompt and its answer, after what the system says and what was said before, where the
    record has that; `beside` are the columns of both.
    """
    system, history = (*beside, None)[:2]
    said = record.get(system) if system is not None else None
    turns = (record.get(history) if history is not None else None) or []
    if not said and not turns:
        return {"prompt": prompt, "completion": answer}
    messages: list[JsonObject] = [{"role": "system", "content": said}] if said else []
    if not isinstance(turns, list) or any(
        not isinstance(turn, list | tuple) or len(turn) != 2 for turn in turns
    ):
        raise Malformed(f'"{history}" must be a list of questions with their answers')
    for question, reply in turns:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": reply})
    messages.append({"role": "user", "content": prompt})
    messages.append({"role": "assistant", "content": answer})
    return {"messages": messages}


def tools_of(record: JsonObject, column: str | None) -> JsonObject:
    """The functions that a record's conversation may call."""
    return {"tools": record[column]} if column is not None and record.get(column) else {}


def filled(*columns: str | None) -> tuple[str, ...]:
    """The columns that there are."""
    return tuple(column for column in columns if column is not None)


def check_alone(record: JsonObject) -> None:
    """Raise Malformed for a conversation beside a prompt or an answer that says something else."""
    others = [name for name in ("prompt", "completion") if record.get(name) is not None]
    if others == ["prompt"] and record["prompt"] == first_question(record["messages"]):
        return
    if others:
        raise Malformed(
            f'has "messages" and {quote(others)}; leave one out, or set it to null, or say which: '
            "data.columns.messages=messages"
        )


def first_question(messages: Json) -> Json:
    """What the user says first in a conversation."""
    for message in messages if isinstance(messages, list) else []:
        if isinstance(message, dict) and message.get("role") == "user":
            return message.get("content")
    return None
