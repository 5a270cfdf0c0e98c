"""Exported files that answer: what the task puts around a question is added here, so that what is
served is what was scored.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.data.answer_text import answer_text
from jobs.data.chat_template import ChatTokenizer
from jobs.data.task_prompt import AskedPrompt, encode_asked_row
from jobs.data.version_rows import rows_of_version
from jobs.llama_cpp.runtime import Runtime
from jobs.serving.chat_request import row_of

REPORT = "export.json"
MOST_TOKENS = 512
CONTEXT = 4096
"""Of a GGUF file from elsewhere, which brings no task: longest answer, longest conversation."""


@dataclass(frozen=True)
class Question:
    """A conversation, ready to be answered."""

    prompt: AskedPrompt
    most: int
    options: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What came of it."""

    text: str
    prompt_tokens: int
    tokens: int
    finish: str
    """stop: it ended by itself, or by a text that was to stop it. length: it was cut."""
    first_seconds: float
    tokens_per_second: float

    def __str__(self) -> str:
        return (
            f"{self.tokens} tokens, the first after {self.first_seconds:.2f} s, then "
            f"{self.tokens_per_second:.1f} per second"
        )


class ShippedModel:
    """One model of an endpoint: an export's folder, or a GGUF file from elsewhere."""

    def __init__(self, name: str, place: Path) -> None:
        """Read what the folder says. Raises ValueError for one that is no export."""
        self.name = name
        self.adapter: int | None = None
        self.task: dict[str, Any] | None = None
        if place.suffix == ".gguf" and not (place.parent / REPORT).exists():
            self.file, self.base_file = place, None
            self.context = CONTEXT
            return
        folder = place.parent if place.suffix == ".gguf" else place
        try:
            report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
            task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
            self.file = folder / report["file"]
            self.base_file = Path(report["base_file"]) if "base_file" in report else None
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{folder} is no export that can be served: {error}") from error
        if self.file.suffix != ".gguf":
            raise ValueError(
                f"{folder} holds {report['format']}, and GGUF files are served; export it as "
                "export.format=gguf-q8_0"
            )
        missing = [file for file in (self.file, self.base_file) if file and not file.exists()]
        if missing:
            raise ValueError(f"{missing[0]} is not there; export the version again")
        self.task = task
        self.template = ChatTokenizer(folder / "tokenizer", task["today"])
        self.rows = rows_of_version(folder, task)
        self.context = task["max_length"] + task["max_new_tokens"]

    def question(self, runtime: Runtime, request: dict[str, Any]) -> Question:
        """A request of the chat interface, as the model is asked. Raises ValueError for one that
        cannot be answered.
        """
        asked = {name: request.get(name) for name in ("messages", "tools")}
        wanted = request.get("max_tokens") or request.get("max_completion_tokens")
        options = {
            name: request[name]
            for name in ("temperature", "top_p", "seed", "stop")
            if request.get(name) is not None
        }
        if self.task is None:
            row_of(asked, {"instruction": ""}, "messages")  # refuses what is no conversation
            ids = runtime.tokenize(runtime.render(request["messages"]))
            return Question(
                AskedPrompt(ids, len(ids), self.context),
                min(wanted or MOST_TOKENS, MOST_TOKENS),
                options,
            )
        row = row_of(asked, self.task, "messages")
        shown = row if self.rows is None else self.rows.shown(row)
        prompt = encode_asked_row(shown, self.task, self.template)
        most = self.task["max_new_tokens"]
        return Question(prompt, min(wanted or most, most), options)

    def answer(self, runtime: Runtime, question: Question) -> Answer:
        """The whole answer."""
        began = time.monotonic()
        ids = question.prompt.ids
        told = runtime.complete(ids, question.most, self.adapter, **question.options)
        seconds = time.monotonic() - began
        text = told.text
        if self.task is not None and "stop" not in question.options:
            ends = set(self.template.eos_ids)
            text = answer_text(self.template, [token for token in told.ids if token not in ends])
        first = min(told.timings["prompt_ms"] / 1000, seconds)
        return Answer(
            text,
            len(ids),
            int(told.timings["predicted_n"]),
            told.finish,
            first,
            rate(int(told.timings["predicted_n"]), seconds - first),
        )

    def pieces(self, runtime: Runtime, question: Question) -> Iterator[str | Answer]:
        """The answer piece by piece, and at the end what came of it."""
        began = time.monotonic()
        first, texts = 0.0, []
        ids = question.prompt.ids
        events = runtime.stream(ids, question.most, self.adapter, **question.options)
        for event in events:
            first = first or time.monotonic() - began
            piece = event.get("content") or ""
            if piece:
                texts.append(piece)
                yield piece
            if event.get("stop"):
                tokens = int(event["tokens_predicted"])
                seconds = time.monotonic() - began - first
                finish = "length" if event.get("stop_type") == "limit" else "stop"
                yield Answer(
                    "".join(texts),
                    len(ids),
                    tokens,
                    finish,
                    first,
                    rate(tokens - 1, seconds),
                )


def rate(tokens: int, seconds: float) -> float:
    """Tokens per second."""
    return max(tokens, 0) / max(seconds, 1e-3)


def one_runtime(models: Sequence[ShippedModel], slots: int, threads: int | None) -> Runtime:
    """The process that all of them are answered by. Raises ValueError where they do not share a
    base.
    """
    adapters = [model for model in models if model.base_file is not None]
    whole = [model for model in models if model.base_file is None]
    bases = list(dict.fromkeys(model.base_file for model in adapters))
    if len(whole) > 1 or (whole and adapters) or len(bases) > 1:
        names = ", ".join(model.name for model in models)
        raise ValueError(
            f"{names} do not share a base: several models are served as adapters of one base "
            "(export.format=gguf-adapter)"
        )
    for index, model in enumerate(adapters):
        model.adapter = index
    file = bases[0] if adapters else whole[0].file
    assert file is not None
    context = max(model.context for model in models)
    return Runtime(file, [model.file for model in adapters], context, slots, threads)
