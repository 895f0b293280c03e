"""The writes that wait for the next checkpoint, in a trace of their own: a scope's journal.

Writes that come while others are being committed go together into the next commit. What counts of them is decided
when they are read: of ordinary writes the first, of special ones (errors, interrupts, …) the last of each index of a
task. They may come before the checkpoint that they belong to, and long after the one that took them up.
"""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from langgraph.checkpoint.base import WRITES_IDX_MAP, writes_sort_key

from eventstore import log, scopes
from eventstore.codec import Envelope, decode_rows, envelope
from eventstore.errors import LogCorrupted, StorageError, TraceErased, TraceNotFound, WrongExpectedVersion
from eventstore.event import TraceStarted
from eventstore.log import LogRow
from eventstore.opaque import Opaque
from eventstore.pending import Pending
from eventstore.reduce import ReducerRegistry
from eventstore.scope_event import packed_id, unpacked_id
from eventstore.scopes import ScopeCheckpoint, ScopeKey
from eventstore.store import Store
from eventstore.trace import Trace
from eventstore.writer import Append

from .beginning import begun, first_append
from .lines import label_of
from .values import Serializer, apart, together

JOURNALS = 256
FIRST_PENALTY, LAST_PENALTY = 64, 4096
_random = random.Random()


class Writes(NamedTuple):
    """One task's writes as the log holds them."""

    checkpoint: str
    task: str
    channels: list[str]
    values: Opaque
    path: str

    def envelope(self) -> Envelope:
        """As the event of a body."""
        data: list[Any] = [packed_id(self.checkpoint), packed_id(self.task), self.channels, self.values]
        return Envelope("writes_put", [*data, self.path] if self.path else data)


def writes_of(serde: Serializer, checkpoint: str, writes: Sequence[tuple[str, Any]], task: str, path: str) -> Writes:
    """A task's writes, serialized together. Raises what the serializer raises."""
    channels, values = [channel for channel, _ in writes], [value for _, value in writes]
    return Writes(checkpoint, task, channels, together(serde, values), path)


class Waiting:
    """Writes that wait to be committed, and what became of them."""

    __slots__ = ("error", "gate", "is_done", "writes")

    def __init__(self, writes: Writes, gate: threading.Event | None) -> None:
        self.writes = writes
        self.gate = gate
        self.is_done = False
        self.error: BaseException | None = None

    def settle(self, error: BaseException | None = None) -> None:
        """They are committed, or not because of that."""
        self.error, self.is_done = error, True
        if self.gate is not None:
            self.gate.set()


class Queue:
    """A scope's journal as this process knows it."""

    __slots__ = ("lock", "scope", "trace", "waiting")

    def __init__(self) -> None:
        self.scope: int | None = None
        self.lock = threading.Lock()
        self.waiting: deque[Waiting] = deque()
        self.trace: Trace | None = None


