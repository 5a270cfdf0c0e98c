"""A metric that is a function of the user's own, as module:function.

    def score(answers: list[str], references: list[str]) -> float | list[float]

It returns one number for all rows, or one per row, whose mean counts. A third argument, called
`rows`, receives each row as a dictionary: prompt, reference, answer, source, and the columns that
data.slices names. An attribute `maximise = False` on the function says that lower is better.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
import time
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from jobs.evaluation.scored_rows import MetricContext, ScoredRow
from jobs.evaluation.scorers import MeanScorer, Rows, Scorer


def load_function(name: str, folder: str | None = None) -> Callable[..., Any]:
    """The function module:function, imported from `folder` or from wherever Python finds it. Raises
    ValueError that says what is missing.
    """
    module_name, _, path = name.partition(":")
    if folder is not None and folder not in sys.path:
        sys.path.append(folder)  # last, so that it hides nothing of this project
    importlib.invalidate_caches()
    try:
        target: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(f"{module_name} imports {error.name}, which is not there") from error
        raise ValueError(
            f"there is no module {module_name} in {folder or 'the working directory'} or among the "
            f"installed packages; write {module_name.replace('.', '/')}.py there"
        ) from error
    except (Exception, SystemExit) as error:  # whatever the user's module does when it is imported
        raise ValueError(f"{module_name} cannot be imported: {in_a_line(error)}") from error
    for attribute in path.split("."):
        if not hasattr(target, attribute):
            import difflib

            near = difflib.get_close_matches(attribute, public_functions(target), n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"{module_name} has no {attribute}{hint}")
        target = getattr(target, attribute)
    if not callable(target):
        raise ValueError(f"{name} is a {type(target).__name__}, not a function")
    return target


def public_functions(module: Any) -> list[str]:
    """Names in a module that can be called."""
    return [name for name in vars(module) if not name.startswith("_")]


def digest_of(name: str, folder: str | None = None) -> str | None:
    """SHA-256 of the file that a function's module stands in; None where it has none."""
    load_function(name, folder)
    file = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    if file is None or not Path(file).is_file():
        return None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def takes_rows(function: Callable[..., Any]) -> bool:
    """Whether a function has an argument `rows`."""
    try:
        return "rows" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def call(name: str, function: Callable[..., Any], rows: Sequence[ScoredRow]) -> float | list[float]:
    """What the function says of some rows. Raises ValueError when it raises, or says no number."""
    more = {"rows": [as_dictionary(row) for row in rows]} if takes_rows(function) else {}
    try:
        returned = function([row.said for row in rows], [row.wanted for row in rows], **more)
    except (Exception, SystemExit) as error:  # whatever the user's function does
        where = place_of(error)
        raise ValueError(
            f"sweep.metric: {name} raised {in_a_line(error)}{where}; it is given the answers and "
            "the references as two lists of texts"
        ) from error
    if is_number(returned):
        return float(returned)
    by_row = isinstance(returned, (list, tuple, np.ndarray)) and len(returned) == len(rows)
    if by_row and all(is_number(score) for score in returned):
        return [float(score) for score in returned]
    kind = type(returned).__name__
    if isinstance(returned, (list, tuple, np.ndarray)):
        kind = f"a {kind} of {len(returned)}"
    raise ValueError(
        f"sweep.metric: {name} returned {kind} for {len(rows)} rows; it must return one number, or "
        "one for each row"
    )


def is_number(value: Any) -> bool:
    """Whether a value is a number, of Python's or numpy's."""
    return isinstance(value, Real | np.bool_) or (isinstance(value, np.ndarray) and value.ndim == 0)


def as_dictionary(row: ScoredRow) -> dict[str, str]:
    """A row as the user's function gets it."""
    return dict(row.columns) | {
        "prompt": row.prompt,
        "reference": row.reference,
        "answer": row.answer,
        "source": row.source,
    }


def in_a_line(error: BaseException) -> str:
    """An exception's kind and words."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(": ")


def place_of(error: BaseException) -> str:
    """File and line where an exception was raised."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    if step is None:
        return ""
    return f" ({Path(step.tb_frame.f_code.co_filename).name}, line {step.tb_lineno})"


LONGEST_SECONDS = 10.0
"""After it a function that scores whole selections is no longer asked for further ones."""


class WholeScorer:
    """A function that returns one number for all rows it is given."""

    def __init__(self, name: str, function: Any, rows: Sequence[ScoredRow], score: float) -> None:
        self.name, self.function, self.rows, self.score = name, function, rows, score
        self.seconds = 0.0

    @property
    def num_rows(self) -> int:
        """See Scorer."""
        return len(self.rows)

    def value(self, rows: Rows) -> float:
        """See Scorer. Not a number where the function fails on a selection, or is too slow to be
        asked for many of them.
        """
        if len(rows) == len(self.rows) and bool((rows == np.arange(len(rows))).all()):
            return self.score
        if len(rows) == 0 or self.seconds > LONGEST_SECONDS:
            return math.nan
        began = time.monotonic()
        try:
            returned = call(self.name, self.function, [self.rows[row] for row in rows])
        except ValueError:
            return math.nan
        finally:
            self.seconds += time.monotonic() - began
        return returned if isinstance(returned, float) else math.nan


def user_scorer(rows: Sequence[ScoredRow], context: MetricContext) -> Scorer:
    """The user's function over some rows. Raises ValueError when it cannot be had or fails."""
    assert context.function is not None
    try:
        function = load_function(context.function, context.folder)
    except ValueError as error:
        raise ValueError(f"sweep.metric: {context.function}: {error}") from error
    returned = call(context.function, function, rows)
    if isinstance(returned, list):
        return MeanScorer(returned)
    return WholeScorer(context.function, function, rows, returned)
