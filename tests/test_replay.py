"""Replays: a graph's functions run again on a recorded run, and the first thing that they do otherwise is told."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import random
import time
from functools import partial
from pathlib import Path

import msgspec
import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

import eventstore as es
from eventstore.divergence import Divergence, Replay
from eventstore.replaying import replay


def quick(attempts):
    return tenacity.Retrying(stop=tenacity.stop_after_attempt(attempts), wait=tenacity.wait_fixed(0.0))


class Died(BaseException):
    """Ends the process's work at once, as far as a run can tell."""


def one_node(function, name="n", reducers=None, **options):
    graph = es.Graph("one", reducers=reducers)
    graph.node(name=name, **options)(function)
    return graph.start(name).end(name)


def chain(*functions, **options):
    graph = es.Graph("chain", **options)
    names = [function.__name__ for function in functions]
    for function in functions:
        graph.node(function)
    for source, target in itertools.pairwise(names):
        graph.edge(source, target)
    return graph.start(names[0]).end(names[-1])


def refund(price=40, pays=None, limit=100):
    """Fetch, a human's yes, a payment, a mail's text; `pays` takes the keys of payments."""
    graph = es.Graph("refund", reducers={"log": "append"})

    @graph.node
    def fetch(ctx):
        ctx.put("log", "fetched")
        return {"order": {"id": 7, "total": price}}

    @graph.node(side_effects=True)
    def pay(ctx):
        (pays if pays is not None else []).append(ctx.idempotency_key)
        ctx.put("log", "paid")
        return {"paid": ctx.state["order"]["total"]}

    @graph.node
    def tell(ctx):
        return {"text": f"You got {ctx.state['paid']}.", "at": ctx.now().isoformat()}

    @graph.node
    def refuse(ctx):
        return {"text": "No."}

    graph.barrier("approve", prompt="Refund?")
    graph.start("fetch").edge_if("fetch", "approve", lambda state: state["order"]["total"] < limit, name="small")
    graph.edge("fetch", "refuse")
    graph.edge_if("approve", "pay", lambda state: state["approve.approved"], name="yes").edge("approve", "refuse")
    return graph.edge("pay", "tell").end("tell", "refuse")


def refunded(store, graph):
    es.run(graph, store, id="t1")
    store.decide("t1", "approve", es.Approve("ana"))
    assert es.resume(graph, store, "t1").status == "completed"
    return "t1"


def diverged(graph, store, trace_id="t1", **options):
    found = replay(graph, store, trace_id, **options)
    assert found.divergence is not None and not found.ok
    assert found.upto == found.divergence.seq
    assert Replay.from_json(found.to_json()) == found
    return found.divergence


def checks(found):
    assert found.ok, str(found.divergence)
    return found.checked, found.reused, found.failed_attempts


# That nothing happens


def test_a_replay_calls_no_side_effect_and_changes_no_byte_of_the_file(path):
    pays = []
    graph = refund(pays=pays)
    with es.open(path) as store:
        refunded(store, graph)
        version = store.open_trace("t1").version
    before = Path(path).read_bytes()
    with es.open(path, read_only=True) as store:
        found = replay(graph, store, "t1")
        assert found == Replay("t1", "refund", checked=2, reused=1, upto=version)
        assert Replay.from_json(found.to_json()) == found
    assert len(pays) == 1
    assert Path(path).read_bytes() == before


def test_a_run_that_waits_is_replayed_as_far_as_it_has_come_while_others_write(store):
    graph = refund()
    es.run(graph, store, id="t1")
    assert checks(replay(graph, store, "t1")) == (1, 0, 0)
    store.decide("t1", "approve", es.Reject("no"))
    es.resume(graph, store, "t1")
    assert checks(replay(graph, store, "t1")) == (2, 0, 0)


def test_what_is_appended_meanwhile_is_not_looked_at(path):
    others = []

    def work(ctx):
        if others:
            others[0].note("seen", {"visit": ctx.occurrence})
        return {"n": ctx.occurrence}

    graph = one_node(work)
    graph.edge_if("n", "n", lambda state: state["n"] < 3, name="more")
    with es.open(path) as writer, es.open(path, read_only=True) as store:
        es.run(graph, writer, id="t1")
        version = store.open_trace("t1").version
        others.append(writer.open_trace("t1"))
        found = replay(graph, store, "t1")
        assert checks(found) == (3, 0, 0) and found.upto == version
        assert store.open_trace("t1").version == version + 3


def test_calls_of_a_node_are_answered_from_the_log(store):
    calls = []

    def work(ctx):
        for durable in (True, False, True):
            found = ctx.call("search", lambda: calls.append(1) or {"hits": len(calls)}, durable=durable)
            found["hits"] *= 10  # what is given is the node's own
            ctx.append("found", found)
        ctx.put("first", ctx.uuid().hex)
        ctx.put("times", [ctx.now().isoformat(), ctx.now().isoformat()])
        ctx.put("draws", [ctx.random.random(), str(ctx.uuid()), ctx.random.random()])
        ctx.put("typed", ctx.call("when", lambda: 3, type=float))

    graph = one_node(work)
    state = es.run(graph, store, id="t1").state
    assert state["found"] == [{"hits": 10}, {"hits": 20}, {"hits": 30}] and len(calls) == 3
    assert checks(replay(graph, store, "t1")) == (1, 0, 0)
    assert len(calls) == 3


def test_what_a_node_wrote_before_a_barrier_is_no_ones_but_its_own(store):
    """A human's values and the barrier's marks are no node's writes."""
    graph = refund()
    es.run(graph, store, id="t1")
    store.decide("t1", "approve", es.Modify({"order": {"id": 7, "total": 30}}))
    assert es.resume(graph, store, "t1").state["paid"] == 30
    assert checks(replay(graph, store, "t1")) == (2, 1, 0)


# Divergences of value


def test_a_changed_function_is_told_by_key_with_both_values(store):
    refunded(store, refund())
    found = diverged(refund(price=45), store)
    executed = next(event for event in store.events("t1") if event.kind == "node_executed")
    assert found == Divergence(
        executed.seq, 1, "fetch", "value", "order", {"id": 7, "total": 40}, {"id": 7, "total": 45}
    )
    assert str(found) == (
        f'seq {executed.seq}, step 1, fetch: \'order\' was {{"id": 7, "total": 40}}, now it is {{"id": 7, "total": 45}}'
    )


@pytest.mark.parametrize(
    ("was", "now"),
    [(1, 1.0), (1, True), (0, False), ([1], [1.0]), ({"a": 1}, {"a": True}), (None, 0), ("1", 1)],
    ids=repr,
)
def test_values_that_python_takes_for_equal_differ(store, was, now):
    es.run(one_node(lambda ctx: ctx.put("k", was)), store, id="t1")
    found = diverged(one_node(lambda ctx: ctx.put("k", now)), store)
    assert (found.key, repr(found.recorded), repr(found.produced)) == ("k", repr(was), repr(now))


def test_a_missing_value_is_not_null(store):
    es.run(one_node(lambda ctx: ctx.put("k", None)), store, id="t1")
    found = diverged(one_node(lambda ctx: None), store)
    assert (found.recorded, found.produced) == (None, msgspec.UNSET)
    assert msgspec.json.decode(found.to_json()) == {
        "seq": found.seq, "step": 1, "node": "n", "kind": "value", "key": "k", "recorded": None,
    }  # fmt: skip
    assert "'k' was null, now it is missing" in str(found)
    es.run(one_node(lambda ctx: None), store, id="t2")
    found = diverged(one_node(lambda ctx: ctx.put("k", None)), store, "t2")
    assert (found.recorded, found.produced) == (msgspec.UNSET, None)


