"""The lines of docs/security.md: each names a test that is there, and those that need none of the
other rooms' helpers are tested here.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.config import BaseModel
from orchestrator.cli import main
from orchestrator.report.page import write_report
from orchestrator.runs import cli as runs
from tests.support import secret_scan
from tests.support.journals import write_sweep

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "orchestrator").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")])
READERS = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
"""Modules whose readers run what they read."""


def test_every_line_of_the_threat_model_names_a_test_that_is_there() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if re.match(r"\| (?!line |---)", line)]
    assert len(lines) > 20
    for line in lines:
        named = re.search(r"`(tests/[\w/]+\.py)::(test_\w+)` \|$", line)
        assert named is not None, f"no test: {line}"
        assert f"def {named[2]}(" in (ROOT / named[1]).read_text(encoding="utf-8"), line


def test_no_module_reads_pickles_or_runs_text_as_code() -> None:
    for file in SOURCES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").split(".")[0]]
            assert not READERS & set(names), f"{file}: imports {names}"
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "torch.load", "os.system"), f"{file}: {called}"
            for keyword in node.keywords:
                given = (keyword.arg, ast.unparse(keyword.value))
                assert given not in (
                    ("trust_remote_code", "True"),
                    ("allow_pickle", "True"),
                    ("shell", "True"),
                ), f"{file}: {given}"


def test_a_model_with_code_of_its_own_is_refused_and_its_code_does_not_run(
    base: BaseModel, tmp_path: Path
) -> None:
    model, trap = tmp_path / "model", tmp_path / "it-has-run"
    shutil.copytree(base.path, model)
    settings = json.loads((model / "config.json").read_text())
    settings["model_type"] = "evil"
    settings["auto_map"] = {
        "AutoConfig": "evil.EvilConfig",
        "AutoModelForCausalLM": "evil.EvilModel",
    }
    (model / "config.json").write_text(json.dumps(settings))
    (model / "evil.py").write_text(f"open({str(trap)!r}, 'w').close()\n")
    from jobs.model.loading import read

    with pytest.raises(ValueError, match="code of its own"):
        read(model)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("sweep.name=../outside", "sweep.name"),
        ("sweep.name=$(touch x)", "sweep.name"),
        ("data.name=../outside", "data.name"),
        ("model.name=a/../../b", "model.name"),
        ("tracking.model=../outside", "tracking.model"),
    ],
)
def test_a_name_never_leaves_its_folder(
    setting: str,
    path: str,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    code = main(["model=tiny", "storage=store", setting, "dry_run=true"])
    assert code == 2 and path in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_runs_looks_at_names_of_its_storage_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path / "outputs" / "sweeps" / "lora-1", 3)
    (tmp_path / "precious").mkdir()
    for verb in ("delete", "clean", "show", "report"):
        code = runs.main([verb, "../../precious", "--storage", str(tmp_path / "outputs")])
        assert code == 2 and "no sweep ../../precious" in capsys.readouterr().err
    assert (tmp_path / "precious").is_dir()


def test_a_report_asks_no_other_server(tmp_path: Path) -> None:
    page = write_report(write_sweep(tmp_path / "lora-1", 6)).read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']?\s*(?:https?:)?//[^\"'> ]+", page)
    assert not re.findall(r"@import|url\(\s*[\"']?https?:", page)


def test_a_planted_secret_is_found_and_told_without_it(tmp_path: Path) -> None:
    token = "gh" + "p_" + "a8Kd93kLmQ0pZx72BvN4sTq9Wf3Yh1Rc5EuJ"  # in pieces: this file is scanned
    (tmp_path / "settings.py").write_text(f'TOKEN = "{token}"\n')
    (tmp_path / "notes.md").write_text("nothing to see\n")
    found = secret_scan.scan(tmp_path)
    assert len(found) == 1 and "settings.py, line 1" in found[0] and token not in found[0]


@pytest.mark.slow
def test_the_project_holds_no_secret() -> None:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=True
    )
    assert listed.stdout
    assert secret_scan.scan(ROOT) == []


def audit(root: Path) -> tuple[int, list[str]]:
    """The exit code and the lines of an audit.

    In a process of its own: other tests put folders with packages of theirs into this one's path.
    """
    line = [sys.executable, "-m", "tests.support.dependency_audit", str(root)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    return done.returncode, [*done.stdout.splitlines(), *done.stderr.splitlines()]


def test_every_package_is_pinned_and_under_terms_that_were_looked_at(tmp_path: Path) -> None:
    code, found = audit(ROOT)
    assert code == 0, found
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    changed = [line for line in lines if not line.startswith("jinja2==")]
    changed = [re.sub(r"^requests==.*", "requests==2.0.0", line, flags=re.I) for line in changed]
    changed = [line for line in changed if not line.lower().startswith("jinja2==")]
    (tmp_path / "constraints.txt").write_text(
        "\n".join([*changed, "evil @ https://example.com/evil.whl"]) + "\n"
    )
    code, found = audit(tmp_path)
    assert code == 1
    assert any("jinja2: not pinned" in line for line in found)
    assert any(line.startswith("requests: ") and "pins 2.0.0" in line for line in found)
    assert any("evil @ https" in line and "pins no version" in line for line in found)


def test_make_check_runs_every_tool() -> None:
    (block,) = re.findall(
        r"^check: install\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    for tool in ("ruff check", "secret_scan", "dependency_audit", "pyright"):
        assert tool in block
    assert '"S"' in re.findall(r"^select = .*$", (ROOT / "pyproject.toml").read_text(), re.M)[0]
