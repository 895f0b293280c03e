"""What grows and what must not: reads inside a long run, appends at its end and among many traces.

A run of 100,000 steps of small values is written once and copied where it is changed. Appends are
timed in windows that take turns between the small and the large file, both with a WAL that has been
around once, so that neither pays for a file that still grows.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median

import msgspec

import eventstore as es
from benchmarks.bench import Bench
from benchmarks.result import Measure, by_pairs, micros
from benchmarks.worker import fresh
from benchmarks.workload import SMALL_STATE, StepInput, check, fold, small

TRACE = "long"
WINDOW = 100
WARMUP = 1500


def build_long(path: str, steps: int) -> int:
    """Write the long run; its last seq."""
    with es.open(path, durability="normal") as store:
        trace = store.start(SMALL_STATE, id=TRACE)
        for step in small(steps):
            with trace.step("tick") as writing:
                step.write(writing)
        return trace.version


def long_run(bench: Bench) -> str:
    """The file of the long run."""
    return bench.built("long", lambda path: fresh(build_long, path, bench.size(100_000, 2000)))


def random_seq(path: str, count: int, steps: int) -> list[tuple[float, float]]:
    """`(µs of state_at, µs of decoding that state's JSON)` at `count` random seqs."""
    rng = random.Random(7)
    found: list[tuple[float, float]] = []
    states = {}
    with es.open(path) as store:
        version = store.open_trace(TRACE).version
        for _ in range(count):
            seq = rng.randint(1, version)
            started = time.perf_counter_ns()
            states[seq] = store.state_at(TRACE, seq)
            elapsed = (time.perf_counter_ns() - started) / 1000
            raw = msgspec.json.encode(states[seq])
            decodings = []
            for _ in range(5):
                started = time.perf_counter_ns()
                msgspec.json.decode(raw)
                decodings.append((time.perf_counter_ns() - started) / 1000)
            found.append((elapsed, median(decodings)))
    _check_states(states, small(steps))
    return found


def _check_states(states: dict[int, dict[str, object]], inputs: Iterator[StepInput]) -> None:
    """Walk the run once and compare at each seq; a seq inside a step shows its first deltas only."""
    expected, seq = dict(SMALL_STATE), 1
    waiting = sorted(states, reverse=True)
    while waiting:
        if waiting[-1] == seq:
            check(f"state at {seq}", states[waiting.pop()], expected)
            continue
        for key, value in next(inputs).puts.items():
            seq += 1
            expected[key] = value
            if waiting and waiting[-1] == seq:
                check(f"state at {seq}", states[waiting.pop()], expected)
        seq += 1


def _timed(pairs: Sequence[tuple[es.Trace, StepInput]]) -> float:
    """The median µs of a step over one window."""
    laps = []
    for trace, step in pairs:
        started = time.perf_counter_ns()
        with trace.step("tick") as writing:
            step.write(writing)
        laps.append((time.perf_counter_ns() - started) / 1000)
    return median(laps)


def _take_turns(first: Callable[[], float], second: Callable[[], float], windows: int) -> list[tuple[float, float]]:
    pairs = []
    for index in range(windows):
        if index % 2:
            b, a = second(), first()
        else:
            a, b = first(), second()
        pairs.append((a, b))
    return pairs


def depth(long_path: str, short_path: str, windows: int) -> list[tuple[float, float]]:
    """`(µs at the end of the long run, µs around step 100 of a new one)`, window by window."""
    inputs = list(small(WARMUP, seed=2))
    with es.open(long_path, durability="normal") as large, es.open(short_path, durability="normal") as little:
        old = large.open_trace(TRACE)
        before = dict(old.state)
        _timed([(old, step) for step in inputs])
        other = little.start(SMALL_STATE)
        _timed([(other, step) for step in inputs])

        def at_end() -> float:
            return _timed([(old, step) for step in inputs[:WINDOW]])

        def at_start() -> float:
            trace = little.start(SMALL_STATE)
            _timed([(trace, step) for step in inputs[: WINDOW // 2]])
            result = _timed([(trace, step) for step in inputs[:WINDOW]])
            check("a new trace", little.state_at(trace.id), fold(SMALL_STATE, inputs[:WINDOW]))
            return result

        pairs = _take_turns(at_end, at_start, windows)
        check("the long trace", large.state_at(TRACE), fold(before, [*inputs, *inputs[:WINDOW]]))
    return pairs


def build_many(path: str, traces: int) -> int:
    """Start so many traces."""
    with es.open(path, durability="normal") as store:
        for index in range(traces):
            store.start(SMALL_STATE, id=f"trace-{index}")
    return traces


def breadth(large_path: str, many: int, little_path: str, few: int, windows: int) -> list[tuple[float, float]]:
    """`(µs of appends to any of many traces, to any of few)`, window by window, on handles that are open."""
    inputs = list(small(WINDOW, seed=3))
    rng = random.Random(11)

    def window(store: es.Store, count: int) -> float:
        handles: dict[str, es.Trace] = {}
        for name in (f"trace-{rng.randrange(count)}" for _ in range(WINDOW * 2)):
            if name not in handles:
                handles[name] = store.open_trace(name)
                assert handles[name].state
        chosen = rng.choices(list(handles.values()), k=WINDOW)
        before = {trace.id: dict(trace.state) for trace in chosen}
        pairs = list(zip(chosen, inputs, strict=True))
        result = _timed(pairs)
        for trace in {trace.id: trace for trace in chosen}.values():
            written = [step for one, step in pairs if one is trace]
            check(trace.id, store.state_at(trace.id), fold(before[trace.id], written))
        return result

    with es.open(large_path, durability="normal") as large, es.open(little_path, durability="normal") as little:
        for _ in range(WARMUP // WINDOW):
            window(large, many)
            window(little, few)
        return _take_turns(lambda: window(large, many), lambda: window(little, few), windows)


def reads(bench: Bench) -> Iterator[Measure]:
    """The state at a random seq of the long run."""
    path = long_run(bench)
    bench.say("random seq")
    found = fresh(random_seq, path, bench.size(2000, 50), bench.size(100_000, 2000))
    times, decodings = ([pair[side] for pair in found] for side in (0, 1))
    target = 3 * median(decodings) + 100
    spread = [min(times), median(times), sorted(times)[len(times) * 99 // 100], max(times)]
    note = f"decoding takes {micros(decodings)}; samples: least, median, p99, most"
    name = "state at a random seq of the long run"
    yield Measure("random-seq", name, median(times), target, "µs", samples=spread, note=note)


def long_append(bench: Bench) -> Iterator[Measure]:
    """The append at the end of a long run."""
    copy = bench.path("long-copy")
    shutil.copy(long_run(bench), copy)
    bench.say("depth")
    pairs = fresh(depth, copy, bench.path("short"), bench.size(60, 4))
    note = f"{micros([pair[0] for pair in pairs])} to {micros([pair[1] for pair in pairs])}"
    name = f"append at step {bench.size(100_000, 2000):,} to step 100"
    yield by_pairs("depth", name, pairs, 1.15, note)


def many_append(bench: Bench) -> Iterator[Measure]:
    """The append among many traces."""
    many, few = bench.size(50_000, 500), 50
    large, little = bench.path("many"), bench.path("few")
    bench.say(f"breadth: starting {many:,} traces")
    fresh(build_many, large, many)
    fresh(build_many, little, few)
    bench.say("breadth")
    pairs = fresh(breadth, large, many, little, few, bench.size(60, 4))
    note = f"{micros([pair[0] for pair in pairs])} to {micros([pair[1] for pair in pairs])}"
    yield by_pairs("breadth", f"append with {many:,} traces to {few}", pairs, 1.2, note)
