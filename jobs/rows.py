"""Rows: what a line of a data file means, and what is wrong with it when it means nothing.

Owns reading .jsonl, .csv and .parquet files into `Row`. Which rows train and which are held out is decided in data.py.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.chat import CLOSED_THOUGHT, Malformed, check_text, describe, quote, read_message, read_tools, thinks, without_nulls

EXTENSIONS = (".jsonl", ".csv", ".parquet")
COLUMNS = '"prompt" and "completion", or "messages"'


@dataclass(frozen=True)
class Row:
    """One exchange: messages with `role` and `content`, of which the last is the assistant's and is the answer."""

    messages: tuple[dict[str, Any], ...]
    key: str
    """The prompt in the form in which two prompts are compared: case folded, white space collapsed, without the instruction."""
    place: str
    """File and line, or for parquet file and row, counted from 1; for messages."""
    tools: tuple[dict[str, Any], ...] = ()
    """The functions that the conversation may call, which templates render."""
    instruction: str = ""
    """What the first message begins with before the prompt itself, line break included; it is kept where a prompt is cut."""
    thinking: bool = False
    """Whether the model may reason before it answers: so it is for all rows when one of them shows its reasoning."""

    @property
    def context(self) -> tuple[dict[str, Any], ...]:
        """Everything before the answer."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """What the model should say, without the template's marks around it."""
        return self.messages[-1]["content"]


def read_rows(path: str | Path, instruction: str = "") -> list[Row]:
    """All rows of a .jsonl, .csv or .parquet file, in order.

    A row is either `prompt` and `completion`, which become a user message (after `instruction` and a line break, when there is one) and an
    assistant message, or `messages` in the chat format; a file holds one of the two. Raises ValueError with the file, the line and the
    remedy at the first thing that is wrong.
    """
    path = Path(path).expanduser()
    try:
        check_file(path)
    except OSError as error:  # a folder on the way that may not be entered, a name that is too long
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    unit = "row" if path.suffix.lower() == ".parquet" else "line"
    rows: list[Row] = []
    first: tuple[int, str] | None = None
    for number, record in read_records(path):
        try:
            shape = find_shape(record)
            first = first or (number, shape)
            if shape != first[1]:
                raise Malformed(f"a mix of formats: {unit} {first[0]} holds {first[1]}, this one {shape}; put them into two files")
            place = f"{path}, {unit} {number}"
            rows.append(read_messages(record, place) if shape == '"messages"' else read_pair(record, place, instruction))
        except Malformed as error:
            raise ValueError(f"{path}, {unit} {number}: {error}") from None
    if not rows:
        raise ValueError(f"{path} is empty, it has no rows; a row needs {COLUMNS}")
    return rows


def check_file(path: Path) -> None:
    """Raise ValueError unless `path` is a file that can be read, naming the most similar file there is."""
    if path.suffix.lower() not in EXTENSIONS:
        raise ValueError(f"{path}: cannot read {path.suffix or 'a file without extension'}; use one of {', '.join(EXTENSIONS)}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a file")
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{path} is a link to {path.readlink()}, where there is no file; mend the link or name the file itself")
    if not path.exists():
        raise ValueError(f"{path} does not exist; {describe_neighbours(path)}")


def describe_neighbours(path: Path) -> str:
    """Half a sentence with what stands where `path` was looked for."""
    if not path.parent.is_dir():
        return f"neither does its folder (looked in {Path.cwd()})" if not path.is_absolute() else "neither does its folder"
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix.lower() in EXTENSIONS)
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.4)
    if close:
        return f"did you mean {path.parent / close[0]}?"
    return f"{path.parent} holds {', '.join(names[:8])}" if names else f"{path.parent} holds no {', '.join(EXTENSIONS)} file"


def read_records(path: Path) -> Iterator[tuple[int, Any]]:
    """(number, what stands there) for each record of a file, blank lines left out."""
    return {".jsonl": read_jsonl, ".csv": read_csv, ".parquet": read_parquet}[path.suffix.lower()](path)


