"""Python source for the source audit: which modules a folder has, and what one module holds."""

from __future__ import annotations

import ast
import tokenize
from pathlib import Path
from typing import Any

State = dict[str, Any]
COUNTS = ("lines", "functions", "classes", "longest")
SKIPPED = {"__pycache__", "dist-packages", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test", "tests"}
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError, OSError)


def find_modules(folder: Path) -> list[str]:
    """The modules below `folder`, without tests, hidden folders and installed packages."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("*.py"))
    return [str(path) for path in found if not any(part in SKIPPED or part[0] == "." for part in path.parts[:-1])]


def module_name(path: str) -> str:
    """The dotted name of the module at `path`: `json` for `json/__init__.py`."""
    return ".".join(Path(path).with_suffix("").parts).removesuffix(".__init__")


def measure_all(folder: Path, paths: list[str]) -> State:
    """Each of the modules, those that cannot be read apart, and their sums."""
    modules, unreadable = [], []
    for path in paths:
        try:
            modules.append(measure(folder / path, module_name(path)))
        except UNREADABLE as error:
            unreadable.append(f"{module_name(path)} cannot be audited: {error}")
    sums = {key: sum(module[key] for module in modules) for key in COUNTS}
    longest = max((module["longest"] for module in modules), default=0)
    return {"modules": modules, "unreadable": unreadable, **sums, "longest": longest}


def measure(path: Path, name: str) -> State:
    """What one module holds. Raises one of UNREADABLE when it cannot be read."""
    with tokenize.open(path) as file:
        text = file.read()
    nodes = list(ast.walk(ast.parse(text)))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [((node.end_lineno or node.lineno) - node.lineno + 1, node.name) for node in functions]
    longest, function = max(lengths, default=(0, "-"))
    return {
        "module": name,
        "lines": len(text.splitlines()),
        "functions": len(functions),
        "classes": sum(isinstance(node, ast.ClassDef) for node in nodes),
        "longest": longest,
        "function": function,
    }


def longest_function(modules: list[State]) -> str:
    """The name of the longest function of all."""
    found = max(modules, key=lambda module: int(module["longest"]), default=None)
    return f"{found['module']}.{found['function']}" if found and found["longest"] else "-"
