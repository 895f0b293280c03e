"""A run and its graph: the way once chosen stays chosen, and a changed graph is refused, or forced and recorded."""

from __future__ import annotations

import json

import pytest

import eventstore as es

FORCE = es.GraphHashMode.FORCE


class Crash(BaseException):
    """Ends the work on a run at once."""


class Tape:
    """What ran, and where it is to crash."""

    def __init__(self, crash_at=None):
        self.calls = []
        self.crash_at = crash_at

    def node(self, name):
        def function(ctx):
            self.calls.append(name)
            if self.crash_at == name:
                self.crash_at = None
                raise Crash
            return {name: True}

        return function


def row(tape, *names, effects=(), in_doubt="ask", version=""):
    """The nodes in a row; `effects` have side effects."""
    graph = es.Graph("row", version=version)
    for name in names:
        graph.node(name=name, side_effects=name in effects, in_doubt=in_doubt)(tape.node(name))
    for index in range(len(names) - 1):
        graph.edge(names[index], names[index + 1])
    return graph.start(names[0]).end(names[-1])


def crashed(graph, path):
    """Run `graph` as t1 until it crashes."""
    with es.open(path, durability="normal") as store, pytest.raises(Crash):
        es.run(graph, store, id="t1")


def gated(tape, **options):
    """plan -> approve -> act."""
    graph = es.Graph("gated", **options)
    graph.node(name="plan")(tape.node("plan"))
    graph.node(name="act")(tape.node("act"))
    return graph.barrier("approve").edge("plan", "approve").edge("approve", "act").start("plan").end("act")


def kinds(store):
    return [event.kind for event in store.events("t1")]


def the(store, kind):
    """The one event of a kind."""
    (found,) = [event.event for event in store.events("t1") if event.kind == kind]
    return found


def intended(store, path):
    """The idempotency keys of the intents of a node."""
    intents = [event.event for event in store.events("t1") if event.kind == "node_intended"]
    return {intent.key for intent in intents if intent.path == path}


# The way, once chosen


def test_the_next_node_is_recorded_with_the_step(store):
    es.run(row(Tape(), "a", "b"), store, id="t1")
    assert [event.event.next for event in store.events("t1") if event.kind == "node_executed"] == ["b", None]


def branching(tape, asked, answer):
    """a -> left if choose, else right; choose counts."""
    graph = es.Graph("branching")
    for name in ("a", "left", "right"):
        graph.node(name=name)(tape.node(name))

    def choose(state):
        asked.append(dict(state))
        return answer[0]

    return graph.edge_if("a", "left", choose).edge("a", "right").start("a").end("left", "right")


def test_a_resume_goes_where_the_log_says_and_asks_no_condition_again(path):
    tape, asked, answer = Tape(crash_at="left"), [], [True]
    graph = branching(tape, asked, answer)
    crashed(graph, path)
    answer[0] = False
    with es.open(path, durability="normal") as store:
        assert store.open_trace("t1").next_node == "left"
        result = es.resume(graph, store, "t1")
        assert tape.calls == ["a", "left", "left"]
        assert (result.state, asked) == ({"a": True, "left": True}, [{"a": True}])
        assert store.verify().ok


def test_a_process_that_died_leaves_the_way_it_chose(path, raw, tmp_path):
    """The file as it stood on disk while `left` was running, taken over by another store."""
    tape, asked, answer = Tape(), [], [True]
    graph, copy = branching(tape, asked, answer), str(tmp_path / "copy.db")

    @graph.before(nodes=["left"])
    def copy_file(ctx):
        if tape.calls == ["a"]:
            raw.execute("VACUUM INTO ?", (copy,))

    with es.open(path, durability="normal") as store:
        es.run(graph, store, id="t1")
    answer[0] = False
    with es.open(copy, durability="normal") as other:
        assert other.open_trace("t1").status == "running"
        assert es.resume(graph, other, "t1").state == {"a": True, "left": True}
        assert tape.calls == ["a", "left", "left"]
        assert len(asked) == 1
        assert other.verify().ok


