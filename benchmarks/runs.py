"""Durable runs against the engine's own steps: a node, a short run, a branch, the inbox, many runs, a resume.

The functions of the nodes are empty, so that what is measured is what a run costs beside its work. A run
and the engine's bare steps take turns in one process, window by window; both write the same events.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from statistics import fmean, median
from typing import Any, ParamSpec, TypeVar

import apsw
import msgspec

import eventstore as es

from . import floor
from .bench import Bench
from .result import Measure, by_pairs, micros
from .steps import Durability
from .syncs import count_syncs, counted
from .worker import fresh
from .workload import check

P = ParamSpec("P")
T = TypeVar("T")
TEXT = "ten bytes."


def loop(visits: int, *, is_async: bool = False) -> es.Graph:
    """A graph whose one node, an empty function, is visited so often; good for one run."""
    graph = es.Graph("loop", max_steps=visits)
    more = iter(range(visits - 1))

    def work(ctx: es.Context) -> None:
        pass

    async def work_async(ctx: es.Context) -> None:
        pass

    graph.node(name="work")(work_async if is_async else work)
    graph.edge_if("work", "work", lambda state: next(more, None) is not None, name="more")
    return graph.start("work").end("work").build()


def _check_result(result: es.GraphResult, visits: int) -> None:
    found = (result.status, result.state, [entry.node_name for entry in result.execution_log])
    check(f"run {result.trace_id}", found, ("completed", {"n": 0}, ["work"] * visits))


def _engine_run(store: es.Store, visits: int) -> None:
    """What `loop` writes, by the engine's own verbs."""
    trace = store.start({"n": 0}, name="loop")
    for _ in range(visits - 1):
        with trace.step("work", next="work"):
            pass
    with trace.step("work"):
        pass
    trace.end()


