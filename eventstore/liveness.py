"""Which processes live: each keeps one byte of a side file, `PATH-owners`, locked while it works on runs.

The kernel drops a POSIX record lock when its process dies, however it dies, and a forked child does not
inherit it. Closing *any* descriptor of a file drops every such lock that the process has on it, so a process
has one descriptor a file, shared by all of its stores. A process's own locks never conflict with it: what
it holds itself it looks up in memory.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from struct import Struct

try:
    import fcntl
except ImportError:  # no record locks on this platform: the beat alone tells who lives
    fcntl = None  # type: ignore[assignment]

_FLOCK = Struct("hhqqi0q") if sys.platform == "linux" else None
"""`struct flock` of a 64-bit Linux."""
_rolls: dict[str, Roll] = {}
_lock = threading.Lock()


class Roll:
    """The side file of one store file, as this process has it open."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._users = 0
        self._held: dict[int, set[str]] = {}

    @classmethod
    def of(cls, file: str) -> Roll:
        """The process's one roll for a store file; `leave` it when done."""
        path = f"{os.path.realpath(file)}-owners"
        with _lock:
            roll = _rolls.setdefault(path, cls(path))
            if roll._users == 0 and fcntl is not None:
                mode = Path(file).stat().st_mode & 0o666
                roll._fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, mode)
            roll._users += 1
            return roll

    def hold(self, number: int, active: set[str]) -> None:
        """Lock the byte of an owner that is this process; `active`: the runs that it works on at any time."""
        with _lock:
            if fcntl is not None:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
            self._held[number] = active

    def let_go(self, number: int) -> None:
        """Unlock it."""
        with _lock:
            self._held.pop(number, None)
            if fcntl is not None and self._fd >= 0:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, number)

    def is_here(self, number: int) -> bool:
        """Whether that owner is this process."""
        return number in self._held

    def works_on(self, number: int, trace_id: str) -> bool:
        """Whether that owner, of this process, works on the run."""
        return trace_id in self._held.get(number, ())

    def is_locked(self, number: int) -> bool:
        """Whether a process holds that byte.

        Linux is asked. Elsewhere the byte is taken for a moment, so call it where no other process asks at the time.
        """
        with _lock:
            if number in self._held or fcntl is None:
                return True
            if _FLOCK is not None:
                asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
                answer = fcntl.fcntl(self._fd, fcntl.F_GETLK, asked)
                return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
            except OSError:
                return True
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, number)
            return False

    def leave(self) -> None:
        """One user of the roll less; the last one out closes the file."""
        with _lock:
            self._users -= 1
            if self._users == 0:
                _rolls.pop(self._path, None)
                if self._fd >= 0:
                    os.close(self._fd)
                    self._fd = -1


def _forget() -> None:
    """In a forked child the locks are the parent's."""
    global _lock
    _lock = threading.Lock()
    for roll in _rolls.values():
        if roll._fd >= 0:
            os.close(roll._fd)
        roll._fd, roll._held, roll._users = -1, {}, 0
    _rolls.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
