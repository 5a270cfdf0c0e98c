"""Languages of the prompts: told when splits or sources differ, when some rows stand apart, or when
rows are in several scripts.

py3langid says it, which knows 130 languages and asks nobody. It works in a process of its own,
beside the other checks (identify.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.data.checks import identify
from jobs.data.checks.result import (
    MOST_EXAMPLES,
    CheckResult,
    asked,
    excerpt,
    groups_of_rows,
    place,
    share,
)
from jobs.data.corpus import Corpus
from jobs.data.readers import Row

MOST_ROWS = 5_000
"""Rows of a source or split that are looked at, evenly over all of them."""
MOST_CHARACTERS = 300
"""Of one prompt, from its beginning."""
MOST_SECONDS = 600.0
MOST_SCRIPTS = 6
"""Scripts that are named with an example."""
ROOT = Path(__file__).resolve().parents[3]


class LanguageProcess:
    """The languages of one corpus, looked up while others work."""

    def __init__(self, corpus: Corpus) -> None:
        self.rows = {
            name: rows[:: 1 + (len(rows) - 1) // MOST_ROWS] if rows else []
            for name, rows in groups_of_rows(corpus)
        }
        texts = {
            name: [asked(row)[:MOST_CHARACTERS] for row in rows] for name, rows in self.rows.items()
        }
        self.languages: dict[str, Any] | None = None
        if "numpy" in sys.modules:  # most of what a process of its own would take is there
            self.languages = identify.run(texts)
            return
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps(texts).encode())
            file.seek(0)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jobs.data.checks.identify"],
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            )

    def collect(self) -> CheckResult:
        """What came of it; that nothing did is a warning."""
        if self.languages is not None:
            return judged(self.rows, self.languages)
        try:
            answer, errors = self.process.communicate(timeout=MOST_SECONDS)
            languages = json.loads(answer)
        except (subprocess.TimeoutExpired, ValueError) as error:
            self.close()
            words = str(error)
            if isinstance(error, ValueError):
                words = (errors.decode(errors="replace").strip().splitlines() or [words])[-1]
            return CheckResult(
                "language", "not known", [f"the languages of the rows are not known: {words}"]
            )
        return judged(self.rows, languages)

    def close(self) -> None:
        """End the process, if it still works."""
        if self.languages is not None:
            return
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def judged(rows: dict[str, list[Row]], languages: dict[str, Any]) -> CheckResult:
    """What the languages of the groups say."""
    main = {name: str(said[0]) for name, said in languages.items() if rows[name]}
    warnings = []
    single = {name: language for name, language in main.items() if language != identify.SEVERAL}
    if len(set(single.values())) > 1:
        listed = ", ".join(f"{name} {language}" for name, language in single.items())
        warnings.append(f"the prompts are in different languages: {listed}")
    numbers: dict[str, Any] = {}
    for name, language in main.items():
        others: Sequence[tuple[int, str]] = languages[name][1]
        counts = Counter(other for _, other in others)
        numbers[name] = {"main": language, "rows": len(rows[name]), "others": dict(counts)}
        if language == identify.SEVERAL:
            scripts: dict[str, list[int]] = languages[name][2]
            numbers[name]["scripts"] = {script: len(found) for script, found in scripts.items()}
            warnings.append(scripts_warning(name, rows[name], scripts))
        if not others:
            continue
        listed = ", ".join(f"{other} {count:,}" for other, count in counts.most_common(5))
        examples = " and ".join(
            f"{excerpt(asked(rows[name][index]))} ({place(rows[name][index])})"
            for index, _ in others[:MOST_EXAMPLES]
        )
        warnings.append(
            f"{name}: the prompts of {share(len(others), len(rows[name]))} are in another language "
            f"than {language}: {listed}, such as {examples}"
        )
    groups: dict[str, list[str]] = {}
    for name, language in main.items():
        groups.setdefault(language, []).append(name)
    words = {identify.NO_LANGUAGE: "no language", identify.SEVERAL: "several scripts"}
    summary = "; ".join(
        f"{words.get(language, language)} in {', '.join(names)}"
        for language, names in groups.items()
    )
    return CheckResult("language", summary or "no rows", warnings, numbers=numbers)


def scripts_warning(name: str, rows: Sequence[Row], scripts: dict[str, list[int]]) -> str:
    """That the prompts of a group are in several scripts, with a share and an example of each."""
    ordered = sorted(scripts.items(), key=lambda item: len(item[1]), reverse=True)
    listed = ", ".join(
        f"{script} {len(found) / len(rows):.0%} (such as {excerpt(asked(rows[found[0]]))}, "
        f"{place(rows[found[0]])})"
        for script, found in ordered[:MOST_SCRIPTS]
    )
    more = f" and {len(ordered) - MOST_SCRIPTS} more" if len(ordered) > MOST_SCRIPTS else ""
    return (
        f"{name}: the prompts are in {len(ordered)} scripts, so no one language is theirs: "
        f"{listed}{more}"
    )
