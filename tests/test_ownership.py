"""A run has one owner at a time: leases, epochs, fences, take-overs, and what `run` and `resume` make of them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from itertools import pairwise

import apsw
import pytest

import eventstore as es
from eventstore.liveness import Roll


class Crash(BaseException):
    """Ends the process's work at once, as far as a run can tell."""


def steps(*functions, **options):
    """A graph of functions, one after the other."""
    graph = es.Graph("steps", **options)
    for function in functions:
        graph.node(function)
    names = [function.__name__ for function in functions]
    for source, target in pairwise(names):
        graph.edge(source, target)
    return graph.start(names[0]).end(names[-1])


def lease(path):
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    found = connection.execute("SELECT epoch, owner FROM lease").fetchall()
    connection.close()
    return found


def epochs(store, trace_id="t1"):
    return [event.event.epoch for event in store.events(trace_id) if event.kind == "owner_changed"]


# run and resume


def test_the_same_id_resumes(store):
    calls = []

    def work(ctx):
        calls.append(1)
        ctx.put("n", 1)

    graph = steps(work)
    first = es.run(graph, store, {"a": 1}, id="t1")
    again = es.run(graph, store, {"a": 1}, id="t1")
    assert (first.status, again, calls) == ("completed", first, [1])
    assert es.run(graph, store, id="t1") == first


def test_the_same_id_with_another_input_is_an_error_that_names_the_keys(store):
    def work(ctx): ...

    es.run(steps(work), store, {"a": 1, "b": 2}, id="t1")
    with pytest.raises(es.InputDiffers) as differs:
        es.run(steps(work), store, {"a": 1.0, "c": 3}, id="t1")
    assert (differs.value.trace_id, differs.value.keys) == ("t1", ("a", "b", "c"))


def test_a_completed_run_gives_its_result_and_a_waiting_one_waits(store):
    graph = es.Graph("b").barrier("ok").start("ok").end("ok")
    es.run(graph, store, id="t1")
    version = store.open_trace("t1").version
    assert es.resume(graph, store, "t1").status == "waiting"
    store.decide("t1", "ok", es.Approve())
    done = es.resume(graph, store, "t1")
    assert es.resume(graph, store, "t1") == done and done.status == "completed"
    assert store.open_trace("t1").version > version


def test_a_cancelled_run_is_refused_unless_reopened(store):
    graph = es.Graph("b").barrier("ok").start("ok").end("ok")
    es.run(graph, store, id="t1")
    assert store.cancel("t1", by="ana", reason="no need") is True
    with pytest.raises(es.TraceEndedError) as refused:
        es.resume(graph, store, "t1")
    assert refused.value.status == "cancelled"
    assert es.resume(graph, store, "t1", reopen=True).status == "waiting"
    assert store.verify().ok


def test_a_trace_that_no_graph_started_cannot_be_resumed_by_one(store):
    def work(ctx): ...

    store.start({}, id="t1")
    with pytest.raises(es.EventStoreError, match="not started by a graph"):
        es.resume(steps(work), store, "t1")


def test_run_refuses_inside_a_running_event_loop(store):
    import asyncio

    def work(ctx): ...

    async def main():
        for call in (lambda: es.run(steps(work), store), lambda: es.resume(steps(work), store, "t1")):
            with pytest.raises(RuntimeError, match="_async"):
                call()

    asyncio.run(main())


# Owners


def test_a_run_in_progress_has_an_owner_and_a_waiting_or_ended_one_has_none(path):
    seen = []

    def work(ctx):
        seen.append(lease(path))

    with es.open(path) as store:
        graph = steps(work)
        graph = es.Graph("g")
        graph.node(work)
        graph.barrier("ok").edge("work", "ok").start("work").end("ok")
        es.run(graph, store, id="t1")
        assert seen[0][0][0] == 1 and seen[0][0][1] is not None
        assert lease(path) == [(1, None)]
        store.decide("t1", "ok", es.Approve())
        es.resume(graph, store, "t1")
        assert lease(path) == []
        assert epochs(store) == [1, 2]


