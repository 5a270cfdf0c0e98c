"""A model as ONNX, by the builder of onnxruntime-genai, and whether it ends its answers where it
was trained to.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from jobs.data.chat_template import ChatTokenizer
from jobs.export.formats import Format

CONFIG = "genai_config.json"
BUILD_SECONDS = 3600


def is_known(architecture: str) -> bool:
    """Whether the builder that is installed names a model class, and a builder that cannot be read
    is asked by running it.
    """
    package = importlib.util.find_spec("onnxruntime_genai")
    for folder in (package and package.submodule_search_locations) or []:
        try:
            source = (Path(folder) / "models" / "builder.py").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        return f'"{architecture}"' in source
    return True


def write_onnx(merged: Path, target: Path, form: Format, template: ChatTokenizer) -> None:
    """Write the transformers model in `merged` to the folder `target`, which ends its answers as
    the template does. Raises ValueError where the builder does not take its architecture.
    """
    with tempfile.TemporaryDirectory(prefix="onnx-") as cache:
        line = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        line += ["-i", str(merged), "-o", str(target), "-c", cache, "-e", "cpu"]
        line += ["-p", form.quantization.lower()]
        done = subprocess.run(
            line,
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
    if done.returncode != 0 or not (target / CONFIG).exists():
        said = [text.strip() for text in done.stderr.splitlines() if text.strip()]
        kind = json.loads((merged / "config.json").read_text(encoding="utf-8"))
        name = (kind.get("architectures") or [kind.get("model_type")])[0]
        raise ValueError(
            f"onnxruntime-genai's builder cannot write {name} as {form.name}: "
            f"{(said or ['it says nothing'])[-1][:300]}; export.format=gguf-q8_0 is another file "
            "for small machines"
        )
    config = read_config(target)
    config["model"]["eos_token_id"] = list(template.eos_ids)
    (target / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")


def read_config(folder: Path) -> dict[str, Any]:
    """What onnxruntime-genai reads beside the weights."""
    return json.loads((folder / CONFIG).read_text(encoding="utf-8"))


def check_ends(folder: Path, template: ChatTokenizer) -> None:
    """Raise ValueError where an answer would end elsewhere than in training."""
    named = read_config(folder)["model"].get("eos_token_id")
    tokens = set(named) if isinstance(named, list) else {named}
    if tokens != set(template.eos_ids):
        wanted = ", ".join(map(str, sorted(template.eos_ids)))
        raise ValueError(
            f"its end tokens are {', '.join(map(str, sorted(tokens, key=str)))}, and the model was "
            f"trained to end with {wanted}"
        )
