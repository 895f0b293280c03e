"""Does an open connection still work on the files that stand at its path, and hold the locks it took?

SQLite opens its files once and trusts in both from then on. It is wrong as soon as a file is moved, removed or
replaced under it; or when anything else in the process (the standard library's sqlite3, a copy, a plain `open`)
opens and closes the database: POSIX then drops every lock that the process has on it. Another program may believe
itself alone, and remove the WAL. What is committed after that is acknowledged, can be read through the connection, and
is gone with it; PRAGMA integrity_check finds nothing wrong.

So this compares, from the outside, what the connection has with what is there: the database file (SQLite can tell
whether it has moved), the WAL and its index (the process must have descriptors of the very files that stand at the
path), the WAL's frames against their number, and the locks, where the system shows them.

Nothing here opens the database file or the index, since closing them again would itself drop the locks: `stat` by
path, `fstat` of descriptors that are open anyway, and a look into /proc do no harm. On the WAL SQLite has no locks.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import apsw

try:
    import fcntl
except ImportError:  # no POSIX locks on this platform, so none to lose
    fcntl = None  # type: ignore[assignment]

Identity = tuple[int, int]  # device and inode

# Where SQLite's unix VFS keeps the locks that a connection to a WAL database holds as long as it is open.
SHARED_LOCK = 0x40000000 + 2, 510
INDEX_LOCK = 128, 1
WAL_HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid
_TRIES = 3
UNREADABLE = apsw.IOError, apsw.CantOpenError, apsw.CorruptError, apsw.NotADBError


def detached(path: str, connection: apsw.Connection) -> str | None:
    """Why `connection` no longer works on the files at `path`, in words; None while it does.

    To be called while nobody else uses the connection, best outside a transaction or at its beginning: once a
    transaction has read, the frames of the WAL are not counted. What a platform cannot show (locks are shown by Linux)
    is not judged. Raises apsw.Error where the connection cannot read for reasons of its own (a lock, memory).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     connection = apsw.Connection(os.path.join(folder, "runs.db"))
    ...     wal = connection.pragma("journal_mode", "wal")
    ...     table = connection.execute("CREATE TABLE log (body)")
    ...     print(detached(connection.filename, connection))
    ...     os.unlink(connection.filename_wal)
    ...     print(str(detached(connection.filename, connection)).replace(folder, ""))
    ...     connection.close()
    None
    /runs.db-wal is gone, but the one before is still in use: what is committed now will be lost
    """
    if not connection.filename:
        return None
    frames = _frame_count(connection)
    in_wal, failure = _read(connection)
    moved = _moved(path, connection)
    if moved:
        return moved
    open_files = dict(_open_files())
    if not in_wal or _identity(connection.filename) not in open_files:
        return failure  # no WAL, or a VFS that keeps its files elsewhere
    if frames < 0:  # it was not open before the read
        frames = _frame_count(connection)
    wal, index = connection.filename_wal, f"{connection.filename}-shm"
    return (
        _not_open(wal, open_files)
        or _not_open(index, open_files)
        or _writes_elsewhere(wal, open_files)
        or _damaged(connection, frames)
        or _unlocked(connection.filename, open_files, SHARED_LOCK)
        or _unlocked(index, open_files, INDEX_LOCK)
        or failure
    )


def _read(connection: apsw.Connection) -> tuple[bool, str | None]:
    """Whether the file is in WAL mode, and why nothing can be read, if so. The WAL is open after that."""
    try:
        connection.execute("PRAGMA schema_version").fetchall()
        return connection.pragma("journal_mode") == "wal", None
    except UNREADABLE as error:
        return True, f"{connection.filename} cannot be read through the open connection: {error}"


def _frame_count(connection: apsw.Connection) -> int:
    if connection.txn_state("main") != apsw.SQLITE_TXN_NONE:
        return -1
    with suppress(*UNREADABLE):  # reading tells of it
        return connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_NOOP)[0]
    return -1


def _moved(path: str, connection: apsw.Connection) -> str | None:
    has_moved = ctypes.c_int(0)
    connection.file_control("main", apsw.SQLITE_FCNTL_HAS_MOVED, ctypes.addressof(has_moved))
    if has_moved.value or _identity(path) != _identity(connection.filename):
        return f"{path} is not the file that was opened: that was moved, removed or replaced"
    return None


def _identity(path: str) -> Identity | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _open_files() -> Iterator[tuple[Identity, int]]:
    """Every file that this process has open, with a descriptor of it."""
    for name in os.listdir("/dev/fd") if Path("/dev/fd").is_dir() else ():  # noqa: PTH208 - names only
        with suppress(OSError):  # another thread may have closed it
            found = os.fstat(int(name))
            yield (found.st_dev, found.st_ino), int(name)


def _not_open(path: str, open_files: dict[Identity, int]) -> str | None:
    there = _identity(path)
    if there in open_files:
        return None
    found = "is gone" if there is None else "is another file now"
    return f"{path} {found}, but the one before is still in use: what is committed now will be lost"


def _writes_elsewhere(path: str, open_files: dict[Identity, int]) -> str | None:
    """The WAL at the path is open, yet so is one that was removed: some connection of this process has that one.

    Not judged where a database file was removed as well: that WAL may be its.
    """
    removed = set()
    for descriptor in open_files.values():
        with suppress(OSError):
            removed.add(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
    if f"{path} (deleted)" in removed and f"{path.removesuffix('-wal')} (deleted)" not in removed:
        return f"{path} was replaced, and a connection of this process still writes to the one before"
    return None


def _damaged(connection: apsw.Connection, frames: int) -> str | None:
    path, page_bytes = connection.filename_wal, connection.pragma("page_size")
    for _ in range(_TRIES):  # another process may begin it anew, rightly, in between
        if frames <= 0 or _holds(path, frames, page_bytes):
            return None
        if connection.txn_state("main") == apsw.SQLITE_TXN_NONE:
            frames = _frame_count(connection)
    return f"{path} does not hold its {frames} frames: another program has cut or overwritten it"


def _holds(path: str, frames: int, page_bytes: int) -> bool:
    """Whether each frame is there, and of this round: it repeats the salts in the header of the WAL."""
    frame_bytes = FRAME_HEADER_BYTES + page_bytes
    with suppress(FileNotFoundError), Path(path).open("rb", buffering=0) as wal:
        if os.fstat(wal.fileno()).st_size < WAL_HEADER_BYTES + frames * frame_bytes:
            return False
        salts = os.pread(wal.fileno(), 8, 16)
        starts = range(WAL_HEADER_BYTES, WAL_HEADER_BYTES + frames * frame_bytes, frame_bytes)
        return all(os.pread(wal.fileno(), 8, start + 8) == salts for start in starts)
    return False


def _unlocked(path: str, open_files: dict[Identity, int], place: tuple[int, int]) -> str | None:
    identity = _identity(path)
    if identity in open_files and all(_is_unlocked(identity, open_files[identity], place) for _ in range(_TRIES)):
        return (
            f"the locks on {path} are lost, since something else in this process opened and closed it:"
            " other processes no longer know that it is in use"
        )
    return None


def _is_unlocked(identity: Identity, descriptor: int, place: tuple[int, int]) -> bool:
    """Whether this process has certainly no lock there.

    Locks of open file descriptions conflict with those of processes, this one's own included, so asking for one
    tells of ours. It tells of one conflict only; should that be another process's, /proc/locks lists all, and how
    it lists the other one shows how it names the file.
    """
    ask = getattr(fcntl, "F_OFD_GETLK", None)
    if ask is None or sys.platform != "linux" or struct.calcsize("P") != 8:
        return False
    wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, *place, 0)
    try:
        kind, _, _, _, holder = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, ask, wanted))
        found = os.fstat(descriptor)
        listed = Path("/proc/locks").read_text("ascii")
    except OSError:
        return False
    if (found.st_dev, found.st_ino) != identity or (kind != fcntl.F_UNLCK and holder in (os.getpid(), 0, -1)):
        return False
    if kind == fcntl.F_UNLCK:
        return True
    return _is_listed(listed, holder, identity, place) and not _is_listed(listed, os.getpid(), identity, place)


def _is_listed(listed: str, pid: int, identity: Identity, place: tuple[int, int]) -> bool:
    """Whether /proc/locks (`number: POSIX ADVISORY READ pid device:device:inode first last`) has such a lock."""
    for line in listed.splitlines():
        words = line.split()
        if len(words) == 8 and words[1] == "POSIX" and words[4] == str(pid):
            inode = words[5].rpartition(":")[2]
            last = 2**63 if words[7] == "EOF" else int(words[7])
            if inode == str(identity[1]) and int(words[6]) < sum(place) and last >= place[0]:
                return True
    return False
