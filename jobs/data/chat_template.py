"""The template: messages become the text, and text the token ids, that a model was made for.

Owns rendering and tokenising, without transformers, which takes seconds to import: the plan counts
tokens with this file. It gives the same text and ids as `AutoTokenizer.apply_chat_template`
(tests/jobs/data/test_corpus.py compares them). Which part of the ids is trained on is decided in
data.py.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from jobs.data.messages import Message
from jobs.data.template_compiler import compile_template, find_cuts
from jobs.data.tokenizer_files import (
    find_num_tokens,
    find_number,
    find_special_tokens,
    find_template,
    read_json,
)
from jobs.files.json_types import JsonObject
from jobs.foreign_code import FOREIGN_CODE_ERRORS

PLAIN = (
    "{% for message in messages %}{{ message['content'] }}{% if not loop.last or "
    "add_generation_prompt %}{{ '\\n' }}{% endif %}{% endfor %}"
)
PROBES = ("Beta7q", "Zeta3w")
"""Contents that stand in for a message to see where a template puts it. They begin and end
differently: what two renderings have in common before and after them is the template's own.
"""
TODAY = "2024-07-26"
"""The date that a chat template is told. Some templates (Llama 3, SmolLM3, gpt-oss) print today's:
a model would then be trained on other prompts than it is judged on and asked with, once midnight
has passed. Llama's own template prints this one where it cannot ask.
"""
NOW = re.compile(r"""strftime_now\(\s*(?:'([^'"\\]*)'|"([^'"\\]*)")\s*\)""")
"""A template's question for the date."""
SHORTEST_HEAD = 32
FEWEST_ALIKE = 16  # below these, treating a common beginning apart saves nothing


class ChatTokenizer:
    """The chat template and the tokenizer of one model folder in the Hugging Face layout.

    Raises ValueError when the folder lacks a tokenizer or an end-of-text token, or holds a template
    that does not compile. A model without a chat template gets a plain one: the contents, one per
    line. `today` is the date for templates that print one: a task has one for good.
    """

    def __init__(self, folder: str | Path, today: str = TODAY) -> None:
        from tokenizers import (
            Tokenizer,  # 0.1 s, and jobs/data/corpus.py is also imported to read rows only
        )

        self.folder = Path(folder).expanduser()
        if not (self.folder / "tokenizer.json").is_file():
            raise ValueError(
                f"{self.folder} has no tokenizer.json; model.path must be a folder in the Hugging "
                "Face layout"
            )
        try:
            self._tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        except Exception as error:  # noqa: BLE001  # the library has no exception of its own
            raise ValueError(
                f"{self.folder / 'tokenizer.json'} is no tokenizer: {error}; fetch it again"
            ) from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        settings = read_json(self.folder / "tokenizer_config.json")
        self.special_tokens = find_special_tokens(
            settings, read_json(self.folder / "special_tokens_map.json")
        )
        if odd := [
            name for name, token in self.special_tokens.items() if not isinstance(token, str)
        ]:
            raise ValueError(
                f"{self.folder / 'tokenizer_config.json'}: {odd[0]} must be a text, or an object "
                "with its text as content"
            )
        self.today = today
        self.chat_template = pin_date(find_template(self.folder, settings) or self._plain(), today)
        """The template's source, for exported models: with its date, so that other programs that
        serve one render the same.
        """
        self._compiled = compile_template(self.chat_template, self.folder, today)
        self._cuts = find_cuts(self._tokenizer)
        self._guard = "" if self.encode("\nA") == self.encode("\n") + self.encode("A") else "\n"
        end_of_turn = self._find_end_of_turn()
        self.eos_ids: list[int] = self._find_eos_ids(end_of_turn)
        """Tokens at which generation stops: end of text and end of turn. The first is `eos_id`."""
        self.eos_id: int = self.eos_ids[0]
        self.eos_tokens: list[str] = [
            self._tokenizer.id_to_token(token_id) or "" for token_id in self.eos_ids
        ]
        """The same as text."""
        self.end_of_turn: str = (
            self.eos_tokens[0]
            if end_of_turn is None
            else self.eos_tokens[self.eos_ids.index(end_of_turn)]
        )
        """What ends an answer."""
        self.vocab_size = find_num_tokens(self.folder)
        """Tokens that the model knows, where its weights or its configuration say so."""
        self.num_positions = find_number(self.folder, "max_position_embeddings", "n_positions")
        """Longest text that the model was made for, in tokens, likewise."""

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool,
        tools: Sequence[JsonObject] = (),
        thinking: bool = False,
    ) -> str:
        """The text of a conversation. Raises ValueError with the template's own reason when it
        refuses the messages.
        """
        from jinja2.exceptions import TemplateError

        mode = (
            {"enable_thinking": True, "thinking": True} if thinking else {"enable_thinking": False}
        )
        try:
            return self._compiled.render(
                **self.special_tokens,
                messages=list(messages),
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **mode,
            )
        except (TemplateError, *FOREIGN_CODE_ERRORS) as error:
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise ValueError(
                f"the chat template of {self.folder.name} refuses messages from {roles}: {error}"
            ) from error

    @cached_property
    def foreign(self) -> frozenset[int]:
        """Tokens that the tokenizer knows and the model does not."""
        token_ids = (
            self._tokenizer.get_vocab(with_added_tokens=True).values()
            if self.vocab_size is not None
            else ()
        )
        return frozenset(token_id for token_id in token_ids if token_id >= (self.vocab_size or 0))

    def check_known(self, ids: Iterable[int]) -> None:
        """Raise ValueError for a token that the model has no weights for."""
        unknown = (
            next((token_id for token_id in ids if token_id in self.foreign), None)
            if self.foreign
            else None
        )
        if unknown is not None:
            token = json.dumps(self._tokenizer.id_to_token(unknown), ensure_ascii=False)
            raise ValueError(
                f"the tokenizer gives token {unknown}, {token}, but the model in {self.folder} "
                "knows "
                f"{self.vocab_size:,} tokens; "
                f"leave {token} out, or take a model whose weights were resized for it"
            )

    @cached_property
    def faithful(self) -> bool:
        """Whether any text without special tokens comes back from its tokens as it was: so it is
        with bytes that nothing normalises.
        """
        decoder = self._tokenizer.decoder
        return (
            self._cuts is not None
            and self._tokenizer.normalizer is None
            and type(decoder).__name__ == "ByteLevel"
        )

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Tokens that decoding leaves out."""
        return frozenset(
            token_id
            for token_id, token in self._tokenizer.get_added_tokens_decoder().items()
            if token.special
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all that decides the text and the token ids that a row gives."""
        digested = [
            self.chat_template,
            self.today,
            self.special_tokens,
            self.eos_tokens,
            self.end_of_turn,
            self.vocab_size,
            self.num_positions,
        ]
        content = hashlib.sha256((self.folder / "tokenizer.json").read_bytes())
        content.update(json.dumps(digested, sort_keys=True).encode())
        return content.hexdigest()

    def encode(self, text: str) -> list[int]:
        """Token ids of rendered text; marks such as the beginning of text are already in it."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of text that continues other text: without the space that some tokenizers put
        before whatever comes first.
        """
        if not self._guard:
            return self.encode(text)
        return self.encode(self._guard + text)[len(self.encode(self._guard)) :]

    def encode_continuations(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_continuation` of each text."""
        skipped = len(self.encode(self._guard)) if self._guard else 0
        return [ids[skipped:] for ids in self._encode_all([self._guard + text for text in texts])]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, two to three times as fast: what many texts have in common is
        encoded once.

        The common parts are found in two ways that leave the ids as they are: between special
        tokens, which no tokenizer looks across, and (in `_encode_alike`) before the last line break
        of a common beginning.
        """
        if self._cuts is None:
            return self._encode_all(texts)
        pieces = [[piece for piece in self._cuts.split(text) if piece] for text in texts]
        ids = self._encode_alike(
            list(dict.fromkeys(piece for text_pieces in pieces for piece in text_pieces))
        )
        return [
            [token_id for piece in text_pieces for token_id in ids[piece]] for text_pieces in pieces
        ]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where each token of a text begins and ends in it, in characters."""
        return self._tokenizer.encode(text, add_special_tokens=False).offsets

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of token ids, without special tokens unless asked for."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special)

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """`decode` of each row, without special tokens."""
        return self._tokenizer.decode_batch([list(ids) for ids in rows], skip_special_tokens=True)

    def _plain(self) -> str:
        """The template for a model without one. It begins with the beginning-of-text token if the
        tokenizer itself would put it there.
        """
        start = self.special_tokens.get("bos_token")
        first = self._tokenizer.encode("A").tokens[0]
        return "{{ bos_token }}" + PLAIN if start is not None and first == start else PLAIN

    def _find_eos_ids(self, end_of_turn: int | None) -> list[int]:
        """End-of-text tokens by all accounts: tokenizer, generation settings, and what the template
        writes after an answer.
        """
        named = [self._tokenizer.token_to_id(self.special_tokens.get("eos_token", ""))]
        for file in ("generation_config.json", "config.json"):
            value = read_json(self.folder / file).get("eos_token_id")
            named += value if isinstance(value, list) else [value]
        wrong = [
            token_id for token_id in named if token_id is not None and not isinstance(token_id, int)
        ]
        if wrong:
            raise ValueError(
                f"{self.folder} has the eos_token_id {wrong[0]!r}, which is no number; correct its "
                "generation_config.json"
            )
        id_to_token = self._tokenizer.id_to_token
        eos_ids = list(
            dict.fromkeys(
                token_id
                for token_id in [*named, end_of_turn]
                if token_id is not None and id_to_token(token_id) is not None
            )
        )
        if not eos_ids:
            raise ValueError(
                f"{self.folder} names no end-of-text token; set eos_token in its "
                "tokenizer_config.json"
            )
        return eos_ids

    def _find_end_of_turn(self) -> int | None:
        """The first special token that the template writes after an answer. Gemma's is not its end
        of text.
        """
        question = {"role": "user", "content": "Alpha"}
        try:
            texts = [
                self.render(
                    [question, {"role": "assistant", "content": probe}], add_generation_prompt=False
                )
                for probe in PROBES
            ]
        except ValueError:
            # a template that refuses this conversation says so when it meets the user's rows
            return None
        if not all(
            "Alpha" in text and probe in text for text, probe in zip(texts, PROBES, strict=True)
        ):
            raise ValueError(
                f"the chat template of {self.folder} leaves out what the messages say; correct it, "
                "or remove it"
            )
        return next(
            (
                token_id
                for token_id in self.encode(common_end(*texts))
                if token_id in self.special_ids
            ),
            None,
        )

    def _encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return [
            encoding.ids
            for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ]

    def _encode_alike(self, texts: list[str]) -> dict[str, list[int]]:
        """Ids of each text; a common beginning is encoded once per group of texts.

        The beginning ends at a line break. Each text is encoded with only the last word of it in
        front, and that the ids then start with the ids of this word shows that no token reaches
        across: the splitting rule of such a tokenizer (`find_cuts` admits no other) reads from left
        to right and looks at one word at a time. A text for which this fails is encoded whole.
        """
        groups = defaultdict(list)
        for text in texts:
            groups[text[:SHORTEST_HEAD]].append(text)
        ids: dict[str, list[int]] = {}
        whole_texts: list[str] = []
        for alike in groups.values():
            head = common_head(alike) if len(alike) >= FEWEST_ALIKE else ""
            word = head[head.rstrip().rfind(" ") :] if " " in head.rstrip() else head
            if len(head) - len(word) < SHORTEST_HEAD // 2:
                whole_texts += alike
                continue
            head_ids = self.encode(head)
            word_ids = self.encode(word)
            for text, token_ids in zip(
                alike, self._encode_all([word + text[len(head) :] for text in alike]), strict=True
            ):
                if token_ids[: len(word_ids)] == word_ids:
                    ids[text] = head_ids + token_ids[len(word_ids) :]
                else:
                    whole_texts.append(text)
        return ids | dict(zip(whole_texts, self._encode_all(whole_texts), strict=True))


def common_head(texts: list[str]) -> str:
    """What all texts begin with, up to its last line break."""
    first = min(texts)
    last = max(texts)  # what these two share, all those between them share too
    length = next(
        (
            index
            for index, (first_id, last_id) in enumerate(zip(first, last, strict=False))
            if first_id != last_id
        ),
        len(first),
    )
    return first[: first.rfind("\n", 0, length) + 1]


def common_end(left: str, right: str) -> str:
    """What two texts end with alike."""
    most = min(len(left), len(right))
    length = next((index for index in range(most) if left[-1 - index] != right[-1 - index]), most)
    return left[len(left) - length :]


def pin_date(source: str, today: str) -> str:
    """A template that writes `today` (YYYY-MM-DD) in its own form wherever it would ask for the
    date of the day.
    """
    day = datetime.datetime.fromisoformat(today)
    return NOW.sub(
        lambda match: json.dumps(day.strftime(match[1] or match[2] or ""), ensure_ascii=False),
        source,
    )
