"""What stands for something else in a text: %(name)s, %d, {name}, a mark of HTML.

Imports no numpy: the plan uses it too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

PLACEHOLDER = re.compile(r"%\(\w+\)[#0 +-]*[\d.]*[a-zA-Z]|%[sdif]\b|\{\w*\}|</?[a-zA-Z][^<>]*>")
WORTH_SHARE = 0.05
"""From this share of the reference answers with placeholders on they are worth a metric."""


def placeholders_of(text: str) -> Counter[str]:
    """How often each stands in a text."""
    return Counter(PLACEHOLDER.findall(text))


def has_placeholders(answers: Sequence[str]) -> bool:
    """Whether enough of some reference answers have any."""
    with_any = sum(PLACEHOLDER.search(answer) is not None for answer in answers)
    return bool(with_any) and with_any >= WORTH_SHARE * len(answers)
