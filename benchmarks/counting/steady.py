"""This engine at work such that every process does the same, to the byte: what the checked figures are counted on.

Steps are given their duration up front, since a measured one is written into the log with as many digits as it
happens to have. Whatever is counted runs once before, so that imports and caches do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import msgspec

import eventstore as es
from benchmarks.systems.engine import reducers
from benchmarks.systems.system import State
from benchmarks.workload import StepInput, check
from benchmarks.workloads import Work, states

from . import opcodes, restores

LASTED = es.ExecutionMetadata(duration_ms=1.0)
PLACES = 10
WARM, MORE = 20, 100
PACKAGE = str(Path(es.__file__).parent)

Run = tuple[str, State, list[StepInput]]


class Lookback(msgspec.Struct):
    """What it takes to restore `places` states spread over the work."""

    places: int
    opcodes: int
    reads: restores.Reads


def written(path: str, work: Work, durability: Literal["full", "normal"]) -> int:
    """Write the work; how many steps it was."""
    with es.open(path, durability=durability) as store:
        return _write(store, _runs(work))


def opcodes_of_steps(path: str, work: Work) -> int:
    """The opcodes that writing the work executes, the start of each run included."""
    with es.open(path, durability="normal") as store:
        _write(store, [(f"warm-{run}", state, steps[:WARM]) for run, state, steps in _runs(work)[:WARM]])
        runs = _runs(work)
        return opcodes.counted(lambda: _write(store, runs))


def lookback(path: str, work: Work) -> Lookback:
    """Restore states of the work that was written at `path`, and check them."""
    wanted = list(_places(work))
    with es.open(path, read_only=True) as store:
        seqs = [(run, store.open_trace(run).at(step=step).seq) for run, step, _ in wanted]
    with restores.counting() as reads:
        for (run, seq), (_, step, state) in zip(seqs, wanted, strict=True):
            with es.open(path, read_only=True) as store:  # a new one, that holds nothing of another look
                check(f"{run} after step {step}", store.state_at(run, seq), state)
    with es.open(path, read_only=True) as store:
        store.state_at(*seqs[-1])
        executed = opcodes.counted(lambda: [store.state_at(run, seq) for run, seq in seqs])
    return Lookback(len(wanted), executed, reads)


def opcodes_of_node(path: str) -> float:
    """The opcodes of one visit to a node of a durable run: of a long run less those of a short one."""

    def run(visits: int) -> Callable[[], object]:
        graph = es.Graph("loop", max_steps=visits)
        more = iter(range(visits - 1))

        @graph.node
        def work(ctx: es.Context) -> None:
            ctx.record(duration_ms=1.0)

        graph.edge_if("work", "work", lambda state: next(more, None) is not None, name="more")
        built = graph.start("work").end("work").build()

        def call() -> None:
            result = es.run(built, store, {"n": 0})
            check("the run", (result.status, len(result.execution_log)), ("completed", visits))

        return call

    with es.open(path, durability="normal") as store:
        run(WARM)()
        few, many = (opcodes.counted(run(visits)) for visits in (WARM, WARM + MORE))
    return (many - few) / MORE


def opcodes_of_saver(path: str) -> float:
    """The opcodes of a step of the LangGraph saver, `put_writes` and `put`; those in this package's code alone.

    What LangGraph's own code does changes with its version, and is not this engine's to answer for.
    """
    from benchmarks.cases import langgraph_savers as savers

    with savers.opened("ours", path) as saver:
        turns = savers.recorded(saver, "dicts", WARM + MORE)
        for turn in turns[:-MORE]:
            turn.tell(saver)

        def tell() -> None:
            for turn in turns[-MORE:]:
                turn.tell(saver)

        executed = opcodes.counted(tell, PACKAGE)
        savers.check_told(saver, turns)
    return executed / MORE


def _runs(work: Work) -> list[Run]:
    return [(run, work.state, steps) for run, steps in work.plan()]


def _write(store: es.Store, runs: list[Run]) -> int:
    for run, state, steps in runs:
        trace = store.start(state, id=run, reducers=reducers(state))
        for step in steps:
            with trace.step("answer", LASTED) as writing:
                step.write(writing)
    return sum(len(steps) for _, _, steps in runs)


def _places(work: Work) -> Iterator[tuple[str, int, State]]:
    """`(run, step, the state after it)`: the last step, and others at even distances before it."""
    runs = _runs(work)
    apart = sum(len(steps) for _, _, steps in runs) // PLACES
    steps = (
        (run, number, state) for run, start, inputs in runs for number, state in enumerate(states(start, inputs), 1)
    )
    for run, number, state in islice(steps, apart - 1, None, apart):
        yield run, number, {key: list(value) if isinstance(value, list) else value for key, value in state.items()}
