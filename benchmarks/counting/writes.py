"""What a function in a fresh process asks of the operating system: syncs and bytes written, file by file.

The process is started by a watcher, a command that writes down what it sees: strace sees what reaches the kernel,
whoever asks; where it is missing or not allowed to trace, a VFS sees what apsw's SQLite asks. Only files whose path
begins with the measured one count. Neither sees what is written through a memory map.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple, ParamSpec

import msgspec

from benchmarks.worker import under

from . import strace

P = ParamSpec("P")


class Writes(msgspec.Struct):
    """What was asked for. `files`: how often a file was opened, where the watcher sees that; else None."""

    syncs: int = 0
    written_bytes: int = 0
    files: int | None = None


class Watcher(NamedTuple):
    """`title`: who counted. `command(path, notes)`: what a process is started by; `read(notes, path)`: its notes."""

    title: str
    command: Callable[[str, str], tuple[str, ...]]
    read: Callable[[str, str], Writes]


STRACE = Watcher(
    "strace",
    lambda path, notes: strace.command(notes),
    lambda notes, path: Writes(*strace.counted(notes, path)),
)
VFS = Watcher(
    "an apsw VFS",
    lambda path, notes: (sys.executable, "-m", "benchmarks.counting.vfs", path, notes),
    lambda notes, path: msgspec.json.decode(notes, type=Writes),
)


def watcher() -> Watcher:
    """Who counts on this machine."""
    return STRACE if strace_works() else VFS


@cache
def strace_works() -> bool:
    """Whether strace is here and may trace."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run([*strace.command(os.devnull), "true"], capture_output=True, check=False).returncode == 0


def watched(by: Watcher, path: str, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> Writes:
    """What `function(…)`, called in a fresh process, asks for at `path` and the files beside it."""
    path = os.path.realpath(path)
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder, "notes")
        under(by.command(path, str(notes)), function, *args, **kwargs)
        return by.read(notes.read_text("utf-8", "surrogateescape"), path)
