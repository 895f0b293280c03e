"""Side effects: intended before they happen, in doubt after a crash in between, asked about in a fork."""

from __future__ import annotations

import apsw
import pytest

import eventstore as es
from eventstore.idempotency import idempotency_key


class Crash(BaseException):
    """Ends the process's work at once, as far as a run can tell."""


def paying(in_doubt="ask", crash=True, retry=None):
    """fetch -> pay (a side effect) -> thank; `pay` crashes after its effect while `graph.crash`."""
    graph = es.Graph("paying")
    graph.effects, graph.crash = [], crash

    @graph.node
    def fetch(ctx):
        ctx.put("total", 40)

    @graph.node(side_effects=True, in_doubt=in_doubt, retry=retry)
    def pay(ctx):
        graph.effects.append(ctx.idempotency_key)
        if graph.crash:
            raise Crash
        ctx.put("paid", ctx.state["total"])

    @graph.node
    def thank(ctx):
        ctx.put("thanked", True)

    @graph.node
    def give_up(ctx):
        ctx.put("gave_up", ctx.state.get("pay.error"))

    graph.edge("fetch", "pay").edge("pay", "thank").edge_fallback("pay", "give_up")
    return graph.start("fetch").end("thank", "give_up")


def crashed(graph, path, trace_id="t1"):
    with es.open(path) as store, pytest.raises(Crash):
        es.run(graph, store, id=trace_id)
    graph.crash = False


def commits(store, trace_id="t1"):
    found = {}
    for event in store.events(trace_id):
        found.setdefault(event.first_seq, []).append(event.kind)
    return list(found.values())


# The intent


def test_the_intent_rides_in_the_commit_of_the_step_before(store):
    graph = paying(crash=False)
    es.run(graph, store, id="t1")
    assert commits(store) == [
        ["trace_started", "owner_changed"],
        ["delta", "node_executed", "node_intended"],
        ["delta", "node_executed"],
        ["delta", "node_executed", "trace_ended"],
    ]
    (intent,) = [event.event for event in store.events("t1") if event.kind == "node_intended"]
    assert graph.effects == [intent.key] == [idempotency_key("t1", "pay", 1, "pay")]


def test_the_intent_of_the_first_node_rides_in_the_start(store):
    graph = es.Graph("first")
    graph.node(name="pay", side_effects=True)(lambda ctx: None)
    es.run(graph.start("pay").end("pay"), store, id="t1")
    assert commits(store)[0] == ["trace_started", "owner_changed", "node_intended"]


def test_after_a_barrier_the_intent_rides_with_the_way_on(store):
    graph = es.Graph("b").barrier("ok")
    graph.node(name="pay", side_effects=True)(lambda ctx: None)
    graph.edge("ok", "pay").start("ok").end("pay")
    es.run(graph, store, id="t1")
    store.decide("t1", "ok", es.Approve())
    es.resume(graph, store, "t1")
    assert ["owner_changed", "node_executed", "node_intended"] in commits(store)


def test_the_intent_is_in_the_log_before_the_node_is_called(path):
    graph, seen = es.Graph("look"), []

    @graph.node(side_effects=True)
    def pay(ctx):
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
        seen.append(connection.execute("SELECT count(*) FROM events WHERE kind = 'node_intended'").get)
        connection.close()

    with es.open(path) as store:
        es.run(graph.start("pay").end("pay"), store)
    assert seen == [1]


def test_a_graceful_stop_withdraws_the_intent(store):
    import threading

    graph, stop = paying(crash=False), threading.Event()
    graph.after(lambda ctx: stop.set(), nodes=["fetch"])
    assert es.run(graph, store, id="t1", stop=stop).status == "running"
    assert graph.effects == []
    events = [event.kind for event in store.events("t1")]
    assert events.count("node_intended") == events.count("intent_withdrawn")
    assert es.resume(graph, store, "t1").status == "completed"
    assert len(graph.effects) == 1
    assert store.verify().ok


def test_a_cancel_at_the_boundary_withdraws_the_intent(path):
    graph = paying(crash=False)
    with es.open(path) as store, es.open(path) as elsewhere:
        graph.after(lambda ctx: elsewhere.cancel("t1", by="ana"), nodes=["fetch"])
        assert es.run(graph, store, id="t1").status == "cancelled"
        assert graph.effects == []
        assert commits(store)[1:] == [
            ["cancel_requested"],
            ["delta", "node_executed", "node_intended"],
            ["intent_withdrawn", "trace_ended"],
        ]


