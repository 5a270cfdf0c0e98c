"""A decoded answer without what the template itself writes after an answer, before the token that
ends the turn: a closing quote, a closing word.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from jobs.data.chat_template import PROBES, ChatTokenizer, common_end


def answer_text(template: ChatTokenizer, ids: Sequence[int]) -> str:
    """The answer that token ids say, without white space around it."""
    return without_tail(template, template.decode(ids))


def without_tail(template: ChatTokenizer, decoded: str) -> str:
    """The same for ids that are decoded already."""
    text = decoded.strip()
    ending = tail(template)
    return text.removesuffix(ending).rstrip() if ending else text


@lru_cache(maxsize=8)
def tail(template: ChatTokenizer) -> str:
    """What the template writes between any answer and the end of its turn, without white space
    around it; nothing where it writes no such end.
    """
    question = {"role": "user", "content": PROBES[0]}
    try:
        first, second = (
            template.render([question, {"role": "assistant", "content": probe}], False)
            for probe in PROBES
        )
    except ValueError:
        return ""  # it takes no such conversation: rows of its own kind have their own ending
    ending = common_end(first, second)
    ends = [ending.find(token) for token in template.eos_tokens if token and token in ending]
    return ending[: min(ends)].strip() if ends else ""
