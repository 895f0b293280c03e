"""The two recorded exceptions to an immutable log: trimming history, and erasing a trace.

A trim folds the log up to a step boundary and, in one synced transaction, writes that state as a root (part
of the truth, with the chain's digest there) and deletes the rows behind it. An erasure leaves a tombstone.
Both refuse, naming the blockers, where a fork, a checkpoint, a barrier or a retry still needs what would go.
Freed pages go back to the file system. An erasure rewrites the file, so that no old copy of a page is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import apsw

from . import bases, log
from .codec import as_column, state_size_bytes
from .errors import RetentionBlocked, StorageFull, StoreBusy
from .event import JsonRecord, utc
from .link import encode_whole
from .log import TraceRow

if TYPE_CHECKING:
    from .store import Store

RETRY_WINDOW_S = 86_400.0
INSERT_ROOT = "INSERT INTO root (trace, seq, at_us, digest, checksum, body) VALUES (?, ?, ?, ?, ?, ?)"
INSERT_TOMBSTONE = (
    "INSERT INTO tombstone (trace_id, trace, version, digest, erased_by, erased_us) VALUES (?, ?, ?, ?, ?, ?)"
)
FORKS = "SELECT trace_id, fork_seq FROM trace WHERE parent = ? AND fork_seq < ? ORDER BY fork_seq"
CHECKPOINTS = "SELECT checkpoint_id, seq FROM checkpoint WHERE trace = ? AND seq < ? ORDER BY seq"
BARRIERS = (
    "SELECT barrier_id, raised_seq FROM barrier WHERE trace = ?1 AND raised_seq <= ?2"
    " AND (decided_seq IS NULL OR decided_seq > ?2)"
)


class Removed(JsonRecord, frozen=True):
    """What a trim or an erasure removed. `freed_bytes`: how much smaller the file is.

    `wal_truncated` False: a reader kept the write-ahead log; its content goes at the next checkpoint.

    >>> Removed("t1", 40, 8192, True).freed_bytes
    8192
    """

    trace_id: str
    rows: int
    freed_bytes: int
    wal_truncated: bool


def trim(store: Store, trace_id: str, before: int, retry_window_s: float) -> Removed:
    """Delete the history behind the step boundary `before`; see `Store.trim`."""

    def work(connection: apsw.Connection) -> int:
        trace = log.find_trace(connection, trace_id)
        head = log.boundary(connection, trace, before)
        if before <= max(trace.fork_seq, log.root_seq(connection, trace.id)):
            return 0
        _refuse(trace_id, _trim_blockers(connection, trace, before, head.at_us, retry_window_s))
        segments = log.lineage(connection, trace, before)
        restored = bases.restore(connection, store.path, segments, before, trace_id, bases=False)
        body = encode_whole(restored.control, restored.state, state_size_bytes(restored.state))
        crc = bases.root_checksum(trace.id, before, body)
        connection.execute(INSERT_ROOT, (trace.id, before, head.at_us, head.digest, crc, as_column(body)))
        bases.drop(connection, trace)
        connection.execute("DELETE FROM root WHERE trace = ? AND seq < ?", (trace.id, before))
        connection.execute("DELETE FROM barrier WHERE trace = ? AND decided_seq <= ?", (trace.id, before))
        connection.execute("DELETE FROM log WHERE trace = ? AND first_seq <= ?", (trace.id, before))
        return int(connection.changes())

    return _remove(store, trace_id, work, rewrite=False)


def erase(store: Store, trace_id: str, by: str | None, cascade: bool) -> list[Removed]:
    """Erase a trace; see `Store.erase`."""
    with store._database.reader() as connection:
        trace = log.find_trace(connection, trace_id)
        family = _family(connection, trace)
    if len(family) > 1 and not cascade:
        raise RetentionBlocked(trace_id, [f"fork {fork.trace_id} at seq {fork.fork_seq}" for fork in family[1:]])

    def erase_one(member: TraceRow) -> Removed:
        def work(connection: apsw.Connection) -> int:
            row = log.find_trace(connection, member.trace_id)
            forks = connection.execute(FORKS, (row.id, 2**62)).fetchall()
            _refuse(row.trace_id, [f"fork {fork_id} at seq {seq}" for fork_id, seq in forks])
            head = log.head(connection, row)
            stone = (row.trace_id, row.id, head.version, head.digest, by, time.time_ns() // 1000)
            connection.execute(INSERT_TOMBSTONE, stone)
            bases.drop(connection, row)
            for table in ("lease", "checkpoint", "barrier", "root", "log"):
                connection.execute(f"DELETE FROM {table} WHERE trace = ?", (row.id,))
            rows = int(connection.changes())
            connection.execute("DELETE FROM trace WHERE id = ?", (row.id,))
            return rows

        return _remove(store, member.trace_id, work, rewrite=member is trace)

    return [erase_one(member) for member in reversed(family)]


def _family(connection: apsw.Connection, trace: TraceRow) -> list[TraceRow]:
    """The trace and all that forked from it, parents before children."""
    family, position = [trace], 0
    while position < len(family):
        for fork_id, _ in connection.execute(FORKS, (family[position].id, 2**62)).fetchall():
            family.append(log.find_trace(connection, str(fork_id)))
        position += 1
    return family


def _trim_blockers(
    connection: apsw.Connection, trace: TraceRow, before: int, at_us: int, retry_window_s: float
) -> list[str]:
    blockers = [f"fork {fork_id} at seq {seq}" for fork_id, seq in connection.execute(FORKS, (trace.id, before))]
    for checkpoint_id, seq in connection.execute(CHECKPOINTS, (trace.id, before)):
        if isinstance(seq, int) and seq > trace.fork_seq:
            blockers.append(f"checkpoint {checkpoint_id} at seq {seq}")
    for fork in _family(connection, trace)[1:]:
        for checkpoint_id, seq in connection.execute(CHECKPOINTS, (fork.id, before)):
            blockers.append(f"checkpoint {checkpoint_id} of fork {fork.trace_id} at seq {seq}")
    for barrier_id, seq in connection.execute(BARRIERS, (trace.id, before)):
        blockers.append(f"barrier {barrier_id} raised at seq {seq}")
    if at_us > time.time_ns() // 1000 - int(retry_window_s * 1_000_000):
        blockers.append(f"a retry may still come for appends up to {utc(at_us):%Y-%m-%d %H:%M:%S} UTC")
    return blockers


def _refuse(trace_id: str, blockers: list[str]) -> None:
    if blockers:
        raise RetentionBlocked(trace_id, blockers)


def _remove(store: Store, trace_id: str, work: Callable[[apsw.Connection], int], *, rewrite: bool) -> Removed:
    writer, database = store._writer, store._database
    connection = database.writer
    before_pages = writer.quiet(lambda: connection.pragma("page_count"))
    rows = writer.write(work, sync=True)
    try:
        busy = writer.quiet(lambda: _give_back(connection, rewrite))
    except (StoreBusy, StorageFull):
        busy = True  # the removal is committed; only its pages stay for now
    pages, size = writer.quiet(lambda: (connection.pragma("page_count"), connection.pragma("page_size")))
    return Removed(trace_id, rows, (before_pages - pages) * size, not busy)


def _give_back(connection: apsw.Connection, rewrite: bool) -> bool:
    """Return free pages to the file system; `rewrite` the file, since page splits leave old copies of rows.

    Whether a reader kept the WAL from being truncated.
    """
    for _ in connection.execute("VACUUM" if rewrite else "PRAGMA incremental_vacuum"):
        pass
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() or (1, 0, 0)
    return bool(busy)
