"""Retries: a second append of one `append_id` adds nothing, and says where the first one stands."""

from __future__ import annotations

import contextlib

import pytest

import eventstore as es

PUT = es.StateDelta.put


def test_a_retried_append_adds_nothing_and_gives_the_first_ones_place(store, trace, path):
    first = trace.append([PUT("n", 1), es.StateDelta("n", "sum", 4)], append_id="job-7")
    trace.append([PUT("n", 9)])
    again = trace.append([PUT("n", 1), es.StateDelta("n", "sum", 4)], append_id="job-7")
    assert (first, again) == (es.Appended(2, 3), es.Appended(2, 3, duplicate=True))
    assert trace.version == 4 and trace.state["n"] == store.state_at("t1")["n"] == 9
    store.close()
    with es.open(path) as reopened:
        for keywords in ({"expected_version": 1}, {"expected_version": es.ANY}, {"expected_version": 4}):
            retried = reopened.append("t1", [PUT("n", 1), es.StateDelta("n", "sum", 4)], append_id="job-7", **keywords)
            assert retried == es.Appended(2, 3, duplicate=True)
        assert reopened.open_trace("t1").version == 4


@pytest.mark.parametrize("reopened", [False, True])
def test_a_retried_step_adds_nothing(store, reopened):
    trace = store.start({"n": 0, "log": []}, reducers={"n": "sum", "log": "append"})
    for _ in range(3):
        with trace.step("work", append_id="visit-1") as step:
            step.put("n", 2)
            step.put("log", "x")
        assert trace.state == store.state_at(trace.id) == {"n": 2, "log": ["x"]}
        if reopened:
            trace = store.open_trace(trace.id)
    assert len(trace.entries()) == 1


def test_two_traces_may_use_the_same_append_id(store, trace):
    store.start({"n": 0}, id="t2")
    assert not trace.append([PUT("n", 1)], append_id="a").duplicate
    assert not store.append("t2", [PUT("n", 2)], append_id="a").duplicate


@pytest.mark.parametrize("other", [[PUT("n", 2)], [PUT("m", 1)], [PUT("n", 1), PUT("n", 1)], [es.Note("seen")]])
def test_an_append_id_reused_for_other_deltas_is_refused(store, trace, other):
    trace.append([PUT("n", 1)], append_id="job-7")
    with pytest.raises(es.AppendIdReused) as refused:
        trace.append(other, append_id="job-7")
    assert (refused.value.trace_id, refused.value.append_id, refused.value.first_seq) == ("t1", "job-7", 2)
    assert trace.version == 2 and store.state_at("t1")["n"] == 1


@pytest.mark.parametrize(
    "events",
    [
        [es.StateDelta.delete("n")],
        [es.StateDelta.splice("log", 0, 1, [])],
        [PUT("n", "text"), es.StateDelta.delete("log")],
        [es.BarrierRaised("ask#1", "ask")],
        [es.TraceEnded()],
    ],
    ids=["delete", "splice", "put and delete", "barrier", "end"],
)
def test_a_retry_is_settled_whatever_the_append_did(store, events):
    trace = store.start({"n": 1, "log": [1]})
    first = trace.append(events, append_id="once")
    assert trace.append(events, append_id="once") == es.Appended(first.first_seq, first.version, duplicate=True)
    assert store.append(trace.id, events, append_id="once").duplicate


@pytest.mark.parametrize("write", ["custom", "delete"])
def test_a_retried_step_is_settled_whatever_it_did(store, write):
    trace = store.start({"n": 1}, reducers={"n": lambda old, new: old + new})
    for _ in range(2):
        with trace.step("work", append_id="once") as step:
            if write == "custom":
                step.put("n", 2)
            else:
                step.delete("n")
    assert store.state_at(trace.id) == ({"n": 3} if write == "custom" else {})


def test_a_retry_passes_its_own_change(trace):
    trace.append([PUT("n", 1)], unless_changed_since=1, append_id="once")
    assert trace.append([PUT("n", 1)], unless_changed_since=1, append_id="once").duplicate


def test_an_append_id_reused_for_another_note_is_refused(trace):
    trace.append([es.Note("first")], append_id="job-7")
    with pytest.raises(es.AppendIdReused):
        trace.append([es.Note("second")], append_id="job-7")


def test_a_failed_step_may_be_tried_again_under_its_append_id(store, trace):
    with pytest.raises(ZeroDivisionError), trace.step("work", append_id="visit-1"):
        raise ZeroDivisionError
    with trace.step("work", append_id="visit-1") as step:
        step.put("n", 1)
    assert store.state_at("t1")["n"] == 1


def test_an_append_that_expects_a_later_version_extends_the_chain_of_that_version(path, store, trace, monkeypatch):
    with es.open(path) as elsewhere:
        commit = store._writer.commit

        def be_late(append):
            monkeypatch.undo()
            elsewhere.append("t1", [PUT("n", 1)])
            return commit(append)

        monkeypatch.setattr(store._writer, "commit", be_late)
        with contextlib.suppress(es.WrongExpectedVersion):
            trace.append([PUT("n", 2)], expected_version=2, append_id="mine")
    assert store.verify().ok