class Journals:
    """The journals of one store. Thread-safe.

    `wait_ms`: how long writes wait for the next checkpoint, to be committed with it. Where none has come in time, the
    next few do not wait, twice as many each time: who calls `put` on the same thread loses nothing by it.
    """

    def __init__(self, store: Store, wait_ms: float = 0) -> None:
        self._store = store
        self._wait_s = wait_ms / 1000
        self._hurried = 0
        self._penalty = FIRST_PENALTY
        self._lock = threading.Lock()
        self._queues: OrderedDict[ScopeKey, Queue] = OrderedDict()

    def put(self, key: ScopeKey, *writes: Writes, may_wait: bool = True) -> None:
        """Commit writes, each of one task, together. Raises storage errors."""
        gate = threading.Event() if may_wait and self._is_patient() else None
        mine, queue = [Waiting(one, gate) for one in writes], self._queue(key)
        queue.waiting.extend(mine)
        if gate is not None:
            self._learn(gate.wait(self._wait_s))
        with queue.lock:
            if not all(waiting.is_done for waiting in mine):
                self._commit(key, queue, [])
        for waiting in mine:
            if waiting.error is not None:
                raise waiting.error
            if not waiting.is_done:
                raise StorageError(self._store.path, "interrupted; whether the writes were committed is not known")

    def _is_patient(self) -> bool:
        if self._hurried > 0:
            self._hurried -= 1
            return False
        return self._wait_s > 0

    def _learn(self, has_come: bool) -> None:
        if has_come:
            self._penalty = FIRST_PENALTY
        else:
            self._hurried, self._penalty = self._penalty, min(2 * self._penalty, LAST_PENALTY)

    def commit_with(self, key: ScopeKey, append: Append, line: Trace | None) -> None:
        """Commit a checkpoint, and in the same transaction the writes that wait. Raises as `Trace.append`.

        `append`: its commit, a `Pending` one of `line`; or, without a line, one that begins a trace.
        """
        with self._lock:
            queue = self._queues.get(key)
        if queue is None or not queue.waiting or not queue.lock.acquire(blocking=False):
            self._alone(append, line)
            return
        batch: list[Waiting] = []
        try:
            trace = queue.trace or self._find(key, queue)
            if trace is None or not _drain(queue, batch):
                self._commit(key, queue, batch)
                self._alone(append, line)
                return
            along = self._pending(trace, queue, [waiting.writes for waiting in batch])
            with trace._lock if line is None else line._lock, trace._lock:
                self._store._writer.commit_batch([along, append])
                if append.error is None and line is not None and isinstance(append, Pending):
                    line._acknowledge(append)
                if along.error is None:
                    trace._acknowledge(along)
            if along.error is None:
                for waiting in batch:
                    waiting.settle()
            else:
                queue.trace = None
                self._commit(key, queue, batch)
            if append.error is not None:
                raise append.error
        except BaseException as error:
            for waiting in batch:
                if not waiting.is_done:
                    waiting.settle(error)
            raise
        finally:
            queue.lock.release()

    def _alone(self, append: Append, line: Trace | None) -> None:
        if line is not None and isinstance(append, Pending):
            line._commit(append)
        else:
            self._store._writer.commit(append)

    def forget(self) -> None:
        """What is remembered may be gone."""
        with self._lock:
            self._queues.clear()

    def _queue(self, key: ScopeKey) -> Queue:
        with self._lock:
            queue = self._queues.get(key)
            if queue is None:
                queue = self._queues[key] = Queue()
                if len(self._queues) > JOURNALS:
                    self._queues.popitem(last=False)
            self._queues.move_to_end(key)
            return queue

    def _commit(self, key: ScopeKey, queue: Queue, batch: list[Waiting]) -> None:
        """Holding the queue's lock: commit these and all that wait, and tell them."""
        failure: BaseException | None = None
        until = time.monotonic() + self._store._database.busy_timeout_ms / 1000
        try:
            _drain(queue, batch)
            while batch:
                try:
                    self._append(key, queue, [waiting.writes for waiting in batch])
                    break
                except (WrongExpectedVersion, TraceErased, TraceNotFound):
                    queue.trace = None  # another process wrote, or the thread was deleted
                    if time.monotonic() > until:
                        raise
                    time.sleep(_random.uniform(0, 0.002))
        except BaseException as error:
            failure = error
        for waiting in batch:
            waiting.settle(failure)
        if failure is not None and not isinstance(failure, Exception):
            raise failure

    def _append(self, key: ScopeKey, queue: Queue, batch: list[Writes]) -> None:
        trace = queue.trace or self._find(key, queue)
        if trace is None:
            self._begin(key, queue, batch)
        else:
            trace._commit(self._pending(trace, queue, batch))

    def _pending(self, trace: Trace, queue: Queue, batch: list[Writes]) -> Pending:
        events = [writes.envelope() for writes in batch]
        expected = trace.version
        pending = trace._prepare(events, None, events, expected, None, opaque=True)
        for seq, writes in enumerate(batch, expected + 1):
            pending.extras.append(scopes.writes_put(queue.scope, writes.checkpoint, seq))
        return pending

    def _find(self, key: ScopeKey, queue: Queue) -> Trace | None:
        with self._store._database.reader() as connection:
            scope = scopes.find(connection, key)
            if scope is None or scope.journal is None:
                return None
            row = log.trace_by_row(connection, scope.journal)
            head = log.head(connection, row)
        queue.scope, queue.trace = scope.id, Trace(self._store, row, head, ReducerRegistry())
        return queue.trace

    def _begin(self, key: ScopeKey, queue: Queue, batch: list[Writes]) -> None:
        events = [writes.envelope() for writes in batch]
        label = label_of(key) + " (writes)"
        wire = [envelope(TraceStarted(label, {})), Envelope("scope_entered", list(key)), *events]
        append = first_append(self._store._database.chain, label, wire)
        append.extras = [*scopes.entered(key), scopes.journal_made(key)]
        append.extras += [scopes.writes_put(None, writes.checkpoint, seq) for seq, writes in enumerate(batch, 3)]
        self._store._writer.commit(append)
        found = begun(self._store, key, append)
        if found is not None:
            queue.scope, queue.trace = found


def _drain(queue: Queue, batch: list[Waiting]) -> list[Waiting]:
    """Holding the queue's lock: all that waits. Whoever comes meanwhile goes along, or finds the lock free again."""
    while queue.waiting:
        batch.append(queue.waiting.popleft())
    return batch


def read(connection: Any, path: str, row: ScopeCheckpoint) -> list[Writes]:
    """The writes of a checkpoint as they came; of one instant with its row. Raises LogCorrupted."""
    found: list[Writes] = []
    bodies: dict[tuple[int, int], list[Any]] = {}
    try:
        places = row.written
    except msgspec.DecodeError as error:
        raise LogCorrupted(path, f"with row id {row.trace}", row.seq or 0, f"its writes: {error}") from None
    for trace, seq in places:
        raw: Any = connection.execute(log.ROW_AT, (trace, seq)).fetchone()
        if raw is None:
            raise LogCorrupted(path, f"with row id {trace}", seq, "writes that a checkpoint has are gone")
        commit = LogRow._make(raw)
        try:
            events = bodies.get((trace, commit.first_seq))
            if events is None:
                events = bodies[trace, commit.first_seq] = decode_rows(commit.body)
            checkpoint, task, channels, values, *more = events[seq - commit.first_seq].data
        except (ValueError, IndexError, TypeError) as error:
            raise LogCorrupted(path, f"with row id {trace}", commit.first_seq, str(error)) from error
        found.append(Writes(unpacked_id(checkpoint), unpacked_id(task), channels, values, more[0] if more else ""))
    return found


def pending_writes(serde: Serializer, written: Iterable[Writes]) -> list[tuple[str, str, Any]]:
    """What counts of the writes, in the order in which LangGraph wants them: `(task, channel, value)`.

    Raises what the serializer raises.
    """
    kept: dict[tuple[str, int], tuple[str, str, Any]] = {}
    for writes in written:
        values = apart(serde, writes.values)
        for index, (channel, value) in enumerate(zip(writes.channels, values, strict=True)):
            place = writes.task, WRITES_IDX_MAP.get(channel, index)
            if place[1] < 0 or place not in kept:
                kept[place] = writes.path, channel, value
    ordered = sorted(kept.items(), key=lambda item: writes_sort_key(item[1][0], *item[0]))
    return [(task, channel, value) for (task, _), (_, channel, value) in ordered]
