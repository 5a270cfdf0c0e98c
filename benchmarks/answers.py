"""How fast test rows are answered, beside transformers' own loop, and whether with the same tokens.

    python -m benchmarks.answers --data home --rows 60 --threads 1

`--adapter FOLDER` answers with an adapter on the base, `--examples 4` with examples in the prompt,
`--neighbours 6` with similar training rows; `--quick-only` leaves transformers' loop out.
`--scored` measures what the losses of the right answers cost beside, in a pass of their own and in
the pass that reads the prompts. Seconds of processor time are told beside the clock's: on a busy
machine only those compare.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import answer
from orchestrator.config.compose import compose
from orchestrator.config.validation import build, trial_of
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from jobs.data.chat_template import ChatTokenizer
    from jobs.data.tokenization import Example
    from jobs.model.language_model import LanguageModel


def main(arguments: list[str]) -> int:
    """Measure, and print a line for each way."""
    options = parsed(arguments)
    import torch

    from jobs.base_models import fetch
    from jobs.data.chat_template import ChatTokenizer
    from jobs.data.corpus import load_corpus
    from jobs.data.tokenization import encode_asked
    from jobs.evaluation import generate
    from jobs.evaluation.evaluate import test_rows
    from jobs.evaluation.few_shot import with_examples
    from jobs.evaluation.scores import EvaluationSettings
    from jobs.model.frozen_linear import prepack_weights
    from jobs.model.loading import pick_device, restore

    torch.set_num_threads(options.threads)
    settings = [f"data={options.data}", f"model={options.model}"]
    settings += [f"data.neighbours.count={options.neighbours}"] if options.neighbours else []
    config = build(compose(settings, None))
    base = fetch.locate(config.model)
    if base is None:
        raise InputError(
            f"the base model is not here: python -m orchestrator job=setup "
            f"model={options.model} fetches it"
        )
    corpus, template = load_corpus(config.data), ChatTokenizer(base.path)
    trial = trial_of(config, 1, {})
    rule = EvaluationSettings(confidence=0.95, max_new_tokens=None, num_threads=options.threads)
    rows, taken = test_rows(corpus, trial, rule, None), 0
    if options.examples:
        rows, taken = with_examples(rows, corpus, template, Path(base.path), options.examples)
    length = trial.train.max_length + taken
    examples, limit = encode_asked(rows, template, length, None, "test")
    examples = examples[:: max(len(examples) // options.rows, 1)][: options.rows]
    prompts = [example.ids[: example.prompt_length] for example in examples]
    folder = None if options.adapter is None else Path(options.adapter)
    model = restore(base, folder, torch.float32, pick_device()).requires_grad_(False)
    prepack_weights(model, [])
    told: list[list[list[int]]] = []
    fewest_together = generate.FEWEST_TOGETHER
    for name in ["rows together", *([] if options.quick_only else ["transformers' loop"])]:
        if name != "rows together":
            generate.FEWEST_TOGETHER = len(prompts) + 1
        began, busy = time.monotonic(), time.process_time()
        told.append(generate.continue_all(model, prompts, template, limit, lambda count: None))
        seconds, work = time.monotonic() - began, time.process_time() - busy
        generate.FEWEST_TOGETHER = fewest_together
        made = sum(map(len, told[-1]))
        print(
            f"{name:20} {len(prompts)} rows, at most {limit} tokens each, {made:,} made: "
            f"{seconds:.1f} s, {work:.1f} s of processor time, {made / work:.0f} tokens a second",
            flush=True,
        )
    if options.scored:
        measure_scored(
            model, examples, template, limit, trial_of(config, 1, {}).train.pass_tokens()
        )
    if len(told) > 1:
        same = sum(one == other for one, other in zip(*told, strict=True))
        print(f"{same} of {len(prompts)} answers have the same tokens")
    return 0


def measure_scored(
    model: LanguageModel, examples: list[Example], template: ChatTokenizer, limit: int, tokens: int
) -> None:
    """Print what losses cost beside answers, in a pass of their own and in one with these."""
    from jobs.evaluation import generate
    from jobs.evaluation.answer_losses import AnswerLosses
    from jobs.evaluation.evaluate import fill_in

    prompts = [example.ids[: example.prompt_length] for example in examples]
    references = [[example] for example in examples]
    found = []
    for name, gathered in (("losses by themselves", None), ("losses beside", AnswerLosses())):
        began, busy = time.monotonic(), time.process_time()
        generate.continue_all(
            model, prompts, template, limit, lambda count: None, references, gathered
        )
        losses = gathered or AnswerLosses()
        fill_in(model, examples, template.eos_id, tokens, losses)
        seconds, work = time.monotonic() - began, time.process_time() - busy
        found.append(losses.rows(examples)[:, 0])
        print(f"{name:20} {seconds:.1f} s, {work:.1f} s of processor time, answers included")
    print(f"losses differ by at most {float((found[0] - found[1]).abs().max()):.1g}")


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answers", description=__doc__)
    parser.add_argument("--data", default="home")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--examples", type=int, default=0)
    parser.add_argument("--neighbours", type=int, default=0)
    parser.add_argument("--adapter")
    parser.add_argument("--quick-only", action="store_true")
    parser.add_argument("--scored", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(answer(lambda: main(sys.argv[1:])))
