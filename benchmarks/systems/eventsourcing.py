"""The `eventsourcing` library on its SQLite persistence: an aggregate a run, an event a step.

The aggregate's decorated methods make the events and, when they are read again, apply them. A state is a replay of the
aggregate's events to a version; a history is one pass over them. Snapshots are off by default; the second class takes
one every hundred events, as the library's documentation shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any, ClassVar
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import Application, project_aggregate
from eventsourcing.domain import Aggregate, event

from benchmarks.workload import StepInput

from .system import State, System, timed


class Run(Aggregate):
    """One run: version 1 is its beginning, version n + 1 its nth step."""

    @event("Started")
    def __init__(self, run: str, state: dict[str, Any]) -> None:
        self.run = run
        self.state = state

    @staticmethod
    def create_id(run: str) -> UUID:
        """The aggregate's id, made from the run's."""
        return uuid5(NAMESPACE_URL, f"/runs/{run}")

    @event("StepTaken")
    def take(self, puts: dict[str, Any], message: dict[str, Any] | None) -> None:
        """Apply one step."""
        if message is not None:
            self.state["messages"].append(message)
        self.state.update(puts)


class Runs(Application[UUID]):
    """The application at its defaults."""


class SnapshottingRuns(Application[UUID]):
    """The application with a snapshot every hundred events."""

    snapshotting_intervals = {Run: 100}


class EventSourcing(System):
    """An event a step, saved as the step is taken; read by replaying all of them."""

    title = "eventsourcing"
    mode = "WAL, FULL"
    durability = "full"
    largest = 10_000
    application: ClassVar[type[Application[UUID]]] = Runs

    def __init__(self, path: str) -> None:
        self._application = self.application({"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": path})

    def write(self, run: str, state: State, steps: Sequence[StepInput]) -> list[float]:
        aggregate = Run(run, deepcopy(state))  # which grows in place
        self._application.save(aggregate)

        def write(step: StepInput) -> None:
            aggregate.take(step.puts, step.message)
            self._application.save(aggregate)

        return timed(write, steps)

    def latest(self, run: str) -> State:
        return self._run(run).state

    def at(self, run: str, step: int) -> State:
        return self._run(run, version=step + 1).state

    def history(self, run: str) -> Iterator[State]:
        aggregate = self._run(run, version=1)
        for past in self._application.events.get(aggregate.id, gt=1):
            project_aggregate(aggregate, [past])
            yield {key: list(value) if isinstance(value, list) else value for key, value in aggregate.state.items()}

    def close(self) -> None:
        self._application.close()

    def _run(self, run: str, version: int | None = None) -> Run:
        found: Run = self._application.repository.get(Run.create_id(run), version=version)
        return found


class EventSourcingSnapshots(EventSourcing):
    """The same, read from the newest snapshot on."""

    title = "eventsourcing, a snapshot every 100 events"
    application = SnapshottingRuns