def _measured(bench: Bench, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `function` gives in a fresh process; in a quick run in this one, to save the starting."""
    return function(*args, **kwargs) if bench.quick else fresh(function, *args, **kwargs)


def _engine_runs(store: es.Store, runs: int) -> None:
    for _ in range(runs):
        _engine_run(store, 1)


def _us(function: Callable[[], object]) -> float:
    started = time.perf_counter_ns()
    function()
    return (time.perf_counter_ns() - started) / 1000


# A node


def node_windows(path: str, floor_path: str, durability: Durability, count: int, visits: int) -> list[list[float]]:
    """`[µs of a node, of an engine's step, of a floor insert of the same body]`, window by window."""
    found = []
    with es.open(path, durability=durability) as store:
        _check_result(es.run(loop(1), store, {"n": 0}), 1)  # the store becomes an owner of runs
        connection = _floor(floor_path, durability)
        for index in range(count):
            graph, laps = loop(visits), [0.0, 0.0, 0.0]
            results: list[es.GraphResult] = []
            turns: list[tuple[int, Callable[[], object]]] = [
                (0, lambda: results.append(es.run(graph, store, {"n": 0}))),  # noqa: B023 - called in this turn
                (1, lambda: _engine_run(store, visits)),
            ]
            for place, turn in turns[:: 1 if index % 2 else -1]:
                laps[place] = _us(turn) / visits
            _check_result(results[0], visits)
            rows = _bodies(store, results[0].trace_id)
            laps[2] = _us(lambda: _insert(connection, index, rows)) / visits  # noqa: B023
            written = connection.execute("SELECT count(*) FROM log WHERE trace = ?", (index,)).get
            check("the floor's rows", written, len(rows))
            found.append(laps)
        check("verify", store.verify().ok, True)
    connection.close()
    return found


def _floor(path: str, durability: Durability) -> apsw.Connection:
    connection = apsw.Connection(path)
    connection.pragma("page_size", 4096)
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", durability)
    connection.execute(floor.SCHEMA)
    return connection


def _bodies(store: es.Store, trace_id: str) -> list[list[Any]]:
    events = groupby(store.events(trace_id), lambda recorded: recorded.first_seq)
    return [[{"kind": one.kind, "data": one.event} for one in row] for _, row in events]


def _insert(connection: apsw.Connection, trace: int, rows: list[list[Any]]) -> None:
    encode, seq = msgspec.json.encode, 1
    for row in rows:
        body = encode(row).decode()
        connection.execute(floor.INSERT, (trace, seq, len(row), seq, time.time_ns() // 1000, floor.DIGEST, body))
        seq += len(row)


def _nodes(bench: Bench, durability: Durability, rounds: int, windows: int, visits: int) -> list[list[float]]:
    """The means of each round, in a fresh process each: whichever step the WAL's checkpoint falls on, it counts."""
    found = []
    for _ in bench.rounds(f"node, {durability}", rounds):
        paths = bench.path("nodes"), bench.path("floor")
        laps = _measured(bench, node_windows, *paths, durability, bench.size(windows, 2), bench.size(visits, 30))
        found.append([fmean(side) for side in zip(*laps, strict=True)])
    return found


def _to_steps(case: str, found: list[list[float]], target: float) -> Measure:
    pairs = [(node, step) for node, step, _ in found]
    note = f"{micros([node for node, _, _ in found])} to {micros([step for _, step, _ in found])}"
    return by_pairs(case, f"a node, {case[5:].upper()}, to the engine's step", pairs, target, note)


def node_full(bench: Bench) -> Iterator[Measure]:
    """A node under FULL: the sync is most of it, so what a run adds must hardly show."""
    yield _to_steps("node-full", _nodes(bench, "full", 5, 12, 200), 1.5)


def node_normal(bench: Bench) -> Iterator[Measure]:
    """A node under NORMAL, where what Python does shows: also nodes a second, and to the floor."""
    found = _nodes(bench, "normal", 7, 12, 500)
    rates = [1e6 / node for node, _, _ in found]
    yield Measure("node-normal", "nodes, NORMAL, one process", median(rates), 5000, "/s", True, rates)
    yield _to_steps("node-normal", found, 2.0)
    pairs = [(node, bare) for node, _, bare in found]
    note = f"the floor inserts the same bodies: {micros([bare for _, bare in pairs])}"
    yield by_pairs("node-normal", "a node, NORMAL, to a floor insert", pairs, 5.0, note)


# A short run


def short_windows(path: str, durability: Durability, count: int, runs: int) -> list[tuple[float, float]]:
    """`(µs of a run of one node, of start, step and end by the engine)`, window by window."""
    graph, found = loop(1), []
    with es.open(path, durability=durability) as store:
        es.run(graph, store, {"n": 0})
        for index in range(count):
            results: list[es.GraphResult] = []

            def ours() -> None:
                results.extend(es.run(graph, store, {"n": 0}) for _ in range(runs))  # noqa: B023 - called in this turn

            def bare() -> None:
                _engine_runs(store, runs)

            if index % 2:
                engine_us, run_us = _us(bare), _us(ours)
            else:
                run_us, engine_us = _us(ours), _us(bare)
            for result in results:
                _check_result(result, 1)
            found.append((run_us / runs, engine_us / runs))
    return found


def short_runs(path: str, durability: Durability, runs: int) -> list[float]:
    """Run a graph of one node so often; µs of each run."""
    graph = loop(1)
    with es.open(path, durability=durability) as store:
        laps = [_us(lambda: es.run(graph, store, {"n": 0})) for _ in range(runs)]
        check("the runs", len(store.traces(limit=runs + 1, status="completed")), runs)
    return laps


def short(bench: Bench) -> Iterator[Measure]:
    """Runs of one node, start to result: two commits, where the engine's start, step and end are three."""
    for durability, target, syncs_target in (("full", 1.2, 2.1), ("normal", 2.0, 0.1)):
        case, pairs = f"short-{durability}", []
        for _ in bench.rounds(f"short runs, {durability}", 5):
            path = bench.path("short")
            laps = _measured(bench, short_windows, path, durability, bench.size(4, 2), bench.size(200, 5))  # type: ignore[arg-type]
            pairs.append((fmean(ours for ours, _ in laps), fmean(bare for _, bare in laps)))
        note = f"{micros([ours for ours, _ in pairs])} to {micros([bare for _, bare in pairs])}"
        yield by_pairs(case, "a run of one node to start, step and end", pairs, target, note)
        syncs, how = _syncs_each(bench, short_runs, (durability,), bench.size(50, 5), bench.size(550, 25))
        yield Measure(
            case, "syncs a run of one node", syncs, syncs_target, "", note=f"by {how}, the WAL's checkpoints too"
        )


def _syncs_each(
    bench: Bench, function: Callable[..., list[float]], args: tuple[Any, ...], few: int, many: int, file: str = ""
) -> tuple[float, str]:
    """Syncs of `function(path, *args, count)` by count: of many less those of few, so that opening does not count."""

    def syncs(path: str, count: int) -> tuple[int, str]:
        if file:
            shutil.copy(file, path)
        if bench.quick:
            return counted(f"{function.__module__}:{function.__qualname__}", [path, *args, count]), "an apsw VFS"
        return count_syncs(function, path, *args, count)

    bench.say("syncs")
    (less, _), (more, how) = (syncs(bench.path("syncs"), count) for count in (few, many))
    return (more - less) / (many - few), how


# The inbox


def asking() -> es.Graph:
    """A graph that waits for a human."""
    graph = es.Graph("refund").barrier("approve", prompt="Refund?", keys=["total"])
    return graph.start("approve").end("approve").build()


def build_inbox(path: str, runs: int) -> int:
    """Start so many runs that wait; several threads share their syncs."""
    graph = asking()
    with es.open(path, durability="normal") as store, ThreadPoolExecutor(16) as pool:
        results = pool.map(lambda index: es.run(graph, store, {"total": index}, id=f"run-{index}"), range(runs))
        check("waiting runs", sum(result.status == "waiting" for result in results), runs)
    return runs


def first_page(path: str, times: int, waiting: int) -> list[float]:
    """The ms of `times` looks at the first page, the first of them in a store just opened."""
    laps = []
    with es.open(path) as store:
        for _ in range(times):
            pages: list[list[es.BarrierInfo]] = []
            laps.append(_us(lambda: pages.append(store.barriers())) / 1000)  # noqa: B023
            page = pages[0]
            check("the page", len({info.trace_id for info in page}), min(100, waiting))
            check("its order", [info.raised_at for info in page], sorted(info.raised_at for info in page))
            check("what is asked", {(info.prompt, info.decision) for info in page}, {("Refund?", None)})
    return laps


def decide(path: str, count: int) -> list[float]:
    """Decide so many barriers; µs of each."""
    with es.open(path) as store:
        asked = store.barriers(limit=count)
        laps = [_us(lambda: store.decide(one.trace_id, one.barrier_id, es.Approve(by="ana"))) for one in asked]  # noqa: B023
        check("decided", len(store.barriers(pending=False, limit=count + 1)), count)
    return laps


def decisions(path: str, windows: int, each: int) -> list[tuple[float, float]]:
    """`(µs of a decision from anywhere, of a step that puts one key)`, window by window."""
    found = []
    with es.open(path) as store:
        asked = iter(store.barriers(limit=windows * each))
        trace = store.start({"approved": False})

        def step() -> None:
            with trace.step("approve") as writing:
                writing.put("approved", True)

        for _ in range(windows):
            ids = [next(asked) for _ in range(each)]
            laps = [_us(lambda: store.decide(one.trace_id, one.barrier_id, es.Approve(by="ana"))) for one in ids]  # noqa: B023
            found.append((median(laps), median(_us(step) for _ in range(each))))
            for one in ids:
                check(one.trace_id, store.get(one.trace_id, "approve.approved"), True)
        check("decided", len(store.barriers(pending=False, limit=windows * each + 1)), windows * each)
    return found


def inbox(bench: Bench) -> Iterator[Measure]:
    """10,000 runs that wait: the page that a human opens, and a decision."""
    waiting = bench.size(10_000, 200)
    file = bench.built("inbox", lambda path: _measured(bench, build_inbox, path, waiting))
    laps: list[float] = []
    opened = []
    for _ in bench.rounds("inbox", 5):
        first, *others = _measured(bench, first_page, file, bench.size(20, 3), waiting)
        opened.append(first)
        laps += [first, *others]
    name = f"first page of {waiting:,} waiting runs"
    yield Measure("inbox", f"{name}, median", median(laps), 50, "ms", samples=laps)
    note = f"samples: the first page of a process; all others ≤ {max(laps):.1f} ms"
    yield Measure("inbox", f"{name}, worst", max(laps), 50, "ms", samples=opened, note=note)
    copy = bench.path("decisions")
    shutil.copy(file, copy)
    pairs = _measured(bench, decisions, copy, bench.size(10, 2), bench.size(40, 5))
    note = f"{micros([decision for decision, _ in pairs])} to {micros([step for _, step in pairs])}"
    yield by_pairs("inbox", "a decision, FULL, to an engine's step", pairs, 3.0, note)
    syncs, how = _syncs_each(bench, decide, (), bench.size(50, 5), bench.size(550, 25), file)
    yield Measure("inbox", "syncs a decision", syncs, 1.1, "", note=f"by {how}, the WAL's checkpoints too")


# Branches


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
        took = _us(lambda: results.append(es.run(graph, store, {"items": list(range(count))})))
        entries = [entry for entry in results[0].execution_log if entry.branch is not None]
        check("the map", (results[0].status, len(entries)), ("completed", count))
        check("its branches", {entry.branch for entry in entries}, {str(index) for index in range(count)})
        steps = _us(lambda: _engine_run(store, 100)) / 100
    return [took / count, steps]


def fan(bench: Bench) -> Iterator[Measure]:
    """Branches of a map: what a branch that does nothing costs, and how many syncs."""
    for is_async, full in ((False, 1000), (True, 200)):
        count, kind = bench.size(full, 20), "async" if is_async else "sync"
        pairs = []
        for _ in bench.rounds(f"map of {count:,} {kind} branches", 5):
            branch, step = _measured(bench, branches, bench.path("map"), is_async, count)
            pairs.append((branch, step))
        note = f"{micros([branch for branch, _ in pairs])} to {micros([step for _, step in pairs])}"
        yield by_pairs("branches", f"map of {count:,} {kind} branches, a branch to a step", pairs, 2.0, note)
        syncs, how = _syncs_each(bench, branches, (is_async,), count // 10, count)
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
            _check_result(result, visits)
        return runs * visits / seconds

    return asyncio.run(measure())


def together(bench: Bench) -> Iterator[Measure]:
    """200 runs at once against one: their commits share syncs."""
    ratios, rates = [], []
    for _ in bench.rounds("concurrent runs", 5):
        one = _measured(bench, runs_rate, bench.path("alone"), 1, bench.size(400, 40))
        many = _measured(bench, runs_rate, bench.path("together"), bench.size(200, 20), 20)
        ratios.append(many / one)
        rates.append(f"{many:,.0f} to {one:,.0f}")
    name = f"{bench.size(200, 20)} async runs, FULL, nodes/s to one run's"
    yield Measure("concurrent runs", name, median(ratios), 5, "x", True, ratios, "; ".join(rates) + " nodes/s")


# A resume


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
        restored = _us(lambda: store.state_at("long")) / 1000
        started = time.perf_counter()
        result = es.resume(graph, store, "long")
        ended = time.perf_counter()
        found = (result.status, len(result.execution_log), len(result.state["lines"]))
        check("the resumed run", found, ("completed", steps + 2, steps))
    return restored, (entered[0] - started) * 1000, (ended - started) * 1000


def resumed(bench: Bench) -> Iterator[Measure]:
    """A long run resumed: to go on it needs its state, and nothing that grows with its past."""
    steps = bench.size(10_000, 300)
    file = bench.built("resumable", lambda path: _measured(bench, build_resumable, path, steps))
    found = []
    for _ in bench.rounds("resume", 7):
        copy = bench.path("resume")
        shutil.copy(file, copy)
        found.append(fresh(resume, copy, steps))
    restores, nodes, results = (list(side) for side in zip(*found, strict=True))
    name = f"resume after {steps:,} steps"
    for until, side, target in (("the next node", nodes, 3.0), ("the result", results, 6.0)):
        pairs = list(zip(side, restores, strict=True))
        note = f"{median(side):.1f} to {median(restores):.1f} ms"
        yield by_pairs("resume", f"{name}, until {until}, to a restore", pairs, target, note)
