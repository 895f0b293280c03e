"""Taking turns between processes: an advisory lock on a side file, `PATH-lock`, around every commit.

SQLite's write lock keeps commits correct but is no queue: who polls more often wins, and a process can
starve for seconds. The kernel queues those who wait for `flock`. The lock is only about order: a writer
that does not take it is still kept out by SQLite. The side file stays.

It is empty, too, but for a byte for each time that the disk failed somebody: then what the write-ahead log shows may
not be on the disk, and whoever has the file open must settle that before his next commit. That the file grew is known
to all processes at once, whether the disk ever hears of it or not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # no flock on this platform: SQLite's busy handler alone keeps order
    fcntl = None  # type: ignore[assignment]
else:
    _NOW = fcntl.LOCK_EX | fcntl.LOCK_NB


class Turnstile:
    """One process's place at the side file. Not reentrant; held by one thread at a time."""

    __slots__ = ("_fd", "_warnings")

    def __init__(self, path: str | None) -> None:
        """`path` None (a read-only store): there is nothing to wait for."""
        self._fd, self._warnings = -1, 0
        if fcntl is not None and path is not None:
            mode = Path(path).stat().st_mode & 0o666
            real = os.path.realpath(path)  # one for all names of the file, as SQLite's own side files
            self._fd = os.open(f"{real}-lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, mode)
            self._warnings = os.fstat(self._fd).st_size

    def try_enter(self) -> bool:
        """Enter if nobody is inside."""
        if self._fd < 0:
            return True
        try:
            fcntl.flock(self._fd, _NOW)
        except BlockingIOError:
            return False
        return True

    def enter(self) -> None:
        """Queue until it is this process's turn."""
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_EX)

    def enter_within(self, timeout_ms: float) -> bool:
        """Enter, or give up after `timeout_ms`; polls, so it may be passed over."""
        deadline = time.monotonic() + timeout_ms / 1000
        while not self.try_enter():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0005)
        return True

    def leave(self) -> None:
        """Let the next one in."""
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def warn(self) -> None:
        """Tell everybody who has the file open that the disk failed."""
        if self._fd >= 0:
            with suppress(OSError):  # it fails here, too: then who reopens the file settles it
                os.ftruncate(self._fd, os.fstat(self._fd).st_size + 1)

    def is_warned(self) -> bool:
        """Whether somebody was failed by the disk since the last `heed`."""
        return self._fd >= 0 and os.fstat(self._fd).st_size != self._warnings

    def doubt(self) -> None:
        """Have it settled before the next commit, whether or not anybody was failed."""
        self._warnings = -1

    def heed(self, settle: Callable[[], object]) -> None:
        """Settle what the warnings until now are about."""
        warnings = os.fstat(self._fd).st_size
        settle()
        self._warnings = warnings

    def close(self) -> None:
        """Give the place up."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
