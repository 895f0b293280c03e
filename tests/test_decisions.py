"""Decisions in runs of graphs: made by anyone, early or in time, once; deadlines, cancelling, the inbox."""

from __future__ import annotations

import threading
import time

import pytest

import eventstore as es

START_S = 1_800_000_000


class Clock:
    """The time, standing still until it is moved."""

    def __init__(self):
        self.now_us = START_S * 1_000_000

    def move(self, seconds):
        self.now_us += round(seconds * 1_000_000)

    def __call__(self):
        return self.now_us * 1000


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "time_ns", clock)
    return clock


@pytest.fixture
def other(path, store):
    """A second handle on the file, as another process would have it."""
    with es.open(path, durability="normal") as other:
        yield other


def nothing(ctx):
    """A node that does nothing."""


def gated(during=nothing, is_async=False, **options):
    """plan -> approve -> act or refuse; `review` is reached by a reroute alone. `during` runs inside `plan`."""
    graph = es.Graph("gated")

    def plan(ctx):
        during(ctx)
        ctx.put("total", 40)

    async def plan_async(ctx):
        plan(ctx)

    graph.node(name="plan")(plan_async if is_async else plan)
    for name in ("act", "refuse", "review"):
        graph.node(name=name)(lambda ctx: {ctx.node: True})
    graph.barrier("approve", prompt=lambda state: f"{state['total']}?", keys=["total"], goes_to=["review"], **options)
    graph.edge("plan", "approve").edge_if("approve", "act", lambda state: state.get("approve.approved", False))
    return graph.edge("approve", "refuse").start("plan").end("act", "refuse", "review")


def looping(**options):
    """draft -> approve -> publish when approved, else draft again. `n` counts the drafts."""
    graph = es.Graph("looping", reducers={"n": "sum"}, max_steps=20)
    graph.node(name="draft")(lambda ctx: {"n": 1})
    graph.node(name="publish")(nothing)
    graph.barrier("approve", **options).edge("draft", "approve")
    graph.edge_if("approve", "publish", lambda state: state["approve.approved"]).edge("approve", "draft")
    return graph.start("draft").end("publish")


def visited(result):
    return [entry.node_name for entry in result.execution_log]


def kinds(store, trace_id="t1"):
    return [event.kind for event in store.events(trace_id)]


def commits(store, trace_id="t1"):
    """The kinds of the events, commit by commit."""
    found = {}
    for event in store.events(trace_id):
        found.setdefault(event.first_seq, []).append(event.kind)
    return list(found.values())


def decisions(store, trace_id="t1"):
    """`(barrier, decision)` of each decision made, as the execution trace has them."""
    return [(made.barrier_id, made.decision) for made in store.open_trace(trace_id).execution_trace().barrier_decisions]


def marked(store, trace_id="t1"):
    """`(triggers, seq, current_node)` of the checkpoints, oldest first."""
    found = reversed(store.checkpoints.list(trace_id))
    return [([trigger.name for trigger in each.triggers], each.seq, each.current_node) for each in found]


def seq_of(store, kind, trace_id="t1"):
    """Where the one event of a kind stands."""
    (seq,) = [event.seq for event in store.events(trace_id) if event.kind == kind]
    return seq


# The four decisions


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("decision", "state", "last"),
    [
        (es.Approve(by="ana"), {"total": 40, "approve.approved": True}, "act"),
        (
            es.Reject("too much", by="ana"),
            {"total": 40, "approve.approved": False, "approve.reject_reason": "too much"},
            "refuse",
        ),
        (
            es.Modify({"total": 30, "note": {"by": ["ana"]}}, by="ana"),
            {"total": 30, "approve.approved": True, "note": {"by": ["ana"]}},
            "act",
        ),
        (es.Reroute("review", by="ana"), {"total": 40, "approve.rerouted_to": "review"}, "review"),
        (es.Reroute("act"), {"total": 40, "approve.rerouted_to": "act"}, "act"),
    ],
    ids=["approve", "reject", "modify", "reroute by goes_to", "reroute by an edge"],
)
def test_a_decision_shows_in_the_state_and_says_where_the_run_goes(store, decision, state, last, is_async):
    graph = gated(is_async=is_async)
    paused = es.run(graph, store, id="t1")
    assert (paused.status, paused.pending_barriers, visited(paused)) == ("waiting", ["approve#1"], ["plan"])
    store.decide("t1", "approve", decision)
    result = es.resume(graph, store, "t1")
    assert (result.status, result.pending_barriers) == ("completed", [])
    assert visited(result) == ["plan", "approve", last]
    assert result.state == store.state_at("t1") == {**state, last: True}
    assert decisions(store) == [("approve#1", decision)]
    assert store.verify().ok


def test_a_decision_is_one_commit_with_its_deltas_and_they_are_a_humans(store):
    es.run(gated(), store, id="t1")
    store.decide("t1", "approve", es.Modify({"total": 30, "note": 1}, by="ana"))
    assert commits(store)[-1] == ["barrier_decided", "delta", "delta", "delta"]
    made = [event.event for event in store.events("t1") if event.seq > seq_of(store, "barrier_decided")]
    assert {(delta.key, delta.source.value) for delta in made} == {
        ("approve.approved", "human"),
        ("total", "human"),
        ("note", "human"),
    }
    (record,) = store.open_trace("t1").execution_trace().barrier_decisions
    assert (record.barrier_id, record.node_id, record.by) == ("approve#1", "approve", "ana")
    assert record.decided_at == list(store.events("t1"))[-1].at


def test_a_modify_is_literal_whatever_the_reducer(store):
    graph = looping()
    es.run(graph, store, id="t1")
    store.decide("t1", "approve", es.Modify({"n": 10}))
    assert es.resume(graph, store, "t1").state["n"] == 10


def test_a_modify_that_the_log_cannot_hold_decides_nothing(store):
    es.run(gated(), store, id="t1")
    with pytest.raises(es.ValueRefused, match="total"):
        store.decide("t1", "approve", es.Modify({"total": float("nan")}))
    assert store.open_trace("t1").pending_barriers == ["approve#1"]
    assert "barrier_decided" not in kinds(store)


