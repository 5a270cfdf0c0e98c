"""What the columns of prompts, answers and what stands beside them are called."""

from __future__ import annotations

from collections.abc import Mapping

from jobs.data.conversation_forms import CONVERSATIONS
from jobs.data.synthetic_rows import COLUMNS as SYNTHETIC

PROMPTS = ("prompt", "question", "query", "instruction", "input", "text", "sentence", "utterance")
ANSWERS = ("completion", "response", "answer", "output", "target", "summary")
LABELS = ("label", "category", "class", "intent")
"""What is called so may be a whole number that stands for a name."""
LABEL_TEXTS = ("label_text", "label_name", "text_label")
"""The name of a label, beside its number."""
BESIDE = (
    *("system", "system_prompt", "tools", "history", "context", "chosen", "rejected"),
    *SYNTHETIC,
)
"""Columns that mean something beside others."""
MEANINGFUL = frozenset((*PROMPTS, *ANSWERS, *LABELS, *LABEL_TEXTS, *BESIDE, *CONVERSATIONS))
CHAT = '"messages"'
PAIR = '"prompt" and "completion"'
COLUMNS = f"{PAIR}, or {CHAT}"


def candidates(named: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The columns that can be the prompt, and those that can be the answer. The name of a label
    stands for its number.
    """
    asked = [named[name] for name in PROMPTS if name in named]
    texts = [named[name] for name in LABEL_TEXTS if name in named]
    answered = texts or [named[name] for name in LABELS if name in named]
    return asked, [*(named[name] for name in ANSWERS if name in named), *answered]