def test_the_way_from_a_barrier_is_chosen_once_it_is_decided(path):
    tape, asked = Tape(crash_at="act"), []
    graph = es.Graph("gate").barrier("approve")
    graph.node(name="act")(tape.node("act"))
    graph.node(name="stop")(tape.node("stop"))

    def approved(state):
        asked.append(state["approve.approved"])
        return state["approve.approved"]

    graph.edge_if("approve", "act", approved).edge("approve", "stop").start("approve").end("act", "stop")
    with es.open(path, durability="normal") as store:
        es.run(graph, store, id="t1")
        store.decide("t1", "approve", es.Approve())
        assert asked == []
        with pytest.raises(Crash):
            es.resume(graph, store, "t1")
    with es.open(path, durability="normal") as store:
        store.open_trace("t1").append([es.StateDelta.put("approve.approved", False)])
        assert es.resume(graph, store, "t1").state["act"] is True
        assert asked == [True]


def test_a_retried_node_keeps_its_place_and_its_way_is_asked_for_once(store):
    graph, asked, failures = es.Graph("retry"), [], [1]

    @graph.node
    def work(ctx):
        if failures:
            raise ConnectionError(failures.pop())

    graph.node(name="end")(lambda ctx: None)
    graph.edge_if("work", "end", lambda state: asked.append(1) or True).start("work").end("end")
    with pytest.raises(es.RunFailed):
        es.run(graph, store, id="t1")
    assert asked == []
    es.resume(graph, store, "t1")
    assert asked == [1]


# STRICT


def test_strict_refuses_a_changed_graph_and_names_both_hashes_and_what_changed(path):
    tape = Tape(crash_at="pay")
    old = row(tape, "fetch", "pay", "last")
    crashed(old, path)
    new = row(tape, "fetch", "pay", "log", "last", effects=["pay"])
    with es.open(path, durability="normal") as store:
        before = store.open_trace("t1").version
        with pytest.raises(es.GraphHashMismatch) as refused:
            es.resume(new, store, "t1")
        error = refused.value
        assert (error.trace_id, error.recorded, error.current) == ("t1", old.hash(), new.hash())
        assert error.changes == (
            "node 'pay': side_effects was None, is True, in_doubt was None, is 'ask'",
            "node 'log' is new",
            "edges from 'pay' were last, are log",
            "edges from 'log' were none, are last",
        )
        assert all(part in str(error) for part in ("t1", old.hash(), new.hash(), "node 'log' is new"))
        assert store.open_trace("t1").version == before
        assert tape.calls == ["fetch", "pay"]


def test_run_with_the_id_of_a_run_of_another_graph_is_refused_too(path):
    tape = Tape(crash_at="b")
    crashed(row(tape, "a", "b"), path)
    with es.open(path, durability="normal") as store, pytest.raises(es.GraphHashMismatch):
        es.run(row(tape, "a", "b", version="2"), store, id="t1")


def test_a_refused_resume_leaves_the_run_free_for_others(path):
    tape = Tape(crash_at="b")
    graph = row(tape, "a", "b")
    crashed(graph, path)
    with es.open(path, durability="normal") as refused, es.open(path, durability="normal") as other:
        for mode in es.GraphHashMode:
            with pytest.raises(es.GraphHashMismatch):
                es.resume(row(tape, "x", "y"), refused, "t1", mode=mode)
        assert es.resume(graph, other, "t1").status == "completed"


def test_a_body_a_prompt_and_a_time_limit_may_change(path):
    tape = Tape(crash_at="b")
    crashed(row(tape, "a", "b"), path)
    other = es.Graph("row")
    other.node(name="a")(tape.node("a"))
    other.node(name="b", timeout_s=9, retry=2)(lambda ctx: {"another": "body"})
    with es.open(path, durability="normal") as store:
        assert es.resume(other.edge("a", "b").start("a").end("b"), store, "t1").state == {"a": True, "another": "body"}
        assert "graph_changed" not in kinds(store)