@pytest.mark.parametrize("barrier", ["approve", "approve#1", "approve#2", "approve#*"])
def test_a_reroute_to_a_node_that_the_graph_does_not_have_is_refused(store, barrier):
    es.run(gated(), store, id="t1")
    before = store.open_trace("t1").version
    with pytest.raises(es.BarrierError, match="the graph has no node 'nowhere' to go to") as refused:
        store.decide("t1", barrier, es.Reroute("nowhere"))
    assert (refused.value.trace_id, refused.value.barrier_id) == ("t1", barrier)
    assert (store.open_trace("t1").version, store.open_trace("t1").status) == (before, "waiting")


def test_a_reroute_into_a_branch_is_refused(store):
    graph = es.Graph("branch").barrier("approve")
    graph.node(name="inside")(nothing)
    graph.parallel("p", "inside").edge("approve", "p").start("approve").end("p")
    es.run(graph, store, id="t1")
    with pytest.raises(es.BarrierError, match="'inside'"):
        store.decide("t1", "approve", es.Reroute("inside"))


def test_a_barrier_may_be_rerouted_to_itself_and_asks_again(store):
    graph = gated()
    es.run(graph, store, id="t1")
    store.decide("t1", "approve", es.Reroute("approve"))
    assert es.resume(graph, store, "t1").pending_barriers == ["approve#2"]
    store.decide("t1", "approve", es.Approve())
    assert es.resume(graph, store, "t1").state == {"total": 40, "approve.approved": True, "act": True}


def test_the_next_decision_clears_the_marks_of_the_one_before(store):
    graph, seen = looping(), []
    es.run(graph, store, id="t1")
    for decision in (es.Reject("one"), es.Modify({"approve.approved": False}), es.Reroute("draft"), es.Approve()):
        store.decide("t1", "approve", decision)
        state = es.resume(graph, store, "t1").state
        seen.append({key: value for key, value in state.items() if key.startswith("approve.")})
    assert seen == [
        {"approve.approved": False, "approve.reject_reason": "one"},
        {"approve.approved": False},
        {"approve.rerouted_to": "draft"},
        {"approve.approved": True},
    ]
    cleared = [event.event for event in store.events("t1") if event.kind == "delta" and event.event.op == "delete"]
    assert {delta.source.value for delta in cleared} == {"human"}
    assert store.verify().ok


def test_the_marks_are_flat_keys(store):
    es.run(gated(), store, {"approve": {"approved": "mine"}}, id="t1")
    store.decide("t1", "approve", es.Approve())
    assert store.get("t1", "approve.approved") is True
    assert store.get("t1", "approve") == {"approved": "mine"}
    assert store.open_trace("t1").get("approve.approved", type=bool) is True


def test_a_decision_needs_no_graph_and_starts_nothing(store):
    es.run(gated(), store, id="t1")
    store.decide("t1", "approve", es.Approve())
    assert store.open_trace("t1").status == "running"
    assert [entry.node_name for entry in store.open_trace("t1").entries()] == ["plan"]


def test_a_run_that_waits_gives_the_same_answer_however_often_it_is_asked(store):
    graph = gated()
    es.run(graph, store, id="t1")
    before = store.open_trace("t1").version
    for again in (es.resume(graph, store, "t1"), es.run(graph, store, id="t1"), es.run(graph, store, {}, id="t1")):
        assert (again.status, again.pending_barriers, again.state) == ("waiting", ["approve#1"], {"total": 40})
    assert store.open_trace("t1").version == before


def test_a_prompt_that_raises_fails_the_run_as_a_node_would(store):
    broken = [True]
    graph = es.Graph("prompt").barrier("approve", prompt=lambda state: 1 / 0 if broken else "Go on?")
    graph.start("approve").end("approve")
    with pytest.raises(es.RunFailed, match="ZeroDivisionError") as failed:
        es.run(graph, store, id="t1")
    assert failed.value.node == "approve"
    assert store.open_trace("t1").status == "failed"
    broken.clear()
    assert es.resume(graph, store, "t1").status == "waiting"
    assert store.barriers()[0].prompt == "Go on?"


@pytest.mark.parametrize("early", [False, True], ids=["in time", "early"])
def test_a_condition_that_raises_after_a_decision_does_not_undo_it(store, early):
    graph, broken = es.Graph("route"), [True]
    graph.node(name="plan")(lambda ctx: store.decide("t1", "approve#1", es.Approve()) and None if early else None)
    graph.node(name="act")(nothing)

    def choose(state):
        if broken:
            raise LookupError("not ready")
        return state["approve.approved"]

    graph.barrier("approve").edge("plan", "approve").edge_if("approve", "act", choose).start("plan").end("act")
    if early:
        with pytest.raises(es.RunFailed, match="not ready"):
            es.run(graph, store, id="t1")
    else:
        es.run(graph, store, id="t1")
        store.decide("t1", "approve", es.Approve())
        with pytest.raises(es.RunFailed, match="not ready"):
            es.resume(graph, store, "t1")
    assert store.state_at("t1") == {"approve.approved": True}
    broken.clear()
    assert visited(es.resume(graph, store, "t1")) == ["plan", "approve", "act"]
    assert decisions(store) == [("approve#1", es.Approve())]
    assert store.verify().ok


# Which barrier


def test_a_barrier_is_named_by_its_node_or_by_its_id(store):
    for trace_id, barrier in (("t1", "approve"), ("t2", "approve#1")):
        es.run(gated(), store, id=trace_id)
        assert store.decide(trace_id, barrier, es.Approve()) == "approve#1"
        assert decisions(store, trace_id) == [("approve#1", es.Approve())]


def test_a_loop_counts_the_visits_of_its_barrier(store):
    graph = looping()
    assert es.run(graph, store, id="t1").pending_barriers == ["approve#1"]
    for visit in (1, 2, 3):
        assert store.decide("t1", "approve", es.Reject(str(visit))) == f"approve#{visit}"
        assert es.resume(graph, store, "t1").pending_barriers == [f"approve#{visit + 1}"]
    store.decide("t1", "approve#4", es.Approve())
    assert es.resume(graph, store, "t1").state["n"] == 4
    assert [barrier for barrier, _ in decisions(store)] == ["approve#1", "approve#2", "approve#3", "approve#4"]
    assert store.verify().ok


