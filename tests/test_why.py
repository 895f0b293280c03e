"""Why an event is in the log."""

from __future__ import annotations

import pytest

import eventstore as es


@pytest.fixture
def run(store):
    graph = es.Graph("refund")
    graph.node(name="fetch")(lambda ctx: {"order": {"total": 40}})
    graph.barrier("approve", prompt="Refund 40?")
    graph.node(name="pay", side_effects=True)(lambda ctx: {"paid": True})
    graph.edge("fetch", "approve").edge("approve", "pay").start("fetch").end("pay")
    paused = es.run(graph, store, id="t1")
    store.decide("t1", "approve", es.Modify({"order": {"total": 30}}, by="ana"))
    es.resume(graph, store, paused.trace_id)
    return store.open_trace("t1")


def seq_of(trace, kind, **fields):
    for event in trace.events():
        if event.kind == kind and all(getattr(event.event, name) == value for name, value in fields.items()):
            return event.seq
    raise AssertionError(kind)


def test_a_delta_of_a_node(run):
    found = run.why(seq_of(run, "delta", key="paid"))
    assert (found.execution.node_name, found.execution.step, found.execution.success) == ("pay", 3, True)
    assert found.chosen_by.event.node == "approve" and found.chosen_by.event.next == "pay"
    assert found.previous is None and found.after is True
    told = str(found)
    assert "changed 'paid': nothing -> true" in told and "nobody wrote the key before" in told
    assert f"'pay' was entered because 'approve' led there (seq {found.chosen_by.seq})" in told


def test_a_delta_of_a_human(run):
    seq = [write.seq for write in run.blame("order")][-1]
    found = run.why(seq)
    assert (found.before, found.after) == ({"total": 40}, {"total": 30})
    assert found.previous.node == "fetch" and found.execution is None
    assert "written by a human" in str(found) and "approve#1 was decided by ana: modify order" in str(found)


def test_a_barrier_that_was_left(run):
    found = run.why("step:2")
    assert found.event.event.node == "approve"
    assert found.decision.event.decision.by == "ana"
    assert "'approve' was entered because 'fetch' led there" in str(found)


def test_the_first_node(run):
    assert "'fetch' was entered because the graph starts there" in str(run.why("step:1"))
    started = run.why(1)
    assert started.event.kind == "trace_started" and started.execution is None


def test_every_event_of_a_run_is_explained(run):
    for event in run.events():
        found = run.why(event.seq)
        assert found.event == event and found.first_seq <= event.seq <= found.last_seq and found.reasons
        assert es.Why.from_json(found.to_json()).reasons == found.reasons


def test_a_fork_knows_its_parents_part(run):
    forked = run.fork("step:1", put={"order": {"total": 1}})
    inherited = forked.why("step:1")
    assert inherited.owner_id == "t1" and "trace t1 wrote it" in str(inherited)
    begins = forked.why(forked.version - 1)
    assert "it begins the fork's own history, after seq 4 of t1" in str(begins)
    assert "written by the fork" in str(forked.why(-1))


def test_branches_retries_failures_and_reroutes(store):
    calls = []

    def flaky(ctx):
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("once")
        return {"n": 1}

    graph = es.Graph("g", reducers={"log": "append"})
    graph.node(name="flaky", retry=3)(flaky)
    graph.node(name="left")(lambda ctx: {"log": "l"})
    graph.node(name="right")(lambda ctx: {"log": "r"})
    graph.parallel("both", "left", "right")
    graph.barrier("ask")
    graph.node(name="other")(lambda ctx: {"done": True})
    graph.edge("flaky", "both").edge("both", "ask").edge("ask", "other").start("flaky").end("other")
    found = es.run(graph, store)
    store.decide(found.trace_id, "ask", es.Reroute("other", by="bo"))
    es.resume(graph, store, found.trace_id)
    trace = store.open_trace(found.trace_id)
    failed = trace.why(seq_of(trace, "node_executed", node="flaky", success=False))
    assert "a failed attempt of node 'flaky'" in str(failed) and "ValueError: once" in str(failed)
    assert "attempt 2" in str(trace.why(seq_of(trace, "delta", key="n")))
    branch = trace.why(seq_of(trace, "branch_executed", path="both/right"))
    assert branch.execution.label == "2/right" and "node 'both/right'" in str(branch)
    assert "reroute to other" in str(trace.why(seq_of(trace, "node_executed", node="ask")))


def test_a_seq_that_is_not_there(store, run):
    for seq in (0, 1000, "step:99"):
        with pytest.raises(es.EventStoreError):
            run.why(seq)
    store.checkpoints.prune("t1", 0)
    store.trim("t1", 4, retry_window_s=0)
    with pytest.raises(es.Trimmed):
        run.why(2)
    assert run.why("step:2").chosen_by is None


def test_many_attempts_do_not_hide_what_led_there(store):
    attempts = []

    def flaky(ctx):
        attempts.append(1)
        if len(attempts) < 90:
            raise ValueError

    import tenacity

    graph = es.Graph("g")
    graph.node(name="first")(lambda ctx: None)
    graph.node(name="flaky", retry=tenacity.Retrying(stop=tenacity.stop_after_attempt(99), wait=tenacity.wait_none()))(
        flaky
    )
    graph.edge("first", "flaky").start("first").end("flaky")
    found = es.run(graph, store)
    assert store.open_trace(found.trace_id).why("step:2").chosen_by.event.node == "first"


def test_a_forced_graph_and_an_intent_tell_why_a_node_was_entered(store, run):
    graph = es.Graph("g")
    graph.node(name="first")(lambda ctx: None)
    graph.barrier("ask")
    graph.node(name="last")(lambda ctx: None)
    graph.edge("first", "ask").edge("ask", "last").start("first").end("last")
    waiting = es.run(graph, store)
    changed = es.Graph("g")
    changed.node(name="first")(lambda ctx: None)
    changed.node(name="other")(lambda ctx: None)
    changed.edge("first", "other").start("first").end("other")
    store.decide(waiting.trace_id, "ask", es.Approve())
    es.resume(changed, store, waiting.trace_id, mode=es.GraphHashMode.FORCE, at="other")
    trace = store.open_trace(waiting.trace_id)
    told = trace.why(seq_of(trace, "node_executed", node="other"))
    assert told.chosen_by.kind == "graph_changed" and "a changed graph was forced to go on there" in str(told)
    intended = run.why(seq_of(run, "node_intended", path="pay"))
    assert intended.chosen_by.event.node == "approve"
    assert run.why(seq_of(run, "barrier_raised")).chosen_by.event.node == "fetch"


def test_the_write_before_one_is_found_without_keeping_all(run):
    seqs = [write.seq for write in run.blame("order")]
    assert run.why(seqs[1]).previous.seq == seqs[0]
