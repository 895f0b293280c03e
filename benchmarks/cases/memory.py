"""Memory: what an open trace holds beyond its state, and whether a reader of a long trace stays flat.

tracemalloc counts the bytes that Python allocates. An open trace's are taken over 200 of them with
their states loaded, less what the same states cost as plain dicts decoded by msgspec.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator

import msgspec

import eventstore as es
from benchmarks.bench import Bench
from benchmarks.result import Measure
from benchmarks.worker import fresh
from benchmarks.workload import SMALL_STATE, WrongResult, check, fold, small

from .scale import TRACE, long_run

STEPS = 25


class OpenTraces(msgspec.Struct):
    """Bytes of one open trace, and of its state as a plain dict."""

    handle: float
    state: float


def open_traces(path: str, count: int) -> OpenTraces:
    """Open `count` traces with their states, then build the states alone."""
    with es.open(path, durability="normal") as store:
        for index in range(count + 1):
            trace = store.start(SMALL_STATE, id=f"trace-{index}")
            for step in small(STEPS, seed=index):
                with trace.step("tick") as writing:
                    step.write(writing)
    with es.open(path, durability="normal") as store:
        warm = store.open_trace(f"trace-{count}")
        assert warm.state
        tracemalloc.start()
        before = _held()
        opened = [store.open_trace(f"trace-{index}") for index in range(count)]
        for trace in opened:
            assert trace.state
        handles = _held() - before
        for index, trace in enumerate(opened):
            check(trace.id, trace.state, fold(SMALL_STATE, small(STEPS, seed=index)))
        raws = [msgspec.json.encode(dict(trace.state)) for trace in opened]
        before = _held()
        states = [msgspec.json.decode(raw) for raw in raws]
        plain = _held() - before
        tracemalloc.stop()
    check("the decoded states", states, [dict(trace.state) for trace in opened])
    return OpenTraces(handles / count, plain / count)


def _held() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


class Walk(msgspec.Struct):
    """Peaks in bytes: over the first 1,000 events, and over all."""

    events: int
    early: int
    late: int


def walk(path: str, steps: int) -> Walk:
    """Read every event of the long run."""
    early = events = 0
    with es.open(path) as store:
        version = store.open_trace(TRACE).version
        tracemalloc.start()
        for event in store.events(TRACE):
            events += 1
            if event.seq != events:
                raise WrongResult(f"event {events} has seq {event.seq}")
            if events == 1000:
                early = tracemalloc.get_traced_memory()[1]
        late = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    check("the number of events", events, version)
    check("the number of events", events, 1 + sum(len(step.puts) + 1 for step in small(steps)))
    return Walk(events, early, late)


def run(bench: Bench) -> Iterator[Measure]:
    """Both."""
    bench.say("memory: open traces")
    found = fresh(open_traces, bench.path("memory"), bench.size(200, 20))
    note = f"{found.handle:,.0f} with the state, which is {found.state:,.0f}"
    yield Measure("memory", "an open trace beyond its state", found.handle - found.state, 2048, "B", note=note)
    path = long_run(bench)
    bench.say("memory: a reader's walk")
    walked = fresh(walk, path, bench.size(100_000, 2000))
    note = f"{walked.events:,} events; peak {walked.early:,} after 1,000 and {walked.late:,} at the end"
    yield Measure(
        "memory", "a reader's growth over the long run", (walked.late - walked.early) / 1e6, 1, "MB", note=note
    )
