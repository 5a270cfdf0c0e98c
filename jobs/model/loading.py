"""The model in memory: loading a base, attaching what is trained, running it where the loss is,
saving it.

Owns device and number format. Leaves fetching the base to fetch.py.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from jobs.config import Adapter, BaseModel
from jobs.model.lora_targets import check_place, first_adapted, targets_of
from jobs.model.matrix_rate import measured_here

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from jobs.model.language_model import LanguageModel

ADAPTER = "adapter_model.safetensors"


def pick_device() -> torch.device:
    """The GPU of this process if it has one, else the CPU. Inside a Ray worker only the assigned
    GPU is visible.
    """
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def pick_dtype(setting: str, device: torch.device) -> torch.dtype:
    """The base's number format: as set, or for "auto" the one that this machine is faster in, by
    measurement.
    """
    if setting != "auto":
        return getattr(torch, setting)
    if device.type == "cuda":
        return (
            torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float32
        )
    return getattr(torch, measured_here().fastest)


def load(path: str | Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """A causal language model in evaluation mode, from a folder in the Hugging Face layout. Raises
    ValueError when it cannot be read.
    """
    model = read(path, dtype=dtype)
    head = model.get_output_embeddings()
    if head is not None:
        # The head gets the last positions only, a slice with gaps, for which torch would copy the
        # whole vocabulary matrix once per row.
        head.register_forward_pre_hook(lambda module, inputs: (inputs[0].contiguous(), *inputs[1:]))
    model.to(device)  # type: ignore[arg-type]
    return model.eval()


def read(path: str | Path, **options: Any) -> PreTrainedModel:
    """What transformers makes of a model folder. Raises ValueError for a folder that it cannot
    read, and for weights that do not fill the model of config.json: it would give the rest random
    values and say nothing.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options |= {
        "local_files_only": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
        "use_safetensors": True,
    }
    options["trust_remote_code"] = False  # left open, transformers asks on the terminal
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(str(path), **options)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        own_code = (
            "it comes with code of its own (auto_map in its config.json), which is not run here; "
            "choose another model"
        )
        reason = (
            own_code if "trust_remote_code" in str(error) else " ".join(str(error).split())[:300]
        )
        raise ValueError(f"cannot load the model in {path}: {reason}") from error
    model, loading_info = loaded
    missing = sorted(loading_info["missing_keys"])
    mismatched = sorted(loading_info["mismatched_keys"])
    if missing or mismatched:
        shapes = [
            f"{name} has the shape {list(actual)} instead of {list(wanted)}"
            for name, actual, wanted in mismatched
        ]
        lacks = (
            [f"{len(missing)} weights of it are not there, such as {missing[0]}"] if missing else []
        )
        reason = f"its weights are not those of its config.json: {'; '.join([*lacks, *shapes[:1]])}"
        raise ValueError(
            f"cannot load the model in {path}: {reason}; fetch or save the folder again"
        )
    return model


def attach(model: LanguageModel, adapter: Adapter, seed: int) -> LanguageModel:
    """Make `model` trainable: a LoRA (Hu et al., 2021) beside its frozen weights, or all weights in
    float32.

    The same seed gives the same initial weights as peft's `get_peft_model` after
    `torch.manual_seed(seed)`. Raises ValueError when the targets name no layer, and for dropout
    before layers that PEFT cannot give any.
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
        adapted = get_peft_model(model, settings)
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        if "lora_dropout" in reason:
            remedy = "adapter.dropout=0, or adapter.targets that name none of its experts, helps"
            raise ValueError(
                f"adapter.dropout={adapter.dropout:g}: this model does not take it: {reason} "
                f"{remedy}"
            ) from error
        raise ValueError(f"adapter.targets={adapter.targets}: {reason}") from error
    check_place(adapted, adapter, first)
    return adapted


@contextlib.contextmanager
def precision(dtype: torch.dtype, device: torch.device, full: bool) -> Iterator[None]:
    """Computes in `dtype` while every weight is float32 (full fine-tuning); does nothing for a base
    that is stored in `dtype`.
    """
    if full and dtype != torch.float32:
        with torch.autocast(device.type, dtype=dtype):
            yield
    else:
        yield


def save(model: LanguageModel, folder: Path) -> None:
    """Write what was trained: an ordinary PEFT adapter, or the whole model as safetensors."""
    model.save_pretrained(str(folder))
    settings = folder / "adapter_config.json"
    if settings.exists():
        sort_targets(settings)


def sort_targets(file: Path) -> None:
    """peft writes the layers' names in hash order; sorted, two runs of one seed give the same
    bytes.
    """
    written = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(written.get("target_modules"), list):
        written["target_modules"].sort()
    file.write_text(json.dumps(written, indent=2), encoding="utf-8")


def restore(
    base: BaseModel,
    folder: Path | None,
    dtype: torch.dtype,
    device: torch.device,
    trainable: bool = False,
) -> LanguageModel:
    """The base with a saved adapter on it, a saved whole model, or with no folder the untouched
    base. The adapter is float32. Raises ValueError for an adapter without safetensors: peft would
    take a pickle in their place.
    """
    if folder is None:
        return load(base.path, dtype, device)
    if not (folder / "adapter_config.json").exists():
        return load(folder, dtype, device)
    if not (folder / ADAPTER).is_file():
        raise ValueError(f"cannot load the adapter in {folder}: it has no {ADAPTER}")
    from peft import PeftModel

    return PeftModel.from_pretrained(
        load(base.path, dtype, device), str(folder), is_trainable=trainable
    ).eval()
