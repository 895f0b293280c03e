"""The two recorded exceptions to an immutable log: trimming history, and erasing a trace.

A trim reads the log up to a step boundary, checks each row against the hash chain and folds it and, in one
synced transaction, writes that state as a root (part of the truth, with the chain's digest there) and deletes
the rows behind it: what is damaged is never made the truth. An erasure leaves a tombstone. Both refuse, naming
the blockers, where something still needs what would go. Freed pages go back to the file system; an erasure
rewrites the file, so that no old copy of a page is left. That a rewrite is due stands in the file from the
erasure's own transaction until file and write-ahead log are rewritten; the next prune or erasure does what
a kill, a lock, a reader or a full disk kept this one from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import apsw

from . import bases, blockers, chain, log
from .blockers import NOTHING_LEAVES, Leaving, RetentionBlocker
from .codec import as_column, check_text, decode_rows, state_size_bytes
from .errors import LogCorrupted, RetentionBlocked, StateError, StorageFull, StoreBusy, Trimmed
from .event import JsonRecord
from .link import State, decode_whole, encode_whole, fold_rows
from .log import Head, LogRow, TraceRow

if TYPE_CHECKING:
    from .database import Database
    from .store import Store

RETRY_WINDOW_S = 86_400.0
INSERT_ROOT = (
    "INSERT INTO root (trace, seq, at_us, digest, checksum, body, created_us, seal) SELECT ?1, ?2, ?3, ?4, ?5, ?6,"
    " created_us, seal(trace_id, created_us, ?2, ?3, ?4, CAST(?6 AS BLOB)) FROM trace WHERE id = ?1"
)
INSERT_TOMBSTONE = (
    "INSERT INTO tombstone (trace_id, trace, version, digest, erased_by, erased_us, seal)"
    " SELECT ?1, ?2, ?3, ?4, ?5, ?6, seal(?1, ?2, ?3, ?4, ?5, ?6)"
)
ROOT = (
    "SELECT seq, at_us, digest, checksum, created_us, seal, CAST(body AS BLOB) FROM root WHERE trace = ? AND seq <= ?"
    " ORDER BY seq DESC LIMIT 1"
)
EXTENT = (
    "SELECT count(*), coalesce(sum(n), 0), coalesce(sum(octet_length(body)), 0) FROM log"
    " WHERE trace = ? AND first_seq <= ?"
)
BASES = "SELECT id, parent, octet_length(body) FROM base WHERE trace = ? ORDER BY seq"
REWRITE_DUE = "SELECT erased_us FROM rewrite_due"
REWRITE_IS_DUE = (
    "INSERT INTO rewrite_due (id, erased_us) VALUES (1, ?)"
    " ON CONFLICT (id) DO UPDATE SET erased_us = max(erased_us + 1, excluded.erased_us)"
)
REWRITTEN = "DELETE FROM rewrite_due WHERE erased_us = ?"


class Removed(JsonRecord, frozen=True):
    """What a trim or an erasure removed. `freed_bytes`: how much smaller the file is now.

    `wal_truncated` False: a reader kept the write-ahead log, another writer the lock, or the disk is full. What was
    removed may stand in the file or its log yet; of an erased trace, until the next prune or erasure rewrites both.

    >>> Removed("t1", 40, 8192, True).freed_bytes
    8192
    """

    trace_id: str
    rows: int
    freed_bytes: int
    wal_truncated: bool


class Extent(NamedTuple):
    """How much it is: of a log the rows, events and bytes of their bodies; of bases the rows and bytes."""

    rows: int = 0
    events: int = 0
    log_bytes: int = 0
    bases: int = 0
    base_bytes: int = 0


def trim(store: Store, trace_id: str, before: int, retry_window_s: float) -> Removed:
    """Delete the history behind the step boundary `before`; see `Store.trim`."""
    check_window(retry_window_s)

    def work(connection: apsw.Connection) -> int:
        trace = log.find_trace(connection, trace_id)
        head = log.boundary(connection, trace, before)
        if before <= max(trace.fork_seq, log.root_seq(connection, trace.id)):
            return 0
        _refuse(trace_id, blockers.of_trim(connection, trace, head, retry_window_s))
        return trim_history(store, connection, trace, head).rows

    return _remove(store, trace_id, work, rewrite=False)


def trim_history(store: Store, connection: apsw.Connection, trace: TraceRow, at: Head) -> Extent:
    """Make that boundary the trace's root, inside the caller's transaction; what went. Raises LogCorrupted."""
    control, state = _verified(connection, store._database, trace, at)
    gone = extent(connection, trace, at.version)
    body = encode_whole(control, state, state_size_bytes(state))
    crc = bases.root_checksum(trace.id, at.version, body)
    connection.execute(INSERT_ROOT, (trace.id, at.version, at.at_us, at.digest, crc, as_column(body)))
    bases_gone = drop_bases(connection, trace)
    connection.execute("DELETE FROM root WHERE trace = ? AND seq < ?", (trace.id, at.version))
    connection.execute("DELETE FROM barrier WHERE trace = ? AND decided_seq <= ?", (trace.id, at.version))
    connection.execute("DELETE FROM log WHERE trace = ? AND first_seq <= ?", (trace.id, at.version))
    return gone._replace(bases=bases_gone.bases, base_bytes=bases_gone.base_bytes)


def _verified(connection: apsw.Connection, database: Database, trace: TraceRow, at: Head) -> tuple[State, State]:
    """Control and state there, from the log alone: every row on the way must be what the chain says was written."""
    path, chain_ = database.path, database.chain
    segments = log.lineage(connection, trace, at.version)
    control: State = {}
    state: State = {}
    seq, digest = 0, chain.genesis(log.trace_by_row(connection, segments[0].trace).trace_id)
    for segment in reversed(segments):
        root: Any = connection.execute(ROOT, (segment.trace, segment.upto)).fetchone()
        if root is None:
            if beyond := log.root_seq(connection, segment.trace):
                raise Trimmed(trace.trace_id, segment.upto, at.version, beyond)
            continue
        seq, root_us, digest, crc, created_us, seal, body = root
        owner = log.trace_by_row(connection, segment.trace).trace_id
        is_sealed = chain_.is_sealed(seal, owner, created_us, seq, root_us, digest, body)
        if crc != bases.root_checksum(segment.trace, seq, body) or not is_sealed:
            raise LogCorrupted(path, trace.trace_id, seq, "its root fails its checksum")
        control, state = decode_whole(body)
        break
    for segment in segments:
        if segment.upto <= seq:
            continue
        place = (segment.trace, max(segment.after, seq), segment.upto, -1)
        for row in map(LogRow._make, connection.execute(log.FULL_ROWS, place)):
            if row.first_seq != seq + 1:
                raise LogCorrupted(path, trace.trace_id, seq + 1, f"the next row begins at {row.first_seq}")
            digest = chain_.extend(digest, row.first_seq, row.n, row.at_us, row.append_id, row.body)
            if digest != row.digest:
                told = "the row is not what was written, or a row before it is missing"
                raise LogCorrupted(path, trace.trace_id, row.first_seq, told)
            try:
                events = decode_rows(row.body)
                fold_rows(control, state, events)
            except (ValueError, TypeError, KeyError, StateError) as error:
                raise LogCorrupted(path, trace.trace_id, row.first_seq, str(error)) from error
            if len(events) != row.n:
                raise LogCorrupted(path, trace.trace_id, row.first_seq, f"{len(events)} events in a row of {row.n}")
            seq = row.last_seq
    if (seq, digest) != (at.version, at.digest):
        raise LogCorrupted(path, trace.trace_id, seq + 1, f"its rows do not lead to seq {at.version}")
    return control, state


def erase(store: Store, trace_id: str, by: str | None, cascade: bool) -> list[Removed]:
    """Erase a trace; see `Store.erase`."""
    check_text("by", by)
    with store._database.reader() as connection:
        trace = log.find_trace(connection, trace_id)
        family = blockers.family(connection, trace)
        for member in family:  # all of them before the first is gone
            _refuse(member.trace_id, blockers.threads(connection, member, "erase"))
        if not cascade:
            _refuse(trace_id, blockers.forks(connection, trace, "erase", blockers.ALL))
        for member in family:
            _refuse(member.trace_id, running(store, connection, member, "erase"))

    def erase_one(member: TraceRow) -> Removed:
        def work(connection: apsw.Connection) -> int:
            row = log.find_trace(connection, member.trace_id)
            _refuse(row.trace_id, blockers.threads(connection, row, "erase"))
            _refuse(row.trace_id, blockers.forks(connection, row, "erase", blockers.ALL))
            _refuse(row.trace_id, running(store, connection, row, "erase"))
            return erase_rows(connection, row, by).rows

        return _remove(store, member.trace_id, work, rewrite=member is trace)

    return [erase_one(member) for member in reversed(family)]


def erase_rows(connection: apsw.Connection, trace: TraceRow, by: str | None) -> Extent:
    """Leave a tombstone in the trace's place, inside the caller's transaction; what went.

    From then on a rewrite of the file is due. What is deleted is overwritten at once, which leaves old copies alone.
    """
    try:
        head = log.head(connection, trace)
    except LogCorrupted:
        head = Head(0, bytes(16), 0)  # its log is gone, its bases and projections are not
    gone = extent(connection, trace, blockers.ALL)
    now_us = time.time_ns() // 1000
    connection.execute(INSERT_TOMBSTONE, (trace.trace_id, trace.id, head.version, head.digest, by, now_us))
    connection.execute(REWRITE_IS_DUE, (now_us,))
    with overwriting(connection):
        bases_gone = drop_bases(connection, trace)
        for table in ("lease", "checkpoint", "barrier", "root", "log"):
            connection.execute(f"DELETE FROM {table} WHERE trace = ?", (trace.id,))
        connection.execute("DELETE FROM trace WHERE id = ?", (trace.id,))
    return gone._replace(bases=bases_gone.bases, base_bytes=bases_gone.base_bytes)


@contextmanager
def overwriting(connection: apsw.Connection) -> Iterator[None]:
    """What is deleted meanwhile is overwritten at once, which leaves old copies alone."""
    usual = connection.pragma("secure_delete")
    connection.pragma("secure_delete", 1)
    try:
        yield
    finally:
        connection.pragma("secure_delete", usual)


def running(store: Store, connection: apsw.Connection, trace: TraceRow, action: str) -> list[RetentionBlocker]:
    """The living owner that runs the trace now, as a blocker."""
    return blockers.owner(action, store._ownership.living_owner(connection, trace))


def extent(connection: apsw.Connection, trace: TraceRow, upto: int) -> Extent:
    """The trace's own rows up to that boundary."""
    row: Any = connection.execute(EXTENT, (trace.id, upto)).fetchone()
    return Extent(*row)


