"""The chat run as LangGraph keeps it: a graph of one node that loops, with the SqliteSaver, as its documentation says.

Imported only where LangGraph is installed.
"""

from __future__ import annotations

import operator
import sqlite3
import time
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph

from benchmarks.workload import CHAT_STATE, chat, check


class State(TypedDict):
    """The run's state, its list with LangGraph's reducer."""

    messages: Annotated[list[Any], operator.add]
    turn: int
    spent: float
    phase: str


def _compiled(path: str, steps: int) -> Any:
    inputs = iter(chat(steps))

    def answer(_: State) -> dict[str, Any]:
        step = next(inputs)
        return {"messages": [step.message], **step.puts}

    graph: Any = StateGraph(State)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    graph.add_conditional_edges("answer", lambda now: "answer" if now["turn"] < steps else END)
    return graph.compile(checkpointer=SqliteSaver(sqlite3.connect(path, check_same_thread=False)))


def _config(steps: int) -> dict[str, Any]:
    return {"configurable": {"thread_id": "chat"}, "recursion_limit": steps + 5}


def build(path: str, steps: int) -> None:
    """Run it."""
    _compiled(path, steps).invoke(CHAT_STATE, _config(steps))


def visit(path: str, steps: int) -> float:
    """µs of its whole history, each state looked at."""
    graph = _compiled(path, steps)
    started = time.perf_counter_ns()
    seen = [len(found.values.get("messages", ())) for found in graph.get_state_history(_config(steps))]
    elapsed_us = (time.perf_counter_ns() - started) / 1000
    check("LangGraph's history", seen[: steps + 1], list(range(steps, -1, -1)))
    return elapsed_us
