"""The model in memory: loading a base, attaching what is trained, running it where the loss is, saving it.

Owns device and number format. Leaves fetching the base to fetch.py.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from jobs.config import Adapter, BaseModel
from jobs.data import Example, shared_prefix
from jobs.masks import Dropper


def pick_device() -> torch.device:
    """The GPU of this process if it has one, else the CPU. Inside a Ray worker only the assigned GPU is visible."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def pick_dtype(setting: str, device: torch.device) -> torch.dtype:
    """The base's number format: as set, or for "auto" bfloat16 where the processor has instructions for it."""
    if setting != "auto":
        return getattr(torch, setting)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if "avx512_bf16" in flags or "amx_bf16" in flags:
            return torch.bfloat16
    return torch.float32


def load(path: str | Path, dtype: torch.dtype, device: torch.device) -> Any:
    """A causal language model in evaluation mode, from a folder in the Hugging Face layout. Raises ValueError when it cannot be read."""
    model = read(path, dtype=dtype)
    head = model.get_output_embeddings()
    if head is not None:
        # The head gets the last positions only, a slice with gaps, for which torch would copy the whole vocabulary matrix once per row.
        head.register_forward_pre_hook(lambda module, inputs: (inputs[0].contiguous(), *inputs[1:]))
    return model.to(device).eval()


def read(path: str | Path, **options: Any) -> Any:
    """What transformers makes of a model folder. Raises ValueError for a folder that it cannot read, and for weights that do not fill the
    model of config.json: it would give the rest random values and say nothing.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options |= {"local_files_only": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    options["trust_remote_code"] = False  # left open, transformers asks on the terminal
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(str(path), **options)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        own_code = "it comes with code of its own (auto_map in its config.json), which is not run here; choose another model"
        reason = own_code if "trust_remote_code" in str(error) else " ".join(str(error).split())[:300]
        raise ValueError(f"cannot load the model in {path}: {reason}") from error
    model, told = loaded
    missing, other = sorted(told["missing_keys"]), sorted(told["mismatched_keys"])
    if missing or other:
        shapes = [f"{name} has the shape {list(here)} instead of {list(wanted)}" for name, here, wanted in other]
        lacks = [f"{len(missing)} weights of it are not there, such as {missing[0]}"] if missing else []
        reason = f"its weights are not those of its config.json: {'; '.join([*lacks, *shapes[:1]])}"
        raise ValueError(f"cannot load the model in {path}: {reason}; fetch or save the folder again")
    return model


def attach(model: Any, adapter: Adapter, seed: int) -> Any:
    """Make `model` trainable: a LoRA (Hu et al., 2021) beside its frozen weights, or all weights in float32.

    The same seed gives the same initial weights as peft's `get_peft_model` after `torch.manual_seed(seed)`. Raises ValueError when the
    targets name no layer, and for dropout before layers that PEFT cannot give any.
    """
    if adapter.kind == "full":
        return model.float().requires_grad_(True)
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=adapter.dropout,
        target_modules=targets_of(model, adapter),
        task_type="CAUSAL_LM",
    )
    first = first_adapted(model, adapter)[0] if adapter.layers < 1 else 0
    torch.manual_seed(seed)
    try:
        made = get_peft_model(model, settings)
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        if "lora_dropout" in reason:
            remedy = "adapter.dropout=0, or adapter.targets that name none of its experts, helps"
            raise ValueError(f"adapter.dropout={adapter.dropout:g}: this model does not take it: {reason} {remedy}") from error
        raise ValueError(f"adapter.targets={adapter.targets}: {reason}") from error
    check_place(made, adapter, first)
    return made


def targets_of(model: Any, adapter: Adapter) -> str | list[str]:
    """What PEFT is to put an adapter on: the settings' own words for all layers, or the full names of what they mean in the last ones and,
    where they name it, outside of layers. Raises ValueError when the last ones have none of it.
    """
    wanted = adapter.targets if adapter.targets == "all-linear" else [name.strip() for name in adapter.targets.split(",")]
    if adapter.layers >= 1:
        return wanted
    meant = [name for name, module in model.named_modules() if means(wanted, name, module)]
    first, number = first_adapted(model, adapter)
    layers = {name: layer for name in meant if (layer := layer_of(name)) is not None}
    upper = [name for name, layer in layers.items() if layer >= first]
    outside = [name for name in meant if name not in layers and wanted != "all-linear"]
    if not upper and (layers or wanted == "all-linear"):
        have = f"the last {number - first} of {number} layers have no {adapter.targets}"
        raise ValueError(f"adapter.layers={adapter.layers:g}: {have}; adapter.layers=1 helps")
    return [*upper, *outside] or wanted


def layer_of(name: str) -> int | None:
    """The layer that a module or weight belongs to, by the first number in its name: those that follow count experts."""
    found = re.match(r".*?\.(\d+)\.", name)
    return int(found[1]) if found else None


def first_adapted(model: Any, adapter: Adapter) -> tuple[int, int]:
    """The first of the layers that `adapter.layers` asks for, and how many layers the model has."""
    number = max((layer for name, _ in model.named_modules() if (layer := layer_of(name)) is not None), default=-1) + 1
    return number - min(max(math.ceil(round(adapter.layers * number, 6)), 1), number), number


def check_place(model: Any, adapter: Adapter, first: int) -> None:
    """Raise ValueError for an adapter below the layers that were asked for, where PEFT puts it on all experts of a name."""
    for name, _ in model.named_parameters():
        if "lora_" in name and (layer := layer_of(name)) is not None and layer < first:
            place = name.partition(".lora_")[0].removeprefix("base_model.model.")
            text = f"adapter.layers={adapter.layers:g}: PEFT puts adapters on {place}, too, below layer {first}"
            raise ValueError(f"{text}; adapter.layers=1, or adapter.targets that name no experts, helps")


def means(wanted: str | list[str], name: str, module: torch.nn.Module) -> bool:
    """Whether PEFT would take a module of this name for a target."""
    if wanted == "all-linear":
        return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
    return name.endswith(tuple(f".{target}" for target in wanted)) or name in wanted


@contextlib.contextmanager
def precision(dtype: torch.dtype, device: torch.device, full: bool) -> Iterator[None]:
    """Computes in `dtype` while every weight is float32 (full fine-tuning); does nothing for a base that is stored in `dtype`."""
    if full and dtype != torch.float32:
        with torch.autocast(device.type, dtype=dtype):
            yield
    else:
        yield


def answer_logits(
    model: Any, examples: list[Example], keep: int, pad_id: int, prefix: int = 0, dropper: Dropper | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits for the last `keep` tokens of each example, and those tokens: float32 (N, keep, vocabulary), int64 (N, keep).

    Rows are padded on the left, so that the ends of all examples line up and the head runs on the last `keep` positions only. A row
    shorter than `keep` has token -100 in front. The first `prefix` tokens, the same in all examples, go through the model once and the
    rows attend to their keys and values; under causal attention that equals repeating them, gradients included. Examples longer than a
    sliding attention window are run whole: the padding between prefix and row would push the prefix out of a short row's sight.
    `dropper` draws what the adapter drops, if anything.
    """
    device = next(model.parameters()).device
    if prefix and max(len(example.ids) for example in examples) > attention_window(model):
        prefix = 0
    owns = [example.ids[prefix:] for example in examples]
    width = max(map(len, owns))
    ids = torch.full((len(owns), width), pad_id)
    mask = torch.zeros((len(owns), width), dtype=torch.long)
    for row, own in enumerate(owns):
        ids[row, width - len(own) :] = torch.tensor(own)
        mask[row, width - len(own) :] = 1
    targets = ids.masked_fill(mask == 0, -100)[:, -keep:]
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.nn.functional.pad(mask, (prefix, 0), value=1),
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0) + prefix,
    }
    known, dropper = accepted(model), dropper or Dropper()
    inputs = {name: value.to(device) for name, value in inputs.items() if name in known}
    common = examples[0].ids[:prefix]
    if prefix:
        dropper.see([common], [])
    cache = prefix_cache(model, common, len(owns)) if prefix else None
    dropper.see(owns, common)
    last = {"logits_to_keep": keep + 1} if "logits_to_keep" in known else {}
    logits = model(**inputs, past_key_values=cache, use_cache=cache is not None, **last).logits
    return logits[:, -keep - 1 : -1].float(), targets.to(device)


