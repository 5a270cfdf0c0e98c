"""A dry run refuses the storage that the run would refuse, and makes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator.errors import InputError
from orchestrator.project import ROOT
from orchestrator.storage.locks import check_writable

NOBODY = 65534


def test_a_folder_that_is_there_or_can_be_made_is_taken_and_not_made(tmp_path: Path) -> None:
    check_writable(str(tmp_path))
    check_writable(str(tmp_path / "a" / "b"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(InputError, match=r"storage .*a/b cannot be written: .*/a is no folder; "):
        check_writable(str(tmp_path / "a" / "b"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_of_somebody_else_is_refused() -> None:
    with tempfile.TemporaryDirectory() as folder:  # outside pytest's, which nobody else may enter
        Path(folder).chmod(0o755)
        refuse_as_nobody(Path(folder))


def refuse_as_nobody(folder: Path) -> None:
    """Whoever may not write into `folder` is told."""
    program = (
        "import os, sys; from orchestrator.storage.locks import check_writable; "
        f"os.setuid({NOBODY}); check_writable(sys.argv[1])"
    )
    answered = subprocess.run(
        [sys.executable, "-c", program, str(folder / "new")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "cannot be written: Permission denied; choose another one" in answered.stderr
