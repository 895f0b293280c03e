"""Run a graph durably: start, resume, stream.

A run returns when it ends, waits for a human, or is to stop; its status says which. A run that failed raises
`RunFailed` from the node's own exception, and `resume` tries the node again.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from queue import SimpleQueue
from typing import Any

from .checkpoint import GraphHashMode
from .commands import EffectRule, Options
from .entering import Again, Entry, again, result_of, start_or_again
from .errors import Fenced, RunFailed
from .graph import Graph
from .plan import Plan
from .pump import Workers
from .record import GraphResult
from .run_stream import StreamEvent
from .runner import SyncRun
from .runner_async import resume_and_drive, start_and_drive
from .running import Listener
from .scheduler import Scheduler
from .store import Store, uuid7
from .trace import Trace


def run(
    graph: Graph,
    store: Store,
    state: Mapping[str, Any] | None = None,
    *,
    id: str | None = None,
    on_event: Listener | None = None,
    stop: threading.Event | None = None,
) -> GraphResult:
    """Run a graph from an initial `state` until it ends or waits; with the `id` of a run that exists, resume it.

    `on_event`: called with each `StreamEvent`; `stop`: set it to have the run given back at its next step.
    Nodes run on this thread, branches on threads of their own; a graph with async nodes runs in an event loop
    of its own. Raises GraphInvalid, RunFailed, InputDiffers for an `id` that was started with another state,
    GraphHashMismatch, RunOwned, RuntimeError inside a running event loop, and storage errors.

    >>> from .store import open
    >>> graph = Graph("greet")
    >>> @graph.node
    ... def hello(ctx):
    ...     return {"said": f"hello, {ctx.state['name']}"}
    >>> graph = graph.start("hello").end("hello")
    >>> with open(":memory:") as store:
    ...     result = run(graph, store, {"name": "ana"})
    >>> result.status, result.state["said"]
    ('completed', 'hello, ana')
    """
    plan = graph.plan()
    _refuse_in_loop("run")
    if plan.is_async:
        return asyncio.run(_with_workers(store, start_and_drive, plan, store, state, id, on_event, stop))
    trace, entry = start_or_again(plan, store, state, id, uuid7())
    return _drive(plan, trace, entry, Options(), on_event, stop)


def resume(
    graph: Graph,
    store: Store,
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
    """Go on with a run where its log ends; a completed or waiting one just gives its result.

    A failed run tries its node again (same visit, same idempotency key), a cancelled one needs `reopen`. Of a
    changed graph: `mode` STRICT refuses it, FORCE goes on and records it; `renamed_from` ({new name: old name})
    and `at` say where open ends belong. `force`: after a crash loop. `effects`: what a fork does before a side
    effect that its parent has had: `"ask"` a human, `"run"` it again, `"reuse"` what the parent recorded (then
    its own edges say where to go, unless the node itself had chosen). `max_steps`: instead of the graph's. `wait_s`:
    how long to wait for another owner to let go; `waits` False: give the run back instead of sitting out the time
    before a retry.

    Raises GraphHashMismatch, RunOwned, CrashLoop, TraceEndedError (cancelled), RunFailed, Fenced, TraceNotFound.

    >>> from .store import open
    >>> from .event import Approve
    >>> graph = Graph("ask").barrier("approve", prompt="Go on?").start("approve").end("approve")
    >>> with open(":memory:") as store:
    ...     paused = run(graph, store)
    ...     store.decide(paused.trace_id, "approve", Approve(by="ana"))
    ...     done = resume(graph, store, paused.trace_id)
    'approve#1'
    >>> paused.status, done.status, done.state
    ('waiting', 'completed', {'approve.approved': True})
    """
    plan = graph.plan()
    _refuse_in_loop("resume")
    how = Again(mode, renamed_from, at, force, reopen, wait_s)
    options = Options(waits, effects, max_steps)
    if plan.is_async:
        return asyncio.run(_with_workers(store, resume_and_drive, plan, store, trace_id, how, options, on_event, stop))
    trace, entry = again(plan, store, trace_id, how)
    return _drive(plan, trace, entry, options, on_event, stop)


def stream(
    graph: Graph,
    store: Store,
    state: Mapping[str, Any] | None = None,
    *,
    id: str | None = None,
) -> Iterator[StreamEvent]:
    """`run` as an iterator of typed events, told as they are committed (`Emitted` ones at once).

    The run works on a thread of its own; leaving the iteration early gives it back at its next step. Raises what
    `run` raises, after the last event.

    >>> from .store import open
    >>> graph = Graph("ask").barrier("approve", prompt="Go on?").start("approve").end("approve")
    >>> with open(":memory:") as store:
    ...     [type(event).__name__ for event in stream(graph, store)]
    ['GraphStarted', 'BarrierWaiting']
    """
    _refuse_in_loop("stream")
    told: SimpleQueue[StreamEvent | None] = SimpleQueue()
    stop = threading.Event()
    failure: list[BaseException] = []

    def work() -> None:
        try:
            run(graph, store, state, id=id, on_event=told.put, stop=stop)
        except BaseException as error:
            failure.append(error)
        finally:
            told.put(None)

    worker = threading.Thread(target=work, name="eventstore-run", daemon=True)
    worker.start()
    try:
        while (event := told.get()) is not None:
            yield event
    finally:
        stop.set()
        worker.join()
    if failure:
        raise failure[0]


def _drive(
    plan: Plan,
    trace: Trace,
    entry: Entry | None,
    options: Options,
    listener: Listener | None,
    stop: threading.Event | None,
) -> GraphResult:
    if entry is None:
        return result_of(trace)
    with _owned(trace, entry.epoch):
        running = SyncRun(plan, entry, listener, stop or threading.Event())
        scheduler = Scheduler(plan, trace, running, options, entry.carry, entry.effects)
        scheduler.fresh |= entry.fresh
        running.tell()
        running.drive(scheduler, entry.at_once)
    return result_of(trace)


class _owned:
    """While a run is owned here; one that is left by an exception is given back."""

    def __init__(self, trace: Trace, epoch: int) -> None:
        self._trace = trace
        self._epoch = epoch

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        ownership = self._trace._store._ownership
        try:
            if error is not None and not isinstance(error, Fenced | RunFailed):
                ownership.give_back(self._trace, self._epoch)
        finally:
            ownership.left(self._trace.id)


async def _with_workers(store: Store, drive: Callable[..., Awaitable[GraphResult]], *args: Any) -> GraphResult:
    workers = Workers(store)
    try:
        return await drive(workers, *args)
    finally:
        await workers.close()


def _refuse_in_loop(name: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(f"es.{name} would block the running event loop; await es.{name}_async")
