"""Parallel nodes and maps: branches as sub-steps, held results, one join."""

from __future__ import annotations

import asyncio
import copy
import threading
import time

import pytest
import tenacity

import eventstore as es


class Crash(BaseException):
    """Ends the process's work at once, as far as a run can tell."""


def gathering(*branches, strategy="fail_fast", reducers=None, **options):
    graph = es.Graph("gathering", reducers=reducers)
    for branch in branches:
        graph.node(**options)(branch)
    graph.parallel("gather", *branches, strategy=strategy)
    return graph.start("gather").end("gather")


def of_kind(store, trace_id, *kinds):
    return [event.event for event in store.events(trace_id) if event.kind in kinds]


# Joining


def test_branches_see_the_same_state_and_are_joined_in_declared_order(store):
    seen = {}

    def slow(ctx):
        time.sleep(0.03)
        seen["slow"] = copy.deepcopy(dict(ctx.state))
        ctx.put("log", "slow")

    def quick(ctx):
        seen["quick"] = copy.deepcopy(dict(ctx.state))
        ctx.put("log", "quick")

    result = es.run(gathering(slow, quick, reducers={"log": "append"}), store, {"log": [], "n": 1})
    assert seen == {"slow": {"log": [], "n": 1}, "quick": {"log": [], "n": 1}}
    assert result.state == {"log": ["slow", "quick"], "n": 1}
    assert store.verify().ok


def test_branches_run_at_the_same_time(store):
    meet = threading.Barrier(2)

    def a(ctx):
        meet.wait(10)

    def b(ctx):
        meet.wait(10)

    assert es.run(gathering(a, b), store).status == "completed"


def test_a_custom_reducer_is_resolved_at_the_join(store):
    def a(ctx):
        ctx.put("best", 3)
        assert ctx.state["best"] == 3

    def b(ctx):
        ctx.put("best", 5)
        ctx.put("best", 4)
        assert ctx.get("best") == 5

    best = {"best": lambda old, new: max(old, new)}
    result = es.run(gathering(a, b, reducers=best), store, {"best": 1})
    assert result.state == {"best": 5}
    held = [delta.value for branch in of_kind(store, result.trace_id, "branch_executed") for delta in branch.deltas]
    assert held == [3, 5, 4]
    assert [delta.source for delta in of_kind(store, result.trace_id, "delta")] == ["reducer_merge"] * 3


def test_two_branches_that_write_one_key_without_a_reducer_are_a_conflict_that_names_them(store):
    def a(ctx):
        ctx.put("plan", "a")

    def b(ctx):
        ctx.put("plan", "b")

    with pytest.raises(es.RunFailed) as failed:
        es.run(gathering(a, b), store, id="t1")
    conflict = failed.value.__cause__
    assert isinstance(conflict, es.StateConflict)
    assert (conflict.key, conflict.writers) == ("plan", ("a", "b"))
    assert store.state_at("t1") == {}


def test_branches_are_entries_of_their_step(store):
    def a(ctx): ...

    def b(ctx): ...

    result = es.run(gathering(a, b), store)
    assert sorted(entry.label for entry in result.execution_log) == ["1", "1/a", "1/b"]
    assert store.open_trace(result.trace_id).control["steps"] == 1


def test_a_branch_has_no_way_to_choose(store):
    for choose in (lambda ctx: ctx.goto("gather"), lambda ctx: ctx.end()):
        choose.__name__ = "chooser"
        with pytest.raises(es.RunFailed, match="branch"):
            es.run(gathering(choose), store)


def test_an_opaque_value_in_a_branch_is_refused(store):
    def a(ctx):
        ctx.put("sealed", es.Opaque("raw", b"\x00"))

    with pytest.raises(es.RunFailed, match="a branch cannot write opaque values"):
        es.run(gathering(a), store)


# Failing


def test_fail_fast_starts_no_further_branch_and_keeps_what_succeeded(store):
    calls, broken = [], [True]
    graph = es.Graph("g")
    for name in "abcd":

        def branch(ctx, name=name):
            calls.append(name)
            if name == "b" and broken:
                raise OSError("disk")
            ctx.put(name, True)

        graph.node(name=name)(branch)
    graph.parallel("gather", *"abcd", max_concurrency=1).start("gather").end("gather")
    with pytest.raises(es.RunFailed, match="branch 'b': OSError: disk"):
        es.run(graph, store, id="t1")
    assert calls == ["a", "b"] and store.state_at("t1") == {}
    broken.clear()
    assert es.resume(graph, store, "t1").state == dict.fromkeys("abcd", True)
    assert calls == ["a", "b", "b", "c", "d"]
    assert store.verify().ok


