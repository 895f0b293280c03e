"""Workers: they go on with what is due, take over from the dead, and leave the living alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import tenacity

import eventstore as es
from eventstore.worker import Worker

DYING = """
import os, signal, sys
import eventstore as es

graph = es.Graph("pay")

@graph.node(side_effects=True, in_doubt="retry")
def pay(ctx):
    if os.environ.get("DIES"):
        os._exit(9)
    if os.environ.get("FREEZES"):
        os.kill(os.getpid(), signal.SIGSTOP)
    return {"paid": 40}

graph.start("pay").end("pay")

if __name__ == "__main__":
    with es.open(sys.argv[1]) as store:
        es.run(graph, store, id=sys.argv[2])
"""


def gate(name="gate", then=None, **barrier):
    """A barrier, and a node after it."""
    graph = es.Graph(name)

    @graph.node
    def go(ctx):
        if then is not None:
            then(ctx)
        return {"done": True}

    return graph.barrier("approve", **barrier).start("approve").edge("approve", "go").end("go")


def decided(graph, store, *ids):
    for trace_id in ids:
        es.run(graph, store, id=trace_id)
        store.decide(trace_id, "approve", es.Approve(by="ana"))


def worked(graph, store, **keywords):
    """What a worker tells until nothing is due any more."""
    told = []
    Worker(graph, store, on_result=told.append, **keywords).run(once=True)
    return told


def outcomes(told):
    return sorted((item.trace_id, item.result.status if item.result else type(item.error).__name__) for item in told)


def statuses(store):
    return {info.trace_id: info.status for info in store.traces()}


def test_decided_runs_are_gone_on_with_and_others_are_not(store):
    graph = gate()
    decided(graph, store, "t1", "t2")
    es.run(graph, store, id="waits")
    decided(gate("other"), store, "other")
    store.start({}, name="gate", id="no-run")
    assert outcomes(worked(graph, store)) == [("t1", "completed"), ("t2", "completed")]
    assert statuses(store) == {
        "t1": "completed", "t2": "completed", "waits": "waiting", "other": "running", "no-run": "running",
    }  # fmt: skip
    assert worked(graph, store) == []


def test_a_retry_is_made_when_it_is_due(store):
    graph, attempts = es.Graph("flaky"), []

    @graph.node(retry=tenacity.Retrying(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(0.2)))
    def flaky(ctx):
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ConnectionError("down")

    graph.barrier("approve").start("approve").edge("approve", "flaky").end("flaky")
    decided(graph, store, "t1")
    assert outcomes(worked(graph, store)) == [("t1", "running")]
    assert attempts == [1]
    while attempts == [1]:
        assert outcomes(worked(graph, store)) in ([], [("t1", "running")])
        time.sleep(0.01)
    while statuses(store)["t1"] == "running":
        worked(graph, store)
        time.sleep(0.01)
    assert (attempts, statuses(store)["t1"]) == ([1, 2, 3], "completed")


def test_a_deadline_that_has_passed_decides(store):
    graph = gate(timeout_s=0.01, on_timeout=es.Approve(by="clock"))
    es.run(graph, store, id="t1")
    later = gate("later", timeout_s=1000)
    es.run(later, store, id="t2")
    while not store.barriers(trace_id="t1")[0].expired:
        time.sleep(0.005)
    assert outcomes(worked(graph, store)) == [("t1", "completed")]
    assert worked(later, store) == []
    assert store.get("t1", "approve.approved") is True


def test_a_graph_with_async_nodes(store):
    graph = es.Graph("gate")

    @graph.node
    async def go(ctx):
        return {"done": True}

    graph.barrier("approve").start("approve").edge("approve", "go").end("go")
    for trace_id in ("t1", "t2", "t3"):
        es.run(graph, store, id=trace_id)
        store.decide(trace_id, "approve", es.Approve())
    assert outcomes(worked(graph, store)) == [(trace_id, "completed") for trace_id in ("t1", "t2", "t3")]


def test_a_failed_run_is_told_and_not_tried_again(store):
    calls = []

    def fails(ctx):
        calls.append(ctx.trace_id)
        raise ConnectionError("bank unreachable")

    graph = gate(then=fails)
    decided(graph, store, "t1")
    (told,) = worked(graph, store)
    assert isinstance(told.error, es.RunFailed)
    assert told.error.reason == "ConnectionError: bank unreachable"
    assert worked(graph, store) == []
    assert calls == ["t1"]


@pytest.fixture
def dying(tmp_path, path):
    """`dying(trace_id)`: a process that dies in that run; gives the graph."""
    file = tmp_path / "dying.py"
    file.write_text(DYING, "utf-8")

    def die(trace_id):
        done = subprocess.run([sys.executable, file, path, trace_id], env=os.environ | {"DIES": "1"}, check=False)
        assert done.returncode == 9
        names = {"__name__": "dying"}
        exec(compile(DYING, file, "exec"), names)  # noqa: S102
        return names["graph"]

    die.file = file
    return die


def test_a_run_whose_owner_died_is_taken_over(store, dying):
    graph = dying("t1")
    assert statuses(store) == {"t1": "running"}
    assert outcomes(worked(graph, store)) == [("t1", "completed")]
    assert store.get("t1", "paid") == 40
    assert [event.event.epoch for event in store.events("t1") if event.kind == "owner_changed"] == [1, 2]


def test_a_run_whose_owner_is_stuck_is_taken_over_in_the_end(path, dying):
    graph = dying("first")
    frozen = subprocess.Popen([sys.executable, dying.file, path, "t1"], env=os.environ | {"FREEZES": "1"})
    try:
        os.waitid(os.P_PID, frozen.pid, os.WSTOPPED | os.WNOWAIT)
        told = []
        with es.open(path, owner_timeout_s=0.1) as store:
            worker = Worker(graph, store, poll_s=0.01)

            def tell(item):
                told.append(item)
                if item.trace_id == "t1":
                    worker.stop.set()

            worker._on_result = tell
            worker.run()
            assert outcomes(told) == [("first", "completed"), ("t1", "completed")]
        os.kill(frozen.pid, signal.SIGCONT)
        assert frozen.wait(30) == 1  # it is fenced off
    finally:
        frozen.kill()
        frozen.wait()
    with es.open(path) as store:
        assert [event.kind for event in store.events("t1")].count("node_executed") == 1


def test_a_crash_loop_is_told_once_until_the_run_has_changed(store, dying, monkeypatch):
    graph = dying("t1")
    monkeypatch.setattr("eventstore.entering.MOST_STALLED", 1)
    told = []
    worker = Worker(graph, store, on_result=told.append)
    for _ in range(3):
        worker.run(once=True)
    assert outcomes(told) == [("t1", "CrashLoop")]
    es.resume(graph, store, "t1", force=True)
    assert statuses(store) == {"t1": "completed"}


def test_another_graph_is_told_once_until_the_run_has_changed(store):
    graph, changed, told = gate(), gate(), []
    decided(graph, store, "t1")
    changed.version = "2"
    worker = Worker(changed, store, on_result=told.append)
    for _ in range(3):
        worker.run(once=True)
    assert outcomes(told) == [("t1", "GraphHashMismatch")]
    store.open_trace("t1").note("looked at")
    for _ in range(2):
        worker.run(once=True)
    assert outcomes(told) == [("t1", "GraphHashMismatch")] * 2
    assert outcomes(worked(graph, store)) == [("t1", "completed")]


def test_runs_of_live_owners_are_left_alone_and_hide_nothing(path, store, monkeypatch):
    monkeypatch.setattr("eventstore.worker.PAGE_RUNS", 2)
    held, entered = threading.Event(), threading.Semaphore(0)

    def hold(ctx):
        if ctx.trace_id.startswith("held"):
            entered.release()
            assert held.wait(30)

    graph = gate(then=hold)
    ids = [f"held-{number}" for number in range(5)]
    decided(graph, store, *ids, "behind")
    with es.open(path, durability="normal") as other:
        owners = [threading.Thread(target=es.resume, args=(graph, other, trace_id)) for trace_id in ids]
        for owner in owners:
            owner.start()
        try:
            for _ in owners:
                assert entered.acquire(timeout=30)
            assert outcomes(worked(graph, store, concurrency=1)) == [("behind", "completed")]
            assert outcomes(worked(graph, other, concurrency=1)) == []  # its own are not looked at twice
        finally:
            held.set()
            for owner in owners:
                owner.join(30)
    assert set(statuses(store).values()) == {"completed"}
    assert [event.kind for event in store.events("held-0")].count("owner_changed") == 2


def test_as_many_runs_at_a_time_as_it_may(store):
    together, lock, now, most = threading.Barrier(2), threading.Lock(), [0], [0]

    def meet(ctx):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        together.wait(30)  # passes only where two are here
        with lock:
            now[0] -= 1

    graph = gate(then=meet)
    decided(graph, store, *(f"t{number}" for number in range(6)))
    assert len(worked(graph, store, concurrency=2)) == 6
    assert most[0] == 2


def test_stopping_gives_every_run_back_at_its_next_step(store):
    stop, calls = threading.Event(), []
    graph = es.Graph("steps")

    @graph.node
    def first(ctx):
        calls.append("first")
        stop.set()

    @graph.node
    def second(ctx):
        calls.append("second")

    graph.barrier("approve").start("approve").edge("approve", "first").edge("first", "second").end("second")
    decided(graph, store, "t1")
    told = []
    Worker(graph, store, stop=stop, on_result=told.append).run()
    assert outcomes(told) == [("t1", "running")]
    assert calls == ["first"]
    assert outcomes(worked(graph, store)) == [("t1", "completed")]
    assert calls == ["first", "second"]


def test_a_worker_goes_on_until_it_is_stopped(store):
    graph, told = gate(), []
    first = threading.Event()

    def tell(item):
        told.append(item)
        first.set()

    worker = Worker(graph, store, poll_s=0.01, on_result=tell)
    thread = threading.Thread(target=worker.run)
    thread.start()
    decided(graph, store, "t1")
    assert first.wait(30)
    first.clear()
    decided(graph, store, "t2")
    assert first.wait(30)
    worker.stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert outcomes(told) == [("t1", "completed"), ("t2", "completed")]


def test_what_its_listener_raises_ends_it(store):
    def broken(item):
        raise BrokenPipeError

    graph = gate()
    decided(graph, store, "t1", "t2")
    with pytest.raises(BrokenPipeError):
        Worker(graph, store, concurrency=1, on_result=broken).run()
    assert statuses(store) == {"t1": "completed", "t2": "running"}


@pytest.mark.parametrize("keywords", [{"concurrency": 0}, {"poll_s": 0}])
def test_nonsense_is_refused(store, keywords):
    with pytest.raises(ValueError):
        Worker(gate(), store, **keywords)
    with pytest.raises(es.GraphInvalid):
        Worker(es.Graph("empty"), store)


def test_a_fork_is_left_alone_until_it_is_decided(store):
    graph = es.Graph("asking").barrier("ok").start("ok").end("ok")
    es.run(graph, store, id="t1")
    store.fork("t1", id="t2")
    store.fork("t1", id="t3")
    store.decide("t2", "ok", es.Approve())
    es.Worker(graph, store).run(once=True)
    assert [store.open_trace(trace_id).status for trace_id in ("t1", "t2", "t3")] == ["waiting", "completed", "waiting"]
