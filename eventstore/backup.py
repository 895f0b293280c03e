"""A copy of a live store, of one instant: SQLite's online backup, verified before it gets its name.

A read transaction is held on the source while its pages are copied. Without it, every commit of another process
would make SQLite begin anew; with it, all pages are of the moment when it began, and nobody waits: writers append to
the write-ahead log, which cannot start over until the copy is done, and grows meanwhile. The copy is a file of its
own: it is in rollback mode (no side files), until someone opens it to write. It claims no owners: every lease in it is
free, since the processes that hold them work on the original. It is written beside its name, verified as a whole
(chain, bases, pages), synced and only then named.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from .errors import FileCorrupted, StorageError, StorageFull, WrongChainKey
from .event import JsonRecord
from .problem import Problem
from .verify import VerifyReport, verify
from .whole_file import part_of, publish, refusal_of_new

if TYPE_CHECKING:
    from .database import Database
    from .store import Store

STEP_PAGES = 1000
BEGIN = "SELECT count(*) FROM sqlite_schema"
FREE = "UPDATE lease SET owner = NULL; DELETE FROM owner"


class BackupReport(JsonRecord, frozen=True):
    """A copy that was made. `events`: that its traces hold; `heads`: each trace's last digest, to keep elsewhere.

    >>> BackupReport("backup.db", 25, 102400, 0.1, 3, 90, {}).pages
    25
    """

    path: str
    pages: int
    size_bytes: int
    seconds: float
    traces: int
    events: int
    heads: dict[str, str]


def backup(
    store: Store,
    path: str | PathLike[str],
    *,
    on_progress: Callable[[int, int], None] | None = None,
    on_problem: Callable[[Problem], None] | None = None,
) -> BackupReport:
    """Copy the store, as it is when this is called, to a new file; others may write all the while.

    `on_progress`: is told the pages that are copied, and all pages. `on_problem`: is told of each thing in the copy
    that does not hold; then FileCorrupted is raised, and no file is kept.

    Raises FileCorrupted, StorageError (the path exists, or cannot be written), StorageFull (of the copy).

    >>> import tempfile
    >>> from eventstore import open
    >>> with tempfile.TemporaryDirectory() as folder, open(f"{folder}/runs.db") as store:
    ...     trace = store.start({"n": 1}, id="t1")
    ...     report = backup(store, f"{folder}/backup.db")
    ...     with open(f"{folder}/backup.db", read_only=True) as copy:
    ...         report.traces, copy.state_at("t1")
    (1, {'n': 1})
    """
    started = time.perf_counter()
    target = Path(os.fspath(path))
    if (reason := refusal_of_new(store.path, target)) is not None:
        raise StorageError(str(target), f"no backup was made: {reason}")
    store._database.check_open()
    try:
        with part_of(target) as part:
            pages = _copy(store._database, part, target, on_progress or (lambda done, total: None))
            found = _verified(store, part, target)
            if found.problems:
                for problem in found.problems:
                    if on_problem is not None:
                        on_problem(problem)
                raise FileCorrupted(store.path, _told(found.problems))
            size_bytes = part.stat().st_size
            publish(part, target, replace=False)
    except OSError as error:
        raise StorageError(str(target), f"no backup was made: {error.strerror or error}") from None
    seconds = round(time.perf_counter() - started, 3)
    return BackupReport(str(target), pages, size_bytes, seconds, found.traces, found.events, found.heads)


def _copy(database: Database, part: Path, target: Path, on_progress: Callable[[int, int], None]) -> int:
    """All pages, of one instant; how many."""
    with database.reader() as source:
        source.execute(BEGIN).fetchall()  # the instant: BEGIN alone takes none
        try:
            destination = _destination(database, part)
            try:
                with destination.backup("main", source, "main") as copying:
                    while not copying.done:
                        copying.step(STEP_PAGES)
                        on_progress(copying.page_count - copying.remaining, copying.page_count)
                    pages = copying.page_count
                destination.pragma("journal_mode", "delete")
                destination.execute(FREE)
            finally:
                destination.close()
        except apsw.Error as error:  # the copy's: it does not halt the store
            raise _failed(target, error) from error
    return pages


def _destination(database: Database, part: Path) -> apsw.Connection:
    """Without a journal and unsynced: a part that is not whole is removed, and a whole one is synced at once."""
    connection = apsw.Connection(str(part), flags=apsw.SQLITE_OPEN_READWRITE)
    if database._cipher is not None:
        connection.pragma("key", database._cipher)
    connection.execute(
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF"
    ).fetchall()
    return connection


def _verified(store: Store, part: Path, target: Path) -> VerifyReport:
    try:
        with type(store)(str(part), read_only=True, create=False, encryption_key=store._encryption_key) as copy:
            copy._database.chain = store._database.chain
            return verify(copy)
    except FileCorrupted as error:
        return VerifyReport(0, 0, 0, [Problem("-", 0, "sqlite", str(error.__cause__ or error), True)], {})
    except WrongChainKey:
        raise
    except StorageError as error:
        raise StorageError(str(target), f"no backup was made: the copy cannot be read back: {error}") from error


def _failed(target: Path, error: apsw.Error) -> StorageError:
    if isinstance(error, apsw.FullError):
        return StorageFull(str(target), "the disk is full; no backup was made")
    return StorageError(str(target), f"no backup was made: {type(error).__name__}: {error}")


def _told(problems: list[Problem]) -> str:
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"its copy does not verify, and was not kept: {problems[0]}{more}"
