"""Measures of how readable the sources are: `python -m tests.support.readability [FOLDER ...]`.

The figures are those that codebases of this field were compared by; docs/contributing has none of
them as a goal but the ones that tests/test_structure.py holds.
"""

from __future__ import annotations

import ast
import re
import statistics
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("orchestrator", "jobs")
VAGUE = frozenset(
    {
        "found",
        "own",
        "part",
        "parts",
        "place",
        "places",
        "number",
        "numbers",
        "known",
        "kept",
        "given",
        "made",
        "thing",
        "things",
        "said",
        "told",
        "seen",
        "taken",
        "each",
        "other",
        "others",
        "rest",
        "whole",
        "held",
        "whose",
        "there",
        "here",
        "what",
        "way",
    }
)
"""Names that tell nothing of what they hold."""


def sources(folders: tuple[str, ...] = FOLDERS) -> list[Path]:
    """The files that are measured."""
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def bindings(tree: ast.AST) -> list[str]:
    """Every name that is bound: parameters, assignments, loops, attributes of self."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            names.append(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.append(node.attr)
    return names


def vague_bindings(file: Path) -> list[str]:
    """The vague names that a file binds, with repetitions."""
    return [name for name in bindings(ast.parse(file.read_text("utf-8"))) if name in VAGUE]


def is_statement_ternary(node: ast.AST) -> bool:
    """Whether it is `a() if x else b()` as a statement of its own."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.IfExp)


def nested_ternaries(tree: ast.AST) -> int:
    """How many conditional expressions stand in another one's branches."""
    outer = [node for node in ast.walk(tree) if isinstance(node, ast.IfExp)]
    return sum(
        isinstance(node.body, ast.IfExp) or isinstance(node.orelse, ast.IfExp) for node in outer
    )


def several_assignments(tree: ast.AST) -> int:
    """How many statements assign a tuple of values to a tuple of names."""
    return sum(
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Tuple)
        and isinstance(node.value, ast.Tuple)
        for node in ast.walk(tree)
    )


def measure(files: list[Path]) -> dict[str, float]:
    """The figures of these files together."""
    texts = {file: file.read_text("utf-8") for file in files}
    trees = {file: ast.parse(text) for file, text in texts.items()}
    lines = [line for text in texts.values() for line in text.splitlines()]
    functions = [
        node
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = sorted((node.end_lineno or 0) - node.lineno + 1 for node in functions)
    top_level = Counter(
        node.name
        for tree in trees.values()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    )
    if not functions:
        return {}
    folders = Counter(file.parent for file in files if file.name != "__init__.py")
    vague = sum(name in VAGUE for tree in trees.values() for name in bindings(tree))
    ternaries = sum(is_statement_ternary(n) for tree in trees.values() for n in ast.walk(tree))
    return {
        "files": len(files),
        "lines": len(lines),
        "vague bindings per 1,000 lines": 1000 * vague / len(lines),
        "top-level names defined twice or more, per file": (
            sum(count > 1 for count in top_level.values()) / len(files)
        ),
        "files per folder, median": statistics.median(folders.values()),
        "files per folder, most": max(folders.values()),
        "lines over 100 columns, %": 100 * sum(len(line) > 100 for line in lines) / len(lines),
        "comments, % of lines": (
            100 * sum(bool(re.match(r"\s*#", line)) for line in lines) / len(lines)
        ),
        "lines of a function, median": statistics.median(lengths),
        "lines of a function, 90th percentile": lengths[int(0.9 * len(lengths))],
        "lines of a function, most": lengths[-1],
        "statement ternaries per 1,000 functions": 1000 * ternaries / len(functions),
        "nested ternaries": sum(map(nested_ternaries, trees.values())),
        "conditions written as loops": sum(map(conditions_as_loops, trees.values())),
        "several assignments on one line": sum(map(several_assignments, trees.values())),
        "Any": sum(len(re.findall(r"\bAny\b", text)) for text in texts.values()),
    }


def rooms(folders: tuple[str, ...]) -> dict[str, list[Path]]:
    """The measured files by the folder that they lie in, the folders of a pack as one."""
    by_room: dict[str, list[Path]] = {}
    for file in sources(folders):
        room = "/".join(file.relative_to(ROOT).parent.parts[:2])
        by_room.setdefault(room, []).append(file)
    return by_room


def conditions_as_loops(tree: ast.AST) -> int:
    """How many loops run over `x if condition else ()`: a condition dressed as a loop."""
    return sum(isinstance(n, ast.For) and isinstance(n.iter, ast.IfExp) for n in ast.walk(tree))


COLUMNS = {
    "vague": "vague bindings per 1,000 lines",
    ">100": "lines over 100 columns, %",
    "stmt": "statement ternaries per 1,000 functions",
    "nested": "nested ternaries",
    "loops": "conditions written as loops",
    "several": "several assignments on one line",
    "Any": "Any",
    "lines": "lines",
}
"""The figures that are shown for each room."""


if __name__ == "__main__":
    FOLDERS_ASKED = tuple(sys.argv[1:]) or FOLDERS
    for name, value in measure(sources(FOLDERS_ASKED)).items():
        print(f"{name:50} {value:10,.1f}")
    print(f"\n{'room':30}" + "".join(f"{column:>9}" for column in COLUMNS))
    for room, files in rooms(FOLDERS_ASKED).items():
        figures = measure(files)
        if figures:
            print(f"{room:30}" + "".join(f"{figures[key]:9,.1f}" for key in COLUMNS.values()))
