"""Burr with its SQLite persister: a run is an application, a step of it one pass through its only action.

Burr keeps the whole state after each action, as JSON in a row of its own, but not the state that an application begins
with. A state of the past is loaded by its sequence id, which counts the actions from 0; the history is one such load
after another, for the persister has no call that gives several.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import count, takewhile
from typing import Any, ClassVar

from burr.core import ApplicationBuilder, action, default
from burr.core import State as BurrState
from burr.core.persistence import PersistedStateData, SQLitePersister

from benchmarks.workload import StepInput

from .system import Durability, NotSupported, State, System, timed


class Burr(System):
    """Burr's application, persisted by its SQLitePersister."""

    title = "Burr"
    mode = "rollback journal, FULL"
    durability: ClassVar[Durability] = "full"
    through = "Burr's application"
    largest = 1000

    def __init__(self, path: str) -> None:
        self._own = _Own(path)

    def write(self, run: str, state: State, steps: Sequence[StepInput]) -> list[float]:
        @action(reads=["messages"] if "messages" in state else [], writes=[*state])
        def answer(state: BurrState[Any], step: StepInput) -> BurrState[Any]:
            if step.message is not None:
                state = state.append(messages=step.message)
            return state.update(**step.puts)

        application: Any = (
            ApplicationBuilder()  # type: ignore[no-untyped-call]
            .with_actions(answer=answer)
            .with_transitions(("answer", "answer", default))
            .with_identifiers(app_id=run)
            .with_state(**state)
            .with_entrypoint("answer")
            .with_state_persister(self._own.persister)
            .build()
        )
        return timed(lambda step: application.run(halt_after=["answer"], inputs={"step": step}), steps)

    def latest(self, run: str) -> State:
        return _state(run, self._own.persister.load(None, run))

    def at(self, run: str, step: int) -> State:
        if step == 0:
            raise NotSupported("it does not keep the state that a run begins with")
        return _state(run, self._own.persister.load(None, run, step - 1))

    def history(self, run: str) -> Iterator[State]:
        loaded = (self._own.persister.load(None, run, sequence_id) for sequence_id in count())
        return (_state(run, kept) for kept in takewhile(lambda kept: kept is not None, loaded))

    def close(self) -> None:
        self._own.persister.cleanup()


class _Own(threading.local):
    """A persister for each thread: applications in several that share one break each other's transactions.

    It waits a minute for the lock, not the five seconds of Python's `sqlite3`, after which one of many writers fails.
    """

    def __init__(self, path: str) -> None:
        persister: Any = SQLitePersister(path, connect_kwargs={"timeout": 60, "check_same_thread": False})
        persister.initialize()
        self.persister = persister


def _state(run: str, kept: PersistedStateData | None) -> State:
    """The state as a plain dict, without the keys that Burr keeps in it for itself."""
    if kept is None:
        raise LookupError(run)
    return {key: value for key, value in kept["state"].get_all().items() if not key.startswith("__")}
