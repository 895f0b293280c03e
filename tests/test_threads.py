"""Threads share a store: nothing is lost, order is kept, and commits that meet share one sync."""

from __future__ import annotations

import threading
import time

import apsw
import pytest

import eventstore as es
from eventstore.pending import Pending

PUT = es.StateDelta.put


def together(count, work):
    """`work(number)` in `count` threads that begin at once; re-raises what any of them raised."""
    gate, errors = threading.Barrier(count), []

    def run(number):
        try:
            gate.wait(30)
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_threads_on_traces_of_their_own_lose_nothing(path, durability):
    with es.open(path, durability=durability) as store:

        def work(number):
            trace = store.start({"log": []}, id=f"t{number}")
            for turn in range(25):
                with trace.step("work") as step:
                    step.append("log", turn)
            assert trace.state == store.state_at(trace.id)

        together(32, work)
        assert len(store.traces()) == 32
        for number in range(32):
            assert store.state_at(f"t{number}") == {"log": list(range(25))}
            assert store.open_trace(f"t{number}").version == 1 + 2 * 25
        assert store.verify().ok


@pytest.mark.parametrize("shared", [True, False], ids=["one handle", "a handle each"])
def test_threads_on_one_trace_with_any_are_dense_and_lose_nothing(store, trace, shared):
    def work(number):
        mine = trace if shared else store.open_trace("t1")
        for turn in range(20):
            mine.append([es.StateDelta.append("log", [[number, turn]])], expected_version=es.ANY)

    together(8, work)
    log = store.state_at("t1")["log"]
    assert sorted(log) == [[number, turn] for number in range(8) for turn in range(20)]
    for number in range(8):
        assert [turn for who, turn in log if who == number] == list(range(20))
    assert trace.refresh() == 1 + 8 * 20
    assert trace.state["log"] == log
    assert store.verify().ok


def test_one_of_many_threads_wins_each_version(store, trace):
    wins = []

    def work(number):
        handle = store.open_trace("t1")
        for version in range(1, 11):
            try:
                handle.append([PUT("n", [version, number])], expected_version=version)
                wins.append(version)
            except es.WrongExpectedVersion as lost:
                assert lost.expected == version

    together(8, work)
    assert sorted(wins) == sorted(set(wins))
    assert trace.refresh() == 1 + len(wins)


def test_reads_never_wait_for_a_writer(store, trace, raw):
    raw.execute("BEGIN IMMEDIATE")
    assert store.state_at("t1") == {"log": [], "n": 0, "text": "a"}
    assert store.verify().ok
    assert [event.seq for event in store.events("t1")] == [1]
    raw.execute("ROLLBACK")


def test_a_writer_that_waits_too_long_is_told_and_nothing_is_written(path, trace, raw):
    with es.open(path, busy_timeout_ms=30) as impatient:
        handle = impatient.open_trace("t1")
        assert handle.state["n"] == 0
        raw.execute("BEGIN IMMEDIATE")
        for act in (
            lambda: handle.append([PUT("n", 1)]),
            lambda: handle.checkpoint(),
            lambda: handle.raise_barrier("ask"),
            lambda: impatient.start(id="t2"),
        ):
            with pytest.raises(es.StoreBusy, match="30 ms; nothing was written"):
                act()
        raw.execute("ROLLBACK")
        assert handle.version == 1
        handle.append([PUT("n", 1)])
        assert impatient.state_at("t1")["n"] == 1


# Group commit


@pytest.fixture
def queue(store):
    """`queue(appends)`: hold the writer until all of these calls are queued, then let it go on."""

    def run(*calls):
        results = [None] * len(calls)
        writer = store._writer

        def call(number):
            try:
                results[number] = calls[number]()
            except Exception as error:
                results[number] = error

        writer._mutex.acquire()
        threads = [threading.Thread(target=call, args=(number,)) for number in range(len(calls))]
        for number, thread in enumerate(threads):
            thread.start()
            deadline = time.monotonic() + 10
            while len(writer._queue) <= number and thread.is_alive():  # in this order
                assert time.monotonic() < deadline
                time.sleep(0.0005)
        writer._mutex.release()
        for thread in threads:
            thread.join(30)
        return results

    return run


