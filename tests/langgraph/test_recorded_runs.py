"""Real agent runs, replayed message by message through a graph: every state is what InMemorySaver has."""

from __future__ import annotations

import gzip
import json
import operator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from savers import told

DATA = Path(__file__).parents[2] / "../shared/data"
FILES = sorted(DATA.glob("*.jsonl.gz")) if DATA.is_dir() else []
pytestmark = pytest.mark.skipif(not FILES, reason=f"no real runs in {DATA}")


def runs(file):
    """The runs of a file, each a list of messages or steps."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            run = json.loads(line)
            yield run.get("steps") or run["messages"]


def as_messages(run):
    """Steps as messages, each with an id, so that no random ones are made."""
    for number, message in enumerate(run):
        content = message.get("content") or json.dumps(message)
        calls = [
            {"name": call["function"]["name"], "args": json.loads(call["function"]["arguments"]), "id": call["id"]}
            for call in message.get("tool_calls") or []
        ]
        role = {"tool": "tool", "assistant": "assistant", "system": "system"}.get(message.get("role"), "user")
        known = {"tool_calls": calls} if calls else {}
        known |= {"tool_call_id": message.get("tool_call_id", "none")} if role == "tool" else {}
        yield {"role": role, "content": content, "id": f"m{number}", **known}


def last_ten(old, new):
    """A window of ten."""
    return (old + new)[-10:]


def joined(old, writes):
    """What a delta channel makes of the writes of a superstep."""
    return [*old, *(item for written in writes for item in written)]


LISTS = {
    "messages": add_messages,
    "dicts": operator.add,
    "window": last_ten,
    "delta": DeltaChannel(joined, snapshot_frequency=7),
}


def built(run, reducer, saver):
    """A graph with a node for each role; the one whose message is next appends it."""

    def role(turn):
        return {"tool": "act", "assistant": "think"}.get(run[turn].get("role"), "listen")

    def onward(state):
        return role(state["turn"]) if state["turn"] < len(run) else END

    def replay(state):
        message = run[state["turn"]]
        size = len(json.dumps(message))
        notes = {**state["notes"], role(state["turn"]): size}
        return {"log": [message], "turn": state["turn"] + 1, "notes": notes, "last": message, "sizes": [size]}

    fields = {
        "log": Annotated[list, reducer],
        "turn": int,
        "notes": dict,
        "last": Any,
        "sizes": Annotated[list, operator.add],
    }
    graph = StateGraph(TypedDict("State", fields))
    for name in ("think", "act", "listen"):
        graph.add_node(name, replay)
        graph.add_conditional_edges(name, onward, ["think", "act", "listen", END])
    graph.add_conditional_edges(START, onward, ["think", "act", "listen", END])
    return graph.compile(checkpointer=saver)


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_state_of_every_run_is_the_same(make_saver, long, file, kind):
    saver, reference, wanted = make_saver(), InMemorySaver(), {}
    recorded = list(runs(file))
    recorded = recorded if long else recorded[:: len(recorded) // 4]
    if kind in ("messages", "delta"):  # LangGraph finds messages in both, and gives those without an id a random one
        recorded = [list(as_messages(run)) for run in recorded]
    for number, run in enumerate(recorded):
        config = {"configurable": {"thread_id": f"run {number}"}, "recursion_limit": 1000}
        for graph in (built(run, LISTS[kind], saver), built(run, LISTS[kind], reference)):
            graph.invoke({"turn": 0, "notes": {}, "log": []}, config)
            if number % 2:  # half the runs are in two parts
                graph.invoke({"turn": len(run) // 2}, config)
        wanted[number] = told(graph, config)
        assert told(built(run, LISTS[kind], saver), config) == wanted[number]
    again = make_saver()
    for number, expected in wanted.items():
        assert (
            told(built(recorded[number], LISTS[kind], again), {"configurable": {"thread_id": f"run {number}"}})
            == expected
        )


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_runs_make_a_sound_file_that_keeps_the_bounds(make_saver, file):
    saver = make_saver()
    recorded = list(runs(file))[:5]
    before = []
    for number, run in enumerate(recorded):
        graph = built(run, operator.add, saver)
        config = {"configurable": {"thread_id": f"run {number}"}, "recursion_limit": 1000}
        graph.invoke({"turn": 0, "notes": {}, "log": []}, config)
        before.append(told(graph, config))
    report, stats = saver.store.verify(), saver.store.stats()
    assert report.ok, report.problems
    assert stats.c1 <= 2 and stats.c2 <= 2
    saver.store.drop_bases()
    for number, expected in enumerate(before):
        graph = built(recorded[number], operator.add, make_saver())
        assert told(graph, {"configurable": {"thread_id": f"run {number}"}}) == expected
