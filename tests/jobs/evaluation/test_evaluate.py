"""Judging when memory is short: the same answers in smaller portions, and a clear end when nothing
fits.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as processes

from jobs.base_models import fetch
from jobs.config import Adapter, BaseModel, Data, Model, Scoring, Train, Trial
from jobs.data.chat_template import ChatTokenizer
from jobs.evaluation import evaluate, generate
from jobs.evaluation.evaluate import evaluate_on_test
from jobs.evaluation.generate import answer
from jobs.evaluation.scores import EvaluationSettings
from jobs.model.loading import attach, load, save
from jobs.model.memory import out_of_memory
from jobs.model.row_decoding import PROBED
from tests.support.trials import tiny_trial

CPU = torch.device("cpu")
RULE = EvaluationSettings(confidence=0.95, max_new_tokens=3, num_threads=1)


@pytest.fixture(scope="module")
def base(cache: Path) -> BaseModel:
    return fetch.prepare(Model(name="tiny", source="tiny"), cache)


def with_memory_for(model: Any, rows: int, error: Exception) -> Any:
    """`model`, which runs out of memory as torch does when more than `rows` rows go through it at
    once.
    """

    def check(module: Any, inputs: Any, named: dict[str, Any]) -> None:
        if len(named["input_ids"]) > rows:
            raise error

    model.register_forward_pre_hook(check, with_kwargs=True)
    return model


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("could not create a primitive"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:28] or type(error).__name__)
def test_out_of_memory_while_answering_goes_on_with_fewer_rows_and_the_same_answers(
    base: BaseModel, error: Exception
) -> None:
    template = ChatTokenizer(base.path)
    prompts = [
        template.encode("a question that all share " + "?" * (i % 3) + chr(97 + i % 26))
        for i in range(100)
    ]
    expected = answer(load(base.path, torch.float32, CPU), prompts, template, 4, lambda rows: None)
    assert len(set(expected)) > 10, "answers that could be mixed up"
    ticks: list[int] = []
    given = answer(
        with_memory_for(load(base.path, torch.float32, CPU), 5, error),
        prompts,
        template,
        4,
        ticks.append,
    )
    assert given == expected
    assert sum(ticks) == 100
    assert max(ticks) <= 5


def test_long_prompts_are_answered_in_smaller_numbers(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    template, model = ChatTokenizer(base.path), load(base.path, torch.float32, CPU)
    prompts = [
        template.encode(chr(97 + i % 26) * length) for length in (5, 40, 500) for i in range(10)
    ]
    expected = answer(model, prompts, template, 4, lambda rows: None)
    monkeypatch.setitem(generate.TOKENS_AT_ONCE, "cpu", 200)
    together: list[tuple[int, int]] = []
    model.register_forward_pre_hook(
        lambda module, inputs, named: together.append(tuple(named["input_ids"].shape)),
        with_kwargs=True,
    )
    ticks: list[int] = []
    assert answer(model, prompts, template, 4, ticks.append) == expected
    assert sum(ticks) == 30
    read = [(rows, width) for rows, width in together if width > 1 and rows != PROBED]
    assert max(width for _, width in read) >= 500
    assert all(rows == 1 or rows * (width + 4) <= 200 for rows, width in read)
    assert max(rows for rows, width in read if width < 40) > 5


def test_one_prompt_that_does_not_fit_says_how_long_it_is_and_what_helps(base: BaseModel) -> None:
    template = ChatTokenizer(base.path)
    model = with_memory_for(
        load(base.path, torch.float32, CPU), 0, torch.OutOfMemoryError("CUDA out of memory")
    )
    with pytest.raises(MemoryError, match=r"one prompt of 5 tokens; a smaller train\.max_length"):
        answer(model, [template.encode("hello")] * 40, template, 4, lambda rows: None)


def test_any_other_error_while_answering_is_not_taken_for_a_lack_of_memory(base: BaseModel) -> None:
    template = ChatTokenizer(base.path)
    model = with_memory_for(
        load(base.path, torch.float32, CPU),
        0,
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    )
    with pytest.raises(RuntimeError, match="shapes"):
        answer(model, [template.encode("hello")] * 40, template, 4, lambda rows: None)


def trial_on(folder: Path) -> Trial:
    """A trial whose 32 test prompts have about 1,500 tokens each, all of one length."""
    for split, padding in (("train", ""), ("test", "y" * 1500)):
        lines = [{"prompt": f"{split} {i:02d} {padding}", "completion": "A"} for i in range(32)]
        (folder / f"{split}.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
        )
    data = Data(name="toy", folder=str(folder))
    return tiny_trial(data, Train(max_length=1700))


def test_a_product_that_no_kernel_computes_is_no_lack_of_memory() -> None:
    assert not out_of_memory(
        RuntimeError("could not create a primitive descriptor for a matmul primitive")
    )


def judged(trial: Trial, base: BaseModel) -> tuple[list[int], list[str]]:
    """How many rows were answered after each portion, and the answers; all at once as long as
    memory lasts.
    """
    generate.TOKENS_AT_ONCE["cpu"] = 1 << 20
    done: list[int] = []
    verdict = evaluate_on_test(trial, base, None, RULE, lambda rows, total: done.append(rows))
    return done, [row["prediction"] for row in verdict.predictions]


def starve(trial: Trial, base: BaseModel, report: Any) -> None:
    """Judge with little more memory than the model needs."""
    import sacrebleu  # its libraries need address space of their own

    assert sacrebleu
    torch.set_num_threads(1)
    template = ChatTokenizer(base.path)
    answer(
        load(base.path, torch.float32, CPU),
        [template.encode("warm up")] * 2,
        template,
        2,
        lambda rows: None,
    )
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 2**20, resource.RLIM_INFINITY))
    try:
        report.put(judged(trial, base))
    except Exception:
        report.put(traceback.format_exc())


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="needs /proc to measure its own memory"
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="limits the memory of a CPU")
def test_judging_with_too_little_memory_gives_the_verdict_of_a_larger_machine(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "TOKENS_AT_ONCE", {})
    # What a second thread would set aside of the address space, and when, is chance.
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    trial = trial_on(tmp_path)
    context = processes.get_context("spawn")
    report = context.Queue()
    process = context.Process(target=starve, args=(trial, base, report))
    process.start()
    reported = report.get(timeout=480)
    process.join(240)
    assert process.exitcode == 0 and not isinstance(reported, str), reported
    done, answers = reported
    calm, expected = judged(trial, base)
    assert calm[-1] == done[-1] == 32
    assert answers == expected


def test_answers_that_had_not_ended_are_counted_and_told(base: BaseModel, tmp_path: Path) -> None:
    for split in ("train", "test"):
        lines = [{"prompt": f"{split} {i:02d}", "completion": "A"} for i in range(32)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{split}.jsonl").write_text(text, encoding="utf-8")
    trial = tiny_trial(Data(name="toy", folder=str(tmp_path)), Train(max_length=64))
    verdict = evaluate_on_test(trial, base, None, RULE, lambda rows, total: None)
    template, model = ChatTokenizer(base.path), load(base.path, torch.float32, CPU)
    prompts = [template.encode(row["prompt"]) for row in verdict.predictions]
    ids = generate.continue_all(model, prompts, template, 3, lambda rows: None)
    unended = sum(len(row) == 3 for row in ids)
    assert verdict.num_unended == unended > 0
    assert verdict.metrics()["test/unended"] == unended


def test_prompts_are_read_once_for_answers_losses_and_thresholds(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "valid", "test"):
        lines = [
            {"prompt": f"{split} {i:02d}", "completion": "yes" if i % 3 else "no"}
            for i in range(40)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{split}.jsonl").write_text(text, encoding="utf-8")
    trial = tiny_trial(Data(name="toy", folder=str(tmp_path)), Train(max_length=64))
    costs = {"no": {"yes": 10.0}, "yes": {"no": 1.0}}
    rule = dataclasses.replace(RULE, scoring=Scoring(costs=costs))
    trained = tmp_path / "adapter"
    model = attach(load(base.path, torch.float32, CPU), Adapter(), seed=1)
    save(model, trained)
    quick = evaluate_on_test(trial, base, str(trained), rule)
    assert quick.threshold, "two labels and costs"
    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "teacher_forced_rows", no_further_pass)
        again = evaluate_on_test(trial, base, str(trained), rule)
    assert again.metrics() == quick.metrics()
    monkeypatch.setattr(generate, "FEWEST_TOGETHER", 1000)
    slow = evaluate_on_test(trial, base, str(trained), rule)
    texts = [[row["prediction"] for row in each.predictions] for each in (slow, quick)]
    assert texts[0] == texts[1]
    for name, value in slow.metrics().items():
        assert quick.metrics()[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert slow.threshold["cost"] == quick.threshold["cost"]
    assert slow.threshold["brier"] == pytest.approx(quick.threshold["brier"], rel=1e-4)


def no_further_pass(*_: Any) -> torch.Tensor:
    raise AssertionError("the prompts go through the model a second time")