def test_a_decision_may_come_before_its_visit(store):
    graph = looping()
    es.run(graph, store, id="t1")
    assert store.decide("t1", "approve#2", es.Approve(by="ana")) == "approve#2"
    assert store.open_trace("t1").pending_barriers == ["approve#1"]
    store.decide("t1", "approve", es.Reject("no"))
    result = es.resume(graph, store, "t1")
    assert (result.status, result.state["n"]) == ("completed", 2)
    assert decisions(store) == [("approve#1", es.Reject("no")), ("approve#2", es.Approve(by="ana"))]
    assert [event.event.submitted for event in store.events("t1") if event.kind == "barrier_decided"] == [False, True]
    assert not [key for key in store.open_trace("t1").control if key.startswith("decision/")]
    assert store.verify().ok


@pytest.mark.parametrize("barrier", ["approve#1", "approve#*"])
@pytest.mark.parametrize(
    ("decision", "state", "last"),
    [
        (es.Approve(), {"total": 40, "approve.approved": True}, "act"),
        (es.Reject("no"), {"total": 40, "approve.approved": False, "approve.reject_reason": "no"}, "refuse"),
        (es.Modify({"total": 1, "x": 2}), {"total": 1, "approve.approved": True, "x": 2}, "act"),
        (es.Reroute("review"), {"total": 40, "approve.rerouted_to": "review"}, "review"),
    ],
    ids=["approve", "reject", "modify", "reroute"],
)
def test_using_an_early_decision_is_one_commit_from_the_question_to_the_way_on(
    store, other, barrier, decision, state, last
):
    graph = gated(during=lambda ctx: other.decide("t1", barrier, decision))
    result = es.run(graph, store, id="t1")
    assert (result.status, visited(result)) == ("completed", ["plan", "approve", last])
    assert result.state == store.state_at("t1") == {**state, last: True}
    (row,) = [row for row in commits(store) if "barrier_raised" in row]
    assert row[:2] == ["barrier_raised", "barrier_decided"] and row[-1] == "node_executed"
    first = {event.first_seq for event in store.events("t1") if event.kind in ("barrier_raised", "barrier_decided")}
    assert len(first) == 1
    sources = {
        event.event.source.value for event in store.events("t1") if event.kind == "delta" and event.first_seq in first
    }
    assert sources == {"human"}
    assert store.verify().ok


@pytest.mark.parametrize("handle", ["the same store", "another store"])
def test_a_decision_that_arrives_while_the_node_before_runs_is_used(store, other, handle):
    decider = store if handle == "the same store" else other
    graph = gated(during=lambda ctx: decider.decide("t1", "approve#1", es.Approve(by="bo")))
    result = es.run(graph, store, id="t1")
    assert (result.status, result.state["act"]) == ("completed", True)
    assert commits(store)[1:3] == [["decision_submitted"], ["delta", "node_executed"]]
    assert decisions(store) == [("approve#1", es.Approve(by="bo"))]


def test_a_decision_that_arrives_just_before_the_question_is_used(store, other):
    def ask(state):
        if not other.open_trace("t1").control.get("decision/approve#1"):
            other.decide("t1", "approve#1", es.Approve())
        return "Go on?"

    graph = es.Graph("race").barrier("approve", prompt=ask).start("approve").end("approve")
    result = es.run(graph, store, id="t1")
    assert (result.status, result.state) == ("completed", {"approve.approved": True})
    assert kinds(store).count("barrier_raised") == 1
    assert store.verify().ok


def test_a_standing_decision_decides_every_visit(store):
    graph = looping()
    es.run(graph, store, id="t1")
    store.decide("t1", "approve#*", es.Modify({"approve.approved": False}))
    with pytest.raises(es.RunFailed, match="max_steps"):
        es.resume(graph, store, "t1")
    assert {barrier for barrier, _ in decisions(store)} == {f"approve#{visit}" for visit in range(1, 11)}
    assert "decision/approve#*" in store.open_trace("t1").control


def test_a_standing_decision_decides_what_is_pending_now(store):
    graph = gated()
    es.run(graph, store, id="t1")
    assert store.decide("t1", "approve#*", es.Approve(by="rule")) == "approve#*"
    assert decisions(store) == [("approve#1", es.Approve(by="rule"))]
    assert store.barriers() == []
    assert es.resume(graph, store, "t1").status == "completed"
    assert store.verify().ok


def test_a_standing_decision_may_be_replaced_until_it_is_used(store, other):
    def during(ctx):
        other.decide("t1", "approve#*", es.Approve())
        other.decide("t1", "approve#*", es.Reject("on second thought"))

    assert es.run(gated(during), store, id="t1").state["approve.reject_reason"] == "on second thought"
    assert decisions(store) == [("approve#1", es.Reject("on second thought"))]


@pytest.mark.parametrize("exact_first", [True, False])
def test_an_exact_decision_beats_the_standing_one_and_is_used_once(store, exact_first):
    graph = looping()
    es.run(graph, store, id="t1")
    early = [("approve#2", es.Reject("exact")), ("approve#*", es.Approve(by="rule"))]
    if not exact_first:  # the pending one is decided by the rule, too
        store.decide("t1", "approve", es.Reject("first"))
    for barrier, decision in early if exact_first else reversed(early):
        if barrier == "approve#*" and exact_first:
            store.decide("t1", "approve", es.Reject("first"))
        store.decide("t1", barrier, decision)
    result = es.resume(graph, store, "t1")
    assert (result.status, result.state["n"]) == ("completed", 3)
    assert decisions(store) == [
        ("approve#1", es.Reject("first")),
        ("approve#2", es.Reject("exact")),
        ("approve#3", es.Approve(by="rule")),
    ]


# What does not fit


