"""salamander-db: a namespace a run, an event a step, each appended and committed, which syncs it.

It keeps an append-only log of its own, not SQLite, under a lock that one process holds. Its views index the events and
do not fold them, so a state is a replay of the run's events, and a state of the past a replay of the first of them.
A commit rewrites a catalog that grows with every event: a step's cost does too, hence the small `largest`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import salamander

from benchmarks.workload import StepInput

from .system import State, System, timed

PAGE_EVENTS = 256  # the library's default


class Salamander(System):
    """Steps that return when they are synced; reads that replay."""

    title = "salamander-db"
    mode = "its own log, fsync"
    durability = "full"
    processes = False
    largest = 3000

    def __init__(self, path: str) -> None:
        self._log = salamander.open(path)

    def write(self, run: str, state: State, steps: Sequence[StepInput]) -> list[float]:
        def append(body: dict[str, Any]) -> None:
            self._log.append(run, body)
            self._log.commit()

        def write(step: StepInput) -> None:
            append({"puts": step.puts, "message": step.message})

        append({"puts": state, "message": None})
        return timed(write, steps)

    def latest(self, run: str) -> State:
        *_, last = self._states(self._log.replay(run))
        return last

    def at(self, run: str, step: int) -> State:
        for number, state in enumerate(self._states(self._read(run, page_events=min(step + 1, PAGE_EVENTS)))):
            if number == step:
                return state
        raise LookupError(step)

    def history(self, run: str) -> Iterator[State]:
        states = self._states(self._read(run))
        next(states)
        for state in states:
            yield {key: list(value) if isinstance(value, list) else value for key, value in state.items()}

    def close(self) -> None:
        self._log.close()

    def _read(self, run: str, page_events: int = PAGE_EVENTS) -> Iterator[salamander.EventRow]:
        """The run's events, page by page."""
        with closing(self._log.open_reader(run, page_events=page_events)) as reader:
            done = False
            while not done:
                page = reader.next_page()
                yield from page["records"]
                done = page["done"]

    def _states(self, events: Iterable[salamander.EventRow]) -> Iterator[State]:
        """The state after each event: one dict, changed as it goes."""
        state: State = {}
        for event in events:
            body: Any = event["body"]
            if body["message"] is not None:
                state["messages"].append(body["message"])
            state.update(body["puts"])
            yield state
