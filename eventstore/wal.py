"""Have on disk what the write-ahead log shows, before anybody is told of it.

A commit whose sync failed, or whose process was killed before it, stands in the log and can be read by whoever looks
next, though it may not be on the disk; and no later sync writes it, since after a failed one the kernel counts its
pages as clean. So whoever opens a file, and (before his next commit) whoever has it open while the disk fails another
process, writes the log again, byte for byte in place, and syncs it. So is its folder: the log's name may be as new.
"""

from __future__ import annotations

import os
from pathlib import Path

import apsw

from .whole_file import sync_folder

AT_ONCE_BYTES = 65_536


def settle(path: str, connection: apsw.Connection) -> None:
    """Write the log of the database at `path` again. Raises OSError where the disk fails, apsw.Error."""
    wal = f"{os.path.realpath(path)}-wal"
    if os.name != "posix":
        return  # neither os.pwrite nor a folder that can be synced
    if not Path(wal).exists() or Path(wal).stat().st_size == 0:
        return
    connection.execute("BEGIN IMMEDIATE")  # nobody writes to the log meanwhile
    try:
        write_again(wal)
    finally:
        connection.execute("ROLLBACK")


def write_again(path: str) -> None:
    """Write a file's bytes in place and sync them, and its folder: what the disk may lack of it is there then."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for offset in range(0, os.fstat(file).st_size, AT_ONCE_BYTES):
            os.pwrite(file, os.pread(file, AT_ONCE_BYTES, offset), offset)
        os.fsync(file)
    finally:
        os.close(file)
    sync_folder(Path(path).parent)
