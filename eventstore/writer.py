"""The append path: one append is one row, one commit, one sync.

A caller that finds the writer free commits on its own thread, an append without company in
autocommit. Callers that arrive while a commit is syncing queue up, and a writer thread takes all of
them into the next commit (group commit). The log's own triggers decide each append: one that is
refused leaves the rest of the batch alone, since RAISE(ABORT) undoes its statement only.
"""

from __future__ import annotations

import threading
import warnings
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import apsw
import msgspec

from . import bases
from .database import Database
from .errors import (
    BaseCorrupted,
    EventStoreError,
    Fenced,
    StateError,
    StoreClosed,
    StoreHalted,
    TraceErased,
    TraceExists,
    TraceNotFound,
    WrongExpectedVersion,
)
from .log import ROW_AT, ROW_BY_APPEND_ID, LogRow, find_trace, head, lineage, trace_by_row
from .policy import FoldDecision

T = TypeVar("T")
MAX_BATCH = 1024
INSERT_ROW = "INSERT INTO log (trace, first_seq, n, append_id, at_us, digest, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
# Without the lease the seq is NULL, which is no trace's next. (An INSERT … SELECT would be materialised first.)
INSERT_OWNED = (
    "INSERT INTO log (trace, first_seq, n, append_id, at_us, digest, body) VALUES"
    " (?1, (SELECT ?2 FROM lease WHERE trace = ?1 AND epoch = ?8), ?3, ?4, ?5, ?6, ?7)"
)
LEASE_EPOCH = "SELECT epoch FROM lease WHERE trace = ?"
INSERT_TRACE = "INSERT INTO trace (trace_id, name, parent, fork_seq, created_us) VALUES (?, ?, ?, ?, ?)"
SET_STATUS = "UPDATE trace SET status = ? WHERE id = ?"
RAISE_BARRIER = "INSERT INTO barrier (trace, barrier_id, raised_seq, raised_us, deadline_us) VALUES (?, ?, ?, ?, ?)"
DECIDE_BARRIER = "UPDATE barrier SET decided_seq = ? WHERE trace = ? AND barrier_id = ?"
# `seal` is a function of the connection that writes: see `Database`.
MERGE_CHECKPOINT = (
    "UPDATE checkpoint SET (node, metadata, triggers, seal) = (SELECT n, m, t, seal(checkpoint_id,"
    " (SELECT trace_id FROM trace WHERE id = checkpoint.trace), seq, n, graph_hash, t, m, created_us) FROM ("
    "SELECT coalesce(?1, node) AS n, coalesce(metadata, ?2) AS m, (SELECT json_group_array(value) FROM"
    " (SELECT value FROM json_each(checkpoint.triggers) UNION SELECT value FROM json_each(?3))) AS t))"
    " WHERE trace = ?4 AND seq = ?5"
)
ADD_CHECKPOINT = (
    "INSERT INTO checkpoint (checkpoint_id, trace, seq, node, graph_hash, triggers, metadata, created_us, seal)"
    " SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8,"
    " seal(?1, (SELECT trace_id FROM trace WHERE id = ?2), ?3, ?4, ?5, ?6, ?7, ?8)"
    " WHERE NOT EXISTS (SELECT 1 FROM checkpoint WHERE trace = ?2 AND seq = ?3)"
)


class Append(msgspec.Struct, eq=False):
    """One append on its way into the log, and what became of it.

    `row`: the parameters of `INSERT_ROW`, the trace's row id first (0 with `new_trace`, whose row is
    made in the same commit). `extras`: `(sql, parameters)` after it, where a parameter that is
    `TRACE_ROW` stands for that row id. `fold`: a base to write with it, `state_bytes` the size of the
    state then, `net` its link where that is made already. `sync`: synced whatever the store's durability.
    `epoch`: that of the run's owner; the row goes in only while the lease has it. After the commit: `error`,
    or `duplicate` (the row that an earlier append of the same id left), and `folded`.
    """

    trace_id: str
    row: tuple[Any, ...]
    extras: list[tuple[str, tuple[Any, ...]]] = []
    fold: FoldDecision | None = None
    state_bytes: int = 0
    sync: bool = False
    new_trace: tuple[Any, ...] | None = None
    net: bases.Net | None = None
    epoch: int | None = None
    error: Exception | None = None
    duplicate: LogRow | None = None
    folded: bases.Folded | None = None
    gate: LockType | None = None

    @property
    def expected_version(self) -> int:
        """The version that the trace must be at."""
        return int(self.row[1]) - 1


