"""A small file that holds a little of everything, for faults that strike at random: whatever is not in it is not tried.

Steps and all kinds of events, barriers open and decided, checkpoints with metadata, forks, a trimmed trace, an erased
one, bases of both kinds, durable runs (over, waiting, to be tried again, left by an owner that died), a thread of
LangGraph, bodies of text and of bytes, and free pages. Clock and randomness are stopped, so that a seed gives the file
again to the byte.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock
from uuid import uuid4

import tenacity

import eventstore as es
from eventstore import forks
from eventstore.database import APPLICATION_ID
from eventstore.integrations.langgraph import EventStoreSaver, beginning, journal

THREAD = {"configurable": {"thread_id": "thread-1", "checkpoint_ns": ""}}
BEGAN_NS = 1_790_000_000_000_000_000


class Folds:
    """A base at every so many-th commit: links, and now and then a whole state."""

    def __init__(self):
        self.asked = 0

    def decide(self, now):
        self.asked += 1
        if self.asked % 4:
            return None
        return es.FoldDecision("whole" if self.asked % 16 == 0 else "link", "it is its turn")


@contextmanager
def stopped(seed):
    """Time that goes on by a millisecond a look, and randomness from the seed."""
    rng = random.Random(repr(("sample", seed)))
    now_ns = BEGAN_NS

    def tick():
        nonlocal now_ns
        now_ns += 1_000_000
        return now_ns

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(time, "time_ns", tick))
        stack.enter_context(mock.patch.object(time, "perf_counter_ns", tick))
        stack.enter_context(mock.patch.object(os, "urandom", rng.randbytes))
        for module in (forks, beginning, journal):
            stack.enter_context(mock.patch.object(module, "_random", rng))
        yield rng


def make(path, seed=0, *, words=None, wal_rows=0, **options):
    """Make the file at `path`, as a process leaves it that is killed when its WAL has just been emptied.

    `words(n)`: text for keys, values and names; by default plain words of the seed. `wal_rows`: so many appends more,
    which stand in the WAL alone. `options`: of `es.open`.
    """
    path = Path(path)
    with stopped(seed) as rng:
        words = words or (lambda n: " ".join(rng.choice(PLAIN) for _ in range(n)))
        open_path = path.with_name(f"{path.name}-making")
        with es.open(open_path, durability="normal", fold_policy=Folds(), **options) as store:
            store._random = rng
            store._ownership.name = "4711@somewhere"
            _traces(store, words)
            _runs(store, words)
            _thread(store, words)
            store.erase("gone", by=words(1))
            store.erase("gone-too")
            store.drop_bases("chat")
            _chat(store, words, 8)
            store.drop_bases("big")
            store._writer.quiet(lambda: store._database.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
            for number in range(wal_rows):
                store.append(("chat", "ask", "fork-1")[number % 3], [es.StateDelta.put("late", words(3))])
            for side in ("", "-wal") if wal_rows else ("",):
                shutil.copy(f"{open_path}{side}", f"{path}{side}")
        for left in open_path.parent.glob(f"{open_path.name}*"):
            left.unlink(missing_ok=True)
    assert path.read_bytes()[68:72] == APPLICATION_ID.to_bytes(4, "big")


PLAIN = (
    "lamp",
    "river",
    "stone",
    "letter",
    "window",
    "garden",
    "paper",
    "winter",
    "naïve",
    "日本",
    "harbour",
    "violin",
)


def _chat(store, words, steps):
    trace = store.open_trace("chat")
    for number in range(steps):
        with trace.step(f"node {number % 3}") as step:
            step.append("messages", {"role": "user", "content": words(12), "n": number})
            step.put("count", 1)
            step.replace("last", words(2))
            if step.get("early", None) is not None:
                step.delete("early")


def _traces(store, words):
    """Of the verbs: steps, notes, barriers, checkpoints, forks, a root, tombstones, bytes."""
    store.start({"messages": [], "count": 0, "early": words(1)}, id="chat", name="chat", reducers={"count": "sum"})
    _chat(store, words, 24)
    chat = store.open_trace("chat")
    chat.note(words(1), {"said": words(4)})
    chat.checkpoint("answer")
    middle = store.checkpoints.list("chat")[0].seq
    for number in range(3):
        chat.refresh()
        with chat.step("costly", es.ExecutionMetadata.heavy()) as step:
            step.replace("last", words(2))
        kept = dict(chat.state) | {f"kept {number}": True}
        saved = es.Checkpoint(str(uuid4()), "chat", "", words(1), datetime.fromtimestamp(10**9, UTC), state=kept)
        store.checkpoints.save(saved)
    ask = store.start({"n": 1}, id="ask", name="ask")
    ask.decide(ask.raise_barrier("ok", prompt=words(5)), es.Modify({"n": 2}, by=words(1)))
    ask.raise_barrier("late", prompt=words(3), deadline_us=BEGAN_NS // 1000 + 10**15)
    ask.raise_barrier("soon", prompt=words(3), default=es.Approve())
    fork = store.fork("chat", at=middle, put={"last": words(1), "deep": {}}, id="fork-1", name=words(1))
    fork.append([es.StateDelta.append("messages", [words(6)])], append_id=words(1))
    store.fork("fork-1", id="fork-2").append([es.StateDelta("deep", es.DeltaOp.MERGE, {"a": words(2)})])
    store.fork("ask", id="fork-ask")
    trimmed = store.start({"items": []}, id="trimmed", name="trimmed")
    for number in range(12):
        trimmed.append(
            [es.StateDelta.append("items", [words(3)]), es.StateDelta.put("n", number)],
            append_id=f"{number} {words(1)}",
        )
    store.checkpoints.prune("trimmed", 0)
    store.trim("trimmed", before=17, retry_window_s=0)
    trimmed = store.open_trace("trimmed")
    trimmed.append([es.StateDelta.delete("n")])
    trimmed.checkpoint()
    ended = store.start({"sealed": es.Opaque("raw", words(9).encode())}, id="ended", name="ended")
    ended.append([es.StateDelta.put("also", es.Opaque("raw", words(5).encode())), es.StateDelta.put("n", 1.5)])
    ended.end("failed", words(4))
    for trace_id in ("gone", "gone-too"):
        store.start({"secret": words(20)}, id=trace_id, name="gone").note("n", words(8))
    big = store.start({"page": words(300)}, id="big", name="big")
    for _ in range(12):
        big.append([es.StateDelta.put("page", words(700))])


def graph_of(words):
    """A graph with everything that a run can leave: intents, retries, values, branches, a gate."""
    graph = es.Graph("work", reducers={"log": "append"})

    @graph.node
    def plan(ctx):
        ctx.call("look", lambda: words(4), durable=True)
        return {"items": [words(1), words(1)], "log": [words(2)]}

    @graph.node(side_effects=True, in_doubt="retry")
    def pay(ctx):
        return {"paid": words(1)}

    @graph.map(over="items", side_effects=True, in_doubt="retry")
    def each(ctx, item):
        return {"log": [f"{item} {words(1)}"]}

    @graph.node(retry=tenacity.Retrying(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(3600)))
    def flaky(ctx):
        if ctx.state.get("fails"):
            raise ConnectionError(words(2))
        return {"log": [words(1)]}

    graph.barrier("approve", prompt=words(4), keys=["limit"], timeout_s=10**7)
    graph.start("plan").end("flaky")
    graph.edge("plan", "pay").edge("pay", "each").edge("each", "approve").edge("approve", "flaky")
    return graph


def _runs(store, words):
    """Runs: over, waiting, back off, given back half way, left by an owner that died."""
    graph = graph_of(words)
    for trace_id, fails in (("run-over", False), ("run-waiting", False), ("run-retry", True), ("run-left", False)):
        es.run(graph, store, {"log": [], "fails": fails}, id=trace_id)
    for trace_id in ("run-over", "run-retry", "run-left"):
        store.decide(trace_id, "approve#1", es.Approve(by=words(1)))
    es.resume(graph, store, "run-over")
    es.resume(graph, store, "run-retry", waits=False)
    left = store.open_trace("run-left")
    store._ownership.claim_once(left, left.control["epoch"])
    stop = threading.Event()
    stop.set()
    es.run(graph, store, {"log": []}, id="run-stopped", stop=stop)
    store.decide("run-stopped", "approve#1", es.Approve(by=words(1)))


def _thread(store, words):
    """A thread with a branch, writes that wait and a namespace."""
    with EventStoreSaver(store) as saver:
        under = None
        for number in range(7):
            name = f"{number:08x}-0000-6000-8000-000000000000"
            beneath = under if number != 5 else f"{2:08x}-0000-6000-8000-000000000000"
            named = {} if beneath is None else {"checkpoint_id": beneath}
            config = {"configurable": THREAD["configurable"] | named}
            values = {"messages": [words(3)] * (number + 1), "n": number}
            saver.put(
                config, checkpoint_of(name, values, number), metadata_of(number, words), dict.fromkeys(values, number)
            )
            placed = {"configurable": THREAD["configurable"] | {"checkpoint_id": name}}
            saver.put_writes(placed, [("messages", words(2)), ("n", number)], f"task {number}")
            under = name
        child = {"configurable": THREAD["configurable"] | {"checkpoint_ns": "child:1"}}
        values = {"inner": words(2)}
        saver.put(child, checkpoint_of(name, values, 1), metadata_of(1, words), {"inner": 1})


def checkpoint_of(name, values, version):
    """A checkpoint as LangGraph gives it to a saver."""
    return {
        "v": 4,
        "id": name,
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": values,
        "channel_versions": dict.fromkeys(values, version),
        "versions_seen": {"node": dict.fromkeys(values, version)},
        "updated_channels": sorted(values),
    }


def metadata_of(number, words):
    """Its metadata."""
    return {"source": "loop", "step": number, "parents": {}, "run_id": f"run {number // 3}", "said": words(1)}