@pytest.mark.parametrize("same_store", [True, False])
def test_a_second_resume_gets_a_clear_error(path, same_store):
    with es.open(path) as store, es.open(path) as other:
        refused = []

        def work(ctx):
            with pytest.raises(es.RunOwned) as owned:
                es.resume(graph, store if same_store else other, "t1")
            refused.append(owned.value)

        graph = steps(work)
        es.run(graph, store, id="t1")
    assert refused[0].trace_id == "t1" and str(os.getpid()) in refused[0].owner


def test_resume_may_wait_for_the_owner_to_let_go(path):
    with es.open(path) as store, es.open(path) as other:
        inside, go_on = threading.Event(), threading.Event()

        def work(ctx):
            inside.set()
            go_on.wait(10)
            ctx.put("n", 1)

        graph = steps(work)
        runner = threading.Thread(target=es.run, args=(graph, store), kwargs={"id": "t1"})
        runner.start()
        inside.wait(10)
        threading.Timer(0.1, go_on.set).start()
        assert es.resume(graph, other, "t1", wait_s=30).state == {"n": 1}
        runner.join()
        assert epochs(store) == [1] or epochs(store) == [1, 2]


RUN = """
import os, sys, time, eventstore as es
graph = es.Graph("steps")
@graph.node
def first(ctx): ctx.put("first", os.getpid())
@graph.node
def second(ctx):
    if os.environ.get("HANG"):
        print("inside", flush=True); time.sleep(60)
    ctx.put("second", True)
graph.edge("first", "second").start("first").end("second")
with es.open(sys.argv[1]) as store:
    try:
        print(es.run(graph, store, id="t1").status)
    except es.EventStoreError as error:
        print(type(error).__name__, error)
"""


def other_process(path, **env):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, path], stdout=subprocess.PIPE, text=True, env={**os.environ, **env}
    )


def this_graph():
    def first(ctx):
        ctx.put("first", "here")

    def second(ctx):
        ctx.put("second", True)

    return steps(first, second)


def test_another_process_owns_its_run_until_it_dies(path):
    child = other_process(path, HANG="1")
    assert child.stdout.readline() == "inside\n"
    with es.open(path) as store:
        with pytest.raises(es.RunOwned) as owned:
            es.resume(this_graph(), store, "t1")
        assert owned.value.owner.startswith(f"{child.pid}@")
        child.kill()
        child.communicate()
        done = es.resume(this_graph(), store, "t1")
        assert done.state == {"first": child.pid, "second": True}
        assert epochs(store) == [1, 2]
        assert store.verify().ok


def test_a_take_over_is_in_the_log_before_anything_else_is_done(path):
    child = other_process(path, HANG="1")
    child.stdout.readline()
    child.kill()
    child.communicate()
    with es.open(path) as store:
        seen = []

        def first(ctx): ...

        def second(ctx):
            seen.extend(epochs(store))

        es.resume(steps(first, second), store, "t1")
        assert seen == [1, 2]


def test_an_owner_whose_beat_stands_still_loses_the_run_and_is_fenced(path):
    """The lock is held, as a stopped process holds it; the beat does not move."""
    inside, go_on, fenced = threading.Event(), threading.Event(), []
    with es.open(path, owner_timeout_s=3600) as stuck, es.open(path, owner_timeout_s=0.05) as store:

        def first(ctx):
            inside.set()
            go_on.wait(20)
            ctx.put("first", "stale")

        def second(ctx): ...

        def work():
            try:
                es.run(steps(first, second), stuck, id="t1")
            except es.Fenced as error:
                fenced.append(error)

        runner = threading.Thread(target=work)
        runner.start()
        inside.wait(10)
        elsewhere = Elsewhere(store)
        with pytest.raises(es.RunOwned):
            es.resume(this_graph(), store, "t1")
        time.sleep(0.1)
        assert es.resume(this_graph(), store, "t1").state == {"first": "here", "second": True}
        go_on.set()
        runner.join(20)
        assert (fenced[0].trace_id, fenced[0].epoch) == ("t1", 1)
        assert store.state_at("t1") == {"first": "here", "second": True}
        assert epochs(store) == [1, 2] and store.verify().ok
        elsewhere.restore()


