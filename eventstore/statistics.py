"""Figures about a file: bytes of log and bases, steps, pages, and the two fold bounds as they stand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import bases, log, scope_places
from .codec import state_size_bytes
from .errors import LogCorrupted
from .event import JsonRecord
from .policy import RESTORE_SLACK_BYTES

if TYPE_CHECKING:
    from .store import Store

TRACE_FIGURES = (
    "SELECT t.id, t.trace_id, t.name, t.parent, t.fork_seq, t.created_us, t.status,"
    " (SELECT coalesce(sum(octet_length(body)), 0) FROM log l WHERE l.trace = t.id),"
    " (SELECT count(*) FROM base b WHERE b.trace = t.id),"
    " (SELECT coalesce(sum(octet_length(body)), 0) FROM base b WHERE b.trace = t.id)"
    " FROM trace t ORDER BY t.id"
)


class TraceStats(JsonRecord, frozen=True):
    """One trace: `steps`, nodes executed; `state_bytes`, state and control; `read_bytes`, what a restore reads.

    `c1`: bases over log; `c2`: read over state (small states are dominated by the bound's constant). The journal of a
    thread's pending writes has no state: `state_bytes`, `read_bytes` and `c2` are 0.

    >>> TraceStats("t1", "chat", 10, 30, 5000, 1, 2000, 1500, 2100).c1
    0.4
    """

    trace_id: str
    name: str
    steps: int
    version: int
    log_bytes: int
    bases: int
    base_bytes: int
    state_bytes: int
    read_bytes: int

    @property
    def c1(self) -> float:
        """All base bytes over all log bytes."""
        return self.base_bytes / self.log_bytes if self.log_bytes else 0.0

    @property
    def c2(self) -> float:
        """Bytes read to restore the head over the state's JSON bytes."""
        return self.read_bytes / self.state_bytes if self.state_bytes else 0.0


class StoreStats(JsonRecord, frozen=True):
    """A file. Sizes in bytes; `wal_bytes` is the write-ahead log beside it.

    >>> StoreStats("runs.db", 8192, 0, 4096, 2, 0, []).steps
    0
    """

    path: str
    file_bytes: int
    wal_bytes: int
    page_size_bytes: int
    pages: int
    free_pages: int
    traces: list[TraceStats]

    @property
    def steps(self) -> int:
        """Nodes executed, of all traces."""
        return sum(trace.steps for trace in self.traces)

    @property
    def log_bytes(self) -> int:
        """Event bodies of all traces."""
        return sum(trace.log_bytes for trace in self.traces)

    @property
    def base_bytes(self) -> int:
        """Bases of all traces."""
        return sum(trace.base_bytes for trace in self.traces)

    @property
    def c1(self) -> float:
        """All base bytes over all log bytes; the policy holds it at 2 or below."""
        return self.base_bytes / self.log_bytes if self.log_bytes else 0.0

    @property
    def c2(self) -> float:
        """The largest `(bytes read - constant) / state bytes` of any head; the policy holds it at 2 or below."""
        return max(
            (max(0, trace.read_bytes - RESTORE_SLACK_BYTES) / max(1, trace.state_bytes) for trace in self.traces),
            default=0.0,
        )


def store_stats(store: Store) -> StoreStats:
    """Read every trace once."""
    with store._database.reader() as connection:
        traces = []
        for row in connection.execute(TRACE_FIGURES).fetchall():
            figures: tuple[Any, ...] = row[7:]
            trace, (log_bytes, count, base_bytes) = log.trace_row(connection, row[:7]), figures
            try:
                version = log.head(connection, trace).version
            except LogCorrupted:  # `verify` names it
                continue
            steps = state_bytes = read_bytes = 0
            if not scope_places.is_journal(connection, trace.id):
                lineage = log.lineage(connection, trace, version)
                restored = bases.restore(connection, store.path, lineage, version, trace.trace_id)
                steps = restored.control.get("steps", 0)
                state_bytes = state_size_bytes(restored.state) + state_size_bytes(restored.control)
                read_bytes = restored.chain_bytes + restored.tail_bytes
            traces.append(
                TraceStats(
                    trace.trace_id, trace.name, steps, version, log_bytes, count, base_bytes, state_bytes, read_bytes
                )
            )
        pages, free, page_size = (connection.pragma(name) for name in ("page_count", "freelist_count", "page_size"))
    file = os.path.realpath(store._database._file)
    return StoreStats(store.path, _size(file), _size(f"{file}-wal"), page_size, pages, free, traces)


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except FileNotFoundError:
        return 0
