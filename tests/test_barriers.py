"""Barriers: a pause for a human, decided exactly once, by any process."""

from __future__ import annotations

import threading

import pytest

import eventstore as es

FAR = 4_000_000_000_000_000


@pytest.fixture
def waiting(store):
    """A trace that waits at `ask`."""
    trace = store.start({"total": 40}, id="t1")
    trace.raise_barrier("ask", prompt="Refund 40?", keys=["total"], deadline_us=FAR, default=es.Reject("late"))
    return trace


def test_a_trace_waits_and_goes_on(store, waiting):
    assert (waiting.status, waiting.pending_barriers, store.traces()[0].status) == ("waiting", ["ask#1"], "waiting")
    assert waiting.decide("ask#1", es.Approve(by="ana")) == "ask#1"
    assert (waiting.status, waiting.pending_barriers, store.traces()[0].status) == ("running", [], "running")


def test_a_raised_barrier_says_all_that_a_decision_needs(store, waiting):
    (event,) = [event.event for event in store.events("t1") if event.kind == "barrier_raised"]
    assert event == es.BarrierRaised("ask#1", "ask", "Refund 40?", ["total"], FAR, es.Reject("late"))


@pytest.mark.parametrize(
    ("decision", "state"),
    [
        (es.Approve(), {"total": 40, "ask.approved": True}),
        (es.Reject("too much"), {"total": 40, "ask.approved": False, "ask.reject_reason": "too much"}),
        (es.Modify({"total": 30, "note": "ok"}), {"total": 30, "ask.approved": True, "note": "ok"}),
        (es.Reroute("review"), {"total": 40, "ask.rerouted_to": "review"}),
    ],
)
def test_a_decision_and_its_deltas_are_one_commit(store, waiting, raw, decision, state):
    waiting.decide("ask", decision)
    assert waiting.state == store.state_at("t1") == state
    assert raw.execute("SELECT count(*) FROM log").get == 3
    assert {event.event.source for event in store.events("t1") if event.kind == "delta"} == {"human"}
    assert store.verify().ok


def test_every_decision_clears_the_marks_of_the_one_before(store, waiting):
    waiting.decide("ask", es.Reject("no"))
    waiting.raise_barrier("ask")
    waiting.decide("ask", es.Reroute("review"))
    assert waiting.state == store.state_at("t1") == {"total": 40, "ask.rerouted_to": "review"}
    assert waiting.next_node == "review"


def test_the_first_decision_wins(store, waiting):
    elsewhere = store.open_trace("t1")
    assert elsewhere.pending_barriers == ["ask#1"]
    waiting.decide("ask", es.Approve())
    for handle in (waiting, elsewhere, store.open_trace("t1")):
        with pytest.raises(es.BarrierError) as refused:
            handle.decide("ask#1", es.Reject("late"))
        assert (refused.value.trace_id, refused.value.barrier_id) == ("t1", "ask#1")
    assert store.state_at("t1")["ask.approved"] is True
    assert len(waiting.execution_trace().barrier_decisions) == 1


def test_of_many_deciders_exactly_one_wins(store, waiting):
    outcomes, gate = [], threading.Barrier(8)

    def decide(number):
        handle = store.open_trace("t1")
        gate.wait(10)
        try:
            outcomes.append(handle.decide("ask", es.Modify({"total": number})))
        except es.BarrierError as lost:
            outcomes.append(type(lost))

    threads = [threading.Thread(target=decide, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(map(str, outcomes)) == sorted(["ask#1"] + [str(es.BarrierError)] * 7)
    assert store.verify().ok


def test_a_decision_needs_no_version(store, waiting):
    elsewhere = store.open_trace("t1")
    assert elsewhere.state == {"total": 40}
    waiting.append([es.StateDelta.put("total", 50)])
    elsewhere.decide("ask", es.Approve())
    assert store.state_at("t1") == {"total": 50, "ask.approved": True}


def test_a_handle_that_stands_before_the_barrier_can_decide_it(path):
    with es.open(path) as store:
        trace = store.start({"total": 40}, id="t1")
        elsewhere = store.open_trace("t1")
        assert elsewhere.pending_barriers == []
        trace.raise_barrier("ask")
        elsewhere.decide("ask", es.Approve())
        assert store.state_at("t1")["ask.approved"] is True


def test_occurrences_count_up_and_a_node_names_the_single_pending_one(waiting):
    waiting.decide("ask", es.Approve())
    assert waiting.raise_barrier("ask") == "ask#2"
    assert waiting.raise_barrier("ask") == "ask#3"
    with pytest.raises(es.BarrierError, match="ask#2, ask#3"):
        waiting.decide("ask", es.Approve())
    waiting.decide("ask#3", es.Approve())
    assert waiting.pending_barriers == ["ask#2"]
    waiting.decide("ask", es.Approve())


@pytest.mark.parametrize(
    ("name", "reason"), [("pay", "none is pending"), ("ask#2", "none is pending"), ("ask#0", "none is pending")]
)
def test_an_unknown_barrier_is_named(waiting, name, reason):
    with pytest.raises(es.BarrierError, match=reason):
        waiting.decide(name, es.Approve())


def test_a_trace_waits_until_its_last_barrier_is_decided(store, waiting):
    waiting.raise_barrier("pay")
    waiting.decide("ask", es.Approve())
    assert (waiting.status, store.traces()[0].status) == ("waiting", "waiting")


def test_a_barrier_survives_reopening(path):
    with es.open(path) as store:
        store.start({}, id="t1").raise_barrier("ask")
    with es.open(path) as store:
        trace = store.open_trace("t1")
        assert (trace.status, trace.pending_barriers) == ("waiting", ["ask#1"])
        trace.decide("ask", es.Approve())
    with es.open(path) as store:
        assert store.state_at("t1") == {"ask.approved": True}


def test_a_fork_before_the_decision_can_be_decided_otherwise(store, waiting):
    waiting.decide("ask", es.Approve())
    before = store.checkpoints.list("t1")[-1]
    fork = store.fork("t1", at=before.seq)
    assert fork.pending_barriers == ["ask#1"]
    fork.decide("ask", es.Reject("no"))
    assert (store.state_at("t1")["ask.approved"], store.state_at(fork.id)["ask.approved"]) == (True, False)


def test_a_fork_that_inherits_a_barrier_waits_and_verifies(store, waiting):
    fork = store.fork("t1")
    assert (fork.status, fork.pending_barriers) == ("waiting", ["ask#1"])
    assert store.traces()[0].status == "waiting"
    assert store.verify().ok
    fork.decide("ask", es.Approve())
    assert store.verify().ok


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (es.BarrierRaised("ask#3", "ask"), "the next one there is ask#2"),
        (es.BarrierRaised("other", "ask"), "the next one there is ask#2"),
        (es.BarrierDecided("ask#9", "ask", es.Approve()), "not pending"),
    ],
)
def test_an_append_cannot_make_up_a_barrier(waiting, event, reason):
    with pytest.raises(es.BarrierError, match=reason):
        waiting.append([event])
    assert waiting.version == 2
