"""The file of LangGraph's SqliteSaver, read as of one moment and never written: not its pages, not what lies beside it.

A file in WAL mode that nobody has open is read as one that cannot change. Where its write-ahead log still holds
something, it is read with locks if there is an index beside it (someone may have the file open), and with an index
in memory if not. Where no lock is held, `check` sees whether somebody wrote meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import apsw

from eventstore.errors import EventStoreError, StorageError
from eventstore.foreign import harden, refill

CHECKPOINT_COLUMNS = (
    "thread_id", "checkpoint_ns", "checkpoint_id", "parent_checkpoint_id", "type", "checkpoint", "metadata",
)  # fmt: skip
WRITE_COLUMNS = ("thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx", "channel", "type", "value")
COLUMNS = "SELECT name FROM pragma_table_info(?)"
OF_THREAD = "WHERE thread_id = ?1 AND checkpoint_ns = ?2"
THREADS = (
    "SELECT thread_id, count(*) FROM (SELECT thread_id, checkpoint_id FROM checkpoints"
    " UNION ALL SELECT thread_id, checkpoint_id FROM writes) GROUP BY thread_id ORDER BY min(checkpoint_id), thread_id"
)
NAMESPACES = (
    "SELECT checkpoint_ns FROM checkpoints WHERE thread_id = ?1"
    " UNION SELECT checkpoint_ns FROM writes WHERE thread_id = ?1"
)
PARENTS = f"SELECT checkpoint_id, parent_checkpoint_id FROM checkpoints {OF_THREAD} ORDER BY checkpoint_id"
CHECKPOINT = (
    f"SELECT type, rowid, octet_length(checkpoint), metadata FROM checkpoints {OF_THREAD} AND checkpoint_id = ?3"
)
WRITTEN = f"SELECT DISTINCT checkpoint_id FROM writes {OF_THREAD}"
WRITES = (
    f"SELECT task_id, {{path}} AS path, idx, channel, type, value FROM writes {OF_THREAD} AND checkpoint_id = ?3"
    " ORDER BY path, task_id, idx"
)
ENCRYPTED = (
    "SELECT type FROM (SELECT type FROM checkpoints UNION ALL SELECT type FROM writes) WHERE type LIKE '%+%' LIMIT 1"
)
MAGIC = b"SQLite format 3\0"
WAL_MODE = 2


class NotCheckpoints(EventStoreError):
    """The file is not one of LangGraph's SqliteSaver. `path`: of the file; `reason`: what it is.

    >>> str(NotCheckpoints("runs.db", "no SQLite file"))
    'runs.db holds no LangGraph checkpoints: no SQLite file'
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} holds no LangGraph checkpoints: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason)


class StoredCheckpoint(NamedTuple):
    """A row of table `checkpoints`: the serialized checkpoint with its type tag, and metadata, JSON.

    `data`: until the next one is read.
    """

    codec: str
    data: memoryview
    metadata: bytes | str | None


class StoredWrite(NamedTuple):
    """A row of table `writes`."""

    task: str
    path: str
    idx: int
    channel: str
    codec: str
    data: bytes


