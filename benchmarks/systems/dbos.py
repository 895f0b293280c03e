"""DBOS on SQLite: a run is a workflow, a step of it a DBOS step whose output, the step's change, DBOS records.

DBOS keeps no state of a run, only what its workflow was called with and what each step returned. The state is
therefore the fold of the recorded outputs over the recorded input, both read through DBOS's own API.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, cast

from dbos import DBOS, DBOSConfig, SetWorkflowID

from benchmarks.workload import StepInput

from .system import Durability, Laps, State, System

Change = tuple[dict[str, Any] | None, dict[str, Any]]


class Dbos(System):
    """DBOS with the defaults of its SQLite system database."""

    title = "DBOS"
    mode = "rollback journal, FULL"
    durability: ClassVar[Durability] = "full"
    through = "DBOS's workflow"
    largest = 5000

    def __init__(self, path: str) -> None:
        config: DBOSConfig = {
            "name": "benchmark",
            "system_database_url": f"sqlite:///{path}",
            # one of its own for each process: DBOS, when it starts, resumes the workflows of the same id
            "executor_id": f"process-{os.getpid()}",
            "log_level": "WARNING",
            # nobody is notified here, but `destroy` waits for one such interval, of a second by default
            "notification_listener_polling_interval_sec": 0.05,
        }
        DBOS(config=config)
        DBOS.launch()

    def write(self, run: str, state: State, steps: Sequence[StepInput]) -> list[float]:
        _begun[run] = steps, (laps := Laps())
        with SetWorkflowID(run):
            agent(state)
        del _begun[run]
        return laps.close()

    def latest(self, run: str) -> State:
        *_, state = self._states(run)
        return state

    def at(self, run: str, step: int) -> State:
        *_, state = self._states(run, step)
        return state

    def history(self, run: str) -> Iterator[State]:
        states = self._states(run)
        next(states)
        return (
            {**state, "messages": list(state["messages"])} if "messages" in state else dict(state) for state in states
        )

    def close(self) -> None:
        DBOS.destroy()

    def _states(self, run: str, steps: int | None = None) -> Iterator[State]:
        """The state that the run began with and after each step: one dict, changed as it goes."""
        status = DBOS.get_workflow_status(run)
        if status is None or status.input is None:
            raise LookupError(run)
        state: State = status.input["args"][0]
        yield state
        for step in DBOS.list_workflow_steps(run, limit=steps):
            message, puts = cast(Change, step["output"])
            if message is not None:
                state["messages"].append(message)
            state.update(puts)
            yield state


# What the runs are told from outside, by run: as an input of the workflow DBOS would record it twice.
_begun: dict[str, tuple[Sequence[StepInput], Laps]] = {}


@DBOS.workflow()
def agent(state: State) -> None:
    """A run that begins with `state`."""
    steps, laps = _begun[DBOS.workflow_id or ""]
    for step in steps:
        laps.lap()
        answer(step)


@DBOS.step()
def answer(step: StepInput) -> Change:
    """The step's change, which DBOS records."""
    return step.message, step.puts
