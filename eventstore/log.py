"""SQL of the log: where a trace stands, its rows, and the lineage that a fork reads through.

A fork shares its parent's rows up to `fork_seq` by reference. Its lineage is a list of segments
`(trace row, first seq excluded, last seq included)`, oldest first; everything that reads history
walks segments and so never tells a fork from a trace of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import apsw

from .errors import FileCorrupted, LogCorrupted, NotAStepBoundary, SeqOutOfRange, TraceErased, TraceNotFound, Trimmed

LAST_ROW = "SELECT first_seq + n - 1, digest, at_us FROM log WHERE trace = ? ORDER BY first_seq DESC LIMIT 1"
LAST_ROOT = "SELECT seq, digest, at_us FROM root WHERE trace = ? ORDER BY seq DESC LIMIT 1"
ROWS = (
    "SELECT first_seq, n, CAST(body AS BLOB) FROM log"
    " WHERE trace = ? AND first_seq > ? AND first_seq <= ? ORDER BY first_seq"
)
TIMED_ROWS = (
    "SELECT first_seq, n, at_us, CAST(body AS BLOB) FROM log"
    " WHERE trace = ? AND first_seq > ? AND first_seq <= ? ORDER BY first_seq LIMIT ?"
)
FULL_ROWS = (
    "SELECT first_seq, n, append_id, at_us, digest, CAST(body AS BLOB) FROM log"
    " WHERE trace = ? AND first_seq > ? AND first_seq <= ? ORDER BY first_seq LIMIT ?"
)
ROW_AT = (
    "SELECT first_seq, n, append_id, at_us, digest, CAST(body AS BLOB) FROM log"
    " WHERE trace = ? AND first_seq <= ? ORDER BY first_seq DESC LIMIT 1"
)
ROW_BY_APPEND_ID = (
    "SELECT first_seq, n, append_id, at_us, digest, CAST(body AS BLOB) FROM log"
    " WHERE trace = ? AND append_id = ? AND typeof(append_id) = 'text'"
)
CHECKPOINTS_BEGINNING = (
    "SELECT checkpoint_id, seq FROM checkpoint WHERE trace = ?1 AND seq <= ?2"
    " AND substr(lower(checkpoint_id), 1, length(?3)) = ?3 ORDER BY seq, checkpoint_id"
)
FORKS = "SELECT trace_id, fork_seq, created_us FROM trace WHERE parent = ? ORDER BY fork_seq, id"
TIME_AT = "SELECT first_seq, n, at_us FROM log WHERE trace = ? AND first_seq <= ? ORDER BY first_seq DESC LIMIT 1"
TRACES_BEGINNING = (
    "SELECT trace_id, name FROM trace WHERE trace_id >= ?1 AND trace_id < ?1 || char(1114111)"
    " ORDER BY trace_id DESC LIMIT ?2"
)
TRACE_BY_ID = "SELECT id, trace_id, name, parent, fork_seq, created_us, status FROM trace WHERE trace_id = ?"
TRACE_BY_ROW = "SELECT id, trace_id, name, parent, fork_seq, created_us, status FROM trace WHERE id = ?"


MAX_SEQ = 2**62
"""No seq comes near: what an append writes is checked against it."""


class TraceRow(NamedTuple):
    """A row of table `trace`."""

    id: int
    trace_id: str
    name: str
    parent: int | None
    fork_seq: int
    created_us: int
    status: str


class Head(NamedTuple):
    """Where a trace stands: last seq, chain digest and time."""

    version: int
    digest: bytes
    at_us: int


class LogRow(NamedTuple):
    """A row of table `log`, without its ids."""

    first_seq: int
    n: int
    append_id: str | int | None
    at_us: int
    digest: bytes
    body: bytes

    @property
    def last_seq(self) -> int:
        """The seq of the row's last event."""
        return self.first_seq + self.n - 1


class Segment(NamedTuple):
    """Part of a lineage: the rows of `trace` with `after < seq <= upto`."""

    trace: int
    after: int
    upto: int


def find_trace(connection: apsw.Connection, trace_id: str) -> TraceRow:
    """The trace of that id. Raises TraceNotFound or TraceErased."""
    try:
        row: Any = connection.execute(TRACE_BY_ID, (trace_id,)).fetchone()
    except UnicodeEncodeError:
        raise TraceNotFound(ascii(trace_id)) from None
    if row is None:
        if connection.execute("SELECT 1 FROM tombstone WHERE trace_id = ?", (trace_id,)).fetchone():
            raise TraceErased(trace_id)
        raise TraceNotFound(trace_id)
    return trace_row(connection, row)


def trace_row(connection: apsw.Connection, values: tuple[Any, ...]) -> TraceRow:
    """A row of table `trace`. SQLite looks at types and rules when it writes: damage breaks them unseen.

    Raises FileCorrupted.
    """
    row = TraceRow._make(values)
    row_id, trace_id, name, parent, fork_seq, created_us, status = row
    is_root = parent is None and fork_seq == 0
    if (
        type(row_id) is int
        and type(trace_id) is type(name) is type(status) is str
        and type(fork_seq) is type(created_us) is int
        and (is_root or (type(parent) is int and parent < row_id and 0 < fork_seq < MAX_SEQ))
    ):
        return row
    raise FileCorrupted(connection.filename, f"row {row_id!r} of its traces is none that was written")


