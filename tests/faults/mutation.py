"""A small change to the engine as it stands in this process: a mutation.

A change names a module, a piece of its text that stands there once, and what stands there instead. The changed text is
compiled, and what differs is put into the live objects: a function keeps its identity and gets other code, so that
whoever imported it sees the change; a constant is bound anew wherever it was imported under its name. A piece that does
not stand there exactly once is no mutation of this engine, which is said, and never passed over.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from eventstore import database


class DoesNotApply(Exception):
    """The engine has no such place any more."""


class Change(NamedTuple):
    """In `eventstore.MODULE`, `new` in the place of `old`."""

    module: str
    old: str
    new: str


class SchemaChange(NamedTuple):
    """The same for the SQL of `schema/`, which is read when a file is made."""

    old: str
    new: str


def mutate(changes: Iterable[Change | SchemaChange]) -> None:
    """Make them all, in this process and for good. Raises DoesNotApply."""
    by_module: dict[str, list[Change]] = {}
    for change in changes:
        if isinstance(change, SchemaChange):
            _mutate_schema(change)
        else:
            by_module.setdefault(change.module, []).append(change)
    for name, within in by_module.items():
        _mutate_module(name, within)


def _mutate_schema(change: SchemaChange) -> None:
    scripts = list(database.schema_scripts())
    found = [number for number, script in enumerate(scripts) if change.old in script]
    if len(found) != 1:
        raise DoesNotApply(f"schema: {change.old!r} stands in {len(found)} scripts")
    scripts[found[0]] = _replaced(scripts[found[0]], change.old, change.new, "schema")
    _bind_everywhere("schema_scripts", database.schema_scripts, lambda: tuple(scripts))


def _mutate_module(name: str, changes: Iterable[Change]) -> None:
    module = importlib.import_module(f"eventstore.{name}")
    path = Path(str(module.__file__))
    before = after = path.read_text("utf-8")
    for change in changes:
        after = _replaced(after, change.old, change.new, name)
    code = compile(after, str(path), "exec", dont_inherit=True)
    statements = ast.parse(before).body, ast.parse(after).body
    changed = [(old, new) for old, new in zip(*statements, strict=True) if ast.dump(old) != ast.dump(new)]
    if not changed:
        raise DoesNotApply(f"{name}: the change changes nothing")
    for old, new in changed:
        _put(module, module, "", new, old, code)


def _replaced(text: str, old: str, new: str, where: str) -> str:
    times = text.count(old)
    if times != 1:
        raise DoesNotApply(f"{where}: {old!r} stands there {times} times")
    return text.replace(old, new)


def _put(module: ModuleType, owner: Any, prefix: str, new: ast.stmt, old: ast.stmt, code: CodeType) -> None:
    """One statement that differs, into the live object that the old one made."""
    if isinstance(new, ast.ClassDef) and isinstance(old, ast.ClassDef):
        for before, after in zip(old.body, new.body, strict=True):
            if ast.dump(before) != ast.dump(after):
                _put(module, getattr(owner, new.name), f"{prefix}{new.name}.", after, before, code)
    elif isinstance(new, ast.FunctionDef | ast.AsyncFunctionDef):
        _function(vars(owner)[new.name]).__code__ = _code_of(code, prefix + new.name)
    elif isinstance(new, ast.Assign | ast.AnnAssign) and new.value is not None and not prefix:
        target = new.targets[0] if isinstance(new, ast.Assign) else new.target
        assert isinstance(target, ast.Name), ast.dump(target)
        value = eval(compile(ast.Expression(new.value), "<mutation>", "eval"), vars(module))  # noqa: S307 - our own text
        _bind_everywhere(target.id, vars(module)[target.id], value)
    else:
        raise DoesNotApply(f"{module.__name__}: {type(new).__name__} cannot be changed while it lives")


def _function(found: Any) -> Any:
    if isinstance(found, property):
        found = found.fget
    elif isinstance(found, staticmethod | classmethod):
        found = found.__func__
    return inspect.unwrap(found)


def _code_of(code: CodeType, qualname: str) -> CodeType:
    stack = [code]
    while stack:
        for constant in stack.pop().co_consts:
            if isinstance(constant, CodeType):
                if constant.co_qualname == qualname:
                    return constant
                stack.append(constant)
    raise DoesNotApply(f"no code of {qualname}")


def _bind_everywhere(name: str, old: Any, new: Any) -> None:
    """`new` under that name in every module of the package that has `old` there."""
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] == "eventstore" and vars(module).get(name) is old:
            setattr(module, name, new)