def test_the_key_depends_on_trace_node_occurrence_and_branch_alone():
    keys = {idempotency_key(*parts) for parts in [
        ("t1", "pay", 1, "pay"), ("t2", "pay", 1, "pay"), ("t1", "pay", 2, "pay"), ("t1", "pay", 1, "pay/0"),
        ("t1", "refund", 1, "refund"),
    ]}  # fmt: skip
    assert len(keys) == 5


def test_every_visit_has_its_own_key(store):
    graph = es.Graph("loop")
    keys = []

    @graph.node(side_effects=True)
    def pay(ctx):
        keys.append((ctx.occurrence, ctx.idempotency_key))
        ctx.put("n", ctx.occurrence)

    graph.edge_if("pay", "pay", lambda state: state["n"] < 3).start("pay").end("pay")
    es.run(graph, store, id="t1")
    assert keys == [(n, idempotency_key("t1", "pay", n, "pay")) for n in (1, 2, 3)]


# In doubt


def test_ask_raises_a_barrier_of_its_own_kind(path):
    graph = paying("ask")
    crashed(graph, path)
    with es.open(path) as store:
        paused = es.resume(graph, store, "t1")
        assert (paused.status, paused.pending_barriers, len(graph.effects)) == ("waiting", ["pay#1"], 1)
        (asked,) = store.barriers()
        assert (asked.reason, asked.node) == ("in_doubt", "pay")
        assert es.resume(graph, store, "t1").status == "waiting"


def test_approve_runs_it_again_with_the_same_key(path):
    graph = paying("ask")
    crashed(graph, path)
    with es.open(path) as store:
        es.resume(graph, store, "t1")
        store.decide("t1", "pay", es.Approve(by="ana"))
        done = es.resume(graph, store, "t1")
        assert done.state == {"total": 40, "paid": 40, "thanked": True}
        assert len(graph.effects) == 2 and len(set(graph.effects)) == 1
        assert store.verify().ok


def test_an_approved_node_that_crashes_again_is_asked_about_again(path):
    graph = paying("ask")
    crashed(graph, path)
    with es.open(path) as store:
        es.resume(graph, store, "t1")
        store.decide("t1", "pay", es.Approve())
        graph.crash = True
        with pytest.raises(Crash):
            es.resume(graph, store, "t1")
    graph.crash = False
    with es.open(path) as store:
        assert es.resume(graph, store, "t1").pending_barriers == ["pay#2"]
        store.decide("t1", "pay", es.Modify({"paid": 40}))
        assert es.resume(graph, store, "t1").state == {"total": 40, "paid": 40, "thanked": True}
        assert len(graph.effects) == 2 and store.verify().ok


def test_modify_means_it_happened_with_these_values(path):
    graph = paying("ask")
    crashed(graph, path)
    with es.open(path) as store:
        es.resume(graph, store, "t1")
        store.decide("t1", "pay", es.Modify({"paid": 39}, by="ana"))
        done = es.resume(graph, store, "t1")
        assert done.state == {"total": 40, "paid": 39, "thanked": True}
        assert [entry.node_name for entry in done.execution_log if entry.success] == ["fetch", "pay", "thank"]
        assert len(graph.effects) == 1
        (decided,) = store.open_trace("t1").execution_trace().barrier_decisions
        assert (decided.by, decided.node_id) == ("ana", "pay")


def test_reject_means_it_failed_and_the_fallback_takes_over(path):
    graph = paying("ask")
    crashed(graph, path)
    with es.open(path) as store:
        es.resume(graph, store, "t1")
        store.decide("t1", "pay", es.Reject("the bank says no"))
        done = es.resume(graph, store, "t1")
        assert "a human said that it failed" in done.state["gave_up"]
        assert len(graph.effects) == 1 and store.verify().ok


def test_reroute_goes_elsewhere(path):
    graph = paying("ask")
    crashed(graph, path)
    with es.open(path) as store:
        es.resume(graph, store, "t1")
        store.decide("t1", "pay", es.Reroute("thank"))
        done = es.resume(graph, store, "t1")
        assert done.state == {"total": 40, "thanked": True}
        assert "intent/pay" not in store.open_trace("t1").control and store.verify().ok


def test_retry_runs_it_again_with_the_same_key_and_asks_nobody(path):
    graph = paying("retry")
    crashed(graph, path)
    with es.open(path) as store:
        done = es.resume(graph, store, "t1")
        assert (done.status, len(graph.effects), len(set(graph.effects))) == ("completed", 2, 1)


