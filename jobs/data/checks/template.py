"""What the chat template and the tokenizer make of the rows: an answer whose end carries no loss, a
beginning of text that stands there twice, marks of the template inside a row's own text, roles that
the template does not name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from jobs.data.chat_template import PROBES, ChatTokenizer
from jobs.data.checks.result import CheckResult, excerpt, groups_of_rows, place, share
from jobs.data.corpus import Corpus
from jobs.data.messages import ROLES, quote
from jobs.data.readers import Row
from jobs.data.row_quality import texts_of
from jobs.data.tokenization import Example, encode_rows
from jobs.settings_checks import LARGEST

ROWS_LOOKED_AT = 64
"""Rows of a source or split that are tokenised for this check, evenly over all of them."""
SHORTEST_MARK = 3
"""Special tokens with fewer characters are looked for in no text."""


def check(corpus: Corpus, template: ChatTokenizer) -> CheckResult:
    """What is odd about the examples of each source and split. A row that the template refuses,
    such as one with a system message that it would drop, is fatal.
    """
    result = CheckResult("template", "")
    for name, rows in groups_of_rows(corpus):
        sample = rows[:: 1 + (len(rows) - 1) // ROWS_LOOKED_AT] if rows else []
        try:
            examples = encode_rows(sample, template, LARGEST, name)
        except ValueError as error:
            result.fatal = str(error)
            break
        result.warnings += lint(name, sample, examples, template)
        result.warnings += marks_in_texts(name, rows, template)
        result.warnings += other_roles(name, rows, template)
    added = default_system(template)
    if added:
        result.details.append(
            f"the template puts a system prompt before conversations without one: {excerpt(added)}"
        )
    end = template.end_of_turn
    result.summary = f"an answer ends with {end!r}, which carries loss; marks stand once"
    if result.fatal:
        result.summary = "the template refuses a row"
    elif result.warnings:
        result.summary = f"{len(result.warnings)} oddities in what the template makes of the rows"
    return result


def lint(
    name: str, rows: Sequence[Row], examples: Sequence[Example], template: ChatTokenizer
) -> Iterator[str]:
    """Warnings about tokenised examples."""
    pairs = list(zip(rows, examples, strict=True))
    endless = [row for row, example in pairs if example.ids[-1] not in template.eos_ids]
    if endless:
        yield (
            f"{name}: the last token of answers is none that ends a turn "
            f"({template.end_of_turn!r} is {len(template.encode(template.end_of_turn))} tokens "
            f"here), so the model does not learn to stop (first: {place(endless[0])}); make it a "
            "special token of the tokenizer"
        )
    begin = template.special_tokens.get("bos_token")
    begin_ids = template.encode(begin) if begin else []
    if len(begin_ids) == 1:
        doubled = [row for row, example in pairs if example.ids[:2] == begin_ids * 2]
        if doubled:
            yield (
                f"{name}: prompts begin with {begin!r} twice (first: {place(doubled[0])}); take it "
                "out of the chat template, or out of the rows"
            )


def marks_in_texts(name: str, rows: Sequence[Row], template: ChatTokenizer) -> Iterator[str]:
    """That rows hold special tokens as text: they are often rendered with a template already."""
    tokens = {template.decode([token_id], skip_special=False) for token_id in template.special_ids}
    tokens = {token for token in tokens if len(token) >= SHORTEST_MARK}
    if not tokens:
        return
    pattern = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))
    first = {token[0] for token in tokens}
    hits: list[tuple[Row, str]] = []
    for row in rows:
        for text in texts_of(row):
            if any(character in text for character in first) and (match := pattern.search(text)):
                hits.append((row, match[0]))
                break
    if hits:
        row, token = hits[0]
        yield (
            f"{name}: {share(len(hits), len(rows))} have marks of the template in their text, such "
            f"as {token!r} ({place(row)}), and the model takes them for such; write the bare text, "
            "the template adds its marks"
        )


def other_roles(name: str, rows: Sequence[Row], template: ChatTokenizer) -> Iterator[str]:
    """That messages have roles which neither every base model nor this one's template knows."""
    roles = {message["role"] for row in rows for message in row.messages} - {*ROLES}
    unknown = {
        role
        for role in roles
        if re.search(rf"""(["']){re.escape(role)}\1""", template.chat_template) is None
    }
    if unknown:
        hits = [row for row in rows if any(message["role"] in unknown for message in row.messages)]
        yield (
            f"{name}: {share(len(hits), len(rows))} have messages of a role that the template does "
            f"not name, {quote(sorted(unknown))} (first: {place(hits[0])}), and it stands in the "
            f"prompt as it is; if one of {', '.join(ROLES)} is meant, write that"
        )


def default_system(template: ChatTokenizer) -> str:
    """The system prompt that a template adds by itself; empty where it adds none."""
    question = {"role": "user", "content": PROBES[0]}
    system = {"role": "system", "content": PROBES[1]}
    try:
        bare = template.render([question], True)
        full = template.render([system, question], True)
    except ValueError:
        return ""
    start, _, end = full.partition(PROBES[1])
    if PROBES[1] not in full or not (bare.startswith(start) and bare.endswith(end)):
        return ""
    return bare[len(start) : len(bare) - len(end)].strip()
