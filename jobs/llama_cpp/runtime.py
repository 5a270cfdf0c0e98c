"""A GGUF file that answers: llama.cpp in a process of its own, asked over loopback.

The process ends with whoever started it. Its key goes through a pipe, so that no other user of the
machine sees it in a list of processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_SECONDS = 600
"""For a large file on a slow disk; a file that cannot be loaded says so at once."""
ANSWER_SECONDS = 3600
FORCED = 1e6
"""What is added to the logit of a token that is to come next."""
INSTALL = "pip install 'slm-orchestrator[gguf]'"


def check_installed() -> None:
    """Raise ValueError, with the remedy, where the runtime is not installed."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise ValueError(
            f"running a GGUF file needs the package xllamacpp, which is not installed: {INSTALL}"
        )


@dataclass(frozen=True)
class Completion:
    """What the runtime continued a prompt with."""

    ids: list[int]
    """Without the token that ended it."""
    text: str
    ended: bool
    """By a token that ends a text or a turn."""
    finish: str = "stop"
    """length where it was cut, else stop."""
    timings: dict[str, float] = field(default_factory=dict)
    probabilities: list[dict[int, float]] = field(default_factory=list)
    """Of each token that was produced, the ending one too: token -> natural logarithm of its
    probability, of the most likely ones. Fewer than tokens where one ended within a character, for
    which llama.cpp tells none: see `told_each`.
    """
    produced: int = 0
    """Tokens, the ending one among them."""


