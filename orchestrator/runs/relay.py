"""A command of `runs` done where the sweep's storage is, for someone elsewhere: run there as
`python -m orchestrator.runs.relay STORAGE COMMAND WORD ...`, it prints its answer, and the file
that it has made, as one line that `received` reads here.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

from jobs.files import filesystem
from orchestrator.config import credentials
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.runs import local_commands
from orchestrator.runs.local_commands import Answer
from orchestrator.runs.local_storage import LocalRuns
from orchestrator.runs.object_store import StoreRuns

MODULE = "orchestrator.runs.relay"
MARK = "==== relayed ===="
FILES = {"report": "report-{}.html", "archive": "debug-{}.tar.gz"}
"""Keys of an answer's record that name a file, and what it is called here."""
MOST_BYTES = 512 * 2**20
"""Of an answer; what unpacks to more is refused before it fills the memory."""
SHOWN = 300
"""Characters of what a cluster printed, in a message."""


def main(arguments: list[str]) -> int:
    """Do the command and print its answer; returns 0 also where the answer is a refusal."""
    storage, command, *words = arguments
    credentials.remember_environment()
    with tempfile.TemporaryDirectory(prefix="runs-") as folder:
        os.chdir(folder)  # a file that the command makes for its user goes into the answer
        try:
            runs = StoreRuns(storage) if filesystem.is_uri(storage) else LocalRuns(storage)
            message = told(local_commands.run(runs, command, words))
        except OrchestratorError as error:
            message = {"error": credentials.mask(str(error)), "code": error.exit_code}
        os.chdir("/")
    packed = zlib.compress(json.dumps(message).encode())
    print(f"{MARK} {base64.b64encode(packed).decode()}", flush=True)
    return 0


def told(answer: Answer) -> dict[str, Any]:
    """An answer as what is sent: with the contents of the file that it names."""
    message: dict[str, Any] = {"text": answer.text, "record": answer.record}
    for key in FILES:
        if key in answer.record:
            file = Path(answer.record[key])
            body = base64.b64encode(file.read_bytes()).decode()
            message["file"] = {"key": key, "name": file.name, "body": body}
    return message


def received(printed: str, folder: Path, sweep: str) -> Answer:
    """The answer about a sweep in what was printed there, its file written into `folder` under a
    name that is made here: what comes from there chooses no place on this machine. Raises
    InputError or OrchestratorError for a refusal, and for a text without an answer.
    """
    lines = [line for line in printed.splitlines() if line.startswith(f"{MARK} ")]
    try:
        message = unpacked(base64.b64decode(lines[-1].removeprefix(MARK)))
        if "error" in message:
            kind = InputError if message["code"] == 2 else OrchestratorError
            refusal = kind(str(message["error"]))
        else:
            return kept(message, folder, sweep)
    except (LookupError, TypeError, ValueError, AttributeError, zlib.error) as error:
        last = next((line for line in reversed(printed.splitlines()) if line.strip()), "nothing")
        raise OrchestratorError(
            f"no answer came from the cluster; it printed: {last[:SHOWN]}"
        ) from error
    raise refusal


def unpacked(packed: bytes) -> dict[str, Any]:
    """The message in what was sent. Raises OrchestratorError for one that is too large, and
    ValueError or zlib.error for what is none.
    """
    unpacking = zlib.decompressobj()
    body = unpacking.decompress(packed, MOST_BYTES)
    if unpacking.unconsumed_tail:
        raise OrchestratorError(
            f"the cluster's answer is larger than {MOST_BYTES >> 20} MiB, and is not taken; where "
            "this machine sees the storage, add --storage FOLDER"
        )
    return json.loads(body)


def kept(message: dict[str, Any], folder: Path, sweep: str) -> Answer:
    """An answer that was sent, with its file in `folder`."""
    text, record = str(message["text"]), dict(message["record"])
    if "file" in message:
        sent = message["file"]
        target = folder / local_name(sent["key"], sweep)
        target.write_bytes(base64.b64decode(sent["body"]))
        text = text.replace(str(record[sent["key"]]), str(target))
        record = record | {sent["key"]: str(target)}
    return Answer(text, record)


def local_name(key: str, sweep: str) -> str:
    """What a file from there is called here. The cluster tells also which sweep a job works on:
    what is no name of a sweep is refused.
    """
    if re.fullmatch(r"[\w.-]+", sweep) is None:
        raise OrchestratorError(
            f"{sweep[:SHOWN]!r}, as the cluster calls the sweep, is no name of one; nothing is "
            "written"
        )
    return FILES[key].format(sweep)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
