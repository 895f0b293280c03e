"""LangGraph's SqliteSaver alone: told what LangGraph's loop tells a saver, without the loop.

A step is what a node wrote, stored under the checkpoint that it began from, and then the whole next checkpoint: the
values of all channels. A past step is found by the `step` in the metadata, of which there is no index.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.sqlite import SqliteSaver

from benchmarks.workload import StepInput

from .system import State, System, timed

NEXT = "branch:to:answer"  # the channel that makes the node `answer` run once more; its value is None


class Direct(System):
    """The saver as its documentation opens it: it sets WAL itself and leaves SQLite's FULL as it is."""

    title = "LangGraph SqliteSaver, direct"
    mode = "WAL, FULL"
    durability = "full"
    largest = 1000

    def __init__(self, path: str) -> None:
        self._saver = SqliteSaver(sqlite3.connect(path, check_same_thread=False))

    def write(self, run: str, state: State, steps: Sequence[StepInput]) -> list[float]:
        return timed(_Thread(self._saver, run, state, len(steps)).step, steps)

    def latest(self, run: str) -> State:
        return _state(self._saver.get_tuple(config(run)))

    def at(self, run: str, step: int) -> State:
        return _state(next(self._saver.list(config(run), filter={"step": step}, limit=1)))

    def history(self, run: str) -> Iterator[State]:
        return reversed([_state(found) for found in self._saver.list(config(run)) if found.metadata["step"] > 0])

    def close(self) -> None:
        self._saver.conn.close()


class _Thread:
    """One run: what the loop would hold of it in memory, and what it would say to its saver."""

    def __init__(self, saver: SqliteSaver, run: str, state: State, steps: int) -> None:
        self._saver, self._config, self._steps = saver, config(run), steps
        self._values, self._number = {**state, NEXT: None}, 0
        input_version = saver.get_next_version(None, None)
        self._version = saver.get_next_version(input_version, None)
        self._versions = dict.fromkeys(("__start__", *self._values), self._version)
        self._seen: dict[str, Any] = {"__input__": {}, "__start__": {"__start__": input_version}}
        self._put(self._values, self._versions)

    def step(self, step: StepInput) -> None:
        """Tell of one execution of the node."""
        self._number += 1
        update = {**step.puts} if step.message is None else {"messages": [step.message], **step.puts}
        if self._number < self._steps:
            update[NEXT] = None
        self._saver.put_writes(self._config, list(update.items()), str(uuid6()), "~__pregel_pull, answer")
        self._seen["answer"] = {NEXT: self._versions[NEXT]}
        del self._values[NEXT]
        self._version = self._saver.get_next_version(self._version, None)
        changed = dict.fromkeys((*update, NEXT), self._version)  # NEXT too: the node has taken what made it run
        self._versions.update(changed)
        if step.message is not None:
            update["messages"] = self._values["messages"] + [step.message]
        self._values.update(update)
        self._put(update, changed)

    def _put(self, updated: Iterable[str], changed: Any) -> None:
        checkpoint: Any = {
            "v": 4,
            "ts": datetime.now(UTC).isoformat(),
            "id": str(uuid6(clock_seq=self._number)),
            "channel_values": self._values,
            "channel_versions": self._versions,
            "versions_seen": self._seen,
            "updated_channels": sorted(updated),
        }
        metadata: Any = {"source": "loop", "step": self._number, "parents": {}}
        self._config = self._saver.put(self._config, checkpoint, metadata, changed)


def config(run: str) -> Any:
    """Where a run's checkpoints are: its id is LangGraph's thread."""
    return {"configurable": {"thread_id": run, "checkpoint_ns": ""}}


def _state(found: Any) -> State:
    return {key: value for key, value in found.checkpoint["channel_values"].items() if key != NEXT}
