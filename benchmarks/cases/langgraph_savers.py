"""The savers that are compared, and calls to them: recorded from a real run, then made to each.

A recording holds every object that the loop handed to its saver, so that the items of a list are the same
objects from one call to the next, as they are in the loop. Imported only where LangGraph is installed.
"""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Literal, ParamSpec, TypeVar

import msgspec
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver

from benchmarks.bench import Bench
from benchmarks.worker import fresh
from benchmarks.workload import check
from eventstore.integrations.langgraph import EventStoreSaver

from . import langgraph_chat as chat

P = ParamSpec("P")
T = TypeVar("T")
Saver = BaseCheckpointSaver[Any]
System = Literal["ours", "SqliteSaver", "InMemorySaver", "nothing"]


class Nothing(InMemorySaver):
    """Keeps nothing: what LangGraph costs without a saver's work."""

    def get_tuple(self, config: Any) -> None:
        """Nothing is known."""

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        """Say where the checkpoint would be."""
        return {"configurable": {**config["configurable"], "checkpoint_id": checkpoint["id"]}}

    def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        """Drop them."""


@contextmanager
def opened(system: System, path: str) -> Iterator[Saver]:
    """A saver on the file at `path`, at its own durability: FULL for the two that write a file."""
    match system:
        case "ours":
            with EventStoreSaver.from_conn_string(path) as saver:
                yield saver
        case "SqliteSaver":
            with closing(sqlite3.connect(path, check_same_thread=False)) as connection:
                yield SqliteSaver(connection)
        case "InMemorySaver":
            yield InMemorySaver()
        case "nothing":
            yield Nothing()


def apart(bench: Bench, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`fresh`; in a quick run a plain call, since each process would take a second to import LangGraph."""
    return function(*args, **kwargs) if bench.quick else fresh(function, *args, **kwargs)


def taking_turns(number: int, *systems: System) -> tuple[System, ...]:
    """The savers in the order of round `number`: who goes first alternates."""
    return systems if number % 2 == 0 else systems[::-1]


class Writes(msgspec.Struct, frozen=True):
    """One call of `put_writes`."""

    config: Any
    writes: Sequence[tuple[str, Any]]
    task_id: str
    task_path: str


class Put(msgspec.Struct, frozen=True):
    """One call of `put`."""

    config: Any
    checkpoint: Any
    metadata: Any
    new_versions: Any


class Turn(msgspec.Struct, frozen=True):
    """What a saver is told in one step: the writes made from a checkpoint, then the next checkpoint."""

    writes: list[Writes]
    put: Put

    def tell(self, saver: Saver) -> None:
        """Make the calls."""
        for call in self.writes:
            saver.put_writes(call.config, call.writes, call.task_id, call.task_path)
        put = self.put
        saver.put(put.config, put.checkpoint, put.metadata, put.new_versions)


class _Recorder(Nothing):
    """Keeps the calls. LangGraph makes them on several threads: `list.append` is all that they share."""

    def __init__(self, numbering: Saver) -> None:
        super().__init__()
        self.get_next_version = numbering.get_next_version  # type: ignore[method-assign]
        self.puts: list[Put] = []
        self.put_writes_calls: list[Writes] = []

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        """Keep the call."""
        self.puts.append(Put(config, checkpoint, metadata, new_versions))
        return super().put(config, checkpoint, metadata, new_versions)

    def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        """Keep the call."""
        self.put_writes_calls.append(Writes(config, list(writes), task_id, task_path))


def recorded(saver: Saver, kind: chat.Kind, steps: int, thread: str = chat.THREAD) -> list[Turn]:
    """What the loop would tell `saver` in a run of `steps`: two turns more than that, for the input and for START.

    Of the saver itself it asks only the versions of channels.
    """
    recorder = _Recorder(saver)
    chat.run(chat.compiled(kind, steps, recorder), kind, steps, thread)
    after: dict[str | None, list[Writes]] = {}
    for call in recorder.put_writes_calls:
        after.setdefault(call.config["configurable"]["checkpoint_id"], []).append(call)
    turns = [Turn(after.pop(put.config["configurable"].get("checkpoint_id"), []), put) for put in recorder.puts]
    check("turns", (len(turns), after), (steps + 2, {}))
    gc.collect()
    gc.freeze()  # what the benchmark itself holds is not the savers' garbage to look through
    return turns


def at(turn: Turn) -> Any:
    """The config of the turn's checkpoint, as LangGraph gives it."""
    known = turn.put.config["configurable"]
    return {
        "configurable": {
            "thread_id": known["thread_id"],
            "checkpoint_ns": known["checkpoint_ns"],
            "checkpoint_id": turn.put.checkpoint["id"],
        }
    }


def check_told(saver: Saver, turns: list[Turn]) -> None:
    """The last checkpoint and four older ones read back as they were put. Raises WrongResult."""
    latest = saver.get_tuple({"configurable": {"thread_id": turns[-1].put.config["configurable"]["thread_id"]}})
    assert latest is not None
    check("the latest checkpoint", latest.checkpoint, turns[-1].put.checkpoint)
    for place in range(0, len(turns), max(1, len(turns) // 4)):
        found = saver.get_tuple(at(turns[place]))
        assert found is not None
        check("an old checkpoint", found.checkpoint, turns[place].put.checkpoint)
        told = turns[place + 1].writes if place + 1 < len(turns) else []
        expected = [(call.task_id, *write) for call in told for write in call.writes]
        check("its writes", [tuple(write) for write in found.pending_writes or ()], expected)
