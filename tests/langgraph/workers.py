"""Processes of their own that run graphs on a saver, and write down what is acknowledged the moment it is.

They are forked off a server that has imported everything, so that one starts in milliseconds. What they tell goes to
a file, a JSON line at a time: it outlives a kill.
"""

from __future__ import annotations

import json
import multiprocessing
import operator
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from savers import at

from eventstore.integrations.langgraph import EventStoreSaver

TURNS = 8
WORKERS = 4
SAFETY_S = 120
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["eventstore.integrations.langgraph", "langgraph.graph", "langgraph.checkpoint.memory", "pytest"]
)


class Told:
    """What processes tell, in a file. To be opened by each of them."""

    def __init__(self, path):
        self.path = Path(path)
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def __call__(self, what, *more):
        os.write(self._file, json.dumps([what, *more]).encode() + b"\n")

    def lines(self):
        """All that was told, in order. The last word of one that was killed may be cut short."""
        return [json.loads(line) for line in self.path.read_bytes().split(b"\n")[:-1]]

    def wait_for(self, count, process):
        """Until so many lines were told; raises where the process ends before."""
        until = time.monotonic() + SAFETY_S
        while len(self.lines()) < count:
            process.join(0.001)
            if process.exitcode is not None or time.monotonic() > until:
                raise AssertionError(f"{process} has not told enough: {self.lines()[-3:]}")


class TellingSaver(EventStoreSaver):
    """Tells every checkpoint and every task whose `put` or `put_writes` has returned."""

    def __init__(self, path, tell, **options):
        super().__init__(path, **options)
        self._tell = tell

    def put(self, config, checkpoint, metadata, new_versions):
        done = super().put(config, checkpoint, metadata, new_versions)
        asked = config["configurable"]
        self._tell("put", asked["thread_id"], asked.get("checkpoint_id"), checkpoint["id"])
        return done

    def put_writes(self, config, writes, task_id, task_path=""):
        super().put_writes(config, writes, task_id, task_path)
        asked = config["configurable"]
        said = [[channel, repr(value)] for channel, value in writes]
        self._tell("writes", asked["thread_id"], asked["checkpoint_id"], task_id, said)


def silent(*_):
    """Where nobody listens."""


class Talk(TypedDict, total=False):
    messages: Annotated[list, operator.add]
    turn: int


class Search(TypedDict, total=False):
    found: Annotated[list, operator.add]
    turn: int
    number: int


def teller(tell):
    """`ran(node, turn, config)`: tell that a node has begun, and by which task."""

    def ran(node, turn, config):
        known = config["configurable"]
        tell("ran", known["thread_id"], f"{node} {turn}", known["__pregel_task_id"])

    return ran


def talk(saver, tell=silent, turns=TURNS):
    """Two nodes that alternate; every message tells the turn."""
    ran = teller(tell)

    def think(state: Talk, config: RunnableConfig):
        turn = state.get("turn", 0) + 1
        ran("think", turn, config)
        return {"turn": turn, "messages": [{"role": "ai", "content": f"thought {turn} " + "é" * 20 * turn}]}

    def act(state: Talk, config: RunnableConfig):
        ran("act", state["turn"], config)
        return {"messages": [{"role": "tool", "content": {"acted": state["turn"]}}]}

    graph = StateGraph(Talk).add_node("think", think).add_node("act", act)
    graph.add_edge(START, "think").add_edge("think", "act")
    graph.add_conditional_edges("act", lambda state: "think" if state["turn"] < turns else END, ["think", END])
    return graph.compile(checkpointer=saver)


def search(saver, tell=silent, turns=TURNS // 2):
    """A node, several side by side, and a node after them, again and again."""
    ran = teller(tell)

    def plan(state: Search, config: RunnableConfig):
        turn = state.get("turn", 0) + 1
        ran("plan", turn, config)
        return {"turn": turn}

    def look(state: Search, config: RunnableConfig):
        ran(f"look {state['number']}", state["turn"], config)
        return {"found": [{"turn": state["turn"], "number": state["number"]}]}

    def gather(state: Search, config: RunnableConfig):
        ran("gather", state["turn"], config)
        return {"found": [f"gathered {len(state['found'])}"]}

    graph = StateGraph(Search).add_node("plan", plan).add_node("look", look).add_node("gather", gather)
    graph.add_edge(START, "plan").add_edge("look", "gather")
    sends = [{"number": number} for number in range(WORKERS)]
    graph.add_conditional_edges(
        "plan", lambda state: [Send("look", {**send, "turn": state["turn"]}) for send in sends], ["look"]
    )
    graph.add_conditional_edges("gather", lambda state: "plan" if state["turn"] < turns else END, ["plan", END])
    return graph.compile(checkpointer=saver)


GRAPHS = {"talk": talk, "search": search}
INPUTS: dict[str, Any] = {
    "talk": {"messages": [{"role": "user", "content": "begin"}]},
    "search": {"found": ["begin"]},
}


def kind_of(thread):
    """Which graph a thread is of: its name begins with it."""
    return thread.partition(" ")[0]


def go_on(saver, thread, tell=silent, durability="sync"):
    """Begin a thread's run, or resume it at its latest checkpoint; what it ends with."""
    kind = kind_of(thread)
    graph = GRAPHS[kind](saver, tell)
    latest = saver.get_tuple(at(thread))
    found = latest and latest.config["configurable"]["checkpoint_id"]
    tell("goes on", thread, found)
    return graph.invoke(None if found else INPUTS[kind], at(thread), durability=durability)


@contextmanager
def started(work, *arguments):
    """A process that does that work; it is killed at last, if it is still alive."""
    process = PROCESSES.Process(target=work, args=arguments, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
