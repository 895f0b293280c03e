"""How costs grow: with the steps of one run, and with the runs in one file.

A chat run of each size is a file of its own: one process writes and closes it, another reads it. A step at size n is
the run's last tenth, so that the curve shows what the n-th step costs and not what all before it did. For the runs in
one file one process fills it, and the ten runs that bring it to each count are timed. A size that a system would take
too long for is left out with the reason: one above its `largest`, or one that its steps so far say is too much.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator
from statistics import median

import msgspec

from benchmarks.bench import Bench
from benchmarks.measuring import remove, weigh, write
from benchmarks.result import Measurement, Spread
from benchmarks.systems import SYSTEMS, system
from benchmarks.systems.system import NotSupported, State
from benchmarks.worker import fresh
from benchmarks.workload import check
from benchmarks.workloads import Work, states

WRITING_S, FILLING_S, LOOKING_S = 5.0, 4.0, 0.2
LOOKS = 20
LEFT_OUT = ("engine-run", "engine-langgraph", "langgraph-graph")
"""A loop around a step adds the same at every size."""
PROBES, PROBE_STEPS = 10, 10


class Looks(msgspec.Struct):
    """µs of reads of the latest state and of a random step's. `missing`: why there are none of the past."""

    latest_us: list[float]
    at_us: list[float]
    missing: str = ""


def look(name: str, path: str, work: Work) -> Looks:
    """Read the work's only run in a warm process, each way `LOOKS` times or for `LOOKING_S`; every state is checked."""
    adapter = system(name)
    ((run, steps),) = work.plan()
    chosen = random.Random(7).sample(range(1, len(steps) + 1), min(LOOKS, len(steps)))
    wanted = {*chosen, len(steps)}
    expected = {
        number: {key: list(value) if isinstance(value, list) else value for key, value in state.items()}
        for number, state in enumerate(states(work.state, steps), 1)
        if number in wanted
    }
    gc.collect()
    gc.freeze()  # what is expected is no part of what a read allocates: the collector shall not walk it
    opened = adapter(path)
    check(f"the latest state by {name}", opened.latest(run), expected[len(steps)])
    found = Looks(_timed(lambda _: opened.latest(run), [len(steps)] * LOOKS, expected), [])
    try:
        found.at_us = _timed(lambda step: opened.at(run, step), chosen, expected)
    except NotSupported as reason:
        found.missing = str(reason)
    opened.close()
    return found


def _timed(read: Callable[[int], State], chosen: list[int], expected: dict[int, State]) -> list[float]:
    laps: list[float] = []
    for step in chosen:
        started = time.perf_counter_ns()
        state = read(step)
        laps.append((time.perf_counter_ns() - started) / 1000)
        check(f"the state after step {step}", state, expected[step])
        del state
        if sum(laps) > LOOKING_S * 1e6:
            break
    return laps


def steps_of_a_run(name: str, path: str, sizes: list[int], repeat: int) -> Measurement:
    """A step, the closed file and two reads at each of the sizes."""
    figures: dict[str, float | Spread] = {}
    missing: dict[str, str] = {}
    cost_us = 0.0
    for size in sizes:
        if reason := _too_long(size, system(name).largest, cost_us):
            missing[f"step_us@{size}"] = reason
            continue
        file, work = f"{path}-{size}", Work("chat", steps=size)
        window = fresh(write, name, file, work).laps_us[-max(10, size // 10) :]
        cost_us = median(window)
        figures[f"step_us@{size}"] = Spread.of(window)
        figures[f"file_bytes@{size}"] = weigh(file)
        found = fresh(look, name, file, work)
        figures[f"latest_us@{size}"] = Spread.of(found.latest_us)
        if found.at_us:
            figures[f"at_us@{size}"] = Spread.of(found.at_us)
        else:
            missing[f"at_us@{size}"] = found.missing
        remove(file)
    return Measurement(name, "chat", repeat, figures, missing)


def _too_long(size: int, largest: int, cost_us: float) -> str:
    """Why a system is not given a run of that size, or nothing. `cost_us`: of a step at the size before, 0 at first."""
    if size > largest:
        return f"{largest:,} steps are its largest run here"
    seconds = size * cost_us / 1e6
    return f"it would take {seconds:,.0f} s or more" if seconds > WRITING_S else ""


class Among(msgspec.Struct):
    """A step of a new run and the latest state of any run, in a file of so many."""

    runs: int
    step_us: list[float]
    latest_us: list[float]


def among(name: str, path: str, counts: list[int]) -> list[Among]:
    """Fill one file, and measure at each of the counts; those that would take longer than `FILLING_S` are left out."""
    opened = system(name)(path)
    work, rng = Work("chat", steps=PROBE_STEPS), random.Random(3)
    ((_, steps),) = work.plan()
    expected = {
        number: {**state, "messages": list(state["messages"])}
        for number, state in enumerate(states(work.state, steps), 1)
    }
    lengths: list[int] = []

    def run(length: int) -> list[float]:
        lengths.append(length)
        return opened.write(f"run-{len(lengths) - 1}", work.state, steps[:length])

    found: list[Among] = []
    filled, filling_s = 0, 0.0
    for count in counts:
        fill = count - PROBES - len(lengths)
        if filled and fill * filling_s / filled > FILLING_S:
            break
        started = time.perf_counter()
        for _ in range(fill):
            run(1)
        filled, filling_s = filled + fill, filling_s + time.perf_counter() - started
        laps = [lap for _ in range(PROBES) for lap in run(PROBE_STEPS)]
        looks = []
        for index in rng.choices(range(count), k=LOOKS):
            started_ns = time.perf_counter_ns()
            state = opened.latest(f"run-{index}")
            looks.append((time.perf_counter_ns() - started_ns) / 1000)
            check(f"run-{index} of {count}", state, expected[lengths[index]])
        found.append(Among(count, laps, looks))
    opened.close()
    return found


def runs_of_a_file(name: str, path: str, counts: list[int], repeat: int) -> Measurement:
    """A step and a read at each of the counts that a system can be given in a few seconds."""
    found = fresh(among, name, path, counts)
    remove(path)
    figures: dict[str, float | Spread] = {}
    for one in found:
        figures[f"step_us@traces={one.runs}"] = Spread.of(one.step_us)
        figures[f"latest_us@traces={one.runs}"] = Spread.of(one.latest_us)
    missing = {f"step_us@traces={count}": "filling the file would take it too long" for count in counts[len(found) :]}
    return Measurement(name, "small-runs", repeat, figures, missing)


def growth(bench: Bench) -> Iterator[Measurement]:
    """Both."""
    sizes = [20, 100] if bench.quick else [100, 1_000, 10_000, 100_000]
    counts = [10, 50] if bench.quick else [10, 100, 1_000, 10_000, 50_000]
    systems = bench.systems(*(name for name in SYSTEMS if name not in LEFT_OUT))
    for repeat, name in bench.turns("growth", systems, 1):
        with bench.failing(name):
            yield bench.once(f"steps {name} {repeat}", steps_of_a_run, name, bench.path(name), sizes, repeat)
            yield bench.once(f"runs {name} {repeat}", runs_of_a_file, name, bench.path(name), counts, repeat)
