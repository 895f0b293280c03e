"""The store: one file of traces, and the verbs that users meet.

Reads run on connections of their own inside one read transaction each, so they never wait for a writer
and see one instant. Appends go through the writer. Nothing above this layer sees a connection or a row id.
"""

from __future__ import annotations

import builtins
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from os import PathLike
from typing import Any, TypeVar
from uuid import UUID

import apsw
import msgspec

from . import (
    bases,
    chain,
    deciding,
    forks,
    history,
    inbox,
    log,
    retention,
    retention_apply,
    retention_plan,
    statistics,
    tailing,
    threads,
    verify,
)
from .backup import BackupReport, backup
from .bases import BaseInfo
from .checkpoint import CheckpointPolicy, StateSnapshot
from .checkpoints import CheckpointStore
from .codec import as_column, check_key, check_text, encode_body, envelope, normalise_state
from .control import ENDED
from .database import Database, Durability
from .errors import EventStoreError, FileCorrupted, LogCorrupted, MissingKey, RunOwned, ValueRefused
from .event import Decision, TraceStarted, utc
from .fold import MISSING
from .inbox import BarrierInfo
from .log import Head, TraceRow
from .opaque import Opaque
from .ownership import Ownership
from .pending import ANY, AnyVersion, Appended, Statement
from .places import At, seq_at
from .policy import AdaptiveFold, FoldPolicy
from .problem import Problem
from .reader import Reader
from .record import ExecutionEntry
from .recorded import ControlEvent, Event, RecordedEvent
from .redaction import Redactor
from .reduce import CustomReducer, Reducer, ReducerRegistry
from .retention import Removed
from .retention_apply import RetentionReport, TraceRemoval
from .retention_plan import RetentionPlan
from .run_event import NodeIntended
from .run_stream import StreamEvent
from .statistics import StoreStats
from .step import converted
from .threads import ThreadCheckpoint, ThreadInfo
from .trace import Trace
from .verify import VerifyReport
from .writer import Append, Writer