def test_other_deltas_that_leave_the_same_value_are_no_divergence(store):
    def appends(ctx):
        ctx.append("log", 2)
        ctx.sum("n", 1)
        ctx.delete("old")

    def puts(ctx):
        ctx.put("n", ctx.state["n"] + 1)
        ctx.put("old", 5)
        ctx.delete("old")
        ctx.replace("log", [*ctx.get("log"), 2])

    es.run(one_node(appends), store, {"log": [1], "n": 1, "old": 1}, id="t1")
    assert checks(replay(one_node(puts), store, "t1")) == (1, 0, 0)


def test_the_first_key_in_the_order_of_the_log_is_told(store):
    es.run(one_node(lambda ctx: {"a": 1, "b": 2, "c": 3}), store, id="t1")
    assert diverged(one_node(lambda ctx: {"c": 0, "b": 0, "a": 1}), store).key == "b"


def test_of_a_long_value_the_first_difference_inside_is_told(store):
    def build(last):
        return one_node(lambda ctx: {"log": [{"text": "x" * 80, "a/b": [1]}, {"text": "y" * 80, "a/b": last}]})

    es.run(build([1, 2]), store, id="t1")
    assert str(diverged(build([1, 3]), store)).endswith("'log' at /1/a~1b was [1, 2], now it is [1, 3]")
    assert str(diverged(build([1] * 40), store)).endswith("'log' at /1/a~1b/1 was 2, now it is 1")
    assert diverged(build([1, 3]), store).recorded[0]["text"] == "x" * 80


def test_after_a_divergence_nothing_is_run(store):
    ran = []

    def first(ctx):
        return {"a": 2}

    def second(ctx):
        ran.append(ctx.node)

    def recorded(ctx):
        return {"a": 1}

    recorded.__name__ = "first"
    es.run(chain(recorded, second), store, id="t1")
    ran.clear()
    found = replay(chain(first, second), store, "t1")
    assert (found.divergence.node, found.checked, ran) == ("first", 1, [])


def test_an_opaque_value_is_compared_by_its_bytes(store):
    sealed = es.Opaque("raw", b"\x01\x02")
    graph = one_node(lambda ctx: ctx.put("sealed", sealed))
    es.run(graph, store, id="t1")
    assert checks(replay(graph, store, "t1")) == (1, 0, 0)
    found = diverged(one_node(lambda ctx: ctx.put("sealed", es.Opaque("raw", b"\x01\x03"))), store)
    assert found.recorded != found.produced and "Opaque" in found.recorded


# Routes


def routed(condition, second="c"):
    graph = es.Graph("routed")
    for name in "abc":
        graph.node(name=name)(lambda ctx: None)
    return graph.edge_if("a", "b", condition, name="if").edge("a", second).start("a").end("b", "c")


def test_another_way_on_is_a_divergence(store):
    es.run(routed(lambda state: state["n"] > 1), store, {"n": 2}, id="t1")
    found = diverged(routed(lambda state: state["n"] > 2), store)
    assert (found.kind, found.node, found.recorded, found.produced) == ("route", "a", "b", "c")
    assert str(found).endswith("a: the way on was to 'b', now it is to 'c'")


def test_a_condition_that_raises_is_a_divergence(store):
    es.run(routed(lambda state: True), store, id="t1")
    found = diverged(routed(lambda state: state["n"]), store)
    assert (found.kind, found.recorded, found.produced) == ("route", "b", msgspec.UNSET)
    assert "MissingKey" in found.reason and "now it is to nowhere" in str(found)


def test_no_way_on_is_a_divergence(store):
    es.run(routed(lambda state: True), store, id="t1")
    graph = es.Graph("routed")
    for name in "abc":
        graph.node(name=name)(lambda ctx: None)
    graph.edge_if("a", "b", lambda state: False, name="if").edge_if("a", "c", lambda state: False, name="no")
    found = diverged(graph.start("a").end("b", "c"), store)
    assert found.kind == "route" and "NoRoute" in found.reason


def test_goto_and_end_are_part_of_what_is_compared(store):
    def build(choose):
        graph = es.Graph("g")
        graph.node(name="a", goes_to=["c"])(choose)
        for name in "bc":
            graph.node(name=name)(lambda ctx: None)
        return graph.edge("a", "b").edge("b", "c").start("a").end("c")

    jumps = build(lambda ctx: ctx.goto("c"))
    es.run(jumps, store, id="t1")
    assert checks(replay(jumps, store, "t1")) == (2, 0, 0)
    assert diverged(build(lambda ctx: None), store).produced == "b"
    ended = diverged(build(lambda ctx: ctx.end()), store)
    assert (ended.recorded, ended.produced) == ("c", None) and "now it is to the end" in str(ended)
    assert msgspec.json.decode(ended.to_json())["produced"] is None


def test_a_barriers_way_on_is_checked_with_the_decision_of_the_log(store):
    def build(inverted):
        graph = es.Graph("g")
        graph.barrier("ask", goes_to=["c"])
        for name in "abc":
            graph.node(name=name)(lambda ctx: None)
        graph.edge_if("ask", "a", lambda state: state["ask.approved"] is not inverted, name="yes").edge("ask", "b")
        return graph.start("ask").end(*"abc")

    graph = build(False)
    for number, decision in enumerate([es.Approve(), es.Reject(), es.Modify({"x": 1}), es.Reroute("c")]):
        trace_id = f"t{number}"
        es.run(graph, store, id=trace_id)
        store.decide(trace_id, "ask", decision)
        es.resume(graph, store, trace_id)
        early = store.start(id=f"other{number}").id
        assert checks(replay(graph, store, trace_id)) == (1, 0, 0), decision
        assert early
    assert diverged(build(True), store, "t0").recorded == "a"
    assert diverged(build(True), store, "t1").recorded == "b"
    assert checks(replay(build(True), store, "t3")) == (1, 0, 0)  # a human chose


def test_a_decision_before_its_barrier_is_replayed(store):
    def build(target):
        graph = es.Graph("g")
        graph.node(name="a")(lambda ctx: None)
        graph.node(name="b")(lambda ctx: None)
        graph.barrier("ask", goes_to=["b"]).barrier("first").edge("first", "ask").edge("ask", target)
        return graph.start("first").end("a", "b")

    graph = build("a").edge_fallback("a", "b")
    for trace_id, decision in (("t1", es.Approve()), ("t2", es.Reroute("b"))):
        es.run(graph, store, id=trace_id)
        store.decide(trace_id, "ask#1", decision)
        store.decide(trace_id, "first", es.Approve())
        assert es.resume(graph, store, trace_id).status == "completed"
        assert checks(replay(graph, store, trace_id)) == (1, 0, 0)
    assert diverged(build("b").edge_fallback("b", "a"), store, "t1").node == "ask"


def effect_graph(condition, choose=None):
    graph = es.Graph("g")

    @graph.node(side_effects=True)
    def pay(ctx):
        ctx.put("n", 1)
        if choose is not None:
            choose(ctx)

    for name in "ab":
        graph.node(name=name)(lambda ctx: None)
    return graph.edge_if("pay", "a", condition, name="if").edge("pay", "b").start("pay").end("a", "b", "pay")


def test_the_way_on_from_a_side_effect_is_checked_on_what_the_log_holds(store):
    def pay(ctx):
        return {"n": 1}

    def build(condition):
        graph = es.Graph("g")
        graph.node(side_effects=True)(pay)
        for name in "ab":
            graph.node(name=name)(lambda ctx: None)
        return graph.edge_if("pay", "a", condition, name="if").edge("pay", "b").start("pay").end("a", "b")

    es.run(build(lambda state: state["n"] == 1), store, id="t1")
    assert checks(replay(build(lambda state: state["n"] == 1), store, "t1")) == (1, 1, 0)
    assert diverged(build(lambda state: state["n"] == 2), store).produced == "b"


