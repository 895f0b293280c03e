"""Durable runs against the engine's own steps: a node, a short run, a branch, the inbox, many runs, a resume.

The functions of the nodes are empty, so that what is measured is what a run costs beside its work. A run
and the engine's bare steps take turns in one process, window by window; both write the same events.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from statistics import fmean, median
from typing import Any, ParamSpec, TypeVar

import apsw
import msgspec

import eventstore as es
from benchmarks import floor
from benchmarks.bench import Bench
from benchmarks.result import Measure, by_pairs, micros
from benchmarks.syncs import count_syncs, counted
from benchmarks.worker import fresh
from benchmarks.workload import check

from .steps import Durability

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


def check_result(result: es.GraphResult, visits: int) -> None:
    found = (result.status, result.state, [entry.node_name for entry in result.execution_log])
    check(f"run {result.trace_id}", found, ("completed", {"n": 0}, ["work"] * visits))


def engine_run(store: es.Store, visits: int) -> None:
    """What `loop` writes, by the engine's own verbs."""
    trace = store.start({"n": 0}, name="loop")
    for _ in range(visits - 1):
        with trace.step("work", next="work"):
            pass
    with trace.step("work"):
        pass
    trace.end()


def measured(bench: Bench, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `function` gives in a fresh process; in a quick run in this one, to save the starting."""
    return function(*args, **kwargs) if bench.quick else fresh(function, *args, **kwargs)


def engine_runs(store: es.Store, runs: int) -> None:
    for _ in range(runs):
        engine_run(store, 1)


def us(function: Callable[[], object]) -> float:
    started = time.perf_counter_ns()
    function()
    return (time.perf_counter_ns() - started) / 1000


# A node


def node_windows(path: str, floor_path: str, durability: Durability, count: int, visits: int) -> list[list[float]]:
    """`[µs of a node, of an engine's step, of a floor insert of the same body]`, window by window."""
    found = []
    with es.open(path, durability=durability) as store:
        check_result(es.run(loop(1), store, {"n": 0}), 1)  # the store becomes an owner of runs
        connection = _floor(floor_path, durability)
        for index in range(count):
            graph, laps = loop(visits), [0.0, 0.0, 0.0]
            results: list[es.GraphResult] = []
            turns: list[tuple[int, Callable[[], object]]] = [
                (0, lambda: results.append(es.run(graph, store, {"n": 0}))),  # noqa: B023 - called in this turn
                (1, lambda: engine_run(store, visits)),
            ]
            for place, turn in turns[:: 1 if index % 2 else -1]:
                laps[place] = us(turn) / visits
            check_result(results[0], visits)
            rows = _bodies(store, results[0].trace_id)
            laps[2] = us(lambda: _insert(connection, index, rows)) / visits  # noqa: B023
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
        laps = measured(bench, node_windows, *paths, durability, bench.size(windows, 2), bench.size(visits, 30))
        found.append([fmean(side) for side in zip(*laps, strict=True)])
    return found


def _to_steps(case: str, found: list[list[float]], target: float) -> Measure:
    pairs = [(node, step) for node, step, _ in found]
    note = f"{micros([node for node, _, _ in found])} to {micros([step for _, step, _ in found])}"
    return by_pairs(case, f"a node, {case[5:].upper()}, to the engine's step", pairs, target, note)


def node_full(bench: Bench) -> Iterator[Measure]:
    """A node under FULL: the sync is most of it, so what a run adds must hardly show."""
    yield _to_steps("node-full", _nodes(bench, "full", 3, 12, 200), 1.5)


def node_normal(bench: Bench) -> Iterator[Measure]:
    """A node under NORMAL, where what Python does shows: also nodes a second, and to the floor."""
    found = _nodes(bench, "normal", 5, 12, 500)
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
                engine_runs(store, runs)

            if index % 2:
                engine_us, run_us = us(bare), us(ours)
            else:
                run_us, engine_us = us(ours), us(bare)
            for result in results:
                check_result(result, 1)
            found.append((run_us / runs, engine_us / runs))
    return found


def short_runs(path: str, durability: Durability, runs: int) -> list[float]:
    """Run a graph of one node so often; µs of each run."""
    graph = loop(1)
    with es.open(path, durability=durability) as store:
        laps = [us(lambda: es.run(graph, store, {"n": 0})) for _ in range(runs)]
        check("the runs", len(store.traces(limit=runs + 1, status="completed")), runs)
    return laps


def short(bench: Bench) -> Iterator[Measure]:
    """Runs of one node, start to result: two commits, where the engine's start, step and end are three."""
    for durability, target, syncs_target in (("full", 1.2, 2.1), ("normal", 2.0, 0.1)):
        case, pairs = f"short-{durability}", []
        for _ in bench.rounds(f"short runs, {durability}", 3):
            path = bench.path("short")
            laps = measured(bench, short_windows, path, durability, bench.size(4, 2), bench.size(200, 5))  # type: ignore[arg-type]
            pairs.append((fmean(ours for ours, _ in laps), fmean(bare for _, bare in laps)))
        note = f"{micros([ours for ours, _ in pairs])} to {micros([bare for _, bare in pairs])}"
        yield by_pairs(case, "a run of one node to start, step and end", pairs, target, note)
        syncs, how = syncs_each(bench, short_runs, (durability,), bench.size(50, 5), bench.size(550, 25))
        yield Measure(
            case, "syncs a run of one node", syncs, syncs_target, "", note=f"by {how}, the WAL's checkpoints too"
        )


def syncs_each(
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