def commits(store):
    """Count the commits of the store's writer from now on."""
    counted = []
    store._database.writer.set_commit_hook(lambda: bool(counted.append(1)))
    return counted


def test_appends_that_wait_together_share_one_commit(store, queue):
    traces = [store.start({"n": 0}, id=f"t{number}") for number in range(10)]
    counted = commits(store)
    results = queue(*[lambda trace=trace: trace.append([PUT("n", 1)]) for trace in traces])
    assert results == [es.Appended(2, 2)] * 10
    assert len(counted) <= 2
    assert all(store.state_at(trace.id) == trace.state == {"n": 1} for trace in traces)


def test_an_append_that_conflicts_inside_a_batch_leaves_the_others(store, queue):
    one, two, three = (store.start({"n": 0}, id=f"t{number}") for number in range(3))
    rival = store.open_trace("t1")
    assert rival.state == {"n": 0}
    results = queue(
        lambda: one.append([PUT("n", 1)]),
        lambda: two.append([PUT("n", 1)]),
        lambda: rival.append([PUT("n", 2)]),
        lambda: store.start({"n": 9}, id="t2"),
        lambda: three.append([PUT("n", 1)], append_id="a"),
        lambda: store.open_trace("t2").append([PUT("n", 1)], append_id="a", expected_version=1),
    )
    assert [type(result) for result in results] == [
        es.Appended, es.Appended, es.WrongExpectedVersion, es.TraceExists, es.Appended, es.Appended,
    ]  # fmt: skip
    assert [result.duplicate for result in results if isinstance(result, es.Appended)] == [False, False, False, True]
    assert [store.state_at(f"t{number}") for number in range(3)] == [{"n": 1}] * 3
    assert store.verify().ok


def test_an_error_on_the_writers_thread_reaches_every_caller(store, queue, monkeypatch):
    one, two = (store.start({"n": 0}, id=f"t{number}") for number in range(2))

    def broken(batch):
        raise RuntimeError("unforeseen")

    with monkeypatch.context() as patch:
        patch.setattr(store._writer, "_run", broken)
        results = queue(lambda: one.append([PUT("n", 1)]), lambda: two.append([PUT("n", 1)]))
    assert [str(result) for result in results] == ["unforeseen"] * 2
    one.append([PUT("n", 1)])
    assert store.state_at("t0") == {"n": 1} and store.state_at("t1") == {"n": 0}


# A shared handle


def test_an_append_is_checked_against_the_state_of_its_version(store, monkeypatch):
    import eventstore.trace as module

    trace = store.start({"l": [1]}, id="t1")
    real, halfway, go_on = module.apply, threading.Event(), threading.Event()

    def pausing(state, key, op, value):
        if key == "l" and not halfway.is_set():
            halfway.set()
            go_on.wait(1)
        real(state, key, op, value)

    monkeypatch.setattr(module, "apply", pausing)
    first = threading.Thread(target=lambda: trace.append([es.StateDelta.delete("l")], expected_version=es.ANY))
    first.start()
    assert halfway.wait(5)
    refusals = []

    def remove_the_item():
        try:
            trace.append([es.StateDelta.splice("l", 0, 1, [])], expected_version=es.ANY)
        except es.DeltaApply as refused:
            refusals.append(refused)

    second = threading.Thread(target=remove_the_item)
    second.start()
    second.join(0.2)
    go_on.set()
    for thread in (first, second):
        thread.join(10)
    assert len(refusals) == 1
    assert store.verify().ok and store.state_at("t1") == trace.state == {}


def test_a_pending_append_holds_nothing_of_the_callers(trace):
    items = [1]
    pending = trace._prepare_events([es.StateDelta.append("log", items)], 1, None)
    items.append(2)
    assert isinstance(pending, Pending)
    trace._commit(pending)
    assert trace.state["log"] == [1]


def test_connections_are_never_shared_by_threads_that_read(store, trace):
    def work(number):
        for _ in range(50):
            assert store.state_at("t1")["n"] == 0

    together(16, work)  # apsw raises ThreadingViolationError where a connection is shared
    assert issubclass(apsw.ThreadingViolationError, apsw.Error)