@pytest.mark.parametrize("choose", [lambda ctx: ctx.goto("b"), lambda ctx: ctx.end()])
def test_a_side_effect_that_chose_its_way_itself_is_no_divergence(store, choose):
    def build():
        graph = es.Graph("g")
        if "goto" in choose.__code__.co_names:
            graph.node(name="pay", side_effects=True)(lambda ctx: ctx.goto("b"))
        else:
            graph.node(name="pay", side_effects=True)(lambda ctx: ctx.end())
        for name in "ab":
            graph.node(name=name)(lambda ctx: None)
        return graph.edge("pay", "a").edge("a", "b").start("pay").end("b")

    es.run(build(), store, id="t1")
    assert replay(build(), store, "t1").ok


def test_another_start_is_a_divergence(store):
    def build(start):
        graph = es.Graph("g")
        for name in "ab":
            graph.node(name=name)(lambda ctx: None)
        return graph.edge("a", "b").edge_if("b", "a", lambda state: False, name="no").start(start).end("a", "b")

    es.run(build("a"), store, id="t1")
    found = diverged(build("b"), store)
    assert (found.seq, found.step, found.kind, found.recorded, found.produced) == (1, 0, "route", "a", "b")


def test_a_node_that_could_not_be_routed_and_now_can(store):
    def build(*values):
        graph = es.Graph("g")
        for name in "ab":
            graph.node(name=name)(lambda ctx: {ctx.node: 1})
        return graph.edge_if("a", "b", lambda state: state["go"] in values, name="go").start("a").end("b")

    with pytest.raises(es.RunFailed):
        es.run(build(), store, {"go": 1}, id="t1")
    assert checks(replay(build(), store, "t1")) == (1, 0, 0)
    found = diverged(build(1), store)
    assert (found.kind, found.recorded, found.produced, found.node) == ("route", msgspec.UNSET, "b", "a")
    es.resume(build(1), store, "t1")
    assert checks(replay(build(1), store, "t1")) == (2, 0, 0)
    found = diverged(build(), store)
    assert (found.kind, found.recorded) == ("route", "b") and "NoRoute" in found.reason
    assert diverged(build(), store, after=found.seq - 1) == found


# Calls that the log does not hold


@pytest.mark.parametrize(
    ("ask", "named"),
    [
        (lambda ctx, made: ctx.call("search", lambda: made.append(1)), "call:search"),
        (lambda ctx, made: ctx.call("search", lambda: made.append(1), durable=True), "call:search"),
        (lambda ctx, made: ctx.now(), "now"),
        (lambda ctx, made: ctx.uuid(), "uuid"),
    ],
)
def test_what_the_log_does_not_hold_is_not_made(store, ask, named):
    made, went_on = [], []

    def asks(ctx):
        with contextlib.suppress(Exception):
            ask(ctx, made)
        went_on.append(True)

    es.run(one_node(lambda ctx: None), store, id="t1")
    found = diverged(one_node(asks), store)
    assert (found.kind, found.key, made, went_on) == ("call", named, [], [])
    assert f"n: {named} is not in the log" in str(found)


def test_one_call_more_than_the_log_holds(store):
    es.run(one_node(lambda ctx: {"a": ctx.call("x", lambda: 1)}), store, id="t1")
    found = diverged(one_node(lambda ctx: {"a": ctx.call("x", lambda: 9) + ctx.call("x", lambda: 9)}), store)
    assert (found.kind, found.key) == ("call", "call:x")


def test_a_bare_except_does_not_hide_a_missing_call(store):
    def asks(ctx):
        try:
            ctx.call("x", lambda: 1)
        except BaseException:
            ctx.put("caught", True)

    es.run(one_node(lambda ctx: None), store, id="t1")
    assert diverged(one_node(asks), store).kind == "call"


def test_another_order_of_names_is_no_divergence(store):
    def one(ctx):
        return {"a": ctx.call("a", lambda: 1), "b": ctx.call("b", lambda: 2)}

    def other(ctx):
        b = ctx.call("b", lambda: 0)
        return {"a": ctx.call("a", lambda: 0, durable=True), "b": b}

    es.run(one_node(one), store, id="t1")
    assert checks(replay(one_node(other), store, "t1")) == (1, 0, 0)


# Errors and the graph


def test_a_function_that_raises_now(store):
    es.run(one_node(lambda ctx: None), store, id="t1")
    found = diverged(one_node(lambda ctx: 1 / 0), store)
    assert (found.kind, found.reason) == ("error", "ZeroDivisionError: division by zero")
    assert str(found).endswith("n: ZeroDivisionError: division by zero")


@pytest.mark.parametrize("leaves", [SystemExit, GeneratorExit])
def test_a_node_that_wants_to_exit_is_an_error_and_an_interrupt_is_none(store, leaves):
    def exits(ctx):
        raise leaves

    def interrupted(ctx):
        raise KeyboardInterrupt

    es.run(one_node(lambda ctx: None), store, id="t1")
    assert leaves.__name__ in diverged(one_node(exits), store).reason
    with pytest.raises(KeyboardInterrupt):
        replay(one_node(interrupted), store, "t1")


def test_what_a_node_returns_must_be_a_mapping_here_too(store):
    es.run(one_node(lambda ctx: None), store, id="t1")
    assert "returned int" in diverged(one_node(lambda ctx: 3), store).reason


def test_a_node_that_is_gone_and_one_of_another_kind(store):
    def a(ctx): ...

    def b(ctx): ...

    es.run(chain(a, b), store, id="t1")
    graph = es.Graph("g")
    graph.node(a)
    graph.node(name="c")(lambda ctx: None)
    found = replay(graph.edge("a", "c").start("a").end("c"), store, "t1")
    assert (found.divergence.kind, found.divergence.recorded) == ("route", "b")
    gone = es.Graph("g")
    gone.node(name="c", goes_to=[])(lambda ctx: None)
    found = replay(gone.start("c").end("c"), store, "t1", after=1)
    assert found.divergence.kind == "graph" and "no node 'a'" in found.divergence.reason
    assert (found.divergence.recorded, found.divergence.produced) == ("node", msgspec.UNSET)
    assert "node 'b' is gone" in found.graph_changes and "node 'c' is new" in found.graph_changes
    graph = es.Graph("g")
    graph.node(a)
    graph.barrier("b").edge("a", "b").start("a").end("b")
    found = diverged(graph, store)
    assert (found.kind, found.recorded, found.produced) == ("graph", "node", "barrier")


def test_a_changed_graph_is_named_and_not_refused(store):
    def build(more):
        graph = es.Graph("g", version="2" if more else "")
        graph.node(name="a")(lambda ctx: None)
        return graph.start("a").end("a")

    es.run(build(False), store, id="t1")
    found = replay(build(True), store, "t1")
    assert found.ok and found.graph_changes == ["version was None, is '2'"]
    assert replay(build(False), store, "t1").graph_changes == []


def test_a_trace_that_no_graph_ran_is_refused(store, trace):
    with pytest.raises(es.EventStoreError, match="trace t1 was not started by a graph"):
        replay(one_node(lambda ctx: None), store, "t1")
    with pytest.raises(es.EventStoreError, match="trace t1 was not started by a graph"):
        replay(one_node(lambda ctx: None), store, "t1", after=1)
    with pytest.raises(es.TraceNotFound):
        replay(one_node(lambda ctx: None), store, "nowhere")


def test_a_damaged_row_is_named(store, tamper):
    graph = one_node(lambda ctx: None)
    es.run(graph, store, id="t1")
    tamper("UPDATE log SET body = '[{]' WHERE first_seq > 1")
    with pytest.raises(es.LogCorrupted, match="damaged at seq"):
        replay(graph, store, "t1")


