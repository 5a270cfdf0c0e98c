"""Rows per second of what stands between files and a training step: reading, checking, tokenising
and sampling, beside `datasets` (`map` and `interleave_datasets`) on the same files.

    python -m benchmarks.data --rows 100000

Two sources of made-up rows with the word frequencies of a language are mixed 3 to 1; both sides use
the same tokenizer and chat template, once with an empty cache and once with what the first time has
left there. Seconds of processor time are told beside the clock's: on a busy machine only those
compare. `datasets` comes with the extra `bench`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import answer
from jobs.files.json_types import JsonObject
from orchestrator.config.compose import compose
from orchestrator.config.validation import build, trial_of
from orchestrator.errors import InputError

VOCABULARY = 20_000
LABELS = ("refund", "wait", "replace", "thanks", "escalate")
WEIGHTS = {"first": 0.75, "second": 0.25}
HELD_OUT = 0.05
"""Share of the rows that each held-out split has."""


class Stopwatch:
    """Measures parts by name and prints a line for each."""

    def __init__(self) -> None:
        self.lines: list[JsonObject] = []

    def part(self, name: str, rows: int, work: Callable[[], Any]) -> Any:
        """What `work` returns, after its time was told."""
        began, busy = time.monotonic(), processor_seconds()
        result = work()
        seconds, used = time.monotonic() - began, processor_seconds() - busy
        line = {"part": name, "rows": rows, "seconds": seconds, "processor_seconds": used}
        self.lines.append(line)
        print(
            f"{name:42} {rows / seconds:>10,.0f} rows/s {rows / max(used, 1e-9):>10,.0f} rows per "
            f"second of processor time  ({seconds:.1f} s, {used:.1f} s)",
            flush=True,
        )
        return result


def processor_seconds() -> float:
    """Processor time of this process and of those that it has started and that have ended."""
    usages = (
        resource.getrusage(resource.RUSAGE_SELF),
        resource.getrusage(resource.RUSAGE_CHILDREN),
    )
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def write_rows(folder: Path, rows: int, seed: int) -> None:
    """Files of two sources and two held-out splits."""
    stream = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgkqjxz"
    words = [
        "".join(stream.choices(letters, range(26, 0, -1), k=stream.randint(2, 10)))
        for _ in range(VOCABULARY)
    ]
    frequencies = list(itertools.accumulate(1 / (rank + 2.7) for rank in range(VOCABULARY)))
    held_out = round(rows * HELD_OUT)
    train = rows - 2 * held_out
    sizes = {"first": train // 2, "second": train - train // 2, "valid": held_out, "test": held_out}
    number = 0
    for name, size in sizes.items():
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for _ in range(size):
                text = " ".join(
                    stream.choices(words, cum_weights=frequencies, k=stream.randint(8, 30))
                )
                row = {"prompt": f"Ticket {number}: {text}.", "completion": stream.choice(LABELS)}
                file.write(json.dumps(row) + "\n")
                number += 1


def measure_project(config: Any, path: str, draws: int, watch: Stopwatch) -> None:
    """The project's side."""
    from jobs.data.chat_template import ChatTokenizer
    from jobs.data.corpus import load_corpus, no_collection
    from jobs.data.trial_data import TrialData
    from orchestrator.plan.data_checks import check_data
    from orchestrator.plan.data_statistics import count_all

    template = ChatTokenizer(path)
    with no_collection():
        corpus = load_corpus(config.data)
        rows = sum(map(len, corpus.sources.values())) + len(corpus.valid) + len(corpus.test)
        corpus = watch.part("read the files", rows, lambda: load_corpus(config.data))
        counts = watch.part("tokenise, first", rows, lambda: count_all(config, corpus, template))
        watch.part("all checks", rows, lambda: check_data(config, corpus, template, counts))
        watch.part("all checks, kept", rows, lambda: check_data(config, corpus, template, counts))
        watch.part("token counts, kept", rows, lambda: count_all(config, corpus, template))
        course = TrialData(trial_of(config, 1, {}), template, corpus)

        def tokens_again() -> None:
            for name, of_source in corpus.sources.items():
                course.read(name, list(range(len(of_source))), 0)

        training = sum(map(len, corpus.sources.values()))
        watch.part("tokens of all training rows, cached", training, tokens_again)
        size = course.trial.train.batch_size
        steps = -(-draws // size)
        watch.part(
            "sample batches by weight",
            steps * size,
            lambda: [course.batch(step) for step in range(steps)],
        )


def measure_datasets(
    folder: Path, instruction: str, path: str, draws: int, watch: Stopwatch
) -> None:
    """The same with `datasets` and transformers' tokenizer."""
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(path)

    def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
        prompts, answers = [], []
        for prompt, answer_text in zip(batch["prompt"], batch["completion"], strict=True):
            messages = [{"role": "user", "content": f"{instruction}\n{prompt}"}]
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            prompts.append(text)
            answers.append(f"{answer_text}<|im_end|>")
        prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        answer_ids = tokenizer(answers, add_special_tokens=False)["input_ids"]
        return {
            "input_ids": [one + other for one, other in zip(prompt_ids, answer_ids, strict=True)],
            "prompt_length": [len(ids) for ids in prompt_ids],
        }

    def mapped() -> dict[str, Any]:
        sets = {}
        for name in (*WEIGHTS, "valid", "test"):
            rows = datasets.load_dataset(
                "json", data_files=str(folder / f"{name}.jsonl"), split="train"
            )
            sets[name] = rows.map(encode, batched=True, remove_columns=["prompt", "completion"])
        return sets

    rows = sum(len((folder / f"{n}.jsonl").read_bytes().splitlines()) for n in WEIGHTS)
    rows += sum(len((folder / f"{n}.jsonl").read_bytes().splitlines()) for n in ("valid", "test"))
    sets = watch.part("datasets: load and map, first", rows, mapped)
    watch.part("datasets: load and map, cached", rows, mapped)
    mixed = datasets.interleave_datasets(
        [sets[name] for name in WEIGHTS], probabilities=list(WEIGHTS.values()), seed=0
    )
    taken = min(draws, len(mixed))

    def drawn() -> Iterator[Any]:
        yield from itertools.islice(iter(mixed), taken)

    watch.part("datasets: interleave_datasets, one by one", taken, lambda: sum(1 for _ in drawn()))
    watch.part(
        "datasets: interleave_datasets, batches",
        taken,
        lambda: [mixed[start : start + 32] for start in range(0, taken, 32)],
    )


def main(arguments: list[str]) -> int:
    """Measure both sides, and print a line for each part."""
    options = parsed(arguments)
    from jobs.base_models import fetch

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_rows(folder, options.rows, options.seed)
        sources = [
            setting
            for name, weight in WEIGHTS.items()
            for setting in (
                f"data.sources.{name}.path={folder / f'{name}.jsonl'}",
                f"data.sources.{name}.weight={weight}",
            )
        ]
        held_out = [f"data.{split}={folder / f'{split}.jsonl'}" for split in ("valid", "test")]
        line = ["data=files", "data.name=bench", "data.instruction=Sort the ticket:"]
        config = build(compose([*line, *sources, *held_out, f"model={options.model}"], None))
        base = fetch.locate(config.model)
        if base is None:
            raise InputError(
                f"the base model is not here: python -m orchestrator job=setup "
                f"model={options.model} fetches it"
            )
        os.environ |= {
            "ORCHESTRATOR_CACHE": str(folder / "cache"),
            "HF_DATASETS_CACHE": str(folder / "datasets"),
            "HF_HUB_OFFLINE": "1",
        }
        watch = Stopwatch()
        print(f"{options.rows:,} rows, {options.model}, {os.cpu_count()} cores", flush=True)
        measure_project(config, base.path, options.draws, watch)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{'most memory of the project':42} {peak:>10,.0f} MB", flush=True)
        if not options.no_peers:
            measure_datasets(folder, config.data.instruction, base.path, options.draws, watch)
        if options.json is not None:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            record = {"rows": options.rows, "model": options.model, "parts": watch.lines}
            options.json.write_text(json.dumps(record | {"peak_memory_mb": peak}, indent=1))
    return 0


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--draws", type=int, default=20_000, help="examples that are sampled")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-peers", action="store_true", help="leave datasets out")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(answer(lambda: main(sys.argv[1:])))
