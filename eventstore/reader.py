"""The read path: states and rows, each read of one instant and never waiting for a writer.

What a restore cost, and how many tail bytes it folded, is remembered for the fold policy: a tail that
is read again and again is worth a base. What is looked at again is held in memory (`held`), within bounds. A damaged
base that a read stumbled on is replaced at the place that was read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import apsw

from . import bases, log
from .bases import Folded, Restored
from .codec import state_size_bytes
from .database import Database
from .errors import SeqOutOfRange, StorageError, Trimmed
from .held import End, Held
from .link import State
from .log import Head, LogRow, TraceRow
from .policy import FoldDecision
from .writer import Writer

R = TypeVar("R", bound=tuple[Any, ...])
PAGE_ROWS = 256
SCANNED_ROWS = 1024
_REMEMBERED_TRACES = 4096


class Reader:
    """Reads of one store. Thread-safe."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer
        self.reread_bytes: dict[int, int] = {}
        self.restore_us_per_kib = 5.0
        self._held = Held()

    def forget(self) -> None:
        """Hold nothing of what was read: something was removed."""
        self._held = Held()

    def find(self, trace_id: str) -> tuple[TraceRow, Head]:
        """A trace and where it stands. Raises TraceNotFound, TraceErased."""
        with self._database.reader() as connection:
            row = log.find_trace(connection, trace_id)
            return row, log.head(connection, row)

    def restore(self, trace_id: str, seq: int | None = None) -> tuple[TraceRow, Head, Restored]:
        """State and control at `seq`, by default the head, and what reading them took. Raises as `Store.state_at`."""
        with self._database.reader() as connection:
            row, head, at = _place(connection, trace_id, seq)
            restored = self._restored(connection, row, at, with_control=True)
        if restored.bad and not self._database.read_only:
            self._replace(row, restored)
        return row, head, restored

    def look(
        self, trace_id: str, seq: int | None = None, *, with_control: bool = True
    ) -> tuple[TraceRow, Head, State, State]:
        """State and control at `seq`, by default the head, from memory where it holds them. Raises as `restore`."""
        with self._database.reader() as connection:
            row, head, at = _place(connection, trace_id, seq)
            end = self._held.end(row.id)
            if end is not None and not log.root_seq(connection, row.id) <= end.seq <= at:
                end = None  # what stands below a root has a hole between
            held = self._held if self._held.knows(row.id) else None
            control = with_control or held is not None
            below = held if at < head.version else None  # of the end, itself is held
            restored = self._restored(connection, row, at, with_control=control, held=below, end=end)
        if restored.bad and not self._database.read_only:
            self._replace(row, restored)
        if at == head.version and held is not None:
            held.keep_end(row.id, at, restored.control, restored.state, restored.tail_bytes)
        return row, head, restored.state, restored.control

    def after_step(self, trace_id: str, step: int) -> tuple[TraceRow, int, State, State] | None:
        """Where a commit ends with that step: its seq, state and control, found in the pass that folds them.

        None where no commit does, the trace being shorter, trimmed or of commits of many steps: `places` knows more.
        """
        with self._database.reader() as connection:
            row, _, at = _place(connection, trace_id, None)
            held = self._held if self._held.knows(row.id) else None
            restored = self._restored(connection, row, at, with_control=True, held=held, step=step)
        if restored.bad and not self._database.read_only:
            self._replace(row, restored)
        if restored.control.get("steps", 0) != step:
            return None
        return row, restored.version, restored.state, restored.control

    def _restored(
        self,
        connection: apsw.Connection,
        row: TraceRow,
        at: int,
        *,
        with_control: bool,
        held: Held | None = None,
        end: End | None = None,
        step: int | None = None,
    ) -> Restored:
        started = time.perf_counter_ns()
        segments = log.lineage(connection, row, at)
        restored = bases.restore(
            connection,
            self._database.path,
            segments,
            at,
            row.trace_id,
            with_control=with_control,
            held=held,
            end=end,
            step=step,
        )
        elapsed_us = (time.perf_counter_ns() - started) / 1000
        self._remember(row, restored, elapsed_us if end is None and held is None else None)
        return restored

    def root_seq(self, row: TraceRow) -> int:
        """Where the readable history begins: the last root on the way to the head, 0 without one."""
        with self._database.reader() as connection:
            segments = log.lineage(connection, row, log.head(connection, row).version)
            return max(log.root_seq(connection, segment.trace) for segment in segments)

    def boundary_before(self, row: TraceRow, seq: int) -> int:
        """The last step boundary at or before `seq`; the root where all before it is gone, 0 before the first."""
        with self._database.reader() as connection:
            return log.boundary_before(connection, log.lineage(connection, row, seq), seq)

    def row_at(self, row: TraceRow, seq: int) -> LogRow | None:
        """The commit that holds `seq`; None where it was trimmed."""
        with self._database.reader() as connection:
            segments = log.lineage(connection, row, seq)
            raw: Any = connection.execute(log.ROW_AT, (segments[-1].trace, seq)).fetchone()
            found = None if raw is None else log.log_row(connection, segments[-1].trace, raw, 0)
        return None if found is None or found.last_seq < seq else found

    def forks(self, row: TraceRow) -> list[tuple[str, int, int]]:
        """The traces forked from this one: id, the last seq shared, and when (µs since 1970)."""
        with self._database.reader() as connection:
            found: Any = connection.execute(log.FORKS, (row.id,)).fetchall()
        return list(found)

    def root_us(self, row: TraceRow, seq: int) -> int:
        """The time of the root at `seq`."""
        with self._database.reader() as connection:
            return log.boundary(connection, row, seq).at_us

    def find_append(
        self, row: TraceRow, append_id: str | int | None, expected_version: int | None = None
    ) -> LogRow | None:
        """The row that an append of this id left; None without one.

        The engine's own ids (int) have no index: they are looked for at `expected_version + 1` alone.
        """
        if append_id is None:
            return None
        with self._database.reader() as connection:
            found: Any = None
            if isinstance(append_id, str):
                found = connection.execute(log.ROW_BY_APPEND_ID, (row.id, append_id)).fetchone()
            elif expected_version is not None:
                found = connection.execute(log.ROW_AT, (row.id, expected_version + 1)).fetchone()
            if found is None or found[2] != append_id:
                return None
            return log.log_row(connection, row.id, found, 0)

    def nearest_base(self, row: TraceRow, seq: int) -> bases.Base | None:
        """Where the newest base at or before `seq` stands; its body is not read."""
        with self._database.reader() as connection:
            return bases.nearest(connection, log.lineage(connection, row, seq), seq)

    def news(self, row: TraceRow, after: int) -> list[LogRow]:
        """Every row after the boundary `after`."""
        return [found for page in self.pages(row, after, 2**62) for found in page]

    def pages(self, row: TraceRow, after: int | None, upto: int) -> Iterator[list[LogRow]]:
        """The rows that reach past `after` (None: from the beginning), each page in a read of its own.

        Raises Trimmed.
        """
        yield from self._paged(row, after, upto, log.page, PAGE_ROWS)

    def timed_pages(self, row: TraceRow, after: int | None, upto: int) -> Iterator[list[tuple[int, int, int, bytes]]]:
        """As `pages`, but `(first_seq, n, at_us, body)` alone, which a scan of a whole trace reads faster."""
        yield from self._paged(row, after, upto, log.timed_page, SCANNED_ROWS)

    def _paged(
        self,
        row: TraceRow,
        after: int | None,
        upto: int,
        read: Callable[[apsw.Connection, list[log.Segment], int, int], list[R]],
        limit: int,
    ) -> Iterator[list[R]]:
        cursor = after
        if upto < 1:
            return
        while True:
            with self._database.reader() as connection:
                segments = log.lineage(connection, row, upto)
                root = max(log.root_seq(connection, segment.trace) for segment in segments)
                if cursor is None:
                    cursor = root
                elif cursor < root:
                    raise Trimmed(row.trace_id, cursor + 1, log.head(connection, row).version, root)
                page = read(connection, segments, log.boundary_before(connection, segments, cursor), limit)
            if page:
                yield page
                first_seq, n = page[-1][:2]
                cursor = first_seq + n - 1
            if len(page) < limit:
                return

    def fold_at(
        self, connection: apsw.Connection, row: TraceRow, seq: int, state_bytes: int, decision: FoldDecision
    ) -> Folded | None:
        """Write a base at the boundary `seq`, inside the caller's transaction."""
        now = time.time_ns() // 1000
        segments = log.lineage(connection, row, seq)
        return bases.fold(connection, self._database.path, segments, row.trace_id, now, state_bytes, decision)

    def _remember(self, row: TraceRow, restored: Restored, elapsed_us: float | None) -> None:
        """`elapsed_us`: None where memory had a part in it: the estimate is of restores that read the file alone."""
        read_bytes = restored.chain_bytes + restored.tail_bytes
        if elapsed_us is not None and read_bytes > 4096:
            self.restore_us_per_kib += 0.2 * (elapsed_us * 1024 / read_bytes - self.restore_us_per_kib)
        if not restored.tail_bytes:
            return
        if len(self.reread_bytes) >= _REMEMBERED_TRACES:
            self.reread_bytes.clear()
        self.reread_bytes[row.id] = self.reread_bytes.get(row.id, 0) + restored.tail_bytes

    def _replace(self, row: TraceRow, restored: Restored) -> None:
        decision = FoldDecision("whole", "a damaged base was replaced")

        def work(connection: apsw.Connection) -> None:
            bases.discard(connection, restored.bad)
            segments = log.lineage(connection, row, restored.version)
            seq = log.boundary_before(connection, segments, restored.version)
            if seq > row.fork_seq:
                self.fold_at(connection, row, seq, state_size_bytes(restored.state), decision)

        try:
            self._writer.try_write(work)
        except StorageError:
            return  # the answer is known; a later read replaces it


def _place(connection: apsw.Connection, trace_id: str, seq: int | None) -> tuple[TraceRow, Head, int]:
    """A trace, where it stands, and the seq that is asked for. Raises SeqOutOfRange, TraceNotFound, TraceErased."""
    row = log.find_trace(connection, trace_id)
    head = log.head(connection, row)
    at = head.version if seq is None else seq
    if not 1 <= at <= head.version:
        raise SeqOutOfRange(trace_id, at, head.version)
    return row, head, at
