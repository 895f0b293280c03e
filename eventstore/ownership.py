"""Who works on which run: one owner row a store that runs, one lease row a run that is not over.

To claim a run is to raise its epoch in one transaction; an append of an older epoch is then refused
(`Fenced`). A run may be taken from an owner whose process is dead (its byte of the side file is free) or
whose beat has not moved for `owner_timeout_s` on this process's own clock. Beats and leases are not synced:
after a power cut no owner is left, and the log, which comes later in the same WAL, has the last epoch.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import apsw

from .errors import EventStoreError, RunOwned, StorageError
from .liveness import Roll
from .log import TraceRow, find_trace
from .pending import Statement
from .writer import TRACE_ROW

if TYPE_CHECKING:
    from .store import Store
    from .trace import Trace

HAS_LOCKS = os.name == "posix"
ADD_OWNER = "INSERT INTO owner (name, started_us) VALUES (?, ?)"
REMOVE_OWNER = "DELETE FROM owner WHERE id = ?"
IDLE_OWNERS = "SELECT id FROM owner WHERE id NOT IN (SELECT owner FROM lease WHERE owner IS NOT NULL)"
BEAT = "UPDATE owner SET beat = beat + 1 WHERE id = ?"
LEASE = "SELECT l.epoch, l.owner, o.name, o.beat FROM lease l LEFT JOIN owner o ON o.id = l.owner WHERE l.trace = ?"
TAKE = (
    "INSERT INTO lease (trace, epoch, owner) VALUES (?1, ?2, ?3)"
    " ON CONFLICT (trace) DO UPDATE SET epoch = ?2, owner = ?3, due_us = NULL"
)
FREE = "UPDATE lease SET owner = NULL, due_us = ? WHERE trace = ? AND epoch = ?"
OFFER = "INSERT OR IGNORE INTO lease (trace, epoch) VALUES (?, ?)"
END = "DELETE FROM lease WHERE trace = ?"
DEFINE = "INSERT OR IGNORE INTO graph (graph_hash, definition) VALUES (?, ?)"
DEFINITION = "SELECT definition FROM graph WHERE graph_hash = ?"
# What a worker looks for: runs that are free and due, runs of owners (dead ones among them), expired barriers;
# in the order of their rows, so that a page goes on where the one before it ended.
DUE = (
    "SELECT t.id, t.trace_id FROM trace t JOIN lease l ON l.trace = t.id"
    " WHERE t.status = 'running' AND t.name = ?1 AND t.id > ?4 AND (l.owner IS NOT NULL OR coalesce(l.due_us, 0) <= ?2)"
    " UNION SELECT t.id, t.trace_id FROM barrier b JOIN trace t ON t.id = b.trace JOIN lease l ON l.trace = t.id"
    " WHERE b.decided_seq IS NULL AND b.deadline_us <= ?2 AND t.status = 'waiting' AND t.name = ?1 AND t.id > ?4"
    " ORDER BY 1 LIMIT ?3"
)


class Claim(NamedTuple):
    """An ownership: its epoch; `taken_over`: from an owner that did not give it back."""

    epoch: int
    taken_over: bool


class Ownership:
    """The runs that a store works on. Thread-safe; costs nothing until the first claim."""

    def __init__(self, store: Store, owner_timeout_s: float) -> None:
        self._store = store
        self.owner_timeout_s = owner_timeout_s
        self._owner: int | None = None
        self._roll: Roll | None = None
        self._active: set[str] = set()
        self._seen: dict[int, tuple[int, float]] = {}
        self._owed: list[tuple[Trace, int]] = []
        self._threads: dict[str, dict[str, threading.Thread]] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._heart: threading.Thread | None = None
        self.name = f"{os.getpid()}@{socket.gethostname()}"

    def begin(self, graph_hash: str, definition: str) -> list[Statement]:
        """What goes into the first commit of a run, which this store then owns with epoch 1."""
        return [(DEFINE, (graph_hash, definition)), (TAKE, (TRACE_ROW, 1, self._register()))]

    def entered(self, trace_id: str) -> None:
        """Enter a run of this store. Raises RunOwned when one of its threads works on it already."""
        with self._lock:
            if trace_id in self._active:
                raise RunOwned(trace_id, f"{self.name}, this process")
            self._active.add(trace_id)

    def left(self, trace_id: str) -> None:
        """The run is not worked on here any more."""
        with self._lock:
            self._active.discard(trace_id)

    def claim(self, trace: Trace, known_epoch: int) -> Claim:
        """Own the run from now on. `known_epoch`: the log's. Call between `entered` and `left`.

        Raises RunOwned, TraceNotFound, TraceErased, storage errors.
        """
        owner, trace_id = self._register(), trace.id

        def work(connection: apsw.Connection) -> Claim:
            row_id = find_trace(connection, trace_id).id
            row: Any = connection.execute(LEASE, (row_id,)).fetchone()
            epoch, holder, name, beat = row or (0, None, None, 0)
            assert self._roll is not None
            if holder is not None and holder != owner and self._lives(self._roll, holder, beat, trace_id):
                raise RunOwned(trace_id, name or f"owner {holder}")
            epoch = max(epoch, known_epoch) + 1
            connection.execute(TAKE, (row_id, epoch, owner))
            return Claim(epoch, holder is not None)

        return self._store._writer.write(work, relaxed=True)

    def claim_once(self, trace: Trace, known_epoch: int) -> Claim:
        """Own the run for one append. Raises as `entered` and `claim`."""
        self.entered(trace.id)
        try:
            return self.claim(trace, known_epoch)
        finally:
            self.left(trace.id)

    def define(self, graph_hash: str, definition: str) -> None:
        """Keep what a graph hash means."""
        self._store._writer.write(lambda connection: connection.execute(DEFINE, (graph_hash, definition)), relaxed=True)

    def definition(self, graph_hash: str) -> str | None:
        """What a graph hash means; None where no run recorded it."""
        with self._store._database.reader() as connection:
            row = connection.execute(DEFINITION, (graph_hash,)).fetchone()
        return None if row is None else str(row[0])

    def release(self, trace: Trace, epoch: int, due_us: int | None = None) -> None:
        """Give a run back outside an append, if it is still this owner's."""
        row_id = trace._row.id
        self._store._writer.write(lambda connection: connection.execute(FREE, (due_us, row_id, epoch)), relaxed=True)

    def give_back(self, trace: Trace, epoch: int) -> None:
        """`release` after a failure: where it fails in turn (busy, full), the next beats try again."""
        try:
            self.release(trace, epoch)
        except StorageError:
            with self._lock:
                self._owed.append((trace, epoch))

    def threads_of(self, trace_id: str) -> dict[str, threading.Thread]:
        """The threads of calls of that run in this process, by path; those that have ended are forgotten."""
        with self._lock:
            for known in list(self._threads):
                if known != trace_id and not any(thread.is_alive() for thread in self._threads[known].values()):
                    del self._threads[known]
            return self._threads.setdefault(trace_id, {})

    def due(self, name: str, limit: int, after: int = 0) -> tuple[list[str], int | None]:
        """Runs of that graph that a worker can try: free and due, of another owner that may be dead, or expired.

        A page of at most `limit`, and the cursor of the next page: None after the last.
        """
        with self._store._database.reader() as connection:
            now_us = time.time_ns() // 1000
            rows: list[Any] = connection.execute(DUE, (name, now_us, limit, after)).fetchall()
        with self._lock:
            found = [trace_id for _, trace_id in rows if trace_id not in self._active]
        return found, rows[-1][0] if len(rows) == limit else None

    def living_owner(self, connection: apsw.Connection, trace: TraceRow) -> str | None:
        """Who runs the trace right now, as pid@host; None where nobody does, or its owner is dead.

        It only looks: on a store opened read-only too, and no side file is made. An owner whose side file cannot
        be opened counts as living.
        """
        row: Any = connection.execute(LEASE, (trace.id,)).fetchone()
        _, holder, name, beat = row or (0, None, None, None)
        if holder is None or beat is None:
            return None
        path = self._store._database._file
        if HAS_LOCKS and not Path(f"{os.path.realpath(path)}-owners").exists():
            return None
        try:
            roll = Roll.of(path)
        except OSError:
            return str(name)
        try:
            return str(name) if self._lives(roll, holder, beat, trace.trace_id) else None
        finally:
            roll.leave()

    def _lives(self, roll: Roll, owner: int, beat: int | None, trace_id: str) -> bool:
        if beat is None or not roll.is_locked(owner):
            return False
        if roll.is_here(owner):
            return roll.works_on(owner, trace_id)
        now = time.monotonic()
        seen = self._seen.get(owner)
        if seen is None or seen[0] != beat:
            self._seen[owner] = (beat, now)
            return True
        return now - seen[1] < self.owner_timeout_s

    def _register(self) -> int:
        with self._lock:
            if self._owner is not None:
                return self._owner
            self._store._database.check_open()
            roll = Roll.of(self._store._database._file)

            def work(connection: apsw.Connection) -> int:
                for (idle,) in connection.execute(IDLE_OWNERS).fetchall():
                    if isinstance(idle, int) and not roll.is_locked(idle):
                        connection.execute(REMOVE_OWNER, (idle,))
                connection.execute(ADD_OWNER, (self.name, time.time_ns() // 1000))
                number = connection.last_insert_rowid()
                roll.hold(number, self._active)
                return number

            try:
                self._owner = self._store._writer.write(work, relaxed=True)
            except BaseException:
                roll.leave()
                raise
            self._roll = roll
            self._heart = threading.Thread(target=self._beat, name="eventstore-heart", daemon=True)
            self._heart.start()
            return self._owner

    def _beat(self) -> None:
        while not self._stopped.wait(self.owner_timeout_s / 6):
            with self._lock:
                owed, self._owed = self._owed, []
            for trace, epoch in owed:
                self.give_back(trace, epoch)
            if not self._active:
                continue
            try:
                self._store._writer.write(lambda connection: connection.execute(BEAT, (self._owner,)), relaxed=True)
            except EventStoreError:
                if not self._store._database.is_open:
                    return
                # Busy or full: others may take this store's runs over, and its next appends are fenced off.

    def close(self) -> None:
        """Stop beating and give the owner's place up; leases that are left can be taken over at once."""
        self._stopped.set()
        if self._heart is not None:
            self._heart.join(self._store._database.busy_timeout_ms / 1000)
        if self._owner is None or self._roll is None:
            return
        owner = self._owner
        try:
            if self._store._database.is_open:
                self._store._writer.write(lambda connection: connection.execute(REMOVE_OWNER, (owner,)), relaxed=True)
        except StorageError:
            pass  # busy, full or halted: the row is idle from now on, and the next owner to register removes it
        finally:
            self._roll.let_go(owner)
            self._roll.leave()
            self._owner = self._roll = None