def listed_row(
    connection: apsw.Connection, row_id: Any, trace_id: Any, name: Any, fork_seq: Any, created_us: Any, status: Any
) -> TraceRow:
    """As `trace_row`, of a list that tells of the parent otherwise. Raises FileCorrupted."""
    parent = None if fork_seq == 0 else row_id - 1
    return trace_row(connection, (row_id, trace_id, name, parent, fork_seq, created_us, status))._replace(parent=None)


def log_row(connection: apsw.Connection, trace: int, values: tuple[Any, ...], after: int) -> LogRow:
    """A row of table `log` that begins behind the seq `after`. Raises LogCorrupted where no append wrote it so."""
    first_seq, n, append_id, at_us, digest, body = values
    if (
        type(first_seq) is type(n) is type(at_us) is int
        and type(digest) is type(body) is bytes
        and after < first_seq < first_seq + n < MAX_SEQ
        and (append_id is None or type(append_id) is int or type(append_id) is str)
    ):
        return LogRow._make(values)
    check_place(connection, trace, first_seq, n, after)
    reason = "a row holds values of other types than were written"
    raise LogCorrupted(connection.filename, _id_of(connection, trace), first_seq, reason)


def check_place(connection: apsw.Connection, trace: int, first_seq: Any, n: Any, after: int) -> None:
    """Raise LogCorrupted unless a commit of `n` events can stand at `first_seq`, behind the seq `after`.

    A page that is found twice, or numbers that were damaged, would otherwise lead in circles.
    """
    if not (type(first_seq) is type(n) is int and after < first_seq < first_seq + n < MAX_SEQ):
        reason = f"a row says that it holds {n!r} events from {first_seq!r} on"
        raise LogCorrupted(connection.filename, _id_of(connection, trace), after + 1, reason)


def _id_of(connection: apsw.Connection, row_id: int) -> str:
    row: Any = connection.execute(TRACE_BY_ROW, (row_id,)).fetchone()
    return f"with row id {row_id}" if row is None else str(row[1])


def traces_beginning(connection: apsw.Connection, prefix: str, limit: int) -> list[tuple[str, str]]:
    """`(id, name)` of the traces whose ids begin so, newest first."""
    rows: Any = connection.execute(TRACES_BEGINNING, (prefix, limit)).fetchall()
    return list(rows)


def trace_by_row(connection: apsw.Connection, row_id: int) -> TraceRow:
    """The trace of that row id. Raises TraceNotFound."""
    row: Any = connection.execute(TRACE_BY_ROW, (row_id,)).fetchone()
    if row is None:
        raise TraceNotFound(f"with row id {row_id}")
    return trace_row(connection, row)


def head(connection: apsw.Connection, trace: TraceRow) -> Head:
    """Where the trace stands. Every trace, a fork too, has a row or a root of its own, or LogCorrupted is raised."""
    row: Any = connection.execute(LAST_ROW, (trace.id,)).fetchone()
    if row is None:
        row = connection.execute(LAST_ROOT, (trace.id,)).fetchone()
    if row is None:
        raise LogCorrupted(connection.filename, trace.trace_id, trace.fork_seq + 1, "it has no rows")
    version, digest, at_us = found = Head._make(row)
    if type(version) is type(at_us) is int and type(digest) is bytes and trace.fork_seq < version < MAX_SEQ:
        return found
    raise LogCorrupted(connection.filename, trace.trace_id, trace.fork_seq + 1, f"its last row ends at {version!r}")


def boundary(connection: apsw.Connection, trace: TraceRow, seq: int) -> Head:
    """Where the trace stood at `seq`. Raises SeqOutOfRange, NotAStepBoundary, Trimmed."""
    version = head(connection, trace).version
    if not 1 <= seq <= version:
        raise SeqOutOfRange(trace.trace_id, seq, version)
    segment = next(part for part in reversed(lineage(connection, trace, version)) if part.after < seq <= part.upto)
    row = connection.execute(ROW_AT, (segment.trace, seq)).fetchone()
    if row is None:
        root = connection.execute(LAST_ROOT, (segment.trace,)).fetchone()
        if root is not None and root[0] == seq and type(root[2]) is int:
            return Head._make(root)
        raise Trimmed(trace.trace_id, seq, version, root_seq(connection, segment.trace))
    found = log_row(connection, segment.trace, row, 0)
    if found.last_seq != seq:
        raise NotAStepBoundary(trace.trace_id, seq, before=found.first_seq - 1, after=found.last_seq)
    return Head(found.last_seq, found.digest, found.at_us)


def root_seq(connection: apsw.Connection, row_id: int) -> int:
    """The seq of the trace's last root; 0 when it was never trimmed."""
    row: Any = connection.execute(LAST_ROOT, (row_id,)).fetchone()
    if row is None:
        return 0
    if type(row[0]) is not int:
        raise FileCorrupted(connection.filename, f"the root of the trace in row {row_id} is none that was written")
    return int(row[0])


