"""The inbox of 10,000 waiting runs: its first page, and what a decision costs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import eventstore as es
from benchmarks.bench import Bench
from benchmarks.result import Measure, by_pairs, micros
from benchmarks.workload import check

from .runs import measured, syncs_each, us


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
            laps.append(us(lambda: pages.append(store.barriers())) / 1000)  # noqa: B023
            page = pages[0]
            check("the page", len({info.trace_id for info in page}), min(100, waiting))
            check("its order", [info.raised_at for info in page], sorted(info.raised_at for info in page))
            check("what is asked", {(info.prompt, info.decision) for info in page}, {("Refund?", None)})
    return laps


def decide(path: str, count: int) -> list[float]:
    """Decide so many barriers; µs of each."""
    with es.open(path) as store:
        asked = store.barriers(limit=count)
        laps = [us(lambda: store.decide(one.trace_id, one.barrier_id, es.Approve(by="ana"))) for one in asked]  # noqa: B023
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
            laps = [us(lambda: store.decide(one.trace_id, one.barrier_id, es.Approve(by="ana"))) for one in ids]  # noqa: B023
            found.append((median(laps), median(us(step) for _ in range(each))))
            for one in ids:
                check(one.trace_id, store.get(one.trace_id, "approve.approved"), True)
        check("decided", len(store.barriers(pending=False, limit=windows * each + 1)), windows * each)
    return found


def inbox(bench: Bench) -> Iterator[Measure]:
    """10,000 runs that wait: the page that a human opens, and a decision."""
    waiting = bench.size(10_000, 200)
    file = bench.built("inbox", lambda path: measured(bench, build_inbox, path, waiting))
    laps: list[float] = []
    opened = []
    for _ in bench.rounds("inbox", 3):
        first, *others = measured(bench, first_page, file, bench.size(20, 3), waiting)
        opened.append(first)
        laps += [first, *others]
    name = f"first page of {waiting:,} waiting runs"
    yield Measure("inbox", f"{name}, median", median(laps), 50, "ms", samples=laps)
    note = f"samples: the first page of a process; all others ≤ {max(laps):.1f} ms"
    yield Measure("inbox", f"{name}, worst", max(laps), 50, "ms", samples=opened, note=note)
    copy = bench.path("decisions")
    shutil.copy(file, copy)
    pairs = measured(bench, decisions, copy, bench.size(10, 2), bench.size(40, 5))
    note = f"{micros([decision for decision, _ in pairs])} to {micros([step for _, step in pairs])}"
    yield by_pairs("inbox", "a decision, FULL, to an engine's step", pairs, 3.0, note)
    syncs, how = syncs_each(bench, decide, (), bench.size(50, 5), bench.size(550, 25), file)
    yield Measure("inbox", "syncs a decision", syncs, 1.1, "", note=f"by {how}, the WAL's checkpoints too")
