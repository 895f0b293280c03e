"""Strict mode: a value of the live state that was changed in place, without a delta, is found and named."""

from __future__ import annotations

import pytest

import eventstore as es


def test_strict_mode_names_the_key_that_was_changed_in_place(path):
    with es.open(path, strict=True) as store:
        trace = store.start({"log": [], "doc": {"a": [1]}}, id="t1")
        with trace.step("fine") as step:
            step.append("log", 1)
        trace.state["doc"]["a"].append(2)
        with pytest.raises(es.StateMutated) as caught, trace.step("work") as step:
            step.put("n", 1)
        assert (caught.value.trace_id, caught.value.key) == ("t1", "doc")
        assert store.state_at("t1") == {"log": [1], "doc": {"a": [1]}}


def test_strict_mode_looks_again_when_the_step_ends(path):
    with es.open(path, strict=True) as store:
        trace = store.start({"log": []}, id="t1")
        trace.checkpoint()
        with pytest.raises(es.StateMutated, match="log"), trace.step("work") as step:
            trace.state["log"].append(1)
            step.put("n", 1)
        assert store.state_at("t1") == {"log": []}


@pytest.mark.parametrize("reopened", [False, True])
def test_strict_mode_sees_a_change_before_the_first_step(path, reopened):
    with es.open(path, strict=True) as store:
        trace = store.start({"log": []}, id="t1")
        if reopened:
            trace = store.open_trace("t1")
        trace.state["log"].append(1)
        with pytest.raises(es.StateMutated, match="log"), trace.step("work") as step:
            step.put("n", 1)


def test_strict_mode_takes_in_what_other_writers_did(path):
    with es.open(path, strict=True) as store, es.open(path) as other:
        trace = store.start({"log": []}, id="t1")
        trace.checkpoint()
        other.append("t1", [es.StateDelta.append("log", [1])])
        trace.refresh()
        with trace.step("work") as step:
            step.append("log", 2)
        assert trace.state == store.state_at("t1") == {"log": [1, 2]}


def test_strict_mode_lets_every_op_pass(path, record):
    with es.open(path, strict=True) as store:
        trace = record(store, 10)
        with trace.step("ops") as step:
            step.splice("log", 0, 2)
            step.merge("doc", {"a": 1})
            step.delete("text")
        trace.decide(trace.raise_barrier("ask"), es.Modify({"n": 5}))
        trace.end()
        assert store.state_at("t1") == trace.state