def test_what_an_unknown_graph_looked_like_is_not_made_up(store):
    trace = store.start({}, id="t1", graph_hash="9f0c", node="a")
    with pytest.raises(es.GraphHashMismatch, match="what the first one looked like is not recorded"):
        es.resume(row(Tape(), "a"), store, trace.id)


def test_a_trace_without_a_graph_is_no_run(store):
    store.start({}, id="t1")
    with pytest.raises(es.EventStoreError, match="was not started by a graph"):
        es.resume(row(Tape(), "a"), store, "t1")


def test_a_definition_is_stored_once_for_each_hash(store, raw):
    one, two = row(Tape(), "a", "b"), row(Tape(), "a", "b", version="2")
    for graph in (one, two, one, one, two):
        es.run(graph, store)
    stored = dict(raw.execute("SELECT graph_hash, definition FROM graph").fetchall())
    assert stored.keys() == {one.hash(), two.hash()}
    assert json.loads(stored[one.hash()]) == one.definition()


# FORCE


def test_force_goes_on_and_records_it(path):
    tape = Tape(crash_at="b")
    old, new = row(tape, "a", "b"), row(tape, "a", "b", "c")
    crashed(old, path)
    with es.open(path, durability="normal") as store:
        result = es.resume(new, store, "t1", mode=FORCE)
        assert (result.status, tape.calls) == ("completed", ["a", "b", "b", "c"])
        assert the(store, "graph_changed") == es.GraphChanged(new.hash(), old.hash())
        assert store.open_trace("t1").graph_hash == new.hash()
        assert store.verify().ok
    with es.open(path, durability="normal") as store:
        assert es.resume(new, store, "t1").status == "completed"
        assert kinds(store).count("graph_changed") == 1


def test_force_of_the_same_graph_records_nothing(path):
    tape = Tape(crash_at="b")
    graph = row(tape, "a", "b")
    crashed(graph, path)
    with es.open(path, durability="normal") as store:
        es.resume(graph, store, "t1", mode=FORCE)
        assert "graph_changed" not in kinds(store)


def test_after_a_forced_change_the_old_graph_is_the_wrong_one(path):
    tape = Tape(crash_at="b")
    old, new = row(tape, "a", "b"), row(tape, "a", "b", "c")
    crashed(old, path)
    with es.open(path, durability="normal") as store:
        tape.crash_at = "c"
        with pytest.raises(Crash):
            es.resume(new, store, "t1", mode=FORCE)
        with pytest.raises(es.GraphHashMismatch) as refused:
            es.resume(old, store, "t1")
        assert refused.value.changes == (
            "node 'c' is gone",
            "edges from 'b' were c, are none",
            "ends were ['c'], are ['b']",
        )
        assert es.resume(new, store, "t1").state == {"a": True, "b": True, "c": True}


def test_force_refuses_a_cursor_that_is_gone_unless_told_where_it_is(path):
    tape = Tape(crash_at="b")
    crashed(row(tape, "a", "b"), path)
    new = row(tape, "a", "beta", "last")
    with es.open(path, durability="normal") as store:
        with pytest.raises(es.GraphHashMismatch) as refused:
            es.resume(new, store, "t1", mode=FORCE)
        assert refused.value.changes == ("the run stands at node 'b', which is gone; give renamed_from or at",)
        result = es.resume(new, store, "t1", mode=FORCE, renamed_from={"beta": "b"})
        assert result.state == {"a": True, "beta": True, "last": True}
        assert the(store, "graph_changed").next == "beta"


def test_at_says_where_a_forced_run_goes_on(path):
    tape = Tape(crash_at="b")
    crashed(row(tape, "a", "b"), path)
    with es.open(path, durability="normal") as store:
        result = es.resume(row(tape, "a", "beta", "last"), store, "t1", mode=FORCE, at="last")
        assert (result.state, tape.calls) == ({"a": True, "last": True}, ["a", "b", "last"])


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"at": "nowhere"}, "at: the graph has no node 'nowhere'"),
        ({"renamed_from": {"nowhere": "b"}}, "renamed_from: the graph has no node 'nowhere'"),
    ],
)
def test_force_refuses_a_place_that_the_new_graph_does_not_have(path, how, told):
    tape = Tape(crash_at="b")
    crashed(row(tape, "a", "b"), path)
    with es.open(path, durability="normal") as store:
        with pytest.raises(es.GraphHashMismatch) as refused:
            es.resume(row(tape, "a", "b", "c"), store, "t1", mode=FORCE, **how)
        assert told in refused.value.changes