def dependent_bases(
    connection: apsw.Connection, trace: TraceRow, leaving: Leaving = NOTHING_LEAVES
) -> tuple[list[int], Extent]:
    """The trace's bases, and those of its forks that stand on them: row ids, and how much that is."""
    found: set[int] = set()
    size = 0
    for member in blockers.family(connection, trace, leaving):
        if member is not trace and member.id in leaving.bare:
            continue
        rows: Any = connection.execute(BASES, (member.id,))
        for base_id, parent, body_bytes in rows:
            if member is trace or parent in found:
                found.add(base_id)
                size += body_bytes
    return list(found), Extent(bases=len(found), base_bytes=size)


def drop_bases(connection: apsw.Connection, trace: TraceRow) -> Extent:
    """Delete them, inside the caller's transaction; what went."""
    ids, size = dependent_bases(connection, trace)
    connection.executemany("DELETE FROM base WHERE id = ?", [(base_id,) for base_id in ids])
    return size


def _refuse(trace_id: str, found: Iterable[RetentionBlocker]) -> None:
    if named := [str(blocker) for blocker in found]:
        raise RetentionBlocked(trace_id, named)


def _remove(store: Store, trace_id: str, work: Callable[[apsw.Connection], int], *, rewrite: bool) -> Removed:
    before_bytes = file_bytes(store)
    rows = store._writer.write(work, sync=True)
    store._reader.forget()
    truncated = give_back(store, rewrite=rewrite)
    return Removed(trace_id, rows, before_bytes - _size_bytes(store), truncated)