@pytest.mark.parametrize("barrier", ["pay", "pay#1", "pay#*", "plan#1", "plan#*", "approve#0", "approve#x", "approve#",
                                     "#1", "", "approve#-1", "approve#02", "approve#²"])  # fmt: skip
def test_an_unknown_barrier_is_named_with_those_that_wait(store, barrier):
    es.run(gated(), store, id="t1")
    before = store.open_trace("t1").version
    with pytest.raises(es.BarrierError) as refused:
        store.decide("t1", barrier, es.Approve())
    assert (refused.value.trace_id, refused.value.barrier_id) == ("t1", barrier)
    assert store.open_trace("t1").version == before


def test_a_node_alone_names_only_a_barrier_that_waits(store, other):
    def during(ctx):
        with pytest.raises(es.BarrierError, match="none is pending there; pending: none"):
            other.decide("t1", "approve", es.Approve())

    assert es.run(gated(during), store, id="t1").status == "waiting"


def test_the_first_decision_wins(store, other):
    es.run(gated(), store, id="t1")
    late = other.open_trace("t1")
    assert late.pending_barriers == ["approve#1"]
    store.decide("t1", "approve", es.Approve())
    for decide in (late.decide, lambda *what: store.decide("t1", *what)):
        with pytest.raises(es.BarrierError, match="it was decided already") as refused:
            decide("approve#1", es.Reject("late"))
        assert (refused.value.trace_id, refused.value.barrier_id) == ("t1", "approve#1")
    assert decisions(store) == [("approve#1", es.Approve())]


def test_the_first_early_decision_wins(store):
    es.run(looping(), store, id="t1")
    store.decide("t1", "approve#2", es.Approve())
    with pytest.raises(es.BarrierError, match="decided already, before it was raised") as refused:
        store.decide("t1", "approve#2", es.Reject("no"))
    assert refused.value.barrier_id == "approve#2"


def test_a_decision_after_the_end_says_how_the_run_ended(store):
    graph = gated()
    es.run(graph, store, id="t1")
    store.decide("t1", "approve", es.Approve())
    es.resume(graph, store, "t1")
    before = store.open_trace("t1").version
    for barrier in ("approve", "approve#1", "approve#2", "approve#*"):
        with pytest.raises(es.TraceEndedError) as refused:
            store.decide("t1", barrier, es.Approve())
        assert (refused.value.trace_id, refused.value.status) == ("t1", "completed")
    assert store.open_trace("t1").version == before


def test_a_decision_for_a_run_that_does_not_exist_says_so(store):
    with pytest.raises(es.TraceNotFound):
        store.decide("t1", "approve", es.Approve())


# What comes between


def test_mail_does_not_disturb_the_step_in_progress(store, other):
    runs = []

    def during(ctx):
        runs.append(ctx.attempt)
        other.open_trace("t1").note("seen", {"by": "bo"})
        other.decide("t1", "approve#1", es.Approve())
        other.decide("t1", "approve#7", es.Reject("never"))
        store.open_trace("t1").note("seen", {"by": "ana"})

    result = es.run(gated(during), store, id="t1")
    assert (result.status, runs, result.state["total"]) == ("completed", [1], 40)
    assert kinds(store).count("note") == 2
    assert store.verify().ok


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_foreign_change_of_the_state_refuses_the_step_and_the_run_can_be_resumed(store, other, is_async):
    runs = []

    def during(ctx):
        runs.append(ctx.attempt)
        if len(runs) == 1:
            other.open_trace("t1").append([es.StateDelta.put("foreign", True)])

    graph = gated(during, is_async=is_async)
    with pytest.raises(es.WrongExpectedVersion) as refused:
        es.run(graph, store, id="t1")
    assert (refused.value.trace_id, refused.value.expected, refused.value.actual) == ("t1", 2, 3)
    assert store.state_at("t1") == {"foreign": True}
    assert es.resume(graph, other, "t1").state == {"foreign": True, "total": 40}
    assert runs == [1, 1]
    assert store.verify().ok


# Deadlines


def deadline(clock, default=None, timeout_s=60, **options):
    """A gated graph with a deadline of a minute, and the decision that stands then."""
    return gated(timeout_s=timeout_s, on_timeout=default, **options)


@pytest.mark.parametrize("after_s", [0, 59.999999])
def test_before_the_deadline_a_decision_counts(store, clock, after_s):
    graph = deadline(clock)
    es.run(graph, store, id="t1")
    clock.move(after_s)
    store.decide("t1", "approve", es.Approve())
    clock.move(3600)
    assert es.resume(graph, store, "t1").state["act"] is True
    assert decisions(store) == [("approve#1", es.Approve())]


@pytest.mark.parametrize("after_s", [60, 60.000001, 86_400])
def test_at_the_deadline_and_after_it_the_default_stands(store, clock, after_s):
    graph = deadline(clock, es.Modify({"total": 0}))
    es.run(graph, store, id="t1")
    clock.move(after_s)
    with pytest.raises(es.BarrierExpired) as late:
        store.decide("t1", "approve", es.Approve())
    assert (late.value.trace_id, late.value.barrier_id) == ("t1", "approve#1")
    assert late.value.default == es.Modify({"total": 0})
    assert str(late.value) == (
        "barrier approve#1 of trace t1: its deadline, 2027-01-15 08:01:00 UTC, has passed; the default (modify) stands"
    )
    assert decisions(store) == [("approve#1", es.Modify({"total": 0}))]
    sources = [event.event.source.value for event in store.events("t1") if event.kind == "delta"]
    assert sources == ["node", "system", "system"]
    assert commits(store)[-1] == ["barrier_decided", "delta", "delta"]
    assert es.resume(graph, store, "t1").state == {"total": 0, "approve.approved": True, "act": True}
    assert store.verify().ok


def test_after_the_default_was_applied_the_barrier_is_decided_like_any_other(store, clock):
    es.run(deadline(clock), store, id="t1")
    clock.move(61)
    with pytest.raises(es.BarrierExpired):
        store.decide("t1", "approve", es.Approve())
    with pytest.raises(es.BarrierError, match="decided already") as late:
        store.decide("t1", "approve#1", es.Approve())
    assert type(late.value) is es.BarrierError