T = TypeVar("T")
Reducers = Mapping[str, Reducer | str | CustomReducer]
TRACES = (
    "SELECT CAST(t.trace_id AS BLOB), CAST(t.name AS BLOB), CAST(t.status AS BLOB), t.created_us,"
    " CAST(p.trace_id AS BLOB), t.fork_seq, t.id FROM trace t"
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


def _listed(connection: apsw.Connection, found: Any) -> TraceInfo:
    """A row of `TRACES`. A damaged trace, which `verify` names, does not take the list down."""
    trace_id, name, status, created_us, parent, fork_seq, row_id = found
    trace_id, name, status = (str(text or b"", errors="backslashreplace") for text in (trace_id, name, status))
    try:
        row = log.listed_row(connection, row_id, trace_id, name, fork_seq, created_us, status)
        head = log.head(connection, row)
    except (LogCorrupted, FileCorrupted):
        created_us, fork_seq = (value if type(value) is int else 0 for value in (created_us, fork_seq))
        head = Head(0, b"", created_us)
    parent_id = None if parent is None else str(parent, errors="backslashreplace")
    times = utc(created_us), utc(head.at_us)
    return TraceInfo(trace_id, name, status, head.version, *times, parent_id, fork_seq or None)


def _checked_id(trace_id: str | None) -> str:
    """A given trace id, or a new one. Raises ValueRefused."""
    if trace_id is None:
        return uuid7()
    if type(trace_id) is not str or not 0 < len(trace_id) <= 200 or "\0" in trace_id:
        told = f"{len(trace_id):,} of them" if isinstance(trace_id, str) and len(trace_id) > 200 else ascii(trace_id)
        raise ValueRefused("id", f"a trace id is a string of 1 to 200 characters, not {told}")
    check_key(trace_id)
    return trace_id


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
        owner_timeout_s: float = 30.0,
        chain_key: str | bytes | None = None,
        encryption_key: str | bytes | None = None,
    ) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if path == ":memory:":
            self._folder = tempfile.TemporaryDirectory(prefix="eventstore-")
            path = os.path.join(self._folder.name, "memory.db")  # noqa: PTH118
        self._encryption_key = encryption_key
        self._database = Database(
            os.fspath(path),
            durability=durability,
            read_only=read_only,
            create=create,
            busy_timeout_ms=busy_timeout_ms,
            chain_key=chain_key,
            encryption_key=encryption_key,
        )
        self._writer = Writer(self._database)
        self._reader = Reader(self._database, self._writer)
        self._random = random.Random()
        self.strict = strict
        self.checkpoint_policy = checkpoint_policy or CheckpointPolicy()
        self.marks_adaptively = self.checkpoint_policy.has_adaptive_trigger()
        self.fold_policy: FoldPolicy = fold_policy or AdaptiveFold()
        self.redact = redact
        self.checkpoints = CheckpointStore(self)
        self._ownership = Ownership(self, owner_timeout_s)
        self._graphs: dict[str, dict[str, str] | None] = {"": None}

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
        event = TraceStarted(name, {}, ReducerRegistry(reducers).names(), graph_hash, node)
        return self._start(_checked_id(id), state, event, reducers)

    def _start(
        self,
        trace_id: str,
        state: Mapping[str, Any] | None,
        started: TraceStarted,
        reducers: Reducers | None,
        *,
        more: Sequence[ControlEvent] = (),
        extras: Sequence[Statement] = (),
    ) -> Trace:
        """The first commit of a trace: `started` with the initial `state`, and `more` events of a run."""
        initial = normalise_state(state or {})
        if self.redact is not None:
            initial = normalise_state({key: self.redact(key, value) for key, value in initial.items()})
        event = envelope(started)
        event.data["state"] = initial
        events = [event, *map(envelope, more)]
        opaque = any(isinstance(value, Opaque) for value in initial.values())
        body = encode_body(events, opaque)
        at_us = time.time_ns() // 1000
        own_id = self._random.getrandbits(63)
        digest = self._database.chain.extend(chain.genesis(trace_id), 1, len(events), at_us, own_id, body)
        log_row = (0, 1, len(events), own_id, at_us, digest, as_column(body))
        append = Append(trace_id, log_row, list(extras), new_trace=(trace_id, started.name, None, 0, at_us))
        append.sync = any(isinstance(event, NodeIntended) for event in more)
        self._writer.commit(append)
        row = TraceRow(append.row[0], trace_id, started.name, None, 0, at_us, "running")
        trace = Trace(self, row, Head(len(events), digest, at_us), ReducerRegistry(reducers))
        trace._started(initial, events, len(body))
        return trace

    def open_trace(self, trace_id: str, *, reducers: Reducers | None = None) -> Trace:
        """Continue a trace where it stands, in any process. Reads its head only; the state comes on first need.

        `reducers`: the functions of CUSTOM keys, which the log cannot hold. Raises TraceNotFound, TraceErased.
        """
        row, head = self._reader.find(trace_id)
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

        `status`, `name`: only those. Raises ValueRefused for a name that no file can hold.
        """
        if name is not None:
            check_text("name", name)
        with self._database.reader() as connection:
            found: list[Any] = connection.execute(TRACES, (after, status, name, limit)).fetchall()
            return [_listed(connection, row) for row in found]

    def fork(
        self,
        trace_id: str,
        at: At | None = None,
        *,
        put: Mapping[str, Any] | None = None,
        name: str | None = None,
        id: str | None = None,
    ) -> Trace:
        """A new trace that shares the history up to the step boundary `at` (default: the head) by reference.

        `put`: keys that are other values in this future, literally, with source fork. Its cost depends neither on
        the history's length nor on the state's size. Raises NotAStepBoundary (which names the nearest), PlaceNotFound,
        SeqOutOfRange, Trimmed, TraceNotFound, TraceExists, ValueRefused.
        """
        new_id = _checked_id(id)
        seq = at if at is None or (type(at) is int and at >= 0) else seq_at(self, trace_id, at)
        row, head = forks.fork(self, trace_id, seq, put or {}, name, new_id)
        return Trace(self, row, head, ReducerRegistry())

    def append(
        self,
        trace_id: str,
        events: Sequence[Event],
        *,
        expected_version: int | AnyVersion = ANY,
        unless_changed_since: int | None = None,
        append_id: str | int | None = None,
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
        return self._reader.look(trace_id, seq, with_control=False)[2]

    def get(
        self,
        trace_id: str,
        key: str,
        default: Any = MISSING,
        *,
        at: At | None = None,
        type: type[T] | None = None,
    ) -> Any:
        """One key of the state at a place (default: the last), converted by msgspec to `type`.

        Raises MissingKey, Deserialize, PlaceNotFound, and as `state_at`.
        """
        seq = at if at is None or (builtins.type(at) is int and at >= 0) else seq_at(self, trace_id, at)
        value = self.state_at(trace_id, seq).get(key, default)
        if value is MISSING:
            raise MissingKey(key)
        return converted(key, value, type)

    def snapshot_at(self, trace_id: str, seq: int) -> StateSnapshot:
        """The state at `seq` as the nearest base before it and the deltas since. Raises as `state_at`."""
        restored = self._reader.restore(trace_id, seq)[2]
        base_seq = max(restored.base_seq, 1)
        events = list(self.events(trace_id, after=base_seq, upto=seq))
        deltas = [event.event for event in events if event.kind == "delta"]
        return StateSnapshot(self.state_at(trace_id, base_seq), deltas)

    def events(self, trace_id: str, *, after: int | None = None, upto: int | None = None) -> Iterator[RecordedEvent]:
        """The events with `after < seq <= upto`, in order, read in pages: memory stays flat.

        By default from the beginning (a trimmed trace's root) to the end.

        Raises TraceNotFound, Trimmed, LogCorrupted.
        """
        row, head = self._reader.find(trace_id)
        after = after if after is None else max(after, 0)
        until = head.version if upto is None else min(upto, head.version)
        for page in self._reader.pages(row, after, until):
            for found in page:
                try:
                    yield from history.recorded(trace_id, found, after or 0, until)
                except ValueError as error:
                    raise LogCorrupted(self.path, trace_id, found.first_seq, str(error)) from error

    def tail(
        self, trace_id: str | None = None, *, after: int = 0, follow: bool = False, poll_s: float = 0.2
    ) -> Iterator[StreamEvent]:
        """What a run did, as the events that `es.stream` tells in the process that runs it (but for `Emitted`).

        `after`: only what came after that seq. With `follow` it goes on until the trace has ended, and looks for
        more every `poll_s` seconds; otherwise it ends with the log. Of a trimmed trace it starts at the root.
        Without `trace_id`: every trace of the file, in commit order, and `follow` never ends; `after` is then a
        cursor as `eventstore tail --json` prints it. A checkpoint is told after the commit that it was made with
        or, made apart, at the next look (among all traces: with its trace's next commit).

        Raises TraceNotFound, TraceErased, LogCorrupted, storage errors.

        >>> with open(":memory:") as store:
        ...     trace = store.start({"n": 1}, name="count")
        ...     trace.end()
        ...     [type(event).__name__ for event in store.tail(trace.id, follow=True)]
        ['GraphStarted', 'GraphCompleted', 'CheckpointSaved']
        """
        return tailing.tail(self, trace_id, after, follow, poll_s)

    # Threads of other frameworks

    def threads(
        self, *, adapter: str | None = None, limit: int = 100, after: ThreadInfo | None = None
    ) -> list[ThreadInfo]:
        """A page of the threads that an adapter (LangGraph's saver) keeps here, the last begun first.

        `adapter`: only its; `after`: the last one of the page before.
        """
        return threads.threads(self, adapter=adapter, limit=limit, after=after)

    def thread_checkpoints(
        self,
        thread_id: str,
        namespace: str = "",
        *,
        adapter: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> list[ThreadCheckpoint]:
        """A page of a thread's checkpoints and where they stand, the greatest id first; `before`: only smaller ids."""
        return threads.checkpoints(self, thread_id, namespace, adapter=adapter, limit=limit, before=before)

    def _entries(self, row: TraceRow, upto: int) -> list[ExecutionEntry]:
        """The executions of a trace; a fraction of what reading all of its events takes."""
        found: list[ExecutionEntry] = []
        steps = 0
        for page in self._reader.pages(row, None, upto):
            for log_row in page:
                try:
                    entries = history.entries(log_row, steps)
                except ValueError as error:
                    raise LogCorrupted(self.path, row.trace_id, log_row.first_seq, str(error)) from error
                steps = max((entry.step for entry in entries if entry.branch is None), default=0) or steps
                found += entries
        return found

    # Barriers and runs

    def decide(self, trace_id: str, barrier: str, decision: Decision) -> str:
        """`Trace.decide` without an open trace: any process may decide. Raises as it does, and TraceNotFound."""
        return self.open_trace(trace_id).decide(barrier, decision)

    def barriers(
        self,
        *,
        pending: bool | None = True,
        limit: int = 100,
        after: tuple[str, str] | None = None,
        trace_id: str | None = None,
        node: str | None = None,
    ) -> list[BarrierInfo]:
        """A page of barriers, whoever has waited longest first: with `pending`, the inbox.

        `pending` False: the decided ones, None: all. `after`: trace id and barrier id of the last one of the
        page before. `trace_id`, `node`: only those.
        """
        return inbox.barriers(self, pending, limit, after, trace_id, node)

    def cancel(self, trace_id: str, *, by: str | None = None, reason: str = "") -> bool:
        """Cancel a run from anywhere: at once when nobody runs it, otherwise at its next step.

        Whether it has ended already. Raises TraceEndedError, TraceNotFound, EventStoreError for an adapter's thread.
        """
        trace = self.open_trace(trace_id)
        if "scope" in trace.control:
            adapter, thread_id, *_ = trace.control["scope"]
            raise EventStoreError(f"trace {trace_id} is no run: it is {adapter}'s thread {thread_id!r}")
        if trace.status not in ENDED and trace.graph_hash:
            try:
                self._ownership.claim_once(trace, trace._control.get("epoch", 0))
            except RunOwned:
                deciding.request_cancel(trace, by, reason, end=False)
                return False
        deciding.request_cancel(trace, by, reason, end=True)
        return True

    def _ancestors(self, row: TraceRow) -> list[tuple[str, int]]:
        """The traces that this one was forked from, nearest first, each with the last seq shared with it."""
        found = []
        with self._database.reader() as connection:
            while row.parent is not None:
                fork_seq = row.fork_seq
                row = log.trace_by_row(connection, row.parent)
                found.append((row.trace_id, fork_seq))
        return found

    def _graph_nodes(self, graph_hash: str) -> dict[str, str] | None:
        """The kind of each node of a graph that some run recorded; branches, where no run can stand, left out."""
        if graph_hash not in self._graphs:
            definition = self._ownership.definition(graph_hash)
            if definition is None:
                return None
            nodes = json.loads(definition)["nodes"]
            branches = {branch for node in nodes.values() for branch in node.get("branches", ())}
            self._graphs[graph_hash] = {name: node["kind"] for name, node in nodes.items() if name not in branches}
        return self._graphs[graph_hash]

    # Bases and figures

    def bases(self, trace_id: str, *, after: int = 0, upto: int | None = None) -> list[BaseInfo]:
        """The bases that the fold policy wrote at `after < seq <= upto`, oldest first, with its reasons.

        A fork has those of the history that it shares, too. Raises TraceNotFound, TraceErased.
        """
        with self._database.reader() as connection:
            row = log.find_trace(connection, trace_id)
            until = log.head(connection, row).version if upto is None else upto
            return bases.listed(connection, log.lineage(connection, row, until), after)

    def drop_bases(self, trace_id: str | None = None) -> int:
        """Delete every base (of one trace, or of all); no answer changes, only speed. How many went."""

        def work(connection: apsw.Connection) -> int:
            return bases.drop(connection, None if trace_id is None else log.find_trace(connection, trace_id))

        return self._writer.write(work)

    def stats(self) -> StoreStats:
        """What the file holds: bytes of log and bases, pages, steps, and both fold bounds as they stand."""
        return statistics.store_stats(self)

    def verify(self, trace_id: str | None = None, *, heads: Mapping[str, str] | None = None) -> VerifyReport:
        """Check chain, seqs, every base against its full fold, and the projections; reads, changes nothing.

        `heads`: digests by trace id that an earlier report gave and that were kept elsewhere. Each must be in its
        trace's chain yet: a log whose end was cut off, or that was written anew, holds together by itself. Raises
        TraceNotFound, ValueError for what is no digest, WrongChainKey.

        >>> with open(":memory:") as store:
        ...     trace = store.start({"n": 1}, id="t1")
        ...     kept = store.verify().heads
        ...     trace.end()
        ...     store.verify(heads=kept).ok, store.verify(heads={"t1": "00" * 16}).problems[0].check
        (True, 'head')
        """
        return verify.verify(self, trace_id, heads=heads)

    def backup(
        self,
        path: str | PathLike[str],
        *,
        on_progress: Callable[[int, int], None] | None = None,
        on_problem: Callable[[Problem], None] | None = None,
    ) -> BackupReport:
        """Copy the store, as it is when this is called, to a new file; others may write all the while.

        The copy is verified before it gets its name. `on_progress`: is told the pages that are copied, and all pages.
        `on_problem`: is told of each thing in the copy that does not hold; then FileCorrupted is raised, and no file is
        kept. Raises FileCorrupted, WrongChainKey, StorageError (the path exists, or cannot be written), StorageFull.

        >>> with tempfile.TemporaryDirectory() as folder, open(f"{folder}/runs.db") as store:
        ...     trace = store.start({"n": 1}, id="t1")
        ...     report = store.backup(f"{folder}/backup.db")
        ...     with open(report.path, read_only=True) as copy:
        ...         report.traces, copy.state_at("t1")
        (1, {'n': 1})
        """
        return backup(self, path, on_progress=on_progress, on_problem=on_problem)

    # Retention

    def trim(self, trace_id: str, before: int, *, retry_window_s: float = retention.RETRY_WINDOW_S) -> Removed:
        """Delete the history behind the step boundary `before`, which becomes the trace's root.

        Every state from `before` on stays as it is; looking behind it raises Trimmed. What goes must verify. Raises
        LogCorrupted where it is damaged; RetentionBlocked for a trace that an adapter's thread reads, for a fork, a
        checkpoint, an open barrier or an open parallel step behind it, or an append younger than `retry_window_s` (its
        `append_id` could come again); NotAStepBoundary, SeqOutOfRange, TraceNotFound, ValueError for no window.
        """
        return retention.trim(self, trace_id, before, retry_window_s)

    def erase(self, trace_id: str, *, by: str | None = None, cascade: bool = False) -> list[Removed]:
        """Erase a trace for good: its content leaves the file and the WAL, a tombstone says who and when.

        Backups and exports are out of reach. Raises RetentionBlocked while a living process runs it or an adapter's
        thread reads it, and when forks share its history, unless `cascade` erases them too; TraceNotFound, TraceErased.
        """
        return retention.erase(self, trace_id, by, cascade)

    def plan_retention(
        self,
        *,
        trace_ids: Sequence[str] | None = None,
        name: str | None = None,
        status: str | Sequence[str] | None = None,
        older_than: timedelta | None = None,
        keep_checkpoints: int | None = None,
        drop_bases: bool = False,
        trim: bool = False,
        erase: bool = False,
        retry_window_s: float = retention.RETRY_WINDOW_S,
    ) -> RetentionPlan:
        """What retention would do to the traces chosen, and what blocks it; changes nothing.

        `trace_ids`, `name`, `status`, `older_than` (by the last event): which traces; by default all. At least one
        action: `keep_checkpoints`, so many of the newest of each trace; `drop_bases`; `trim`, the history behind the
        furthest place that nothing needs; `erase`, the whole trace. Raises ValueError, ValueRefused, TraceNotFound,
        TraceErased.
        """
        return retention_plan.plan_retention(
            self,
            trace_ids=trace_ids,
            name=name,
            status=status,
            older_than=older_than,
            keep_checkpoints=keep_checkpoints,
            drop_bases=drop_bases,
            trim=trim,
            erase=erase,
            retry_window_s=retry_window_s,
        )

    def apply(
        self,
        plan: RetentionPlan,
        on_trace: Callable[[TraceRemoval], object] | None = None,
        *,
        by: str | None = None,
    ) -> RetentionReport:
        """Do what a plan says, one transaction a trace, then give the free space back.

        All is checked again: what is blocked by now is skipped, and the report says why. `on_trace` is told of each
        trace; `by` goes into tombstones. Raises storage errors.
        """
        return retention_apply.apply_plan(self, plan, on_trace, by=by)

    # The end

    def close(self) -> None:
        """Commit what is queued and close the file. Closing twice is fine."""
        try:
            self._ownership.close()
        finally:
            self._writer.close()
            if self._folder is not None:
                self._folder.cleanup()
                self._folder = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.path!r}, durability={self.durability!r})"


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
    owner_timeout_s: float = 30.0,
    chain_key: str | bytes | None = None,
    encryption_key: str | bytes | None = None,
) -> Store:
    """Open (or create, for this user only) an event store; `":memory:"` gives one that closing removes.

    `durability`: `"full"`, a returned append survives power loss, or `"normal"`, where a power cut may
    lose the newest commits, never order or integrity. `strict`: detect values of the live state changed in
    place (costs one pass over the state a step). `checkpoint_policy`, `fold_policy`: by default
    `CheckpointPolicy.conservative()` and `AdaptiveFold()`. `redact`: `(key, value) -> value`, run on
    every value before it reaches the log. `create` False refuses a missing file. `busy_timeout_ms`: how long
    to wait for other processes' commits. `owner_timeout_s`: how long the owner of a run may show no sign of life
    before another process may take the run over (a process that died is known at once).

    `chain_key`: 16 bytes or more, of a new file, that every later opening for appending and every `verify` needs: who
    does not know it cannot rewrite the log so that it verifies. `encryption_key`: 16 random bytes or more (it is no
    password); everything in the file is encrypted, which takes `apsw-sqlite3mc` in the place of `apsw`. Of both, what
    the file was made with is needed ever after.

    Raises NotAnEventStore, FormatTooNew, UnsupportedSQLite, WrongChainKey, StoreBusy, StorageError, ValueError for a
    key that is too short.

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
        owner_timeout_s=owner_timeout_s,
        chain_key=chain_key,
        encryption_key=encryption_key,
    )
