"""An ONNX model that answers: onnxruntime-genai in a process of its own, so that its memory can be
told and a crash of the library is not ours. It answers one request at a time.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jobs.llama_cpp.runtime import Completion, peak_megabytes

INSTALL = "pip install 'slm-orchestrator[onnx]'"
PACKAGES = ("onnxruntime_genai", "onnx_ir")


def check_installed() -> None:
    """Raise ValueError, with the remedy, where writer and runtime are not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"an ONNX model is written and run by the package {missing[0].replace('_', '-')}, "
            f"which is not installed: {INSTALL}"
        )


class OnnxRuntime:
    """One folder with model.onnx and genai_config.json, in one process. A context manager."""

    def __init__(self, model: Path, threads: int | None = None) -> None:
        """Start the process and load the model. Raises ValueError, with the runtime's reason, where
        that does not work.
        """
        check_installed()
        self.lock = threading.Lock()
        root = str(Path(__file__).resolve().parent.parent.parent)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jobs.onnx_genai.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": root},
            text=True,
            encoding="utf-8",
        )
        settings = {"model": str(model), "threads": threads or os.cpu_count() or 1}
        try:
            self.send(settings)
            told = self.read()
            if "error" in told:
                raise ValueError(f"onnxruntime cannot load {model.name}: {told['error']}")
        except RuntimeError as error:
            self.close()
            raise ValueError(f"onnxruntime broke off while it loaded {model.name}") from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> OnnxRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def send(self, request: dict[str, Any]) -> None:
        """Write one line to the process. Raises RuntimeError where it is gone."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise RuntimeError("onnxruntime has ended while it was asked") from error

    def read(self) -> dict[str, Any]:
        """Read one line of the process. Raises RuntimeError where it is gone."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("onnxruntime has ended while it answered")
        return json.loads(line)

    def ask(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The lines that answer a request. Raises ValueError with the runtime's own words where it
        refuses, RuntimeError where it is gone.
        """
        with self.lock:
            self.send(request)
            while True:
                line = self.read()
                if "error" in line:
                    raise ValueError(f"onnxruntime refuses: {line['error']}")
                yield line
                if line.get("done"):
                    return

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """The prompt that the model's own template makes of a conversation."""
        return list(self.ask({"messages": list(messages)}))[-1]["prompt"]

    def tokenize(self, text: str) -> list[int]:
        """The tokens that the runtime makes of a rendered prompt."""
        return list(self.ask({"text": text}))[-1]["tokens"]

    def complete(
        self, ids: Sequence[int], most: int, adapter: int | None = None, **options: Any
    ) -> Completion:
        """The continuation of a prompt by at most so many tokens; `adapter` must be None."""
        return self.told_each(ids, most, adapter, 0)

    def told_each(
        self, ids: Sequence[int], most: int, adapter: int | None, count: int
    ) -> Completion:
        """A continuation with the `count` most likely tokens of each position."""
        assert adapter is None, "an ONNX model has its adapter merged"
        *produced, end = self.ask(self.request(ids, most, count, endless=False))
        tokens = [line["token"] for line in produced]
        likely = [dict(line["likely"]) for line in produced]
        ended = bool(end["ended"])
        finish = "stop" if ended else "length"
        answer = tokens[:-1] if ended else tokens
        probabilities = likely if count else []
        return Completion(answer, "", ended, finish, {}, probabilities, len(tokens))

    @staticmethod
    def request(ids: Sequence[int], most: int, count: int, endless: bool) -> dict[str, Any]:
        """A request for a continuation."""
        return {"ids": list(ids), "most": most, "count": count, "endless": endless}

    def log_probability(self, ids: Sequence[int], token: int, adapter: int | None) -> float | None:
        """The natural logarithm of the probability of one token after others."""
        assert adapter is None, "an ONNX model has its adapter merged"
        return list(self.ask({"ids": list(ids), "token": token}))[-1]["log"]

    def stream(
        self, ids: Sequence[int], most: int, adapter: int | None = None, **options: Any
    ) -> Iterator[dict[str, Any]]:
        """A continuation token by token, which nothing ends before `most`."""
        for line in self.ask(self.request(ids, most, 0, endless=True)):
            yield {"stop": bool(line.get("done"))}

    def peak_megabytes(self) -> float | None:
        """The most memory that the process has held, in 10**6 bytes; None where the system does not
        tell.
        """
        return peak_megabytes(self.process.pid)
