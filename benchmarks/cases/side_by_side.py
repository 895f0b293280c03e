"""What runs side by side, branches and whole runs; and what it takes to go on with a long one."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from statistics import median

import msgspec

import eventstore as es
from benchmarks.bench import Bench
from benchmarks.result import Measure, by_pairs, micros
from benchmarks.worker import fresh
from benchmarks.workload import check

from .runs import TEXT, check_result, engine_run, loop, measured, syncs_each, us


def fan_out(*, is_async: bool) -> es.Graph:
    """A map over `items` with an empty function."""
    graph = es.Graph("map")

    def each(ctx: es.Context, item: int) -> None:
        pass

    async def each_async(ctx: es.Context, item: int) -> None:
        pass

    graph.map(over="items", name="each")(each_async if is_async else each)
    return graph.start("each").end("each").build()


def branches(path: str, is_async: bool, count: int) -> list[float]:
    """`[µs a branch of a map over so many items, µs of an engine's step]`, under FULL."""
    graph = fan_out(is_async=is_async)
    with es.open(path) as store:
        results: list[es.GraphResult] = []
        took = us(lambda: results.append(es.run(graph, store, {"items": list(range(count))})))
        entries = [entry for entry in results[0].execution_log if entry.branch is not None]
        check("the map", (results[0].status, len(entries)), ("completed", count))
        check("its branches", {entry.branch for entry in entries}, {str(index) for index in range(count)})
        steps = us(lambda: engine_run(store, 100)) / 100
    return [took / count, steps]


def fan(bench: Bench) -> Iterator[Measure]:
    """Branches of a map: what a branch that does nothing costs, and how many syncs."""
    for is_async, full in ((False, 1000), (True, 200)):
        count, kind = bench.size(full, 20), "async" if is_async else "sync"
        pairs = []
        for _ in bench.rounds(f"map of {count:,} {kind} branches", 3):
            branch, step = measured(bench, branches, bench.path("map"), is_async, count)
            pairs.append((branch, step))
        note = f"{micros([branch for branch, _ in pairs])} to {micros([step for _, step in pairs])}"
        yield by_pairs("branches", f"map of {count:,} {kind} branches, a branch to a step", pairs, 2.0, note)
        syncs, how = syncs_each(bench, branches, (is_async,), count // 10, count)
        yield Measure(
            "branches", f"syncs a branch, {kind}", syncs, 1.1, "", note=f"by {how}, the WAL's checkpoints too"
        )


# Many runs at once


def runs_rate(path: str, runs: int, visits: int) -> float:
    """Nodes a second of so many async runs at once, under FULL, from their start to their results."""

    async def measure() -> float:
        graphs = [loop(visits, is_async=True) for _ in range(runs)]
        async with es.aopen(path) as store:
            await es.run_async(loop(1, is_async=True), store, {"n": 0})
            started = time.perf_counter()
            results = await asyncio.gather(*(es.run_async(graph, store, {"n": 0}) for graph in graphs))
            seconds = time.perf_counter() - started
        for result in results:
            check_result(result, visits)
        return runs * visits / seconds

    return asyncio.run(measure())


def together(bench: Bench) -> Iterator[Measure]:
    """200 runs at once against one: their commits share syncs."""
    ratios, rates = [], []
    for _ in bench.rounds("concurrent runs", 3):
        one = measured(bench, runs_rate, bench.path("alone"), 1, bench.size(400, 40))
        many = measured(bench, runs_rate, bench.path("together"), bench.size(200, 20), 20)
        ratios.append(many / one)
        rates.append(f"{many:,.0f} to {one:,.0f}")
    name = f"{bench.size(200, 20)} async runs, FULL, nodes/s to one run's"
    yield Measure("concurrent runs", name, median(ratios), 5, "x", True, ratios, "; ".join(rates) + " nodes/s")


def long_run(steps: int, entered: list[float]) -> es.Graph:
    """Work that appends ten bytes so often, then waits; `last`, after the decision, tells when it was entered."""
    graph = es.Graph("long", reducers={"lines": es.Reducer.APPEND}, max_steps=steps + 10)

    @graph.node
    def work(ctx: es.Context) -> dict[str, list[str]]:
        return {"lines": [TEXT]}

    @graph.node
    def last(ctx: es.Context) -> None:
        entered.append(time.perf_counter())

    graph.edge_if("work", "work", lambda state: len(state["lines"]) < steps, name="more")
    graph.edge("work", "approve").barrier("approve").edge("approve", "last")
    return graph.start("work").end("last").build()


def build_resumable(path: str, steps: int) -> int:
    """A run of so many steps that was decided and not resumed yet; the size of its state in bytes."""
    with es.open(path, durability="normal") as store:
        paused = es.run(long_run(steps, []), store, {"lines": []}, id="long")
        check("the run", (paused.status, paused.state), ("waiting", {"lines": [TEXT] * steps}))
        store.decide("long", "approve", es.Approve(by="ana"))
        return len(msgspec.json.encode(paused.state))


def resume(path: str, steps: int) -> tuple[float, float, float]:
    """`(ms of restoring the state, until the resumed run enters its node, until its result)`."""
    entered: list[float] = []
    graph = long_run(steps, entered)
    with es.open(path) as store:
        check("its state", store.state_at("long")["lines"], [TEXT] * steps)  # the file is in the page cache now
        restored = us(lambda: store.state_at("long")) / 1000
        started = time.perf_counter()
        result = es.resume(graph, store, "long")
        ended = time.perf_counter()
        found = (result.status, len(result.execution_log), len(result.state["lines"]))
        check("the resumed run", found, ("completed", steps + 2, steps))
    return restored, (entered[0] - started) * 1000, (ended - started) * 1000


def resumed(bench: Bench) -> Iterator[Measure]:
    """A long run resumed: to go on it needs its state, and nothing that grows with its past."""
    steps = bench.size(10_000, 300)
    file = bench.built("resumable", lambda path: measured(bench, build_resumable, path, steps))
    found = []
    for _ in bench.rounds("resume", 5):
        copy = bench.path("resume")
        shutil.copy(file, copy)
        found.append(fresh(resume, copy, steps))
    restores, nodes, results = (list(side) for side in zip(*found, strict=True))
    name = f"resume after {steps:,} steps"
    for until, side, target in (("the next node", nodes, 3.0), ("the result", results, 6.0)):
        pairs = list(zip(side, restores, strict=True))
        note = f"{median(side):.1f} to {median(restores):.1f} ms"
        yield by_pairs("resume", f"{name}, until {until}, to a restore", pairs, target, note)
