"""A disk that fails at a call of one's choice: before the call has its effect, or after.

`fail` arms it, `watch` is told of every write and sync. What was open before it stays on the real disk.
"""

from __future__ import annotations

from contextlib import contextmanager

import apsw


class FlakyFile(apsw.VFSFile):
    """A file whose writes and syncs pass by the disk that may fail them."""

    def __init__(self, disk, name, flags):
        super().__init__("unix", name, flags)
        self._disk = disk

    def xWrite(self, data, offset):
        self._disk.happens("write", lambda: super(FlakyFile, self).xWrite(data, offset))

    def xSync(self, flags):
        self._disk.happens("sync", lambda: super(FlakyFile, self).xSync(flags))


class Flaky(apsw.VFS):
    """The default VFS while it is registered. `calls`: how many there were of each kind; `hit`: whether one failed."""

    def __init__(self):
        self.calls = {"write": 0, "sync": 0}
        self.watch = None
        self.hit = False
        self._operation = None
        super().__init__("flaky", "unix", makedefault=True)

    def xOpen(self, name, flags):
        return FlakyFile(self, name, flags)

    def fail(self, operation, after=0, error=apsw.IOError, *, lands=False, once=True):
        """Fail that call after so many more of its kind; `lands`: it has its effect, and fails all the same."""
        self._operation, self._left, self._error, self._lands, self._once = operation, after, error, lands, once

    def heal(self):
        """Nothing fails any more."""
        self._operation = None

    def happens(self, operation, act):
        """One call."""
        self.calls[operation] += 1
        fails = operation == self._operation and self._left <= 0
        if operation == self._operation:
            self._left -= 1
        if not fails or self._lands:
            act()
        if self.watch is not None:
            self.watch(operation)
        if fails:
            self.hit = True
            if self._once:
                self.heal()
            raise self._error("injected")


@contextmanager
def flaky_disk():
    """A Flaky in the place of the default VFS."""
    before = apsw.vfs_names()[0]
    disk = Flaky()
    try:
        yield disk
    finally:
        apsw.set_default_vfs(before)
        disk.unregister()
