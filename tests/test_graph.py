"""Graphs: declared, checked whole, included in one another, hashed and drawn."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tenacity

import eventstore as es
from eventstore.definition import changes


def nothing(ctx):
    """A node that does nothing."""


def chain(*names, **options):
    """Plain nodes in a row, the first one the start and the last one the end."""
    graph = es.Graph("chain", **options)
    for name in names:
        graph.node(name=name)(nothing)
    for source, target in itertools.pairwise(names):
        graph.edge(source, target)
    return graph.start(names[0]).end(names[-1])


def errors_of(graph):
    """What `build` finds wrong."""
    with pytest.raises(es.GraphInvalid) as refused:
        graph.build()
    assert refused.value.graph == graph.name
    assert str(refused.value) == f"graph {graph.name}: {'; '.join(refused.value.errors)}"
    return list(refused.value.errors)


def visited(result):
    """The nodes that a run executed, in order, without branches."""
    return [entry.node_name for entry in result.execution_log if entry.branch is None]


# Declaring


def test_a_graph_needs_a_name():
    with pytest.raises(es.GraphInvalid, match="a graph needs a name"):
        es.Graph("")


def test_a_decorated_function_stays_itself_and_is_named_after_its_function_or_as_told(store):
    graph = es.Graph("names")

    @graph.node
    def plain(ctx):
        return {"plain": 1}

    @graph.node(name="told", timeout_s=5)
    def named(ctx):
        return {"told": plain(ctx)}

    @graph.node()
    async def waits(ctx):
        return {"async": ctx.node}

    assert plain(None) == {"plain": 1}
    graph.edge("plain", "told").edge("told", "waits").start("plain").end("waits")
    result = es.run(graph, store)
    assert result.state == {"plain": 1, "told": {"plain": 1}, "async": "waits"}
    assert visited(result) == ["plain", "told", "waits"]


def test_building_gives_the_graph_and_the_repr_then_knows_its_hash():
    graph = chain("a")
    assert repr(graph) == "Graph('chain', 1 node)"
    assert graph.build() is graph
    assert repr(graph) == f"Graph('chain', 1 node, hash {graph.hash()[:8]})"


def test_a_built_graph_that_is_changed_is_checked_again():
    graph = chain("a").build()
    before = graph.hash()
    graph.node(name="b")(nothing)
    assert errors_of(graph) == ["node 'b' cannot be reached from the start"]
    graph.edge("a", "b").end("b")
    assert graph.hash() != before


# What does not hold together


def test_every_problem_of_a_graph_is_told_at_once():
    graph = es.Graph("broken")
    graph.node(name="a/b")(nothing)
    graph.node(name="a#1")(nothing)
    graph.node(name=" a")(nothing)
    graph.node(name="x" * 201)(nothing)
    graph.node(name="twice")(nothing)
    graph.node(name="twice")(nothing)
    graph.node(name="retried", retry=-1)(nothing)
    graph.node(name="timed", timeout_s=0)(nothing)
    graph.node(name="doubted", side_effects=True, in_doubt="perhaps")(nothing)
    graph.node(name="lost", goes_to=["nowhere"])(nothing)
    graph.barrier("ask")
    graph.parallel("both", "ask", "twice", "missing", strategy="hope", max_concurrency=0)
    graph.parallel("again", "twice", "twice")
    graph.parallel("none")
    graph.map(nothing, over="items", name="each", strategy="hope")
    graph.map("missing", over="items")
    graph.edge("a", "nowhere").edge("twice", "retried").edge("retried", "timed").edge("retried", "lost")
    graph.edge_fallback("ask", "twice").edge_fallback("ask", "gone")
    graph.start("first").start("second").end("last", "twice")

    @graph.before(nodes=["absent"])
    def look(ctx):
        pass

    @graph.after
    async def later(ctx):
        pass

    bad_name = "a name has 1 to 200 characters, none of them '/' or '#'"
    assert errors_of(graph) == [
        f"node 'a/b': {bad_name}",
        f"node 'a#1': {bad_name}",
        f"node ' a': {bad_name}",
        f"node {'x' * 201!r}: {bad_name}",
        "node 'twice' is declared twice",
        "node 'retried': retry is a number of attempts or a tenacity object, not -1",
        "node 'timed': timeout_s is more than 0, not 0",
        "node 'doubted': in_doubt is 'ask', 'retry' or 'fail', not 'perhaps'",
        "node 'both': strategy is 'fail_fast' or 'collect_all', not 'hope'",
        "node 'both': max_concurrency is more than 0, not 0",
        "node 'each': strategy is 'fail_fast' or 'collect_all', not 'hope'",
        "map over 'items': no node 'missing'",
        "fallback from 'ask' is declared twice",
        "hook 'later': hooks are plain functions, not async",
        "several starts: first, second",
        "start: no node 'first'",
        "start: no node 'second'",
        "end: no node 'last'",
        "end: 'twice' is a branch of 'again'",
        "edge from 'a' to 'nowhere': no node 'a'",
        "edge from 'a' to 'nowhere': no node 'nowhere'",
        "edge from 'twice' to 'retried': 'twice' is a branch of 'again'",
        "edge from 'retried' to 'lost' comes after one that always applies",
        "fallback from 'ask': no node 'gone'",
        "fallback from 'ask': 'ask' is a branch of 'both'",
        "fallback from 'ask': a barrier does not fail",
        "node 'lost': goes to 'nowhere', no such node",
        "parallel 'both': branch 'ask' is a barrier, not a plain node",
        "parallel 'both': 'twice' is a branch of 'again' already",
        "parallel 'both': no node 'missing'",
        "parallel 'again': a branch is named twice",
        "parallel 'none' has no branches",
        "hook 'look': no node 'absent'",
    ]


def test_a_graph_of_nothing_has_no_start_and_no_end():
    assert errors_of(es.Graph("empty")) == ["no start", "no end"]


def test_what_cannot_be_reached_and_what_leads_nowhere_is_told_once_all_names_are_known():
    graph = chain("a", "b")
    graph.node(name="island")(nothing)
    graph.node(name="stuck")(nothing)
    graph.edge_if("a", "stuck", lambda state: True)
    assert errors_of(graph)[0].startswith("edge from 'a' to 'stuck' comes after")
    graph = chain("a", "b")
    graph.node(name="island")(nothing)
    graph.node(name="stuck")(nothing)
    graph.edge_if("b", "stuck", lambda state: True)
    assert errors_of(graph) == [
        "node 'island' cannot be reached from the start",
        "node 'stuck' is a dead end: no edge leads on, and it is no end",
    ]


@pytest.mark.parametrize("way", ["edge", "edge_if", "fallback", "goes_to", "branch"])
def test_a_node_is_reached_by_every_kind_of_way(way):
    graph = es.Graph("reach")
    graph.node(name="a", goes_to=["b"] if way == "goes_to" else [])(nothing)
    graph.node(name="b")(nothing)
    if way == "edge":
        graph.edge("a", "b")
    elif way == "edge_if":
        graph.edge_if("a", "b", lambda state: True)
    elif way == "fallback":
        graph.edge_fallback("a", "b")
    elif way == "branch":
        graph.parallel("p", "b").edge("a", "p").end("p")
    graph.start("a").end("a", *([] if way == "branch" else ["b"])).build()


@pytest.mark.parametrize("kind", ["start", "target", "source", "fallback"])
def test_a_branch_has_no_ways_of_its_own(kind):
    graph = chain("a", "p0")
    graph.node(name="b")(nothing)
    graph.parallel("p", "b").edge_if("p0", "p", lambda state: True).end("p")
    if kind == "start":
        graph._starts.clear()
        graph.start("b")
    elif kind == "target":
        graph.edge_if("p", "b", lambda state: True)
    elif kind == "source":
        graph.edge("b", "a")
    else:
        graph.edge_fallback("b", "a")
    assert [error for error in errors_of(graph) if "'b' is a branch of 'p'" in error]


@pytest.mark.parametrize("kind", ["barrier", "parallel", "map"])
def test_a_branch_is_a_plain_node(kind):
    graph = es.Graph("kinds")
    if kind == "barrier":
        graph.barrier("b")
    elif kind == "parallel":
        graph.node(name="inner")(nothing)
        graph.parallel("b", "inner")
    else:
        graph.map(nothing, over="items", name="b")
    graph.parallel("p", "b").start("p").end("p")
    assert errors_of(graph) == [f"parallel 'p': branch 'b' is a {kind}, not a plain node"]


@pytest.mark.parametrize("retry", [-1, 1.5, True, "twice"])
def test_a_retry_is_a_number_or_tenacitys(retry):
    graph = es.Graph("retry")
    graph.node(name="a", retry=retry)(nothing)
    assert errors_of(graph.start("a").end("a"))[0].startswith("node 'a': retry is a number of attempts")
    graph = es.Graph("retry")
    graph.node(name="a", retry=tenacity.Retrying())(nothing)
    graph.start("a").end("a").build()


def test_a_map_by_name_is_checked_like_a_declared_one():
    graph = chain("a")
    graph.map("a", over="items", strategy="hope", max_concurrency=0)
    assert errors_of(graph) == [
        "node 'a': strategy is 'fail_fast' or 'collect_all', not 'hope'",
        "node 'a': max_concurrency is more than 0, not 0",
    ]


def test_what_a_map_by_name_says_of_its_node_counts():
    graph = chain("a")
    graph.map("a", over="items", side_effects=True, in_doubt="retry", retry=2, timeout_s=5)
    node = graph.plan().nodes["a"]
    assert (node.kind, node.side_effects, node.in_doubt, node.retry, node.timeout_s) == ("map", True, "retry", 2, 5)


def test_the_default_of_a_deadline_goes_to_a_node_that_exists():
    graph = es.Graph("late").barrier("ask", timeout_s=1, on_timeout=es.Reroute("nowhere")).start("ask").end("ask")
    (error,) = errors_of(graph)
    assert "'ask'" in error and "'nowhere'" in error


# Where a run goes


def test_the_first_edge_that_matches_wins(store):
    graph, asked = es.Graph("first"), []

    def over(limit):
        def condition(state):
            asked.append(limit)
            return state["n"] > limit

        return condition

    for name in ("a", "b", "c", "d"):
        graph.node(name=name)(nothing)
    graph.edge_if("a", "b", over(20)).edge_if("a", "c", over(5)).edge_if("a", "d", over(1)).edge("a", "b")
    graph.start("a").end("b", "c", "d")
    assert visited(es.run(graph, store, {"n": 9})) == ["a", "c"]
    assert asked == [20, 5]
    assert visited(es.run(graph, store, {"n": 0})) == ["a", "b"]
    assert asked[2:] == [20, 5, 1]


def test_conditions_see_what_the_node_wrote_and_cannot_write(store):
    graph, seen = chain("a", "b"), []

    def condition(state):
        seen.append(dict(state))
        with pytest.raises(TypeError):
            state["n"] = 2
        return False

    other = es.Graph("seen")
    other.node(name="a")(lambda ctx: {"n": 1})
    other.node(name="b")(nothing)
    other.edge_if("a", "b", condition).edge("a", "b").start("a").end("b")
    es.run(other, store, {"old": 0})
    assert seen == [{"old": 0, "n": 1}]
    assert graph.build()


def test_an_end_with_edges_ends_where_none_applies(store):
    graph = es.Graph("maybe")
    graph.node(name="a")(lambda ctx: {"n": ctx.state.get("n", 0) + 1})
    graph.edge_if("a", "a", lambda state: state["n"] < 3).start("a").end("a")
    assert es.run(graph, store).state == {"n": 3}


def test_a_node_goes_where_no_edge_leads_if_it_said_so(store):
    graph = es.Graph("goto")
    graph.node(name="a", goes_to=["c"])(lambda ctx: ctx.goto("c"))
    graph.node(name="b")(nothing)
    graph.node(name="c")(nothing)
    graph.edge("a", "b").start("a").end("b", "c")
    assert visited(es.run(graph, store)) == ["a", "c"]


def test_goto_does_not_lead_into_a_branch(store):
    graph = es.Graph("goto")
    graph.node(name="a")(lambda ctx: ctx.goto("inside"))
    graph.node(name="inside")(nothing)
    graph.parallel("p", "inside").edge("a", "p").start("a").end("p")
    with pytest.raises(es.RunFailed, match="there is no node 'inside' to go to"):
        es.run(graph, store)


# Maps


@pytest.mark.parametrize("way", ["decorator", "function", "name"])
def test_a_map_runs_its_node_for_each_item(store, way):
    graph = es.Graph("each", reducers={"seen": "append"})

    def double(ctx, item):
        ctx.put("seen", [ctx.index, item * 2])

    if way == "decorator":
        assert graph.map(over="items", max_concurrency=2)(double) is double
    elif way == "function":
        assert graph.map(double, over="items") is double
    else:
        graph.node(double)
        assert graph.map("double", over="items") is graph
    result = es.run(graph.start("double").end("double"), store, {"items": [3, 4, 5]})
    assert result.state["seen"] == [0, 6, 1, 8, 2, 10]
    assert [entry.label for entry in result.execution_log] == ["1/0", "1/1", "1/2", "1"]


def test_a_map_goes_over_a_node_only():
    graph = es.Graph("each").barrier("ask").start("ask").end("ask")
    graph.map("ask", over="items")
    assert errors_of(graph) == ["map over 'items': no node 'ask'"]


# Including


def billing():
    """charge, then (for large totals) a barrier `approve`, then receipt or refuse."""
    graph = es.Graph("billing", reducers={"log": "append"})

    @graph.node
    def charge(ctx):
        ctx.put("log", f"charge {ctx.node}")

    @graph.node
    def receipt(ctx):
        ctx.put("log", f"approved: {ctx.state['approve.approved']}")

    @graph.node(goes_to=["receipt"])
    def refuse(ctx):
        ctx.put("log", ctx.state["approve.reject_reason"])
        if ctx.state["total"] < 0:
            ctx.goto("receipt")

    graph.barrier("approve", prompt=lambda state: f"{state['total']}?", goes_to=["receipt"])
    graph.edge("charge", "approve").edge_if("approve", "receipt", lambda state: state["approve.approved"])
    return graph.edge("approve", "refuse").start("charge").end("receipt", "refuse")


def test_an_included_graph_stands_under_its_prefix(store):
    outer = es.Graph("order")
    outer.node(name="begin")(nothing)
    outer.node(name="done")(nothing)
    inner = outer.include("billing", billing())
    assert inner == es.Included("billing.charge", ("billing.receipt", "billing.refuse"))
    outer.edge("begin", inner.start).start("begin").end("done")
    for end in inner.ends:
        outer.edge(end, "done")
    paused = es.run(outer, store, {"total": 40})
    assert paused.pending_barriers == ["billing.approve#1"]
    assert store.barriers()[0].prompt == "40?"
    store.decide(paused.trace_id, "billing.approve", es.Approve())
    result = es.resume(outer, store, paused.trace_id)
    assert visited(result) == ["begin", "billing.charge", "billing.approve", "billing.receipt", "done"]
    assert result.state == {
        "total": 40,
        "log": ["charge billing.charge", "approved: True"],
        "billing.approve.approved": True,
    }


def test_a_graph_included_twice_keeps_its_two_barriers_apart(store):
    outer = es.Graph("twice")
    inner = billing()
    first, second = outer.include("one", inner), outer.include("two", inner)
    for end in first.ends:
        outer.edge(end, second.start)
    outer.start(first.start).end(*second.ends)
    run = es.run(outer, store, {"total": 1})
    store.decide(run.trace_id, "one.approve", es.Reject("no"))
    assert es.resume(outer, store, run.trace_id).pending_barriers == ["two.approve#1"]
    store.decide(run.trace_id, "two.approve", es.Approve())
    result = es.resume(outer, store, run.trace_id)
    assert visited(result) == ["one.charge", "one.approve", "one.refuse", "two.charge", "two.approve", "two.receipt"]
    assert result.state["log"] == ["charge one.charge", "no", "charge two.charge", "approved: True"]


def test_get_and_state_of_an_included_node_read_the_same_keys(store):
    inner, read = asking("inner"), []
    inner.before(nodes=["last"])(lambda ctx: read.append((ctx.state["approve.approved"], ctx.get("approve.approved"))))
    outer = es.Graph("outer")
    included = outer.include("i", inner)
    outer.start(included.start).end(*included.ends)
    run = es.run(outer, store)
    store.decide(run.trace_id, "i.approve", es.Approve())
    es.resume(outer, store, run.trace_id)
    assert read == [(True, True)]


def test_goto_inside_an_included_graph_takes_its_own_names(store):
    outer = es.Graph("goto")
    inner = outer.include("b", billing())
    outer.start(inner.start).end(*inner.ends)
    run = es.run(outer, store, {"total": -1})
    store.decide(run.trace_id, "b.approve", es.Modify({"b.approve.approved": False, "b.approve.reject_reason": "odd"}))
    assert visited(es.resume(outer, store, run.trace_id))[-2:] == ["b.refuse", "b.receipt"]


def test_an_included_graph_may_include(store):
    middle, outer = es.Graph("middle"), es.Graph("outer")
    deep = middle.include("deep", billing())
    middle.node(name="after")(lambda ctx: {"told": ctx.state["deep.approve.approved"]})
    for end in deep.ends:
        middle.edge(end, "after")
    middle.start(deep.start).end("after")
    inner = outer.include("m", middle)
    assert inner == es.Included("m.deep.charge", ("m.after",))
    outer.start(inner.start).end(*inner.ends)
    run = es.run(outer, store, {"total": 2})
    store.decide(run.trace_id, "m.deep.approve", es.Approve())
    result = es.resume(outer, store, run.trace_id)
    assert visited(result) == ["m.deep.charge", "m.deep.approve", "m.deep.receipt", "m.after"]
    assert result.state["told"] is True


def asking(name):
    """A graph of one barrier, `approve`, and one node, `last`."""
    graph = es.Graph(name).barrier("approve")
    graph.node(name="last")(nothing)
    return graph.edge("approve", "last").start("approve").end("last")


def test_a_condition_calls_the_barriers_of_the_graph_that_declared_it(store):
    outer = es.Graph("outer").barrier("approve")
    inner = outer.include("sub", asking("inner"))
    outer.node(name="pay")(nothing)
    outer.node(name="refuse")(nothing)
    outer.edge("approve", inner.start).edge_if("sub.last", "pay", lambda state: state["approve.approved"])
    outer.edge("sub.last", "refuse").start("approve").end("pay", "refuse")
    run = es.run(outer, store)
    store.decide(run.trace_id, "approve", es.Approve())
    es.resume(outer, store, run.trace_id)
    store.decide(run.trace_id, "sub.approve", es.Reject("no"))
    assert visited(es.resume(outer, store, run.trace_id))[-1] == "pay"


def test_a_condition_on_an_included_node_still_finds_its_own_barrier_when_it_is_included_itself(store):
    middle = asking("middle")
    middle._ends.clear()
    deep = middle.include("deep", chain("work"))
    middle.node(name="yes")(nothing)
    middle.node(name="no")(nothing)
    middle.edge("last", deep.start).edge_if("deep.work", "yes", lambda state: state["approve.approved"])
    middle.edge("deep.work", "no").end("yes", "no")
    outer = es.Graph("outer")
    inner = outer.include("m", middle)
    outer.start(inner.start).end(*inner.ends)
    run = es.run(outer, store)
    store.decide(run.trace_id, "m.approve", es.Approve())
    assert visited(es.resume(outer, store, run.trace_id))[-1] == "m.yes"


def test_the_hooks_of_an_included_graph_are_for_its_own_nodes(store):
    inner, outer, told = chain("a", "b"), es.Graph("outer"), []
    inner.before(lambda ctx: told.append(f"inner before {ctx.node}"))
    inner.after(nodes=["b"])(lambda ctx: told.append(f"inner after {ctx.node}"))
    outer.before(lambda ctx: told.append(f"outer before {ctx.node}"))
    outer.node(name="x")(nothing)
    included = outer.include("i", inner)
    outer.edge("x", included.start).start("x").end(*included.ends)
    es.run(outer, store)
    assert told == [
        "outer before x",
        "outer before i.a",
        "inner before i.a",
        "outer before i.b",
        "inner before i.b",
        "inner after i.b",
    ]


def test_the_fallbacks_of_an_included_graph_come_along(store):
    inner, outer = es.Graph("inner"), es.Graph("outer")
    inner.node(name="risky")(lambda ctx: 1 / 0)
    inner.node(name="rescue")(lambda ctx: {"why": ctx.state["risky.error"]})
    inner.edge_fallback("risky", "rescue").start("risky").end("risky", "rescue")
    included = outer.include("i", inner)
    outer.start(included.start).end(*included.ends)
    assert es.run(outer, store).state["why"].startswith("ZeroDivisionError")


def test_the_default_of_a_deadline_in_an_included_graph_goes_to_its_own_node():
    inner = es.Graph("inner").barrier("ask", timeout_s=0.001, on_timeout=es.Reroute("late"), goes_to=["late"])
    inner.node(name="late")(nothing)
    inner.start("ask").end("ask", "late")
    outer = es.Graph("outer")
    included = outer.include("i", inner)
    outer.start(included.start).end(*included.ends)
    assert outer.plan().nodes["i.ask"].on_timeout == es.Reroute("i.late")


def test_parallel_branches_of_an_included_graph_run(store):
    inner, outer = es.Graph("inner"), es.Graph("outer")
    inner.node(name="x")(lambda ctx: {"x": ctx.path})
    inner.node(name="y")(lambda ctx: {"y": ctx.path})
    inner.parallel("both", "x", "y").start("both").end("both")
    included = outer.include("i", inner)
    outer.start(included.start).end(*included.ends)
    assert es.run(outer, store).state == {"x": "i.both/x", "y": "i.both/y"}


def test_one_graph_included_twice_can_be_two_branches(store):
    inner, outer = es.Graph("inner", reducers={"seen": "append"}), es.Graph("outer")
    inner.node(name="work")(lambda ctx: {"seen": ctx.node})
    inner.start("work").end("work")
    one, two = outer.include("one", inner), outer.include("two", inner)
    outer.parallel("both", one.start, two.start).start("both").end("both")
    assert es.run(outer, store).state == {"seen": ["one.work", "two.work"]}


def test_reducers_that_agree_are_shared_and_those_that_clash_are_told():
    outer = es.Graph("outer", reducers={"log": "append"})
    included = outer.include("b", billing())
    outer.start(included.start).end(*included.ends).build()
    clashing = es.Graph("outer", reducers={"log": "replace"})
    included = clashing.include("b", billing())
    clashing.start(included.start).end(*included.ends)
    assert errors_of(clashing) == ["include 'b': another reducer of 'log'"]


def test_the_name_of_a_reducer_and_the_reducer_are_one():
    outer = es.Graph("outer", reducers={"log": es.Reducer.APPEND})
    included = outer.include("b", billing())
    outer.start(included.start).end(*included.ends).build()


def test_what_is_wrong_with_an_included_graph_is_told_with_its_prefix():
    inner = es.Graph("inner")
    inner.node(name="a", retry=-1)(nothing)
    outer = es.Graph("outer")
    outer.include("x", inner)
    found = errors_of(outer)
    assert "include 'x': node 'a': retry is a number of attempts or a tenacity object, not -1" in found
    assert "include 'x': graph 'inner' has no start" in found


def test_a_hook_of_an_included_graph_for_a_node_that_it_does_not_have_is_told():
    inner, outer = chain("a"), es.Graph("outer")
    inner.before(nothing, nodes=["absent"])
    included = outer.include("i", inner)
    outer.start(included.start).end(*included.ends)
    assert errors_of(inner) == ["hook 'nothing': no node 'absent'"]
    assert [error for error in errors_of(outer) if "'nothing'" in error and "absent" in error]


def test_what_is_added_to_a_graph_after_it_was_included_stays_out():
    inner, outer = chain("a"), es.Graph("outer")
    included = outer.include("i", inner)
    outer.start(included.start).end(*included.ends)
    before = outer.hash()
    inner.node(name="b")(nothing)
    inner.map("a", over="items")
    assert outer.hash() == before


# The hash


def rich(**changed):
    """A graph with something of everything; keywords change one thing."""
    what = {
        "side_effects": True,
        "in_doubt": "retry",
        "branches": ("left", "right"),
        "strategy": "collect_all",
        "order": ("left_edge", "right_edge"),
        "condition": "is_large",
        "fallback": "review",
        "start": "a",
        "ends": ("last", "review"),
        "reducers": {"n": "sum"},
        "version": "",
        "over": "items",
        "pay_goes": ("last",),
        "prompt": "Go on?",
        "timeout_s": None,
        "retry": None,
        "max_concurrency": None,
        "body": nothing,
        "name": "rich",
        "max_steps": 10,
        "keys": (),
        **changed,
    }
    graph = es.Graph(what["name"], reducers=what["reducers"], version=what["version"], max_steps=what["max_steps"])
    graph.node(name="a")(what["body"])
    graph.node(
        name="pay",
        side_effects=what["side_effects"],
        in_doubt=what["in_doubt"],
        retry=what["retry"],
        goes_to=what["pay_goes"],
    )(nothing)
    graph.barrier("ask", prompt=what["prompt"], timeout_s=what["timeout_s"], keys=what["keys"])
    for name in ("left", "right", "review", "last"):
        graph.node(name=name, timeout_s=what["timeout_s"])(nothing)
    graph.parallel("both", *what["branches"], strategy=what["strategy"], max_concurrency=what["max_concurrency"])
    graph.map(nothing, over=what["over"], name="each", max_concurrency=what["max_concurrency"])
    graph.edge("a", "pay")
    for edge in what["order"]:
        if edge == "left_edge":
            graph.edge_if("pay", "ask", lambda state: True, name=what["condition"])
        else:
            graph.edge_if("pay", "both", lambda state: True, name="is_small")
    graph.edge("ask", "both").edge("both", "each").edge("each", "last")
    return graph.edge_fallback("pay", what["fallback"]).start(what["start"]).end(*what["ends"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"side_effects": False}, ["node 'pay': side_effects was True, is None, in_doubt was 'retry', is None"]),
        ({"in_doubt": "fail"}, ["node 'pay': in_doubt was 'retry', is 'fail'"]),
        ({"pay_goes": ("last", "each")}, ["node 'pay': goes_to was ['last'], is ['last', 'each']"]),
        (
            {"branches": ("right", "left")},
            ["node 'both': branches was ['left', 'right'], is ['right', 'left']"],
        ),
        ({"strategy": "fail_fast"}, ["node 'both': strategy was 'collect_all', is 'fail_fast'"]),
        ({"over": "others"}, ["node 'each': over was 'items', is 'others'"]),
        (
            {"order": ("right_edge", "left_edge")},
            ["edges from 'pay' were ask if is_large, both if is_small, are both if is_small, ask if is_large"],
        ),
        (
            {"condition": "is_huge"},
            ["edges from 'pay' were ask if is_large, both if is_small, are ask if is_huge, both if is_small"],
        ),
        ({"fallback": "last", "pay_goes": ("review",)}, None),
        ({"start": "pay", "pay_goes": ("a", "last")}, None),
        ({"ends": ("last", "review", "a")}, ["ends were ['last', 'review'], are ['a', 'last', 'review']"]),
        ({"reducers": {"n": "max"}}, ["reducers were {'n': 'sum'}, are {'n': 'max'}"]),
        ({"version": "2"}, ["version was None, is '2'"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_the_hash_changes_with_what_decides_where_a_run_goes_and_the_change_is_told(change, told):
    one, other = rich(), rich(**change)
    assert one.hash() != other.hash()
    found = changes(one.plan().definition, other.plan().definition)
    assert found == told if told is not None else found


def test_a_changed_kind_a_new_node_and_a_lost_one_are_told():
    old, new = chain("a", "b"), es.Graph("chain").barrier("a")
    new.node(name="c")(nothing)
    new.edge("a", "c").start("a").end("c")
    assert old.hash() != new.hash()
    assert changes(old.plan().definition, new.plan().definition) == [
        "node 'a': kind was 'node', is 'barrier'",
        "node 'b' is gone",
        "node 'c' is new",
        "edges from 'a' were b, are c",
        "ends were ['b'], are ['c']",
    ]


def test_a_changed_fallback_and_start_are_told():
    old, new = rich(), rich(fallback="last", pay_goes=("review",))
    assert "fallbacks were {'pay': 'review'}, are {'pay': 'last'}" in changes(
        old.plan().definition, new.plan().definition
    )
    new = rich(start="pay", pay_goes=("a", "last"))
    assert "start was 'a', is 'pay'" in changes(old.plan().definition, new.plan().definition)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": lambda state: "Really?"},
        {"timeout_s": 60},
        {"retry": 3},
        {"max_concurrency": 2},
        {"body": lambda ctx: {"n": 1}},
        {"max_steps": 99},
        {"keys": ("total",)},
        {"name": "renamed"},
        {"ends": ("review", "last")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_hash_does_not_change_with_how_a_node_does_its_work(change):
    one, other = rich(), rich(**change)
    assert one.hash() == other.hash()
    assert changes(one.plan().definition, other.plan().definition) == []


def test_hooks_are_not_in_the_hash():
    graph = rich()
    before = graph.hash()
    graph.before(nothing)
    assert graph.hash() == before


def test_the_hash_is_the_same_in_every_process():
    program = "from tests.test_graph import rich; print(rich().hash())"
    for seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.strip() == rich().hash()


def test_the_hash_of_what_does_not_hold_together_is_refused():
    for ask in (lambda graph: graph.hash(), lambda graph: graph.mermaid()):
        with pytest.raises(es.GraphInvalid):
            ask(es.Graph("empty"))


# The picture


def test_the_picture_shows_each_kind_in_its_shape():
    assert rich(start="a").mermaid() == "\n".join(
        [
            "flowchart TD",
            '  begin((" ")) --> n0',
            '  n0["a"]',
            '  n1[/"pay"/]',
            '  n2{{"ask?"}}',
            '  n5["review"]',
            '  n6["last"]',
            '  subgraph n7["both"]',
            '    n3["left"]',
            '    n4["right"]',
            "  end",
            '  n8[["each, for each of items"]]',
            "  n0 --> n1",
            '  n1 -->|"is_large"| n2',
            '  n1 -->|"is_small"| n7',
            "  n2 --> n7",
            "  n7 --> n8",
            "  n8 --> n6",
            "  n1 -. fails .-> n5",
            "  n1 -.-> n6",
            '  n6 --> done(((" ")))',
            '  n5 --> done(((" ")))',
        ]
    )


def test_a_nameless_condition_is_drawn_as_if():
    graph = es.Graph("lambda")
    graph.node(name="a")(nothing)
    graph.edge_if("a", "a", lambda state: False).start("a").end("a")
    assert '  n0 -->|"if"| n0' in graph.mermaid().splitlines()


def test_quotes_in_names_do_not_break_the_picture():
    graph = es.Graph("quotes")
    graph.node(name='say "a"')(nothing)
    graph.node(name='say "b"')(nothing)
    graph.parallel("p", 'say "b"').edge_if('say "a"', "p", lambda state: True, name='n > "1"')
    graph.start('say "a"').end("p", 'say "a"')
    picture = graph.mermaid().splitlines()
    assert '  n0["say #quot;a#quot;"]' in picture
    assert '    n1["say #quot;b#quot;"]' in picture
    assert '  n0 -->|"n > #quot;1#quot;"| n2' in picture