def read_text(path: Path) -> str:
    """The file as text, without a byte order mark."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        guess = " (it looks like UTF-16)" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise ValueError(f"{path}, line {line}: not UTF-8{guess}; save the file as UTF-8") from None


def read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    # Not splitlines(): JSON strings may hold U+2028 and other characters that Python counts as line ends.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            if isinstance(error, json.JSONDecodeError):
                reason = f"{error.msg} (character {error.pos + 1})"
            else:
                reason = "nested too deeply" if isinstance(error, RecursionError) else "a number with too many digits"
            whole = "the file is one JSON array, " if number == 1 and line.lstrip().startswith("[") else ""
            raise ValueError(f"{path}, line {number}: broken JSON: {reason}; {whole}write one object per line") from None


def read_csv(path: Path) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(2**31 - 1)  # the module's own limit, 131,072 characters, is for nobody's sake
    text = read_text(path)
    blank = len(text) - len(text.lstrip("\r\n"))
    skipped = len(text[:blank].splitlines())
    reader = csv.DictReader(io.StringIO(text[blank:], newline=""), strict=True)
    line = skipped + 1
    try:
        check_columns(path, reader.fieldnames or [])
        for record in reader:
            line = skipped + reader.line_num
            if None in record:
                raise ValueError(f"{path}, line {line}: more fields than columns; put texts that hold a comma in double quotes")
            if record["prompt"] is None or record["completion"] is None:
                lacks = "has no answer" if record["completion"] is None else "has no prompt"
                raise ValueError(f"{path}, line {line}: {lacks}: fewer fields than columns; add it after a comma")
            yield line, {name: record[name] for name in ("prompt", "completion")}
    except csv.Error as error:
        raise ValueError(f"{path}, after line {line}: broken CSV: {error}; check the quotes, or use .jsonl") from None


def check_columns(path: Path, names: Sequence[str]) -> None:
    """Raise ValueError when the first line of a .csv file, if it has one, names other columns than those that are read."""
    check_twice(path, names)
    if names and not {"prompt", "completion"} <= set(names):
        remedy = "separate them with commas" if len(names) == 1 else "rename them in the first line"
        remedy = "conversations go into a .jsonl or .parquet file" if "messages" in names else remedy
        raise ValueError(f'{path} needs the columns "prompt" and "completion", found {quote(names)}; {remedy}')


def check_twice(path: Path, names: Iterable[str]) -> None:
    """Raise ValueError when a column that is read stands in a table twice: neither can be preferred."""
    names = list(names)
    twice = [name for name in ("prompt", "completion", "messages", "tools") if names.count(name) > 1]
    if twice:
        raise ValueError(f"{path} has {quote(twice)} as the name of {names.count(twice[0])} columns; rename or remove the others")


def read_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow  # 0.3 s, and needed for this format only
    import pyarrow.parquet

    try:
        check_twice(path, pyarrow.parquet.read_schema(path).names)
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as parquet: {str(error).splitlines()[0]}") from None
    wanted = [name for name in ("prompt", "completion", "messages", "tools") if name in table.column_names]
    if "messages" not in wanted and not {"prompt", "completion"} <= set(wanted):
        raise ValueError(f"{path} needs the columns {COLUMNS}; found {quote(table.column_names)}")
    try:
        rows = table.select(wanted).to_pylist(maps_as_pydicts="strict")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} holds a text that is not UTF-8 ({error.object[:20]!r}); write it as UTF-8") from None
    nested = [name for name in ("messages", "tools") if name in wanted]
    for number, row in enumerate(rows, start=1):
        yield number, row | {name: without_nulls(row[name]) for name in nested}


def find_shape(record: Any) -> str:
    """Which of the two formats a record has, as the names of its columns."""
    if not isinstance(record, dict):
        remedy = "; write one object per line" if isinstance(record, list) else ""
        raise Malformed(f"a row must be an object with {COLUMNS}, got {describe(record)}{remedy}")
    if "messages" in record:
        return '"messages"'
    if "prompt" not in record:
        raise Malformed(f"needs {COLUMNS}; found {quote(record)}")
    if "completion" not in record:
        raise Malformed(f'has no answer: "completion" is missing; found {quote(record)}')
    return '"prompt" and "completion"'


def read_pair(record: dict[str, Any], place: str, instruction: str) -> Row:
    """A row with `prompt` and `completion`."""
    prompt = check_text(record["prompt"], '"prompt"')
    answer = check_answer(record["completion"], '"completion"')
    if not prompt.strip():
        raise Malformed('"prompt" is empty')
    return Row(
        messages=(*prompt_messages(prompt, instruction), {"role": "assistant", "content": answer}),
        key=normalise(prompt),
        place=place,
        tools=read_tools(record.get("tools")),
        instruction=opening(instruction),
        thinking=CLOSED_THOUGHT in answer,
    )


def prompt_messages(prompt: str, instruction: str) -> tuple[dict[str, Any], ...]:
    """A bare prompt as the conversation that the model is given."""
    return ({"role": "user", "content": opening(instruction) + prompt},)


def opening(instruction: str) -> str:
    """What stands before a prompt."""
    return f"{instruction}\n" if instruction else ""


def read_messages(record: dict[str, Any], place: str) -> Row:
    """A row with `messages`."""
    messages = record["messages"]
    if not isinstance(messages, list):
        raise Malformed(f'"messages" must be a list, got {describe(messages)}')
    if not messages:
        raise Malformed('"messages" is empty; it needs a user message and the assistant\'s answer')
    checked = tuple(read_message(message, number) for number, message in enumerate(messages, start=1))
    if checked[-1]["role"] != "assistant":
        raise Malformed(f'has no answer: the last message is from "{checked[-1]["role"]}", it must be from "assistant"')
    if "tool_calls" not in checked[-1]:
        check_answer(checked[-1]["content"], "the last message")
    if len(checked) == 1:
        raise Malformed("has no prompt: a message from the user must come before the answer")
    # A system message is the same in many rows, as an instruction is: two prompts are equal when the rest is.
    asked = [message["content"] for message in checked[:-1] if message["role"] != "system"]
    if not any(text.strip() for text in asked):
        raise Malformed("has no prompt: all that comes before the answer is empty or from the system; add a message from the user")
    return Row(
        messages=checked,
        key=normalise("\n".join(asked)),
        place=place,
        tools=read_tools(record.get("tools")),
        thinking=thinks(checked[-1]),
    )


def check_answer(value: Any, name: str) -> str:
    """`value` if it is text with something in it."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise Malformed(f"has no answer: {name} is {'null' if value is None else 'empty'}")
    return check_text(value, name)


def normalise(text: str) -> str:
    """Case folded, with each run of white space as one space. Punctuation stays: "2 + 2" and "2 - 2" are two prompts.

    Characters that only look or weigh differently are one (Unicode's NFKC), and those that nobody sees are none.
    """
    if not text.isascii():
        text = "".join(letter for letter in unicodedata.normalize("NFKC", text) if unicodedata.category(letter) != "Cf")
    return " ".join(text.casefold().split())
