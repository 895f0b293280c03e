"""This engine: steps of a trace, by its own verbs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import eventstore as es
from benchmarks.workload import StepInput

from .system import Durability, State, System, timed


class Engine(System):
    """This engine at its defaults."""

    title = "trace-eventstore"
    mode = "WAL, FULL"
    durability: ClassVar[Durability] = "full"
    synced: ClassVar[Literal["full", "normal"]] = "full"

    def __init__(self, path: str) -> None:
        self._store = es.open(path, durability=self.synced)

    def write(self, run: str, state: State, steps: Sequence[StepInput]) -> list[float]:
        trace = self._store.start(state, id=run, reducers=reducers(state))

        def write(step: StepInput) -> None:
            with trace.step("answer") as writing:
                step.write(writing)

        return timed(write, steps)

    def latest(self, run: str) -> State:
        return self._store.state_at(run)

    def at(self, run: str, step: int) -> State:
        return self._store.open_trace(run).at(step=step).state if step else self._store.state_at(run, 1)

    def history(self, run: str) -> Iterator[State]:
        return (past.state for past in self._store.open_trace(run).history() if past.step)

    def close(self) -> None:
        self._store.close()


class EngineNormal(Engine):
    """This engine, not waiting for the disk."""

    title = "trace-eventstore, NORMAL"
    mode = "WAL, NORMAL"
    durability = "normal"
    synced = "normal"


def reducers(state: State) -> dict[str, es.Reducer]:
    """The workloads' list grows through its reducer."""
    return {"messages": es.Reducer.APPEND} if "messages" in state else {}