# Side effects


def test_a_node_that_has_side_effects_by_the_log_or_by_the_graph_is_not_called(store):
    called = []

    def pay(ctx):
        called.append(1)
        return {"n": len(called)}

    es.run(one_node(pay, side_effects=True), store, id="t1")
    assert checks(replay(one_node(pay), store, "t1")) == (0, 1, 0)
    es.run(one_node(pay), store, id="t2")
    assert checks(replay(one_node(pay, side_effects=True), store, "t2")) == (0, 1, 0)

    def records(ctx):
        called.append(1)
        ctx.record(has_side_effects=True)

    es.run(one_node(records), store, id="t3")
    assert checks(replay(one_node(records), store, "t3")) == (0, 1, 0)
    assert len(called) == 3


def test_what_a_human_said_of_a_node_in_doubt_is_the_logs(path):
    crash = [True]

    def pay(ctx):
        if crash:
            raise KeyboardInterrupt
        return {"paid": 1}

    graph = one_node(pay, name="pay", side_effects=True)
    for number, decision in enumerate([es.Modify({"paid": 39}), es.Approve()]):
        trace_id = f"t{number}"
        crash[:] = [True]
        with es.open(path) as store, pytest.raises(KeyboardInterrupt):
            es.run(graph, store, id=trace_id)
        crash.clear()
        with es.open(path) as store:
            es.resume(graph, store, trace_id)
            store.decide(trace_id, "pay", decision)
            es.resume(graph, store, trace_id)
            assert checks(replay(graph, store, trace_id)) == (0, 1, 0)


def test_what_a_human_said_of_a_branch_in_doubt_is_the_logs(path):
    crash = [True]

    def pay(ctx):
        if crash:
            raise KeyboardInterrupt
        raise AssertionError("never again")

    graph = es.Graph("g")
    graph.node(side_effects=True)(pay)
    graph.node(name="other")(lambda ctx: {"other": True})
    graph.parallel("gather", "pay", "other").start("gather").end("gather")
    with es.open(path) as store, pytest.raises(KeyboardInterrupt):
        es.run(graph, store, id="t1")
    crash.clear()
    with es.open(path) as store:
        es.resume(graph, store, "t1")
        store.decide("t1", "gather/pay", es.Modify({"paid": 39}))
        assert es.resume(graph, store, "t1").status == "completed"
        assert checks(replay(graph, store, "t1")) == (2, 1, 0)


# Attempts, hooks, loops


def test_failed_attempts_are_passed_over_and_the_last_one_is_run_as_it_was(store):
    def flaky(ctx):
        if ctx.attempt < 3:
            raise ConnectionError
        return {"attempt": ctx.attempt, "drawn": ctx.random.random(), "key": ctx.idempotency_key}

    graph = one_node(flaky, retry=quick(3))
    es.run(graph, store, id="t1")
    assert checks(replay(graph, store, "t1")) == (1, 0, 2)


def test_a_run_that_failed_and_fell_back(store):
    graph = es.Graph("g")
    graph.node(name="a")(lambda ctx: 1 / 0)
    graph.node(name="b")(lambda ctx: {"why": ctx.state["a.error"]})
    graph.edge_fallback("a", "b").start("a").end("a", "b")
    es.run(graph, store, id="t1")
    assert checks(replay(graph, store, "t1")) == (1, 0, 1)
    broken = one_node(lambda ctx: 1 / 0)
    with pytest.raises(es.RunFailed):
        es.run(broken, store, id="t2")
    assert checks(replay(broken, store, "t2")) == (0, 0, 1)


def test_hooks_run_again_and_their_writes_are_compared(store):
    def build(factor):
        graph = one_node(lambda ctx: ctx.put("n", ctx.state["before"] + 1))
        graph.before(lambda ctx: ctx.put("before", ctx.occurrence))
        graph.after(nodes=["n"])(lambda ctx: ctx.put("seen", ctx.state["n"] * factor))
        return graph

    es.run(build(1), store, id="t1")
    assert checks(replay(build(1), store, "t1")) == (1, 0, 0)
    assert diverged(build(2), store).key == "seen"


def looping(step=1, times=5):
    graph = es.Graph("loop", reducers={"n": "sum", "best": lambda old, new: max(old or 0, new), "log": "append"})

    @graph.node
    def work(ctx):
        ctx.put("n", step if ctx.occurrence == 3 else 1)
        ctx.put("best", ctx.occurrence)
        ctx.put("log", {"at": ctx.now().isoformat(), "drawn": ctx.random.random(), "visit": ctx.occurrence})

    return graph.edge_if("work", "work", lambda state: state["n"] < times, name="more").start("work").end("work")


def test_every_visit_of_a_loop_is_run_on_its_own_state(store):
    es.run(looping(), store, {"n": 0}, id="t1")
    assert checks(replay(looping(), store, "t1")) == (5, 0, 0)
    found = diverged(looping(step=2), store)
    assert (found.step, found.key, found.recorded, found.produced) == (3, "n", 3, 4)


def test_only_the_visits_between_two_places_are_checked(store):
    es.run(looping(), store, {"n": 0}, id="t1")
    executed = [event.seq for event in store.events("t1") if event.kind == "node_executed"]
    third = executed[2]
    assert checks(replay(looping(step=2), store, "t1", until=third - 1)) == (2, 0, 0)
    assert checks(replay(looping(step=2), store, "t1", after=third)) == (2, 0, 0)
    assert diverged(looping(step=2), store, after=third - 1).seq == third
    assert diverged(looping(step=2), store, after=third - 2, until=third).seq == third
    assert checks(replay(looping(), store, "t1", after=third - 1, until=third)) == (1, 0, 0)
    assert checks(replay(looping(), store, "t1", after="step:1", until="step:4")) == (3, 0, 0)
    assert checks(replay(looping(), store, "t1", after=-1)) == (0, 0, 0)
    assert checks(replay(looping(), store, "t1", after=0)) == (5, 0, 0)
    assert replay(looping(), store, "t1", until=third).upto == third
    with pytest.raises(es.SeqOutOfRange):
        replay(looping(), store, "t1", until=10_000)


def test_a_trimmed_trace_is_replayed_from_its_root(store):
    es.run(looping(), store, {"n": 0}, id="t1")
    executed = [event.seq for event in store.events("t1") if event.kind == "node_executed"]
    for checkpoint in store.checkpoints.list("t1"):
        store.checkpoints.delete(checkpoint.checkpoint_id)
    store.trim("t1", executed[1], retry_window_s=0)
    assert checks(replay(looping(), store, "t1")) == (3, 0, 0)
    assert diverged(looping(step=2), store).step == 3
    with pytest.raises(es.Trimmed):
        replay(looping(), store, "t1", after=1)


def test_a_long_run_with_bases_is_replayed_from_any_place(store):
    graph = looping(times=700)
    es.run(graph, store, {"n": 0}, id="t1")
    assert checks(replay(graph, store, "t1")) == (700, 0, 0)
    assert checks(replay(graph, store, "t1", after="step:650")) == (50, 0, 0)


# Branches


def gathering(*branches, strategy="fail_fast", reducers=None, **options):
    graph = es.Graph("gathering", reducers=reducers)
    for branch in branches:
        graph.node(**options)(branch)
    graph.parallel("gather", *branches, strategy=strategy)
    return graph.start("gather").end("gather")


