"""One forward pass over a prefix that prompts have in common."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, cast

import torch

from jobs.data.tokenization import Example, shared_prefix
from jobs.foreign_code import FOREIGN_CODE_ERRORS
from jobs.model.seeded_dropout import DropoutState

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from jobs.model.language_model import LanguageModel


def answer_logits(
    model: LanguageModel,
    examples: list[Example],
    keep: int,
    pad_id: int,
    prefix: int = 0,
    dropper: DropoutState | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits for the last `keep` tokens of each example, and those tokens: float32 (N, keep,
    vocabulary), int64 (N, keep).

    Rows are padded on the left, so that the ends of all examples line up and the head runs on the
    last `keep` positions only. A row shorter than `keep` has token -100 in front. The first
    `prefix` tokens, the same in all examples, go through the model once and the rows attend to
    their keys and values; under causal attention that equals repeating them, gradients included.
    Examples longer than a sliding attention window are run whole: the padding between prefix and
    row would push the prefix out of a short row's sight. `dropper` draws what the adapter drops, if
    anything.
    """
    device = next(model.parameters()).device
    if prefix and max(len(example.ids) for example in examples) > attention_window(model):
        prefix = 0
    positions_by_row = [example.ids[prefix:] for example in examples]
    width = max(map(len, positions_by_row))
    ids = torch.full((len(positions_by_row), width), pad_id)
    mask = torch.zeros((len(positions_by_row), width), dtype=torch.long)
    for row, positions in enumerate(positions_by_row):
        ids[row, width - len(positions) :] = torch.tensor(positions)
        mask[row, width - len(positions) :] = 1
    targets = ids.masked_fill(mask == 0, -100)[:, -keep:]
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.nn.functional.pad(mask, (prefix, 0), value=1),
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0) + prefix,
    }
    parameters = accepted(model)
    dropper = dropper or DropoutState()
    inputs = {name: value.to(device) for name, value in inputs.items() if name in parameters}
    common = examples[0].ids[:prefix]
    if prefix:
        dropper.see([common], [])
    cache = prefix_cache(model, common, len(positions_by_row)) if prefix else None
    dropper.see(positions_by_row, common)
    last = {"logits_to_keep": keep + 1} if "logits_to_keep" in parameters else {}
    logits = model(**inputs, past_key_values=cache, use_cache=cache is not None, **last).logits
    return logits[:, -keep - 1 : -1].float(), targets.to(device)


def prefix_cache(model: LanguageModel, prefix: list[int], rows: int) -> Any:
    """Keys and values of a prefix, repeated for `rows` rows; gradients flow through them."""
    from transformers import DynamicCache

    inner = without_adapter(model)
    cache = DynamicCache(config=inner.config)
    ids = torch.tensor([prefix], device=next(model.parameters()).device)
    # The decoder without its head: nothing here is predicted.
    inner.get_decoder()(input_ids=ids, past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(rows)
    return cache


def attention_window(model: LanguageModel) -> float:
    """How many tokens back the layer with the shortest sight sees; infinity when all layers see
    everything.
    """
    from transformers import DynamicCache

    layers = DynamicCache(config=without_adapter(model).config).layers
    return min(
        (getattr(layer, "sliding_window", None) or float("inf") for layer in layers),
        default=float("inf"),
    )


def can_share_prefix(model: LanguageModel, examples: list[Example], pad_id: int) -> bool:
    """Whether this architecture gives the same losses with a shared prefix as without, tried on a
    few examples.

    Recurrent layers, or caches that keep something else than keys and values, do not.
    """
    few = examples[:4]
    prefix = shared_prefix(few)
    if prefix == 0:
        return False
    keep = min(len(example.ids) - example.prompt_length for example in few)
    tolerance = 1e-3 if next(model.parameters()).dtype == torch.float32 else 5e-2
    try:
        with torch.no_grad():
            unshared, targets = answer_logits(model, few, keep, pad_id)
            shared, _ = answer_logits(model, few, keep, pad_id, prefix)
    except FOREIGN_CODE_ERRORS:
        return False
    losses = [
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        for logits in (unshared, shared)
    ]
    return bool((losses[0] - losses[1]).abs() <= tolerance * (1 + losses[0].abs()))


def accepted(model: LanguageModel) -> set[str]:
    """Names of the arguments that the underlying model's forward takes."""
    return set(inspect.signature(without_adapter(model).forward).parameters)


def without_adapter(model: LanguageModel) -> PreTrainedModel:
    """The model that an adapter is attached to, or the model itself."""
    if hasattr(model, "peft_config"):
        return cast("PeftModel", model).get_base_model()  # type: ignore[return-value]
    return cast("PreTrainedModel", model)
