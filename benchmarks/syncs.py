"""Count the syncs that a function asks for at its first argument, the path of its file."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any, Concatenate, ParamSpec

from .counting.vfs import counting
from .counting.writes import watched, watcher

P = ParamSpec("P")


def count_syncs(
    function: Callable[Concatenate[str, P], list[float]], path: str, *args: P.args, **kwargs: P.kwargs
) -> tuple[int, str]:
    """`(syncs, how they were counted)` of `function(path, …)` in a fresh process."""
    by = watcher()
    return watched(by, path, function, path, *args, **kwargs).syncs, by.title


def counted(name: str, args: list[Any]) -> int:
    """Call the named function in this process; how often apsw's SQLite synced a file at its first argument."""
    module, _, attribute = name.partition(":")
    with counting(os.path.realpath(args[0])) as counts:
        getattr(import_module(module), attribute)(*args)
    return counts.syncs
