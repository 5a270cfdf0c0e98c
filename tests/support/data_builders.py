"""The scripts that built the committed data, and the rows that they wrote."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType


def load_builder(folder: Path) -> ModuleType:
    """The build.py of a folder as a module."""
    spec = importlib.util.spec_from_file_location(f"{folder.name}_build", folder / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look it up there
    for file in folder.glob("*.py"):  # another folder's module of the same name may be loaded
        sys.modules.pop(file.stem, None)
    spec.loader.exec_module(module)
    return module


def read_rows(file: Path) -> list[dict[str, str]]:
    """All rows of a file of JSON lines, which ends with a line break."""
    content = file.read_text(encoding="utf-8")
    assert content.endswith("\n")
    return [json.loads(line) for line in content[:-1].split("\n")]