def test_fail_fast_waits_until_all_that_started_have_settled(store):
    started, done = threading.Event(), []

    def slow(ctx):
        started.set()
        time.sleep(0.05)
        done.append(True)
        ctx.put("slow", True)

    def broken(ctx):
        started.wait(10)
        raise OSError

    with pytest.raises(es.RunFailed):
        es.run(gathering(slow, broken), store, id="t1")
    assert done == [True]
    assert {branch.path: branch.success for branch in of_kind(store, "t1", "branch_executed")} == {
        "gather/slow": True, "gather/broken": False,
    }  # fmt: skip


def test_collect_all_joins_those_that_succeeded_and_names_the_others(store):
    def a(ctx):
        ctx.put("a", 1)

    def b(ctx):
        raise OSError("disk")

    result = es.run(gathering(a, b, strategy="collect_all"), store)
    assert result.state == {"a": 1, "gather.errors": {"b": "OSError: disk"}}


def test_collect_all_without_any_success_fails(store):
    def a(ctx):
        raise OSError("disk")

    with pytest.raises(es.RunFailed, match="branch 'a'"):
        es.run(gathering(a, strategy="collect_all"), store)


def test_a_fallback_of_the_parallel_node_takes_over(store):
    def a(ctx):
        raise OSError("disk")

    graph = es.Graph("g")
    graph.node(a)
    graph.node(name="plan_b")(lambda ctx: {"why": ctx.state["gather.error"]})
    graph.parallel("gather", a).edge_fallback("gather", "plan_b").start("gather").end("gather", "plan_b")
    assert es.run(graph, store).state["why"] == "branch 'a': OSError: disk"


def test_a_branch_is_retried_by_itself(store):
    attempts = []

    def flaky(ctx):
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ConnectionError

    retry = tenacity.Retrying(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(0.001))
    result = es.run(gathering(flaky, retry=retry), store)
    assert attempts == [1, 2, 3]
    assert [entry.success for entry in result.execution_log] == [False, False, True, True]


# Resuming


@pytest.mark.parametrize("crash_in", ["a", "b", "c"])
def test_a_resume_runs_the_missing_branches_only(path, crash_in):
    calls, crash = [], [True]
    graph = es.Graph("g")
    for name in "abc":

        def branch(ctx, name=name):
            calls.append(name)
            if name == crash_in and crash:
                raise Crash
            ctx.put(name, True)

        graph.node(name=name)(branch)
    graph.parallel("gather", *"abc", max_concurrency=1).start("gather").end("gather")
    with es.open(path) as store, pytest.raises(Crash):
        es.run(graph, store, id="t1")
    crash.clear()
    with es.open(path) as store:
        assert es.resume(graph, store, "t1").state == dict.fromkeys("abc", True)
        done = "abc"[: "abc".index(crash_in)]
        assert calls == [*done, crash_in, *"abc"[len(done) :]]
        assert not [key for key in store.open_trace("t1").control if key.startswith(("held/", "failed/", "retry/"))]
        assert store.verify().ok


def test_a_run_that_is_stopped_between_branches_is_given_back(store):
    stop = threading.Event()
    graph = es.Graph("g")
    calls = []

    @graph.map(over="items", max_concurrency=1)
    def work(ctx, item):
        calls.append(item)
        if len(calls) == 2:
            stop.set()
        return {f"k{item}": item}

    graph.start("work").end("work")
    assert es.run(graph, store, {"items": [1, 2, 3]}, id="t1", stop=stop).status == "running"
    assert calls == [1, 2]
    assert es.resume(graph, store, "t1").state == {"items": [1, 2, 3], "k1": 1, "k2": 2, "k3": 3}
    assert calls == [1, 2, 3]


def test_bases_written_while_branches_are_open_change_nothing(path):
    graph = es.Graph("g", reducers={"n": "sum"})

    @graph.map(over="items", max_concurrency=2)
    def work(ctx, item):
        ctx.put("n", item)

    graph.start("work").end("work")
    with es.open(path, fold_policy=es.FoldEvery(1)) as store:
        assert es.run(graph, store, {"items": list(range(20)), "n": 0}, id="t1").state["n"] == 190
        states = [store.state_at("t1", seq) for seq in range(1, store.open_trace("t1").version + 1)]
        assert store.verify().ok
        store.drop_bases()
        assert states == [store.state_at("t1", seq) for seq in range(1, len(states) + 1)]


# Effects in branches


