"""A chat template, compiled as transformers compiles it."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OWN_OF_DICT = frozenset(dir(dict))


def compile_template(source: str, folder: Path, today: str) -> Any:
    """A template in the environment that chat templates are written for: transformers' names,
    filters and white-space rules.

    The date is `today` here, too: a template may put the form of its date together, which
    `pin_date` does not see.
    """
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(
            value, ensure_ascii=ensure_ascii, **options
        )  # jinja2's own filter escapes HTML

    class Environment(ImmutableSandboxedEnvironment):
        def getattr(self, obj: Any, attribute: str) -> Any:
            # What the sandbox comes to as well, after a third of a rendering's time.
            if type(obj) is dict and attribute in obj and attribute not in OWN_OF_DICT:
                return obj[attribute]
            if type(obj) is jinja2.runtime.LoopContext and attribute in (
                "first",
                "last",
                "index",
                "index0",
                "length",
            ):
                return getattr(obj, attribute)
            return super().getattr(obj, attribute)

    environment = Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[make_generation_tag(), "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = datetime.datetime.fromisoformat(today).strftime
    try:
        template = environment.from_string(source)
        template.globals = dict(
            template.globals
        )  # it is a ChainMap, which every rendering walks through: a third of its time
        return template
    except jinja2.exceptions.TemplateError as error:
        raise ValueError(f"the chat template of {folder} does not compile: {error}") from error


def make_generation_tag() -> type:
    """A jinja2 extension that reads over `{% generation %}`, with which some templates mark the
    assistant's tokens.
    """
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 (so jinja2 declares it)

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(
                parser.parse_statements(("name:endgeneration",), drop_needle=True)
            ).set_lineno(line)

    return Generation


def find_cuts(tokenizer: Any) -> re.Pattern[str] | None:
    """Where text can be taken apart without changing its ids: at special tokens. None for
    tokenizers of which that cannot be told.

    It can be told of BPE over bytes behind a splitting rule (GPT-2, Llama 3, Qwen, SmolLM). Other
    tokenizers (SentencePiece, Gemma) may let a token run across words, or treat the first word
    apart.
    """
    splitter = repr(tokenizer.pre_tokenizer)
    splits = "ByteLevel" in splitter and ("Split(" in splitter or "use_regex=True" in splitter)
    if type(tokenizer.model).__name__ != "BPE" or not splits or "Metaspace" in splitter:
        return None
    added: Iterable[Any] = tokenizer.get_added_tokens_decoder().values()
    plain = [
        token.content
        for token in added
        if token.special and not (token.lstrip or token.rstrip or token.single_word)
    ]
    if not plain:
        return None
    return re.compile("(" + "|".join(map(re.escape, sorted(plain, key=len, reverse=True))) + ")")
