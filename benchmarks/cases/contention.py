"""Many callers on one file: threads that share one open system, and processes that each open their own.

The work is the same however many share it: chat runs, dealt out to the callers, each of whom writes its runs one after
the other. All begin when the last is ready; when all are done, every run is read and compared. A run that a system
gave up ("database is locked") is counted as an error, and its steps as not written: that is a result, not a crash.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from benchmarks.aims import aims
from benchmarks.bench import Bench
from benchmarks.measuring import remove
from benchmarks.result import Measure, Measurement, Spread
from benchmarks.systems import ONE_EACH, system
from benchmarks.systems.system import System
from benchmarks.worker import WorkerFailed, fresh
from benchmarks.workload import StepInput, check
from benchmarks.workloads import State, Work, states

READY_WITHIN_S = 60
RUNS = 32
APART = ("floor", "floor-normal")
"""A bare connection is for one thread at a time: apsw refuses a second one. Each thread opens its own."""
Share = Sequence[tuple[str, list[StepInput]]]


class Caller(msgspec.Struct):
    """What one thread or process saw. `began`, `ended`: unix times; `errors`: of the runs given up, by run."""

    began: float
    ended: float
    steps: int
    slowest_ms: float
    errors: dict[str, str]


def call(opened: System, state: State, share: Share) -> Caller:
    """Write the share of one caller."""
    laps: list[float] = []
    errors: dict[str, str] = {}
    began = time.time()
    for run, steps in share:
        try:
            laps += opened.write(run, state, steps)
        except Exception as error:  # counted: a system that gives up on a busy file is a result
            errors[run] = f"{type(error).__name__}: {error}"
    return Caller(began, time.time(), len(laps), max(laps, default=0.0) / 1000, errors)


def threads(name: str, path: str, count: int, work: Work) -> list[Caller]:
    """What each of so many threads saw."""
    adapter, shares = system(name), _dealt(work, count)
    opened = [adapter(path)]
    _make_tables(opened[0], work)
    opened += [adapter(path) if name in APART else opened[0] for _ in range(1, count)]
    gate = threading.Barrier(count)

    def run(one: System, share: Share) -> Caller:
        gate.wait()
        return call(one, work.state, share)

    with ThreadPoolExecutor(count) as pool:
        callers = list(pool.map(run, opened, shares))
    for share, caller in zip(shares, callers, strict=True):
        _check(name, opened[0], work.state, share, caller)
    for one in opened if name in APART else opened[:1]:
        one.close()
    return callers


def process(name: str, path: str, gates: str, index: int, count: int, work: Work) -> Caller:
    """What one of so many processes saw. They open the file one after the other, the first making its tables."""
    share, adapter = _dealt(work, count)[index], system(name)
    if index:
        _await(Path(gates), f"open-{index - 1}", 1)
    opened = adapter(path)
    if not index:
        _make_tables(opened, work)
    (Path(gates) / f"open-{index}").touch()
    _await(Path(gates), "open-*", count)
    caller = call(opened, work.state, share)
    (Path(gates) / f"done-{index}").touch()
    _await(Path(gates), "done-*", count)
    _check(name, opened, work.state, share, caller)
    opened.close()
    return caller


def processes(name: str, path: str, count: int, work: Work) -> list[Caller]:
    """What each of so many processes saw."""
    gates = Path(f"{path}-gates")
    gates.mkdir()
    with ThreadPoolExecutor(count) as pool:
        started = [pool.submit(fresh, process, name, path, str(gates), index, count, work) for index in range(count)]
        return [one.result() for one in started]


def _dealt(work: Work, count: int) -> list[Share]:
    """The runs, dealt out."""
    plan = list(work.plan())
    return [plan[index::count] for index in range(count)]


def _make_tables(opened: System, work: Work) -> None:
    """Write one short run: some systems make their tables at the first."""
    ((_, steps),) = Work("chat", steps=1).plan()
    opened.write(f"run-{work.runs}", work.state, steps)


def _await(gates: Path, pattern: str, count: int) -> None:
    given_up = time.monotonic() + READY_WITHIN_S
    while len(list(gates.glob(pattern))) < count:
        if time.monotonic() > given_up:
            raise WorkerFailed(f"{pattern}: not {count} of the processes came so far in {READY_WITHIN_S} s")
        time.sleep(0.001)


def _check(name: str, opened: System, state: State, share: Share, caller: Caller) -> None:
    for run, steps in share:
        if run not in caller.errors:
            *_, expected = states(state, steps)
            check(f"{run} by {name}", opened.latest(run), expected)


def contend(
    name: str, path: str, many_threads: list[int], many_processes: list[int], work: Work, repeat: int
) -> Measurement:
    """One system under each number of callers."""
    adapter = system(name)
    figures: dict[str, float | Spread] = {}
    missing: dict[str, str] = {}
    for kind, counts, allowed in (
        ("threads", many_threads, adapter.threads),
        ("processes", many_processes, adapter.processes),
    ):
        for count in counts:
            where = f"{kind}={count}"
            if count > 1 and not allowed:
                missing[f"steps_per_s@{where}"] = f"one of the {kind} at a time may use a file"
                continue
            file = f"{path}-{where}"
            callers = (
                fresh(threads, name, file, count, work) if kind == "threads" else processes(name, file, count, work)
            )
            figures |= {f"{figure}@{where}": value for figure, value in _figures(callers).items()}
            if errors := [error for caller in callers for error in caller.errors.values()]:
                missing[f"steps@{where}"] = f"{len(errors)} of {work.runs} runs were given up: {errors[0]}"
            remove(file)
    return Measurement(name, work.workload, repeat, figures, missing)


def _figures(callers: list[Caller]) -> dict[str, float]:
    seconds = max(caller.ended for caller in callers) - min(caller.began for caller in callers)
    rates = [caller.steps / (caller.ended - caller.began) for caller in callers]
    return {
        "steps_per_s": sum(caller.steps for caller in callers) / seconds,
        "slowest_ms": max(caller.slowest_ms for caller in callers),
        "fairness": min(rates) / max(rates) if max(rates) else 0.0,
        "errors": sum(len(caller.errors) for caller in callers),
    }


def contention(bench: Bench) -> Iterator[Measurement | Measure]:
    """Every system that several may use."""
    many_threads, many_processes = ([4], [2]) if bench.quick else ([1, 8, 32], [1, 4, 8])
    work = Work("chat", runs=bench.size(RUNS, 4), steps=bench.size(15, 5))
    found: list[Measurement] = []
    for repeat, name in bench.turns("contention", bench.systems(*ONE_EACH), 1):
        with bench.failing(name):
            path = bench.path(name)
            call = f"{name} {repeat}"
            found.append(bench.once(call, contend, name, path, many_threads, many_processes, work, repeat))
            yield found[-1]
    yield from aims("contention", found)
