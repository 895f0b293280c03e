"""Many callers under FULL: threads, asyncio tasks, processes.

Every caller has a trace of its own. Threads and tasks are compared with one caller that does the same
steps one after the other, in turns; processes share one file and are compared with each other.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from statistics import median

import msgspec

import eventstore as es
from benchmarks.bench import Bench
from benchmarks.result import Measure, percentile
from benchmarks.worker import WorkerFailed, fresh
from benchmarks.workload import CHAT_REDUCERS, CHAT_STATE, StepInput, chat, check, fold

MESSAGE_BYTES = 380


def _start(store: es.Store, count: int) -> list[es.Trace]:
    return [store.start(CHAT_STATE, id=f"trace-{index}", reducers=CHAT_REDUCERS) for index in range(count)]


def _check(path: str, count: int, inputs: list[StepInput]) -> None:
    expected = fold(CHAT_STATE, inputs)
    with es.open(path, read_only=True) as store:
        for index in range(count):
            check(f"trace-{index}", store.state_at(f"trace-{index}"), expected)


def threads_rate(path: str, count: int, each: int) -> float:
    """Steps a second of `count` threads that share a store, `each` steps on a trace of its own."""
    inputs = list(chat(each, MESSAGE_BYTES))
    gate = threading.Barrier(count + 1)

    def run(trace: es.Trace) -> None:
        gate.wait()
        for step in inputs:
            with trace.step("answer") as writing:
                step.write(writing)

    with es.open(path) as store, ThreadPoolExecutor(count) as pool:
        running = [pool.submit(run, trace) for trace in _start(store, count)]
        gate.wait()
        started = time.perf_counter()
        for one in running:
            one.result()
        seconds = time.perf_counter() - started
    _check(path, count, inputs)
    return count * each / seconds


def tasks_rate(path: str, count: int, each: int, together: bool) -> float:
    """Steps a second over `count` traces: a task for each, or one task that awaits step after step."""
    inputs = list(chat(each, MESSAGE_BYTES))

    async def write(trace: es.AsyncTrace, step: StepInput) -> None:
        async with trace.step("answer") as writing:
            step.write(writing)

    async def run(trace: es.AsyncTrace) -> None:
        for step in inputs:
            await write(trace, step)

    async def measure() -> float:
        async with es.aopen(path) as store:
            traces = [
                await store.start(CHAT_STATE, id=f"trace-{index}", reducers=CHAT_REDUCERS) for index in range(count)
            ]
            started = time.perf_counter()
            if together:
                await asyncio.gather(*map(run, traces))
            else:
                for step in inputs:
                    for trace in traces:
                        await write(trace, step)
            return time.perf_counter() - started

    seconds = asyncio.run(measure())
    _check(path, count, inputs)
    return count * each / seconds


class Contender(msgspec.Struct):
    """What one of several processes on one file saw."""

    steps: int
    seconds: float
    slowest_ms: float
    p99_ms: float


def contend(path: str, index: int, start_at: float, seconds: float) -> Contender:
    """Write steps to a trace of this process from `start_at` (unix time) for `seconds`."""
    inputs = list(chat(500, MESSAGE_BYTES))
    laps: list[float] = []
    with es.open(path) as store:
        trace = store.start(CHAT_STATE, id=f"trace-{index}", reducers=CHAT_REDUCERS)
        if time.time() > start_at:
            raise WorkerFailed("this process was not up in time; the machine is overloaded")
        time.sleep(max(0.0, start_at - time.time()))
        begun = before = time.perf_counter()
        for step in cycle(inputs):
            with trace.step("answer") as writing:
                step.write(writing)
            after = time.perf_counter()
            laps.append((after - before) * 1000)
            if after - begun > seconds:
                break
            before = after
        expected = fold(CHAT_STATE, islice(cycle(inputs), len(laps)))
        check(trace.id, store.state_at(trace.id), expected)
    return Contender(len(laps), after - begun, max(laps), percentile(laps, 99))


def threads(bench: Bench) -> Iterator[Measure]:
    """32 threads against one."""
    ratios, rates = [], []
    for _ in bench.rounds("threads", 3):
        one = fresh(threads_rate, bench.path("thread"), 1, bench.size(3000, 100))
        many = fresh(threads_rate, bench.path("threads"), 32, bench.size(300, 5))
        ratios.append(many / one)
        rates.append(f"{many:,.0f} to {one:,.0f}")
    name = "32 threads, FULL, steps/s to one thread's"
    yield Measure("threads", name, median(ratios), 3, "x", True, ratios, "; ".join(rates) + " steps/s")


def tasks(bench: Bench) -> Iterator[Measure]:
    """200 tasks against one append awaited at a time."""
    ratios, rates = [], []
    for _ in bench.rounds("tasks", 3):
        one = fresh(tasks_rate, bench.path("await"), 200, bench.size(10, 1), False)
        many = fresh(tasks_rate, bench.path("tasks"), 200, bench.size(60, 1), True)
        ratios.append(many / one)
        rates.append(f"{many:,.0f} to {one:,.0f}")
    name = "200 tasks, FULL, steps/s to one at a time"
    yield Measure("tasks", name, median(ratios), 5, "x", True, ratios, "; ".join(rates) + " steps/s")


def processes(bench: Bench) -> Iterator[Measure]:
    """4 processes on one file: nobody waits long, nobody is passed over."""
    count, seconds = 4, bench.size(30, 5) / 10
    slowest, fairness, notes = [], [], []
    for _ in bench.rounds("processes", 3):
        path = bench.path("processes")
        es.open(path).close()
        start_at = time.time() + 4  # time for four interpreters to come up
        with ThreadPoolExecutor(count) as pool:
            futures = [pool.submit(fresh, contend, path, index, start_at, seconds) for index in range(count)]
            found = [future.result() for future in futures]
        slowest.append(max(one.slowest_ms for one in found))
        rates = [one.steps / one.seconds for one in found]
        fairness.append(min(rates) / max(rates))
        notes.append(f"{sum(rates):,.0f}/s, p99 {max(one.p99_ms for one in found):.1f} ms")
    note = "; ".join(notes)
    yield Measure("processes", "4 processes, FULL, slowest step", median(slowest), 30, "ms", False, slowest, note)
    name = "4 processes, FULL, slowest to fastest"
    yield Measure("processes", name, median(fairness), 0.8, "x", True, fairness)
