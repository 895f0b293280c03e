"""The store: one file of traces, and the verbs that users meet.

Reads run on connections of their own inside one read transaction each, so they never wait for a writer
and see one instant. Appends go through the writer. Nothing above this layer sees a connection or a row id.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from os import PathLike
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from . import bases, chain, history, log, statistics, verify
from .bases import Restored
from .checkpoint import CheckpointPolicy, StateSnapshot
from .checkpoints import CheckpointStore
from .codec import encode_body, envelope, normalise_state
from .database import Database, Durability
from .errors import LogCorrupted, MissingKey, SeqOutOfRange, Trimmed, ValueRefused
from .event import Event, RecordedEvent, TraceForked, TraceStarted, utc
from .fold import MISSING
from .log import Head, LogRow, TraceRow
from .opaque import Opaque
from .policy import AdaptiveFold, FoldDecision, FoldPolicy
from .reduce import CustomReducer, Reducer, ReducerRegistry
from .statistics import StoreStats
from .step import Redactor, converted
from .trace import ANY, AnyVersion, Appended, Trace
from .verify import VerifyReport
from .writer import Append, Writer

T = TypeVar("T")
Reducers = Mapping[str, Reducer | str | CustomReducer]
PAGE_ROWS = 256
TRACES = (
    "SELECT t.trace_id, t.name, t.status, t.created_us, p.trace_id, t.fork_seq, t.id FROM trace t"
    " LEFT JOIN trace p ON p.id = t.parent"
    " WHERE (?1 IS NULL OR t.id < (SELECT id FROM trace WHERE trace_id = ?1))"
    " AND (?2 IS NULL OR t.status = ?2) AND (?3 IS NULL OR t.name = ?3) ORDER BY t.id DESC LIMIT ?4"
)


class TraceInfo(msgspec.Struct, frozen=True):
    """A line of `store.traces()`.

    >>> TraceInfo("t1", "chat", "running", 4, utc(0), utc(0)).version
    4
    """

    trace_id: str
    name: str
    status: str
    version: int
    created_at: datetime
    updated_at: datetime
    parent_trace_id: str | None = None
    fork_seq: int | None = None


def uuid7() -> str:
    """A time-ordered trace id: UUID version 7 of RFC 9562.

    >>> uuid7()[14], len(uuid7())
    ('7', 36)
    """
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 7 << 76
    return str(UUID(int=value & ~(3 << 62) | 2 << 62))


class Store:
    """An open event store. Made by `es.open`; a context manager; threads may share it."""

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        durability: Durability = "full",
        strict: bool = False,
        checkpoint_policy: CheckpointPolicy | None = None,
        fold_policy: FoldPolicy | None = None,
        redact: Redactor | None = None,
        read_only: bool = False,
        create: bool = True,
        busy_timeout_ms: float = 10_000,
    ) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if path == ":memory:":
            self._folder = tempfile.TemporaryDirectory(prefix="eventstore-")
            path = os.path.join(self._folder.name, "memory.db")  # noqa: PTH118
        self._database = Database(
            os.fspath(path),
            durability=durability,
            read_only=read_only,
            create=create,
            busy_timeout_ms=busy_timeout_ms,
        )
        self._writer = Writer(self._database)
        self._random = random.Random()
        self._reread: dict[int, int] = {}
        self._restore_us_per_kib = 5.0
        self.strict = strict
        self.checkpoint_policy = checkpoint_policy or CheckpointPolicy()
        self.marks_adaptively = self.checkpoint_policy.has_adaptive_trigger()
        self.fold_policy: FoldPolicy = fold_policy or AdaptiveFold()
        self.redact = redact
        self.checkpoints = CheckpointStore(self)

    @property
    def path(self) -> str:
        """The file."""
        return self._database.path

    @property
    def durability(self) -> Durability:
        """`full` or `normal`."""
        return self._database.durability

    # Traces

    def start(
        self,
        state: Mapping[str, Any] | None = None,
        *,
        name: str = "",
        reducers: Reducers | None = None,
        id: str | None = None,
        graph_hash: str = "",
        node: str | None = None,
    ) -> Trace:
        """Start a trace; its first event holds the initial `state` and the reducers' names.

        `id`: the trace's id, by default a new UUIDv7; `graph_hash`, `node`: the graph it runs and the
        node to enter first. Raises TraceExists, ValueRefused, TypeError for no reducer, storage errors.
        """
        registry = ReducerRegistry(reducers)
        trace_id = uuid7() if id is None else id
        if type(trace_id) is not str or not 0 < len(trace_id) <= 200 or "\0" in trace_id:
            raise ValueRefused("id", "a trace id is a string of 1 to 200 characters")
        initial = normalise_state(state or {})
        if self.redact is not None:
            initial = normalise_state({key: self.redact(key, value) for key, value in initial.items()})
        event = envelope(TraceStarted(name, {}, registry.names(), graph_hash, node))
        event.data["state"] = initial
        opaque = any(isinstance(value, Opaque) for value in initial.values())
        body = encode_body([event], opaque)
        at_us = time.time_ns() // 1000
        own_id = self._random.getrandbits(63)
        digest = chain.extend(chain.genesis(trace_id), 1, 1, at_us, own_id, body)
        append = Append(trace_id, (0, 1, 1, own_id, at_us, digest, body if opaque else body.decode()))
        append.new_trace = (trace_id, name, None, 0, at_us)
        self._writer.commit(append)
        row = TraceRow(append.row[0], trace_id, name, None, 0, at_us, "running")
        trace = Trace(self, row, Head(1, digest, at_us), registry)
        trace._started(initial, event, len(body))
        return trace

    def open_trace(self, trace_id: str, *, reducers: Reducers | None = None) -> Trace:
        """Continue a trace where it stands, in any process. Reads its head only; the state comes on first need.

        `reducers`: the functions of CUSTOM keys, which the log cannot hold. Raises TraceNotFound, TraceErased.
        """
        with self._database.reader() as connection:
            row = log.find_trace(connection, trace_id)
            head = log.head(connection, row)
        return Trace(self, row, head, ReducerRegistry(reducers))

    def traces(
        self,
        *,
        limit: int = 100,
        after: str | None = None,
        status: str | None = None,
        name: str | None = None,
    ) -> list[TraceInfo]:
        """A page of traces, newest first. `after`: the last trace id of the page before.

        `status`, `name`: only those.
        """
        with self._database.reader() as connection:
            found = connection.execute(TRACES, (after, status, name, limit)).fetchall()
            infos = []
            for trace_id, label, state, created_us, parent, fork_seq, row_id in found:
                row = TraceRow(row_id, trace_id, label, None, fork_seq, created_us, state)
                head = log.head(connection, row)
                infos.append(
                    TraceInfo(
                        trace_id,
                        label,
                        state,
                        head.version,
                        utc(created_us),
                        utc(head.at_us),
                        parent,
                        fork_seq or None,
                    )
                )
        return infos

    def fork(self, trace_id: str, at: int | None = None, *, name: str | None = None, id: str | None = None) -> Trace:
        """A new trace that shares the history up to the step boundary `at` (default: the head) by reference.

        Its cost does not depend on the history's length. Raises NotAStepBoundary, SeqOutOfRange, Trimmed,
        TraceNotFound, TraceExists.
        """
        with self._database.reader() as connection:
            parent = log.find_trace(connection, trace_id)
            seq = log.head(connection, parent).version if at is None else at
            head = log.boundary(connection, parent, seq)
            segments = log.lineage(connection, parent, seq)
        owner = segments[-1].trace
        new_id, label = id or uuid7(), parent.name if name is None else name
        event = envelope(TraceForked(label, trace_id, seq))
        body = encode_body([event], False)
        at_us = max(time.time_ns() // 1000, head.at_us)
        own_id = self._random.getrandbits(63)
        digest = chain.extend(head.digest, seq + 1, 1, at_us, own_id, body)
        append = Append(new_id, (0, seq + 1, 1, own_id, at_us, digest, body.decode()))
        append.new_trace = (new_id, label, owner, seq, at_us)
        self._writer.commit(append)
        row = TraceRow(append.row[0], new_id, label, owner, seq, at_us, "running")
        return Trace(self, row, Head(seq + 1, digest, at_us), ReducerRegistry())

    def append(
        self,
        trace_id: str,
        events: Sequence[Event],
        *,
        expected_version: int | AnyVersion = ANY,
        unless_changed_since: int | None = None,
        append_id: str | None = None,
    ) -> Appended:
        """`Trace.append` without an open trace: one commit of events to one trace. Raises as it does."""
        trace = self.open_trace(trace_id)
        return trace.append(
            events,
            expected_version=expected_version,
            unless_changed_since=unless_changed_since,
            append_id=append_id,
        )

    # Looking

    def state_at(self, trace_id: str, seq: int | None = None) -> dict[str, Any]:
        """The state after event `seq` (default: the last), the same whatever bases exist.

        Raises SeqOutOfRange, Trimmed, TraceNotFound, LogCorrupted.
        """
        return self._restore(trace_id, seq).state

    def get(
        self,
        trace_id: str,
        key: str,
        default: Any = MISSING,
        *,
        at: int | None = None,
        type: type[T] | None = None,
    ) -> Any:
        """One key of the state at `at`, converted by msgspec to `type`. Raises MissingKey, Deserialize."""
        value = self.state_at(trace_id, at).get(key, default)
        if value is MISSING:
            raise MissingKey(key)
        return converted(key, value, type)

    def snapshot_at(self, trace_id: str, seq: int) -> StateSnapshot:
        """The state at `seq` as the nearest base before it and the deltas since. Raises as `state_at`."""
        restored = self._restore(trace_id, seq)
        base_seq = max(restored.base_seq, 1)
        events = list(self.events(trace_id, after=base_seq, upto=seq))
        deltas = [event.event for event in events if event.kind == "delta"]
        return StateSnapshot(self.state_at(trace_id, base_seq), deltas)

    def events(self, trace_id: str, *, after: int | None = None, upto: int | None = None) -> Iterator[RecordedEvent]:
        """The events with `after < seq <= upto`, in order, read in pages: memory stays flat.

        By default from the beginning (a trimmed trace's root) to the end.

        Raises TraceNotFound, Trimmed, LogCorrupted.
        """
        with self._database.reader() as connection:
            row = log.find_trace(connection, trace_id)
            version = log.head(connection, row).version
        until = version if upto is None else min(upto, version)
        for page in self._pages(row, after, until):
            for found in page:
                try:
                    yield from history.recorded(trace_id, found, after or 0, until)
                except ValueError as error:
                    raise LogCorrupted(self.path, trace_id, found.first_seq, str(error)) from error

    # Bases and figures

    def drop_bases(self, trace_id: str | None = None) -> int:
        """Delete every base (of one trace, or of all); no answer changes, only speed. How many went."""
        where, parameters = "", ()
        if trace_id is not None:
            where, parameters = " WHERE trace = (SELECT id FROM trace WHERE trace_id = ?)", (trace_id,)

        def work(connection: Any) -> int:
            connection.execute(f"DELETE FROM base{where}", parameters)
            return int(connection.changes())

        return self._writer.write(work)

    def stats(self) -> StoreStats:
        """What the file holds: bytes of log and bases, pages, steps, and both fold bounds as they stand."""
        return statistics.store_stats(self)

    def verify(self, trace_id: str | None = None) -> VerifyReport:
        """Check chain, seqs, every base against its full fold, and the projections; reads, changes nothing."""
        return verify.verify(self, trace_id)

    # The end

    def close(self) -> None:
        """Commit what is queued and close the file. Closing twice is fine."""
        self._writer.close()
        self._database.close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.path!r}, durability={self.durability!r})"

    # For the other verbs

    def _restore(self, trace_id: str, seq: int | None) -> Restored:
        with self._database.reader() as connection:
            row = log.find_trace(connection, trace_id)
            version = log.head(connection, row).version
            if seq is None:
                seq = version
            if not 1 <= seq <= version:
                raise SeqOutOfRange(trace_id, seq, version)
            restored = self._timed_restore(connection, row, seq)
        self._after_restore(row, restored)
        return restored

    def _restore_head(self, row: TraceRow) -> tuple[Head, Restored]:
        with self._database.reader() as connection:
            head = log.head(connection, log.find_trace(connection, row.trace_id))
            restored = self._timed_restore(connection, row, head.version)
        self._after_restore(row, restored)
        return head, restored

    def _timed_restore(self, connection: Any, row: TraceRow, seq: int) -> Restored:
        started = time.perf_counter_ns()
        restored = bases.restore(connection, self.path, log.lineage(connection, row, seq), seq, row.trace_id)
        size = restored.chain_bytes + restored.tail_bytes
        if size > 4096:
            us_per_kib = (time.perf_counter_ns() - started) / 1000 / (size / 1024)
            self._restore_us_per_kib += 0.2 * (us_per_kib - self._restore_us_per_kib)
        return restored

    def _after_restore(self, row: TraceRow, restored: Restored) -> None:
        if len(self._reread) > 4096:
            self._reread.clear()
        self._reread[row.id] = self._reread.get(row.id, 0) + restored.tail_bytes
        if restored.bad and not self._database.read_only:
            self._rebuild(row, restored)

    def _rebuild(self, row: TraceRow, restored: Restored) -> None:
        """Replace damaged bases by a whole state at the head."""

        def work(connection: Any) -> None:
            bases.discard(connection, restored.bad)
            version = log.head(connection, row).version
            size = len(encode_body([restored.state], True))
            self._fold_at(connection, row, version, size, FoldDecision("whole", "a damaged base was replaced"))

        self._writer.write(work)

    def _fold_at(
        self, connection: Any, row: TraceRow, seq: int, state_bytes: int, decision: FoldDecision
    ) -> bases.Folded | None:
        segments = log.lineage(connection, row, seq)
        return bases.fold(connection, self.path, segments, row.trace_id, time.time_ns() // 1000, state_bytes, decision)

    def _head(self, row: TraceRow) -> Head:
        with self._database.reader() as connection:
            return log.head(connection, log.find_trace(connection, row.trace_id))

    def _news(self, row: TraceRow, after: int) -> list[LogRow]:
        """Every row after the boundary `after`."""
        return [found for page in self._pages(row, after, 2**62) for found in page]

    def _pages(self, row: TraceRow, after: int | None, upto: int) -> Iterator[list[LogRow]]:
        """The rows that reach past `after` (None: from the beginning), each page in a read of its own."""
        cursor = after
        while True:
            with self._database.reader() as connection:
                segments = log.lineage(connection, row, upto)
                root = max(log.root_seq(connection, segment.trace) for segment in segments)
                if cursor is None:
                    cursor = root
                elif cursor < root:
                    raise Trimmed(row.trace_id, cursor + 1, log.head(connection, row).version, root)
                page = log.page(connection, segments, log.boundary_before(connection, segments, cursor), PAGE_ROWS)
            if page:
                yield page
                cursor = page[-1].last_seq
            if len(page) < PAGE_ROWS:
                return


def open(
    path: str | PathLike[str],
    *,
    durability: Durability = "full",
    strict: bool = False,
    checkpoint_policy: CheckpointPolicy | None = None,
    fold_policy: FoldPolicy | None = None,
    redact: Redactor | None = None,
    read_only: bool = False,
    create: bool = True,
    busy_timeout_ms: float = 10_000,
) -> Store:
    """Open (or create, for this user only) an event store; `":memory:"` gives one that closing removes.

    `durability`: `"full"`, a returned append survives power loss, or `"normal"`, where a power cut may
    lose the newest commits, never order or integrity. `strict`: detect values of the live state changed in
    place (costs one pass over the state a step). `checkpoint_policy`, `fold_policy`: by default
    `CheckpointPolicy.conservative()` and `AdaptiveFold()`. `redact`: `(key, value) -> value`, run on
    every value before it reaches the log. `create` False refuses a missing file. `busy_timeout_ms`: how long
    to wait for other processes' commits.

    Raises NotAnEventStore, FormatTooNew, UnsupportedSQLite, StoreBusy, StorageError.

    >>> with open(":memory:") as store:
    ...     trace = store.start({"n": 1})
    ...     with trace.step("double") as step:
    ...         step.put("n", 2)
    ...     store.state_at(trace.id, 1), store.state_at(trace.id)
    ({'n': 1}, {'n': 2})
    """
    return Store(
        path,
        durability=durability,
        strict=strict,
        checkpoint_policy=checkpoint_policy,
        fold_policy=fold_policy,
        redact=redact,
        read_only=read_only,
        create=create,
        busy_timeout_ms=busy_timeout_ms,
    )
