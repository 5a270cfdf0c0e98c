"""What moving the champion's alias by hand needs: job=promote and job=rollback."""

from __future__ import annotations

import re

from orchestrator.config.settings import Config

ADDRESSES = {
    "promote": (r"models:/[^/:@'\"]+(@[\w.-]+|/\d+)", "models:/NAME/3 or models:/NAME@previous"),
    "rollback": (r"models:/[^/:@'\"]+(@champion)?", "models:/NAME"),
}
"""What job=promote and job=rollback take as model_uri: a pattern, and how it is written."""
MOST_REASON = 1_000
"""Characters of a reason, which is kept twice in tags of at most 5,000."""


def alias_problems(config: Config) -> list[tuple[str, str]]:
    """What moving the champion's alias by hand needs and does not have."""
    kind, found = config.job.kind, []
    pattern, written = ADDRESSES[kind]
    uri = (config.model_uri or "").strip()
    if not uri:
        found.append(("model_uri", f"must be set for job={kind}: {written}"))
    elif not re.fullmatch(pattern, uri):
        found.append(("model_uri", f"job={kind} takes {written}, got {uri}"))
    if not (config.job.reason or "").strip():
        found.append(("job.reason", f"must be set for job={kind}: it is kept with the version"))
    for name, text in (("reason", config.job.reason), ("author", config.job.author)):
        if text is not None and len(text) > MOST_REASON:
            found.append((f"job.{name}", f"has {len(text):,} characters; at most {MOST_REASON:,}"))
    if config.job.author is not None and not config.job.author.strip():
        found.append(("job.author", "is empty; leave it out, or write a name"))
    return found