TRACE_ROW = object()


class Writer:
    """Commits appends, one at a time or in groups. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: apsw.Connection
        self._execute: Callable[..., apsw.Cursor]  # of a cursor of its own, for what runs at every append
        self._is_connected = False
        self._turnstile = database.turnstile
        self._mutex: Any = threading.RLock()  # owned, so that an interrupted commit can be cleaned up after
        self._queue: deque[Append] = deque()
        self._wake = allocate_lock()
        self._wake.acquire()
        self._thread: threading.Thread | None = None
        self._closing = False

    def commit(self, append: Append) -> None:
        """Commit one append; returns when it is as durable as the store promises, or raises its error."""
        done = False
        try:
            if self._mutex.acquire(False) and self._turnstile.try_enter():
                self._tidy()
                done = True
                if (
                    append.extras
                    or append.fold is not None
                    or append.new_trace is not None
                    or (append.sync and self._database.durability == "normal")
                ):
                    self._run((append,))
                else:
                    self._insert_alone(append)
        finally:
            self._release()
        if not done:
            self._wait_in_queue(append)
        if append.error is not None:
            raise append.error

    def commit_batch(self, appends: Sequence[Append]) -> None:
        """Commit several independent appends with one sync; each one's `error` says how it went."""
        with self.turn():
            self._run(appends)

    def write(self, work: Callable[[apsw.Connection], T], *, sync: bool = False, relaxed: bool = False) -> T:
        """Run `work` in a commit of its own (checkpoint rows, bases, retention) and give its result.

        `relaxed`: it need not reach the disk before the next append does.
        """
        usual = self._database.durability
        synchronous = "full" if sync else "normal" if relaxed else usual
        with self.turn(), self._database.errors(), _Transaction(self._connection, synchronous, usual):
            return work(self._connection)

    def insert(self, append: Append) -> None:
        """Insert an append inside the transaction of a `write`. Raises its error."""
        self._insert(append)
        if append.error is not None:
            raise append.error

    def quiet(self, work: Callable[[], T]) -> T:
        """Run `work` while no commit is under way, outside a transaction."""
        with self.turn(), self._database.errors():
            return work()

    def try_write(self, work: Callable[[apsw.Connection], object]) -> bool:
        """`write`, unless anyone else is writing; for what may as well wait for another time."""
        try:
            if not (self._mutex.acquire(False) and self._turnstile.try_enter()):
                return False
            self._tidy()
            usual = self._database.durability
            with self._database.errors(), _Transaction(self._connection, usual, usual):
                work(self._connection)
            return True
        finally:
            self._release()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Keep every other writer out; a commit inside ends it."""
        self._database.check_open()
        timeout_ms = self._database.busy_timeout_ms
        try:
            if not self._mutex.acquire(timeout=timeout_ms / 1000) or not self._turnstile.enter_within(timeout_ms):
                raise self._database.busy()
            self._tidy()
            yield
        finally:
            self._release()

    def _tidy(self) -> None:
        """Holding the mutex: nothing that an interrupted caller left open may swallow the next commit."""
        if not self._database.is_open:
            self._database.check_open()
        if not self._is_connected:
            self._connection = self._database.writer
            self._execute = self._connection.cursor().execute
            self._is_connected = True
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        if self._turnstile.is_warned():
            self._turnstile.heed(lambda: self._database.settle(self._connection))

    def believe(self) -> None:
        """What was read is about to be acknowledged without a commit: have it on disk, should that be in doubt."""
        if self._turnstile.is_warned():
            self.quiet(lambda: None)

    def _release(self) -> None:
        """Give back what this thread holds, however it was interrupted."""
        mutex = self._mutex
        if mutex._is_owned():
            self._turnstile.leave()
            while mutex._is_owned():
                mutex.release()

    def _wait_in_queue(self, append: Append) -> None:
        self._database.check_open()
        gate = append.gate = allocate_lock()
        gate.acquire()
        self._queue.append(append)
        self._rouse()
        if gate.acquire(timeout=self._database.busy_timeout_ms / 1000):
            return
        try:
            self._queue.remove(append)
        except ValueError:  # it is being committed
            gate.acquire()
        else:
            append.error = self._database.busy()

    def close(self) -> None:
        """Let what is queued commit, then close the database; whoever comes later gets StoreClosed."""
        self._closing = True
        if self._thread is not None:
            self._rouse()
            self._thread.join(self._database.busy_timeout_ms / 1000)
        held = self._mutex.acquire(timeout=self._database.busy_timeout_ms / 1000)
        try:
            self._database.close()
        finally:
            if held:
                self._mutex.release()
        for append in self._drain():
            append.error = StoreClosed(self._database.path, "the store is closed")
            assert append.gate is not None
            append.gate.release()

    def _rouse(self) -> None:
        if self._thread is None:
            with _starting:
                if self._thread is None:
                    thread = threading.Thread(target=self._loop, name="eventstore-writer", daemon=True)
                    thread.start()
                    self._thread = thread  # started: closing may join it
        try:
            self._wake.release()
        except RuntimeError:
            return  # it is awake already

    def _loop(self) -> None:
        while True:
            if not self._queue:
                if self._closing:
                    return
                self._wake.acquire()
            with self._mutex:
                batch = []
                if self._queue:
                    self._turnstile.enter()
                    try:
                        batch = self._drain()
                        self._guarded_run(batch)
                    finally:
                        self._turnstile.leave()
            for append in batch:
                assert append.gate is not None
                append.gate.release()

    def _drain(self) -> list[Append]:
        batch: list[Append] = []
        while self._queue and len(batch) < MAX_BATCH:
            batch.append(self._queue.popleft())
        return batch

    def _guarded_run(self, batch: Sequence[Append]) -> None:
        """On the writer thread an unforeseen error must reach the callers, who wait."""
        try:
            self._tidy()
            self._run(batch)
        except Exception as error:
            for append in batch:
                append.error = append.error or error

    def _run(self, batch: Sequence[Append]) -> None:
        connection = self._connection
        try:
            usual = self._database.durability
            synchronous = "full" if any(append.sync for append in batch) else usual
            with _Transaction(connection, synchronous, usual):
                if len(batch) == 1:
                    self._insert(batch[0], "ROLLBACK")
                else:
                    for append in batch:
                        self._insert(append)
        except apsw.Error as error:
            for append in batch:
                append.error = self._failure(append, error)
        except EventStoreError as error:
            for append in batch:
                append.error = append.error or error

    def _insert_alone(self, append: Append) -> None:
        try:
            self._insert_row(append)
        except apsw.ConstraintError as error:
            self._refuse(append, error)
        except apsw.Error as error:
            append.error = self._failure(append, error)

    def _insert_row(self, append: Append) -> None:
        if append.epoch is None:
            self._execute(INSERT_ROW, append.row)
        else:
            self._execute(INSERT_OWNED, (*append.row, append.epoch))

    def _insert(self, append: Append, undone_by: str = "") -> None:
        """Inside a transaction; `undone_by`: what undoes the append, where it is the only one."""
        connection = self._connection
        alone = undone_by != "" or (not append.extras and append.new_trace is None)
        try:
            if not alone:
                connection.execute("SAVEPOINT one")
            if append.new_trace is not None:
                connection.execute(INSERT_TRACE, append.new_trace)
                append.row = (connection.last_insert_rowid(), *append.row[1:])
            self._insert_row(append)
            for sql, parameters in append.extras:
                self._execute(sql, tuple(append.row[0] if item is TRACE_ROW else item for item in parameters))
        except apsw.ConstraintError as error:
            if not alone or undone_by:
                connection.execute(undone_by or "ROLLBACK TO one")
            self._refuse(append, error)
        else:
            if append.fold is not None:
                self._fold(append, append.fold)
        finally:
            if not alone and connection.in_transaction:
                connection.execute("RELEASE one")

    def _fold(self, append: Append, decision: FoldDecision) -> None:
        trace, first_seq, n, _, at_us, _, _ = append.row
        connection = self._connection
        try:
            append.folded = bases.fold(
                connection,
                self._database.path,
                lineage(connection, trace_by_row(connection, trace), first_seq + n - 1),
                append.trace_id,
                at_us,
                append.state_bytes,
                decision,
                append.net,
            )
        except (ValueError, StateError, EventStoreError) as error:
            # The append is sound without a base, and a damaged row must not hold up the rest of the batch.
            warnings.warn(f"no base for trace {append.trace_id}: {error}", BaseCorrupted, stacklevel=2)

    def _refuse(self, append: Append, error: apsw.ConstraintError) -> None:
        """Say which guard refused the row; an append id that is there already with this row's place is no error."""
        connection = self._connection
        row_id, append_id = append.row[0], append.row[3]
        if append.new_trace is not None:
            append.error = self._why_no_trace(append) or self._database.translate(error)
            return
        if append.epoch is not None:
            lease: Any = connection.execute(LEASE_EPOCH, (row_id,)).fetchone()
            if lease is None or lease[0] != append.epoch:
                append.error = Fenced(append.trace_id, append.epoch, None if lease is None else lease[0])
                return
        if "scope_checkpoint.scope" in str(error):  # the thread that it belonged to was deleted
            append.error = TraceErased(append.trace_id)
            return
        found = None
        if isinstance(append_id, str):
            found = connection.execute(ROW_BY_APPEND_ID, (row_id, append_id)).fetchone()
        elif append_id is not None:
            found = connection.execute(ROW_AT, (row_id, append.row[1])).fetchone()
            if found is not None and (found[0] != append.row[1] or found[2] != append_id):
                found = None
        if found is not None:
            append.duplicate = LogRow._make(found)
            return
        try:
            stands_at = head(connection, find_trace(connection, append.trace_id)).version
        except EventStoreError as gone:
            append.error = gone
            return
        if stands_at != append.expected_version:
            append.error = WrongExpectedVersion(append.trace_id, stands_at, append.expected_version)
        else:
            append.error = self._database.translate(error)

    def _why_no_trace(self, append: Append) -> Exception | None:
        try:
            trace = find_trace(self._connection, append.trace_id)
            return TraceExists(append.trace_id, head(self._connection, trace).version)
        except TraceNotFound:
            return None  # a fork whose history went meanwhile: the guard's own words say so
        except EventStoreError as error:
            return error

    def _failure(self, append: Append, error: apsw.Error) -> Exception:
        failure = self._database.translate(error)
        if isinstance(failure, StoreHalted):
            failure = StoreHalted(
                self._database.path, failure.reason, append.trace_id, append.row[3], append.expected_version
            )
        failure.__cause__ = error
        return failure


_starting = allocate_lock()


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT, with a `synchronous` that may be other than the `usual` one."""

    def __init__(self, connection: apsw.Connection, synchronous: str, usual: str) -> None:
        self._connection = connection
        self._synchronous = synchronous
        self._usual = usual

    def __enter__(self) -> apsw.Connection:
        if self._synchronous != self._usual:
            self._connection.pragma("synchronous", self._synchronous)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._restore()
            raise
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._connection.in_transaction:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._restore()

    def _restore(self) -> None:
        if self._synchronous != self._usual:
            self._connection.pragma("synchronous", self._usual)
