"""The chat run as a compiled LangGraph graph: one node that loops, one message and three scalars a step.

Its messages are dicts, message objects with ids, or dicts of which only the last fifty are kept.
Imported only where LangGraph is installed.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from itertools import count
from typing import Annotated, Any, Literal, TypedDict
from uuid import NAMESPACE_OID, uuid5

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages

from benchmarks.workload import CHAT_STATE, chat, check

Kind = Literal["dicts", "messages", "window"]
WINDOW = 50
THREAD = "chat"


def last_fifty(held: list[Any], new: list[Any]) -> list[Any]:
    """A reducer: a sliding window."""
    return [*held, *new][-WINDOW:]


class Dicts(TypedDict):
    """Messages as dicts, appended."""

    messages: Annotated[list[Any], operator.add]
    turn: int
    spent: float
    phase: str


class Messages(TypedDict):
    """Messages as LangChain's objects, merged by id."""

    messages: Annotated[list[Any], add_messages]
    turn: int
    spent: float
    phase: str


class Window(TypedDict):
    """The last fifty messages, as dicts."""

    messages: Annotated[list[Any], last_fifty]
    turn: int
    spent: float
    phase: str


STATES: dict[Kind, Any] = {"dicts": Dicts, "messages": Messages, "window": Window}


def updates(kind: Kind, steps: int) -> Iterator[dict[str, Any]]:
    """What the node returns at each step."""
    for number, step in zip(count(1), chat(steps)):
        assert step.message is not None
        message: Any = step.message
        if kind == "messages":
            made = HumanMessage if message["role"] == "user" else AIMessage
            message = made(content=message["content"], id=str(uuid5(NAMESPACE_OID, str(number))))
        yield {"messages": [message], **step.puts}


def final(kind: Kind, steps: int) -> dict[str, Any]:
    """The state that the run should leave, by a toy model."""
    made = list(updates(kind, steps))
    messages = [message for update in made for message in update["messages"]]
    return {**made[-1], "messages": messages[-WINDOW:] if kind == "window" else messages}


def compiled(kind: Kind, steps: int, saver: BaseCheckpointSaver[Any] | None) -> Any:
    """The graph. It can be invoked once: its inputs are made before, so that no run is timed making them."""
    inputs = iter(list(updates(kind, steps)))
    graph: Any = StateGraph(STATES[kind])
    graph.add_node("answer", lambda _: next(inputs))
    graph.add_edge(START, "answer")
    graph.add_conditional_edges("answer", lambda now: "answer" if now["turn"] < steps else END)
    return graph.compile(checkpointer=saver)


def config(steps: int, thread: str = THREAD) -> dict[str, Any]:
    """The configuration to run or read the graph with."""
    return {"configurable": {"thread_id": thread}, "recursion_limit": steps + 5}


def run(graph: Any, kind: Kind, steps: int, thread: str = THREAD) -> None:
    """Run it from the start. Raises WrongResult."""
    check("the run's result", graph.invoke(CHAT_STATE, config(steps, thread)), final(kind, steps))
