"""One archive with what someone needs who looks into a sweep that went wrong, and no secret."""

from __future__ import annotations

import io
import json
import platform
import sys
import tarfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from jobs.files.drafts import drafted
from orchestrator.config import credentials
from orchestrator.project import ROOT
from orchestrator.remote.code_archive import code_digest
from orchestrator.runs.row_texts import without_rows
from orchestrator.storage.json_files import read_text

TAIL_BYTES = 2_000_000
"""So much of the end of a journal is in it."""
TEXTS = ("config.yaml", "result.json", "tracking.json", "tracking-refused.jsonl")
LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "ray",
    "mlflow",
    "hydra-core",
    "optuna",
    "tokenizers",
    "numpy",
    "pyarrow",
)


def write_archive(folder: Path, record: dict[str, Any], target: Path) -> list[str]:
    """Write the archive of the sweep in a folder; returns the names of what is in it. `record` is
    what `runs show` knows of it.
    """
    credentials.remember_environment()
    texts = {
        "versions.json": json.dumps(versions(), indent=1),
        "sweep.json": json.dumps(record, indent=1),
        "files.txt": "\n".join(listing(folder)),
        "journal-end.jsonl": tail(folder / "journal.jsonl"),
    }
    texts |= {name: read_text(folder / name) for name in TEXTS}
    remember_addresses(texts.values())
    texts = without_rows(texts)
    present = {name: credentials.mask(text) for name, text in texts.items() if text}
    with drafted(target) as draft, tarfile.open(draft, "w:gz") as archive:
        draft.chmod(0o600)
        for name, text in present.items():
            body = text.encode("utf-8", "replace")
            entry = tarfile.TarInfo(f"debug-{folder.name}/{name}")
            entry.size, entry.mtime, entry.mode = len(body), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(body))
    return list(present)


def remember_addresses(texts: Any) -> None:
    """Have the secrets of all addresses in these texts hidden wherever else they stand."""
    for text in texts:
        for address in credentials.ADDRESS.finditer(text):
            if "@" in address[0]:
                credentials.remember_address(address[0])


def tail(file: Path) -> str:
    """The last whole lines of a file."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(size - TAIL_BYTES, 0))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return text if size <= TAIL_BYTES else text.partition("\n")[2]


def versions() -> dict[str, Any]:
    """What the program runs on."""
    libraries = {}
    for name in LIBRARIES:
        try:
            libraries[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            libraries[name] = "not installed"
    return {
        "python": sys.version,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "code": code_digest(ROOT),
        "libraries": libraries,
    }


def listing(folder: Path) -> list[str]:
    """Names and sizes of the files of a sweep."""
    lines = []
    for file in sorted(folder.rglob("*")):
        try:
            if file.is_file():
                lines.append(f"{file.stat().st_size:>12} {file.relative_to(folder)}")
        except OSError:
            continue
    return lines