def lineage(connection: apsw.Connection, trace: TraceRow, upto: int) -> list[Segment]:
    """The segments that hold seqs 1 to `upto` of the trace, oldest first. Raises FileCorrupted.

    It ends: a parent's row is older than its child's, or `trace_row` refuses it.
    """
    segments: list[Segment] = []
    while True:
        if upto > trace.fork_seq:
            segments.append(Segment(trace.id, trace.fork_seq, upto))
        if trace.parent is None:
            return segments[::-1]
        upto = min(upto, trace.fork_seq)
        trace = trace_by_row(connection, trace.parent)


def stored_rows(connection: apsw.Connection, segments: list[Segment], after: int) -> Iterator[tuple[int, int, bytes]]:
    """As `rows`, for who looks at the numbers himself."""
    for segment in segments:
        if segment.upto > after:
            yield from connection.execute(ROWS, (segment.trace, max(segment.after, after), segment.upto))


def rows(connection: apsw.Connection, segments: list[Segment], after: int) -> Iterator[tuple[int, int, bytes]]:
    """`(first_seq, n, body)` of every row after the boundary `after`, in order. Raises LogCorrupted."""
    for segment in segments:
        if segment.upto > after:
            last = max(segment.after, after)
            found: Any = connection.execute(ROWS, (segment.trace, last, segment.upto))
            for row in found:
                first_seq, n, _ = row
                if not (type(first_seq) is type(n) is int and last < first_seq and n > 0):
                    check_place(connection, segment.trace, first_seq, n, last)
                yield row
                last = first_seq + n - 1


def page(connection: apsw.Connection, segments: list[Segment], after: int, limit: int) -> list[LogRow]:
    """The first `limit` rows after the boundary `after`, with times, digests and append ids."""
    found: list[LogRow] = []
    for segment in segments:
        if segment.upto > after and len(found) < limit:
            last = max(segment.after, after)
            parameters = (segment.trace, last, segment.upto, limit - len(found))
            for values in connection.execute(FULL_ROWS, parameters):
                row = log_row(connection, segment.trace, values, last)
                found.append(row)
                last = row.last_seq
    return found


def timed_page(
    connection: apsw.Connection, segments: list[Segment], after: int, limit: int
) -> list[tuple[int, int, int, bytes]]:
    """The first `limit` rows after the boundary `after`, as `(first_seq, n, at_us, body)`."""
    found: list[tuple[int, int, int, bytes]] = []
    for segment in segments:
        if segment.upto > after and len(found) < limit:
            last = max(segment.after, after)
            rows: Any = connection.execute(TIMED_ROWS, (segment.trace, last, segment.upto, limit - len(found)))
            for row in rows:
                first_seq, n, at_us, _ = row
                if type(at_us) is not int or not (type(first_seq) is type(n) is int and last < first_seq and n > 0):
                    log_row(connection, segment.trace, (first_seq, n, None, at_us, b"", b""), last)
                found.append(row)
                last = first_seq + n - 1
    return found


def boundary_before(connection: apsw.Connection, segments: list[Segment], seq: int) -> int:
    """The last step boundary at or before `seq`."""
    for segment in reversed(segments):
        if segment.after < seq:
            row = connection.execute(ROW_AT, (segment.trace, seq)).fetchone()
            if row is None:
                return max(segment.after, root_seq(connection, segment.trace))
            found = log_row(connection, segment.trace, row, 0)
            return seq if found.last_seq <= seq else found.first_seq - 1
    return 0


def seq_at_time(connection: apsw.Connection, segments: list[Segment], at_us: int) -> int:
    """The last seq committed at or before that time; 0 where all that can be read is younger.

    Times never decrease along a lineage, so each segment is bisected: a handful of rows is looked at.
    """
    for segment in reversed(segments):
        root: Any = connection.execute(LAST_ROOT, (segment.trace,)).fetchone()
        begin = max(segment.after, 0 if root is None else root[0])
        low, high = begin, segment.upto
        while low < high:
            row: Any = connection.execute(TIME_AT, (segment.trace, (low + high + 1) // 2)).fetchone()
            if row is None:
                return 0  # a hole, which `verify` names
            first_seq, n, found_us = row
            if found_us <= at_us:
                low = first_seq + n - 1
            else:
                high = first_seq - 1
        if low > begin:
            return low
        if root is not None:
            return int(root[0]) if root[2] <= at_us else 0
    return 0


def checkpoints_beginning(connection: apsw.Connection, segments: list[Segment], prefix: str) -> list[tuple[str, int]]:
    """`(id, seq)` of the checkpoints of a lineage whose ids begin so, `prefix` in lower case."""
    found: list[tuple[str, int]] = []
    for segment in segments:
        rows: Any = connection.execute(CHECKPOINTS_BEGINNING, (segment.trace, segment.upto, prefix))
        found += rows
    return found
