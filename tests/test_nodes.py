"""Nodes of a run: their writes, their failures and retries, their time limits, and what they record."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from datetime import datetime

import pytest
import tenacity

import eventstore as es


def one_node(function, name="n", **options):
    graph = es.Graph("one")
    graph.node(name=name, **options)(function)
    return graph.start(name).end(name)


def kinds(store, trace_id):
    return [event.kind for event in store.events(trace_id)]


def rows(store, trace_id):
    """The kinds of the events, commit by commit."""
    found = {}
    for event in store.events(trace_id):
        found.setdefault(event.first_seq, []).append(event.kind)
    return list(found.values())


# Writing


def test_a_nodes_writes_and_its_execution_are_one_commit(store):
    def work(ctx):
        ctx.put("n", 1)
        ctx.append("log", "a", "b")
        ctx.merge("o", {"x": 1})
        ctx.sum("total", 2)
        ctx.replace("r", [1])
        ctx.splice("log", 0, 1)
        ctx.put("gone", 1)
        ctx.delete("gone")
        return {"returned": True}

    result = es.run(one_node(work), store, {"log": []})
    state = {"log": ["b"], "n": 1, "o": {"x": 1}, "total": 2, "r": [1], "returned": True}
    assert (result.status, result.state) == ("completed", state)
    assert [row[-2:] for row in rows(store, result.trace_id)][-1] == ["node_executed", "trace_ended"]
    assert len(rows(store, result.trace_id)) == 2
    assert store.verify().ok


def test_a_node_sees_its_own_writes(store):
    seen = {}

    def work(ctx):
        ctx.put("n", 2)
        ctx.append("log", 1)
        ctx.delete("old")
        seen.update(ctx.state)
        seen["typed"] = ctx.get("n", type=float)
        with pytest.raises(es.MissingKey):
            ctx.state["old"]
        with pytest.raises(TypeError):
            ctx.state["n"] = 3
        seen["length"] = len(ctx.state)

    es.run(one_node(work), store, {"n": 1, "old": True, "log": [0]})
    assert seen == {"n": 2, "log": [0, 1], "typed": 2.0, "length": 2}


def test_a_node_returns_a_mapping_or_nothing(store):
    with pytest.raises(es.RunFailed, match="returned int: a node returns a mapping, or nothing"):
        es.run(one_node(lambda ctx: 3), store)


def test_reducers_translate_what_a_node_puts(store):
    graph = es.Graph("r", reducers={"n": "sum", "log": es.Reducer.APPEND, "best": lambda old, new: max(old or 0, new)})

    @graph.node
    def work(ctx):
        for value in (3, 1):
            ctx.put("n", value)
            ctx.put("log", value)
            ctx.put("best", value)

    result = es.run(graph.start("work").end("work"), store)
    assert result.state == {"n": 4, "log": [3, 1], "best": 3}
    ops = [(event.event.key, event.event.op, event.event.source) for event in store.events(result.trace_id, after=2)
           if event.kind == "delta"]  # fmt: skip
    assert ops[:3] == [("n", "sum", "node"), ("log", "append", "node"), ("best", "put", "reducer_merge")]


def test_hooks_run_in_the_nodes_step_and_their_deltas_say_so(store):
    graph = es.Graph("h")

    @graph.node
    def work(ctx):
        ctx.put("n", ctx.state["before"] + 1)

    @graph.before
    def prepare(ctx):
        ctx.put("before", 1)

    @graph.after(nodes=["work"])
    def audit(ctx):
        ctx.put("seen", ctx.state["n"])

    result = es.run(graph.start("work").end("work"), store)
    assert result.state == {"before": 1, "n": 2, "seen": 2}
    sources = {event.event.key: event.event.source for event in store.events(result.trace_id) if event.kind == "delta"}
    assert sources == {"before": "hook", "n": "node", "seen": "hook"}
    assert len(rows(store, result.trace_id)) == 2


def test_a_hook_that_fails_fails_the_node(store):
    graph = one_node(lambda ctx: ctx.put("n", 1))
    graph.after(lambda ctx: 1 / 0)
    with pytest.raises(es.RunFailed, match="ZeroDivisionError"):
        es.run(graph, store, id="t1")
    assert store.state_at("t1") == {}


# Going on


def test_goto_and_end_overrule_the_edges(store):
    graph = es.Graph("g")

    @graph.node(goes_to=["c"])
    def a(ctx):
        ctx.goto("c")

    @graph.node
    def b(ctx):
        raise AssertionError("never")

    @graph.node
    def c(ctx):
        ctx.put("c", True)
        ctx.end()

    graph.edge("a", "b").edge("b", "c").edge("c", "a").start("a").end("b")
    result = es.run(graph, store)
    assert [entry.node_name for entry in result.execution_log] == ["a", "c"]


def test_goto_of_an_unknown_node_is_refused_where_it_is_said(store):
    with pytest.raises(es.RunFailed, match="there is no node 'nowhere' to go to"):
        es.run(one_node(lambda ctx: ctx.goto("nowhere")), store)


def test_a_loop_ends_at_max_steps_and_a_resume_may_give_more(store):
    graph = es.Graph("loop", max_steps=5)

    @graph.node
    def count(ctx):
        ctx.put("n", ctx.state["n"] + 1)

    graph.edge_if("count", "count", lambda state: state["n"] < 9).start("count").end("count")
    with pytest.raises(es.RunFailed) as failed:
        es.run(graph, store, {"n": 0}, id="t1")
    assert isinstance(failed.value.__cause__, es.MaxStepsExceeded)
    assert (store.state_at("t1"), store.open_trace("t1").status) == ({"n": 5}, "failed")
    assert es.resume(graph, store, "t1", max_steps=100).state == {"n": 9}


def test_a_condition_that_raises_fails_the_run_but_not_the_node(store):
    graph, runs, broken = es.Graph("c"), [], [True]

    @graph.node
    def work(ctx):
        runs.append(1)
        ctx.put("n", 1)

    @graph.node
    def last(ctx):
        ctx.put("last", True)

    def choose(state):
        if broken:
            raise LookupError("not ready")
        return state["n"] == 1

    graph.edge_if("work", "last", choose).start("work").end("last")
    with pytest.raises(es.RunFailed, match="LookupError: not ready"):
        es.run(graph, store, id="t1")
    assert store.state_at("t1") == {"n": 1}
    broken.clear()
    assert es.resume(graph, store, "t1").state == {"n": 1, "last": True}
    assert runs == [1]
    assert store.verify().ok


def test_a_node_from_which_no_edge_leads_on_says_so(store):
    graph = es.Graph("c")
    graph.node(name="a")(lambda ctx: None)
    graph.node(name="b")(lambda ctx: None)
    graph.edge_if("a", "b", lambda state: False).start("a").end("b")
    with pytest.raises(es.RunFailed) as failed:
        es.run(graph, store)
    assert isinstance(failed.value.__cause__, es.NoRoute)


# Failing


class Flaky:
    """Fails until its n-th call."""

    def __init__(self, succeeds_at, error=ConnectionError):
        self.calls, self.succeeds_at, self.error = [], succeeds_at, error

    def __call__(self, ctx):
        self.calls.append(ctx.attempt)
        if len(self.calls) < self.succeeds_at:
            raise self.error("not yet")
        ctx.put("attempt", ctx.attempt)


FAST = {"wait": tenacity.wait_fixed(0.001)}


def test_a_failed_node_is_tried_again_and_each_attempt_is_in_the_log(store):
    flaky = Flaky(3)
    retry = tenacity.Retrying(stop=tenacity.stop_after_attempt(5), **FAST)
    result = es.run(one_node(flaky, retry=retry), store)
    assert (flaky.calls, result.state) == ([1, 2, 3], {"attempt": 3})
    assert [(entry.success, entry.attempt) for entry in result.execution_log] == [(False, 1), (False, 2), (True, 3)]


def test_the_budget_of_retries_survives_a_restart(path):
    flaky = Flaky(99)
    graph = one_node(
        flaky, retry=tenacity.Retrying(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(3600))
    )
    with es.open(path) as store:
        stop = threading.Event()
        threading.Timer(0.1, stop.set).start()
        assert es.run(graph, store, id="t1", stop=stop).status == "running"
        retry_at_us = next(event.event.retry_at_us for event in store.events("t1") if event.kind == "node_executed")
    with es.open(path) as store:
        assert es.resume(graph, store, "t1", waits=False).status == "running"
        assert flaky.calls == [1]
        (due_us,) = [store.open_trace("t1").control["retry/n"]["at_us"]]
        assert due_us == retry_at_us


def test_backoff_goes_on_where_it_stood(path, monkeypatch):
    flaky = Flaky(99)
    graph = one_node(flaky, retry=tenacity.Retrying(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(60)))
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    with es.open(path) as store:
        stop = threading.Event()
        threading.Timer(0.05, stop.set).start()
        es.run(graph, store, id="t1", stop=stop)
        for attempt in (2, 3):
            now += 61 * 10**9
            if attempt == 2:
                assert es.resume(graph, store, "t1", waits=False).status == "running"
            else:
                with pytest.raises(es.RunFailed):
                    es.resume(graph, store, "t1", waits=False)
        assert flaky.calls == [1, 2, 3]


def test_only_what_the_retry_rule_names_is_retried(store):
    rule = tenacity.Retrying(retry=tenacity.retry_if_exception_type(ConnectionError), **FAST)
    flaky = Flaky(2, ValueError)
    with pytest.raises(es.RunFailed, match="ValueError: not yet"):
        es.run(one_node(flaky, retry=rule), store)
    assert flaky.calls == [1]


def test_a_failed_run_raises_from_the_nodes_exception_and_resume_tries_the_node_again(store):
    flaky = Flaky(2)
    graph = one_node(flaky, side_effects=True)
    with pytest.raises(es.RunFailed) as failed:
        es.run(graph, store, id="t1")
    assert isinstance(failed.value.__cause__, ConnectionError)
    assert (failed.value.trace_id, failed.value.node, failed.value.reason) == ("t1", "n", "ConnectionError: not yet")
    assert (store.open_trace("t1").status, store.open_trace("t1").next_node) == ("failed", "n")
    result = es.resume(graph, store, "t1")
    assert (result.status, flaky.calls) == ("completed", [1, 1])
    keys = {event.event.key for event in store.events("t1") if event.kind == "node_intended"}
    assert len(keys) == 1  # the same visit: the same idempotency key
    assert store.verify().ok


def test_a_fallback_takes_over_and_the_state_tells_why(store):
    graph = es.Graph("f")

    @graph.node
    def risky(ctx):
        ctx.put("half", True)
        raise OSError("disk")

    @graph.node
    def plan_b(ctx):
        ctx.put("why", ctx.state["risky.error"])

    graph.edge_fallback("risky", "plan_b").start("risky").end("risky", "plan_b")
    result = es.run(graph, store)
    assert result.state == {"risky.error": "OSError: disk", "why": "OSError: disk"}
    assert [(entry.node_name, entry.success) for entry in result.execution_log] == [("risky", False), ("plan_b", True)]


def test_a_node_whose_step_no_append_can_hold_fails_like_any_other(store, monkeypatch):
    monkeypatch.setattr("eventstore.codec.MAX_BODY_BYTES", 2000)
    with pytest.raises(es.RunFailed, match="the limit is 2000"):
        es.run(one_node(lambda ctx: ctx.put("n", "x" * 3000)), store, id="t1")
    assert store.state_at("t1") == {}


# Time limits


def test_a_sync_node_that_outlives_its_time_is_left_behind_and_its_late_writes_raise(store):
    late, release, told = [], threading.Event(), threading.Event()

    def slow(ctx):
        release.wait(10)
        try:
            ctx.put("late", True)
        except es.NodeTimeout as error:
            late.append(error)
        told.set()

    with pytest.raises(es.RunFailed) as failed:
        es.run(one_node(slow, timeout_s=0.02), store, id="t1")
    assert isinstance(failed.value.__cause__, es.NodeTimeout)
    release.set()
    assert told.wait(10)
    assert (late[0].path, late[0].timeout_s, store.state_at("t1")) == ("n", 0.02, {})


def test_no_retry_begins_before_the_late_thread_has_ended(store):
    running, most, calls = [0], [0], []

    def slow(ctx):
        running[0] += 1
        most[0] = max(most[0], running[0])
        calls.append(ctx.attempt)
        if ctx.attempt == 1:
            time.sleep(0.15)
        running[0] -= 1

    retry = tenacity.Retrying(stop=tenacity.stop_after_attempt(2), **FAST)
    assert es.run(one_node(slow, timeout_s=0.05, retry=retry), store).status == "completed"
    assert (most, calls) == ([1], [1, 2])


def test_an_async_node_is_stopped_at_its_time_limit(store):
    stopped = []

    async def slow(ctx):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.append(True)
            raise

    with pytest.raises(es.RunFailed, match="did not end within"):
        es.run(one_node(slow, timeout_s=0.02), store)
    assert stopped == [True]


def test_a_timed_out_side_effect_is_in_doubt(store):
    release = threading.Event()
    graph = one_node(lambda ctx: release.wait(10) and None, timeout_s=0.02, side_effects=True)
    paused = es.run(graph, store, id="t1")
    release.set()
    assert (paused.status, paused.pending_barriers) == ("waiting", ["n#1"])
    (asked,) = store.barriers()
    assert asked.reason == "in_doubt"
    store.decide("t1", "n", es.Modify({"it": "happened"}, by="ana"))
    assert es.resume(graph, store, "t1").state == {"it": "happened"}


# Recorded values


def test_what_a_node_asked_of_the_world_is_in_its_commit(store):
    seen = {}

    def work(ctx):
        seen["now"], seen["uuid"] = ctx.now(), ctx.uuid()
        seen["call"] = ctx.call("price", lambda: {"eur": (1, 2)})

    result = es.run(one_node(work), store)
    recorded = {event.event.name: event.event.value for event in store.events(result.trace_id)
                if event.kind == "value_recorded"}  # fmt: skip
    assert datetime.fromisoformat(recorded["now"]) == seen["now"]
    assert uuid.UUID(recorded["uuid"]) == seen["uuid"] and seen["uuid"].version == 4
    assert recorded["call:price"] == seen["call"] == {"eur": [1, 2]}
    assert len(rows(store, result.trace_id)) == 2


def test_random_is_seeded_with_the_key(store):
    drawn = []

    def work(ctx):
        drawn.append(ctx.random.random())
        if len(drawn) == 1:
            raise ConnectionError

    graph = one_node(work, retry=tenacity.Retrying(stop=tenacity.stop_after_attempt(2), **FAST))
    es.run(graph, store)
    es.run(graph, store)
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_durable_call_is_not_made_again_when_the_node_is(path, is_async):
    called, crash = [], [True]

    def ask(number):
        def model():
            called.append(number)
            return {"answer": number}

        return model

    def sync_loop(ctx):
        for number in range(4):
            ctx.append("answers", ctx.call("model", ask(number), durable=True)["answer"])
            if number == 2 and crash:
                raise KeyboardInterrupt

    async def async_loop(ctx):
        for number in range(4):
            ctx.append("answers", (await ctx.call("model", ask(number), durable=True))["answer"])
            if number == 2 and crash:
                raise KeyboardInterrupt

    graph = one_node(async_loop if is_async else sync_loop)
    with es.open(path) as store, pytest.raises((KeyboardInterrupt, es.RunFailed)):
        es.run(graph, store, id="t1")
    crash.clear()
    with es.open(path) as store:
        result = es.resume(graph, store, "t1")
        assert (called, result.state) == ([0, 1, 2, 3], {"answers": [0, 1, 2, 3]})
        assert store.verify().ok
        assert "calls/n" not in store.open_trace("t1").control


def test_a_call_gives_its_value_as_a_resume_would_and_as_the_type_asked_for(store):
    import msgspec

    class Price(msgspec.Struct):
        eur: int

    seen = []

    def work(ctx):
        seen.append(ctx.call("price", lambda: Price(3), type=Price))
        seen.append(ctx.call("pair", lambda: (1, 2)))

    es.run(one_node(work), store)
    assert seen == [Price(3), [1, 2]]


def test_a_sync_node_cannot_call_what_is_async(store):
    async def price():
        return 3

    def work(ctx):
        with pytest.raises(TypeError, match="the function is async"):
            made = price()
            try:
                ctx.call("price", lambda: made)
            finally:
                made.close()

    es.run(one_node(work), store)


def test_a_context_takes_nothing_after_its_node(store):
    kept = []
    es.run(one_node(kept.append), store)
    for late in (
        lambda ctx: ctx.put("n", 1),
        lambda ctx: ctx.emit(1),
        lambda ctx: ctx.now(),
        lambda ctx: ctx.call("x", lambda: 1),
        lambda ctx: ctx.record(token_cost=1),
    ):
        with pytest.raises(es.EventStoreError, match="has ended"):
            late(kept[0])


def test_what_a_node_cost_is_recorded(store):
    def work(ctx):
        ctx.record(token_cost=0.25)
        ctx.record(token_cost=0.5, duration_ms=1000)

    (entry,) = es.run(one_node(work), store).execution_log
    assert (entry.metadata.token_cost, entry.metadata.duration_ms) == (0.75, 1000)


def test_the_redaction_hook_sees_what_a_run_writes(path):
    def redact(key, value):
        return "***" if "secret" in str(value) else value

    def work(ctx):
        ctx.put("card", "secret 1")
        ctx.call("model", lambda: "secret 2", durable=True)
        raise ValueError("secret 3")

    with es.open(path, redact=redact) as store:
        with pytest.raises(es.RunFailed):
            es.run(one_node(work), store, {"start": "secret 0"}, id="t1")
        text = "".join(str(event.event) for event in store.events("t1"))
        assert "secret" not in text and "***" in text
