"""The nine defects of the system this one continues, each as a test that would catch it here."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import eventstore as es


def test_1_two_ordinary_writes_in_different_steps_never_conflict_and_no_restore_differs(store):
    trace = store.start({"plan": "a", "gone": 1}, reducers={"plan": "replace"})
    for value in ("b", "c"):
        with trace.step("work") as step:
            step.put("plan", value)
            step.put("free", value)
    with trace.step("work") as step:
        step.delete("gone")
    saved = trace.checkpoint()
    registry = es.ReducerRegistry({"free": "error", "plan": "replace"})
    expected = {"plan": "c", "free": "c"}
    assert saved.restore_state(registry) == saved.restore_state() == saved.restore_state_simple() == expected
    assert saved.snapshot.restore(registry) == saved.snapshot.restore_simple() == expected


@pytest.mark.parametrize("folded", [False, True])
def test_2_the_first_checkpoint_with_deltas_applies_appends_once(path, folded):
    policy = es.FoldEvery(1) if folded else es.NeverFold()
    with es.open(path, fold_policy=policy) as store:
        trace = store.start({"log": []}, id="t1")
        with trace.step("work") as step:
            step.append("log", 1)
        saved = trace.checkpoint()
        assert saved.restore_state() == saved.snapshot.restore() == {"log": [1]}
    live = es.IncrementalSnapshotState()
    live.record_delta(es.StateDelta.append("log", [1]))
    assert live.snapshot({"log": [1]}).restore() == {"log": [1]}
    live = es.IncrementalSnapshotState({"log": []})
    live.record_delta(es.StateDelta.append("log", [1]))
    assert live.snapshot({"log": [1]}).restore() == {"log": [1]}


def test_3_a_save_that_fails_is_an_error_and_loses_no_delta(path, store, trace, raw):
    with es.open(path, busy_timeout_ms=20) as other:
        mine = other.open_trace("t1")
        with mine.step("work") as step:
            step.append("log", 1)
        raw.execute("BEGIN IMMEDIATE")
        with pytest.raises(es.StoreBusy):
            mine.checkpoint()
        with pytest.raises(es.StoreBusy), mine.step("work") as step:
            step.append("log", 2)
        raw.execute("ROLLBACK")
        assert mine.state == store.state_at("t1") == {"log": [1], "n": 0, "text": "a"}
        assert mine.checkpoint().restore_state()["log"] == [1]
    live = es.IncrementalSnapshotState({"n": 0})
    live.record_delta(es.StateDelta.put("n", 1))
    assert live.snapshot({"n": 1}) == live.snapshot({"n": 1})  # taking a snapshot takes nothing away
    live.clear_pending({"n": 1})
    assert live.snapshot({"n": 1}).recent_deltas == []


def test_4_a_checkpoint_stores_neither_state_nor_deltas(store, raw):
    trace = store.start({"document": "x" * 100_000}, id="t1")
    with trace.step("work") as step:
        step.put("n", 1)
    trace.checkpoint()
    columns = raw.execute("SELECT * FROM checkpoint").fetchone()
    assert sum(len(str(column)) for column in columns) < 200
    before = raw.execute("SELECT sum(octet_length(body)) FROM log").get
    for _ in range(10):
        trace.checkpoint()
    assert raw.execute("SELECT sum(octet_length(body)) FROM log").get == before
    assert raw.execute("SELECT coalesce(sum(octet_length(body)), 0) FROM base").get <= 101_000


def test_5_a_reducer_applies_to_the_first_write_keeps_integers_and_skips_nothing(store, exact):
    reducers = {"log": "append", "total": "sum", "high": "max", "low": "min"}
    trace = store.start({"log": [0]}, reducers=reducers)
    with trace.step("work") as step:
        step.put("log", 1)
        step.put("total", 2)
        step.put("high", -3)
        step.put("low", 4)
    assert exact(store.state_at(trace.id)) == exact({"log": [0, 1], "total": 2, "high": -3, "low": 4})
    with pytest.raises(es.ReducerConflict), trace.step("work") as step:
        step.put("total", "two")


def test_6_timestamps_know_the_calendar(store, raw):
    before = datetime.now(UTC)
    trace = store.start({}, id="t1")
    saved = trace.checkpoint()
    after = datetime.now(UTC)
    (info,) = store.traces()
    slack = timedelta(milliseconds=1)
    for moment in (saved.created_at, info.created_at, info.updated_at, next(store.events("t1")).at):
        assert before - slack <= moment <= after + slack
        assert moment.tzinfo is UTC
    for leap_day in (datetime(2024, 2, 29, 12, tzinfo=UTC), datetime(2000, 12, 31, 23, 59, 59, 1, tzinfo=UTC)):
        us = int(leap_day.timestamp()) * 1_000_000 + leap_day.microsecond
        assert es.event.utc(us) == leap_day
        raw.execute("UPDATE checkpoint SET created_us = ?", (us,))
        assert store.checkpoints.load_latest("t1").created_at == leap_day
        assert datetime.fromisoformat(raw.execute("SELECT created_at FROM checkpoints").get) == leap_day


def test_7_decisions_outlive_the_process_and_are_in_the_trace(path):
    with es.open(path) as store:
        trace = store.start({"total": 40}, id="t1", graph_hash="hash 1")
        trace.raise_barrier("ask")
        trace.decide("ask", es.Modify({"total": 30}, by="ana"))
        trace.checkpoint()
    with es.open(path) as store:
        trace = store.open_trace("t1")
        assert trace.state["total"] == 30
        (record,) = trace.execution_trace().barrier_decisions
        assert (record.barrier_id, record.decision, record.by) == ("ask#1", es.Modify({"total": 30}, by="ana"), "ana")
        with pytest.raises(es.BarrierError):
            trace.decide("ask#1", es.Approve())
        # what a mismatch of graphs is judged by is in the log and on every checkpoint
        assert trace.graph_hash == store.checkpoints.load_latest("t1").graph_hash == "hash 1"


def test_8_no_deleted_or_pruned_checkpoint_is_pointed_at(store, trace):
    made = []
    for number in range(4):
        with trace.step("work") as step:
            step.put("n", number)
        made.append(trace.checkpoint())
    store.checkpoints.delete(made[-1].checkpoint_id)
    assert store.checkpoints.load_latest("t1").checkpoint_id == made[-2].checkpoint_id
    store.checkpoints.prune("t1", 1)
    listed = store.checkpoints.list("t1")
    assert [found.checkpoint_id for found in listed] == [made[-2].checkpoint_id]
    assert [store.checkpoints.load(found.checkpoint_id).state["n"] for found in listed] == [2]
    store.checkpoints.prune("t1", 0)
    assert store.checkpoints.load_latest("t1") is None and store.checkpoints.list("t1") == []


def test_9_the_adaptive_checkpoint_holds_the_nodes_own_deltas(path):
    with es.open(path, checkpoint_policy=es.CheckpointPolicy.adaptive()) as store:
        trace = store.start({"n": 0}, id="t1")
        with trace.step("heavy", es.ExecutionMetadata.heavy(), next="more") as step:
            step.put("n", 1)
        saved = store.checkpoints.load_latest("t1")
        assert saved.triggers == (es.CheckpointTrigger.ADAPTIVE,)
        assert (saved.state, saved.current_node, saved.seq) == ({"n": 1}, "more", trace.version)