class Runtime:
    """One file, and adapters on it, in one process. A context manager."""

    def __init__(
        self,
        model: Path,
        adapters: Sequence[Path] = (),
        context: int = 1024,
        slots: int = 1,
        threads: int | None = None,
    ) -> None:
        """Start the process and load the file. Raises ValueError, with the runtime's reason, where
        that does not work.
        """
        check_installed()
        import requests
        from requests.adapters import HTTPAdapter

        key = secrets.token_urlsafe(24)
        settings = {
            "model": str(model),
            "adapters": [str(path) for path in adapters],
            "context": context,
            "slots": slots,
            "threads": threads or os.cpu_count() or 1,
            "key": key,
        }
        self.num_adapters = len(adapters)
        root = str(Path(__file__).resolve().parent.parent.parent)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jobs.llama_cpp.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": root},
        )
        self.session = requests.Session()
        self.session.trust_env = False  # a proxy has no business between two processes of one user
        self.session.mount("http://", HTTPAdapter(pool_maxsize=64))
        self.session.headers["Authorization"] = f"Bearer {key}"
        # Kept open, a connection is closed by llama.cpp after five idle seconds, at times while the
        # next request is on its way.
        self.session.headers["Connection"] = "close"
        names = ", ".join(path.name for path in (model, *adapters))
        try:
            self.address = self._introduce(settings, names)
        except BaseException:
            self.close()
            raise

    def _introduce(self, settings: dict[str, Any], names: str) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write((json.dumps(settings) + "\n").encode())
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise ValueError(f"llama.cpp broke off while it loaded {names}; the file is damaged")
        answer = json.loads(line)
        if "error" in answer:
            raise ValueError(f"llama.cpp cannot load {names}: {answer['error']}")
        return answer["address"]

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        if getattr(self, "session", None) is not None:
            self.session.close()
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """One request. Raises ValueError with the runtime's own words where it refuses,
        RuntimeError where it is gone.
        """
        import requests

        try:
            answer = self.session.request(
                "GET" if body is None else "POST",
                self.address + path,
                json=body,
                timeout=ANSWER_SECONDS,
            )
        except requests.RequestException as error:
            raise RuntimeError(f"llama.cpp has ended while it answered ({error})") from error
        return read_answer(answer)

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """The prompt that the file's own template makes of a conversation."""
        return self.ask("/apply-template", {"messages": list(messages)})["prompt"]

    def tokenize(self, text: str) -> list[int]:
        """The tokens that the runtime makes of a rendered prompt, as its chat does."""
        body = {"content": text, "add_special": True, "parse_special": True}
        return self.ask("/tokenize", body)["tokens"]

    def scales(self, adapter: int | None) -> list[dict[str, float]]:
        """The setting of a request that lets one adapter act, or none."""
        return [
            {"id": index, "scale": 1.0 if index == adapter else 0.0}
            for index in range(self.num_adapters)
        ]

    def body(
        self, ids: Sequence[int], most: int, adapter: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """A request for a continuation; greedy unless `options` say otherwise."""
        settings = {"temperature": 0.0, "return_tokens": True, "lora": self.scales(adapter)}
        return {"prompt": list(ids), "n_predict": most, **settings, **options}

    def complete(
        self, ids: Sequence[int], most: int, adapter: int | None = None, **options: Any
    ) -> Completion:
        """The continuation of a prompt by at most so many tokens."""
        return completion(self.ask("/completion", self.body(ids, most, adapter, **options)))

    def told_each(
        self, ids: Sequence[int], most: int, adapter: int | None, count: int, **options: Any
    ) -> Completion:
        """A continuation with the probabilities of each of its tokens; nothing (an empty
        dictionary) for a token that llama.cpp tells none of.
        """
        told = self.complete(ids, most, adapter, n_probs=count, **options)
        if len(told.probabilities) == told.produced:
            return told
        each = []
        for position in range(told.produced):
            one = self.complete([*ids, *told.ids[:position]], 1, adapter, n_probs=count)
            each.append(one.probabilities[0] if one.probabilities else {})
        return dataclasses.replace(told, probabilities=each)

    def log_probability(self, ids: Sequence[int], token: int, adapter: int | None) -> float | None:
        """The natural logarithm of the probability of one token after others; None where llama.cpp
        tells none, as of a token that ends within a character. The token is forced, which leaves
        the probability that is told as it was.
        """
        body = self.body(ids, 1, adapter, n_probs=1, logit_bias=[[token, FORCED]])
        positions = self.ask("/completion", body).get("completion_probabilities") or []
        if not positions or positions[0]["id"] != token:
            return None
        return float(positions[0]["logprob"])

    def stream(
        self, ids: Sequence[int], most: int, adapter: int | None = None, **options: Any
    ) -> Iterator[dict[str, Any]]:
        """The same piece by piece, as llama.cpp tells it."""
        import requests

        body = self.body(ids, most, adapter, stream=True, **options)
        try:
            with self.session.post(
                f"{self.address}/completion", json=body, stream=True, timeout=ANSWER_SECONDS
            ) as answer:
                if answer.status_code != 200:
                    read_answer(answer)
                for line in answer.iter_lines():
                    if line.startswith(b"data: ") and line != b"data: [DONE]":
                        yield json.loads(line[6:])
        except requests.RequestException as error:
            raise RuntimeError(f"llama.cpp has ended while it answered ({error})") from error

    def peak_megabytes(self) -> float | None:
        """The most memory that the process has held, in 10**6 bytes; None where the system does not
        tell.
        """
        return peak_megabytes(self.process.pid)


def peak_megabytes(pid: int) -> float | None:
    """The most memory that a process has held, in 10**6 bytes; None where the system does not
    tell.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    peak = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return None if peak is None else int(peak) * 1024 / 1e6


def read_answer(answer: Any) -> Any:
    """The content of an answer. Raises ValueError for a refusal."""
    if answer.status_code == 200:
        return answer.json()
    try:
        reason = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        reason = answer.text[:200]
    raise ValueError(f"llama.cpp refuses: {reason}")


def completion(answer: dict[str, Any]) -> Completion:
    """An answer of /completion."""
    ended = answer.get("stop_type") == "eos"
    ids = list(answer.get("tokens") or [])
    probabilities = [
        {entry["id"]: entry["logprob"] for entry in position["top_logprobs"]}
        for position in answer.get("completion_probabilities") or []
    ]
    produced = int(answer["tokens_predicted"])
    if ended and len(ids) == produced:
        ids = ids[:-1]
    finish = "length" if answer.get("stop_type") == "limit" else "stop"
    return Completion(
        ids, answer.get("content", ""), ended, finish, answer["timings"], probabilities, produced
    )
