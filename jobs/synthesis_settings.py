"""How new training rows are made from those that are there: job=synthesize."""

from __future__ import annotations

import re
from dataclasses import field
from typing import Any, Literal
from urllib.parse import parse_qsl

from jobs.settings_checks import LARGEST, config, require

MOST_ROWS = 1_000_000
MOST_AT_ONCE = 256
DAY_SECONDS = 86_400
RECIPES = ("new", "paraphrase", "rare", "back_translation", "questions", "corrupt")
CORRUPTIONS = ("typos", "abbreviations", "dictation")
KEY_NAME = r"[A-Z_][A-Z0-9_]*"
SECRET_FIELD = re.compile(
    r"(?i)passw(or)?d|passphrase|secret|credential|authorization|(access|account|api)[_-]?key"
    r"|(^|[_-])(auth|bearer|jwt|key|sig|signature)$|(^|(access|api|auth|bearer|id|session)[_-]?)token$"
)
"""Names of a request's fields that hold a key; max_tokens and the like are none."""


@config
class Price:
    """What a server asks for, per million tokens and in whatever currency."""

    input: float = 0.0
    """For tokens that it reads."""
    output: float = 0.0
    """For tokens that it writes."""

    def __post_init__(self) -> None:
        require(
            *(
                (
                    0 <= value < float("inf"),
                    f"synthesis.*.{name} must be a number of at least 0, got {value}",
                )
                for name, value in (("input", self.input), ("output", self.output))
            )
        )


def secret_fields(value: Any) -> list[str]:
    """The fields of a request, at any depth, that hold a key by their names."""
    if isinstance(value, list):
        return [name for entry in value for name in secret_fields(entry)]
    if not isinstance(value, dict):
        return []
    own = [
        str(name)
        for name, text in value.items()
        if isinstance(text, str) and text and SECRET_FIELD.search(str(name))
    ]
    return own + [name for entry in value.values() for name in secret_fields(entry)]


@config
class Teacher:
    """Who writes, or checks, new rows: a model on this machine, or a server."""

    url: str | None = None
    """An OpenAI-compatible server, such as http://127.0.0.1:8000/v1. None: a local model."""
    model: str | None = None
    """With a url: the model's name there. Without: a choice of conf/model, a folder in the Hugging
    Face layout, or OWNER/NAME of the hub. None: the base model.
    """
    key: str | None = None
    """Name of the environment variable that holds the server's API key; never the key itself."""
    temperature: float | None = None
    """Of a server; None: its own default. A local model answers greedily: rows differ by their
    seed and their attributes.
    """
    max_new_tokens: int = 256
    """Tokens at which an answer ends."""
    requests: int = 16
    """Most requests that are under way at once; how many follows from what the server takes."""
    timeout_seconds: float = 120.0
    """How long one request may take."""
    patience_seconds: float = 120.0
    """How long no request at all may succeed before the command gives up; what is done is kept."""
    price: Price | None = None
    """What its tokens cost, for the preview and the manifest."""
    body: dict[str, Any] = field(default_factory=dict)
    """Further fields of each request to the server; null leaves one of ours out."""

    def __post_init__(self) -> None:
        local = self.url is None
        query = (self.url or "").partition("?")[2]
        in_query = [name for name, _ in parse_qsl(query) if SECRET_FIELD.search(name)]
        in_body = secret_fields(self.body)
        require(
            (
                local or re.fullmatch(r"https?://[^\s/]\S*", self.url or "") is not None,
                "synthesis.*.url must begin with http:// or https:// and name a server, such as "
                "http://127.0.0.1:8000/v1",
            ),
            (
                "@" not in (self.url or "").partition("?")[0],
                "synthesis.*.url must not hold a name or a password; the key goes into an "
                "environment variable, which synthesis.teacher.key names",
            ),
            (
                not in_query,
                f"synthesis.*.url must not hold {', '.join(in_query)} in its query; a key goes "
                "into an environment variable, which synthesis.teacher.key names",
            ),
            (
                not in_body,
                f"synthesis.*.body must not hold {', '.join(in_body)}: it is kept "
                "with the rows; a key goes into an environment variable, which "
                "synthesis.teacher.key names",
            ),
            (
                local or bool((self.model or "").strip()),
                "synthesis.*.model must be set beside url: the model's name at the server",
            ),
            (
                self.key is None or re.fullmatch(KEY_NAME, self.key) is not None,
                "synthesis.*.key must be the name of an environment variable, in capital letters, "
                "that holds the API key; the key itself never stands in a setting",
            ),
            (
                self.temperature is None or 0 <= self.temperature <= 2,
                f"synthesis.*.temperature must be between 0 and 2, got {self.temperature}",
            ),
            (
                1 <= self.max_new_tokens < LARGEST,
                f"synthesis.*.max_new_tokens must be at least 1, got {self.max_new_tokens}",
            ),
            (
                1 <= self.requests <= MOST_AT_ONCE,
                f"synthesis.*.requests must be between 1 and {MOST_AT_ONCE}, got {self.requests}",
            ),
            *(
                (
                    0 < seconds <= DAY_SECONDS,
                    f"synthesis.*.{name} must be above 0 and at most {DAY_SECONDS}, got {seconds}",
                )
                for name, seconds in (
                    ("timeout_seconds", self.timeout_seconds),
                    ("patience_seconds", self.patience_seconds),
                )
            ),
        )