def test_branches_are_run_on_the_state_before_them_and_joined_again(store):
    def a(ctx):
        ctx.put("log", [ctx.path, len(ctx.state["log"])])
        ctx.put("drawn", {"a": ctx.random.random(), "at": ctx.now().isoformat()})

    def b(ctx):
        time.sleep(0.01)
        ctx.put("log", [ctx.path, len(ctx.state["log"])])
        ctx.put("drawn", {"b": ctx.call("x", lambda: random.random(), durable=True)})

    graph = gathering(a, b, reducers={"log": "append", "drawn": "merge_object"})
    es.run(graph, store, {"log": []}, id="t1")
    assert checks(replay(graph, store, "t1")) == (3, 0, 0)

    def other(ctx):
        ctx.put("log", "else")

    other.__name__ = "b"
    found = diverged(gathering(a, other, reducers={"log": "append", "drawn": "merge_object"}), store)
    assert (found.node, found.step, found.kind, found.key) == ("gather/b", 1, "value", "log")


@pytest.mark.parametrize("reduce", [max, lambda old, new: old * 10 + new])
def test_a_custom_reducer_in_branches(store, reduce):
    def build(first, reducer=reduce):
        def a(ctx):
            ctx.put("best", first)
            ctx.put("best", 5)

        def b(ctx):
            ctx.put("best", 4)

        return gathering(a, b, reducers={"best": lambda old, new: reducer(old, new)})

    es.run(build(3), store, {"best": 1}, id="t1")
    assert checks(replay(build(3), store, "t1")) == (3, 0, 0)
    if reduce is max:
        assert replay(build(2), store, "t1").ok  # the function makes the same of it
    else:
        assert diverged(build(2), store).node == "gather/a"
    found = diverged(build(3, reducer=lambda old, new: new), store)
    assert found.node in ("gather/a", "gather")


def test_a_custom_reducer_of_a_plain_node(store):
    def build(reducer):
        def work(ctx):
            ctx.put("best", 3)
            ctx.put("best", 2)

        return one_node(work, reducers={"best": reducer})

    es.run(build(lambda old, new: max(old or 0, new)), store, id="t1")
    assert replay(build(lambda old, new: max(new, old or 0)), store, "t1").ok
    found = diverged(build(lambda old, new: (old or 0) + new), store)
    assert (found.recorded, found.produced) == (3, 5)


def test_a_reducer_that_is_gone_is_seen_in_what_a_put_means(store):
    def build(reducers):
        return one_node(lambda ctx: ctx.put("n", 2), reducers=reducers)

    es.run(build({"n": "sum"}), store, {"n": 1}, id="t1")
    found = replay(build({}), store, "t1")
    assert (found.divergence.recorded, found.divergence.produced) == (3, 2)
    assert found.graph_changes == ["reducers were {'n': 'sum'}, are {}"]


def test_a_join_that_conflicts_now_is_an_error(store):
    def a(ctx):
        ctx.put("k", 1)

    def b(ctx):
        ctx.put("k", 2)

    es.run(gathering(a, b, reducers={"k": "replace"}), store, id="t1")
    found = diverged(gathering(a, b), store)
    assert (found.node, found.kind) == ("gather", "error") and "StateConflict" in found.reason


def test_a_branch_that_failed_under_collect_all(store):
    def a(ctx):
        ctx.put("a", 1)

    def b(ctx):
        raise OSError("disk")

    graph = gathering(a, b, strategy="collect_all")
    es.run(graph, store, id="t1")
    assert checks(replay(graph, store, "t1")) == (2, 0, 1)
    found = diverged(gathering(a, b), store)
    assert (found.node, found.kind) == ("gather", "error") and "disk" in found.reason


def test_a_branch_that_is_gone_and_one_that_is_new(store):
    def a(ctx): ...

    def b(ctx): ...

    es.run(gathering(a, b), store, id="t1")
    gone = diverged(gathering(a), store)
    assert (gone.kind, gone.node) == ("graph", "gather/b")
    es.run(gathering(a), store, id="t2")
    new = diverged(gathering(a, b), store, "t2")
    assert (new.kind, new.node) == ("graph", "gather") and "gather/b" in new.reason


def test_branches_with_side_effects_are_reused(store):
    called = []

    def pay(ctx):
        called.append(1)
        return {"paid": len(called)}

    graph = gathering(pay, side_effects=True)
    es.run(graph, store, id="t1")
    assert checks(replay(graph, store, "t1")) == (1, 1, 0)
    assert len(called) == 1


def mapping(change=0, over="items"):
    graph = es.Graph("m", reducers={"n": "sum"})

    @graph.map(over=over)
    def score(ctx, item):
        item["seen"] = True  # an item is the branch's own
        ctx.put("n", item["value"] + (change if ctx.index == 2 else 0))
        return {f"k{ctx.index}": [item["value"], ctx.path]}

    graph.node(name="after")(lambda ctx: {"items_after": ctx.get("items"), "n": 1})
    return graph.edge("score", "after").start("score").end("after")


def test_each_branch_of_a_map_is_run_with_its_item(store):
    items = [{"value": value} for value in range(5)]
    graph = mapping()
    es.run(graph, store, {"items": items, "other": [{"value": 0}]}, id="t1")
    found = diverged(mapping(change=7), store)
    assert (found.node, found.key, found.produced) == ("score/2", "n", 9)
    assert diverged(mapping(over="other"), store).kind == "graph"
    assert diverged(mapping(over="nothing"), store).kind == "error"


def test_a_map_is_replayed_whole(store):
    graph = es.Graph("m", reducers={"n": "sum"})

    @graph.map(over="items")
    def score(ctx, item):
        ctx.put("n", item * 2)

    graph.start("score").end("score")
    es.run(graph, store, {"items": list(range(300)), "n": 0}, id="t1")
    assert checks(replay(graph, store, "t1")) == (301, 0, 0)


# Forks, resumes, included graphs, async


def test_a_forks_shared_rows_are_run_with_the_keys_of_the_trace_that_ran_them(store):
    def build(changed=0):
        graph = es.Graph("f")

        @graph.node
        def work(ctx):
            ctx.append("keys", ctx.idempotency_key, ctx.trace_id, str(ctx.uuid()), ctx.random.random() + changed)

        return (
            graph.edge_if("work", "work", lambda state: len(state["keys"]) < 16, name="more").start("work").end("work")
        )

    graph = build()
    es.run(graph, store, {"keys": []}, id="t1")
    executed = [event.seq for event in store.events("t1") if event.kind == "node_executed"]
    fork = store.fork("t1", executed[1], id="t2")
    es.resume(graph, store, fork.id)
    own = [event.seq for event in store.events("t2") if event.kind == "node_executed"]
    store.fork("t2", own[2], id="t3")
    assert es.resume(graph, store, "t3").state["keys"][1::4] == ["t1", "t1", "t2", "t3"]
    for trace_id in ("t1", "t2", "t3"):
        assert checks(replay(graph, store, trace_id)) == (4, 0, 0)
    assert checks(replay(graph, store, "t3", after=own[1])) == (2, 0, 0)
    assert diverged(build(1), store, "t3", after=own[2]).step == 4


@pytest.mark.parametrize("effects", ["run", "reuse"])
def test_a_fork_that_has_or_reuses_an_effect(store, effects):
    graph = refund()
    refunded(store, graph)
    decided = next(event.seq for event in store.events("t1") if event.kind == "barrier_decided")
    row = [event for event in store.events("t1") if event.first_seq == decided]
    store.fork("t1", row[-1].seq, id="t2")
    assert es.resume(graph, store, "t2", effects=effects).status == "completed"
    assert checks(replay(graph, store, "t2")) == (2, 1, 0)