def prefix_cache(model: Any, prefix: list[int], rows: int) -> Any:
    """Keys and values of a prefix, repeated for `rows` rows; gradients flow through them."""
    from transformers import DynamicCache

    inner = without_adapter(model)
    cache = DynamicCache(config=inner.config)
    ids = torch.tensor([prefix], device=next(model.parameters()).device)
    # The decoder without its head: nothing here is predicted.
    inner.get_decoder()(input_ids=ids, past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(rows)
    return cache


def attention_window(model: Any) -> float:
    """How many tokens back the layer with the shortest sight sees; infinity when all layers see everything."""
    from transformers import DynamicCache

    layers = DynamicCache(config=without_adapter(model).config).layers
    return min((getattr(layer, "sliding_window", None) or float("inf") for layer in layers), default=float("inf"))


def can_share_prefix(model: Any, examples: list[Example], pad_id: int) -> bool:
    """Whether this architecture gives the same losses with a shared prefix as without, tried on a few examples.

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
            whole, targets = answer_logits(model, few, keep, pad_id)
            shared, _ = answer_logits(model, few, keep, pad_id, prefix)
    except (TypeError, ValueError, AttributeError, NotImplementedError, RuntimeError, LookupError):
        return False
    losses = [torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()) for logits in (whole, shared)]
    return bool((losses[0] - losses[1]).abs() <= tolerance * (1 + losses[0].abs()))


def accepted(model: Any) -> set[str]:
    """Names of the arguments that the underlying model's forward takes."""
    return set(inspect.signature(without_adapter(model).forward).parameters)


def without_adapter(model: Any) -> Any:
    """The model that an adapter is attached to, or the model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def save(model: Any, folder: Path) -> None:
    """Write what was trained: an ordinary PEFT adapter, or the whole model as safetensors."""
    model.save_pretrained(str(folder))
    settings = folder / "adapter_config.json"
    if settings.exists():
        sort_targets(settings)


def sort_targets(file: Path) -> None:
    """peft writes the layers' names in hash order; sorted, two runs of one seed give the same bytes."""
    written = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(written.get("target_modules"), list):
        written["target_modules"].sort()
    file.write_text(json.dumps(written, indent=2), encoding="utf-8")


def restore(base: BaseModel, folder: Path | None, dtype: torch.dtype, device: torch.device, trainable: bool = False) -> Any:
    """The base with a saved adapter on it, a saved whole model, or with no folder the untouched base. The adapter is float32."""
    if folder is None:
        return load(base.path, dtype, device)
    if not (folder / "adapter_config.json").exists():
        return load(folder, dtype, device)
    from peft import PeftModel

    return PeftModel.from_pretrained(load(base.path, dtype, device), str(folder), is_trainable=trainable).eval()
