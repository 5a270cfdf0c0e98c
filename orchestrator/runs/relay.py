"""A command of `runs` done where the sweep's storage is, for someone elsewhere: run there as
`python -m orchestrator.runs.relay STORAGE COMMAND WORD ...`, it prints its answer, and the file
that it has made, as one line that `received` reads here.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
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
FILES = ("report", "archive")
"""Keys of an answer's record that name a file."""


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


def received(printed: str, folder: Path) -> Answer:
    """The answer in what was printed there, its file written into `folder`. Raises InputError or
    OrchestratorError for a refusal, and for a text without an answer.
    """
    lines = [line for line in printed.splitlines() if line.startswith(f"{MARK} ")]
    try:
        message = json.loads(zlib.decompress(base64.b64decode(lines[-1].removeprefix(MARK))))
    except (IndexError, ValueError, binascii.Error, zlib.error) as error:
        last = next((line for line in reversed(printed.splitlines()) if line.strip()), "nothing")
        raise OrchestratorError(f"no answer came from the cluster; it printed: {last}") from error
    if "error" in message:
        raise (InputError if message["code"] == 2 else OrchestratorError)(message["error"])
    text, record = message["text"], message["record"]
    if "file" in message:
        sent = message["file"]
        target = folder / local_name(sent["key"], sent["name"], record["name"])
        target.write_bytes(base64.b64decode(sent["body"]))
        text = text.replace(str(record[sent["key"]]), str(target))
        record = record | {sent["key"]: str(target)}
    return Answer(text, record)


def local_name(key: str, name: str, sweep: str) -> str:
    """What a file from there is called here: a report has the same name in every sweep."""
    return f"report-{sweep}.html" if key == "report" else name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