@pytest.mark.parametrize("looker", ["decide", "resume", "run", "expire"])
def test_whoever_looks_first_applies_the_default_and_nobody_else(store, clock, looker):
    graph = deadline(clock, es.Approve(by="default"))
    es.run(graph, store, id="t1")
    handle = store.open_trace("t1")
    assert handle.expire() == []
    clock.move(60)
    if looker == "decide":
        with pytest.raises(es.BarrierExpired):
            handle.decide("approve", es.Reject("late"))
    elif looker == "expire":
        assert handle.expire() == ["approve#1"]
    elif looker == "resume":
        assert es.resume(graph, store, "t1").status == "completed"
    else:
        assert es.run(graph, store, id="t1").status == "completed"
    assert handle.expire() == store.open_trace("t1").expire() == []
    assert es.resume(graph, store, "t1").state == {"total": 40, "approve.approved": True, "act": True}
    assert decisions(store) == [("approve#1", es.Approve(by="default"))]
    assert store.verify().ok


@pytest.mark.parametrize(
    ("default", "state", "last"),
    [
        (es.Approve(), {"approve.approved": True}, "act"),
        (es.Reject("late"), {"approve.approved": False, "approve.reject_reason": "late"}, "refuse"),
        (es.Reroute("review"), {"approve.rerouted_to": "review"}, "review"),
        (
            None,
            {"approve.approved": False, "approve.reject_reason": "no decision within 60 s"},
            "refuse",
        ),
    ],
    ids=["approve", "reject", "reroute", "none"],
)
def test_the_default_is_any_decision_and_without_one_a_rejection(store, clock, default, state, last):
    graph = deadline(clock, default)
    es.run(graph, store, id="t1")
    clock.move(60)
    result = es.resume(graph, store, "t1")
    assert result.state == {"total": 40, **state, last: True}
    assert visited(result)[-1] == last


def test_a_deadline_survives_reopening(path, clock):
    graph = deadline(clock)
    with es.open(path, durability="normal") as store:
        es.run(graph, store, id="t1")
    clock.move(59)
    with es.open(path, durability="normal") as store:
        assert es.resume(graph, store, "t1").status == "waiting"
    clock.move(1)
    with es.open(path, durability="normal") as store:
        assert es.resume(graph, store, "t1").state["refuse"] is True


def test_looking_shows_that_it_expired_and_writes_nothing(store, clock):
    es.run(deadline(clock), store, id="t1")
    (info,) = store.barriers()
    assert (info.expired, info.deadline_at.timestamp()) == (False, START_S + 60)
    clock.move(60)
    before = store.open_trace("t1").version
    (info,) = store.barriers()
    trace = store.open_trace("t1")
    assert (info.expired, info.decision, info.default) == (True, None, es.Reject("no decision within 60 s"))
    assert (trace.status, trace.pending_barriers, trace.state) == ("waiting", ["approve#1"], {"total": 40})
    assert trace.execution_trace().barrier_decisions == []
    assert store.open_trace("t1").version == before


def test_without_a_deadline_a_run_waits_forever(store, clock):
    graph = gated()
    es.run(graph, store, id="t1")
    clock.move(1e9)
    assert es.resume(graph, store, "t1").status == "waiting"
    assert store.open_trace("t1").expire() == []
    assert store.barriers()[0].expired is False


def test_a_deadline_of_real_milliseconds_passes(store):
    graph = deadline(None, timeout_s=0.005)
    es.run(graph, store, id="t1")
    until = time.monotonic() + 10
    while es.resume(graph, store, "t1").status == "waiting" and time.monotonic() < until:
        time.sleep(0.002)
    assert store.state_at("t1")["refuse"] is True


def test_every_visit_has_its_own_deadline(store, clock):
    graph = looping(timeout_s=60)
    es.run(graph, store, id="t1")
    clock.move(50)
    store.decide("t1", "approve", es.Reject("again"))
    es.resume(graph, store, "t1")
    clock.move(50)
    assert store.barriers()[0].expired is False
    clock.move(10)
    assert store.open_trace("t1").expire() == ["approve#2"]


def test_an_early_decision_is_in_time_whatever_the_clock_says(store, other, clock):
    def during(ctx):
        other.decide("t1", "approve#1", es.Approve())
        clock.move(3600)

    assert es.run(deadline(clock, during=during), store, id="t1").state["act"] is True


def test_a_standing_decision_comes_too_late_for_one_that_expired_and_still_stands(store, clock):
    graph = looping(timeout_s=60)
    es.run(graph, store, id="t1")
    clock.move(60)
    with pytest.raises(es.BarrierExpired) as late:
        store.decide("t1", "approve#*", es.Approve())
    assert late.value.barrier_id == "approve#1"
    result = es.resume(graph, store, "t1")
    assert (result.status, result.state["n"]) == ("completed", 2)
    assert [barrier for barrier, _ in decisions(store)] == ["approve#1", "approve#2"]


def test_a_clock_that_jumps_back_does_not_take_a_passed_deadline_back(store, clock):
    es.run(deadline(clock), store, id="t1")
    clock.move(61)
    store.open_trace("t1").note("the time is in the log")
    clock.move(-3600)
    with pytest.raises(es.BarrierExpired):
        store.decide("t1", "approve", es.Approve())
    times = [event.at for event in store.events("t1")]
    assert times == sorted(times)


def test_the_inbox_and_a_decision_agree_about_a_deadline_when_the_clock_jumped_back(store, clock):
    es.run(deadline(clock), store, id="t1")
    clock.move(61)
    store.open_trace("t1").note("the time is in the log")
    clock.move(-3600)
    (info,) = store.barriers()
    assert info.expired is (store.open_trace("t1").expire() == ["approve#1"])


def test_a_clock_that_jumped_back_before_the_question_leaves_all_the_time_to_decide(store, clock):
    graph = deadline(clock, during=lambda ctx: clock.move(-3600))
    es.run(graph, store, id="t1")
    (info,) = store.barriers()
    assert (info.deadline_at - info.raised_at).total_seconds() == 60
    store.decide("t1", "approve", es.Approve())
    assert decisions(store) == [("approve#1", es.Approve())]


