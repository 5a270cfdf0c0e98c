"""What a base model costs in a format before anything is trained: memory and speed depend on sizes
and number formats, not on what the weights say.

`python -m jobs.export.untouched` reads one JSON object from stdin and answers with one on stdout,
in a process of its own: whoever asks need not load torch.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.config import BaseModel
from jobs.data.chat_template import TODAY, ChatTokenizer
from jobs.export import gguf_base, k_quants, speed
from jobs.export.formats import FORMATS, GGUF, Format
from jobs.export.gguf_model import Provenance, write_model
from jobs.export.onnx_model import write_onnx
from jobs.llama_cpp.runtime import Runtime
from jobs.model.loading import read
from jobs.onnx_genai.runtime import OnnxRuntime

QUESTION = "What is to be done first?"


def measure(
    base: BaseModel, described: dict[str, Any], form: Format, context: int, threads: Sequence[int]
) -> dict[str, Any]:
    """Size, memory and speed of the untouched base in a format. Raises ValueError for a base that
    cannot be written in it.
    """
    template = ChatTokenizer(base.path, TODAY)
    prompt = template.encode(QUESTION)
    task = {"today": TODAY}
    if form.kind == "gguf-adapter":
        file = gguf_base.base_file(base, described, task)
        return speed.costs(
            [file], prompt, threads, lambda count: Runtime(file, (), context, 1, count)
        )
    if form.kind == "onnx":
        with tempfile.TemporaryDirectory(prefix="untouched-") as scratch:
            folder = Path(scratch) / "model"
            write_onnx(Path(base.path), folder, form, template)
            return speed.costs([folder], prompt, threads, lambda count: OnnxRuntime(folder, count))
    with tempfile.TemporaryDirectory(prefix="untouched-") as scratch:
        model = read(base.path)
        written = Path(scratch) / "base.gguf"
        target = written
        plain = FORMATS[GGUF] if form.kind == "gguf-k" else form
        told = Provenance(base.name, "the base model", base.name, base.id, base.revision)
        write_model(
            *(model.state_dict(), model.config, Path(base.path), task, plain, written, told),
            *(gguf_base.source_file(base, described), frozenset()),
        )
        del model
        if form.kind == "gguf-k":
            target = Path(scratch) / "quantised.gguf"
            k_quants.quantize(written, target, form)
        return speed.costs(
            [target], prompt, threads, lambda count: Runtime(target, (), context, 1, count)
        )


def main() -> None:
    """Answer one question."""
    asked = json.loads(sys.stdin.read())
    try:
        answer = measure(
            BaseModel(**asked["base"]),
            asked["described"],
            FORMATS[asked["format"]],
            asked["context"],
            asked["threads"],
        )
    except (ValueError, RuntimeError, MemoryError) as error:
        answer = {"error": str(error) or type(error).__name__}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
