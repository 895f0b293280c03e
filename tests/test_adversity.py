"""What an adversary would try: interrupts, closing under load, stale handles, holes below a root."""

from __future__ import annotations

import os
import threading
from enum import Enum

import apsw
import pytest

import eventstore as es

PUT = es.StateDelta.put


def test_a_transaction_that_an_interrupt_left_open_swallows_no_later_append(path):
    with es.open(path) as store:
        trace = store.start({"n": 0}, id="t1")
        store._writer._connection.execute("BEGIN IMMEDIATE")
        trace.append([PUT("n", 1)])
        with es.open(path) as elsewhere:
            assert elsewhere.state_at("t1") == {"n": 1}


def test_a_mutex_that_an_interrupt_left_locked_is_given_back_by_the_next_commit(path):
    with es.open(path, busy_timeout_ms=5000) as store:
        trace = store.start({"n": 0}, id="t1")
        store._writer._mutex.acquire()
        trace.append([PUT("n", 1)])
        other = threading.Thread(target=lambda: store.append("t1", [PUT("n", 2)]))
        other.start()
        other.join(4)
        assert store.state_at("t1") == {"n": 2}


def test_the_states_of_a_trimmed_fork_do_not_depend_on_its_parents_bases(path):
    with es.open(path, fold_policy=es.FoldEvery(3)) as store:
        trace = store.start({"n": 0}, reducers={"n": "sum"})
        for _ in range(6):
            with trace.step("parent") as step:
                step.put("n", 1)
        fork = store.fork(trace.id)
        for _ in range(2):
            with fork.step("fork") as step:
                step.put("n", 10)
        store.trim(fork.id, fork.version, retry_window_s=0)
        later = store.open_trace(fork.id)
        for _ in range(4):
            with later.step("later") as step:
                step.put("n", 100)
        assert store.state_at(fork.id) == later.state == {"n": 426}
        assert store.verify().ok
        store.drop_bases()
        assert store.state_at(fork.id) == {"n": 426}


def test_a_fork_whose_history_is_trimmed_meanwhile_is_refused(path, monkeypatch):
    with es.open(path) as store, es.open(path) as elsewhere:
        trace = store.start({"n": 0}, id="t1")
        for number in range(5):
            trace.append([PUT("n", number)])
        commit = store._writer.commit

        def late(append):
            monkeypatch.undo()
            elsewhere.trim("t1", 5, retry_window_s=0)
            commit(append)

        monkeypatch.setattr(store._writer, "commit", late)
        with pytest.raises(es.StorageError, match="gone"):
            store.fork("t1", at=3, id="t2")
        assert [info.trace_id for info in store.traces()] == ["t1"]
        assert store.verify().ok


class Job(str, Enum):  # noqa: UP042 - a StrEnum prints as its value, this one does not
    A = "job-1"


@pytest.mark.parametrize("append_id", [Job.A, True, 1.5, b"x", "", "\ud800", 2**64, [1]], ids=repr)
def test_an_append_id_is_a_plain_string_or_a_64_bit_integer(path, append_id):
    with es.open(path) as store:
        trace = store.start({"n": 0})
        with pytest.raises(es.ValueRefused):
            trace.append([PUT("n", 1)], append_id=append_id)
        with pytest.raises(es.ValueRefused), trace.step("work", append_id=append_id):
            pass
        assert trace.version == 1


def test_opaque_items_of_a_splice_are_checked_too(path):
    with es.open(path) as store:
        trace = store.start({"o": es.Opaque("m", b"\x01\x01", 2)})
        with pytest.raises(es.ValueRefused), trace.step("work") as step:
            step.splice("o", 0, 0, es.Opaque("m", b"", 5))
        assert store.state_at(trace.id) == {"o": es.Opaque("m", b"\x01\x01", 2)}


def test_handles_that_take_turns_write_no_more_bases_than_one(path):
    with es.open(path, durability="normal") as store:
        first = store.start({f"k{number}": "x" * 400 for number in range(100)}, id="t1")
        handles = [first, *(store.open_trace("t1") for _ in range(7))]
        for number in range(800):
            handle = handles[number % 8]
            handle.refresh()
            handle.append([PUT(f"k{number % 100}", "y" * 400)])
        assert store.stats().c1 <= 2


def test_closing_under_load_ends_every_writer_with_store_closed(path):
    store = es.open(path, busy_timeout_ms=5000)
    failures: list[BaseException] = []
    traces = [store.start({"n": 0}) for _ in range(6)]

    def work(trace):
        try:
            for number in range(10_000):
                with trace.step("work") as step:
                    step.put("n", number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(trace,)) for trace in traces]
    for thread in threads:
        thread.start()
    while traces[0].version < 20:
        pass
    store.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert {type(failure) for failure in failures} == {es.StoreClosed}
    with es.open(path) as again:
        assert again.verify().ok
        assert [again.open_trace(trace.id).version >= trace.version for trace in traces] == [True] * 6


def test_a_child_forked_during_commits_is_told_that_the_store_is_not_its_own(path):
    with es.open(path) as store:
        busy, own = store.start({"n": 0}), store.start({"n": 0})
        stop = threading.Event()

        def work():
            while not stop.is_set():
                busy.append([PUT("n", 1)])

        thread = threading.Thread(target=work)
        thread.start()
        codes = []
        for _ in range(10):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    own.append([PUT("n", 1)])
                except es.StoreClosed:
                    code = 0
                finally:
                    os._exit(code)
            codes.append(os.waitpid(child, 0)[1])
        stop.set()
        thread.join()
        assert codes == [0] * 10


def test_a_read_that_meets_a_damaged_base_waits_for_no_writer(path):
    with es.open(path, fold_policy=es.FoldEvery(2)) as store:
        trace = store.start({"n": 0}, id="t1")
        for number in range(6):
            trace.append([PUT("n", number)])
    connection = apsw.Connection(path)
    connection.execute("DROP TRIGGER base_no_update; UPDATE base SET checksum = 0")
    with es.open(path) as store, pytest.warns(es.BaseCorrupted):
        store._writer._turnstile.enter()
        with es.open(path) as elsewhere:
            assert elsewhere.state_at("t1") == {"n": 5}
        store._writer._turnstile.leave()
    connection.close()
