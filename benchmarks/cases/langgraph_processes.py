"""Several processes that write through a LangGraph saver, each a thread of its own in one file, under FULL.

They start together, when the last of them is ready. Imported only where LangGraph is installed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.bench import Bench
from benchmarks.result import Measure
from benchmarks.worker import WorkerFailed, fresh

from .langgraph_savers import System, check_told, opened, recorded, taking_turns

READY_WITHIN_S = 120


class Contender(msgspec.Struct):
    """What one process saw. `began` and `ended` are unix times."""

    began: float
    ended: float
    slowest_ms: float
    errors: list[str]


def contend(system: System, path: str, gate: str, index: int, count: int, steps: int) -> Contender:
    """Write a run into the thread of this process, once `count` processes stand at the gate."""
    laps: list[float] = []
    errors: list[str] = []
    with opened(system, path) as saver:
        turns = recorded(saver, "dicts", steps, f"thread-{index}")
        saver.get_tuple({"configurable": {"thread_id": "nobody"}})  # SqliteSaver makes its tables at its first call
        _wait(Path(gate), index, count)
        began = time.time()
        for turn in turns:
            before = time.perf_counter()
            try:
                turn.tell(saver)
            except Exception as error:  # counted: a saver that gives up on a busy file is a result
                errors.append(f"{type(error).__name__}: {error}")
            laps.append((time.perf_counter() - before) * 1000)
        ended = time.time()
        if not errors:
            check_told(saver, turns)
    return Contender(began, ended, max(laps), errors)


def _wait(gate: Path, index: int, count: int) -> None:
    (gate / str(index)).touch()
    given_up = time.monotonic() + READY_WITHIN_S
    while len(list(gate.iterdir())) < count:
        if time.monotonic() > given_up:
            raise WorkerFailed(f"not all of {count} processes were ready in {READY_WITHIN_S} s")
        time.sleep(0.001)


def contest(bench: Bench, system: System, count: int, steps: int) -> list[Contender]:
    """What each of `count` processes on one fresh file saw."""
    path = bench.path("processes")
    gate = Path(f"{path}-gate")
    gate.mkdir()
    with opened(system, path) as saver:
        saver.get_tuple({"configurable": {"thread_id": "nobody"}})
    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(fresh, contend, system, path, str(gate), index, count, steps) for index in range(count)]
        return [one.result() for one in running]


def processes(bench: Bench) -> Iterator[Measure]:
    """4 processes: steps a second, the slowest step, errors."""
    count, steps = bench.size(4, 2), bench.size(500, 15)
    rates: dict[str, list[float]] = {"ours": [], "SqliteSaver": []}
    slowest: dict[str, list[float]] = {"ours": [], "SqliteSaver": []}
    errors: dict[str, list[str]] = {"ours": [], "SqliteSaver": []}
    systems: tuple[System, System] = ("ours", "SqliteSaver")
    for number in bench.rounds("langgraph-processes", 2):
        for system in taking_turns(number, *systems):
            found = contest(bench, system, count, steps)
            seconds = max(one.ended for one in found) - min(one.began for one in found)
            rates[system].append(count * steps / seconds)
            slowest[system].append(max(one.slowest_ms for one in found))
            errors[system] += [error for one in found for error in one.errors]
    ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates["SqliteSaver"], strict=True)]
    ours, theirs = (median(rates[system]) for system in systems)
    name = f"{count} processes, {steps} steps each, FULL, steps/s to SqliteSaver's"
    note = f"{ours:,.0f} to {theirs:,.0f} steps/s"
    yield Measure("langgraph-processes", name, median(ratios), 1.3, "x", True, ratios, note)
    note = f"SqliteSaver's {median(slowest['SqliteSaver']):.0f} ms"
    worst = slowest["ours"]
    yield Measure("langgraph-processes", "the slowest step", median(worst), 50, "ms", samples=worst, note=note)
    note = f"SqliteSaver's {len(errors['SqliteSaver'])}" + "".join(f"; {error}" for error in errors["ours"][:3])
    yield Measure("langgraph-processes", "errors", len(errors["ours"]), 0, "", note=note)