def test_a_visit_that_died_and_resumed_is_run_with_the_values_that_were_held(path):
    deaths, calls = [2, 4], []

    def agent(ctx):
        for number in range(4):
            answer = ctx.call("model", lambda: calls.append(1) or len(calls), durable=True)
            if deaths and len(calls) == deaths[0]:
                deaths.pop(0)
                raise Died
            ctx.append("answers", [number, answer, ctx.random.random()])
        ctx.put("last", ctx.call("tool", lambda: calls.append(1) or "done"))

    graph = one_node(agent)
    for _ in range(2):
        with es.open(path) as store, pytest.raises(Died):
            es.run(graph, store, id="t1")
    with es.open(path) as store:
        state = es.resume(graph, store, "t1").state
        assert [answer for _, answer, _ in state["answers"]] == [1, 2, 3, 4]
        made = len(calls)
        assert checks(replay(graph, store, "t1")) == (1, 0, 0)
        assert len(calls) == made


@pytest.mark.parametrize("death", range(1, 8))
def test_calls_of_one_name_recorded_both_ways_across_a_death(store, death):
    """A resume answers any call of the name with what was held, so which call was given what depends on the death."""
    clock, deaths = itertools.count(1), [death]

    def agent(ctx):
        for durable in (False, True, False, True, False):
            ctx.append("answers", ctx.call("model", random.random, durable=durable))
            if deaths and next(clock) == deaths[0]:
                deaths.clear()
                raise Died

    graph = one_node(agent)
    with contextlib.suppress(Died):
        es.run(graph, store, id="t1")
    deaths.clear()
    es.resume(graph, store, "t1")
    assert checks(replay(graph, store, "t1")) == (1, 0, 0)


def test_a_parallel_node_that_died_and_resumed(path):
    crash = [True]
    graph = es.Graph("g")
    for name in "abc":

        def branch(ctx, name=name):
            if name == "b" and crash:
                raise Died
            return {name: [ctx.random.random(), ctx.now().isoformat()]}

        graph.node(name=name)(branch)
    graph.parallel("gather", *"abc", max_concurrency=1).start("gather").end("gather")
    with es.open(path) as store, pytest.raises(Died):
        es.run(graph, store, id="t1")
    crash.clear()
    with es.open(path) as store:
        assert checks(replay(graph, store, "t1")) == (1, 0, 0)
        es.resume(graph, store, "t1")
        assert checks(replay(graph, store, "t1")) == (4, 0, 0)
        held = next(event.seq for event in store.events("t1") if event.kind == "branch_executed")
        assert checks(replay(graph, store, "t1", after=held)) == (3, 0, 0)


def test_a_graph_that_was_changed_by_force(store):
    def build(name, version):
        graph = es.Graph("g", version=version)
        graph.node(name="a")(lambda ctx: {"a": 1})
        graph.node(name=name)(lambda ctx: {"version": version})
        graph.barrier("ask").edge("a", "ask").edge("ask", name)
        return graph.start("a").end(name)

    es.run(build("old", "1"), store, id="t1")
    store.decide("t1", "ask", es.Approve())
    es.resume(build("new", "2"), store, "t1", mode=es.GraphHashMode.FORCE)
    found = replay(build("new", "2"), store, "t1")
    assert checks(found) == (2, 0, 0) and found.graph_changes == []
    assert diverged(build("old", "1"), store).kind == "route"


def included(factor=1):
    inner = es.Graph("inner", reducers={"total": "sum"})
    inner.node(name="charge")(lambda ctx: {"total": 2 * factor, "seen": ctx.state["ask.approved"]})
    inner.node(name="left")(lambda ctx: {"left": ctx.path})
    inner.node(name="right")(lambda ctx: {"right": ctx.path})
    inner.barrier("ask", goes_to=["charge"]).parallel("both", "left", "right")
    inner.node(name="choose")(lambda ctx: ctx.goto("both"))
    inner.edge_if("ask", "charge", lambda state: state["ask.approved"], name="yes").edge("ask", "both")
    inner.edge("charge", "choose").edge("choose", "charge")
    inner.before(nodes=["charge"])(lambda ctx: ctx.put("hooked", ctx.node))
    inner.start("ask").end("both")
    outer = es.Graph("outer")
    part = outer.include("billing", inner)
    outer.node(name="done")(lambda ctx: {"done": sorted(ctx.state)})
    return outer.start(part.start).edge(part.ends[0], "done").end("done")


def test_included_graphs_keep_their_own_names(store):
    es.run(included(), store, {"total": 0}, id="t1")
    store.decide("t1", "billing.ask", es.Approve())
    result = es.resume(included(), store, "t1")
    assert result.state["left"] == "billing.both/left" and result.status == "completed"
    assert checks(replay(included(), store, "t1")) == (6, 0, 0)
    assert diverged(included(factor=2), store).node == "billing.charge"


def async_graph(change=0):
    graph = es.Graph("a", reducers={"log": "append"})

    @graph.node
    async def ask(ctx):
        async def search():
            await asyncio.sleep(0)
            return random.random()

        ctx.put("log", await ctx.call("search", search))
        ctx.put("log", await ctx.call("search", search, durable=True))
        return {"at": ctx.now().isoformat(), "n": 1 + change}

    @graph.node
    def plain(ctx):
        ctx.put("log", ctx.path)

    @graph.node
    async def waits(ctx):
        await asyncio.sleep(0)
        ctx.put("log", ctx.path)

    graph.parallel("both", plain, waits)
    return graph.edge("ask", "both").start("ask").end("both")


def test_async_nodes_are_awaited(store):
    es.run(async_graph(), store, id="t1")
    assert checks(replay(async_graph(), store, "t1")) == (4, 0, 0)
    assert diverged(async_graph(change=1), store).key == "n"


def test_calls_at_the_same_time_are_given_back_in_the_order_they_were_made(store):
    async def work(ctx):
        async def slow(number):
            await asyncio.sleep((4 - number) / 100)
            return number

        ctx.put("found", await asyncio.gather(*(ctx.call("tool", partial(slow, number)) for number in range(4))))

    es.run(one_node(work), store, id="t1")
    assert store.state_at("t1")["found"] == [0, 1, 2, 3]
    assert checks(replay(one_node(work), store, "t1")) == (1, 0, 0)


def test_an_async_node_that_asks_for_more_or_fails(store):
    made = []

    async def quiet(ctx): ...

    async def asks(ctx):
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.call("x", lambda: made.append(1)))

    async def fails(ctx):
        raise OSError("disk")

    async def cancels(ctx):
        raise asyncio.CancelledError

    es.run(one_node(quiet), store, id="t1")
    assert (diverged(one_node(asks), store).kind, made) == ("call", [])
    assert diverged(one_node(fails), store).reason == "OSError: disk"
    assert "CancelledError" in diverged(one_node(cancels), store).reason


def test_inside_an_event_loop_only_sync_graphs_are_replayed(store):
    es.run(async_graph(), store, id="t1")
    es.run(looping(), store, {"n": 0}, id="t2")

    async def main():
        assert replay(looping(), store, "t2").ok
        with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"):
            replay(async_graph(), store, "t1")
        return await asyncio.to_thread(replay, async_graph(), store, "t1")

    assert asyncio.run(main()).ok


# The redaction hook


def test_produced_values_pass_the_redaction_hook(path):
    def hide(key, value):
        return "***" if key == "card" else value

    graph = one_node(lambda ctx: {"card": "4111", "n": 1})
    with es.open(path, redact=hide) as store:
        es.run(graph, store, id="t1")
        assert checks(replay(graph, store, "t1")) == (1, 0, 0)
    with es.open(path, read_only=True) as store:
        assert diverged(graph, store).key == "card"


def test_a_redacted_time_is_told_as_such(path):
    graph = one_node(lambda ctx: {"year": ctx.now().year})
    with es.open(path, redact=lambda key, value: "***" if key == "now" else value) as store:
        es.run(graph, store, id="t1")
        found = diverged(graph, store)
        assert (found.kind, found.key) == ("call", "now") and "'***', which is no time" in str(found)


