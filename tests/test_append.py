"""Appending: one step is one row and one commit, all of it or nothing."""

from __future__ import annotations

import pytest

import eventstore as es
from eventstore.trace import Trace

PUT = es.StateDelta.put


def rows(raw):
    return raw.execute("SELECT first_seq, n FROM log ORDER BY trace, first_seq").fetchall()


def test_the_first_example_holds(store):
    trace = store.start({"messages": [], "spent": 0}, reducers={"messages": es.Reducer.APPEND, "spent": es.Reducer.SUM})
    with trace.step("ask") as step:
        step.put("messages", [{"role": "user", "content": "Where is my order?"}])
    with trace.step("answer", es.ExecutionMetadata(duration_ms=900, token_cost=0.002)) as step:
        step.put("messages", [{"role": "assistant", "content": "On its way."}])
        step.put("spent", 2)
    saved = trace.checkpoint("answer")
    assert trace.state["spent"] == 2
    assert store.state_at(trace.id, 1) == {"messages": [], "spent": 0}
    latest = store.checkpoints.load_latest(trace.id)
    assert latest.checkpoint_id == saved.checkpoint_id
    assert latest.restore_state() == latest.restore_state_simple() == trace.state


def test_a_step_is_one_row_whose_events_have_seqs_of_their_own(store, trace, raw):
    with trace.step("work", next="more") as step:
        step.append("log", 1, 2)
        step.put("n", 1)
        step.delete("text")
    assert rows(raw) == [(1, 1), (2, 4)]
    assert trace.version == 5
    events = list(store.events("t1"))
    assert [event.seq for event in events] == [1, 2, 3, 4, 5]
    assert [event.first_seq for event in events] == [1, 2, 2, 2, 2]
    assert [event.kind for event in events] == ["trace_started", "delta", "delta", "delta", "node_executed"]
    assert [store.state_at("t1", seq) for seq in range(1, 6)] == [
        {"log": [], "n": 0, "text": "a"},
        {"log": [1, 2], "n": 0, "text": "a"},
        {"log": [1, 2], "n": 1, "text": "a"},
        {"log": [1, 2], "n": 1},
        {"log": [1, 2], "n": 1},
    ]


def test_a_step_sees_its_own_writes_and_nobody_else_does_before_the_end(store, trace):
    with trace.step("work") as step:
        step.put("n", 1)
        assert (step.get("n"), trace.state["n"], store.state_at("t1")["n"]) == (1, 0, 0)
    assert (trace.state["n"], store.state_at("t1")["n"]) == (1, 1)


def test_a_step_without_writes_is_still_an_execution(trace):
    with trace.step("look"):
        pass
    assert [(entry.step, entry.node_name, entry.success) for entry in trace.entries()] == [(1, "look", True)]


@pytest.mark.parametrize("write", ["put", "append", "delete", "get"])
def test_writes_belong_inside_the_block(trace, write):
    step = trace.step("work")
    for _ in range(2):
        with pytest.raises(es.EventStoreError, match="inside its `with` block"):
            getattr(step, write)("n", *([1] if write in ("put", "append") else []))
        with step:
            pass


@pytest.mark.parametrize("failure", [ValueError("broke"), KeyboardInterrupt("stop"), es.MissingKey("gone")])
def test_an_exception_leaves_no_delta_is_recorded_and_goes_on(store, trace, failure):
    with pytest.raises(type(failure)) as raised, trace.step("work", next="more") as step:
        step.put("n", 1)
        raise failure
    assert raised.value is failure
    assert trace.state == store.state_at("t1") == {"log": [], "n": 0, "text": "a"}
    (entry,) = trace.entries()
    assert (entry.step, entry.success, entry.error) == (0, False, f"{type(failure).__name__}: {failure}")
    assert trace.next_node is None


def test_a_refused_value_fails_the_step(trace):
    with pytest.raises(es.ValueRefused), trace.step("work") as step:
        step.put("n", 1)
        step.put("bad", float("nan"))
    assert trace.entries()[0].error == "ValueRefused: value at 'bad' refused: nan is not a JSON value"


def test_an_error_that_no_text_can_hold_is_recorded_all_the_same(trace):
    with pytest.raises(ValueError, match="lone"), trace.step("work"):
        raise ValueError("a lone \ud800 surrogate")
    assert trace.entries()[0].error == "ValueError: a lone ? surrogate"


def test_a_failure_is_recorded_even_when_another_writer_came_between(store, trace):
    other = store.open_trace("t1")
    with pytest.raises(ZeroDivisionError), trace.step("work") as step:
        step.put("n", 1)
        other.append([PUT("n", 2)])
        raise ZeroDivisionError
    assert [entry.success for entry in trace.entries()] == [False]
    assert trace.state == store.state_at("t1") == {"log": [], "n": 2, "text": "a"}


def test_an_append_that_is_overtaken_again_and_again_takes_its_turn_first(path, monkeypatch):
    prepare, rivals = Trace._prepare_events, []
    with es.open(path) as store, es.open(path, busy_timeout_ms=50) as other:
        trace, rival = store.start({"n": 0}, id="t1"), other.open_trace("t1")

        def overtaken(self, *arguments):
            pending = prepare(self, *arguments)
            if self is trace:
                try:
                    rival.append([es.Note("first")], expected_version=es.ANY)
                    rivals.append("first")
                except es.StoreBusy:
                    rivals.append("kept out")
            return pending

        monkeypatch.setattr(Trace, "_prepare_events", overtaken)
        trace.append([es.StateDelta.put("n", 1)], expected_version=es.ANY)
        assert rivals == ["first"] * 3 + ["kept out"]
        assert [event.kind for event in store.events("t1")] == ["trace_started", *["note"] * 3, "delta"]
        rival.append([es.Note("later")], expected_version=es.ANY)