@pytest.mark.parametrize("rule", ["ask", "retry", "fail"])
def test_a_branch_in_doubt_follows_its_rule(path, rule):
    effects, crash = [], [True]
    graph = es.Graph("g")

    @graph.node(side_effects=True, in_doubt=rule)
    async def pay(ctx):
        effects.append(ctx.idempotency_key)
        if crash:
            raise KeyboardInterrupt
        return {"paid": True}

    @graph.node
    def other(ctx):
        return {"other": True}

    graph.parallel("gather", "other", "pay", max_concurrency=1).start("gather").end("gather")
    with es.open(path) as store, pytest.raises(KeyboardInterrupt):
        es.run(graph, store, id="t1")
    crash.clear()
    with es.open(path) as store:
        if rule == "fail":
            with pytest.raises(es.RunFailed, match="in doubt"):
                es.resume(graph, store, "t1")
            return
        result = es.resume(graph, store, "t1")
        if rule == "ask":
            assert result.pending_barriers == ["gather/pay#1"]
            store.decide("t1", "gather/pay", es.Approve())
            result = es.resume(graph, store, "t1")
        assert result.state == {"paid": True, "other": True}
        assert len(effects) == 2 and len(set(effects)) == 1
        assert store.verify().ok


def test_a_human_may_say_what_a_branch_in_doubt_wrote(path):
    graph, crash = es.Graph("g"), [True]

    @graph.node(side_effects=True)
    async def pay(ctx):
        if crash:
            raise KeyboardInterrupt
        raise AssertionError("never again")

    graph.parallel("gather", "pay").start("gather").end("gather")
    with es.open(path) as store, pytest.raises(KeyboardInterrupt):
        es.run(graph, store, id="t1")
    crash.clear()
    with es.open(path) as store:
        es.resume(graph, store, "t1")
        store.decide("t1", "gather/pay", es.Modify({"paid": 39}))
        assert es.resume(graph, store, "t1").state == {"paid": 39}
        assert store.verify().ok


# Maps


def test_a_map_runs_its_node_once_an_item(store):
    graph = es.Graph("m", reducers={"scores": "merge_object"})
    most, running, lock = [0], [0], threading.Lock()

    @graph.map(over="docs", max_concurrency=3)
    def score(ctx, doc):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.002)
        with lock:
            running[0] -= 1
        assert (ctx.item, ctx.path) == (doc, f"score/{ctx.index}")
        return {"scores": {doc: len(doc)}}

    result = es.run(graph.start("score").end("score"), store, {"docs": ["a", "bb", "ccc", "dddd"]})
    assert result.state["scores"] == {"a": 1, "bb": 2, "ccc": 3, "dddd": 4}
    assert most[0] <= 3
    keys = {branch.path for branch in of_kind(store, result.trace_id, "branch_executed")}
    assert keys == {"score/0", "score/1", "score/2", "score/3"}


def test_a_map_over_nothing_goes_on(store):
    graph = es.Graph("m")
    graph.map(lambda ctx, item: None, over="items", name="each")
    assert es.run(graph.start("each").end("each"), store, {"items": []}).status == "completed"


@pytest.mark.parametrize("state", [{}, {"items": 3}, {"items": {"a": 1}}])
def test_a_map_needs_a_list(store, state):
    graph = es.Graph("m")
    graph.map(lambda ctx, item: None, over="items", name="each")
    with pytest.raises(es.RunFailed, match="goes over the list at 'items'"):
        es.run(graph.start("each").end("each"), store, state)


# Async


def test_async_branches_run_side_by_side_and_a_failure_stops_the_pure_ones(store):
    stopped, settled = [], []
    graph = es.Graph("a")

    @graph.node
    async def patient(ctx):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.append(ctx.path)
            raise

    @graph.node(side_effects=True)
    async def paying(ctx):
        await asyncio.sleep(0.05)
        settled.append(ctx.path)

    @graph.node
    async def broken(ctx):
        await asyncio.sleep(0.01)
        raise OSError("disk")

    graph.parallel("gather", patient, paying, broken).start("gather").end("gather")
    with pytest.raises(es.RunFailed, match="OSError"):
        es.run(graph, store, id="t1")
    assert (stopped, settled) == (["gather/patient"], ["gather/paying"])
    assert {branch.path for branch in of_kind(store, "t1", "branch_executed")} == {"gather/paying", "gather/broken"}


def test_sync_and_async_branches_mix(store):
    graph = es.Graph("mix", reducers={"log": "append"})

    @graph.node
    async def a(ctx):
        await asyncio.sleep(0.001)
        ctx.put("log", "a")

    @graph.node
    def b(ctx):
        time.sleep(0.001)
        ctx.put("log", "b")

    graph.parallel("gather", a, b).start("gather").end("gather")
    assert es.run(graph, store).state == {"log": ["a", "b"]}
