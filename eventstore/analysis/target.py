"""The analysis database being written, through sqlite-utils.

The standard library's SQLite is another one than the log's, and two of them in one process drop each other's
locks on a file: so the target is checked (`analysis_check`) before anything opens it. A new file is loaded without
indexes and syncs, its words indexed on a thread beside the reading (one statement, which holds no interpreter
lock); at the end it gets indexes and triggers, and from then on the words follow by themselves. Bulk rows go in by
`executemany`: three times as fast as `insert_all`, measured. Whether the file still is a new one is looked at in
every transaction: another export may have finished it meanwhile.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eventstore.errors import EventStoreError, ExportRefused, StorageError, StorageFull, StoreBusy

from .check import OTHERS, WAIT_S, check, create_private
from .messages import Cells
from .rows import Totals
from .schema import APPLICATION_ID, FORMAT, INDEXES, TABLES, UNIQUE, VIEWS

if TYPE_CHECKING:
    from sqlite_utils import Database

CACHE_KIB = 8_192
INSERTED = ("steps", "deltas", "events", "messages")
REPLACED = ("runs", "barriers", "checkpoints", "export_progress")
INDEX_WORDS = "INSERT INTO messages_fts (rowid, content) SELECT id, content FROM messages WHERE id > ?"
FORGET_WORDS = (
    "INSERT INTO messages_fts (messages_fts, rowid, content)"
    " SELECT 'delete', id, content FROM messages WHERE trace_id = ?"
)
_ADD = "INSERT INTO messages_fts (rowid, content) VALUES (new.id, new.content);"
_TAKE = "INSERT INTO messages_fts (messages_fts, rowid, content) VALUES ('delete', old.id, old.content);"
TRIGGERS = {
    "messages_ai": f"CREATE TRIGGER messages_ai AFTER INSERT ON messages BEGIN {_ADD} END",
    "messages_ad": f"CREATE TRIGGER messages_ad AFTER DELETE ON messages BEGIN {_TAKE} END",
    "messages_au": f"CREATE TRIGGER messages_au AFTER UPDATE ON messages BEGIN {_TAKE} {_ADD} END",
}
TRIGGER_NAMES = "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
MERGE_WORDS = "INSERT INTO messages_fts (messages_fts, rank) VALUES ('automerge', ?)"


class Progress(NamedTuple):
    """Up to where a run is exported: seq, the chain's digest there (hex), and the number of its last step."""

    version: int
    digest: str
    last_step: int