# Forks


def test_a_fork_raises_its_barriers_anew_with_all_the_time_to_decide(store, clock):
    graph = deadline(clock)
    es.run(graph, store, id="t1")
    clock.move(59)
    fork = store.fork("t1", id="t2")
    assert (fork.status, fork.pending_barriers) == ("waiting", ["approve#1"])
    clock.move(30)
    assert [(info.trace_id, info.expired) for info in store.barriers()] == [("t1", True), ("t2", False)]
    assert {info.prompt for info in store.barriers()} == {"40?"}
    store.decide("t2", "approve", es.Approve())
    assert es.resume(graph, store, "t2").state["act"] is True
    assert es.resume(graph, store, "t1").state["refuse"] is True
    assert store.verify().ok


def test_a_fork_before_the_decision_decides_otherwise(store):
    graph = gated()
    es.run(graph, store, id="t1")
    store.decide("t1", "approve", es.Approve())
    es.resume(graph, store, "t1")
    before = next(each for each in store.checkpoints.list("t1") if es.CheckpointTrigger.HUMAN_DECISION in each.triggers)
    fork = store.fork("t1", at=before.seq, id="t2")
    assert fork.pending_barriers == ["approve#1"]
    assert es.resume(graph, store, "t2").status == "waiting"
    store.decide("t2", "approve", es.Reject("no"))
    assert es.resume(graph, store, "t2").state["refuse"] is True
    assert (store.state_at("t1")["approve.approved"], store.state_at("t2")["approve.approved"]) == (True, False)
    assert decisions(store, "t1") == [("approve#1", es.Approve())]
    assert store.verify().ok


def test_a_fork_before_an_early_decision_was_used_asks(store, other):
    graph = gated(during=lambda ctx: ctx.trace_id == "t1" and other.decide("t1", "approve#*", es.Approve()))
    es.run(graph, store, id="t1")
    before = next(each for each in store.checkpoints.list("t1") if es.CheckpointTrigger.HUMAN_DECISION in each.triggers)
    fork = store.fork("t1", at=before.seq, id="t2")
    assert (fork.status, fork.next_node) == ("running", "approve")
    assert es.resume(graph, store, "t2").pending_barriers == ["approve#1"]
    store.decide("t2", "approve", es.Reject("no"))
    assert es.resume(graph, store, "t2").state["refuse"] is True
    assert store.verify().ok


def test_a_fork_after_the_decision_goes_on_without_asking(store):
    graph = gated()
    es.run(graph, store, id="t1")
    store.decide("t1", "approve", es.Approve())
    after = next(
        each for each in store.checkpoints.list("t1") if es.CheckpointTrigger.BARRIER_RESOLVED in each.triggers
    )
    store.fork("t1", at=after.seq, id="t2")
    result = es.resume(graph, store, "t2")
    assert (result.status, result.state["act"]) == ("completed", True)
    assert store.verify().ok


# Cancelling


def ending(store, trace_id="t1"):
    """The last event."""
    return list(store.events(trace_id))[-1].event


def test_a_waiting_run_is_cancelled_at_once(store):
    graph = gated()
    es.run(graph, store, id="t1")
    assert store.cancel("t1", by="ana", reason="not needed") is True
    trace = store.open_trace("t1")
    assert (trace.status, ending(store)) == ("cancelled", es.TraceEnded("cancelled", "not needed"))
    assert commits(store)[-1] == ["cancel_requested", "trace_ended"]
    asked = next(event.event for event in store.events("t1") if event.kind == "cancel_requested")
    assert (asked.by, asked.reason) == ("ana", "not needed")
    assert store.barriers() == []
    with pytest.raises(es.TraceEndedError) as refused:
        store.decide("t1", "approve", es.Approve())
    assert refused.value.status == "cancelled"
    with pytest.raises(es.TraceEndedError):
        es.resume(graph, store, "t1")
    assert store.verify().ok


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("handle", ["the same store", "another store"])
def test_a_running_one_is_cancelled_at_its_next_step(store, other, handle, is_async):
    answers = []
    canceller = store if handle == "the same store" else other
    graph = gated(lambda ctx: answers.append(canceller.cancel("t1", reason="enough")), is_async=is_async)
    result = es.run(graph, store, id="t1")
    assert (answers, result.status) == ([False], "cancelled")
    assert result.state == {"total": 40}
    assert ending(store) == es.TraceEnded("cancelled", "enough")
    assert kinds(store)[2:] == ["cancel_requested", "delta", "node_executed", "trace_ended"]
    assert store.verify().ok


def test_a_long_node_can_see_that_the_run_was_cancelled(store, other):
    seen = []

    def during(ctx):
        assert not ctx.cancelled
        other.cancel("t1")
        until = time.monotonic() + 1.5
        while not ctx.cancelled and time.monotonic() < until:
            time.sleep(0.002)
        seen.append(ctx.cancelled)

    assert es.run(gated(during), store, id="t1").status == "cancelled"
    assert seen == [True]


def test_a_run_that_nobody_works_on_is_cancelled_at_once(store):
    stop = threading.Event()
    assert es.run(gated(during=lambda ctx: stop.set()), store, id="t1", stop=stop).status == "running"
    assert store.cancel("t1") is True
    assert store.open_trace("t1").status == "cancelled"


def test_a_run_whose_owner_died_is_cancelled_at_once(store, raw, tmp_path):
    copy = str(tmp_path / "copy.db")
    es.run(gated(during=lambda ctx: raw.execute("VACUUM INTO ?", (copy,))), store, id="t1")
    with es.open(copy, durability="normal") as after:
        assert after.open_trace("t1").status == "running"
        assert after.cancel("t1") is True
        assert after.open_trace("t1").status == "cancelled"
        assert after.verify().ok


