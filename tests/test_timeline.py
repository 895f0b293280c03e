"""The timeline of a run: when what ran, what was waited for, and what may have run."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

import eventstore as es
from eventstore.chart import axis_of, rows_of
from eventstore.codec import envelope
from eventstore.event import NodeExecuted, TraceEnded, utc
from eventstore.run_event import BranchExecuted, GraphChanged, IntentWithdrawn, NodeIntended, TraceReopened
from eventstore.span import Timeline
from eventstore.spanning import KINDS, Spanning
from eventstore.timeline import timeline
from eventstore.waiting import Place

NOW = datetime(2100, 1, 1, tzinfo=UTC)


def built(*, failing=0, retry=None, side_effects=True):
    """A graph: ask, two branches side by side, a barrier, and a payment that fails so many times."""
    graph = es.Graph("refund")
    left = [failing]

    @graph.node
    def ask(ctx):
        ctx.record(token_cost=0.25)

    @graph.node
    def search(ctx): ...

    @graph.node
    def look(ctx): ...

    graph.parallel("gather", search, look)
    graph.barrier("approve", prompt="Refund?")

    @graph.node(side_effects=side_effects, retry=retry)
    def pay(ctx):
        if left[0]:
            left[0] -= 1
            raise ConnectionError("bank unreachable")
        return {"paid": True}

    graph.edge("ask", "gather").edge("gather", "approve").edge("approve", "pay")
    return graph.start("ask").end("pay")


def write(trace, *events):
    """Append what only a run may write."""
    bodies = [envelope(event) for event in events]
    trace._commit(trace._prepare(bodies, None, bodies, trace.version, None))


@pytest.fixture
def refunded(store):
    """A run that waited, was decided by ana, and is over."""
    graph = built()
    assert es.run(graph, store, {}, id="t1").status == "waiting"
    store.decide("t1", "approve", es.Approve(by="ana"))
    assert es.resume(graph, store, "t1").status == "completed"
    return timeline(store, "t1")


def labels(told):
    return [(span.label, span.path, span.success) for span in told.spans]


def test_a_run_is_its_nodes_in_order_with_the_branches_below_their_node(refunded):
    assert sorted(labels(refunded)[2:4]) == [("2/look", "gather/look", True), ("2/search", "gather/search", True)]
    assert labels(refunded)[:2] == [("1", "ask", True), ("2", "gather", True)]
    assert labels(refunded)[4:] == [("3", "approve", True), ("4", "pay", True)]
    gather, *branches = refunded.spans[1:4]
    assert gather.is_parallel and [branch.within for branch in branches] == [gather.opened_seq] * 2
    assert not any(span.is_parallel or span.within for span in refunded.spans if span.node != "gather")
    assert [span.has_side_effects for span in refunded.spans] == [False, False, False, False, False, True]


def test_a_span_says_what_the_entry_of_the_same_seq_says(store, refunded):
    entries = {entry.seq: entry for entry in store.open_trace("t1").entries()}
    assert len(entries) == len(refunded.spans)
    for span in refunded.spans:
        entry = entries[span.seq]
        assert (span.label, span.node, span.branch, span.attempt) == (
            entry.label, entry.node_name, entry.branch, entry.attempt)  # fmt: skip
        began = [entry.start_time]
        began += [inner.started_at for inner in refunded.spans if span.is_parallel and inner.within == span.opened_seq]
        assert (span.started_at, span.ended_at) == (min(began), entry.end_time)
        assert (span.success, span.error) == (entry.success, entry.error)
        assert (span.duration_ms, span.token_cost, span.has_side_effects) == (
            entry.metadata.duration_ms, entry.metadata.token_cost, entry.metadata.has_side_effects)  # fmt: skip


def test_a_wait_lasts_from_raised_to_decided_exactly(store, refunded):
    (wait,) = refunded.waits
    at = {event.kind: event for event in store.events("t1")}
    raised, decided = at["barrier_raised"], at["barrier_decided"]
    assert (wait.raised_at, wait.decided_at, wait.until) == (raised.at, decided.at, decided.at)
    assert (wait.raised_seq, wait.decided_seq) == (raised.seq, decided.seq)
    assert wait.waited_s == (decided.at - raised.at).total_seconds() > 0
    assert (wait.barrier_id, wait.node, wait.reason, wait.prompt) == ("approve#1", "approve", "gate", "Refund?")
    assert (wait.decision, wait.by, wait.is_pending) == (es.Approve(by="ana"), "ana", False)


def test_a_pending_wait_is_counted_until_now(store):
    es.run(built(), store, {}, id="t1")
    told = timeline(store, "t1", now=NOW)
    (wait,) = told.waits
    assert (told.status, told.ended_at, told.seen_at) == ("waiting", None, NOW)
    assert wait.is_pending and wait.until == NOW
    assert wait.waited_s == told.totals.waited_s == (NOW - wait.raised_at).total_seconds()


def test_a_wait_that_the_end_cut_off_lasts_until_the_end(store):
    es.run(built(), store, {}, id="t1")
    store.cancel("t1", by="ana", reason="too late")
    told = timeline(store, "t1", now=NOW)
    assert (told.status, told.ended_at) == ("cancelled", told.updated_at)
    assert told.waits[0].until == told.ended_at and told.waits[0].decision is None
    assert [(mark.by, mark.reason) for mark in told.cancels] == [("ana", "too late")]


def test_a_decision_before_its_barrier_waits_for_nothing(store):
    trace = store.start({}, id="t1", name="refund")
    trace.raise_barrier("other")
    trace.append([es.BarrierRaised("a#1", "a"), es.BarrierDecided("a#1", "a", es.Reject("no", by="bo"), True)])
    other, wait = timeline(store, "t1").waits
    assert (wait.waited_s, wait.submitted, wait.by, wait.decision.reason) == (0, True, "bo", "no")
    assert other.is_pending


def test_the_deadline_is_told(store):
    trace = store.start({}, id="t1")
    trace.raise_barrier("a", deadline_us=4_000_000_000_000_000)
    trace.append([es.BarrierRaised("b#1", "b", deadline_us=2**62)])
    first, second = timeline(store, "t1").waits
    assert first.deadline_at == utc(4_000_000_000_000_000)
    assert second.deadline_at.year == 9999


def test_totals_count_time_once_and_costs_all(store):
    trace = store.start({}, id="t1")
    trace.append([NodeExecuted("a", duration_ms=4000, token_cost=1)])
    trace.append([NodeExecuted("b", False, "no", duration_ms=3000, token_cost=0.5)])
    told = timeline(store, "t1")
    a, b = told.spans
    union_s = (b.ended_at - min(a.started_at, b.started_at)).total_seconds()
    assert told.totals.active_ms == pytest.approx(union_s * 1000) and told.totals.active_ms < 7000
    assert (told.totals.token_cost, told.totals.failed) == (1.5, 1)


def test_waits_side_by_side_count_once(store):
    trace = store.start({}, id="t1")
    trace.raise_barrier("a")
    trace.raise_barrier("b")
    told = timeline(store, "t1", now=NOW)
    assert told.totals.waited_s == told.waits[0].waited_s < told.waits[0].waited_s + told.waits[1].waited_s


# Failures, retries, doubt


def test_a_failed_attempt_has_no_step_and_the_retry_that_is_due_is_told(store):
    trace = store.start({}, id="t1")
    due_us = 4_000_000_000_000_000
    trace.append([NodeExecuted("a", False, "boom", duration_ms=2, retry_at_us=due_us)])
    told = timeline(store, "t1")
    (span,) = told.spans
    assert (span.label, span.success, span.error, span.retry_at) == ("0", False, "boom", utc(due_us))
    assert [(retry.path, retry.attempt, retry.due_at, retry.failed_seq) for retry in told.retries] == [
        ("a", 2, utc(due_us), span.seq)
    ]
    write(trace, NodeExecuted("a", attempt=2, clears=["retry/a"]))
    told = timeline(store, "t1")
    assert [(span.label, span.attempt) for span in told.spans] == [("0", 1), ("1", 2)] and told.retries == []


def test_a_run_that_retries_for_real(store):
    graph = built(failing=1, retry=1, side_effects=False)
    es.run(graph, store, {}, id="t1")
    store.decide("t1", "approve", es.Approve())
    es.resume(graph, store, "t1")
    told = timeline(store, "t1")
    assert [(span.label, span.attempt, span.success) for span in told.spans if span.node == "pay"] == [
        ("0", 1, False), ("4", 2, True)]  # fmt: skip
    assert told.spans[-2].retry_at is not None and told.retries == [] and told.totals.failed == 1


def test_a_run_that_failed_says_why(store):
    graph = built(failing=1)
    es.run(graph, store, {}, id="t1")
    store.decide("t1", "approve", es.Approve())
    with pytest.raises(es.RunFailed):
        es.resume(graph, store, "t1")
    told = timeline(store, "t1")
    assert (told.status, told.error) == ("failed", "ConnectionError: bank unreachable")
    assert told.spans[-1].error == told.error and told.spans[-1].success is False


def test_a_retry_that_ran_does_not_wait_any_more_and_a_fork_waits_for_none(store):
    trace = store.start({}, id="t1")
    trace.append([NodeExecuted("a", False, "boom", retry_at_us=4_000_000_000_000_000)])
    store.fork("t1", id="t2")
    assert timeline(store, "t2").retries == [] and len(timeline(store, "t1").retries) == 1
    trace.append([NodeExecuted("a", attempt=2)])
    assert timeline(store, "t1").retries == []


def test_a_run_that_was_reopened_has_not_ended(store):
    graph = built(failing=1)
    es.run(graph, store, {}, id="t1")
    store.decide("t1", "approve", es.Approve())
    with pytest.raises(es.RunFailed):
        es.resume(graph, store, "t1")
    trace = store.open_trace("t1")
    write(trace, TraceReopened())
    told = timeline(store, "t1", now=NOW)
    assert (told.ended_at, told.error) == (None, None)
    es.resume(graph, store, "t1")
    assert timeline(store, "t1").ended_at is not None


def test_an_intent_without_a_result_is_an_open_span(store):
    trace = store.start({}, id="t1")
    write(trace, NodeIntended("pay", "key"))
    (span,) = timeline(store, "t1").spans
    assert (span.node, span.success, span.ended_at, span.is_open, span.has_side_effects) == (
        "pay", None, None, True, True)  # fmt: skip
    assert span.seq == trace.version
    trace.append([NodeExecuted("pay", has_side_effects=True)])
    (span,) = timeline(store, "t1").spans
    assert span.success and not span.is_open and span.seq == trace.version


def test_an_intent_that_was_withdrawn_leaves_nothing(store):
    trace = store.start({}, id="t1")
    write(trace, NodeIntended("pay", "key"), NodeIntended("gather/a", "other"))
    assert len(timeline(store, "t1").spans) == 3
    write(trace, IntentWithdrawn("pay"), IntentWithdrawn("gather/a"))
    assert timeline(store, "t1").spans == []


def test_a_call_that_was_made_again_stays_in_doubt_for_good(store):
    trace = store.start({}, id="t1")
    write(trace, NodeIntended("pay", "key"))
    first = trace.version
    write(trace, NodeIntended("pay", "key"))
    trace.append([NodeExecuted("pay")])
    told = timeline(store, "t1")
    assert [(span.seq, span.success, span.abandoned, span.is_open) for span in told.spans] == [
        (first, None, True, False), (trace.version, True, False, False)]  # fmt: skip


def test_nothing_stays_open_when_the_trace_ends(store):
    trace = store.start({}, id="t1")
    write(trace, NodeIntended("gather/a", "key"), BranchExecuted("gather/b"))
    trace.append([TraceEnded("cancelled")])
    told = timeline(store, "t1")
    assert [(span.path, span.abandoned) for span in told.spans] == [
        ("gather", True), ("gather/a", True), ("gather/b", False)]  # fmt: skip
    assert not any(span.is_open for span in told.spans)


def test_a_parallel_node_that_has_not_joined_is_open_and_keeps_its_place_when_it_does(store):
    trace = store.start({}, id="t1")
    write(trace, BranchExecuted("gather/a", duration_ms=5))
    write(trace, BranchExecuted("gather/b", False, "no", duration_ms=5))
    gather, a, b = timeline(store, "t1").spans
    assert gather.is_open and gather.is_parallel and gather.started_at == min(a.started_at, b.started_at)
    assert a.within == b.within == gather.opened_seq == a.seq
    assert (a.label, b.label) == ("1/a", "0/b")
    trace.append([NodeExecuted("gather", duration_ms=9)])
    joined = timeline(store, "t1").spans
    assert joined[1:] == [a, b]
    assert joined[0].opened_seq == gather.opened_seq and joined[0].label == "1" and joined[0].seq == trace.version


def test_a_second_visit_of_a_parallel_node_has_branches_of_its_own(store):
    trace = store.start({}, id="t1")
    for _ in range(2):
        write(trace, BranchExecuted("gather/a"))
        trace.append([NodeExecuted("gather")])
    spans = timeline(store, "t1").spans
    assert [span.label for span in spans] == ["1", "1/a", "2", "2/a"]
    assert spans[1].within == spans[0].opened_seq != spans[2].opened_seq == spans[3].within


def test_a_branch_in_doubt_that_its_node_gave_up_is_told(store):
    trace = store.start({}, id="t1")
    write(trace, NodeIntended("gather/a", "key"))
    write(trace, NodeExecuted("gather", False, "stopped", clears=["intent/gather/a"]))
    gather, branch = timeline(store, "t1").spans
    assert (gather.success, branch.abandoned, branch.within) == (False, True, gather.opened_seq)


@pytest.fixture
def clock(monkeypatch):
    """Moves the wall clock on, by seconds."""
    now_ns, gone_s = time.time_ns, [0]
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + gone_s[0] * 1_000_000_000)

    def move(seconds):
        gone_s[0] += seconds

    return move


DROPPED = ["held/gather/a", "failed/gather/b"]


def visited_twice(store, clears=DROPPED):
    """A parallel node that a forced change left, so that what it held was dropped, and that was entered again."""
    trace = store.start({}, id="t1")
    write(trace, BranchExecuted("gather/a", duration_ms=5))
    write(trace, BranchExecuted("gather/b", False, "no", duration_ms=5))
    write(trace, GraphChanged("new", "old", "other", clears))
    trace.append([NodeExecuted("other")])
    write(trace, BranchExecuted("gather/a"))
    trace.append([NodeExecuted("gather")])
    return timeline(store, "t1")


@pytest.mark.parametrize("clears", [DROPPED, DROPPED[::-1], DROPPED[:1]])
def test_a_visit_whose_results_were_dropped_is_over_and_the_next_one_is_another(store, clears):
    told = visited_twice(store, clears)
    assert [(span.label, span.path, span.abandoned) for span in told.spans] == [
        ("0", "gather", True), ("1/a", "gather/a", False), ("0/b", "gather/b", False), ("1", "other", False),
        ("2", "gather", False), ("2/a", "gather/a", False)]  # fmt: skip
    first, *of_first, _, second, of_second = told.spans
    assert [span.within for span in of_first] == [first.opened_seq] * 2 and first.success is None
    assert first.started_at == min(span.started_at for span in of_first)
    assert of_second.within == second.opened_seq == of_second.seq


def test_a_visit_of_which_only_calls_and_retries_were_open_is_over_with_them(store):
    trace = store.start({}, id="t1")
    write(trace, NodeIntended("gather/a", "key"))
    write(trace, BranchExecuted("gather/b", False, "no", retry_at_us=4_000_000_000_000_000))
    write(trace, GraphChanged("new", "old", "other", ["intent/gather/a", "retry/gather/b"]))
    told = timeline(store, "t1")
    assert [(span.path, span.abandoned) for span in told.spans] == [
        ("gather", True), ("gather/a", True), ("gather/b", False)]  # fmt: skip
    assert {span.within for span in told.spans[1:]} == {told.spans[0].opened_seq} and told.retries == []


def test_a_failed_branch_that_a_reopening_tries_again_belongs_to_the_same_visit(store):
    trace = store.start({}, id="t1")
    write(trace, BranchExecuted("gather/a"), BranchExecuted("gather/b", False, "no"), TraceEnded("cancelled"))
    write(trace, TraceReopened(clears=["failed/gather/b"]), BranchExecuted("gather/b"))
    trace.append([NodeExecuted("gather")])
    told = timeline(store, "t1")
    assert [(span.label, span.within) for span in told.spans] == [("1", None), ("1/a", 2), ("0/b", 2), ("1/b", 2)]


def renamed(name):
    """A graph of one parallel node of that name, whose second branch dies while `dies` holds something."""
    graph, dies = es.Graph("renamed"), []

    @graph.node
    def a(ctx): ...

    @graph.node(side_effects=True, in_doubt="retry")
    def b(ctx):
        if dies:
            raise KeyboardInterrupt

    graph.parallel(name, a, b)
    return graph.start(name).end(name), dies


def test_a_parallel_node_that_was_renamed_is_one_visit_under_the_new_name(store):
    graph, dies = renamed("p")
    dies.append(True)
    with pytest.raises(KeyboardInterrupt):
        es.run(graph, store, {}, id="t1")
    result = es.resume(renamed("q")[0], store, "t1", mode=es.GraphHashMode.FORCE, renamed_from={"q": "p"})
    assert result.status == "completed"
    told = timeline(store, "t1")
    (q,) = [span for span in told.spans if span.is_parallel]
    assert (q.label, q.node, q.success) == ("1", "q", True)
    branches = [span for span in told.spans if span is not q]
    assert {span.within for span in branches} == {q.opened_seq}
    assert q.started_at <= min(span.started_at for span in branches)
    assert {span.node for span in branches if span.branch == "b"} == {"q"}


def test_an_intent_and_a_retry_that_were_renamed_go_on_under_the_new_names(store):
    trace = store.start({}, id="t1")
    write(trace, NodeIntended("x", "one"), NodeIntended("y", "two", attempt=2), NodeIntended("z", "three"))
    trace.append([NodeExecuted("r", False, "no", retry_at_us=4_000_000_000_000_000)])
    clears = ["intent/x", "intent/y", "retry/r"]
    puts = {"intent/y": {"key": "one"}, "intent/x": {"key": "two"}, "retry/s": {"attempt": 1}}  # x and y swapped
    write(trace, GraphChanged("new", "old", None, clears, puts))
    told = timeline(store, "t1")
    assert [(span.node, span.attempt, span.is_open) for span in told.spans if not span.ended_at] == [
        ("y", 1, True), ("x", 2, True), ("z", 1, True)]  # fmt: skip
    assert [(retry.path, retry.attempt) for retry in told.retries] == [("s", 2)]
    trace.append([NodeExecuted("y", duration_ms=0.001)])
    assert [span.node for span in timeline(store, "t1").spans if span.is_open] == ["x", "z"]


def test_a_parallel_node_that_went_on_after_a_stop_begins_with_its_first_branch(store, clock):
    trace = store.start({}, id="t1")
    write(trace, BranchExecuted("gather/a", duration_ms=100))
    store.fork("t1", id="t2")
    clock(3600)
    for trace_id in ("t1", "t2"):
        trace = store.open_trace(trace_id)
        write(trace, BranchExecuted("gather/b", duration_ms=5))
        trace.append([NodeExecuted("gather", duration_ms=9)])
        told = timeline(store, trace_id)
        gather, a, b = told.spans
        assert gather.started_at == a.started_at < b.started_at and gather.duration_ms == 9
        assert gather.ended_at - gather.went_on_at == timedelta(milliseconds=9)
        assert 100 <= told.totals.active_ms < 1000  # the hour between is no activity
        assert axis_of(rows_of(told)[0]).breaks[0].length_us > 3_500_000_000


@pytest.mark.parametrize(
    ("decision", "inside"),
    [(es.Reject("no"), False), (es.Reject("no"), True), (es.Modify({}), False), (es.Modify({}), True),
     (es.Reroute("z"), False)],
)  # fmt: skip
def test_a_doubt_that_a_human_settled_begins_with_its_intent(store, clock, decision, inside):
    dies = [True]
    graph = es.Graph("doubt")

    @graph.node(side_effects=True)
    def pay(ctx):
        if dies:
            raise KeyboardInterrupt

    @graph.node
    def z(ctx): ...

    if inside:
        graph.parallel("both", pay)
        graph.start("both").edge("both", "z").edge_fallback("both", "z").end("z")
    else:
        graph.start("pay").edge("pay", "z").edge_fallback("pay", "z").end("z")
    with pytest.raises(KeyboardInterrupt):
        es.run(graph, store, {}, id="t1")
    dies.clear()
    clock(3600)
    es.resume(graph, store, "t1")
    store.decide("t1", "both/pay" if inside else "pay", decision)
    assert es.resume(graph, store, "t1").status == "completed"
    intended = next(event for event in store.events("t1") if event.kind == "node_intended")
    told = timeline(store, "t1")
    (span,) = [span for span in told.spans if (span.branch or span.node) == "pay"]
    assert span.started_at == intended.at and (span.ended_at - span.started_at) > timedelta(hours=0.99)
    assert span.success is isinstance(decision, es.Modify) and not span.abandoned
    assert told.totals.active_ms < 60_000


def test_a_call_that_ran_begins_by_its_measured_duration(store, clock):
    trace = store.start({}, id="t1")
    write(trace, NodeIntended("pay", "key"))
    clock(60)
    trace.append([NodeExecuted("pay", duration_ms=1000)])
    (span,) = timeline(store, "t1").spans
    assert span.ended_at - span.started_at == timedelta(seconds=1)


def test_a_duration_longer_than_history_begins_with_1970(store):
    trace = store.start({}, id="t1")
    trace.append([NodeExecuted("a", duration_ms=1e300)])
    (span,) = timeline(store, "t1").spans
    assert abs(span.started_at - utc(0)) < timedelta(seconds=1) and span.duration_ms == 1e300


# Checkpoints, forks, trims


def test_checkpoints_have_their_triggers(store, refunded):
    saved = {mark.checkpoint_id: mark for mark in store.checkpoints.list("t1")}
    assert [mark.seq for mark in refunded.checkpoints] == sorted(mark.seq for mark in saved.values())
    for mark in refunded.checkpoints:
        checkpoint = saved[mark.checkpoint_id]
        assert (mark.at, mark.node) == (checkpoint.created_at, checkpoint.current_node)
        assert mark.triggers == [trigger.name for trigger in checkpoint.triggers]
    assert "human_decision" in refunded.checkpoints[0].triggers


def test_a_fork_has_its_parents_history_marked_as_such(store, refunded):
    before = refunded.waits[0].raised_seq
    fork = store.fork("t1", at=before, id="t2")
    told = timeline(store, "t2")
    assert (told.origin.trace_id, told.origin.seq) == ("t1", before)
    assert told.origin.at == next(event.at for event in store.events("t2") if event.kind == "trace_forked")
    assert told.started_at == refunded.started_at
    assert labels(told) == labels(refunded)[:4]
    assert {span.inherited_from for span in told.spans} == {"t1"}
    assert [msgspec.structs.replace(span, inherited_from=None) for span in told.spans] == refunded.spans[:4]
    old, new = told.waits
    assert (old.withdrawn, old.is_pending, old.inherited_from, old.until) == (True, False, "t1", told.origin.at)
    assert (new.withdrawn, new.is_pending, new.inherited_from) == (False, True, None)
    store.decide("t2", "approve", es.Approve())
    es.resume(built(), store, "t2", effects="run")
    spans = timeline(store, "t2").spans
    assert [(span.node, span.inherited_from) for span in spans[4:]] == [("approve", None), ("pay", None)]
    assert [(mark.trace_id, mark.seq) for mark in timeline(store, "t1").forks] == [("t2", before)]
    assert fork.id == "t2" and told.forks == []


def test_a_fork_of_a_fork_names_who_ran_each_part(store):
    trace = store.start({}, id="t1")
    trace.append([NodeExecuted("a")])
    second = store.fork("t1", id="t2")
    second.append([NodeExecuted("b")])
    second.checkpoint()
    third = store.fork("t2", id="t3")
    third.append([NodeExecuted("c")])
    told = timeline(store, "t3")
    assert [(span.label, span.node, span.inherited_from) for span in told.spans] == [
        ("1", "a", "t1"), ("2", "b", "t2"), ("3", "c", None)]  # fmt: skip
    assert told.checkpoints[-1].inherited_from == "t2"
    assert [mark.trace_id for mark in timeline(store, "t2").forks] == ["t3"]


def test_a_fork_has_no_checkpoint_of_what_its_parent_did_later(store):
    trace = store.start({}, id="t1")
    shared = trace.checkpoint()
    store.fork("t1", id="t2")
    trace.append([NodeExecuted("a")])
    trace.checkpoint()
    assert [mark.checkpoint_id for mark in timeline(store, "t2").checkpoints] == [shared.checkpoint_id]


def test_a_fork_does_not_take_over_what_its_parent_was_about_to_run(store):
    trace = store.start({}, id="t1")
    write(trace, NodeExecuted("ask"), NodeIntended("pay", "key"))
    store.fork("t1", id="t2")
    assert [span.node for span in timeline(store, "t2").spans] == ["ask"]
    assert [span.node for span in timeline(store, "t1").spans] == ["ask", "pay"]


def test_a_trimmed_trace_begins_at_its_root_with_its_steps_counted_on(store, record):
    trace = record(store, 10)
    whole = timeline(store, "t1")
    store.trim("t1", 21, retry_window_s=0)
    told = timeline(store, "t1")
    assert (told.trimmed_seq, told.version) == (21, trace.version)
    assert told.spans == whole.spans[5:] and told.spans[0].label == "6"
    assert told.started_at == next(span.ended_at for span in whole.spans if span.seq == 21)


def test_what_was_open_at_a_root_is_told(store):
    trace = store.start({}, id="t1")
    write(trace, NodeIntended("pay", "key", attempt=2))
    trace.append([NodeExecuted("b", False, "no", retry_at_us=4_000_000_000_000_000)])
    store.trim("t1", trace.version, retry_window_s=0)
    told = timeline(store, "t1")
    assert [(span.node, span.is_open, span.attempt) for span in told.spans] == [("pay", True, 2)]
    assert [(retry.path, retry.attempt) for retry in told.retries] == [("b", 2)]
    trace.append([NodeExecuted("pay", attempt=2)])
    assert [(span.node, span.is_open) for span in timeline(store, "t1").spans][-1] == ("pay", False)


@pytest.mark.parametrize("key", ["held/gather/a", "failed/gather/a", "retry/gather/a"])
def test_a_parallel_node_that_was_open_at_a_root_is_told(key):
    spanning = Spanning()
    spanning.begin({key: {"attempt": 1, "at_us": 9}}, Place(7, utc(5), None))
    (gather,) = spanning.without_end()
    assert (gather.node, gather.is_parallel, gather.is_open, gather.started_at) == ("gather", True, True, utc(5))


def test_the_timeline_comes_back_from_its_json(store, refunded):
    store.fork("t1", at=refunded.waits[0].raised_seq, id="t2")
    for trace_id in ("t1", "t2"):
        told = timeline(store, trace_id)
        assert Timeline.from_json(told.to_json()) == told


def test_no_value_of_a_delta_is_built(store, monkeypatch):
    held = {field for kind in KINDS.values() for field in kind.__struct_fields__}
    assert "delta" not in KINDS and not held & {"state", "deltas", "value", "puts", "data"}
    trace = store.start({"n": 0}, id="t1")
    with trace.step("a") as step:
        step.put("n", 1)
    for name, module in list(sys.modules.items()):
        if name.startswith("eventstore.") and hasattr(module, "decode_rows"):
            monkeypatch.setattr(module, "decode_rows", lambda body: pytest.fail("a whole body was decoded"))
    assert len(timeline(store, "t1").spans) == 1


def test_an_opaque_body_is_read_too(store):
    trace = store.start({}, id="t1")
    with trace.step("a") as step:
        step.put("blob", es.Opaque("raw", b"\x80\x81"))
    assert [span.node for span in timeline(store, "t1").spans] == ["a"]


def test_pages_are_walked_whole(store, record):
    record(store, 600)
    assert [span.step for span in timeline(store, "t1").spans] == list(range(1, 601))


def test_an_unknown_and_a_damaged_trace_are_said_so(store, trace, tamper):
    with pytest.raises(es.TraceNotFound):
        timeline(store, "absent")
    tamper('UPDATE log SET body = \'[{"kind":"node_executed","data":{"node":3}}]\'')
    with pytest.raises(es.LogCorrupted) as damaged:
        timeline(store, "t1")
    assert (damaged.value.trace_id, damaged.value.seq) == ("t1", 1)


def test_an_async_run_is_told_the_same_way(store):
    graph = es.Graph("both")

    @graph.node
    async def one(ctx):
        await asyncio.sleep(0.001)

    graph.start("one").end("one")
    asyncio.run(es.run_async(graph, store, {}, id="t1"))
    assert labels(timeline(store, "t1")) == [("1", "one", True)]