class SqliteFile:
    """One such file, open. Raises NotCheckpoints for any other, StorageError for one that cannot be read."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = Path(path).absolute()
        self.size_bytes = sum(file.stat().st_size for file in (self._file, self._beside("-wal")) if file.exists())
        self._stood = self._stat()
        self._buffer = bytearray()
        self._connection, self._is_locked = self._open()
        try:
            self._writes = WRITES.format(path="task_path" if self._check_tables() else "''")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> SqliteFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def check(self) -> None:
        """Raise StorageError when the file was written to since it was opened, and that was not kept from us."""
        if not self._is_locked and self._stat() != self._stood:
            raise StorageError(self.path, "another program wrote to it while it was read; read it again")

    # What it holds

    def threads(self) -> dict[str, int]:
        """The ids of all threads, the one that began first first, and how many rows each has."""
        return dict(self._rows(THREADS))

    def namespaces(self, thread_id: str) -> list[str]:
        """The namespaces of a thread."""
        return sorted(namespace for (namespace,) in self._rows(NAMESPACES, thread_id))

    def parents(self, thread_id: str, namespace: str) -> dict[str, str | None]:
        """The parent, if any, of each checkpoint, by its id, in the order of ids."""
        return {name: parent or None for name, parent in self._rows(PARENTS, thread_id, namespace)}

    def written(self, thread_id: str, namespace: str) -> list[str]:
        """The checkpoints that have pending writes, whether they are there themselves or not."""
        return sorted(name for (name,) in self._rows(WRITTEN, thread_id, namespace))

    def checkpoint(self, thread_id: str, namespace: str, name: str) -> StoredCheckpoint:
        """A checkpoint that is there."""
        ((codec, row, size, metadata),) = self._rows(CHECKPOINT, thread_id, namespace, name)
        return StoredCheckpoint(codec or "", self._blob(row, size or 0), metadata)

    def writes(self, thread_id: str, namespace: str, name: str) -> list[StoredWrite]:
        """A checkpoint's pending writes, in the order in which LangGraph gives them."""
        return [StoredWrite._make(row) for row in self._rows(self._writes, thread_id, namespace, name)]

    def encrypted(self) -> str | None:
        """The type tag of something in it that is encrypted."""
        return next((codec for (codec,) in self._rows(ENCRYPTED)), None)

    # How it is read

    def _rows(self, sql: str, *parameters: Any) -> Iterator[tuple[Any, ...]]:
        refill(self._connection)
        try:
            yield from self._connection.execute(sql, parameters)
        except apsw.Error as error:
            raise StorageError(self.path, f"it cannot be read: {error}") from error

    def _blob(self, row: int, size: int) -> memoryview:
        """A serialized checkpoint in a buffer that is used again: large ones allocated anew leave holes in memory."""
        if len(self._buffer) < size:
            self._buffer = bytearray(size + size // 2)
        try:
            if size:
                with self._connection.blob_open("main", "checkpoints", "checkpoint", row, False) as blob:
                    blob.read_into(self._buffer, 0, size)
        except apsw.Error as error:
            raise StorageError(self.path, f"it cannot be read: {error}") from error
        return memoryview(self._buffer)[:size]

    def _beside(self, suffix: str) -> Path:
        return self._file.with_name(self._file.name + suffix)

    def _stat(self) -> list[tuple[int, int] | None]:
        found = [file.stat() if file.exists() else None for file in (self._file, self._beside("-wal"))]
        return [(stat.st_size, stat.st_mtime_ns) if stat is not None and stat.st_size else None for stat in found]

    def _open(self) -> tuple[apsw.Connection, bool]:
        with self._file.open("rb") as file:
            header = file.read(20)
        if not header.startswith(MAGIC):
            raise NotCheckpoints(self.path, "an empty file" if not header else "no SQLite file")
        wal = self._beside("-wal")
        if header[18] != WAL_MODE:
            return self._connect("mode=ro"), True
        if not wal.exists() or wal.stat().st_size == 0:
            return self._connect("mode=ro&immutable=1"), False
        if not self._beside("-shm").exists():
            return self._connect("mode=ro&vfs=unix-none", "PRAGMA locking_mode = EXCLUSIVE"), False
        try:
            return self._connect("mode=ro&readonly_shm=1"), True
        except StorageError:  # whoever has it open left no place in the index that can be read without a mark of ours
            return self._connect("mode=ro"), True

    def _connect(self, how: str, *first: str) -> apsw.Connection:
        """A connection within a read transaction, so that all is of one moment."""
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        try:
            connection = apsw.Connection(f"file:{quote(str(self._file))}?{how}", flags=flags)
            try:
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                harden(connection)
                for sql in (*first, "BEGIN", "SELECT EXISTS (SELECT 1 FROM sqlite_schema)"):
                    connection.execute(sql).fetchall()
            except BaseException:
                connection.close()
                raise
            return connection
        except apsw.Error as error:
            raise StorageError(self.path, f"it cannot be read: {error}") from error

    def _check_tables(self) -> bool:
        """Raise NotCheckpoints unless the tables are those of the saver; whether writes have the path of their task."""
        checkpoints, writes = ({name for (name,) in self._rows(COLUMNS, table)} for table in ("checkpoints", "writes"))
        if not checkpoints or not writes:
            lacks = " and ".join(
                name for name, found in (("checkpoints", checkpoints), ("writes", writes)) if not found
            )
            raise NotCheckpoints(self.path, f"it has no table {lacks}")
        for table, needed, found in (
            ("checkpoints", CHECKPOINT_COLUMNS, checkpoints),
            ("writes", WRITE_COLUMNS, writes),
        ):
            if missing := _missing(needed, found):
                raise NotCheckpoints(
                    self.path, f"its table {table} lacks {missing}, as before langgraph-checkpoint 1.0"
                )
        return "task_path" in writes


def _missing(needed: Sequence[str], found: set[str]) -> str:
    return ", ".join(name for name in needed if name not in found)
