"""What an adversary would try on a run: odd exceptions, cancelled entries, busy files, endless ways, stale memory."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time

import apsw
import pytest
import tenacity

import eventstore as es


class Crash(BaseException):
    """Ends the process's work at once, as far as a run can tell."""


def one_node(function, **options):
    graph = es.Graph("one")
    graph.node(name="n", **options)(function)
    return graph.start("n").end("n")


def kinds(store, trace_id="t1"):
    return [event.kind for event in store.events(trace_id)]


# Figures that the log cannot hold


@pytest.mark.parametrize("cost", [{"token_cost": float("nan")}, {"duration_ms": float("inf")}, {"token_cost": -1.0}])
def test_a_cost_that_is_no_figure_fails_the_node_and_leaves_the_log_readable(store, cost):
    with pytest.raises(es.RunFailed, match="not a finite, non-negative number"):
        es.run(one_node(lambda ctx: ctx.record(**cost)), store, id="t1")
    assert [entry.success for entry in store.open_trace("t1").entries()] == [False]
    assert store.verify().ok


def test_verify_finds_an_event_that_no_reader_can_take(path, tamper):
    with es.open(path) as store:
        es.run(one_node(lambda ctx: None), store, id="t1")
    tamper('UPDATE log SET body = replace(body, \'"node":"n"\', \'"node":7\') WHERE first_seq > 1')
    with es.open(path) as store:
        assert not store.verify().ok


# What is no outcome of a node, and what is


@pytest.mark.parametrize("exit", [SystemExit, GeneratorExit, asyncio.CancelledError])
def test_a_node_that_wants_to_exit_has_failed(store, exit):
    def leave(ctx):
        raise exit

    with pytest.raises(es.RunFailed, match=exit.__name__):
        es.run(one_node(leave), store, id="t1")
    assert store.open_trace("t1").status == "failed"


def test_a_retry_rule_that_fails_allows_no_further_attempt(store):
    def decline(ctx):
        raise ValueError("declined")

    rule = tenacity.Retrying(retry=tenacity.retry_if_exception(lambda error: error.code == 503))
    with pytest.raises(es.RunFailed, match="ValueError: declined"):
        es.run(one_node(decline, retry=rule, side_effects=True), store, id="t1")
    assert (store.open_trace("t1").status, store.barriers()) == ("failed", [])


@pytest.mark.parametrize("error", [ValueError, StopIteration])
def test_a_reducer_that_fails_at_the_join_fails_the_node(store, error):
    def combine(old, new):
        if old is not None:
            raise error("cannot combine")
        return new

    graph = es.Graph("g", reducers={"best": combine})
    for name in "ab":
        graph.node(name=name)(lambda ctx: {"best": 1})
    graph.node(name="plan_b")(lambda ctx: None)
    graph.parallel("both", "a", "b").edge_fallback("both", "plan_b").start("both").end("both", "plan_b")
    assert "cannot combine" in es.run(graph, store).state["both.error"]


@pytest.mark.parametrize("prompt", [lambda state: state["absent"], lambda state: "\ud800"])
def test_a_prompt_that_cannot_be_asked_fails_the_run(store, prompt):
    graph = es.Graph("g").barrier("ok", prompt=prompt).start("ok").end("ok")
    with pytest.raises(es.RunFailed):
        es.run(graph, store, id="t1")
    assert store.open_trace("t1").status == "failed"


def test_a_circle_of_fallbacks_ends_at_max_steps(store):
    calls = []

    def broken(ctx):
        calls.append(1)
        raise OSError

    graph = es.Graph("g", max_steps=7)
    graph.node(name="n")(broken)
    graph.edge_fallback("n", "n").start("n").end("n")
    with pytest.raises(es.RunFailed, match="max_steps"):
        es.run(graph, store)
    assert len(calls) == 7


# Entering and leaving


def test_a_task_that_is_cancelled_while_it_enters_leaves_no_owner(path):
    async def main():
        async with es.aopen(path) as store:
            graph = one_node(lambda ctx: None)
            for turns in range(6):
                task = asyncio.create_task(es.run_async(graph, store, id=f"t{turns}"))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            for turns in range(6):
                assert (await es.run_async(graph, store, id=f"t{turns}")).status == "completed"

    asyncio.run(main())


def test_a_waiter_that_is_cancelled_does_not_come_to_own_the_run(path):
    inside, go_on = threading.Event(), threading.Event()

    def work(ctx):
        inside.set()
        go_on.wait(20)

    async def wait(graph):
        async with es.aopen(path) as store:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(es.resume_async(graph, store, "t1", wait_s=30), 0.2)

    with es.open(path) as store:
        graph = one_node(work)
        runner = threading.Thread(target=es.run, args=(graph, store), kwargs={"id": "t1"})
        runner.start()
        inside.wait(10)
        asyncio.run(wait(graph))
        go_on.set()
        runner.join(20)
        assert kinds(store).count("owner_changed") == 1
        assert es.resume(graph, store, "t1").status == "completed"


def test_a_run_that_a_busy_file_stopped_can_be_taken_by_another_store(path):
    with es.open(path, busy_timeout_ms=50) as store, es.open(path) as other:

        def work(ctx):
            blocker.execute("BEGIN IMMEDIATE")

        blocker = apsw.Connection(path)
        with pytest.raises(es.StoreBusy):
            es.run(one_node(work), store, id="t1")
        blocker.close()
        assert es.resume(one_node(lambda ctx: {"n": 1}), other, "t1").state == {"n": 1}