def test_at_does_not_lead_into_a_branch(path):
    tape = Tape(crash_at="b")
    crashed(row(tape, "a", "b"), path)
    new = es.Graph("row")
    for name in ("a", "b", "inside"):
        new.node(name=name)(tape.node(name))
    new.parallel("p", "inside").edge("a", "b").edge("b", "p").start("a").end("p")
    with es.open(path, durability="normal") as store, pytest.raises(es.GraphHashMismatch, match="'inside'"):
        es.resume(new, store, "t1", mode=FORCE, at="inside")


def test_force_refuses_an_open_intent_that_has_no_place(path):
    tape = Tape(crash_at="pay")
    crashed(row(tape, "fetch", "pay", effects=["pay"]), path)
    new = row(tape, "fetch", "charge", effects=["charge"])
    with es.open(path, durability="normal") as store:
        with pytest.raises(es.GraphHashMismatch) as refused:
            es.resume(new, store, "t1", mode=FORCE)
        assert refused.value.changes == (
            "the run stands at node 'pay', which is gone; give renamed_from or at",
            "intent of 'pay' has no place in this graph; give renamed_from or at",
        )


def test_a_renamed_node_in_doubt_stays_in_doubt_and_keeps_its_key(path):
    tape, keys = Tape(crash_at="pay"), []
    crashed(row(tape, "fetch", "pay", effects=["pay"]), path)
    new = row(tape, "fetch", "charge", effects=["charge"])
    new.before(lambda ctx: keys.append(ctx.idempotency_key), nodes=["charge"])
    with es.open(path, durability="normal") as store:
        paused = es.resume(new, store, "t1", mode=FORCE, renamed_from={"charge": "pay"})
        assert (paused.status, paused.pending_barriers, keys) == ("waiting", ["charge#1"], [])
        store.decide("t1", "charge", es.Approve())
        assert es.resume(new, store, "t1").status == "completed"
        assert set(keys) == intended(store, "pay") == intended(store, "charge")
        assert not [key for key in store.open_trace("t1").control if key.startswith(("intent/", "resolved/"))]
        assert store.verify().ok


def test_a_renamed_node_that_may_be_retried_is_run_again_with_its_key(path):
    tape, keys = Tape(crash_at="pay"), []
    crashed(row(tape, "fetch", "pay", effects=["pay"], in_doubt="retry"), path)
    new = row(tape, "fetch", "charge", effects=["charge"], in_doubt="retry")
    new.before(lambda ctx: keys.append(ctx.idempotency_key), nodes=["charge"])
    with es.open(path, durability="normal") as store:
        es.resume(new, store, "t1", mode=FORCE, renamed_from={"charge": "pay"})
        assert set(keys) == intended(store, "pay") == intended(store, "charge")


def test_a_decision_about_a_renamed_node_in_doubt_still_holds(path):
    tape = Tape(crash_at="pay")
    old, new = (row(tape, "fetch", name, effects=[name]) for name in ("pay", "charge"))
    crashed(old, path)
    with es.open(path, durability="normal") as store:
        es.resume(old, store, "t1")
        store.decide("t1", "pay", es.Modify({"paid": 40}))
        result = es.resume(new, store, "t1", mode=FORCE, renamed_from={"charge": "pay"})
        assert (result.status, result.state["paid"]) == ("completed", 40)
        assert tape.calls == ["fetch", "pay"]


