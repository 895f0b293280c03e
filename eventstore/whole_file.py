"""A file appears under its name when it is whole: written beside it as a `.part`, synced, renamed, its folder synced.

What is there already is not written over where it is an SQLite file, or belongs to one: SQLite takes a `-wal` or a
`-journal` beside a file for that file's own, and would play a stranger's into it.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SQLITE = b"SQLite format 3\0"
WAL = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
SIDES = ("-wal", "-shm", "-journal", "-lock", "-owners")
PLAYED_IN = ("-wal", "-journal")


def refusal(store_path: str, target: Path) -> str | None:
    """Why `target` must not be written over: it is an event store, this one or another, or belongs to one."""
    if _is_of(store_path, target):
        return f"{target} is the event store itself"
    if target.is_file():
        beginning = _beginning(target)
        if beginning == SQLITE or beginning.startswith(WAL):
            return f"{target} is an SQLite file; remove it first if it is not needed"
    for name in (target.absolute(), target.resolve()):
        for side in SIDES:
            owner = Path(str(name).removesuffix(side))
            if owner != name and owner.is_file() and _beginning(owner) == SQLITE:
                return f"{target} belongs to {owner}, an SQLite file; give another name"
    return None


def refusal_of_new(store_path: str, target: Path) -> str | None:
    """Why no new SQLite file must be made at `target`: something is there, or would be played into it."""
    if _is_of(store_path, target):
        return f"{target} is the event store itself"
    if os.path.lexists(target):
        return f"{target} exists; give another name, or move it away first"
    for side in SIDES:
        # Not looked into: this process may have it open, and closing it would drop the locks.
        owner = Path(str(target).removesuffix(side))
        if owner != target and os.path.lexists(owner):
            return f"{target} would belong to {owner}; give another name"
    for side in PLAYED_IN:
        if os.path.lexists(left := f"{target}{side}"):
            return f"{left} is left from another file, and SQLite would play it into the new one; move it away first"
    return None


@contextmanager
def part_of(target: Path) -> Iterator[Path]:
    """An empty file beside the target, for this user only; gone in the end, with what SQLite put beside it."""
    number, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", suffix=".part", dir=target.parent)
    os.close(number)
    try:
        yield Path(name)
    finally:
        for side in ("", *SIDES):
            Path(f"{name}{side}").unlink(missing_ok=True)


def publish(part: Path, target: Path, *, replace: bool) -> None:
    """Give the part its name, for good. Raises FileExistsError where the name is taken and not to be replaced."""
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
    if replace:
        part.replace(target)
    else:
        _name_once(part, target)
    sync_folder(target.parent)


def _name_once(part: Path, target: Path) -> None:
    """A second name is refused by the system where it is taken; a renaming would take the other file's place."""
    try:
        target.hardlink_to(part)
    except FileExistsError:
        raise
    except OSError:  # a file system without such links
        if os.path.lexists(target):
            raise FileExistsError(None, "it exists", str(target)) from None
        part.rename(target)


def sync_folder(folder: Path) -> None:
    """The name is to survive a power cut, too; where a folder cannot be opened, there is nothing to sync."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # it may be written and not listed: SQLite goes on, too
        return
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has no such thing
            raise
    finally:
        os.close(number)


def _is_of(store_path: str, target: Path) -> bool:
    """Whether it is the store's file, or stands beside it; SQLite keeps its side files beside the file, not a link."""
    places = {store_path, os.path.realpath(store_path)}
    return any(_is_same(target, Path(f"{place}{side}")) for place in places for side in ("", *SIDES))


def _is_same(one: Path, other: Path) -> bool:
    """Whether both are one file, by whatever names; a file that is not there is known by its name."""
    try:
        return one.samefile(other)
    except FileNotFoundError:
        return one.resolve() == other.resolve()


def _beginning(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(len(SQLITE))
