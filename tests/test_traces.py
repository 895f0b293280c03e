"""A trace from its start to its end, and the list of them."""

from __future__ import annotations

import pytest

import eventstore as es

PUT = es.StateDelta.put


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_an_ended_trace_takes_notes_only(store, trace, status):
    trace.end(status, None if status == "completed" else "why")
    for act in (
        lambda: trace.step("work").__enter__(),
        lambda: trace.append([PUT("n", 1)]),
        lambda: trace.append([es.NodeExecuted("work")]),
        lambda: trace.raise_barrier("ask"),
        lambda: trace.end(),
        lambda: store.open_trace("t1").step("work").__enter__(),
    ):
        with pytest.raises(es.TraceEndedError) as refused:
            act()
        assert (refused.value.trace_id, refused.value.status) == ("t1", status)
    trace.note("for the record")
    assert (trace.status, store.traces()[0].status, trace.version) == (status, status, 3)


def test_a_trace_ends_in_one_of_three_ways(trace):
    with pytest.raises(ValueError, match="cancelled, completed, failed"):
        trace.end("finished")
    assert trace.status == "running"


def test_a_trace_starts_once(store, trace):
    with pytest.raises(es.TraceExists) as refused:
        store.start({"other": 1}, id="t1")
    assert (refused.value.trace_id, refused.value.version) == ("t1", 1)
    with pytest.raises(es.TraceExists):
        store.fork("t1", id="t1")
    with pytest.raises(es.TraceNotFound, match="no trace t2"):
        store.open_trace("t2")
    assert store.state_at("t1") == {"log": [], "n": 0, "text": "a"}


def test_traces_are_listed_newest_first_in_pages(store):
    ids = [store.start(id=f"t{number}", name="even" if number % 2 == 0 else "odd").id for number in range(7)]
    store.open_trace("t3").end()
    assert [info.trace_id for info in store.traces()] == ids[::-1]
    first = store.traces(limit=3)
    second = store.traces(limit=3, after=first[-1].trace_id)
    assert [info.trace_id for info in first + second] == ids[::-1][:6]
    assert [info.trace_id for info in store.traces(name="odd", status="running")] == ["t5", "t1"]
    assert [info.trace_id for info in store.traces(status="completed")] == ["t3"]


def test_a_damaged_row_does_not_take_the_list_down(path, tamper):
    with es.open(path) as store:
        for number in range(3):
            store.start({"n": number}, id=f"t{number}", name="fine")
    assert tamper("UPDATE trace SET name = CAST(x'ff41' AS TEXT) WHERE trace_id = 't1'") == 1
    with es.open(path, read_only=True) as store:
        assert [(info.trace_id, info.name) for info in store.traces()] == [
            ("t2", "fine"),
            ("t1", "\\xffA"),
            ("t0", "fine"),
        ]
        assert store.state_at("t2") == {"n": 2}
        with pytest.raises(es.FileCorrupted):
            store.state_at("t1")
        assert {problem.check for problem in store.verify().problems} == {"trace"}
