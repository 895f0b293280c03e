"""Every system, the same work: what writing it takes, what the file weighs, what reading it takes.

Each measurement is a fresh file, written by one fresh process and read by another; the systems take turns. A system
whose `largest` run is shorter than the case's is left out of it, saying so. A quick run asks all of them for one
work only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from benchmarks.aims import aims
from benchmarks.bench import QUICK, Bench
from benchmarks.measuring import measure
from benchmarks.result import Measure, Measurement
from benchmarks.systems import ONE_EACH, SYSTEMS, system
from benchmarks.workloads import Work

Case = Callable[[Bench], Iterator[Measure | Measurement]]


class Size(msgspec.Struct, frozen=True):
    """How often, and `(runs, steps of each)` in a full and in a quick run; 0 steps: as many as the workload says."""

    repeats: int
    full: tuple[int, int]
    quick: tuple[int, int]
    systems: tuple[str, ...] = tuple(SYSTEMS)


FEWER = (*ONE_EACH, "floor-normal", "engine-run", "langgraph-graph")
SIZES = {
    "chat": Size(2, (1, 1000), (1, 20)),
    "small-runs": Size(1, (2000, 0), (4, 0), FEWER),
    "agent-runs": Size(1, (60, 0), (2, 0), FEWER),
    "overwrite": Size(1, (1, 100), (1, 5)),
    "document": Size(1, (1, 100), (1, 5)),
    "mixed": Size(1, (1, 100), (1, 5)),
    "transcripts": Size(1, (100, 0), (2, 0)),
}


def peers(workload: str) -> Case:
    """The case of one workload."""
    size = SIZES[workload]

    def case(bench: Bench) -> Iterator[Measure | Measurement]:
        if workload == "transcripts" and not bench.input:
            bench.skip("transcripts", "no file of real runs was given (--input)")
            return
        runs, steps = size.quick if bench.quick else size.full
        work = Work(workload, runs=runs, steps=steps, input=bench.input)
        quick = tuple(SYSTEMS) if workload == "mixed" else QUICK
        chosen = tuple(name for name in bench.systems(*size.systems, quick=quick) if _can(bench, name, steps))
        found = []
        for repeat, name in bench.turns(f"peers-{workload}", chosen, size.repeats):
            with bench.failing(name):
                found.append(bench.once(f"{name} {repeat}", measure, name, bench.path(name), work, repeat))
                yield found[-1]
        yield from aims(f"peers-{workload}", found)

    return case


def _can(bench: Bench, name: str, steps: int) -> bool:
    largest = system(name).largest
    if largest < steps:
        bench.skip(name, f"a run of {steps:,} steps takes it too long; {largest:,} are its largest here")
    return largest >= steps
