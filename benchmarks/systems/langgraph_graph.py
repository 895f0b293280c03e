"""LangGraph through its own loop: a compiled graph of one node that runs again and again, a channel a key.

It runs with LangGraph's durability "sync": a checkpoint is written before the next step begins. With the default,
"async", the loop does not wait and runs ahead of what it has kept, so that a step's time would say nothing.
"""

from __future__ import annotations

import operator
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, TypedDict

from langgraph.channels import DeltaChannel
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from benchmarks.workload import StepInput
from eventstore.integrations.langgraph import EventStoreSaver

from .langgraph_direct import config
from .system import Laps, State, System


class Compiled(System):
    """A graph with the SqliteSaver; it is compiled once, and a run's steps come in its runtime context."""

    title = "LangGraph SqliteSaver"
    mode = "WAL, FULL; durability sync"
    durability = "full"
    through = "LangGraph's loop"
    largest = 1000
    messages: Any = Annotated[list[Any], operator.add]
    batch: ClassVar[Any] = list
    saver: ClassVar[Any] = staticmethod(lambda path: SqliteSaver(sqlite3.connect(path, check_same_thread=False)))

    def __init__(self, path: str) -> None:
        self._graph: Any = None
        self._saver: Any = self.saver(path)

    def write(self, run: str, state: State, steps: Sequence[StepInput]) -> list[float]:
        updates, laps = [self._update(step) for step in reversed(steps)], Laps()
        to_run = config(run) | {"recursion_limit": len(steps) + 2}
        self._compiled(run, state).invoke(state, to_run, context=(updates, laps), durability="sync")
        return laps.close()

    def latest(self, run: str) -> State:
        return self._compiled(run).get_state(config(run)).values  # type: ignore[no-any-return]

    def at(self, run: str, step: int) -> State:
        return next(self._compiled(run).get_state_history(config(run), filter={"step": step}, limit=1)).values  # type: ignore[no-any-return]

    def history(self, run: str) -> Iterator[State]:
        newest_first = self._compiled(run).get_state_history(config(run))
        yield from reversed([past.values for past in newest_first if past.metadata["step"] > 0])

    def close(self) -> None:
        self._saver.conn.close()

    def _update(self, step: StepInput) -> State:
        return step.puts if step.message is None else {"messages": self.batch([step.message]), **step.puts}

    def _compiled(self, run: str, state: State | None = None) -> Any:
        """The graph, which a user has in her code; where only reading, its keys are looked up, once."""
        if self._graph is None:
            keys = state or self._saver.get_tuple(config(run)).checkpoint["channel_versions"]
            names = [key for key in keys if key != START and not key.startswith("branch:")]
            channels = {name: self.messages if name == "messages" else Any for name in names}
            graph: Any = StateGraph(TypedDict("Channels", channels))  # type: ignore[operator]
            graph.add_node("answer", _answer).add_edge(START, "answer")
            self._graph = graph.add_conditional_edges("answer", _more, ["answer", END]).compile(self._saver)
        return self._graph


class DeltaChannels(Compiled):
    """The list in LangGraph's beta delta channel: its writes, and now and then a snapshot of it."""

    title = "LangGraph SqliteSaver, delta channel"
    messages = Annotated[list[Any], DeltaChannel(lambda held, writes: [*held, *(one for new in writes for one in new)])]
    batch = tuple  # of dicts in a list that look like messages LangGraph would make message objects there


class ThroughEventStore(Compiled):
    """The same graph with this engine's saver."""

    title = "trace-eventstore as LangGraph's saver"
    saver = EventStoreSaver

    def close(self) -> None:
        self._saver.close()


def _answer(_: State, runtime: Runtime[Any]) -> State:
    runtime.context[1].lap()
    return runtime.context[0].pop()  # type: ignore[no-any-return]


def _more(_: State, runtime: Runtime[Any]) -> str:
    return "answer" if runtime.context[0] else END
