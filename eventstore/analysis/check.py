"""Whether a file is one to export to: missing, empty, or an export that this version can go on with.

Opening (and closing) a log of this process with another SQLite, or with anything else, drops its locks. So open
stores are known by their inodes before the file is opened. Then it is looked at as if nobody wrote it: without a
lock, and without a file beside it. A name that SQLite would give a file beside another one is never taken.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from stat import S_ISREG

from eventstore import database as stores
from eventstore.errors import ExportRefused, StorageError

from .schema import APPLICATION_ID, FORMAT

WAIT_S = 30.0
SIDE_FILES = ("", "-wal", "-shm", "-journal", "-owners", "-lock")
OTHERS = "SELECT count(*) FROM sqlite_schema"
MARKS = ("PRAGMA application_id", "PRAGMA user_version")


def check(path: str) -> None:
    """Raise ExportRefused unless the file can be exported to, StorageError where it cannot be looked at.

    >>> check("no such file.db")
    """
    if "\0" in path:
        raise StorageError(path, "a path holds no NUL character")
    file = os.path.abspath(path)  # noqa: PTH100 - the path keeps its meaning, whatever it is called
    try:
        found = Path(file).stat()
    except FileNotFoundError:
        _check_beside(path, file)
        return
    except OSError as error:
        raise StorageError(path, f"cannot be looked at: {error.strerror}") from None
    if not S_ISREG(found.st_mode):
        raise ExportRefused(path, "not a file; name a new one")
    for store in list(stores._open_databases):
        if store._closed is None and any(_is_same(os.path.realpath(store._file) + end, found) for end in SIDE_FILES):
            raise ExportRefused(path, "it belongs to an open event store; an export goes to a file of its own")
    _check_beside(path, file)
    application, version, tables = _marks(path, file)
    if application == stores.APPLICATION_ID:
        raise ExportRefused(path, "an event store; an export goes to a file of its own")
    if application == APPLICATION_ID and version != FORMAT:
        raise ExportRefused(path, f"an export of format {version}, and this version writes {FORMAT}; name a new file")
    in_use = Path(f"{os.path.realpath(file)}-wal").exists()  # what the file is may not stand in it yet
    if application != APPLICATION_ID and (application or version or tables or in_use):
        raise ExportRefused(path, "an SQLite file of another application; name a new one")


def _check_beside(path: str, file: str) -> None:
    for name in map(Path, (file, os.path.realpath(file))):
        for end in SIDE_FILES[1:]:
            owner = name.with_name(name.name.removesuffix(end) or name.name)
            if owner != name and owner.is_file():  # never opened: it may be in use
                raise ExportRefused(path, f"it stands for the {end} file of {owner.name} beside it; name another one")


def _is_same(file: str, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(Path(file).stat(), found)
    except OSError:
        return False


def _marks(path: str, file: str) -> tuple[int, int, int]:
    try:
        with closing(sqlite3.connect(f"{Path(file).as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            application, version = (connection.execute(sql).fetchone()[0] for sql in MARKS)
            # An export that was cut short may have a journal, without which its schema cannot be read.
            tables = 0 if application == APPLICATION_ID else connection.execute(OTHERS).fetchone()[0]
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB:
            raise ExportRefused(path, "not an SQLite file; name a new one") from None
        raise ExportRefused(path, f"it cannot be read ({error}); name a new file") from error
    return application, version, tables


def create_private(path: str) -> None:
    """Create the file, for this user only. Raises StorageError."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StorageError(path, f"cannot be created: {error.strerror}") from None
