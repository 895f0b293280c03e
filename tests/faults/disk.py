"""A disk that knows what it has promised: a VFS that tells what each file would hold if power failed now.

What was synced is there. Of what was written since, by choice: nothing, everything, or any part of it.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from pathlib import Path

import apsw

SUFFIXES = ("", "-wal", "-journal")


class RecordedFile(apsw.VFSFile):
    """A file whose writes are noted until they are synced."""

    def __init__(self, disk, name, flags):
        super().__init__("unix", name, flags)
        self._disk = disk
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        disk.opened(self._path)

    def xWrite(self, data, offset):
        super().xWrite(data, offset)
        self._disk.written(self._path, offset, bytes(data))

    def xTruncate(self, size):
        super().xTruncate(size)
        self._disk.written(self._path, size, None)

    def xSync(self, flags):
        until = self._disk.unsynced_writes(self._path)
        super().xSync(flags)
        self._disk.synced_until(self._path, until)


class Disk(apsw.VFS):
    """The default VFS while it is registered. `watch(what)` is called after each write and sync."""

    def __init__(self):
        self.watch = None
        self._synced = {}
        self._unsynced = {}
        self._lock = threading.Lock()
        super().__init__("disk", "unix", makedefault=True)

    def xOpen(self, name, flags):
        return RecordedFile(self, name, flags)

    def xDelete(self, name, sync_directory):
        super().xDelete(name, sync_directory)
        with self._lock:
            self._synced.pop(str(name), None)
            self._unsynced.pop(str(name), None)

    def opened(self, path):
        """What a file holds when it is first opened counts as synced."""
        with self._lock:
            if path not in self._synced:
                self._synced[path] = bytearray(Path(path).read_bytes())
                self._unsynced[path] = []

    def written(self, path, offset, data):
        """A write, or (without data) a truncation."""
        with self._lock:
            self._unsynced[path].append((offset, data))
        self._tell("write")

    def unsynced_writes(self, path):
        """How many writes a sync that begins now would make last."""
        with self._lock:
            return len(self._unsynced[path])

    def synced_until(self, path, until):
        """So many of the writes last from now on."""
        with self._lock:
            for write in self._unsynced[path][:until]:
                _apply(self._synced[path], *write)
            del self._unsynced[path][:until]
        self._tell("sync")

    def _tell(self, what):
        if self.watch is not None:
            self.watch(what)

    def image(self, store_path, kept="nothing", rng=None):
        """What a store's files would hold after a power cut now, by suffix. `kept`: nothing, some or everything."""
        path = os.path.realpath(store_path)
        with self._lock:
            return {suffix: self._after_a_cut(path + suffix, kept, rng) for suffix in SUFFIXES}

    def _after_a_cut(self, path, kept, rng):
        content = bytearray(self._synced.get(path, b""))
        for write in self._unsynced.get(path, ()):
            if kept == "everything" or (kept == "some" and rng.random() < 0.5):
                _apply(content, *write)
        return bytes(content)


def _apply(content, offset, data):
    if data is None:
        del content[offset:]
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def put_back(image, path):
    """Write an image where a store can be opened."""
    for suffix, content in image.items():
        if content or not suffix:
            Path(f"{path}{suffix}").write_bytes(content)
    return str(path)


@contextmanager
def recording():
    """A Disk in the place of the default VFS."""
    before = apsw.vfs_names()[0]
    disk = Disk()
    try:
        yield disk
    finally:
        apsw.set_default_vfs(before)
        disk.unregister()
