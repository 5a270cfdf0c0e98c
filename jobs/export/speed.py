"""What a file costs where it runs: size, memory, time to the first token, tokens per second."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jobs.llama_cpp.runtime import Runtime
from jobs.onnx_genai.runtime import OnnxRuntime

REPEATS = 3
TOKENS = 16
ENOUGH_SECONDS = 60.0
"""Of one number of threads: on a busy machine fewer repetitions have to do."""


def costs(
    files: Sequence[Path],
    prompt: Sequence[int],
    threads: Sequence[int],
    opened: Callable[[int], Runtime | OnnxRuntime],
) -> dict[str, Any]:
    """Costs of a model file, and of an adapter on it, for one prompt at a time; `opened` gives the
    runtime with so many threads.
    """
    record: dict[str, Any] = {
        "size_mb": round(sum(size_of(file) for file in files) / 1e6, 3),
        "cores": os.cpu_count(),
        "prompt_tokens": len(prompt),
        "threads": {},
    }
    peaks = []
    for count in threads:
        adapter = 0 if len(files) > 1 else None
        with opened(count) as runtime:
            record["threads"][str(count)] = speed(runtime, prompt, adapter)
            peaks.append(runtime.peak_megabytes())
    known_peaks = [peak for peak in peaks if peak is not None]
    if known_peaks:
        record["peak_memory_mb"] = round(max(known_peaks), 1)
    return record


def size_of(place: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if place.is_file():
        return place.stat().st_size
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def speed(
    runtime: Runtime | OnnxRuntime, prompt: Sequence[int], adapter: int | None
) -> dict[str, float]:
    """Medians of some repetitions, the first of which only warms up."""
    firsts, rates = [], []
    began = time.monotonic()
    for repetition in range(REPEATS + 1):
        first, rate = once(runtime, prompt, adapter)
        if repetition:
            firsts.append(first)
            rates.append(rate)
        if firsts and time.monotonic() - began > ENOUGH_SECONDS:
            break
    return {
        "first_token_seconds": round(statistics.median(firsts), 4),
        "tokens_per_second": round(statistics.median(rates), 2),
    }


def once(
    runtime: Runtime | OnnxRuntime, prompt: Sequence[int], adapter: int | None
) -> tuple[float, float]:
    """Seconds to the first token of an answer, and tokens per second after it."""
    began = time.monotonic()
    arrivals = [
        time.monotonic()
        for event in runtime.stream(prompt, TOKENS, adapter, cache_prompt=False, ignore_eos=True)
        if not event.get("stop")
    ]
    seconds = arrivals[-1] - arrivals[0]
    return arrivals[0] - began, (len(arrivals) - 1) / max(seconds, 1e-9)
