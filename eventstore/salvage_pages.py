"""The pages of a damaged SQLite file, without trusting any of them: the file's own, overlaid by its write-ahead log's.

SQLite stops at the first page that contradicts another, and then what is behind it cannot be asked for. So salvaging
reads pages itself, by the published file format. Nothing is written. The file is read through SQLite's own layer for
the system: a descriptor of our own, once closed, would drop the locks of a store that this process has open on it.
While a write-ahead log is there, a read transaction keeps others from emptying it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Any

import apsw

from .errors import NotAnEventStore, StorageError
from .whole_file import SQLITE, WAL

DEFAULT_PAGE_BYTES = 4096
PAGE_SIZES = {2**power for power in range(9, 17)}
LOCK_BYTE = 2**30
FREE, OVERFLOW, NODE = 2, (3, 4), 5
"""What the map of an auto-vacuum file says of a page: it is free; goes on from another; is a b-tree's, below a node."""
_words = Struct(">8I").unpack
_frame = Struct(">6I").unpack
_entry = Struct(">BI").unpack


class Pages:
    """A file's pages, by number from 1. `first`: page 1's header as it is; a context manager."""

    def __init__(self, path: str) -> None:
        self.path = path
        real = os.path.realpath(path)  # beside it, and not beside a link to it, its write-ahead log is
        self.behind: list[tuple[int, int]] = []
        self.times_read: Counter[int] = Counter()
        self._held: apsw.Connection | None = None
        self._wal: Any = None
        self._frames: dict[int, int] = {}
        try:
            self._file: Any = apsw.VFSFile("", real, _READ)
            self.first = self._read(0, 100)
        except apsw.Error as error:
            raise StorageError(path, f"cannot be read: {error}") from None
        size = int.from_bytes(self.first[16:18], "big")
        size = 65536 if size == 1 else size
        has_header = len(self.first) == 100 and self.first[:16] == SQLITE and size in PAGE_SIZES
        self.size = size if has_header else DEFAULT_PAGE_BYTES
        self.usable = self.size  # without encryption nothing is reserved on a page
        self.count = self._file.xFileSize() // self.size
        if not self.count:
            self._file.xClose()
            raise NotAnEventStore(path, "shorter than a page")
        if Path(f"{real}-wal").exists():
            self._hold(real)
            self._wal = Path(f"{real}-wal").open("rb")  # noqa: SIM115 - closed with this
            self.count = max(self.count, self._overlay())
        self.has_map = not has_header or self.first[52:56] != b"\0\0\0\0"

    def __enter__(self) -> Pages:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.xClose()
        if self._wal is not None:
            self._wal.close()
        if self._held is not None:
            self._held.close()

    def page(self, number: int) -> bytes:
        """A page as the last commit left it; empty where there is none or it cannot be read."""
        if number in self._frames:
            self._wal.seek(self._frames[number])
            data: bytes = self._wal.read(self.size)
        elif 1 <= number <= self.count:
            data = self._read((number - 1) * self.size, self.size)
        else:
            return b""
        return data if len(data) == self.size else b""

    def mapped(self, number: int) -> tuple[int, int] | None:
        """What the file's map says of a page: its kind and the page that points to it; None where it says nothing."""
        if not self.has_map or number < 3:
            return None
        each = self.usable // 5 + 1
        at = (number - 2) // each * each + 2
        if at == LOCK_BYTE // self.size + 1:
            at += 1
        offset = 5 * (number - at - 1)
        entry = self.page(at)[offset : offset + 5] if offset >= 0 else b""
        if len(entry) < 5:
            return None
        kind, parent = _entry(entry)
        return (kind, parent) if 1 <= kind <= 5 and parent <= self.count else None

    def _read(self, offset: int, size: int) -> bytes:
        """Empty where the disk refuses."""
        with suppress(apsw.Error):
            return bytes(self._file.xRead(size, offset))
        return b""

    def _hold(self, real: str) -> None:
        """Keep a read transaction, if SQLite can open the file at all."""
        connection = apsw.Connection(real, flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.set_busy_timeout(1000)
            connection.execute("BEGIN")
            connection.pragma("user_version")  # a read that looks at no table
            self._held = connection
        except apsw.Error:
            connection.close()

    def _overlay(self) -> int:
        """Find the newest committed version of each page in the write-ahead log; how many pages the file then has."""
        header = self._wal.read(32)
        if len(header) < 32 or not header.startswith(WAL):
            return 0
        magic, _, size, _, *salts, one, two = _words(header)
        order = "<" if magic & 1 == 0 else ">"
        if size != self.size or _sums(order, header[:24], 0, 0) != (one, two):
            return 0
        pending: dict[int, int] = {}
        behind: list[tuple[int, int]] = []
        count, offset, sums, is_sound = 0, 32, (one, two), True
        for number, pages, frame in self._frames_of(salts):
            data = self._wal.read(size)
            sums = _sums(order, data, *_sums(order, frame[:8], *sums))
            holds = len(data) == size and sums == _frame(frame)[4:]
            sums = _frame(frame)[4:]  # a later frame can hold, though SQLite goes no further
            is_sound = is_sound and holds
            if is_sound:
                pending[number] = offset + 24
                if pages:
                    self._frames.update(pending)
                    pending.clear()
                    count = pages
            else:
                behind.append((number, offset + 24))
                if holds and pages:  # it was committed: what ends without is left from a transaction that was not
                    self.behind += behind
                    behind.clear()
            offset += 24 + size
        return count

    def frames_behind(self) -> Iterator[tuple[int, bytes]]:
        """Pages that stand in the write-ahead log behind its damage."""
        for number, offset in self.behind:
            self._wal.seek(offset)
            yield number, self._wal.read(self.size)

    def _frames_of(self, salts: list[int]) -> Iterator[tuple[int, int, bytes]]:
        """The heads of the frames of this log, up to those that an earlier one left behind it."""
        while len(frame := self._wal.read(24)) == 24:
            number, pages, *found, _, _ = _frame(frame)
            if found != salts:
                return
            yield number, pages, frame


_READ = [apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_MAIN_DB, 0]


def _sums(order: str, data: bytes, one: int, two: int) -> tuple[int, int]:
    """The running checksum of a write-ahead log."""
    for first, second in Struct(f"{order}2I").iter_unpack(data[: len(data) // 8 * 8]):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two
