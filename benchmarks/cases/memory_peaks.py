"""Peak memory: of a process that writes a chat run, and of one that reads its latest state.

Of each, the peak of a process goes off that does all else: the writer's has imported the adapter and holds the work
that it would write, the reader's has imported the adapter. What is left is what the system itself takes.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.measuring import remove
from benchmarks.result import Measurement, Spread
from benchmarks.systems import ONE_EACH, system
from benchmarks.worker import fresh
from benchmarks.workload import check
from benchmarks.workloads import Work, states

from .export import peak_bytes


def imported(name: str) -> int:
    """The peak of a process that only imports the adapter."""
    system(name)
    return peak_bytes()


def planned(name: str, work: Work) -> int:
    """The peak of a process that imports the adapter and makes the work."""
    system(name)
    plan = list(work.plan())
    check("the runs", len(plan), work.runs)
    return peak_bytes()


def written(name: str, path: str, work: Work) -> int:
    """The peak of a process that writes the work's only run."""
    adapter = system(name)
    ((run, steps),) = work.plan()
    opened = adapter(path)
    opened.write(run, work.state, steps)
    opened.close()
    return peak_bytes()


def read(name: str, path: str, work: Work) -> int:
    """The peak of a process that reads the run's latest state, taken before that is checked."""
    opened = system(name)(path)
    state = opened.latest("run-0")
    peak = peak_bytes()
    ((_, steps),) = work.plan()
    *_, expected = states(work.state, steps)
    check(f"the latest state by {name}", state, expected)
    opened.close()
    return peak


def peaks(name: str, path: str, work: Work, repeat: int) -> Measurement:
    """Both peaks of one system."""
    bare, holding = fresh(imported, name), fresh(planned, name, work)
    figures: dict[str, float | Spread] = {
        "peak_write_bytes": fresh(written, name, path, work) - holding,
        "peak_read_bytes": fresh(read, name, path, work) - bare,
    }
    remove(path)
    return Measurement(name, "chat", repeat, figures)


def memory_peaks(bench: Bench) -> Iterator[Measurement]:
    """A chat run by each system."""
    work = Work("chat", steps=bench.size(1000, 100))
    for repeat, name in bench.turns("memory-peaks", bench.systems(*ONE_EACH), 1):
        with bench.failing(name):
            yield bench.once(f"{name} {repeat}", peaks, name, bench.path(name), work, repeat)
