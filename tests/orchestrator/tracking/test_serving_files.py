"""The code that travels with a version is all that answering needs."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.tracking.serving_files import copy_code

AGENT = "jobs.serving.responses_agent"


@pytest.fixture
def code(tmp_path: Path) -> Path:
    copy_code(tmp_path / "code")
    return tmp_path / "code"


def file_of(code: Path, module: str) -> Path:
    """Where a module of jobs/ stands in the copy."""
    place = code.joinpath(*module.split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def imported(file: Path, code: Path) -> set[str]:
    """The modules of jobs/ that a file imports, inside functions too."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules |= {node.module, *(name for name in inner if file_of(code, name).exists())}
    return {name for name in modules if name.split(".")[0] in ("jobs", "orchestrator")}


def test_every_module_that_answering_reaches_is_there(code: Path) -> None:
    reached, left = {AGENT}, [AGENT]
    while left:
        file = file_of(code, left.pop())
        assert file.exists(), f"{file.relative_to(code)} does not travel"
        new = imported(file, code) - reached
        reached |= new
        left += sorted(new)
    assert len(reached) > 20


def test_the_agent_is_imported_from_the_copy_alone(code: Path, tmp_path: Path) -> None:
    line = f"import {AGENT}, jobs; print(jobs.__path__[0])"
    variables = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", line],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=variables | {"PYTHONPATH": str(code)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(code / "jobs")