def test_what_fails_between_claim_and_first_step_gives_the_run_back(store, monkeypatch, path):
    graph = es.Graph("g").barrier("ok").start("ok").end("ok")
    es.run(graph, store, id="t1")
    store.decide("t1", "ok", es.Approve())

    def fails(*_):
        raise OSError("cannot look")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="cannot look"):
        patched.setattr("eventstore.entering._effects", fails)
        es.resume(graph, store, "t1")
    with es.open(path) as other:
        assert es.resume(graph, other, "t1").status == "completed"


DIES = """
import os, sys, eventstore as es
graph = es.Graph("g")
@graph.map(over="items", side_effects=True, in_doubt="retry")
def each(ctx, item): os._exit(9)
graph.start("each").end("each")
with es.open(sys.argv[1]) as store:
    es.run(graph, store, {"items": list(range(40))}, id="t1")
"""


def test_a_crash_loop_is_seen_behind_many_intents(path):
    for _ in range(5):
        assert subprocess.run([sys.executable, "-c", DIES, path], capture_output=True).returncode == 9
    with es.open(path) as store:
        graph = es.Graph("g")
        graph.map(lambda ctx, item: None, name="each", over="items", side_effects=True, in_doubt="retry")
        with pytest.raises(es.CrashLoop):
            es.resume(graph.start("each").end("each"), store, "t1")


# Memory and the log


def test_an_effect_is_intended_again_on_the_next_visit_of_its_parallel_node(store):
    broken, release = [True], threading.Event()
    graph = es.Graph("g")

    @graph.node
    def a(ctx):
        if broken:
            raise OSError

    @graph.node(side_effects=True, timeout_s=0.05)
    def b(ctx):
        if broken:
            release.wait(10)

    graph.node(name="fix")(lambda ctx: broken.clear())
    graph.parallel("both", a, b).edge_fallback("both", "fix").edge("fix", "both").start("both").end("both")
    es.run(graph, store, id="t1")
    release.set()
    store.decide("t1", "both/b", es.Approve())
    assert es.resume(graph, store, "t1").status == "completed"
    intents = [event.event.key for event in store.events("t1") if event.kind == "node_intended"]
    assert len(set(intents)) == 2  # one of each visit


def test_a_rule_that_is_replaced_as_the_run_comes_to_its_barrier_counts(path):
    with es.open(path) as store, es.open(path) as other:
        replaced = []

        def prompt(state):
            if not replaced:
                replaced.append(other.decide("t1", "ok#*", es.Reject("stop")))
            return "?"

        graph = es.Graph("g")
        graph.node(name="first")(lambda ctx: other.decide("t1", "ok#*", es.Approve()) and None)
        graph.barrier("ok", prompt=prompt).edge("first", "ok").start("first").end("ok")
        assert es.run(graph, store, id="t1").state["ok.approved"] is False


def test_two_rerouted_branches_end_their_node_once(path):
    graph, crash = es.Graph("g"), [True]

    def pay(ctx):
        if crash:
            raise KeyboardInterrupt

    for name in ("pay", "bill"):
        graph.node(name=name, side_effects=True)(pay)
    graph.node(name="out")(lambda ctx: None)
    graph.parallel("both", "pay", "bill").edge("both", "out").start("both").end("out")
    with es.open(path) as store, pytest.raises(KeyboardInterrupt):
        es.run(graph, store, id="t1")
    crash.clear()
    with es.open(path) as store:
        for barrier in es.resume(graph, store, "t1").pending_barriers:
            store.decide("t1", barrier, es.Reroute("out"))
        es.resume(graph, store, "t1")
        ended = [event.event for event in store.events("t1") if event.kind == "node_executed"]
        assert [event.node for event in ended] == ["both", "out"]


# Forks and threads


def test_a_fork_at_an_open_intent_asks(path):
    graph, effects = es.Graph("g"), []

    @graph.node(side_effects=True)
    def pay(ctx):
        effects.append(ctx.trace_id)
        if ctx.trace_id == "t1":
            raise Crash

    with es.open(path) as store, pytest.raises(Crash):
        es.run(graph.start("pay").end("pay"), store, id="t1")
    with es.open(path) as store:
        store.fork("t1", id="t2")
        assert es.resume(graph, store, "t2").status == "waiting"
        assert (store.barriers(trace_id="t2")[0].reason, effects) == ("effect", ["t1"])


def test_a_reused_effect_goes_where_its_parent_went(store):
    graph = es.Graph("g")

    @graph.node(side_effects=True, goes_to=["big"])
    def pay(ctx):
        ctx.goto("big")

    graph.node(name="big")(lambda ctx: {"way": "big"})
    graph.node(name="small")(lambda ctx: {"way": "small"})
    graph.node(name="first")(lambda ctx: None)
    graph.edge("first", "pay").edge("pay", "small").start("first").end("big", "small")
    es.run(graph, store, id="t1")
    at = next(event.seq for event in store.events("t1") if event.kind == "node_intended")
    store.fork("t1", at, id="t2")
    assert es.resume(graph, store, "t2", effects="reuse").state == {"way": "big"}


def test_no_second_call_begins_beside_a_thread_that_an_earlier_run_left(store):
    running, most = [0], [0]

    def pay(ctx):
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.2)
        running[0] -= 1

    graph = one_node(pay, side_effects=True, timeout_s=0.05)
    es.run(graph, store, id="t1")
    store.decide("t1", "n", es.Approve())
    es.resume(graph, store, "t1")
    assert most == [1]


def test_a_store_that_is_read_only_runs_nothing(path):
    graph = one_node(lambda ctx: {"n": 1})
    with es.open(path) as store:
        done = es.run(graph, store, id="t1")
        with es.open(path, read_only=True) as reader:
            assert es.resume(graph, reader, "t1") == done
            with pytest.raises(es.StorageError):
                es.run(graph, reader)
    assert os.path.exists(path)  # noqa: PTH110
