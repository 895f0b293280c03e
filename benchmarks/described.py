"""The systems of a run as its tables name them."""

from __future__ import annotations

from collections.abc import Mapping

from .comparison import POLICIES, Compared, compared
from .results import BenchRun, Described
from .systems import SYSTEMS, system


def described(run: BenchRun) -> dict[str, Described]:
    """Every system that the run measured: those of the harness in its order, then what else a case compared."""
    names = dict.fromkeys(one.system for result in run.results.values() for one in result.measurements)
    known = [name for name in SYSTEMS if name in names]
    return {name: run.systems.get(name) or _named(name) for name in dict.fromkeys((*known, *names))}


def figures(run: BenchRun, known: Mapping[str, Described] | None = None) -> list[Compared]:
    """Every figure of a run, compared."""
    known = described(run) if known is None else known
    return [one for case, result in run.results.items() for one in compared(case, result.measurements, known)]


def of_system(name: str) -> Described:
    """A system that is installed."""
    found = system(name)
    return Described(found.title, found.mode, found.durability, found.through)


def _named(name: str) -> Described:
    """What is no system: a policy of this engine that a case compared with others."""
    return Described(name, "WAL, NORMAL" if name.startswith(POLICIES) else "", "normal")
