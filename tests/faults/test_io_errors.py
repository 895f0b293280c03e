"""When the disk fails: the errors that come out, and what is on it once the file was opened again."""

from __future__ import annotations

import os

import pytest

import eventstore as es

from .deeds import checkpoint_every, graph
from .disk import recording
from .failing import CODES, failing
from .images import Choice, Gone, Platter
from .recovery import Bench

PUT = es.StateDelta.put


@pytest.fixture
def disk():
    with recording() as disk:
        yield disk


@pytest.fixture
def faults(disk):
    with failing(disk) as faults:
        yield faults


def fails(faults, kind, *, suffix="", once=True):
    """Let the next call of a kind fail, of files of that suffix; how many did."""
    hits = []

    def fault(called, path, _):
        if called != ("write" if kind == "full" else kind) or not path.endswith(suffix) or (once and hits):
            return 0
        hits.append(path)
        return CODES[kind]

    faults.fault = fault
    return hits


def after_a_cut(disk, path, tmp_path, versions, kept="nothing"):
    """What is found when the power is cut now, after whatever a failed sync should have written was lost."""
    platter = Platter(disk.ops, fates=Gone())
    platter.advance(len(disk.ops))
    return Bench(tmp_path / "bench").recovered(platter.image(Choice(kept)), os.path.realpath(path), versions)


@pytest.mark.parametrize("kind", ["read", "write", "sync", "lock", "size", "map", "share"])
def test_whatever_fails_comes_out_as_a_halted_store(faults, path, kind):
    with es.open(path) as store:
        trace = store.start({"n": 0}, id="t1")
        hits = fails(faults, kind)
        with pytest.raises(es.StoreHalted, match=r"disk I/O error\); reopen the store$"):
            if kind in ("write", "sync"):
                trace.append([PUT("n", 1)])
            else:
                store.fork("t1")
        assert len(hits) == 1
        faults.fault = None
        with pytest.raises(es.StoreHalted):
            store.traces()


def test_an_io_error_is_told_once(faults, path):
    with es.open(path) as store:
        trace = store.start({"n": 0}, id="t1")
        fails(faults, "sync")
        with pytest.raises(es.StoreHalted) as halted:
            trace.append([PUT("n", 1)])
        assert str(halted.value).count("halted after an I/O error") == 1


def test_an_io_error_while_retention_is_planned_halts_the_store(faults, path):
    with es.open(path) as store:
        store.start({"n": 0}, id="t1")
        for number in range(60):
            store.append("t1", [es.Note("seen", "x" * 900 * (number % 5))])
    reads = 0
    while True:
        with es.open(path) as store:
            before, reads = faults.counts["read"], reads + 1
            faults.fault = lambda kind, _, n, last=before + reads: CODES[kind] if kind == "read" and n == last else 0
            try:
                store.plan_retention(keep_checkpoints=0, drop_bases=True)
            except es.StoreHalted:
                continue
            finally:
                faults.fault = None
            break
    assert reads > 5


def test_what_a_failed_sync_left_is_on_disk_before_it_is_acknowledged(disk, faults, path, tmp_path):
    store = es.open(path)
    trace = store.start({"n": 0}, id="t1")
    fails(faults, "sync", suffix="-wal")
    with pytest.raises(es.StoreHalted):
        trace.append([PUT("n", 1)], append_id="job-7")
    store.close()
    with es.open(path) as reopened:
        again = reopened.append("t1", [PUT("n", 1)], append_id="job-7", expected_version=1)
        found = after_a_cut(disk, path, tmp_path, {"t1": {2}})
        assert (found.broken, found.traces["t1"].version) == ("", again.version)


def test_what_comes_after_a_failed_sync_is_not_lost_with_it(disk, faults, path, tmp_path):
    store = es.open(path)
    trace = store.start({"n": 0}, id="t1")
    fails(faults, "sync", suffix="-wal")
    with pytest.raises(es.StoreHalted):
        trace.append([PUT("n", 1)])
    store.close()
    with es.open(path) as reopened:
        last = reopened.append("t1", [PUT("n", 2)])
        found = after_a_cut(disk, path, tmp_path, {"t1": {last.version}})
        assert found.traces["t1"].states[last.version] == {"n": 2}


def test_who_had_the_file_open_when_the_disk_failed_another_settles_the_log_first(disk, faults, path, tmp_path):
    with es.open(path, durability="normal") as other:
        store = es.open(path, durability="normal")
        trace, same = store.start({"n": 0}, id="t1"), other.open_trace("t1")
        other.start({}, id="t2").raise_barrier("ask")
        same.append([PUT("n", 1)])
        trace.refresh()
        barrier = trace.raise_barrier("ask")
        fails(faults, "sync", suffix="-wal")
        with pytest.raises(es.StoreHalted):
            trace.decide(barrier, es.Approve())
        other.decide("t2", "ask", es.Approve())  # is synced, and so must be all before it
        found = after_a_cut(disk, path, tmp_path, {"t1": {3}, "t2": {4}})
        assert (found.broken, found.traces["t2"].version, found.traces["t1"].version) == ("", 4, 3)
        before = len(disk.ops)
        same.append([PUT("n", 3)], expected_version=es.ANY)
        assert len(disk.ops) - before < 12  # it is settled once
        store.close()


def test_a_sync_that_fails_within_a_checkpoint_halts_the_store_too(faults, path):
    with es.open(path, durability="normal") as store:
        trace = store.start({"n": 0}, id="t1")
        checkpoint_every(store, 1)
        hits = fails(faults, "sync", suffix="-wal")
        assert trace.append([PUT("n", 1)]).version == 2
        assert hits
        with pytest.raises(es.StoreHalted):
            trace.append([PUT("n", 2)])


def test_a_store_that_cannot_say_goodbye_is_closed_all_the_same(faults, path):
    store = es.open(path)
    es.run(graph(), store, {"n": 1, "log": []}, id="r1")
    fails(faults, "full", once=False)
    try:
        store.close()
        with pytest.raises(es.StoreClosed):
            store.traces()
    finally:
        faults.fault = None
        store.close()  # a connection that outlives this disk would crash the process


def test_a_full_disk_is_told_and_the_store_goes_on_in_place(faults, path):
    with es.open(path) as store:
        trace = store.start({"n": 0}, id="t1")
        fails(faults, "full", once=False)
        for _ in range(2):
            with pytest.raises(es.StorageFull):
                trace.append([PUT("n", 1)])
        assert store.state_at("t1") == {"n": 0}
        faults.fault = None
        trace.append([PUT("n", 1)])
        assert store.state_at("t1") == {"n": 1}
        assert store.verify().ok


def test_the_disk_is_as_it_was_afterwards(disk, path):
    with failing(disk) as faults:
        fails(faults, "open", once=False)
        with pytest.raises(es.StorageError):
            es.open(path)
    with es.open(path) as store:
        assert store.start(id="t1").version == 1
