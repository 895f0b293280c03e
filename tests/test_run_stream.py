"""The stream of a run: typed events as they are committed."""

from __future__ import annotations

import asyncio
import threading
from itertools import islice

import pytest

import eventstore as es


def talking():
    graph = es.Graph("talking", reducers={"log": "append"})

    @graph.node
    def ask(ctx):
        for word in ("Hel", "lo"):
            ctx.emit(word)
        ctx.put("log", "asked")

    @graph.node
    def a(ctx): ...

    @graph.node
    def b(ctx): ...

    graph.parallel("both", a, b, max_concurrency=1)
    graph.barrier("ok", prompt="Fine?")

    @graph.node(side_effects=True)
    def pay(ctx):
        ctx.put("paid", True)

    graph.edge("ask", "both").edge("both", "ok").edge("ok", "pay")
    return graph.start("ask").end("pay")


def told(events):
    found = []
    for event in events:
        about = getattr(event, "path", None) or getattr(event, "barrier_id", None) or getattr(event, "value", None)
        found.append((type(event).__name__, about))
    return found


FIRST_PART = [
    ("GraphStarted", None),
    ("NodeStarted", "ask"),
    ("Emitted", "ask"),
    ("Emitted", "ask"),
    ("DeltaWritten", None),
    ("NodeEnded", "ask"),
    ("NodeStarted", "both"),
    ("NodeStarted", "both/a"),
    ("NodeEnded", "both/a"),
    ("NodeStarted", "both/b"),
    ("NodeEnded", "both/b"),
    ("NodeEnded", "both"),
    ("BarrierWaiting", "ok#1"),
]
SECOND_PART = [
    ("NodeStarted", "ok"),
    ("NodeEnded", "ok"),
    ("NodeStarted", "pay"),
    ("DeltaWritten", None),
    ("NodeEnded", "pay"),
    ("GraphCompleted", None),
    ("CheckpointSaved", None),
]


def test_a_stream_tells_what_happens_in_order(store):
    graph = talking()
    assert told(es.stream(graph, store, id="t1")) == FIRST_PART
    store.decide("t1", "ok", es.Approve())
    assert told(es.stream(graph, store, id="t1")) == SECOND_PART


def test_an_async_stream_tells_the_same(path):
    async def main():
        graph = talking()
        async with es.aopen(path) as store:
            first = [event async for event in es.stream_async(graph, store, id="t1")]
            await store.decide("t1", "ok", es.Approve())
            return first, [event async for event in es.stream_async(graph, store, id="t1")]

    first, second = asyncio.run(main())
    assert (told(first), told(second)) == (FIRST_PART, SECOND_PART)


def test_events_are_told_after_their_commit_and_emitted_ones_at_once(store):
    graph, order = es.Graph("g"), []

    @graph.node
    def work(ctx):
        ctx.emit("now")
        order.append("after emit")
        ctx.put("n", 1)

    def listen(event):
        order.append(type(event).__name__)
        if isinstance(event, es.DeltaWritten):
            assert store.state_at(event.trace_id, event.seq) == {"n": 1}

    es.run(graph.start("work").end("work"), store, on_event=listen)
    assert order[:4] == ["GraphStarted", "NodeStarted", "Emitted", "after emit"]
    assert "DeltaWritten" in order


def test_a_failed_run_tells_its_error_and_then_raises(store):
    graph = es.Graph("g")
    graph.node(name="broken")(lambda ctx: 1 / 0)
    told_events = es.stream(graph.start("broken").end("broken"), store)
    events = list(islice(told_events, 4))
    with pytest.raises(es.RunFailed):
        next(told_events)
    assert [type(event).__name__ for event in events] == ["GraphStarted", "NodeStarted", "NodeEnded", "GraphError"]
    assert events[-1].error == "ZeroDivisionError: division by zero"


def test_leaving_a_stream_gives_the_run_back_at_its_next_step(store):
    graph, go_on = es.Graph("g"), threading.Event()

    @graph.node
    def first(ctx):
        ctx.emit("here")
        go_on.wait(10)
        ctx.put("first", True)

    @graph.node
    def second(ctx):
        ctx.put("second", True)

    graph.edge("first", "second").start("first").end("second")
    events = es.stream(graph, store, id="t1")
    for event in events:
        if isinstance(event, es.Emitted):
            threading.Timer(0.05, go_on.set).start()
            break
    events.close()
    assert store.open_trace("t1").status == "running"
    assert es.resume(graph, store, "t1").state == {"first": True, "second": True}


def test_stream_events_go_to_json_and_back(store):
    for event in es.stream(talking(), store):
        assert type(event).from_json(event.to_json()) == event


def test_decisions_and_retries_are_told(store):
    import tenacity

    graph = es.Graph("g").barrier("ok")
    retry = tenacity.Retrying(stop=tenacity.stop_after_attempt(2), wait=tenacity.wait_fixed(0.001))

    @graph.node(retry=retry)
    def flaky(ctx):
        if ctx.attempt == 1:
            raise OSError

    graph.edge("flaky", "ok").start("flaky").end("ok")
    store_events = []
    es.run(graph, store, id="t1", on_event=store_events.append)
    ended = [event for event in store_events if isinstance(event, es.NodeEnded)]
    assert [(event.success, event.retry_at is not None) for event in ended] == [(False, True), (True, False)]
    starts = [event.attempt for event in store_events if isinstance(event, es.NodeStarted)]
    assert starts == [1, 2]


def test_a_run_whose_first_node_has_side_effects_is_told_from_its_start(store):
    graph = es.Graph("pay")
    graph.node(name="pay", side_effects=True)(lambda ctx: {"paid": 1})
    told_types = [type(event).__name__ for event in es.stream(graph.start("pay").end("pay"), store)]
    assert told_types == [
        "GraphStarted", "NodeStarted", "DeltaWritten", "NodeEnded", "GraphCompleted", "CheckpointSaved",
    ]  # fmt: skip
