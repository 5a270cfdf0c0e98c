"""The process that runs an ONNX model: onnxruntime-genai, asked over a pipe.

`python -m jobs.onnx_genai.child` reads its settings as one line of JSON from stdin and answers with
one line on stdout: that the model is loaded, or why it is not. Then each line of stdin is a
request, answered with one or more lines. It ends when its stdin ends, so that it never outlives
whoever started it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np


class Engine:
    """One model."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.library: Any = importlib.import_module("onnxruntime_genai")
        options = {"session_options": {"intra_op_num_threads": settings["threads"]}}
        config = self.library.Config(settings["model"])
        config.overlay(json.dumps({"model": {"decoder": options}}))
        self.model = self.library.Model(config)
        self.tokenizer = self.library.Tokenizer(self.model)
        self.ends = {int(token) for token in self.tokenizer.eos_token_ids}

    def answer(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The lines that answer a request; the last one has `done`."""
        if "messages" in request:
            text = json.dumps(request["messages"], ensure_ascii=False)
            prompt = self.tokenizer.apply_chat_template(text, add_generation_prompt=True)
            yield {"done": True, "prompt": prompt}
        elif "text" in request:
            tokens = [int(token) for token in self.tokenizer.encode(request["text"])]
            yield {"done": True, "tokens": tokens}
        elif "token" in request:
            yield {"done": True, "log": self.log_probability(request["ids"], request["token"])}
        else:
            yield from self.continued(request)

    def log_probability(self, ids: list[int], token: int) -> float:
        """The logarithm of the probability of a token after others."""
        params = self.library.GeneratorParams(self.model)
        params.set_search_options(max_length=len(ids) + 1, do_sample=False)
        generator = self.library.Generator(self.model, params)
        generator.append_tokens(ids)
        return float(log_probabilities(np.asarray(generator.get_logits()))[token])

    def continued(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The tokens that follow `ids`, at most `most`, each with its `count` most likely rivals;
        with `endless` those that end a text do not.
        """
        ids, most, count = request["ids"], request["most"], request["count"]
        params = self.library.GeneratorParams(self.model)
        longest = len(ids) + most
        shortest = longest if request["endless"] else 0
        params.set_search_options(max_length=longest, min_length=shortest, do_sample=False)
        generator = self.library.Generator(self.model, params)
        generator.append_tokens(ids)
        ended = False
        for _ in range(most):
            likely = most_likely(np.asarray(generator.get_logits()), count) if count else []
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0])
            ended = token in self.ends and not request["endless"]
            yield {"token": token, "likely": likely}
            if ended or generator.is_done():
                break
        yield {"done": True, "ended": ended}


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Of the last position, (V,)."""
    last = logits.reshape(-1, logits.shape[-1])[-1].astype(np.float64)
    logs = last - last.max()
    return logs - np.log(np.exp(logs).sum())


def most_likely(logits: np.ndarray, count: int) -> list[tuple[int, float]]:
    """The most likely tokens of the last position, with the logarithms of their probabilities."""
    logs = log_probabilities(logits)
    best = np.argsort(-logs)[:count]
    return [(int(token), float(logs[token])) for token in best]


def main() -> None:
    """Load the model and answer until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches a whole group; the parent decides
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not stand among the answers

    def tell(line: dict[str, Any]) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    try:
        engine = Engine(json.loads(sys.stdin.readline()))
    except Exception as error:  # noqa: BLE001  # the library has no exceptions of its own
        tell({"error": " ".join(str(error).split())[:300] or type(error).__name__})
        return
    tell({"loaded": True})
    for line in sys.stdin:
        try:
            for answer in engine.answer(json.loads(line)):
                tell(answer)
        except Exception as error:  # noqa: BLE001
            tell({"done": True, "error": " ".join(str(error).split())[:300]})


if __name__ == "__main__":
    main()