class Elsewhere:
    """Makes a store see the owners of this process as another process would."""

    def __init__(self, store):
        store._ownership._register()
        self._roll, self._here = store._ownership._roll, Roll.is_here
        own = store._ownership._owner
        Roll.is_here = lambda roll, number: number == own

    def restore(self):
        Roll.is_here = self._here


def test_five_owners_that_get_nothing_done_are_a_crash_loop(path):
    program = RUN.replace('print("inside", flush=True); time.sleep(60)', "os.kill(os.getpid(), 9)")
    for _ in range(7):  # the first one got `first` done
        child = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True,
                               env={**os.environ, "HANG": "1"})  # fmt: skip
    assert child.stdout.startswith("CrashLoop")
    with es.open(path) as store:
        with pytest.raises(es.CrashLoop) as loop:
            es.resume(this_graph(), store, "t1")
        assert (loop.value.ownerships, loop.value.node) == (5, "second")
        assert es.resume(this_graph(), store, "t1", force=True).status == "completed"


def test_a_store_that_closes_lets_its_runs_be_taken_at_once(path):
    def first(ctx):
        raise Crash

    def second(ctx): ...

    store = es.open(path)
    with pytest.raises(Crash):
        es.run(steps(first, second), store, id="t1")
    store.close()
    with es.open(path) as later:
        assert es.resume(this_graph(), later, "t1").status == "completed"


def test_two_stores_of_one_process_keep_their_locks_when_one_closes(path):
    """Closing any descriptor of a file drops a process's record locks on it: there is only one."""
    inside, go_on = threading.Event(), threading.Event()

    def first(ctx):
        inside.set()
        go_on.wait(20)

    def second(ctx): ...

    with es.open(path) as store:
        runner = threading.Thread(target=es.run, args=(steps(first, second), store), kwargs={"id": "t1"})
        runner.start()
        inside.wait(10)
        with es.open(path) as other:
            es.run(this_graph(), other)
        child = other_process(path)
        output, _ = child.communicate(timeout=30)
        assert output.startswith("RunOwned")
        go_on.set()
        runner.join(20)


def test_a_foreign_write_refuses_the_runners_next_append_and_the_run_can_be_resumed(store):
    calls = []

    def first(ctx):
        calls.append("first")
        if len(calls) == 1:
            store.append("t1", [es.StateDelta.put("foreign", 1)])
        ctx.put("first", True)

    def second(ctx): ...

    graph = steps(first, second)
    with pytest.raises(es.WrongExpectedVersion):
        es.run(graph, store, id="t1")
    assert es.resume(graph, store, "t1").state == {"foreign": 1, "first": True}


def test_mail_does_not_disturb_a_step(store):
    def first(ctx):
        store.append("t1", [es.Note("seen", {"by": "ana"})])
        ctx.put("first", True)

    def second(ctx): ...

    assert es.run(steps(first, second), store, id="t1").status == "completed"
    assert [event.kind for event in store.events("t1", after=2)][:3] == ["note", "delta", "node_executed"]


def test_only_a_run_writes_what_only_a_run_writes(store):
    trace = store.start({})
    for event in (
        es.OwnerChanged(1, "me"),
        es.NodeIntended("pay", "key"),
        es.IntentWithdrawn("pay"),
        es.BranchExecuted("a/b"),
        es.ValueRecorded("a", "now", 1),
        es.NodeRouted("a", "b"),
        es.GraphChanged("x", "y"),
        es.TraceReopened(),
    ):
        with pytest.raises(es.EventStoreError, match="written by a run"):
            trace.append([event])
    assert trace.version == 1
