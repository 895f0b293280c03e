"""strace's notes, read: the syncs and the bytes that reached the kernel for some files.

With `-y` strace prints the path beside each file descriptor. A call that another thread's call interrupts stands in
two lines, its arguments in the one that ends with `<unfinished ...>`, its result in the one that says `resumed`.
"""

from __future__ import annotations

import os
import re

SYNCS = frozenset({"fsync", "fdatasync", "syncfs"})
WRITES = frozenset({"write", "pwrite64", "writev", "pwritev", "pwritev2"})

_LINE = re.compile(r"(?:(?P<thread>\d+) +)?(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<call>\w+)\(\d+<(?P<path>[^>]*)>)")
_RESULT = re.compile(r" = (\d+)$")
_OCTAL = re.compile(rb"\\([0-7]{1,3})")


def command(notes: str) -> tuple[str, ...]:
    """What a process is started by, so that its calls are noted."""
    return ("strace", "-f", "-y", "-s", "0", "-e", f"trace={','.join(sorted(SYNCS | WRITES))}", "-o", notes)


def counted(notes: str, path: str) -> tuple[int, int]:
    """`(syncs, bytes written)` of the files whose path begins with `path`; calls that failed do not count.

    >>> counted('7 fsync(3</tmp/a.db>) = 0\\n7 pwrite64(3</tmp/a.db-wal>, ""..., 24, 0) = 24', "/tmp/a.db")
    (1, 24)
    """
    syncs = written_bytes = 0
    interrupted: dict[tuple[str | None, str], str] = {}
    for line in notes.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        thread, resumed, call, where = found.groups()
        if resumed is not None:
            call, where = resumed, interrupted.pop((thread, resumed), "")
        elif line.endswith("<unfinished ...>"):
            interrupted[thread, call] = where
            continue
        result = _RESULT.search(line)
        if result is None or not _unescaped(where).startswith(path):
            continue
        if call in SYNCS:
            syncs += 1
        elif call in WRITES:
            written_bytes += int(result[1])
    return syncs, written_bytes


def _unescaped(path: str) -> str:
    """strace prints what is not ASCII in octal."""
    return os.fsdecode(_OCTAL.sub(lambda byte: bytes([int(byte[1], 8)]), os.fsencode(path)))
