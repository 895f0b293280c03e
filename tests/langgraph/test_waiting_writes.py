"""Writes that wait for the checkpoint after theirs, to be committed with it."""

from __future__ import annotations

import operator
import threading
import time
from typing import Annotated, TypedDict

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import END, START, StateGraph

import eventstore as es
from eventstore.integrations.langgraph import EventStoreSaver
from eventstore.scopes import ScopeKey

MUCH_LONGER_THAN_THE_TEST_MS = 600_000


def config(name=None):
    return {"configurable": {"thread_id": "t", "checkpoint_ns": "", **({"checkpoint_id": name} if name else {})}}


def put(saver, name, under=None, **values):
    checkpoint = {
        **empty_checkpoint(),
        "id": name,
        "channel_values": values,
        "channel_versions": dict.fromkeys(values, name),
    }
    return saver.put(
        config(under), checkpoint, {"source": "loop", "step": 1, "parents": {}}, dict.fromkeys(values, name)
    )


def waiting(saver, name, task):
    thread = threading.Thread(target=saver.put_writes, args=(config(name), [("n", task)], task))
    thread.start()
    return thread


@pytest.fixture
def saver(tmp_path):
    with EventStoreSaver(tmp_path / "runs.db") as before:
        put(before, "1", n=1)
        before.put_writes(config("1"), [("n", 0)], "first")
    with EventStoreSaver(tmp_path / "runs.db", writes_wait_ms=MUCH_LONGER_THAN_THE_TEST_MS) as saver:
        yield saver


def until_waiting(saver, count):
    while len(saver._journals._queue(ScopeKey("langgraph", "t", "")).waiting) < count:
        time.sleep(0.001)


def test_writes_go_into_the_commit_of_the_checkpoint_that_takes_them_up(saver):
    writers = [waiting(saver, "1", task) for task in ("a", "b")]
    until_waiting(saver, 2)
    put(saver, "2", under="1", n=2)
    for writer in writers:
        writer.join(60)
        assert not writer.is_alive()
    assert [write[0] for write in saver.get_tuple(config("1")).pending_writes] == ["a", "b", "first"]
    assert saver.get_tuple(config()).checkpoint["channel_values"] == {"n": 2}
    assert saver.store.verify().ok


def test_a_checkpoint_that_fails_does_not_take_the_writes_down(saver):
    other = EventStoreSaver(saver.store)
    put(other, "2", under="1", n=2)  # the line goes on without this saver's knowing
    writer = waiting(saver, "1", "a")
    until_waiting(saver, 1)
    put(saver, "3", under="1", n=3)  # a branch, after the first attempt found another writer
    writer.join(60)
    assert not writer.is_alive()
    assert [write[0] for write in saver.get_tuple(config("1")).pending_writes] == ["a", "first"]
    assert {found.checkpoint["id"] for found in saver.list(config())} == {"1", "2", "3"}
    assert saver.store.verify().ok


def test_writes_that_no_checkpoint_follows_are_committed_when_their_time_is_over(tmp_path):
    with EventStoreSaver(tmp_path / "runs.db", writes_wait_ms=5) as saver:
        put(saver, "1", n=1)
        saver.put_writes(config("1"), [("n", 2)], "a")
        assert [write[0] for write in EventStoreSaver(saver.store).get_tuple(config()).pending_writes] == ["a"]


def test_a_run_is_the_same(tmp_path):
    class State(TypedDict):
        log: Annotated[list, operator.add]

    graph = StateGraph(State)
    graph.add_node("work", lambda state: {"log": [len(state["log"])]})
    graph.add_edge(START, "work")
    graph.add_conditional_edges("work", lambda state: "work" if len(state["log"]) < 20 else END)
    states = []
    for wait_ms in (0, 20):
        with EventStoreSaver(tmp_path / f"{wait_ms}.db", writes_wait_ms=wait_ms) as saver:
            compiled = graph.compile(checkpointer=saver)
            compiled.invoke({"log": []}, config())
            states.append([found.values for found in compiled.get_state_history(config())])
            assert saver.store.verify().ok
    assert states[0] == states[1] and isinstance(saver.store, es.Store)


def test_who_calls_put_on_the_same_thread_waits_once_in_a_while_only(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, timeout=None: waited.append(timeout))
    with EventStoreSaver(tmp_path / "runs.db", writes_wait_ms=7) as saver:
        put(saver, "1", n=1)
        for number in range(300):
            saver.put_writes(config("1"), [("n", number)], f"task-{number}")
    assert waited == [0.007] * 3  # the first, the 66th and the 195th


@pytest.mark.parametrize("error", [es.StoreBusy("runs.db", "locked"), KeyboardInterrupt()])
def test_writes_are_never_acknowledged_unless_they_are_there(saver, monkeypatch, error):
    raised = []

    def write():
        try:
            saver.put_writes(config("1"), [("n", "a")], "a")
        except BaseException as found:
            raised.append(found)

    def refuse(_):
        raise error

    put(saver, "2", under="1", n=2)
    monkeypatch.setattr(saver.store._writer, "commit_batch", refuse)
    writer = threading.Thread(target=write)
    writer.start()
    until_waiting(saver, 1)
    with pytest.raises(type(error)):
        put(saver, "3", under="2", n=3)
    writer.join(60)
    assert raised == [error]
    assert [write[0] for write in saver.get_tuple(config("1")).pending_writes] == ["first"]
