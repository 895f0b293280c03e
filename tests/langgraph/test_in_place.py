"""Items that a node edits in place and returns: they are written, and so they are looked at."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages

from eventstore.integrations.langgraph import EventStoreSaver

CONFIG: Any = {"configurable": {"thread_id": "t"}}


class State(TypedDict):
    messages: Annotated[list, add_messages]
    todos: list
    log: Annotated[list, operator.add]


def answer(state):
    return {
        "messages": [AIMessage(f"4111 {len(state['messages'])}", id=f"m{len(state['messages'])}")],
        "log": [{"n": 1}],
    }


def mask(state):
    last = state["messages"][-1]
    last.content = "****"
    return {"messages": [last, AIMessage("masked", id=f"n{len(state['messages'])}")]}


def tick(state):
    todos = state["todos"]
    todos[0]["done"] = state["todos"][0].get("done", 0) + 1
    todos[-1]["seen"] = True
    return {"todos": todos}


def hide(state):
    first = state["messages"][0]
    first.content = "hidden"
    return {"messages": [first]}


def compiled(saver):
    graph = StateGraph(State)
    nodes = {"answer": answer, "mask": mask, "tick": tick, "hide": hide}
    for name, node in nodes.items():
        graph.add_node(name, node)
    for one, other in zip([START, *nodes], [*nodes, END], strict=True):
        graph.add_edge(one, other)
    return graph.compile(checkpointer=saver)


def ask(saver, turn, durability):
    new = {"messages": [HumanMessage("pay", id=f"h{turn}")]}
    if not turn:
        new |= {"todos": [{"n": n} for n in range(20)], "log": []}
    compiled(saver).invoke(new, CONFIG, durability=durability)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("reopened", [False, True])
def test_what_a_node_edits_and_returns_is_kept(tmp_path, durability, reopened):
    memory, saver = InMemorySaver(), EventStoreSaver(tmp_path / "runs.db")
    for turn in range(4):
        ask(memory, turn, durability)
        ask(saver, turn, durability)
        if reopened:
            saver.close()
            saver = EventStoreSaver(tmp_path / "runs.db")
    with EventStoreSaver(saver.store) as fresh:
        found = compiled(fresh).get_state(CONFIG).values
    expected = compiled(memory).get_state(CONFIG).values
    assert found == expected
    assert [message.content for message in found["messages"]][:3] == ["hidden", "****", "masked"]
    assert found["todos"][0] == {"n": 0, "done": 4} and found["todos"][-1]["seen"]
    saver.close()


def test_the_rest_of_a_list_is_still_stored_once(tmp_path):
    with EventStoreSaver(tmp_path / "runs.db") as saver:
        for turn in range(3):
            ask(saver, turn, "sync")
        trace_id, _ = saver.place(CONFIG)
        deltas = [event.event for event in saver.store.events(trace_id) if event.kind == "delta"]
        assert {delta.op for delta in deltas if delta.key == "log"} == {"put", "append"}
        assert "splice" in {delta.op for delta in deltas if delta.key == "messages"}