def test_a_rename_counts_though_another_node_has_the_old_name_now(path):
    tape = Tape(crash_at="pay")
    crashed(row(tape, "fetch", "pay", effects=["pay"], in_doubt="retry"), path)
    new = row(tape, "fetch", "charge", "pay", effects=["charge"], in_doubt="retry")
    with es.open(path, durability="normal") as store:
        result = es.resume(new, store, "t1", mode=FORCE, renamed_from={"charge": "pay"})
        assert (result.status, tape.calls) == ("completed", ["fetch", "pay", "charge", "pay"])
        assert intended(store, "charge") == intended(store, "pay")
        assert store.verify().ok


def test_values_that_a_renamed_node_recorded_at_once_are_given_back(path):
    called, crash = [], [True]

    def one(name):
        graph = es.Graph("calls")

        @graph.node(name=name)
        def work(ctx):
            ctx.put("got", ctx.call("model", lambda: called.append(name) or len(called), durable=True))
            if crash:
                raise Crash

        return graph.start(name).end(name)

    crashed(one("ask"), path)
    crash.clear()
    with es.open(path, durability="normal") as store:
        result = es.resume(one("query"), store, "t1", mode=FORCE, renamed_from={"query": "ask"})
        assert (result.state, called) == ({"got": 1}, ["ask"])
        assert store.verify().ok


# FORCE between a decision and the way on


def renamed_gate(tape, name):
    """plan -> a barrier -> act, and `other` beside."""
    graph = es.Graph("gate").barrier(name)
    for node in ("plan", "act", "other"):
        graph.node(name=node)(tape.node(node))
    graph.edge("plan", name).edge(name, "act").edge_fallback("plan", "other")
    return graph.start("plan").end("act", "other")


def test_a_waiting_run_of_a_changed_graph_is_refused_as_well(store):
    tape = Tape()
    es.run(gated(tape), store, id="t1")
    with pytest.raises(es.GraphHashMismatch):
        es.resume(gated(tape, version="2"), store, "t1")
    assert es.resume(gated(tape, version="2"), store, "t1", mode=FORCE).status == "waiting"
    assert es.resume(gated(tape), store, "t1").pending_barriers == ["approve#1"]


def test_a_decision_holds_when_its_barrier_was_renamed_meanwhile(store):
    tape = Tape()
    es.run(renamed_gate(tape, "approve"), store, id="t1")
    store.decide("t1", "approve", es.Approve())
    new = renamed_gate(tape, "confirm")
    with pytest.raises(es.GraphHashMismatch, match="'approve'"):
        es.resume(new, store, "t1", mode=FORCE)
    result = es.resume(new, store, "t1", mode=FORCE, renamed_from={"confirm": "approve"})
    assert (result.status, result.pending_barriers) == ("completed", [])
    assert tape.calls == ["plan", "act"]


def test_at_overrules_the_way_from_a_barrier_that_was_decided(store):
    tape = Tape()
    es.run(renamed_gate(tape, "approve"), store, id="t1")
    store.decide("t1", "approve", es.Approve())
    new = renamed_gate(tape, "approve")
    new.version = "2"
    result = es.resume(new, store, "t1", mode=FORCE, at="other")
    assert (result.status, tape.calls) == ("completed", ["plan", "other"])
    assert store.verify().ok


# FORCE after a node whose way on could not be said


def unsure(tape, name, version=""):
    """A node, then `last`; without a version the condition in between raises."""
    graph = es.Graph("unsure", version=version)
    graph.node(name=name)(tape.node(name))
    graph.node(name="last")(tape.node("last"))

    def choose(state):
        if not version:
            raise LookupError("not ready")
        return True

    return graph.edge_if(name, "last", choose).start(name).end("last")


@pytest.fixture
def unrouted(store):
    """A run that failed behind `work`, whose condition raised; gives what ran."""
    tape = Tape()
    with pytest.raises(es.RunFailed, match="not ready"):
        es.run(unsure(tape, "work"), store, id="t1")
    return tape


def test_force_after_a_condition_that_raised_asks_the_new_one(store, unrouted):
    result = es.resume(unsure(unrouted, "work", version="2"), store, "t1", mode=FORCE)
    assert (result.status, unrouted.calls) == ("completed", ["work", "last"])
    assert store.verify().ok


