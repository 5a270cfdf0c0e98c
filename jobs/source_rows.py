"""Which columns of a file make a row, and which of its rows are taken."""

from __future__ import annotations

from dataclasses import field, fields

from jobs.settings_checks import LARGEST, config, require

WhereValue = bool | int | float | str | None


@config
class Columns:
    """What a row is made of, where its columns do not say so themselves: each the name of a column,
    or a Jinja template over columns, such as "{{ title }}: {{ body }}".
    """

    prompt: str | None = None
    completion: str | None = None
    messages: str | None = None
    """Column with a whole conversation, instead of prompt and completion."""
    system: str | None = None
    """What the system says before the prompt."""
    tools: str | None = None
    """Column with the functions that may be called."""

    def __post_init__(self) -> None:
        pair = [self.prompt, self.completion]
        lacking = "completion" if self.completion is None else "prompt"
        empty = [name for name in FIELDS if (text := getattr(self, name)) is not None and not text]
        require(
            (
                None not in pair or pair == [None, None],
                f"data.columns.{lacking} must be set too: a row has a prompt and an answer",
            ),
            (
                self.messages is None or pair == [None, None],
                "data.columns.messages is a whole conversation; leave data.columns.prompt and "
                "data.columns.completion out",
            ),
            (
                self.messages is None or not is_template(self.messages),
                "data.columns.messages must be the name of a column, got a template",
            ),
            (
                self.system is None or pair != [None, None],
                "data.columns.system stands before a prompt; set data.columns.prompt and "
                "data.columns.completion too",
            ),
            (
                self.tools is None or not is_template(self.tools),
                "data.columns.tools must be the name of a column, got a template",
            ),
            (not empty, f"data.columns.{''.join(empty[:1])} is empty; leave it out"),
        )

    @property
    def settings(self) -> dict[str, str]:
        """Those that are set."""
        values = {name: getattr(self, name) for name in FIELDS}
        return {name: value for name, value in values.items() if value is not None}


FIELDS = ("prompt", "completion", "messages", "system", "tools")


def is_template(text: str) -> bool:
    """Whether a text is a template, not the name of a column."""
    return "{{" in text or "{%" in text


@config
class SourceRows:
    """Which rows of a source's files are taken, and how they are read."""

    rows: int | None = None
    """Take so many of its rows, chosen by `rows_seed`; fewer are among more. None: all."""
    rows_seed: int = 0
    """Another one chooses other rows."""
    where: dict[str, WhereValue | list[WhereValue]] = field(default_factory=dict)
    """Take the rows whose columns have these values, or one of a list of them."""
    deduplicate: bool = False
    """Take one row of those with the same prompt and the same answer."""
    columns: Columns = Columns()
    """Instead of data.columns, for this source."""
    label_names: list[str] = field(default_factory=list)
    """Instead of data.label_names, for this source."""

    def __post_init__(self) -> None:
        require(
            (
                self.rows is None or 1 <= self.rows < LARGEST,
                f"data.sources.*.rows must be at least 1 and below 2**31, got {self.rows}",
            ),
            (
                0 <= self.rows_seed < LARGEST,
                f"data.sources.*.rows_seed must be at least 0 and below 2**31, got "
                f"{self.rows_seed}",
            ),
            *(
                (
                    value != [],
                    f"data.sources.*.where takes no row with an empty list for {column}",
                )
                for column, value in self.where.items()
            ),
        )


DECIDES_ROWS = (
    r"data\.sources\.[^.]+\."
    rf"({'|'.join(('path', 'licence', *(entry.name for entry in fields(SourceRows))))})(\.|$)"
)
"""Settings of a source that decide which rows there are, as a regular expression over their paths:
they are the sweep's, not a trial's.
"""
