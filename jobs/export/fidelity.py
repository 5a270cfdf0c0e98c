"""Whether an exported file is the model that was trained, before anybody scores it.

Asked in its own runtime: the prompt that its template makes, byte for byte; the tokens of that
prompt; which tokens end an answer; and the probabilities of what it answers. Raises ValueError with
the reason for the first that is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.data.chat_template import ChatTokenizer
from jobs.data.readers import Row
from jobs.data.rendering import renderer
from jobs.data.task_prompt import from_messages, from_prompt
from jobs.export.divergence import Divergence, Reference, of_prompts
from jobs.export.formats import Format
from jobs.llama_cpp.runtime import Runtime
from jobs.onnx_genai.runtime import OnnxRuntime

QUESTIONS = (
    "Typhoid fever",
    "What are 12 + 345 and 6789?  Two  spaces, and\na second line\n\n\ttab.",
    "Grüße, naïve café, 東京 ไทย العربية 😀 don't I'LL x_y={'a': [1.5e-3, None]};",
)
"""Asked of every file: what tokenizers differ in."""
MOST_ROWS = 4
MOST_TOKENS = 12
"""Prompts of the version's own test rows that are answered, and tokens of each answer."""


def check_chat(
    runtime: Runtime | OnnxRuntime, template: ChatTokenizer, task: dict[str, Any]
) -> int:
    """Compare prompts and their tokens; the number of prompts."""
    rows = fixed_rows(task)
    for row in rows:
        wanted = renderer(template).render(row).prompt
        check_tokens(runtime.tokenize(wanted), template.encode(wanted), template)
        actual = runtime.render(row.context)
        if actual != wanted:
            at = next(
                (i for i, (a, b) in enumerate(zip(actual, wanted, strict=False)) if a != b),
                min(len(actual), len(wanted)),
            )
            raise ValueError(
                "its chat template makes another prompt than the model was trained on: "
                f"{shown(actual, at)} where {shown(wanted, at)} is to stand (character {at})"
            )
    return len(rows)


def check_tokens(actual: list[int], wanted: list[int], template: ChatTokenizer) -> None:
    """Raise ValueError where the runtime gives the model other tokens than it was trained on."""
    if actual == wanted:
        return
    if actual[1:] == wanted:
        raise ValueError(
            f"it puts a token before each prompt ({template.decode(actual[:1], False)!r}), so that "
            "the beginning of text is doubled: tokenizer.ggml.add_bos_token must be false"
        )
    at = next(
        (i for i, (a, b) in enumerate(zip(actual, wanted, strict=False)) if a != b),
        min(len(actual), len(wanted)),
    )
    raise ValueError(
        f"its tokenizer gives other tokens than the model was trained on: {actual[at : at + 4]} "
        f"where {wanted[at : at + 4]} are to stand (token {at}, after "
        f"{template.decode(wanted[:at], False)[-20:]!r})"
    )


def check_ends(runtime: Runtime, template: ChatTokenizer, file: Path) -> None:
    """Raise ValueError where an answer would end elsewhere than in training."""
    import gguf

    entry = gguf.GGUFReader(file).get_field("tokenizer.ggml.eos_token_id")
    named = None if entry is None else int(entry.contents())
    if named not in template.eos_ids:
        token = "none" if named is None else f"{named} ({template.decode([named], False)!r})"
        raise ValueError(
            f"its end token is {token}, and the model was trained to end with "
            f"{', '.join(f'{i} ({t!r})' for i, t in ends(template))}"
        )
    asked = template.encode("A")
    for index, token in ends(template):
        if not runtime.complete(asked, 2, logit_bias=[[index, 1000.0]]).ended:
            raise ValueError(f"an answer does not end with the token {index} ({token!r})")


def ends(template: ChatTokenizer) -> list[tuple[int, str]]:
    """The tokens that end an answer."""
    return list(zip(template.eos_ids, template.eos_tokens, strict=True))


def check_answers(
    runtime: Runtime | OnnxRuntime,
    reference: Reference,
    prompts: Sequence[Sequence[int]],
    form: Format,
    adapter: int | None = None,
) -> Divergence:
    """The divergence over some prompts. Raises ValueError beyond the form's tolerance."""
    measured = of_prompts(runtime, reference, prompts, MOST_TOKENS, adapter)
    if not (measured.mean <= form.most_divergence and measured.equal >= form.fewest_equal):
        why = ""
        if adapter is not None:
            without = of_prompts(runtime, reference, prompts, MOST_TOKENS)
            if without.mean <= 1.5 * measured.mean:
                why = "; it answers as without its adapter"
        raise ValueError(
            f"it does not answer as the trained model: {measured}; {form.name} may have "
            f"{form.most_divergence:g} nats and {form.fewest_equal:.0%}{why}"
        )
    return measured


def fixed_rows(task: dict[str, Any]) -> list[Row]:
    """Conversations of the forms that the task's rows have."""
    rows = []
    for question in QUESTIONS:
        try:
            rows.append(from_prompt(question, task))
        except ValueError:  # each row brings a system message of its own
            messages = [
                {"role": "system", "content": "Answer."},
                {"role": "user", "content": question},
            ]
            rows.append(from_messages(json.dumps(messages), task))
    return rows


def held_out_prompts(
    folder: Path, template: ChatTokenizer, most: int = MOST_ROWS
) -> list[list[int]]:
    """Prompts of the version's own test rows, spread over them; fixed ones where it has none."""
    rows = held_out_rows(folder)
    step = max(len(rows) // most, 1)
    texts = [row["text"] for row in rows[::step][:most]]
    return [template.encode(text) for text in texts]


def held_out_rows(folder: Path) -> list[dict[str, Any]]:
    """What the version answered to its test rows."""
    file = folder / "predictions.jsonl"
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line]
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({error}); fetch the version again") from error


def shown(text: str, at: int) -> str:
    """A few characters of a text around a place."""
    return repr(text[max(at - 10, 0) : at + 20])