def test_force_refuses_when_the_node_to_be_routed_is_gone(store, unrouted):
    with pytest.raises(es.GraphHashMismatch, match="'work'"):
        es.resume(unsure(unrouted, "job", version="2"), store, "t1", mode=FORCE)
    assert store.open_trace("t1").status == "failed"


def test_a_renamed_node_to_be_routed_goes_on_by_its_new_edges(store, unrouted):
    graph = unsure(unrouted, "job", version="2")
    result = es.resume(graph, store, "t1", mode=FORCE, renamed_from={"job": "work"})
    assert (result.status, result.state, unrouted.calls) == (
        "completed",
        {"work": True, "last": True},
        ["work", "last"],
    )
    assert store.verify().ok


def test_at_overrules_the_way_that_could_not_be_said(store, unrouted):
    graph = unsure(unrouted, "job", version="2")
    result = es.resume(graph, store, "t1", mode=FORCE, at="job")
    assert (result.status, unrouted.calls) == ("completed", ["work", "job", "last"])
    assert store.verify().ok


# FORCE in the middle of a parallel node


def gathering(tape, *branches, name="gather"):
    """gather (branches side by side, one at a time) -> last."""
    graph = es.Graph("gathering", reducers={"seen": "append"})
    for branch in branches:
        graph.node(name=branch)(tape.node(branch))
    graph.node(name="last")(tape.node("last"))
    return graph.parallel(name, *branches, max_concurrency=1).edge(name, "last").start(name).end("last")


def test_force_refuses_a_held_branch_that_has_no_place(path):
    tape = Tape(crash_at="read")
    crashed(gathering(tape, "search", "read"), path)
    with es.open(path, durability="normal") as store:
        assert [key for key in store.open_trace("t1").control if key.startswith("held/")] == ["held/gather/search"]
        with pytest.raises(es.GraphHashMismatch) as refused:
            es.resume(gathering(tape, "find", "read"), store, "t1", mode=FORCE)
        assert refused.value.changes == ("held of 'gather/search' has no place in this graph; give renamed_from or at",)


@pytest.mark.parametrize(
    ("new", "renamed"),
    [
        (("find", "read", "gather"), {"find": "search"}),
        (("search", "read", "collect"), {"collect": "gather"}),
        (("find", "read", "collect"), {"find": "search", "collect": "gather"}),
    ],
    ids=["branch", "node", "both"],
)
def test_a_renamed_branch_keeps_the_result_that_was_held(path, new, renamed):
    tape = Tape(crash_at="read")
    crashed(gathering(tape, "search", "read"), path)
    *branches, name = new
    with es.open(path, durability="normal") as store:
        result = es.resume(gathering(tape, *branches, name=name), store, "t1", mode=FORCE, renamed_from=renamed)
        assert tape.calls == ["search", "read", "read", "last"]
        assert result.state == {"search": True, "read": True, "last": True}
        assert not [key for key in store.open_trace("t1").control if key.startswith("held/")]
        assert store.verify().ok


def test_a_new_branch_runs_and_held_ones_do_not(path):
    tape = Tape(crash_at="read")
    crashed(gathering(tape, "search", "read"), path)
    with es.open(path, durability="normal") as store:
        result = es.resume(gathering(tape, "extra", "search", "read"), store, "t1", mode=FORCE)
        assert tape.calls == ["search", "read", "extra", "read", "last"]
        assert result.state == {"extra": True, "search": True, "read": True, "last": True}


def test_at_drops_held_results_that_have_no_place(path):
    tape = Tape(crash_at="read")
    crashed(gathering(tape, "search", "read"), path)
    with es.open(path, durability="normal") as store:
        result = es.resume(gathering(tape, "find", "read"), store, "t1", mode=FORCE, at="last")
        assert result.state == {"last": True}
        assert "held/gather/search" not in store.open_trace("t1").control
        assert store.verify().ok
