"""This engine: a durable run of one node that runs again and again, driven by its scheduler."""

from __future__ import annotations

from collections.abc import Sequence

import eventstore as es
from benchmarks.workload import StepInput

from .engine import Engine, reducers
from .system import Laps, State


class EngineRun(Engine):
    """A durable run, at the engine's defaults; read as any trace."""

    title = "trace-eventstore, a durable run"
    through = "its graph's scheduler"

    def write(self, run: str, state: State, steps: Sequence[StepInput]) -> list[float]:
        laps = Laps()
        es.run(_loop(steps, reducers(state), laps), self._store, state, id=run)
        return laps.close()


def _loop(steps: Sequence[StepInput], reducers: dict[str, es.Reducer], laps: Laps) -> es.Graph:
    """A graph whose one node takes a step at each visit; good for one run."""
    inputs = iter(steps)
    more = iter(range(len(steps) - 1))
    graph = es.Graph("loop", max_steps=len(steps), reducers=reducers)

    @graph.node
    def answer(ctx: es.Context) -> State:
        laps.lap()
        step = next(inputs)
        return step.puts if step.message is None else {"messages": [step.message], **step.puts}

    graph.edge_if("answer", "answer", lambda _: next(more, None) is not None, name="more")
    return graph.start("answer").end("answer")
