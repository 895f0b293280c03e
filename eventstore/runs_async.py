"""`run`, `resume` and `stream` for asyncio: the same scheduler, driven by a task."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any

from .aio import AsyncStore
from .checkpoint import GraphHashMode
from .commands import EffectRule, Options
from .entering import Again
from .graph import Graph
from .pump import Workers
from .record import GraphResult
from .run_stream import StreamEvent
from .runner_async import resume_and_drive, start_and_drive
from .running import Listener
from .store import Store


async def run_async(
    graph: Graph,
    store: Store | AsyncStore,
    state: Mapping[str, Any] | None = None,
    *,
    id: str | None = None,
    on_event: Listener | None = None,
    stop: threading.Event | None = None,
) -> GraphResult:
    """`es.run` for asyncio: async nodes run in this loop, sync nodes on threads. Takes and raises what it does.

    Cancelling the task gives the run back; a node with side effects that was cut off is in doubt then.

    >>> from .aio import aopen
    >>> graph = Graph("greet")
    >>> @graph.node
    ... async def hello(ctx):
    ...     return {"said": f"hello, {ctx.state['name']}"}
    >>> async def main():
    ...     async with aopen(":memory:") as store:
    ...         return await run_async(graph.start("hello").end("hello"), store, {"name": "ana"})
    >>> asyncio.run(main()).state["said"]
    'hello, ana'
    """
    plan = graph.plan()
    async with _Workers(store) as (sync_store, workers):
        return await start_and_drive(workers, plan, sync_store, state, id, on_event, stop)


async def resume_async(
    graph: Graph,
    store: Store | AsyncStore,
    trace_id: str,
    *,
    mode: GraphHashMode = GraphHashMode.STRICT,
    renamed_from: Mapping[str, str] | None = None,
    at: str | None = None,
    force: bool = False,
    reopen: bool = False,
    effects: EffectRule = "ask",
    max_steps: int | None = None,
    wait_s: float = 0.0,
    waits: bool = True,
    on_event: Listener | None = None,
    stop: threading.Event | None = None,
) -> GraphResult:
    """`es.resume` for asyncio. Takes and raises what it does.

    >>> from .aio import aopen
    >>> from .event import Approve
    >>> graph = Graph("ask").barrier("approve", prompt="Go on?").start("approve").end("approve")
    >>> async def main():
    ...     async with aopen(":memory:") as store:
    ...         paused = await run_async(graph, store)
    ...         await store.decide(paused.trace_id, "approve", Approve(by="ana"))
    ...         return await resume_async(graph, store, paused.trace_id)
    >>> asyncio.run(main()).status
    'completed'
    """
    how = Again(mode, renamed_from, at, force, reopen, wait_s)
    plan, options = graph.plan(), Options(waits, effects, max_steps)
    async with _Workers(store) as (sync_store, workers):
        return await resume_and_drive(workers, plan, sync_store, trace_id, how, options, on_event, stop)


async def stream_async(
    graph: Graph,
    store: Store | AsyncStore,
    state: Mapping[str, Any] | None = None,
    *,
    id: str | None = None,
) -> AsyncIterator[StreamEvent]:
    """`es.stream` for asyncio; iterate with `async for`. Takes and raises what it does.

    >>> from .aio import aopen
    >>> graph = Graph("ask").barrier("approve", prompt="Go on?").start("approve").end("approve")
    >>> async def main():
    ...     async with aopen(":memory:") as store:
    ...         return [type(event).__name__ async for event in stream_async(graph, store)]
    >>> asyncio.run(main())
    ['GraphStarted', 'BarrierWaiting']
    """
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[StreamEvent | None] = asyncio.Queue()
    stop = threading.Event()

    def tell(event: StreamEvent) -> None:
        loop.call_soon_threadsafe(told.put_nowait, event)

    async def work() -> None:
        try:
            await run_async(graph, store, state, id=id, on_event=tell, stop=stop)
        finally:
            loop.call_soon(told.put_nowait, None)

    task = loop.create_task(work())
    try:
        while (event := await told.get()) is not None:
            yield event
    finally:
        stop.set()
        await asyncio.wait([task])
    task.result()


class _Workers:
    """The pump of an async store, or one of its own over a sync store."""

    def __init__(self, store: Store | AsyncStore) -> None:
        self._store = store
        self._own: Workers | None = None

    async def __aenter__(self) -> tuple[Store, Workers]:
        if isinstance(self._store, AsyncStore):
            return self._store._store, self._store._workers
        self._own = Workers(self._store)
        return self._store, self._own

    async def __aexit__(self, *_: object) -> None:
        if self._own is not None:
            await self._own.close()
