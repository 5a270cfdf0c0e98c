"""Score against size and speed over shipped files: which of them no other one beats. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.evaluation import registry
from jobs.evaluation.answer_scores import is_of_answers
from orchestrator.evaluation.device_limits import MeasuredFile, tokens_per_second
from orchestrator.evaluation.promotion import Scores


@dataclass(frozen=True)
class FrontFile:
    """A file on its way to the front."""

    base: str
    """Name of the base model."""
    model: str
    """Address of the version that it was made of."""
    file: MeasuredFile

    @property
    def size(self) -> float:
        """MB on disk."""
        return float((self.file.report.get("costs") or {}).get("size_mb", float("inf")))

    @property
    def speed(self) -> float:
        """Tokens per second with the best number of threads."""
        return tokens_per_second(self.file.report, None) or 0.0

    @property
    def score(self) -> float | None:
        """By the metric of the front; None where it has none."""
        return None if self.file.scores is None else self.file.scores.value


def by_answers(metric: str) -> bool:
    """Whether a sweep's metric is one of answers, whatever the tokenizer."""
    return is_of_answers(metric)


def in_bits(file: MeasuredFile) -> MeasuredFile:
    """The file scored by bits per byte: what a token's probability is worth depends on the
    tokenizer, and bases have their own.
    """
    scores, bits = file.scores, (file.report.get("scores") or {}).get(registry.BITS_PER_BYTE)
    if scores is None or bits is None:
        return MeasuredFile(file.format, file.report, None, registry.BITS_PER_BYTE)
    return MeasuredFile(
        file.format,
        file.report,
        Scores(bits, bits, bits, scores.rows, scores.digest),
        registry.BITS_PER_BYTE,
    )


def front(files: Sequence[FrontFile], maximise: bool) -> list[int]:
    """Positions of the files that no other one equals or beats in score, size and speed alike while
    it beats them in one; of files that are alike in all three the first.
    """
    sign = 1.0 if maximise else -1.0
    points = {
        index: (sign * file.score, -file.size, file.speed)
        for index, file in enumerate(files)
        if file.score is not None
    }

    def beaten(index: int) -> bool:
        return any(
            all(a >= b for a, b in zip(point, points[index], strict=True))
            and (point != points[index] or other < index)
            for other, point in points.items()
            if other != index
        )

    return [index for index in points if not beaten(index)]
