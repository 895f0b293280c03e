"""A VFS between apsw's SQLite and the disk: it counts, and passes everything on.

`python -m benchmarks.counting.vfs PATH NOTES COMMAND…`, where the command is one that starts a worker, is that worker
with the VFS in it; what it counted is left in the file NOTES.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import msgspec

from benchmarks import worker

from .writes import Writes


@contextmanager
def counting(path: str) -> Iterator[Writes]:
    """Count what SQLite does to files whose path begins with `path`, on every connection made inside."""
    below, counts = apsw.vfs_names()[0], Writes(files=0)

    class File(apsw.VFSFile):
        def xSync(self, flags: int) -> None:
            counts.syncs += 1
            super().xSync(flags)

        def xWrite(self, data: bytes, offset: int) -> None:
            counts.written_bytes += len(data)
            super().xWrite(data, offset)

    class Counting(apsw.VFS):
        def __init__(self) -> None:
            super().__init__("counting", below, makedefault=True)

        def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
            where = name.filename() if isinstance(name, apsw.URIFilename) else name
            if where is None or not where.startswith(path):
                return apsw.VFSFile(below, name, flags)
            counts.files = (counts.files or 0) + 1
            return File(below, name, flags)

    shim = Counting()
    try:
        yield counts
    finally:
        shim.unregister()


def main(path: str, notes: str, *command: str) -> None:
    """Be the worker that the command would start, and leave what was counted."""
    with counting(path) as counts:
        worker.main(*command[-2:])
    Path(notes).write_bytes(msgspec.json.encode(counts))


if __name__ == "__main__":
    main(*sys.argv[1:])