# The context's values


def test_what_a_call_gave_is_recorded_as_it_was_given(store):
    def work(ctx):
        found = ctx.call("search", lambda: {"hits": []})
        found["hits"].append("mine")
        ctx.put("found", found)

    es.run(one_node(work), store, id="t1")
    recorded = [event.event.value for event in store.events("t1") if event.kind == "value_recorded"]
    assert recorded == [{"hits": []}]
    assert replay(one_node(work), store, "t1").ok


def test_emit_checkpoint_record_and_cancelled_do_nothing_in_a_replay(store):
    def work(ctx):
        ctx.emit("hello")
        ctx.checkpoint()
        ctx.record(token_cost=3)
        return {"cancelled": ctx.cancelled}

    es.run(one_node(work), store, id="t1")
    before = len(store.checkpoints.list("t1")), store.open_trace("t1").version
    assert checks(replay(one_node(work), store, "t1")) == (1, 0, 0)
    assert (len(store.checkpoints.list("t1")), store.open_trace("t1").version) == before


# What a node chose, waits for, and leaves out


def test_the_way_on_from_a_join_may_read_what_failed(store):
    def a(ctx):
        return {"n": ctx.state.get("n", 0) + 1}

    def b(ctx):
        if ctx.state.get("n", 0) == 0:
            raise OSError("disk")

    def build():
        graph = es.Graph("g")
        graph.node(a)
        graph.node(b)
        graph.parallel("gather", "a", "b", strategy="collect_all")
        graph.node(name="good")(lambda ctx: None)
        graph.edge_if("gather", "gather", lambda state: "gather.errors" in state, name="failed").edge("gather", "good")
        return graph.start("gather").end("good")

    assert es.run(build(), store, id="t1").state["n"] == 2
    assert checks(replay(build(), store, "t1")) == (6, 0, 1)


class Choosing:
    """A node that chooses its way where no bytecode of it says so."""

    def __init__(self, target):
        self.target = target

    def __call__(self, ctx):
        self.go(ctx)

    def go(self, ctx):
        if self.target is None:
            ctx.end()
        else:
            ctx.goto(self.target)


def chosen_by(pay, hook=None):
    """`pay`, whose edges lead to `b` alone."""
    graph = es.Graph("g")
    graph.node(name="pay", side_effects=True)(pay)
    for name in "ab":
        graph.node(name=name)(lambda ctx: None)
    if hook is not None:
        graph.after(hook, nodes=["pay"])
    graph.edge_if("pay", "a", lambda state: False, name="never")
    return graph.edge("pay", "b").start("pay").end("a", "b")


def executed(store, trace_id="t1"):
    return [event.event for event in store.events(trace_id) if event.kind == "node_executed"]


@pytest.mark.parametrize("target", ["a", None])
@pytest.mark.parametrize("from_hook", [False, True])
def test_that_a_side_effect_chose_its_way_is_in_the_log(store, target, from_hook):
    choosing = Choosing(target)
    graph = chosen_by((lambda ctx: None) if from_hook else choosing, hook=choosing if from_hook else None)
    assert es.run(graph, store, id="t1").status == "completed"
    assert executed(store)[0].chosen and executed(store)[0].next == target
    assert replay(graph, store, "t1").ok
    assert b'"chosen"' in executed(store)[0].to_json() and b'"chosen"' not in es.NodeExecuted("a").to_json()


def test_a_side_effect_that_chose_nothing_went_where_the_edges_led(store):
    def pay(ctx):
        type("Span", (), {"end": lambda self: None, "goto": lambda self: None})().end()

    def build(goes):
        graph = es.Graph("g")
        graph.node(side_effects=True)(pay)
        graph.node(name="a")(lambda ctx: None)
        return graph.edge_if("pay", "a", lambda state: goes, name="if").start("pay").end("pay", "a")

    es.run(build(False), store, id="t1")
    assert not executed(store)[0].chosen
    found = diverged(build(True), store)
    assert (found.kind, found.recorded, found.produced) == ("route", None, "a")


@pytest.mark.parametrize("chooses", [False, True])
def test_a_fork_that_reuses_an_effect_goes_its_own_way_unless_the_effect_chose_one(store, chooses):
    def build():
        graph = es.Graph("g")
        graph.node(name="first")(lambda ctx: None)
        graph.node(name="pay", side_effects=True)(Choosing("a") if chooses else lambda ctx: {"paid": 1})
        for name in "ab":
            graph.node(name=name)(lambda ctx: {"went": ctx.node})
        graph.edge_if("pay", "a", lambda state: state["go"] == "a", name="go").edge("pay", "b")
        return graph.edge("first", "pay").start("first").end("a", "b")

    es.run(build(), store, {"go": "a"}, id="t1")
    fork = store.open_trace("t1").fork(at="step:1", put={"go": "b"})
    assert es.resume(build(), store, fork.id, effects="reuse").state["went"] == ("a" if chooses else "b")
    assert [event.chosen for event in executed(store, fork.id)] == [False, chooses, False]
    assert checks(replay(build(), store, fork.id)) == (2, 1, 0)


def test_cancelled_is_what_the_log_holds(store):
    def work(ctx):
        while not ctx.cancelled:
            asks.pop()()
        return {"done": 1}

    asks = [lambda: store.cancel("t1")]
    es.run(one_node(work), store, id="t1")
    assert store.state_at("t1")["done"] == 1
    assert checks(replay(one_node(work), store, "t1")) == (1, 0, 0)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_node_that_waits_for_a_cancellation_that_never_came_ends(store, is_async):
    def waits(ctx):
        while not ctx.cancelled:
            pass

    async def waits_async(ctx):
        while not ctx.cancelled:
            pass

    es.run(one_node(lambda ctx: None), store, id="t1")
    found = diverged(one_node(waits_async if is_async else waits), store)
    assert found.kind == "error" and "looked 100,000 times if the run was cancelled" in found.reason


def test_a_part_that_ends_before_a_node_is_routed_says_nothing_of_its_way(store):
    broken = [True]

    def condition(state):
        if broken[0]:
            raise ValueError("not yet")
        return True

    graph = es.Graph("g")
    for name in "ab":
        graph.node(name=name)(lambda ctx: {ctx.node: 1})
    graph.edge_if("a", "b", condition, name="if").start("a").end("b")
    with pytest.raises(es.RunFailed):
        es.run(graph, store, id="t1")
    version = store.open_trace("t1").version
    broken[0] = False
    assert diverged(graph, store).produced == "b"
    es.resume(graph, store, "t1")
    assert checks(replay(graph, store, "t1", until=version)) == (1, 0, 0)


def test_another_fallback_is_another_way(store):
    def build(fallback):
        graph = es.Graph("g")
        graph.node(name="n")(lambda ctx: 1 / 0)
        for name in "ab":
            graph.node(name=name)(lambda ctx: None)
        graph.edge("n", "a").edge("a", "b").start("n").end("b")
        return graph.edge_fallback("n", fallback) if fallback else graph

    es.run(build("a"), store, id="t1")
    assert replay(build("a"), store, "t1").ok
    found = diverged(build("b"), store)
    assert (found.kind, found.recorded, found.produced, found.node) == ("route", "a", "b", "n")
    assert diverged(build(None), store).produced is msgspec.UNSET


def test_a_human_who_routed_around_a_node_is_no_fallback(store):
    died = [True]

    def pay(ctx):
        if died:
            died.clear()
            raise Died

    def build():
        graph = es.Graph("g")
        graph.node(side_effects=True)(pay)
        for name in "ab":
            graph.node(name=name)(lambda ctx: None)
        return graph.edge("pay", "a").edge("a", "b").edge_fallback("pay", "a").start("pay").end("b")

    with contextlib.suppress(Died):
        es.run(build(), store, id="t1")
    es.resume(build(), store, "t1")
    store.decide("t1", "pay", es.Reroute("b"))
    assert es.resume(build(), store, "t1").status == "completed"
    assert checks(replay(build(), store, "t1")) == (1, 0, 1)


