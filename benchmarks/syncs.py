"""Count the syncs that a function asks of the operating system.

strace counts what really reached the kernel; where it is missing or not allowed to trace, an apsw VFS
counts what SQLite asked for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, ParamSpec

import apsw

from .worker import fresh, under

P = ParamSpec("P")
TRACE = ("strace", "-f", "-c", "-e", "trace=fdatasync,fsync", "-o")


def count_syncs(function: Callable[P, list[float]], *args: P.args, **kwargs: P.kwargs) -> tuple[int, str]:
    """`(syncs, how they were counted)` of `function(…)` in a fresh process."""
    if not _strace_works():
        name = f"{function.__module__}:{function.__qualname__}"
        return fresh(counted, name, list(args)), "an apsw VFS"
    with tempfile.TemporaryDirectory() as folder:
        summary = Path(folder, "strace.txt")
        under((*TRACE, str(summary)), function, *args, **kwargs)
        return _calls(summary.read_text()), "strace"


@cache
def _strace_works() -> bool:
    if shutil.which("strace") is None:
        return False
    return subprocess.run([*TRACE, os.devnull, "true"], capture_output=True, check=False).returncode == 0


def _calls(summary: str) -> int:
    rows = [line.split() for line in summary.splitlines()]
    return sum(int(row[3]) for row in rows if row and row[-1] in ("fsync", "fdatasync"))


def counted(name: str, args: list[Any]) -> int:
    """Call the named function under a VFS that counts; how often SQLite synced a file."""
    syncs, below = 0, apsw.vfs_names()[0]

    class File(apsw.VFSFile):
        def xSync(self, flags: int) -> None:
            nonlocal syncs
            syncs += 1
            super().xSync(flags)

    class Counting(apsw.VFS):
        def __init__(self) -> None:
            super().__init__("counting", below, makedefault=True)

        def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
            return File(below, name, flags)

    shim = Counting()
    module, _, attribute = name.partition(":")
    getattr(import_module(module), attribute)(*args)
    shim.unregister()
    return syncs