@config
class Judge(Teacher):
    """Who checks that a new row's answer is still right. Without a version it is asked yes or
    no.
    """

    version: str | None = None
    """A registered model, models:/NAME@champion, or a version's folder, which has to give the same
    answer itself.
    """
    max_new_tokens: int = 16


@config
class Filters:
    """What a new row must be like. Each filter can be turned off."""

    schema: bool = True
    """The row can be read, holds nothing but the row, its answer is JSON where all answers are,
    and a known label where answers are labels.
    """
    length: float = 3.0
    """A prompt has at most so many times the characters of the longest of the training prompts,
    less one in a hundred, and as small a share of the shortest. 0: of any length.
    """
    vocabulary: float = 0.3
    """Share of a prompt's words that must stand in some training row, or in the document. 0: any.
    """
    values: bool = True
    """Texts of the answer that stand in the seed's prompt stand in the new one; answers to
    questions about a document stand in it.
    """
    duplicates: bool = True
    """Prompts that are a training row's, in whatever order, case and punctuation, are dropped."""
    leakage: bool = True
    """So are those that are nearly a validation or test row's."""
    diversity: float = 0.85
    """Share of its words (Jaccard, 1901) that a row may have in common with an earlier new one. 0:
    any.
    """

    def __post_init__(self) -> None:
        require(
            (
                self.length == 0 or 1 <= self.length < float("inf"),
                f"synthesis.filters.length must be 0 or at least 1, got {self.length}",
            ),
            *(
                (0 <= value <= 1, f"synthesis.filters.{name} must be between 0 and 1, got {value}")
                for name, value in (("vocabulary", self.vocabulary), ("diversity", self.diversity))
            ),
        )


@config
class Synthesis:
    """New rows from those of the data choice."""

    recipe: Literal["new", "paraphrase", "rare", "back_translation", "questions", "corrupt"] = (
        "paraphrase"
    )
    """new: other questions with their answers. paraphrase: the question in other words.
    rare: more questions for the labels that few rows have. back_translation: into another language
    and back. questions: about documents. corrupt: typos, abbreviations, dictation; needs no
    teacher.
    """
    rows: int = 100
    """Rows that pass the filters."""
    folder: str | None = None
    """Where they go: train.jsonl and, last, manifest.json. None: synthetic/NAME in the storage."""
    preview: bool = False
    """Ten rows and what all will cost; nothing is written."""
    instruction: str | None = None
    """What the teacher is told of the task. None: data.instruction; for a paraphrase nothing."""
    examples: int = 4
    """Training rows that the teacher is shown, for the recipes new and rare."""
    attributes: dict[str, list[str]] = field(default_factory=dict)
    """What rows should differ in: name -> values, of which each row is given one."""
    labels: Literal["natural", "uniform"] = "natural"
    """How seeds are drawn: as they are, or each label equally often."""
    label: str | None = None
    """Field of answers in JSON that is their label. None: the one with the fewest values."""
    languages: list[str] = field(default_factory=lambda: ["German", "French", "Spanish", "Italian"])
    """back_translation: languages on the way."""
    language: str = "English"
    """back_translation: the language of the rows."""
    documents: str | None = None
    """questions: a folder of text files (.txt, .md)."""
    passage_words: int = 200
    """questions: words of a passage that one question is about."""
    with_passage: bool = False
    """questions: whether the passage stands in the new row's prompt."""
    corruptions: list[Literal["typos", "abbreviations", "dictation"]] = field(
        default_factory=lambda: ["typos", "abbreviations", "dictation"]
    )
    """corrupt: kinds, of which each row has one."""
    error_rate: float = 0.15
    """corrupt: share of the words that are changed, one at least."""
    abbreviations: dict[str, str] = field(default_factory=dict)
    """corrupt: words or phrases -> how they are shortened, beside the usual ones."""
    tries: int = 4
    """Drafts for each wanted row, at most."""
    give_up_after: int = 50
    """Drafts that are rejected one after the other, at which it ends."""
    teacher: Teacher = Teacher()
    """Who writes."""
    judge: Judge | None = None
    """Who checks that the answer is still right. None: nobody."""
    filters: Filters = Filters()

    def __post_init__(self) -> None:
        counts = {
            "rows": (1, MOST_ROWS),
            "examples": (1, 32),
            "passage_words": (20, 5_000),
            "tries": (1, 100),
            "give_up_after": (1, MOST_ROWS),
        }
        require(
            *(
                (
                    low <= getattr(self, name) <= high,
                    f"synthesis.{name} must be between {low} and {high:,}, got "
                    f"{getattr(self, name)}",
                )
                for name, (low, high) in counts.items()
            ),
            (
                0 < self.error_rate <= 1,
                f"synthesis.error_rate must be above 0 and at most 1, got {self.error_rate}",
            ),
            *(
                (
                    bool(values) and all(text.strip() for text in values),
                    f"synthesis.attributes.{name} must be a list of texts, each with something in "
                    "it",
                )
                for name, values in self.attributes.items()
            ),
            *(
                (bool(values), f"synthesis.{name} must name at least one")
                for name, values in (
                    ("languages", self.languages),
                    ("corruptions", self.corruptions),
                )
            ),
            (
                self.recipe != "questions" or bool((self.documents or "").strip()),
                "synthesis.documents must be set for synthesis.recipe=questions: a folder of .txt "
                "or .md files",
            ),
            (
                self.folder is None or bool(self.folder.strip()),
                "synthesis.folder is empty; it must name a folder",
            ),
        )
