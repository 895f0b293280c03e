"""A disk that knows what it has promised: a VFS that notes what SQLite asks of it, in order.

What is noted: each write, truncation, sync, creation and deletion, and each sync of the folder. SQLite's Unix VFS
syncs the folder in the first sync of a journal or WAL that was opened with CREATE, whether the file was new or not,
and after a deletion only where SQLite asks for it; the main file is made by the engine itself, so its entry in the
folder lasts once the first journal was synced. Temporary files (a VACUUM's) end with the process and are not noted.
What the engine writes past SQLite, by `os.pwrite` and `os.fsync`, is noted too. What a power cut would leave of all
this is for `images` to say.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import apsw

from .images import Choice, Platter

SUFFIXES = ("", "-wal", "-journal")
JOURNALS = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL


class Op(NamedTuple):
    """One thing that happened. `file`: a number that no later file gets, `at`: an offset, a size, or (of a sync) how
    many ops had happened when it began."""

    kind: str  # found, create, write, truncate, sync, failed sync, folder sync, delete
    path: str
    file: int
    at: int = 0
    data: bytes = b""


class RecordedFile(apsw.VFSFile):
    """A file whose changes are noted."""

    def __init__(self, disk, name, flags):
        self._disk = disk
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        self._syncs_folder = bool(flags[0] & JOURNALS and flags[0] & apsw.SQLITE_OPEN_CREATE)
        existed = Path(self._path).exists()
        super().__init__("unix", name, flags)
        self._number = disk.opened(self._path, existed)

    def xWrite(self, data, offset):
        super().xWrite(data, offset)
        self._disk.note(Op("write", self._path, self._number, offset, bytes(data)))

    def xTruncate(self, size):
        super().xTruncate(size)
        self._disk.note(Op("truncate", self._path, self._number, size))

    def xSync(self, flags):
        begun = len(self._disk.ops)
        super().xSync(flags)
        self._disk.note(Op("sync", self._path, self._number, begun))
        if self._syncs_folder:
            self._syncs_folder = False
            self._disk.note(Op("folder sync", self._path, self._number))


class Disk(apsw.VFS):
    """The default VFS while it is registered. `watch(what)` is called after each write and sync."""

    def __init__(self):
        self.ops: list[Op] = []
        self.watch: Callable[[str], object] | None = None
        self._files: dict[str, int] = {}
        self._made = 0
        self._lock = threading.Lock()
        self._platter = Platter(self.ops)
        super().__init__("disk", "unix", makedefault=True)

    def xOpen(self, name, flags):
        if name is None or flags[0] & apsw.SQLITE_OPEN_DELETEONCLOSE:
            return apsw.VFSFile("unix", name, flags)
        return RecordedFile(self, name, flags)

    def xDelete(self, name, sync_folder):
        path = str(name)
        super().xDelete(name, sync_folder)
        self.note(Op("delete", path, self._files.pop(path, 0)))
        if sync_folder:
            self.note(Op("folder sync", path, 0))

    def opened(self, path, existed):
        """The number of a file. What it holds when it is first seen was synced, unless that is nothing."""
        with self._lock:
            if existed and path in self._files:
                return self._files[path]
            self._made += 1
            self._files[path] = self._made
            found = Path(path).read_bytes() if existed else b""
            self.ops.append(Op("found" if found else "create", path, self._made, 0, found))
            return self._made

    def wrote(self, descriptor, data, offset):
        """The engine wrote to a file past SQLite."""
        path = path_of(descriptor)
        if path in self._files:
            self.note(Op("write", path, self._files[path], offset, data))

    def synced(self, descriptor, begun):
        """The engine synced a file, or the folder, past SQLite."""
        path = path_of(descriptor)
        if path in self._files:
            self.note(Op("sync", path, self._files[path], begun))
        elif Path(path).is_dir() and any(path == os.path.dirname(known) for known in self._files):  # noqa: PTH120
            self.note(Op("folder sync", path, 0))

    def note_failed_sync(self, path):
        """What was written to that file before now may have reached the disk or not, and no later sync will tell."""
        self.note(Op("failed sync", path, self._files[path], len(self.ops)))

    def note(self, op):
        """It happened."""
        with self._lock:
            self.ops.append(op)
        if self.watch is not None and op.kind in ("write", "truncate", "sync"):
            self.watch("sync" if op.kind == "sync" else "write")

    def image(self, store_path, kept="nothing", rng=None):
        """What a store's files would hold after a power cut now, by suffix. `kept`: nothing, some or everything."""
        path = os.path.realpath(store_path)
        with self._lock:
            self._platter.advance(len(self.ops))
            files = self._platter.image(Choice(kept, rng))
        return {suffix: files[path + suffix] for suffix in SUFFIXES if path + suffix in files}


def path_of(descriptor):
    """The file behind a descriptor, by its real path."""
    return os.path.realpath(f"/proc/self/fd/{descriptor}")


def put_back(image, path):
    """Write an image where a store can be opened."""
    for suffix, content in image.items():
        Path(f"{path}{suffix}").write_bytes(content)
    return str(path)


@contextmanager
def recording():
    """A Disk in the place of the default VFS."""
    before = apsw.vfs_names()[0]
    disk = Disk()
    usual = os.pwrite, os.fsync

    def pwrite(descriptor, data, offset):
        written = usual[0](descriptor, data, offset)
        disk.wrote(descriptor, bytes(data[:written]), offset)
        return written

    def fsync(descriptor):
        begun = len(disk.ops)
        usual[1](descriptor)
        disk.synced(descriptor, begun)

    os.pwrite, os.fsync = pwrite, fsync
    try:
        yield disk
    finally:
        os.pwrite, os.fsync = usual
        apsw.set_default_vfs(before)
        disk.unregister()
