"""The same verbs for asyncio, forwarding to the one sync core.

A step's commit goes into a queue on the event loop; a pump hands all that has gathered to one worker
thread as a single batch with a single sync, and then wakes the tasks. Every other verb runs as it is on
a small thread pool. Cancelling a task that waits for its commit does not undo the commit: the batch is
finished and the live state follows it; an `append_id` settles a retry.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from os import PathLike
from types import TracebackType
from typing import Any, TypeVar
from uuid import UUID

from . import tailing
from .backup import BackupReport
from .bases import BaseInfo
from .blaming import Write
from .checkpoint import Checkpoint, CheckpointPolicy, StateSnapshot
from .checkpoints import CheckpointStore
from .database import Durability
from .errors import WrongExpectedVersion
from .event import Decision
from .fold import MISSING
from .inbox import BarrierInfo
from .past import Past
from .pending import ANY, AnyVersion, Appended
from .places import At
from .policy import FoldPolicy
from .problem import Problem
from .pump import Workers
from .reader import PAGE_ROWS
from .record import ExecutionEntry, ExecutionMetadata, ExecutionTrace
from .recorded import Event, RecordedEvent
from .redaction import Redactor
from .retention import RETRY_WINDOW_S, Removed
from .retention_apply import RetentionReport, TraceRemoval
from .retention_plan import RetentionPlan
from .run_stream import StreamEvent
from .span import Timeline
from .statistics import StoreStats
from .step import Step
from .store import Reducers, Store, TraceInfo
from .threads import ThreadCheckpoint, ThreadInfo
from .trace import Trace
from .verify import VerifyReport
from .why import Why

T = TypeVar("T")


class AsyncStep:
    """An `es.Step` whose block is `async with`: writes are immediate, leaving it awaits the commit."""

    def __init__(self, trace: AsyncTrace, step: Step) -> None:
        self._trace = trace
        self._step = step

    async def __aenter__(self) -> Step:
        return await self._trace._ready(self._step.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        trace = self._trace._trace
        while True:
            try:
                await self._trace._workers.commit(trace, self._step._finish(error))
                return
            except WrongExpectedVersion:
                if error is None:
                    raise
                await self._trace._workers.call(trace.refresh)  # as in Step.__exit__


class AsyncTrace:
    """An `es.Trace` whose I/O is awaited. Made by `AsyncStore`."""

    def __init__(self, trace: Trace, workers: Workers) -> None:
        self._trace = trace
        self._workers = workers

    async def _ready(self, function: Callable[[], T]) -> T:
        """Run what needs the live state; only the first time is that a read."""
        if self._trace._state is None:
            return await self._workers.call(function)
        return function()

    @property
    def id(self) -> str:
        """See `Trace.id`."""
        return self._trace.id

    @property
    def name(self) -> str:
        """See `Trace.name`."""
        return self._trace.name

    @property
    def version(self) -> int:
        """See `Trace.version`."""
        return self._trace.version

    @property
    def state(self) -> Mapping[str, Any]:
        """See `Trace.state`."""
        return self._trace.state

    @property
    def status(self) -> str:
        """See `Trace.status`."""
        return self._trace.status

    @property
    def graph_hash(self) -> str:
        """See `Trace.graph_hash`."""
        return self._trace.graph_hash

    @property
    def next_node(self) -> str | None:
        """See `Trace.next_node`."""
        return self._trace.next_node

    @property
    def pending_barriers(self) -> list[str]:
        """See `Trace.pending_barriers`."""
        return self._trace.pending_barriers

    @property
    def control(self) -> Mapping[str, Any]:
        """See `Trace.control`."""
        return self._trace.control

    def get(self, key: str, default: Any = MISSING, *, at: At | None = None, type: type[T] | None = None) -> Any:
        """See `Trace.get`; with `at` it reads at once, so `(await trace.at(...)).get(...)` suits a busy loop better."""
        return self._trace.get(key, default, at=at, type=type)

    def step(
        self,
        node: str,
        metadata: ExecutionMetadata | None = None,
        *,
        next: str | None = None,
        append_id: str | None = None,
    ) -> AsyncStep:
        """See `Trace.step`; use with `async with`."""
        return AsyncStep(self, self._trace.step(node, metadata, next=next, append_id=append_id))

    async def append(
        self,
        events: Sequence[Event],
        *,
        expected_version: int | AnyVersion | None = None,
        unless_changed_since: int | None = None,
        append_id: str | int | None = None,
    ) -> Appended:
        """See `Trace.append`."""
        return await self._workers.call(
            self._trace.append,
            events,
            expected_version=expected_version,
            unless_changed_since=unless_changed_since,
            append_id=append_id,
        )

    async def note(self, name: str, data: Any = None) -> Appended:
        """See `Trace.note`."""
        return await self._workers.call(self._trace.note, name, data)

    async def end(self, status: str = "completed", error: str | None = None) -> None:
        """See `Trace.end`."""
        await self._workers.call(self._trace.end, status, error)

    async def raise_barrier(
        self,
        node: str,
        *,
        prompt: str = "",
        keys: Sequence[str] = (),
        deadline_us: int | None = None,
        default: Decision | None = None,
    ) -> str:
        """See `Trace.raise_barrier`."""
        return await self._workers.call(
            self._trace.raise_barrier,
            node,
            prompt=prompt,
            keys=keys,
            deadline_us=deadline_us,
            default=default,
        )

    async def decide(self, barrier: str, decision: Decision) -> str:
        """See `Trace.decide`."""
        return await self._workers.call(self._trace.decide, barrier, decision)

    async def expire(self) -> list[str]:
        """See `Trace.expire`."""
        return await self._workers.call(self._trace.expire)

    async def checkpoint(self, node: str | None = None) -> Checkpoint:
        """See `Trace.checkpoint`."""
        return await self._workers.call(self._trace.checkpoint, node)

    async def refresh(self) -> int:
        """See `Trace.refresh`."""
        return await self._workers.call(self._trace.refresh)

    async def events(self, after: int | None = None, upto: int | None = None) -> AsyncIterator[RecordedEvent]:
        """See `Trace.events`; iterate with `async for`."""
        iterator = self._trace.events(after, upto)
        while page := await self._workers.call(list, islice(iterator, PAGE_ROWS)):
            for event in page:
                yield event

    async def at(
        self,
        seq: At | None = None,
        *,
        step: int | None = None,
        time: datetime | str | None = None,
        checkpoint: str | UUID | None = None,
    ) -> Past:
        """See `Trace.at`."""
        return await self._workers.call(self._trace.at, seq, step=step, time=time, checkpoint=checkpoint)

    async def history(
        self, *, after: At | None = None, upto: At | None = None, reverse: bool = False
    ) -> AsyncIterator[Past]:
        """See `Trace.history`; iterate with `async for`."""
        iterator = self._trace.history(after=after, upto=upto, reverse=reverse)
        while page := await self._workers.call(list, islice(iterator, PAGE_ROWS)):
            for past in page:
                yield past

    async def blame(self, name: str, *, at: At | None = None) -> list[Write]:
        """See `Trace.blame`."""
        return await self._workers.call(self._trace.blame, name, at=at)

    async def why(self, at: At) -> Why:
        """See `Trace.why`."""
        return await self._workers.call(self._trace.why, at)

    async def timeline(self, *, now: datetime | None = None) -> Timeline:
        """See `Trace.timeline`."""
        return await self._workers.call(self._trace.timeline, now=now)

    async def fork(
        self,
        at: At | None = None,
        *,
        put: Mapping[str, Any] | None = None,
        name: str | None = None,
        id: str | None = None,
    ) -> AsyncTrace:
        """See `Trace.fork`."""
        trace = await self._workers.call(self._trace.fork, at, put=put, name=name, id=id)
        await self._workers.call(trace._live)
        return AsyncTrace(trace, self._workers)

    async def entries(self) -> list[ExecutionEntry]:
        """See `Trace.entries`."""
        return await self._workers.call(self._trace.entries)

    async def execution_trace(self) -> ExecutionTrace:
        """See `Trace.execution_trace`."""
        return await self._workers.call(self._trace.execution_trace)


class AsyncCheckpointStore:
    """`store.checkpoints` of an async store."""

    def __init__(self, checkpoints: CheckpointStore, workers: Workers) -> None:
        self._checkpoints = checkpoints
        self._workers = workers

    async def save(self, checkpoint: Checkpoint) -> Checkpoint:
        """See `CheckpointStore.save`."""
        return await self._workers.call(self._checkpoints.save, checkpoint)

    async def load(self, checkpoint_id: str | UUID) -> Checkpoint:
        """See `CheckpointStore.load`."""
        return await self._workers.call(self._checkpoints.load, checkpoint_id)

    async def load_latest(self, trace_id: str) -> Checkpoint | None:
        """See `CheckpointStore.load_latest`."""
        return await self._workers.call(self._checkpoints.load_latest, trace_id)

    async def between(self, trace_id: str, first: int, last: int) -> list[Checkpoint]:
        """See `CheckpointStore.between`."""
        return await self._workers.call(self._checkpoints.between, trace_id, first, last)

    async def list(self, trace_id: str) -> list[Checkpoint]:
        """See `CheckpointStore.list`."""
        return await self._workers.call(self._checkpoints.list, trace_id)

    async def delete(self, checkpoint_id: str | UUID) -> bool:
        """See `CheckpointStore.delete`."""
        return await self._workers.call(self._checkpoints.delete, checkpoint_id)

    async def prune(self, trace_id: str, keep: int) -> int:
        """See `CheckpointStore.prune`."""
        return await self._workers.call(self._checkpoints.prune, trace_id, keep)


class AsyncStore:
    """An `es.Store` for asyncio. Made by `es.aopen`; belongs to one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._workers = Workers(store)
        self.checkpoints = AsyncCheckpointStore(store.checkpoints, self._workers)

    @property
    def path(self) -> str:
        """See `Store.path`."""
        return self._store.path

    @property
    def durability(self) -> Durability:
        """See `Store.durability`."""
        return self._store.durability

    async def start(
        self,
        state: Mapping[str, Any] | None = None,
        *,
        name: str = "",
        reducers: Reducers | None = None,
        id: str | None = None,
        graph_hash: str = "",
        node: str | None = None,
    ) -> AsyncTrace:
        """See `Store.start`."""
        trace = await self._workers.call(
            self._store.start, state, name=name, reducers=reducers, id=id, graph_hash=graph_hash, node=node
        )
        return AsyncTrace(trace, self._workers)

    async def open_trace(self, trace_id: str, *, reducers: Reducers | None = None) -> AsyncTrace:
        """See `Store.open_trace`; reads the state too, so that the properties of the trace never wait."""
        trace = await self._workers.call(self._store.open_trace, trace_id, reducers=reducers)
        await self._workers.call(trace._live)
        return AsyncTrace(trace, self._workers)

    async def traces(
        self,
        *,
        limit: int = 100,
        after: str | None = None,
        status: str | None = None,
        name: str | None = None,
    ) -> list[TraceInfo]:
        """See `Store.traces`."""
        return await self._workers.call(self._store.traces, limit=limit, after=after, status=status, name=name)

    async def fork(
        self,
        trace_id: str,
        at: At | None = None,
        *,
        put: Mapping[str, Any] | None = None,
        name: str | None = None,
        id: str | None = None,
    ) -> AsyncTrace:
        """See `Store.fork`."""
        trace = await self._workers.call(self._store.fork, trace_id, at, put=put, name=name, id=id)
        await self._workers.call(trace._live)
        return AsyncTrace(trace, self._workers)

    async def append(
        self,
        trace_id: str,
        events: Sequence[Event],
        *,
        expected_version: int | AnyVersion = ANY,
        unless_changed_since: int | None = None,
        append_id: str | int | None = None,
    ) -> Appended:
        """See `Store.append`."""
        return await self._workers.call(
            self._store.append,
            trace_id,
            events,
            expected_version=expected_version,
            unless_changed_since=unless_changed_since,
            append_id=append_id,
        )

    async def state_at(self, trace_id: str, seq: int | None = None) -> dict[str, Any]:
        """See `Store.state_at`."""
        return await self._workers.call(self._store.state_at, trace_id, seq)

    async def get(
        self,
        trace_id: str,
        key: str,
        default: Any = MISSING,
        *,
        at: At | None = None,
        type: type[T] | None = None,
    ) -> Any:
        """See `Store.get`."""
        return await self._workers.call(self._store.get, trace_id, key, default, at=at, type=type)

    async def snapshot_at(self, trace_id: str, seq: int) -> StateSnapshot:
        """See `Store.snapshot_at`."""
        return await self._workers.call(self._store.snapshot_at, trace_id, seq)

    async def events(
        self, trace_id: str, *, after: int | None = None, upto: int | None = None
    ) -> AsyncIterator[RecordedEvent]:
        """See `Store.events`; iterate with `async for`."""
        iterator = self._store.events(trace_id, after=after, upto=upto)
        while page := await self._workers.call(list, islice(iterator, PAGE_ROWS)):
            for event in page:
                yield event

    async def tail(
        self, trace_id: str | None = None, *, after: int = 0, follow: bool = False, poll_s: float = 0.2
    ) -> AsyncIterator[StreamEvent]:
        """See `Store.tail`; iterate with `async for`."""
        source = tailing.source(self._store, trace_id, after)
        while True:
            page = await self._workers.call(source.page)
            for _, event in page:
                yield event
            if not page:
                if not follow or source.is_over:
                    return
                await asyncio.sleep(poll_s)

    async def decide(self, trace_id: str, barrier: str, decision: Decision) -> str:
        """See `Store.decide`."""
        return await self._workers.call(self._store.decide, trace_id, barrier, decision)

    async def barriers(
        self,
        *,
        pending: bool | None = True,
        limit: int = 100,
        after: tuple[str, str] | None = None,
        trace_id: str | None = None,
        node: str | None = None,
    ) -> list[BarrierInfo]:
        """See `Store.barriers`."""
        return await self._workers.call(
            self._store.barriers, pending=pending, limit=limit, after=after, trace_id=trace_id, node=node
        )

    async def threads(
        self, *, adapter: str | None = None, limit: int = 100, after: ThreadInfo | None = None
    ) -> list[ThreadInfo]:
        """See `Store.threads`."""
        return await self._workers.call(self._store.threads, adapter=adapter, limit=limit, after=after)

    async def thread_checkpoints(
        self,
        thread_id: str,
        namespace: str = "",
        *,
        adapter: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> list[ThreadCheckpoint]:
        """See `Store.thread_checkpoints`."""
        return await self._workers.call(
            self._store.thread_checkpoints, thread_id, namespace, adapter=adapter, limit=limit, before=before
        )

    async def cancel(self, trace_id: str, *, by: str | None = None, reason: str = "") -> bool:
        """See `Store.cancel`."""
        return await self._workers.call(self._store.cancel, trace_id, by=by, reason=reason)

    async def bases(self, trace_id: str, *, after: int = 0, upto: int | None = None) -> list[BaseInfo]:
        """See `Store.bases`."""
        return await self._workers.call(self._store.bases, trace_id, after=after, upto=upto)

    async def drop_bases(self, trace_id: str | None = None) -> int:
        """See `Store.drop_bases`."""
        return await self._workers.call(self._store.drop_bases, trace_id)

    async def trim(self, trace_id: str, before: int, *, retry_window_s: float = RETRY_WINDOW_S) -> Removed:
        """See `Store.trim`."""
        return await self._workers.call(self._store.trim, trace_id, before, retry_window_s=retry_window_s)

    async def erase(self, trace_id: str, *, by: str | None = None, cascade: bool = False) -> list[Removed]:
        """See `Store.erase`."""
        return await self._workers.call(self._store.erase, trace_id, by=by, cascade=cascade)

    async def plan_retention(
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
        retry_window_s: float = RETRY_WINDOW_S,
    ) -> RetentionPlan:
        """See `Store.plan_retention`."""
        return await self._workers.call(
            self._store.plan_retention,
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

    async def apply(
        self,
        plan: RetentionPlan,
        on_trace: Callable[[TraceRemoval], object] | None = None,
        *,
        by: str | None = None,
    ) -> RetentionReport:
        """See `Store.apply`; `on_trace` is called on a worker's thread."""
        return await self._workers.call(self._store.apply, plan, on_trace, by=by)

    async def stats(self) -> StoreStats:
        """See `Store.stats`."""
        return await self._workers.call(self._store.stats)

    async def verify(self, trace_id: str | None = None, *, heads: Mapping[str, str] | None = None) -> VerifyReport:
        """See `Store.verify`."""
        return await self._workers.call(self._store.verify, trace_id, heads=heads)

    async def backup(
        self,
        path: str | PathLike[str],
        *,
        on_progress: Callable[[int, int], None] | None = None,
        on_problem: Callable[[Problem], None] | None = None,
    ) -> BackupReport:
        """See `Store.backup`; what is told is told on the thread that copies."""
        return await self._workers.call(self._store.backup, path, on_progress=on_progress, on_problem=on_problem)

    async def close(self) -> None:
        """Finish what is queued, then close. See `Store.close`."""
        await self._workers.close()
        self._store.close()

    async def __aenter__(self) -> AsyncStore:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Async{self._store!r}"


class _Opening:
    """What `aopen` gives: to be awaited, or entered with `async with`."""

    def __init__(self, make: Callable[[], Store]) -> None:
        self._make = make
        self._store: AsyncStore | None = None

    async def _open(self) -> AsyncStore:
        return AsyncStore(await asyncio.to_thread(self._make))

    def __await__(self) -> Generator[Any, None, AsyncStore]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncStore:
        self._store = await self._open()
        return self._store

    async def __aexit__(self, *_: object) -> None:
        assert self._store is not None
        await self._store.close()


def aopen(
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
) -> _Opening:
    """`es.open` for asyncio: `async with es.aopen(path) as store:`, or `store = await es.aopen(path)`.

    Takes and raises what `es.open` does.

    >>> async def main():
    ...     async with aopen(":memory:") as store:
    ...         trace = await store.start({"n": 1})
    ...         async with trace.step("double") as step:
    ...             step.put("n", 2)
    ...         return await store.state_at(trace.id)
    >>> asyncio.run(main())
    {'n': 2}
    """
    return _Opening(
        lambda: Store(
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
    )