def test_fail_counts_as_a_failure(path):
    graph = paying("fail")
    crashed(graph, path)
    with es.open(path) as store:
        done = es.resume(graph, store, "t1")
        assert "it may or may not have run" in done.state["gave_up"]
        assert len(graph.effects) == 1


def test_an_exception_is_no_doubt(store):
    graph = es.Graph("raises")

    @graph.node(side_effects=True)
    def pay(ctx):
        raise ConnectionError("refused")

    with pytest.raises(es.RunFailed):
        es.run(graph.start("pay").end("pay"), store, id="t1")
    assert store.barriers() == [] and "intent/pay" not in store.open_trace("t1").control


def test_a_completed_node_never_runs_again(path):
    graph, calls = es.Graph("twice"), []
    for name in ("a", "b"):
        graph.node(name=name)(lambda ctx: calls.append(ctx.node))
    graph.node(name="c")(lambda ctx: calls.append("c") or (_ for _ in ()).throw(Crash()))
    graph.edge("a", "b").edge("b", "c").start("a").end("c")
    for _ in range(3):
        with es.open(path) as store, pytest.raises(Crash):
            es.run(graph, store, id="t1")
    assert calls == ["a", "b", "c", "c", "c"]


# Forks


@pytest.fixture
def finished(store):
    """A run that paid; and its graph."""
    graph = paying(crash=False)
    es.run(graph, store, id="t1")
    return graph


def before_pay(store):
    return next(event.seq for event in store.events("t1") if event.kind == "node_intended")


def test_a_fork_asks_before_an_effect_that_its_parent_has_had(store, finished):
    fork = store.fork("t1", before_pay(store), id="t2")
    assert not [key for key in fork.control if key.startswith("intent/")]
    paused = es.resume(finished, store, "t2")
    assert (paused.status, len(finished.effects)) == ("waiting", 1)
    assert store.barriers(trace_id="t2")[0].reason == "effect"
    store.decide("t2", "pay", es.Approve())
    assert es.resume(finished, store, "t2").state["paid"] == 40
    assert len(set(finished.effects)) == 2  # a trace of its own has keys of its own
    assert store.verify().ok


def test_a_fork_may_run_the_effect_again_or_reuse_what_was_recorded(store, finished):
    seq = before_pay(store)
    store.fork("t1", seq, id="again"), store.fork("t1", seq, id="reused")
    assert es.resume(finished, store, "again", effects="run").status == "completed"
    assert len(finished.effects) == 2
    reused = es.resume(finished, store, "reused", effects="reuse")
    assert (reused.state, len(finished.effects)) == ({"total": 40, "paid": 40, "thanked": True}, 2)
    (delta,) = [event.event for event in store.events("reused", after=seq)
                if event.kind == "delta" and event.event.key == "paid"]  # fmt: skip
    assert delta.source == "fork"
    assert store.verify().ok


def test_an_effect_in_doubt_in_the_parent_is_asked_about_in_the_fork(path):
    graph = paying("retry")
    crashed(graph, path)
    with es.open(path) as store:
        seq = next(event.first_seq - 1 for event in store.events("t1") if event.kind == "node_intended")
        store.fork("t1", seq, id="t2")
        assert es.resume(graph, store, "t2").status == "waiting"
        assert store.barriers(trace_id="t2")[0].reason == "effect"


def test_a_fork_after_the_effect_just_goes_on(store, finished):
    after = [event.seq for event in store.events("t1") if event.kind == "node_executed"][1]
    store.fork("t1", after, id="t2")
    assert es.resume(finished, store, "t2").status == "completed"
    assert len(finished.effects) == 1


def test_a_fork_inherits_no_cancel_lease_or_unused_decision(store):
    graph = es.Graph("b").barrier("ok")
    graph.edge("ok", "ok2").barrier("ok2").start("ok").end("ok2")
    es.run(graph, store, id="t1")
    store.decide("t1", "ok2#1", es.Approve())
    store.decide("t1", "ok#*", es.Reject("no"))
    fork = store.fork("t1", id="t2")
    assert not [key for key in fork.control if key.startswith(("decision/", "cancel"))]
    store.cancel("t1")
    later = store.fork("t1", id="t3")
    assert "cancel" not in later.control
    assert es.resume(graph, store, "t2").status == "waiting"
