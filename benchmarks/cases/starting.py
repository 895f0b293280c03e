"""What a program waits for before its first step: the import of a package, and the opening of a file full of runs.

An import is timed as a user feels it, a fresh interpreter that does nothing else, less one that does nothing at all;
the two take turns. A file is opened by a fresh process that has imported what it needs; the second figure goes on to
a run's latest state, which shows what a system puts off until it is asked.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec

from benchmarks.bench import Bench
from benchmarks.measuring import remove, write
from benchmarks.result import Measurement, Spread
from benchmarks.systems import system
from benchmarks.worker import fresh
from benchmarks.workload import check
from benchmarks.workloads import Work, states

# What a program imports to use each package as its adapter here does.
IMPORTS = {
    "floor": "import apsw, msgspec",
    "engine": "import eventstore",
    "langgraph": "from langgraph.checkpoint.sqlite import SqliteSaver",
    "langgraph-graph": "from langgraph.graph import StateGraph; from langgraph.checkpoint.sqlite import SqliteSaver",
    "dbos": "from dbos import DBOS",
    "eventsourcing": "import eventsourcing.application, eventsourcing.sqlite",
    "burr": "from burr.core import ApplicationBuilder; from burr.core.persistence import SQLitePersister",
    "salamander": "import salamander",
}


class Opening(msgspec.Struct):
    """µs until the file is open, and until a run's latest state is there."""

    open_us: float
    open_latest_us: float


def open_once(name: str, path: str, work: Work) -> Opening:
    """Open the file and read one run's latest state; its newest run, that nothing read before."""
    adapter = system(name)
    *_, (run, steps) = work.plan()
    started = time.perf_counter_ns()
    opened = adapter(path)
    open_ns = time.perf_counter_ns() - started
    state = opened.latest(run)
    latest_ns = time.perf_counter_ns() - started
    *_, expected = states(work.state, steps)
    check(f"{run} by {name}", state, expected)
    opened.close()
    return Opening(open_ns / 1000, latest_ns / 1000)


def openings(name: str, path: str, work: Work, times: int, repeat: int) -> Measurement:
    """Write the file once, and open it so often."""
    fresh(write, name, path, work)
    found = [fresh(open_once, name, path, work) for _ in range(times)]
    figures: dict[str, float | Spread] = {
        "open_us": Spread.of([one.open_us for one in found]),
        "open_latest_us": Spread.of([one.open_latest_us for one in found]),
    }
    remove(path)
    return Measurement(name, work.workload, repeat, figures)


def importing(name: str, times: int, repeat: int) -> Measurement:
    """So many pairs of interpreters; the first pair, which may have to compile, is not counted."""
    pairs = [(_interpreter_ms(IMPORTS[name]), _interpreter_ms("pass")) for _ in range(times + 1)]
    return Measurement(name, "import", repeat, {"import_ms": Spread.of([full - bare for full, bare in pairs[1:]])})


def _interpreter_ms(code: str) -> float:
    started = time.perf_counter_ns()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (time.perf_counter_ns() - started) / 1e6


def starting(bench: Bench) -> Iterator[Measurement]:
    """Both, a system a package: how else a package is used makes no difference here."""
    times = bench.size(2, 1)
    work = Work("chat", runs=bench.size(1000, 10), steps=1)
    for repeat, name in bench.turns("starting", bench.systems(*IMPORTS), 1):
        with bench.failing(name):
            yield bench.once(f"import {name} {repeat}", importing, name, times, repeat)
            yield bench.once(f"open {name} {repeat}", openings, name, bench.path(name), work, times, repeat)
