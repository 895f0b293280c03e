"""A disk that fails: the n-th read, write, sync, truncation, lock and so on gives an error code of SQLite's choosing.

The codes are given in C's way, as a real disk's are: a VFS in Python can only raise, and apsw then raises on where
SQLite itself goes on (a checkpoint after a commit, a checkpoint at closing), so that nothing would be tried that
SQLite keeps to itself. So the entries of a registered VFS, and of each file that it opens, are replaced by functions
that ask `Failing.fault` for a code and otherwise do what the entry did.

A write that fails may have written a part. A sync that fails is noted on the disk (`disk.note_failed_sync`).
"""

from __future__ import annotations

import ctypes
from collections import Counter
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_void_p

import apsw

INT_TO_INT = CFUNCTYPE(c_int, c_void_p, c_int)
BUFFER = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
SIZE = CFUNCTYPE(c_int, c_void_p, c_void_p)
SHM_MAP = CFUNCTYPE(c_int, c_void_p, c_int, c_int, c_int, c_void_p)
SHM_LOCK = CFUNCTYPE(c_int, c_void_p, c_int, c_int, c_int)
# A name is passed on as it came: SQLite keeps more beside it.
OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
DELETE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
# sqlite3_io_methods: the entries after iVersion, and what each kind of failure replaces.
ENTRIES = 18
KINDS = {
    "read": (1, BUFFER),
    "write": (2, BUFFER),
    "truncate": (3, TRUNCATE),
    "sync": (4, INT_TO_INT),
    "size": (5, SIZE),
    "lock": (6, INT_TO_INT),
    "map": (12, SHM_MAP),
    "share": (13, SHM_LOCK),
}
CODES = {
    "read": apsw.SQLITE_IOERR_READ,
    "write": apsw.SQLITE_IOERR_WRITE,
    "full": apsw.SQLITE_FULL,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "size": apsw.SQLITE_IOERR_FSTAT,
    "lock": apsw.SQLITE_IOERR_LOCK,
    "map": apsw.SQLITE_IOERR_SHMMAP,
    "share": apsw.SQLITE_IOERR_SHMLOCK,
    "open": apsw.SQLITE_CANTOPEN,
    "delete": apsw.SQLITE_IOERR_DELETE,
}
UNLOCKING = 1  # SQLITE_SHM_UNLOCK: gives back what is held, and never fails
PART_BYTES = 512


class Methods(ctypes.Structure):
    """sqlite3_io_methods."""

    _fields_ = (("version", c_int), ("entries", c_void_p * ENTRIES))


class Vfs(ctypes.Structure):
    """The beginning of sqlite3_vfs."""

    _fields_ = (
        ("version", c_int),
        ("file_bytes", c_int),
        ("path_bytes", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        ("open", c_void_p),
        ("delete", c_void_p),
    )


class Failing:
    """`counts`: how many calls there were of each kind; `fault(kind, path, n)`: a code, or 0, for the n-th of them.

    `wal_syncs`: which of the syncs were of a write-ahead log.
    """

    def __init__(self, disk):
        self.counts: Counter[str] = Counter()
        self.wal_syncs: list[int] = []
        self.fault = None
        self._disk = disk
        self._paths: dict[int, str] = {}
        self._tables: dict[int, Methods] = {}
        self._kept: list[object] = []
        self._vfs = vfs_of("disk")
        self._usual = self._vfs.open, self._vfs.delete
        self._open, self._delete = OPEN(self._vfs.open), DELETE(self._vfs.delete)
        self._mine = OPEN(self._opens), DELETE(self._deletes)
        self._vfs.open, self._vfs.delete = (ctypes.cast(entry, c_void_p) for entry in self._mine)

    def off(self):
        """The VFS is as it was."""
        self._vfs.open, self._vfs.delete = self._usual

    def code(self, kind, path):
        """What a call gives: 0 to do it."""
        self.counts[kind] += 1
        if kind == "sync" and path.endswith("-wal"):
            self.wal_syncs.append(self.counts[kind])
        return 0 if self.fault is None else self.fault(kind, path, self.counts[kind])

    def _opens(self, vfs, name, file, flags, out_flags):
        path = "" if name is None else ctypes.string_at(name).decode()
        if code := self.code("open", path):
            ctypes.cast(file, POINTER(c_void_p))[0] = None
            return code
        code = self._open(vfs, name, file, flags, out_flags)
        methods = ctypes.cast(file, POINTER(c_void_p))
        if code == 0 and methods[0]:
            self._paths[file] = path
            methods[0] = ctypes.addressof(self._table(methods[0]))
        return code

    def _deletes(self, vfs, name, sync_folder):
        return self.code("delete", ctypes.string_at(name).decode()) or self._delete(vfs, name, sync_folder)

    def _table(self, address):
        if address not in self._tables:
            table = Methods.from_buffer_copy(Methods.from_address(address))
            for kind, (entry, kind_of_call) in KINDS.items():
                if table.entries[entry]:
                    mine = kind_of_call(self._call(kind, kind_of_call(table.entries[entry])))
                    self._kept.append(mine)
                    table.entries[entry] = ctypes.cast(mine, c_void_p).value
            self._tables[address] = table
        return self._tables[address]

    def _call(self, kind, usual):
        def call(file, *arguments):
            path = self._paths.get(file, "")
            if kind == "share" and arguments[2] & UNLOCKING:
                return usual(file, *arguments)
            code = self.code(kind, path)
            if code == 0:
                return usual(file, *arguments)
            if kind == "write" and code != apsw.SQLITE_FULL:
                buffer, amount, offset = arguments
                usual(file, buffer, min(PART_BYTES, amount), offset)
            if kind == "sync" and path:
                self._disk.note_failed_sync(path)
            return code

        return call


def vfs_of(name):
    """The registered VFS of that name."""
    pointer = c_void_p()
    connection = apsw.Connection(":memory:", vfs=name)
    try:
        connection.file_control("main", apsw.SQLITE_FCNTL_VFS_POINTER, ctypes.addressof(pointer))
    finally:
        connection.close()
    return Vfs.from_address(pointer.value)


@contextmanager
def failing(disk):
    """The disk, which now fails when `fault` says so."""
    faults = Failing(disk)
    try:
        yield faults
    finally:
        faults.off()