@pytest.mark.parametrize("durable", [False, True])
def test_a_call_that_is_not_made_any_more_is_told(store, durable):
    def calls(times):
        def work(ctx):
            for _ in range(times):
                ctx.call("mail", lambda: 1, durable=durable)

        return one_node(work)

    es.run(calls(3), store, id="t1")
    assert replay(calls(3), store, "t1").ok
    found = diverged(calls(2), store)
    assert (found.kind, found.key, found.recorded, found.produced) == ("call", "call:mail", 3, 2)
    assert str(found).endswith("n: call:mail was not asked for: the log has one call more")
    assert diverged(calls(0), store).reason == "the log has 3 calls more"


def test_what_only_a_failed_attempt_called_is_not_missed(store):
    def work(ctx):
        if ctx.attempt == 1:
            ctx.call("lost", lambda: 1, durable=True)
            raise ConnectionError
        return {"n": ctx.call("kept", lambda: 2)}

    graph = one_node(work, retry=quick(2))
    es.run(graph, store, id="t1")
    assert checks(replay(graph, store, "t1")) == (1, 0, 1)
    assert checks(replay(graph, store, "t1", after=store.open_trace("t1").version - 3)) == (1, 0, 0)


def test_a_call_that_failed_is_told_as_one_that_is_not_recorded(store):
    def work(ctx):
        with contextlib.suppress(ZeroDivisionError):
            ctx.call("tool", lambda: 1 / 0)

    es.run(one_node(work), store, id="t1")
    found = diverged(one_node(work), store)
    assert (found.kind, found.key, found.reason) == ("call", "call:tool", "a call that failed is not recorded")


def test_a_task_that_asks_for_more_does_not_leave_its_node_waiting(store, caplog):
    def build(name):
        async def work(ctx):
            queue = asyncio.Queue()

            async def produce():
                await queue.put(await ctx.call(name, lambda: 1))

            task = asyncio.create_task(produce())
            found = await asyncio.wait_for(queue.get(), 20)
            await task
            return {"n": found}

        return one_node(work)

    es.run(build("x"), store, id="t1")
    assert replay(build("x"), store, "t1").ok
    began = time.monotonic()
    assert diverged(build("y"), store).key == "call:y"
    assert time.monotonic() - began < 10
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_a_redacted_value_of_a_call_is_told_as_one(path):
    graph = one_node(lambda ctx: {"last": ctx.call("card", lambda: "41111234")[-4:]})
    with es.open(path, redact=lambda key, value: "***" if key == "call:card" else value) as store:
        es.run(graph, store, id="t1")
        found = diverged(graph, store)
        assert (found.recorded, found.produced) == ("1234", "***")
        assert "the log holds redacted values" in found.reason and found.reason in str(found)
        hidden = found.without_values()
        assert "1234" not in str(hidden) and "***" not in str(hidden) and hidden.key == "last"


# The law


STAGES = ["plain", "effect", "parallel", "map", "barrier", "recorded", "flaky", "chosen"]


def built(stages, loops, moment):
    """A graph of the stages in a row, gone through `loops` times; `moment` is called where a process may die."""
    graph = es.Graph(
        "law", reducers={"n": "sum", "log": "append", "seen": lambda old, new: sorted({*(old or []), new})}
    )

    def plain(ctx):
        ctx.put("n", 1)
        ctx.put("seen", ctx.occurrence)
        ctx.put("log", [ctx.path, ctx.idempotency_key, ctx.random.random(), len(ctx.state["log"])])
        moment()

    def effect(ctx):
        moment()
        ctx.put("n", random.random())

    def recorded(ctx):
        for durable in (False, True, True, False):
            ctx.put("log", ctx.call("x", random.random, durable=durable))
            moment()
        ctx.put("log", [ctx.now().isoformat(), str(ctx.uuid()), ctx.random.random()])

    def flaky(ctx):
        if ctx.attempt == 1:
            ctx.call("lost", random.random, durable=True)
            moment()
            raise ConnectionError
        ctx.put("log", [ctx.attempt, ctx.call("lost", random.random, durable=True)])

    def mapped(ctx, item):
        ctx.put("n", item)
        ctx.put("log", [ctx.index, ctx.now().isoformat()])
        moment()

    names = []
    for number, stage in enumerate(stages):
        name = f"{stage}{number}"
        names.append(name)
        if stage == "parallel":
            parts = [f"{name}_{label}" for label in "abc"]
            graph.node(name=parts[0])(plain)
            graph.node(name=parts[1], side_effects=True)(effect)
            graph.node(name=parts[2])(recorded)
            graph.parallel(name, *parts)
        elif stage == "map":
            graph.map(over="items", name=name)(mapped)
        elif stage == "barrier":
            graph.barrier(name)
        elif stage == "flaky":
            graph.node(name=name, retry=quick(2))(flaky)
        elif stage == "chosen":
            graph.node(name=name)(lambda ctx, name=name: ctx.goto(f"{name}_there"))
            graph.node(name=f"{name}_there")(plain)
            graph.edge(name, f"{name}_there")
        else:
            graph.node(name=name, side_effects=stage == "effect")(
                {"plain": plain, "effect": effect}.get(stage, recorded)
            )
    for source, target in itertools.pairwise(names):
        graph.edge(f"{source}_there" if source.startswith("chosen") else source, target)
    graph.node(name="last")(plain)
    graph.edge(f"{names[-1]}_there" if names[-1].startswith("chosen") else names[-1], "last")
    graph.edge_if("last", names[0], lambda state: state["seen"][-1] < loops, name="again")
    return graph.start(names[0]).end("last")


PLACES = st.tuples(*[st.integers(0, 2**20)] * 3)
DEATHS = st.lists(st.integers(1, 20), max_size=3)


def finished(graph, store, trace_id, go_on):
    """Run to the end, whatever dies on the way; a human approves of everything."""
    while True:
        with contextlib.suppress(Died):
            result = go_on()
            if result.status == "completed":
                return
            store.decide(trace_id, result.pending_barriers[0], es.Approve())

        def go_on():
            return es.resume(graph, store, trace_id, effects="run", force=True)


@given(st.lists(st.sampled_from(STAGES), min_size=1, max_size=5), st.integers(1, 3), PLACES, DEATHS)
def test_any_finished_run_is_replayed_by_its_own_graph(stages, loops, places, deaths):
    clock, dying = itertools.count(1), set(deaths)

    def moment():
        if next(clock) in dying:
            raise Died

    graph = built(stages, loops, moment)
    with es.open(":memory:", durability="normal") as store:
        finished(graph, store, "t1", lambda: es.run(graph, store, {"items": [1, 2, 3], "log": [], "n": 0}, id="t1"))
        dying.clear()
        found = replay(graph, store, "t1")
        assert found.ok, str(found.divergence)
        assert found.checked > 0
        version = store.open_trace("t1").version
        after, until = sorted(1 + place % version for place in places[:2])
        part = replay(graph, store, "t1", after=after, until=until)
        assert part.ok, (after, until, str(part.divergence))
        boundaries = sorted({event.first_seq - 1 for event in store.events("t1") if event.first_seq > 1})
        store.fork("t1", boundaries[places[2] % len(boundaries)], id="t2")
        finished(graph, store, "t2", lambda: es.resume(graph, store, "t2", effects="run"))
        found = replay(graph, store, "t2")
        assert found.ok, (boundaries[places[2] % len(boundaries)], str(found.divergence))