def test_a_run_that_has_ended_cannot_be_cancelled(store):
    graph = es.Graph("short")
    graph.node(name="a")(nothing)
    es.run(graph.start("a").end("a"), store, id="t1")
    before = store.open_trace("t1").version
    with pytest.raises(es.TraceEndedError) as refused:
        store.cancel("t1")
    assert (refused.value.trace_id, refused.value.status) == ("t1", "completed")
    assert store.open_trace("t1").version == before
    with pytest.raises(es.TraceNotFound):
        store.cancel("nowhere")


def test_a_cancelled_run_that_is_reopened_goes_on(store, other):
    cancelled = []

    def during(ctx):
        if not cancelled:
            cancelled.append(other.cancel("t1"))

    graph = gated(during)
    assert es.run(graph, store, id="t1").status == "cancelled"
    result = es.resume(graph, store, "t1", reopen=True)
    assert (result.status, result.pending_barriers) == ("waiting", ["approve#1"])
    store.decide("t1", "approve", es.Approve())
    assert es.resume(graph, store, "t1").status == "completed"
    assert store.verify().ok


def test_a_run_that_was_cancelled_while_it_waited_waits_again_when_reopened(store):
    graph = gated()
    es.run(graph, store, id="t1")
    store.cancel("t1")
    result = es.resume(graph, store, "t1", reopen=True)
    assert (result.status, result.pending_barriers) == ("waiting", ["approve#1"])
    assert [info.barrier_id for info in store.barriers()] == ["approve#1"]
    store.decide("t1", "approve", es.Approve())
    assert es.resume(graph, store, "t1").state["act"] is True
    assert store.verify().ok


# Checkpoints


def decided_run(path, policy, decision, early=False):
    """A store with one run that waited, was decided and went on to its end."""
    store = es.open(path, durability="normal", checkpoint_policy=policy)

    def during(ctx):
        if early:
            store.decide("t1", "approve#1", decision)

    graph = gated(during)
    es.run(graph, store, id="t1")
    if not early:
        store.decide("t1", "approve", decision)
        es.resume(graph, store, "t1")
    return store


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (es.CheckpointPolicy.conservative(), ["human_decision", "barrier_resolved", "execution_completed"]),
        (es.CheckpointPolicy.minimal(), ["barrier_resolved", "execution_completed"]),
        (es.CheckpointPolicy.manual(), []),
        (es.CheckpointPolicy.adaptive(), ["human_decision", "barrier_resolved", "execution_completed"]),
    ],
    ids=["conservative", "minimal", "manual", "adaptive"],
)
def test_a_preset_marks_what_it_names(path, policy, expected):
    with decided_run(path, policy, es.Approve()) as store:
        assert [trigger for triggers, _, _ in marked(store) for trigger in triggers] == expected


def test_the_places_around_a_decision_are_before_it_after_it_and_the_end(path):
    with decided_run(path, None, es.Modify({"total": 30})) as store:
        raised, decided = seq_of(store, "barrier_raised"), seq_of(store, "barrier_decided")
        end = store.open_trace("t1").version
        assert marked(store) == [
            (["human_decision"], raised, "approve"),
            (["barrier_resolved"], decided + 2, "approve"),
            (["execution_completed"], end, None),
        ]
        before, after, last = reversed(store.checkpoints.list("t1"))
        assert before.state == {"total": 40}
        assert after.state == {"total": 30, "approve.approved": True}
        assert last.state == store.state_at("t1")
        assert {each.graph_hash for each in (before, after, last)} == {gated().hash()}


def test_after_a_reroute_the_place_after_the_decision_names_its_target(path):
    with decided_run(path, None, es.Reroute("review")) as store:
        assert marked(store)[1][2] == "review"


@pytest.mark.parametrize(
    ("decision", "target"), [(es.Approve(), "act"), (es.Reject("no"), "refuse"), (es.Reroute("review"), "review")]
)
def test_around_an_early_decision_the_places_are_before_the_question_and_after_the_way_on(path, decision, target):
    with decided_run(path, None, decision, early=True) as store:
        raised, end = seq_of(store, "barrier_raised"), store.open_trace("t1").version
        row_end = max(event.seq for event in store.events("t1") if event.first_seq == raised)
        assert marked(store) == [
            (["human_decision"], raised - 1, "approve"),
            (["barrier_resolved"], row_end, target),
            (["execution_completed"], end, None),
        ]


def test_a_default_is_marked_like_a_decision(store, clock):
    es.run(deadline(clock), store, id="t1")
    clock.move(60)
    store.open_trace("t1").expire()
    assert [triggers for triggers, _, _ in marked(store)] == [["human_decision"], ["barrier_resolved"]]


def test_a_barrier_at_the_end_marks_both_at_one_place(store, other):
    graph = es.Graph("last")
    graph.node(name="a")(lambda ctx: other.decide("t1", "approve#1", es.Approve()) and None)
    graph.barrier("approve").edge("a", "approve").start("a").end("approve")
    es.run(graph, store, id="t1")
    assert marked(store)[-1] == (
        ["barrier_resolved", "execution_completed"],
        store.open_trace("t1").version,
        None,
    )


def test_a_node_may_ask_for_a_checkpoint(path):
    graph = es.Graph("explicit")
    graph.node(name="a")(lambda ctx: ctx.put("n", 1) or ctx.checkpoint())
    graph.node(name="b")(lambda ctx: {"n": 2})
    with es.open(path, durability="normal", checkpoint_policy=es.CheckpointPolicy.manual()) as store:
        es.run(graph.edge("a", "b").start("a").end("b"), store, id="t1")
        (saved,) = store.checkpoints.list("t1")
        assert ([trigger.name for trigger in saved.triggers], saved.current_node) == (["explicit"], "b")
        assert saved.restore_state() == {"n": 1}
        assert es.resume(graph, store, store.fork("t1", at=saved.seq).id).state == {"n": 2}


