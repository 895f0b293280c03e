"""Tails: what another process reads from the log is what the running one told, each event once."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing

import pytest

import eventstore as es
from eventstore.tailing import FeedSource, source, with_cursors


def flow():
    """A side effect, branches, an early decision and an explicit checkpoint, under reducers."""
    graph = es.Graph("flow", reducers={"log": "append"})

    @graph.node
    def begin(ctx):
        ctx.emit("hello")

    @graph.node(side_effects=True)
    def ask(ctx):
        ctx.put("log", "ask")
        store_of[ctx.trace_id].decide(ctx.trace_id, "approve#1", es.Approve(by="ana"))

    @graph.node
    def left(ctx):
        ctx.put("log", "left")

    @graph.node
    def right(ctx):
        ctx.put("log", "right")

    @graph.node(side_effects=True)
    def pay(ctx):
        ctx.checkpoint()
        return {"paid": 40}

    graph.parallel("both", "left", "right", max_concurrency=1).barrier("approve", prompt="Go on?")
    graph.edge("begin", "ask").edge("ask", "both").edge("both", "approve").edge("approve", "pay")
    return graph.start("begin").end("pay")


store_of = {}


def ran(store, id="t1"):
    """What the running process told of one whole run."""
    told = []
    store_of[id] = store
    assert es.run(flow(), store, {"log": []}, id=id, on_event=told.append).status == "completed"
    return told


def waiting_graph(name="wait"):
    graph = es.Graph(name)

    @graph.node
    def done(ctx):
        return {"done": True}

    return graph.barrier("approve", prompt="Go on?").start("approve").edge("approve", "done").end("done")


def logged(events):
    """Without what no log can tell: what was emitted, and exactly when a node started."""
    return [event for event in events if not isinstance(event, es.Emitted | es.NodeStarted)]


def starts(events):
    return sorted((event.path, event.attempt) for event in events if isinstance(event, es.NodeStarted))


def names(events):
    return [type(event).__name__ for event in events]


# One trace


def test_a_tail_tells_what_the_stream_told(store):
    told = ran(store)
    read = list(store.tail("t1"))
    assert logged(read) == logged(told)
    assert starts(read) == starts(told) != []
    assert {"CheckpointSaved", "BarrierResolved", "DeltaWritten"} <= set(names(read))
    assert list(store.tail("t1", follow=True)) == read


@pytest.mark.parametrize("page_rows", [1, 2, 256])
def test_after_any_seq_comes_the_rest(store, monkeypatch, page_rows):
    ran(store)
    whole = [event for event in store.tail("t1") if hasattr(event, "seq")]
    monkeypatch.setattr("eventstore.reader.PAGE_ROWS", page_rows)
    for seq in range(store.open_trace("t1").version + 1):
        rest = [event for event in store.tail("t1", after=seq) if isinstance(event, es.DeltaWritten | es.NodeEnded)]
        assert rest == [event for event in whole if type(event) in (es.DeltaWritten, es.NodeEnded) and event.seq > seq]
    saved = [event for event in whole if isinstance(event, es.CheckpointSaved)]
    assert sorted(saved, key=lambda event: event.seq) == sorted(
        (event for event in store.tail("t1") if isinstance(event, es.CheckpointSaved)), key=lambda event: event.seq
    )
    version = store.open_trace("t1").version
    assert names(whole)[-1] == "CheckpointSaved"
    assert whole[-1].seq == version
    assert list(store.tail("t1", after=version)) == []  # that checkpoint came with the last commit
    assert list(store.tail("t1", after=version + 1)) == []


def test_a_node_that_had_started_is_not_started_again(store):
    graph = es.Graph("pay")

    @graph.node(side_effects=True)
    def pay(ctx):
        raise KeyboardInterrupt

    graph.start("pay").end("pay")
    with pytest.raises(KeyboardInterrupt):
        es.run(graph, store, id="t1")
    intended = next(event.seq for event in store.events("t1") if event.kind == "node_intended")
    assert es.resume(graph, store, "t1").status == "waiting"
    store.decide("t1", "pay", es.Modify({"paid": 40}))
    assert es.resume(graph, store, "t1").status == "completed"
    assert starts(store.tail("t1")) == [("pay", 1)]
    assert starts(store.tail("t1", after=intended - 1)) == [("pay", 1)]
    assert starts(store.tail("t1", after=intended)) == []
    assert "NodeEnded" in names(store.tail("t1", after=intended))


@pytest.mark.parametrize("trace_id", ["t1", None])
def test_commits_that_tell_nothing_do_not_end_a_tail(store, trace_id):
    trace = store.start({"n": 0}, id="t1")
    for _ in range(600):
        trace.note("seen")
    trace.append([es.StateDelta.put("n", 1)])
    assert names(store.tail(trace_id)) == ["GraphStarted", "DeltaWritten"]


def test_following_goes_on_to_the_end(path, store):
    graph = waiting_graph()
    es.run(graph, store, id="t1")
    seen, waits = [], threading.Event()

    def follow():
        with es.open(path, read_only=True) as reader:
            for event in reader.tail("t1", follow=True, poll_s=0.005):
                seen.append(event)
                if isinstance(event, es.BarrierWaiting):
                    waits.set()

    follower = threading.Thread(target=follow)
    follower.start()
    assert waits.wait(20)
    store.decide("t1", "approve", es.Approve())
    es.resume(graph, store, "t1")
    follower.join(20)
    assert not follower.is_alive()
    read = list(store.tail("t1"))
    assert names(seen)[-2:] == ["GraphCompleted", "CheckpointSaved"]
    assert sorted(map(repr, seen)) == sorted(map(repr, read))
    assert [event for event in seen if not isinstance(event, es.CheckpointSaved)] == [
        event for event in read if not isinstance(event, es.CheckpointSaved)
    ]


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_following_ends_with_the_trace(store, status):
    trace = store.start({"n": 0}, id="t1")
    trace.end(status, "why" if status == "failed" else None)
    last = [event for event in store.tail("t1", follow=True) if not isinstance(event, es.CheckpointSaved)][-1]
    assert last.error == "why" if status == "failed" else last.status == status


def test_a_checkpoint_made_apart_is_told_once_at_the_next_look(store):
    trace = store.start({"n": 0}, id="t1")
    with closing(store.tail("t1", follow=True, poll_s=0.001)) as tail:
        assert names([next(tail)]) == ["GraphStarted"]
        saved = trace.checkpoint("ask")
        assert next(tail).checkpoint_id == saved.checkpoint_id
        trace.append([es.StateDelta.put("n", 1)])
        assert names([next(tail)]) == ["DeltaWritten"]
        trace.end()
        assert names(tail) == ["GraphCompleted", "CheckpointSaved"]


def test_a_trimmed_trace_is_told_from_its_root(store, record):
    record(store, 10)
    boundary = store.open_trace("t1").version - 8
    whole = list(store.tail("t1"))
    store.trim("t1", boundary, retry_window_s=0)
    kept = [event for event in whole if hasattr(event, "seq") and event.seq > boundary]
    for after in (0, 3, boundary):
        assert logged(store.tail("t1", after=after)) == kept != []


def test_a_trim_that_overtakes_a_follower_loses_no_later_event(store, record):
    trace = record(store, 3)
    tail = store.tail("t1", follow=True, poll_s=0.001)
    before = trace.version
    seen = [next(tail) for _ in list(store.tail("t1"))]
    for _ in range(5):
        trace.append([es.StateDelta.put("text", "later")])
    store.trim("t1", before + 3, retry_window_s=0)
    trace.end()
    seen += tail
    seqs = [event.seq for event in logged(seen) if not isinstance(event, es.CheckpointSaved)]
    assert seqs == [*range(1, before + 1), *range(before + 4, before + 7)]


def test_a_fork_tells_the_history_that_it_shares(store, record):
    record(store, 4)
    fork = store.fork("t1", 9, id="t2")
    fork.append([es.StateDelta.put("text", "mine")])
    shared = [event for event in logged(store.tail("t1")) if event.seq <= 9]
    told = logged(store.tail("t2"))
    assert [(type(event), event.seq) for event in told[: len(shared)]] == [(type(event), event.seq) for event in shared]
    assert names(told[len(shared) :]) == ["GraphStarted", "DeltaWritten"]
    assert {event.trace_id for event in told} == {"t2"}


def test_what_cannot_be_told_is_said(store, tamper):
    with pytest.raises(es.TraceNotFound):
        list(store.tail("t9"))
    trace = store.start({"n": 0}, id="t1")
    tail = store.tail("t1", follow=True, poll_s=0.001)
    next(tail)
    store.erase("t1")
    with pytest.raises(es.TraceErased):
        next(tail)
    trace = store.start({"n": 0}, id="t2")
    trace.append([es.StateDelta.put("n", 1)])
    tamper('UPDATE log SET body = \'[{"kind":"odd"}]\' WHERE first_seq = 2')
    for trace_id in ("t2", None):
        with pytest.raises(es.LogCorrupted):
            list(store.tail(trace_id))


# Every trace


def test_the_feed_is_in_commit_order(store):
    traces = [store.start({"n": 0}, id=f"t{number}") for number in range(3)]
    wanted = [(trace.id, 1) for trace in traces]
    for number in (2, 0, 0, 1, 2, 1):
        traces[number].append([es.StateDelta.put("n", 1), es.StateDelta.put("n", 2)])
        wanted += [(f"t{number}", traces[number].version - 1), (f"t{number}", traces[number].version)]
    assert [(event.trace_id, event.seq) for event in store.tail()] == wanted


def test_the_feed_tells_of_each_trace_what_its_tail_tells(store, monkeypatch):
    for number in range(3):
        ran(store, f"t{number}")
    waiting = waiting_graph()
    es.run(waiting, store, id="t3")
    store.decide("t3", "approve", es.Reject("no"))
    es.resume(waiting, store, "t3")
    for page_rows in (1, 3, 256):
        monkeypatch.setattr("eventstore.feed.PAGE_ROWS", page_rows)
        feed = list(store.tail())
        for number in range(4):
            mine = [event for event in feed if event.trace_id == f"t{number}"]
            assert sorted(map(repr, mine)) == sorted(map(repr, store.tail(f"t{number}")))
            assert [event for event in mine if not isinstance(event, es.CheckpointSaved)] == [
                event for event in store.tail(f"t{number}") if not isinstance(event, es.CheckpointSaved)
            ]


def test_the_feed_goes_on_from_any_cursor(store):
    for number in range(2):
        ran(store, f"t{number}")
    told = [(cursor, event) for cursor, event in with_cursors(store) if not isinstance(event, es.NodeStarted)]
    cursors, whole = [cursor for cursor, _ in told], [event for _, event in told]
    assert cursors == sorted(cursors)
    exact = 0
    for at, cursor in enumerate(cursors):
        rest = [event for event in store.tail(after=cursor) if not isinstance(event, es.NodeStarted)]
        start = len(whole) - len(rest)
        assert rest == whole[start:]
        assert start <= at + 1
        assert set(cursors[start : at + 1]) <= {cursor}  # what comes again is of the commit that was cut in two
        exact += start == at + 1
    assert exact >= 10
    assert list(store.tail(after=cursors[-1])) == []


@pytest.mark.parametrize("remembered", [2, 4096])
def test_rows_that_take_the_ids_of_erased_ones_are_told(store, monkeypatch, remembered):
    monkeypatch.setattr("eventstore.feed.REMEMBERED_ROWS", remembered)
    kept = store.start({"n": 0}, id="kept")
    gone = store.start({"n": 0}, id="gone")
    gone.append([es.StateDelta.put("n", 1)])
    feed = source(store, None, 0)
    assert [event.trace_id for _, event in feed.page()] == ["kept", "gone", "gone"]
    store.erase("gone")
    for _ in range(4):  # two of them get the ids that were freed
        kept.append([es.StateDelta.put("n", 2)])
    assert [(event.trace_id, event.seq) for _, event in feed.page()] == [("kept", seq) for seq in (2, 3, 4, 5)]
    assert feed.page() == []


def test_a_feed_whose_every_row_was_erased_begins_anew(store):
    store.start({"n": 0}, id="gone").append([es.StateDelta.put("n", 1)])
    feed = source(store, None, 0)
    assert len(feed.page()) == 2
    store.erase("gone")
    assert feed.page() == []
    store.start({"n": 0}, id="new")
    assert [event.trace_id for _, event in feed.page()] == ["new"]
    assert feed.page() == []


def test_a_trim_takes_nothing_from_a_feed_that_has_read_on(store, record):
    trace = record(store, 5)
    feed = source(store, None, 0)
    assert feed.page()
    store.trim("t1", trace.version, retry_window_s=0)
    trace.append([es.StateDelta.put("text", "later")])
    assert [event.seq for _, event in feed.page()] == [trace.version]
    assert feed.page() == []


def test_the_feed_remembers_open_nodes_only(store):
    for number in range(5):
        ran(store, f"t{number}")
    feed = FeedSource(store, 0)
    while feed.page():
        pass
    assert feed._open == {}


# asyncio


def test_the_async_tail_follows_too(path):
    graph = waiting_graph()

    async def main():
        async with es.aopen(path, durability="normal") as store:
            await es.run_async(graph, store, id="t1")

            async def follow():
                return [event async for event in store.tail("t1", follow=True, poll_s=0.005)]

            follower = asyncio.create_task(follow())
            await store.decide("t1", "approve", es.Approve())
            await es.resume_async(graph, store, "t1")
            seen = await asyncio.wait_for(follower, 20)
            return seen, [event async for event in store.tail("t1")], [event async for event in store.tail()]

    seen, read, feed = asyncio.run(main())
    assert sorted(map(repr, seen)) == sorted(map(repr, read)) == sorted(map(repr, feed))
    assert "GraphCompleted" in names(seen)
