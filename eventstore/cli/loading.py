"""The argument GRAPH: `module:name` or `path/to/file.py:name`, imported as a script of the current folder would.

The name is a graph, or a callable without parameters that makes one. Whatever goes wrong is one line.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import click

from eventstore.graph import Graph

from .output import visible

F = TypeVar("F", bound=Callable[..., Any])


def graph_argument(command: F) -> F:
    """The argument GRAPH."""
    return click.argument("target", metavar="GRAPH")(command)


def load_graph(target: str) -> Graph:
    """The graph that `target` names, checked whole.

    Raises click.ClickException (what cannot be imported, or is no graph), click.UsageError, GraphInvalid.
    """
    found = load_named(target, "graph")
    graph = found if isinstance(found, Graph) else _made(target, found)
    return graph.build()


def load_named(target: str, what: str) -> Any:
    """What `module:name` or `path/to/file.py:name` names; `what` it is to be. Raises as `load_graph`."""
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise click.UsageError(visible(f"{target}: name a {what} as module:{what} or path/to/file.py:{what}"))
    found: Any = _module(place)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise click.ClickException(visible(f"{place} has no {name}")) from None
    return found


def _module(place: str) -> ModuleType:
    is_file = place.endswith(".py")
    if is_file and not Path(place).is_file():
        raise click.ClickException(visible(f"{place}: no such file"))
    folder = str(Path(place).resolve().parent) if is_file else str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return _imported_file(Path(place)) if is_file else importlib.import_module(place)
    except (Exception, SystemExit) as error:
        if os.environ.get("EVENTSTORE_DEBUG"):
            raise
        if isinstance(error, ModuleNotFoundError) and error.name and f"{place}.".startswith(f"{error.name}."):
            raise click.ClickException(visible(f"no module {place}, seen from {Path.cwd()}")) from None
        told = f"importing {place}: {type(error).__name__}: {error} (EVENTSTORE_DEBUG=1 shows where)"
        raise click.ClickException(visible(told)) from None


def _imported_file(path: Path) -> ModuleType:
    name = f"eventstore_graph_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def _made(target: str, factory: Any) -> Graph:
    if not callable(factory):
        raise click.ClickException(visible(f"{target} is {type(factory).__name__}, not a graph"))
    try:
        inspect.signature(factory).bind()
    except (TypeError, ValueError):
        told = f"{target} is neither a graph nor a callable without parameters that makes one"
        raise click.ClickException(visible(told)) from None
    made = factory()
    if not isinstance(made, Graph):
        raise click.ClickException(visible(f"{target}() gives {type(made).__name__}, not a graph"))
    return made