@pytest.mark.parametrize(
    ("cost", "is_marked"),
    [({"token_cost": 0.1}, True), ({"duration_ms": 100}, True), ({"token_cost": 0.001}, False),
     ({"has_side_effects": True}, True)],
    ids=["cost", "duration", "cheap", "effects"],
)  # fmt: skip
def test_adaptive_marks_a_node_whose_score_passes(path, cost, is_marked):
    graph = es.Graph("adaptive")
    graph.node(name="a")(lambda ctx: ctx.record(**cost))
    graph.node(name="b")(nothing)
    with es.open(path, durability="normal", checkpoint_policy=es.CheckpointPolicy.adaptive()) as store:
        es.run(graph.edge("a", "b").start("a").end("b"), store, id="t1")
        found = [(triggers, node) for triggers, _, node in marked(store)]
        assert found == [*([(["adaptive"], "b")] if is_marked else []), (["execution_completed"], None)]
        if is_marked:
            metadata = store.checkpoints.list("t1")[-1].triggers[0].metadata
            assert {name: getattr(metadata, name) for name in cost} == cost


# The inbox


@pytest.fixture
def inbox(store, clock):
    """t1 to t4 wait at approve, a second apart; t2 in its second visit."""
    graph = looping(prompt="Publish?", keys=["text"])
    for number in (1, 2, 3, 4):
        es.run(graph, store, id=f"t{number}")
        clock.move(1)
    store.decide("t2", "approve", es.Reject("again", by="ana"))
    clock.move(1)
    es.resume(graph, store, "t2")
    return store


def names(infos):
    return [(info.trace_id, info.barrier_id) for info in infos]


def test_whoever_waits_longest_comes_first(inbox):
    waiting = [("t1", "approve#1"), ("t3", "approve#1"), ("t4", "approve#1"), ("t2", "approve#2")]
    assert names(inbox.barriers()) == waiting
    (first, *_) = inbox.barriers()
    assert first == es.BarrierInfo(
        "t1",
        "looping",
        "approve#1",
        "approve",
        "Publish?",
        first.raised_at,
        seq_of(inbox, "barrier_raised"),
        keys=["text"],
    )
    assert first.raised_at.timestamp() == START_S


def test_the_inbox_is_read_in_pages(inbox):
    everything, pages, after = names(inbox.barriers()), [], None
    while page := names(inbox.barriers(limit=3, after=after)):
        pages.append(page)
        after = page[-1]
    assert [len(page) for page in pages] == [3, 1]
    assert [found for page in pages for found in page] == everything


def test_a_page_goes_on_where_it_stood_though_its_last_one_was_decided(inbox):
    (last,) = names(inbox.barriers(limit=1))
    inbox.decide(*last, es.Approve())
    assert names(inbox.barriers(after=last)) == names(inbox.barriers())


def test_the_inbox_by_trace_and_by_node(inbox):
    graph = es.Graph("other").barrier("approve2").start("approve2").end("approve2")
    es.run(graph, inbox, id="t5")
    assert names(inbox.barriers(trace_id="t2")) == [("t2", "approve#2")]
    assert names(inbox.barriers(node="approve2")) == [("t5", "approve2#1")]
    assert len(inbox.barriers(node="approve")) == 4
    assert inbox.barriers(node="approv") == inbox.barriers(node="approve#1") == inbox.barriers(trace_id="t9") == []
    assert names(inbox.barriers(trace_id="t2", node="approve")) == [("t2", "approve#2")]


def test_decided_barriers_and_all(inbox):
    (decided,) = inbox.barriers(pending=False)
    assert (decided.trace_id, decided.barrier_id, decided.decision) == ("t2", "approve#1", es.Reject("again", by="ana"))
    assert decided.decided_at.timestamp() == START_S + 4
    assert len(inbox.barriers(pending=None)) == 5
    assert names(inbox.barriers(pending=None, trace_id="t2")) == [("t2", "approve#1"), ("t2", "approve#2")]


def test_a_barrier_that_is_decided_or_whose_run_ends_leaves_the_inbox(inbox):
    inbox.decide("t1", "approve", es.Approve())
    inbox.cancel("t3")
    assert names(inbox.barriers()) == [("t4", "approve#1"), ("t2", "approve#2")]
    assert ("t3", "approve#1") in names(inbox.barriers(pending=None))
    assert ("t3", "approve#1") not in names(inbox.barriers(pending=False))


def test_an_early_decision_never_shows_as_pending(store, other):
    es.run(gated(during=lambda ctx: other.decide("t1", "approve#1", es.Approve())), store, id="t1")
    assert store.barriers() == []
    (info,) = store.barriers(pending=False)
    assert (info.prompt, info.decision) == ("40?", es.Approve())


def test_a_node_in_doubt_says_that_it_is(path):
    class Crash(BaseException):
        pass

    graph = es.Graph("doubt")

    @graph.node(side_effects=True)
    def pay(ctx):
        raise Crash

    graph.start("pay").end("pay")
    with es.open(path, durability="normal") as store:
        with pytest.raises(Crash):
            es.run(graph, store, id="t1")
        assert store.barriers() == []
        es.resume(graph, store, "t1")
        (info,) = store.barriers()
        assert (info.barrier_id, info.node, info.reason) == ("pay#1", "pay", "in_doubt")
        assert "may or may not have run" in info.prompt
        store.decide("t1", "pay", es.Modify({"paid": True}))
        assert es.resume(graph, store, "t1").state == {"paid": True}
        assert store.barriers(pending=False)[0].decision == es.Modify({"paid": True})
        assert store.verify().ok


def test_a_fork_waits_in_the_inbox_by_itself(inbox, clock):
    fork = inbox.fork("t4", id="fork")
    assert fork.pending_barriers == ["approve#1"]
    assert names(inbox.barriers())[-1] == ("fork", "approve#1")
    (info,) = inbox.barriers(trace_id="fork")
    assert (info.prompt, info.keys, info.raised_at.timestamp()) == ("Publish?", ["text"], START_S + 5)
    inbox.decide("t4", "approve", es.Approve())
    assert ("fork", "approve#1") in names(inbox.barriers())
    assert inbox.verify().ok


def test_the_inbox_survives_reopening(path, clock):
    with es.open(path, durability="normal") as store:
        es.run(deadline(clock), store, id="t1")
        before = store.barriers()
    with es.open(path, durability="normal") as store:
        assert store.barriers() == before
    with es.open(path, read_only=True) as store:
        assert store.barriers() == before
