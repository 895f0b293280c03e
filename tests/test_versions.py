"""Who may append when: `expected_version`, `ANY` and `unless_changed_since`."""

from __future__ import annotations

import pytest

import eventstore as es

PUT = es.StateDelta.put


def test_an_append_goes_in_at_the_expected_version_only(store, trace):
    assert trace.append([PUT("n", 1)], expected_version=1) == es.Appended(2, 2)
    for wrong in (0, 1, 3, 99):
        with pytest.raises(es.WrongExpectedVersion) as refused:
            trace.append([PUT("n", 2)], expected_version=wrong)
        assert (refused.value.trace_id, refused.value.actual, refused.value.expected) == ("t1", 2, wrong)
    assert store.state_at("t1")["n"] == 1 and trace.version == 2


def test_of_two_writers_one_wins_and_the_other_is_told(path, trace):
    with es.open(path) as elsewhere:
        theirs = elsewhere.open_trace("t1")
        assert theirs.state == trace.state
        with trace.step("mine") as step:
            step.put("n", 1)
        with pytest.raises(es.WrongExpectedVersion) as refused, theirs.step("theirs") as step:
            step.put("n", 2)
        assert (refused.value.actual, refused.value.expected) == (3, 1)
        assert theirs.state["n"] == 0
        assert theirs.refresh() == 3
        assert theirs.state["n"] == 1
        with theirs.step("theirs") as step:
            step.put("n", 2)
        assert elsewhere.state_at("t1")["n"] == 2


def test_overlapping_steps_of_one_handle_conflict_like_two_processes(trace):
    with pytest.raises(es.WrongExpectedVersion), trace.step("outer") as outer:
        outer.put("n", 1)
        with trace.step("inner") as inner:
            inner.put("n", 2)
    assert trace.state["n"] == 2


def test_any_goes_in_wherever_the_trace_stands(store, trace):
    other = store.open_trace("t1")
    assert other.state["n"] == 0
    trace.append([PUT("n", 1)])
    assert other.append([PUT("text", "b")], expected_version=es.ANY) == es.Appended(3, 3)
    assert other.state == store.state_at("t1") == {"log": [], "n": 1, "text": "b"}
    assert store.append("t1", [PUT("n", 5)]).version == 4


def test_deltas_of_an_append_are_literal(store):
    trace = store.start({"n": 5}, reducers={"n": "sum"})
    trace.append([PUT("n", 1)])
    assert trace.state["n"] == 1


def test_an_append_is_all_or_nothing(store, trace):
    with pytest.raises(es.DeltaApply):
        trace.append([PUT("n", 1), es.StateDelta.append("text", [1])])
    assert trace.version == 1 and trace.state == store.state_at("t1") == {"log": [], "n": 0, "text": "a"}


def test_an_append_needs_an_event(trace):
    with pytest.raises(es.EventStoreError, match="at least one event"):
        trace.append([])


def test_the_first_event_comes_first_only(trace):
    for first in (es.TraceStarted("chat", {}), es.TraceForked("chat", "t0", 1)):
        with pytest.raises(es.EventStoreError, match="first event"):
            trace.append([first])


def test_notes_do_not_count_as_a_change(store, trace):
    version = trace.version
    trace.note("seen", {"by": "ana"})
    store.open_trace("t1").note("seen again")
    appended = trace.append([PUT("n", 1)], unless_changed_since=version)
    assert appended == es.Appended(4, 4)
    assert trace.state["n"] == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda trace: trace.append([PUT("n", 9)]),
        lambda trace: trace.append([es.Note("seen"), PUT("n", 9)]),
        lambda trace: trace.append([es.NodeExecuted("work")]),
        lambda trace: trace.raise_barrier("ask"),
    ],
)
def test_anything_but_a_note_is_a_change(store, trace, change):
    trace.note("seen")
    change(trace)
    for handle in (trace, store.open_trace("t1")):
        with pytest.raises(es.WrongExpectedVersion) as refused:
            handle.append([PUT("n", 1)], unless_changed_since=1)
        assert refused.value.expected == 1


def test_a_note_goes_in_wherever_the_trace_stands_and_changes_nothing(store, trace):
    other = store.open_trace("t1")
    assert other.state == trace.state
    trace.append([PUT("n", 1)])
    assert other.note("seen", [1]) == es.Appended(3, 3)
    assert other.state == store.state_at("t1") == {"log": [], "n": 1, "text": "a"}
    assert [event.event for event in store.events("t1", after=2)] == [es.Note("seen", [1])]


def test_a_version_still_to_come_is_no_guard(trace):
    with pytest.raises(es.EventStoreError):
        trace.append([PUT("n", 1)], unless_changed_since=999)


@pytest.mark.parametrize("guard", ["expected_version", "unless_changed_since"])
def test_a_guard_holds_when_another_thread_uses_the_same_handle(store, trace, monkeypatch, guard):
    prepare = es.Trace._prepare_events

    def be_late(self, *args):
        monkeypatch.undo()
        trace.append([PUT("n", "theirs")])
        return prepare(self, *args)

    monkeypatch.setattr(es.Trace, "_prepare_events", be_late)
    with pytest.raises(es.WrongExpectedVersion):
        trace.append([PUT("n", "mine")], **{guard: 1})
    assert store.state_at("t1")["n"] == trace.state["n"] == "theirs"


@pytest.mark.parametrize("known", [{"expected_version": 1}, {}], ids=["given", "the handle's"])
def test_a_guard_holds_when_the_state_was_not_looked_at_yet(store, trace, known):
    handle = store.open_trace("t1")
    assert handle.version == 1
    trace.append([PUT("n", "theirs")])
    with pytest.raises(es.WrongExpectedVersion):
        handle.append([PUT("n", "mine")], **known)
    assert store.state_at("t1")["n"] == "theirs"
