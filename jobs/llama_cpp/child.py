"""The process that runs a GGUF file: llama.cpp's own server, on loopback with a key.

`python -m jobs.llama_cpp.child` reads its settings as one line of JSON from stdin and answers with
one line on stdout: the address, or why the file cannot be loaded. It ends when its stdin ends, so
that it never outlives whoever started it, however that one ends.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from typing import Any


def main() -> None:
    """Load the file, tell the address, and wait until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches a whole group; the parent decides
    answers = os.dup(1)
    os.dup2(2, 1)  # llama.cpp prints on stdout, which is for the answer
    settings = json.loads(sys.stdin.readline())
    try:
        server = start(settings)
        line = {"address": server.listening_address}
    except Exception as error:  # noqa: BLE001  # the library has no exceptions of its own
        line = {"error": " ".join(str(error).split())[:300] or type(error).__name__}
    os.write(answers, (json.dumps(line) + "\n").encode())
    os.close(answers)
    while "error" not in line and sys.stdin.read(4096):
        pass
    os._exit(0)


def start(settings: dict[str, Any]) -> Any:
    """A server of llama.cpp over one file and its adapters."""
    xllamacpp: Any = importlib.import_module("xllamacpp")

    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings["key"]]
    params.n_parallel = settings["slots"]
    params.n_ctx = settings["context"] * settings["slots"]
    params.cpuparams.n_threads = settings["threads"]
    params.cpuparams_batch.n_threads = settings["threads"]
    params.cache_ram_mib = 0
    params.fit_params = False
    params.verbosity = 0
    params.ui = False
    params.endpoint_slots = False
    params.lora_init_without_apply = True  # each request says which adapter acts
    adapters = []
    for path in settings["adapters"]:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = path, 1.0
        adapters.append(adapter)
    params.lora_adapters = adapters
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
