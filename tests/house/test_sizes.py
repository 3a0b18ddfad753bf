"""The budgets of CONTRIBUTING.md: files, functions, arguments, documentation."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE_LINES = 500
FUNCTION_LINES = 60
MODULE_INIT_LINES = 60
DOCSTRING_LINES = 25
FOLDERS = ("ovsdino", "export/ovsdino_export", "runtime/ovsdino_runtime", "benchmarks/ovsdino_benchmarks")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def body_lines(function: Function) -> int:
    """Lines of a function's statements, without its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def too_large(source: str) -> list[str]:
    """What is over its budget in one file."""
    found = []
    lines = len(source.splitlines())
    if lines > FILE_LINES:
        found.append(f"file: {lines} lines, at most {FILE_LINES}")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function):
            limit = MODULE_INIT_LINES if node.name == "__init__" else FUNCTION_LINES
            if body_lines(node) > limit:
                found.append(f"{node.name}: {body_lines(node)} lines, at most {limit}")
        if isinstance(node, Function | ast.ClassDef | ast.Module):
            lines = len((ast.get_docstring(node, clean=False) or "").splitlines())
            if lines > DOCSTRING_LINES:
                name = getattr(node, "name", "module")
                found.append(f"docstring of {name}: {lines} lines, at most {DOCSTRING_LINES}")
    return found


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_a_file_stays_within_the_budgets(path):
    assert not too_large(path.read_text(encoding="utf-8"))


def test_the_budgets_are_enforced():
    long_function = "def f():\n" + "    x = 1\n" * (FUNCTION_LINES + 1)
    assert too_large(long_function) == [f"f: {FUNCTION_LINES + 1} lines, at most {FUNCTION_LINES}"]
    assert too_large("x = 1\n" * (FILE_LINES + 1)) == [f"file: {FILE_LINES + 1} lines, at most {FILE_LINES}"]
    assert not too_large("def f():\n    '''" + "Doc.\n" * 10 + "'''\n" + "    x = 1\n" * FUNCTION_LINES)