class Target:
    """One analysis database, open for writing."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = os.path.abspath(path)  # noqa: PTH100 - so that no name means anything special to SQLite
        check(path)
        is_new = not Path(self._file).exists()
        if is_new:
            create_private(path)
        import sqlite_utils  # here, since it takes longer to load than all of this package

        self._helper = ThreadPoolExecutor(1, "eventstore-words")
        self._indexing: Future[Any] | None = None
        with self._errors():
            connection = sqlite3.connect(self._file, timeout=WAIT_S, check_same_thread=False)
            try:
                self._db: Database = sqlite_utils.Database(connection, execute_plugins=False)
                self._is_bare = self._syncs_at_the_end = is_new or not self._rows(OTHERS)[0][0]
                self._has_triggers = False
                connection.execute("PRAGMA synchronous = " + ("OFF" if self._is_bare else "NORMAL"))
                connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
                connection.execute("PRAGMA secure_delete = ON")
                self._create()
            except BaseException:
                connection.close()
                raise
        self._insert = {name: _insert_sql(name, "INSERT") for name in INSERTED} | {
            name: _insert_sql(name, "INSERT OR REPLACE") for name in REPLACED
        }

    def _create(self) -> None:
        with self.transaction():
            if self._rows(OTHERS)[0][0]:
                if self._rows("PRAGMA application_id")[0][0] != APPLICATION_ID:
                    raise ExportRefused(self.path, "an SQLite file of another application; name a new one")
                return
            for name, table in TABLES.items():
                keys: Any = table.foreign_keys
                self._db.create_table(name, table.columns, pk=table.pk, foreign_keys=keys)
            self._db.table("messages").enable_fts(["content"])
            self._db.execute(MERGE_WORDS, (0,))
            for name, sql in VIEWS.items():
                self._db.create_view(name, sql.strip())
            self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version = {FORMAT}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def _translated(self, error: sqlite3.Error) -> EventStoreError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreBusy(self.path, f"locked by another process for {WAIT_S:.0f} s; what was exported before stays")
        if code == sqlite3.SQLITE_FULL:
            return StorageFull(self.path, "the disk is full; what was exported before stays")
        return StorageError(self.path, f"{type(error).__name__}: {error}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, beside no other writer. Raises StoreBusy, StorageFull, StorageError."""
        with self._errors():
            connection = self._db.conn
            try:
                self._begin()
                yield
                self._settle()
                connection.execute("COMMIT")
            except BaseException:
                if self._indexing is not None:
                    wait([self._indexing])
                    self._indexing = None
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _begin(self) -> None:
        """Keep others from writing, and see what they have made of the file."""
        connection = self._db.conn
        while True:
            connection.execute("BEGIN IMMEDIATE")
            self._has_triggers = TRIGGERS.keys() <= {row[0] for row in self._rows(TRIGGER_NAMES)}
            if not (self._has_triggers and self._is_bare):
                return
            connection.execute("ROLLBACK")  # how to sync cannot be changed inside
            connection.execute("PRAGMA synchronous = NORMAL")
            self._is_bare = False

    def _settle(self) -> None:
        """Wait for the words of what was written last."""
        indexing, self._indexing = self._indexing, None
        if indexing is not None:
            indexing.result()

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        self._settle()
        return self._db.execute(sql, parameters).fetchall()

    # Reading

    def progress(self, trace_ids: Sequence[str]) -> dict[str, Progress]:
        """How far those runs are exported."""
        sql = (
            f"SELECT trace_id, version, digest, last_step FROM export_progress WHERE trace_id IN ({_marks(trace_ids)})"
        )
        return {row[0]: Progress(*row[1:]) for row in self._rows(sql, trace_ids)}

    def totals(self, trace_id: str) -> Totals:
        """What the run's exported events come to."""
        sql = "SELECT steps, failed_attempts, duration_ms, token_cost, waited_s FROM runs WHERE trace_id = ?"
        return Totals(*self._rows(sql, (trace_id,))[0])

    def open_barriers(self, trace_id: str) -> dict[str, list[Any]]:
        """The rows of the run's undecided barriers, by id."""
        sql = "SELECT * FROM barriers WHERE trace_id = ? AND decided_at IS NULL ORDER BY raised_seq"
        return {row[1]: list(row) for row in self._rows(sql, (trace_id,))}

    def beginning(self, trace_id: str) -> tuple[str, str, str | None, int | None, str]:
        """What the run is known by beside its id, and up to when it is exported.

        Its name, when it started, what it was forked from and where, when it was updated.
        """
        sql = "SELECT name, started_at, parent_trace_id, fork_seq, updated_at FROM runs WHERE trace_id = ?"
        name, started_at, parent, fork_seq, updated_at = self._rows(sql, (trace_id,))[0]
        return name, started_at, parent, fork_seq, updated_at

    def checkpoints(self, trace_id: str) -> Iterator[Cells]:
        """The run's checkpoints as rows, by seq and id."""
        sql = "SELECT * FROM checkpoints WHERE trace_id = ? ORDER BY seq, checkpoint_id"
        self._settle()
        yield from self._db.execute(sql, (trace_id,))

    def known(self, trace_ids: Sequence[str]) -> list[str]:
        """Those of the runs that are exported."""
        return [
            row[0]
            for row in self._rows(f"SELECT trace_id FROM runs WHERE trace_id IN ({_marks(trace_ids)})", trace_ids)
        ]

    # Writing

    def write(self, rows: Mapping[str, list[Cells]]) -> None:
        """Write the rows of each table, inside a transaction."""
        last_id = self._rows("SELECT coalesce(max(id), 0) FROM messages")[0][0]
        for name, cells in rows.items():
            if cells:
                self._db.conn.executemany(self._insert[name], cells)
        if rows["messages"] and not self._has_triggers:
            self._indexing = self._helper.submit(self._db.conn.execute, INDEX_WORDS, (last_id,))

    def drop_checkpoints(self, checkpoint_ids: Sequence[str]) -> None:
        """Remove checkpoints."""
        self._settle()
        self._db.conn.executemany("DELETE FROM checkpoints WHERE checkpoint_id = ?", [(one,) for one in checkpoint_ids])

    def forget(self, trace_id: str) -> None:
        """Remove all rows of a run."""
        self._settle()
        if not self._has_triggers:
            self._db.execute(FORGET_WORDS, (trace_id,))
        for name in TABLES:
            self._db.execute(f"DELETE FROM {name} WHERE trace_id = ?", (trace_id,))

    def forget_words(self) -> None:
        """Rewrite the full-text index, so that it keeps no word of a message that is gone."""
        self._db.table("messages").rebuild_fts()

    def rewrite(self) -> None:
        """Rewrite the file, so that no old copy of a page is left in it."""
        with self._errors():
            self._db.vacuum()

    def finish(self) -> None:
        """Give a file that was just loaded its indexes, and the triggers that keep its words."""
        with self.transaction():
            for name, unique in UNIQUE.items():
                self._db.table(name).create_index(unique, unique=True, if_not_exists=True)
            for name, indexes in INDEXES.items():
                for columns in indexes:
                    self._db.table(name).create_index(columns, if_not_exists=True)
            if not self._has_triggers:
                self._db.execute(MERGE_WORDS, (4,))
                for name, sql in TRIGGERS.items():
                    self._db.execute(f"DROP TRIGGER IF EXISTS {name}")
                    self._db.execute(sql)

    def close(self) -> None:
        """Close the file; one that was loaded without syncs is synced now."""
        self._helper.shutdown()
        self._db.close()
        if self._syncs_at_the_end:
            found = os.open(self._file, os.O_RDONLY)
            try:
                os.fsync(found)
            finally:
                os.close(found)


def _insert_sql(name: str, verb: str) -> str:
    columns = [column for column in TABLES[name].columns if column != "id"]
    return f"{verb} INTO {name} ({', '.join(map(_quoted, columns))}) VALUES ({_marks(columns)})"


def _quoted(column: str) -> str:
    return f'"{column}"'


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
