"""What a step costs where no clock is asked: syncs, bytes written, machine instructions.

The systems on apsw are counted by a VFS, which does not slow them; the others by strace, the processor's work by
valgrind, where they are installed. A second repeat would find the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.counting.costs import Costs, costs
from benchmarks.counting.machine import Instructions, instructions
from benchmarks.counting.writes import VFS
from benchmarks.result import Measurement, Spread
from benchmarks.systems import OURS, SYSTEMS
from benchmarks.workloads import Work

UNDER_VALGRIND = ("floor", "engine")  # importing the others would take minutes


def found(name: str, path: str, steps: int) -> Costs:
    """The syncs and bytes of a chat run."""
    return costs(name, path, Work("chat", steps=steps), VFS if name in OURS else None)


def processor(name: str, path: str, steps: int) -> Instructions:
    """The machine instructions of a chat run."""
    return instructions(name, path, Work("chat", steps=steps))


def noise_free(bench: Bench) -> Iterator[Measurement]:
    """Of every system."""
    steps = bench.size(60, 6)
    for repeat, name in bench.turns("costs", bench.systems(*SYSTEMS), 1):
        with bench.failing(name):
            figures: dict[str, float | Spread] = {}
            missing: dict[str, str] = {}
            cost = bench.once(f"{name}: syncs and bytes", found, name, bench.path(name), steps)
            if cost.syncs_per_step is None or cost.bytes_per_step is None:
                missing |= {"syncs_per_step": cost.how, "bytes_per_step": cost.how}
            else:
                figures |= {"syncs_per_step": cost.syncs_per_step, "bytes_per_step": cost.bytes_per_step}
            if name in UNDER_VALGRIND and not bench.quick:
                work = bench.once(f"{name}: instructions", processor, name, bench.path(name), 30)
                if work.per_step is None:
                    missing["instructions_per_step"] = work.how
                else:
                    figures["instructions_per_step"] = work.per_step
            yield Measurement(name, "chat", repeat, figures, missing)