def file_bytes(store: Store) -> int:
    """The file's size, with what the write-ahead log holds moved into it as far as readers allow."""
    store._writer.quiet(lambda: store._database.writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone())
    return _size_bytes(store)


def _size_bytes(store: Store) -> int:
    return Path(store._database._file).stat().st_size


def free_bytes(connection: apsw.Connection) -> int:
    """How many bytes of the file are free pages."""
    return int(connection.pragma("freelist_count") * connection.pragma("page_size"))


def rewrite_due(connection: apsw.Connection) -> int | None:
    """The mark that an erasure left whose words may stand in the file yet; None when the file was rewritten since."""
    row: Any = connection.execute(REWRITE_DUE).fetchone()
    return None if row is None else int(row[0])


def give_back(store: Store, *, rewrite: bool) -> bool:
    """Return free pages to the file system; `rewrite` the file where that is due, since page splits leave old
    copies of rows.

    False: the disk is full, another writer holds the lock, or somebody kept the write-ahead log from being
    truncated. What was removed is; its pages stay for now, and so does the mark that a rewrite is due.
    """

    def truncated() -> bool:
        busy, _, _ = store._database.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() or (1, 0, 0)
        return not busy

    def work() -> bool:
        connection = store._database.writer
        mark = rewrite_due(connection) if rewrite else None
        for _ in connection.execute("PRAGMA incremental_vacuum" if mark is None else "VACUUM"):
            pass
        if not truncated():
            return False
        if mark is not None:
            connection.execute(REWRITTEN, (mark,))  # not that of an erasure by another process since
            truncated()  # only for the size's sake
        return True

    try:
        return store._writer.quiet(work)
    except (StoreBusy, StorageFull):
        return False


def release_pages(store: Store) -> None:
    """Return free pages to the file system, unless another writer is at work or the disk is full: then they stay."""

    def work() -> None:
        for _ in store._database.writer.execute("PRAGMA incremental_vacuum"):
            pass

    try:
        store._writer.quiet(work)
    except (StoreBusy, StorageFull):
        return


def check_window(retry_window_s: float) -> None:
    """Raise ValueError unless it is a length of time.

    >>> check_window(float("nan"))
    Traceback (most recent call last):
    ValueError: retry_window_s is a finite number of 0 or more, not nan
    """
    if not (math.isfinite(retry_window_s) and retry_window_s >= 0):
        raise ValueError(f"retry_window_s is a finite number of 0 or more, not {retry_window_s}")
